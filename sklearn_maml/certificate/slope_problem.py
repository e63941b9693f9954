"""The meta-objective of one target as a function of slopes, linear but for them (Lemmas 1 and 2).

    u = F theta - B s,     s = l'(u),     z = Phi theta - C s
    L = sum_i p_i b_i' l(z_i) + theta' A theta

u are the predictions at which a rule takes its slopes: those of the support rows before each step,
or, for a proximal rule, after adapting. All that is not convex is in the scalar graphs s = l'(u).

Parameters are in coordinates x, ``theta = T x``, in which all rows have a unit Gram matrix.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import flat_vecmat, matvec, vecmat
from sklearn_maml.certificate.coordinates import row_coordinates

__all__ = ["Anchor", "NotCovered", "SlopeProblem", "Stack", "gram", "slope_problem"]


class NotCovered(Exception):
    """A route does not apply; its text says why."""


class Anchor(NamedTuple):
    """A stack of tasks seen from one point: u, s and z there, and the linear part (Lemma 2).

    Attributes
    ----------
    x : ndarray of shape (d,)
    u, s, curvature : ndarray of shape (n, k)
        Predictions, slopes ``l'(u)`` and curvatures ``l''(u)``; slopes and curvatures 0 on padding.
    z : ndarray of shape (n, m)
    F, B : ndarray of shape (n, k, d) and (n, k, k)
        ``(I + B curvature)^-1`` times F and B; B is None where it is zero.
    Psi, C : ndarray of shape (n, m, d) and (n, m, k)
        How z depends on x, and on the slopes' departures from their tangents.
    """

    x: np.ndarray
    u: np.ndarray
    s: np.ndarray
    z: np.ndarray
    curvature: np.ndarray
    F: np.ndarray
    B: np.ndarray | None
    Psi: np.ndarray
    C: np.ndarray


@dataclass(frozen=True, eq=False)
class Stack:
    """n tasks as in Lemma 1; k slopes a task (steps times support rows), m query rows.

    Slopes move a task through q step vectors, so that B and C are products with one factor. They
    are made as matrices only where a route needs their entries.

    Attributes
    ----------
    loss : Loss
    weight : ndarray of shape (n,)
        p.
    y, real : ndarray of shape (n, k)
        Targets of the slopes' rows, and whether a row weighs anything.
    F : ndarray of shape (n, k, d)
    y_query, b : ndarray of shape (n, m)
        Targets and weights of the query rows.
    Phi : ndarray of shape (n, m, d)
    steps : ndarray of shape (n, q, k)
        P: a task moves by minus P s.
    moved, moved_query : ndarray of shape (n, k / n_steps, q) and (n, m, q)
        What such a move does to support and query predictions.
    direct : bool
        Whether a slope is a step vector of its own: P is the identity.
    n_steps : int
    adapted : callable or None
        For implicit rules: maps x to the predictions u of the adapted parameters.
    """

    loss: Any
    weight: np.ndarray
    y: np.ndarray
    real: np.ndarray
    F: np.ndarray
    y_query: np.ndarray
    b: np.ndarray
    Phi: np.ndarray
    steps: np.ndarray
    moved: np.ndarray
    moved_query: np.ndarray
    direct: bool
    n_steps: int
    adapted: Any

    @property
    def coupled(self):
        """Whether slopes depend on one another: not so for one gradient step."""
        return self.n_steps > 1 or self.adapted is not None

    @cached_property
    def B(self):
        """The matrix B, shape (n, k, k); None where it is zero."""
        if not self.coupled:
            return None
        if self.adapted is not None:
            return np.matmul(self.moved, self.steps)
        one = np.matmul(self.moved, self.steps[..., : self.moved.shape[1]])
        return np.kron(np.tri(self.n_steps, k=-1)[None], one)  # slopes of earlier steps only

    @cached_property
    def C(self):
        """The matrix C, shape (n, m, k)."""
        return self.moved_query if self.direct else np.matmul(self.moved_query, self.steps)

    @property
    def row_weight(self):
        """``p_i b_ij``, shape (n, m)."""
        return self.weight[:, None] * self.b

    def masked(self, slopes):
        """Numbers of slopes, 0 on padding."""
        return np.where(self.real, slopes, 0.0)

    def support_predictions(self, x, s):
        """u for any x and any slopes."""
        u = matvec(self.F, x)
        return u if self.B is None else u - matvec(self.B, s)

    def query_predictions(self, x, s):
        """z for any x and any slopes."""
        return matvec(self.Phi, x) - matvec(self.moved_query, self.along(s))

    def pulled(self, rows):
        """``C' rows`` for numbers of query rows (n, m), shape (n, k)."""
        moved = vecmat(rows, self.moved_query)
        return moved if self.direct else vecmat(moved, self.steps)

    def along(self, slopes):
        """``P slopes``, shape (n, q)."""
        return slopes if self.direct else matvec(self.steps, slopes)

    def back(self, matrices):
        """``P' matrices`` for (n, q, ...), shape (n, k, ...)."""
        return matrices if self.direct else np.matmul(np.swapaxes(self.steps, 1, 2), matrices)

    def graph(self, x):
        """u, s and z of the rule itself at x."""
        u = self.adapted(x) if self.adapted is not None else self._walk(matvec(self.F, x))
        s = self.masked(self.loss.gradient(self.y, u))
        return u, s, self.query_predictions(x, s)

    def _walk(self, u):
        """Predictions before each gradient step: earlier steps move all later ones."""
        u, size = u.copy(), self.moved.shape[1]
        for start in range(size, u.shape[1], size or 1):  # there may be no support rows
            before = slice(start - size, start)
            s = self.masked(self.loss.gradient(self.y, u))[:, before]
            move = matvec(self.moved, matvec(self.steps[..., before], s))
            u[:, start:] -= np.tile(move, (1, (u.shape[1] - start) // size))
        return u

    def anchor(self, x, graph):
        """The stack seen from x, where its `graph` is known."""
        u, s, z = graph
        curvature = self.masked(self.loss.hessian(self.y, u))
        return Anchor(x, u, s, z, curvature, *self._linear(curvature))

    def _linear(self, curvature):
        """``(I + B curvature)^-1 [F, B]``, and what they make of Phi and C."""
        F, B, d = self.F, None, self.F.shape[2]
        curved = self.steps * curvature[:, None, :]
        if self.adapted is not None:  # B = M P: of the size of the step vectors, not of the rows
            system = np.eye(self.steps.shape[1]) + np.matmul(curved, self.moved)
            right = np.concatenate([np.matmul(curved, F), self.steps], axis=2)
            both = np.matmul(self.moved, np.linalg.solve(system, right))
            F, B = F - both[..., :d], both[..., d:]
        elif self.B is not None:
            system = np.eye(curvature.shape[1]) + self.B * curvature[:, None, :]
            both = np.linalg.solve(system, np.concatenate([F, self.B], axis=2))
            F, B = both[..., :d], both[..., d:]
        Psi = self.Phi - np.matmul(self.moved_query, np.matmul(curved, F))
        return F, B, Psi, self.C if B is None else self.C - self.moved_query @ (curved @ B)

    def value(self, z):
        """``sum p b l(z)``."""
        values = self.loss.value(self.y_query, z)
        return np.where(self.b > 0, self.row_weight * values, 0.0).sum()


@dataclass(frozen=True, eq=False)
class SlopeProblem:
    """All tasks of an objective for one target.

    Attributes
    ----------
    loss : Loss
    stacks : list of Stack
    A : ndarray of shape (d, d)
        The penalty in x.
    x : ndarray of shape (d,)
        The point to be certified.
    basis, inverse : ndarray of shape (d_theta, d) and (d, d_theta)
        T, and x of theta.
    shared : bool
        Whether query rows are the support rows.
    implicit : bool
        Whether slopes are those after adapting.
    """

    loss: Any
    stacks: list
    A: np.ndarray
    x: np.ndarray
    basis: np.ndarray
    inverse: np.ndarray
    shared: bool
    implicit: bool

    @cached_property
    def graphs(self):
        """Each stack's u, s and z at the point to be certified."""
        return [stack.graph(self.x) for stack in self.stacks]

    def _graphs(self, x):
        return self.graphs if x is self.x else [stack.graph(x) for stack in self.stacks]

    def anchors(self, x):
        """Each stack's `Anchor` at x."""
        pairs = zip(self.stacks, self._graphs(x), strict=True)
        return [stack.anchor(x, graph) for stack, graph in pairs]

    def value(self, x):
        """L at x."""
        pairs = zip(self.stacks, self._graphs(x), strict=True)
        return x @ self.A @ x + sum(stack.value(z) for stack, (_, _, z) in pairs)

    def derivatives(self, anchors):
        """L, its gradient and its Hessian at the point of the anchors."""
        x = anchors[0].x
        value, gradient, hessian = x @ self.A @ x, 2.0 * self.A @ x, 2.0 * self.A
        for stack, at in zip(self.stacks, anchors, strict=True):
            slope = stack.row_weight * self.loss.gradient(stack.y_query, at.z)
            curvature = stack.row_weight * self.loss.hessian(stack.y_query, at.z)
            third = stack.masked(self.loss.third(stack.y, at.u))
            value = value + stack.value(at.z)
            gradient = gradient + flat_vecmat(slope, at.Psi)
            hessian = hessian + gram(at.Psi, curvature) - gram(at.F, vecmat(slope, at.C) * third)
        return value, gradient, hessian


def gram(rows, weights):
    """``sum over tasks and rows of w_j f_j f_j'``."""
    flat = rows.reshape(-1, rows.shape[-1])
    return flat.T @ (weights.reshape(-1, 1) * flat)


def slope_problem(objective, theta, target, max_work, dense):
    """The `SlopeProblem` of one target of an objective.

    Parameters
    ----------
    objective : MetaObjective
        With its rule's true derivative.
    theta : ndarray of shape (d,)
        Of that target.
    target : int
    max_work : float
        Multiplications that one Newton step of the relaxation may take.
    dense : bool
        Whether regions are asked for too.

    Raises
    ------
    NotCovered
        Where the rule tells no slope form, there are too many rows, or all of them are zero.
    """
    forms = [objective.rule.slope_form(objective.risks(i)[0]) for i in range(len(objective.blocks))]
    if any(form is None for form in forms):
        raise NotCovered(
            f"{type(objective.rule).__name__} has no slope form for {objective.loss!r}: the length "
            "of its steps depends on theta, or it does not say"
        )
    work = sum(_work(form, *objective.risks(i)[:2], dense) for i, form in enumerate(forms))
    if work > max_work:
        raise NotCovered(
            f"too many support rows or steps a task for this effort ({work:.2g} multiplications a "
            f"step; at most {max_work:.2g})"
        )
    basis, inverse = objective.keep("row coordinates", row_coordinates)
    if not basis.shape[1]:
        raise NotCovered("all features are zero, so that no theta is better than another")
    stacks, shared = [], True
    for i, form in enumerate(forms):
        support, query, weight = objective.risks(i)
        shared = shared and query is support
        parts = [_one_target(support, target, weight > 0)]
        if query is not support:
            parts.append(_one_target(query, target, weight > 0))
        stacks.append(_stack(form, parts, weight, objective.rule, basis))
    penalty = (basis.T * objective.penalty) @ basis
    return SlopeProblem(
        objective.loss, stacks, penalty, inverse @ theta, basis, inverse, shared, form.implicit
    )


def _work(form, support, query, dense):
    """Multiplications of one Newton step of the relaxation on a block.

    Over all theta slopes are coupled by their step vectors alone; in a region by each other.
    """
    (n, m, d), q = support.features.shape, form.factor.shape[1]
    k, m_query = m * form.n_steps, query.features.shape[1]
    one = k**2 * (k / 3.0 + d + m_query) if dense else min(k, q) * k * (d + q)
    return float(n) * (one + (k + m_query) * d * d)


def _one_target(risk, target, kept):
    """The risk of one target, on the tasks that weigh something."""
    targets = risk.targets if risk.targets.ndim == 2 else risk.targets[target]
    risk = replace(risk, targets=targets)
    return risk if kept.all() else risk.take(np.flatnonzero(kept))


def _prepared(risk, basis, factor):
    """Features in x and along the rule's factor, and targets.

    Padding may hold anything: its rows are zeroed, its targets are ones that every loss takes.
    """
    rows = np.where(risk.weights[..., None] > 0, risk.features, 0.0)
    flat, shape = rows.reshape(-1, rows.shape[-1]), rows.shape[:-1]  # one product, not one a task
    parts = [(flat @ matrix).reshape(*shape, matrix.shape[1]) for matrix in (basis, factor)]
    return *parts, np.where(risk.weights > 0, risk.targets, 1.0)


def _stack(form, risks, weight, rule, basis):
    """A block's `Stack` in the coordinates of `basis`; risks of support and, if others, query."""
    kept, support = weight > 0, risks[0]
    a, b = support.weights, risks[-1].weights
    prepared = [_prepared(risk, basis, form.factor) for risk in risks]
    (F, moved, y), (Phi, moved_query, y_query) = prepared[0], prepared[-1]
    step = np.swapaxes(moved * (form.length[kept][:, None] * a)[..., None], -1, -2)
    n_steps = form.n_steps
    k = n_steps * a.shape[1]
    direct = k <= form.factor.shape[1]
    if direct:  # fewer slopes than directions: a slope is a step of its own
        moved, moved_query = (
            np.tile(np.matmul(r, step), (1, 1, n_steps)) for r in (moved, moved_query)
        )
        steps = np.broadcast_to(np.eye(k), (len(F), k, k))
    else:
        steps = np.tile(step, (1, 1, n_steps))
    return Stack(
        loss=support.loss,
        weight=weight[kept],
        y=np.tile(y, (1, n_steps)),
        real=np.tile(a > 0, (1, n_steps)),
        F=np.tile(F, (1, n_steps, 1)),
        y_query=y_query,
        b=b,
        Phi=Phi,
        steps=steps,
        moved=moved,
        moved_query=moved_query,
        direct=direct,
        n_steps=n_steps,
        adapted=partial(_adapted, rule, support, basis) if form.implicit else None,
    )


def _adapted(rule, support, basis, x):
    """Support predictions of the adapted parameters."""
    theta_i, _ = rule.adapt((basis @ x)[None], support)
    return np.where(support.weights > 0, support.predict(theta_i), 0.0)
