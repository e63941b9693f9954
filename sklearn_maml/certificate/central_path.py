"""The central path of a relaxation: a primal-dual interior point method on stacks of tasks.

    min over x, s   sum_i p_i b_i' l(Phi x - C s) + x' A x
    subject to      below(u) <= s <= above(u),   u = F x - B s

Slopes are eliminated task by task, so that a Newton step costs one small system a task and one of
the size of x. Multipliers are variables of their own: on the path of the barrier mu they are
``p mu / distance``, but the steps' second derivatives are taken with the multipliers that there
are, and so hold much farther (Wright, "Primal-Dual Interior-Point Methods", SIAM 1997, chapter 11).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._linalg import flat_vecmat, vecmat
from sklearn_maml.certificate.slope_problem import gram

__all__ = ["CentralPath", "Iterate", "Terms"]

# A step ends so far on the way to the nearest hull.
NEAREST = 0.99

# Steps that have to be shorter than this lead nowhere.
SHORTEST = 1e-9


class Iterate(NamedTuple):
    """A point of the program with its multipliers, or a move of it.

    Attributes
    ----------
    x : ndarray of shape (d,)
    slopes, above, below : list of ndarray of shape (n, k)
        One a stack: s, and the multipliers of the two envelopes, 0 on padding.
    """

    x: np.ndarray
    slopes: list
    above: list
    below: list


class Terms(NamedTuple):
    """What a stack adds to the program at an iterate, and its derivatives.

    Attributes
    ----------
    up, down : ndarray of shape (n, k)
        Distances to the envelopes, 1 on padding.
    top_slope, bottom_slope : ndarray of shape (n, k)
        Of the envelopes, in u.
    nu, curvature : ndarray of shape (n, m)
        ``l'(z)`` and ``l''(z)``.
    gradient : ndarray of shape (d,)
        Of the stack's loss, in x.
    pulled : ndarray of shape (n, k)
        ``C' (p b nu)``: the loss falls by so much a unit of each slope.
    hessian : ndarray of shape (d, d)
        In x, of loss and barrier.
    loss_hessian : ndarray of shape (d, d)
        In x, of the loss alone.
    cross : ndarray of shape (n, k, d)
        In slopes and x.
    diagonal, inner, coupling : ndarray of shape (n, k), (n, q, q) and (n, k, k)
        That in slopes twice is ``diag(diagonal) + P' inner P + coupling``, with P the stack's step
        vectors; no coupling is None.
    """

    up: np.ndarray
    down: np.ndarray
    top_slope: np.ndarray
    bottom_slope: np.ndarray
    nu: np.ndarray
    curvature: np.ndarray
    gradient: np.ndarray
    pulled: np.ndarray
    hessian: np.ndarray
    loss_hessian: np.ndarray
    cross: np.ndarray
    diagonal: np.ndarray
    inner: np.ndarray
    coupling: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class CentralPath:
    """The program of a problem and its hulls.

    Attributes
    ----------
    problem : SlopeProblem
    hulls : list of Hull
        One a stack.
    flat : bool
        Whether slopes are bounded by constants alone.
    """

    problem: Any
    hulls: list
    flat: bool

    def _parts(self, *more):
        return zip(self.problem.stacks, self.hulls, *more, strict=True)

    def _where(self, stack, x, s):
        """u, at which the hulls are asked; anything of its shape where they are constants."""
        return s if self.flat else stack.support_predictions(x, s)

    def begin(self, x, slopes, mu):
        """The `Iterate` of slopes strictly inside, with the multipliers of the path."""
        above, below = [], []
        for stack, h, s in self._parts(slopes):
            (top,), (bottom,) = h(self._where(stack, x, s), order=0)
            force = stack.weight[:, None] * mu
            above.append(force / np.where(stack.real, top - s, np.inf))
            below.append(force / np.where(stack.real, s - bottom, np.inf))
        return Iterate(x, slopes, above, below)

    def objective(self, x, slopes):
        """The program's objective, and the sum of the logarithms of all distances to the hulls.

        Infinite, and 0, where slopes are not inside.
        """
        total, logs = x @ self.problem.A @ x, 0.0
        for stack, h, s in self._parts(slopes):
            (top,), (bottom,) = h(self._where(stack, x, s), order=0)
            up, down = np.where(stack.real, (top - s, s - bottom), 1.0)
            if not ((up > 0).all() and (down > 0).all()):
                return np.inf, 0.0
            total += stack.value(stack.query_predictions(x, s))
            logs += (stack.weight[:, None] * np.log(up * down)).sum()
        return (total, logs) if np.isfinite(total) else (np.inf, 0.0)

    def terms(self, at):
        """The `Terms` of each stack at an iterate."""
        return [
            _terms(stack, h, at.x, s, self._where(stack, at.x, s), above, below, self.flat)
            for stack, h, s, above, below in self._parts(at.slopes, at.above, at.below)
        ]

    def step(self, at, terms, mu):
        """A Newton step from an iterate towards the path at mu.

        Returns
        -------
        move : Iterate
        decrease : float
            By how much the slope along the move says that the barrier function falls.
        longest : float
            The share of the move that stays inside the hulls, to first order; at most 1.
        """
        gradient, hessian = 2.0 * self.problem.A @ at.x, 2.0 * self.problem.A
        decrease, solved = 0.0, []
        for stack, part in zip(self.problem.stacks, terms, strict=True):
            g_x, g_s = self._barrier_gradient(stack, part, mu)
            eliminated = _eliminate(stack, part, g_s)
            cross = part.cross.reshape(-1, len(at.x))
            hessian = hessian + part.hessian - cross.T @ eliminated[..., :-1].reshape(cross.shape)
            gradient = gradient + g_x - cross.T @ eliminated[..., -1].ravel()
            decrease += (g_s * eliminated[..., -1]).sum()
            solved.append(eliminated)
        hessian = 0.5 * (hessian + hessian.T)
        ridge = 1e-14 * np.trace(hessian) / len(at.x)
        step = np.linalg.solve(hessian + ridge * np.eye(len(at.x)), gradient)
        slopes = [part[..., :-1] @ step - part[..., -1] for part in solved]
        rest = [
            self._multiplier_moves(*parts, -step, mu)
            for parts in zip(self.problem.stacks, terms, slopes, at.above, at.below, strict=True)
        ]
        above, below, longest = zip(*rest, strict=True)
        return Iterate(-step, slopes, above, below), decrease + gradient @ step, min(longest)

    def _barrier_gradient(self, stack, part, mu):
        """The gradient of the barrier function in x and in slopes."""
        force = stack.weight[:, None] * mu
        by_top, by_bottom = stack.masked(force / part.up), stack.masked(force / part.down)
        in_x, in_slopes = part.gradient, by_top - by_bottom - part.pulled
        if self.flat:
            return in_x, in_slopes
        # u moves with x, and with the slopes where B is not zero: the chain rule through the hulls.
        pull = by_bottom * part.bottom_slope - by_top * part.top_slope
        in_x = in_x + flat_vecmat(pull, stack.F)
        return in_x, in_slopes - vecmat(pull, stack.B) if stack.coupled else in_slopes

    def _multiplier_moves(self, stack, part, slopes, above, below, x, mu):
        """How the multipliers move, and the share of the move that stays inside."""
        up, down = -slopes, slopes
        if not self.flat:
            u = stack.support_predictions(x, slopes)  # linear: of a move, the move
            up, down = up + part.top_slope * u, down - part.bottom_slope * u
        force = stack.weight[:, None] * mu
        moves = (
            stack.masked((force - above * up) / part.up - above),
            stack.masked((force - below * down) / part.down - below),
        )
        return *moves, min(_inside(part.up, up), _inside(part.down, down))

    def ahead(self, at, here, move, decrease, longest, mu):
        """The iterate after a step that lowers the barrier function, halved until it does.

        Returns
        -------
        at : Iterate or None
            None where no step is long enough to count.
        here : tuple
            Its `objective`.
        length : float
        """
        before, length = here[0] - mu * here[1], longest
        while length >= SHORTEST:
            x = at.x + length * move.x
            slopes = [s + length * m for s, m in zip(at.slopes, move.slopes, strict=True)]
            there = self.objective(x, slopes)
            after = there[0] - mu * there[1]
            if after <= before - 1e-4 * length * decrease + 1e-13 * (1.0 + abs(before)):
                return Iterate(x, slopes, *_multipliers(at, move)), there, length
            length *= 0.5
        return None, here, 0.0


def _multipliers(at, move):
    """Both multipliers after as much of their own move as keeps them positive."""
    old, new = [*at.above, *at.below], [*move.above, *move.below]
    length = min((_inside(m, d) for m, d in zip(old, new, strict=True)), default=1.0)
    moved = [m + length * d for m, d in zip(old, new, strict=True)]
    return moved[: len(at.above)], moved[len(at.above) :]


def _inside(distance, move):
    """The share of a move, at most 1, that leaves all distances positive."""
    falls = move < 0
    share = np.where(falls, -distance / np.where(falls, move, -1.0), np.inf)
    return min(1.0, NEAREST * share.min(initial=np.inf))


def _eliminate(stack, part, gradient):
    """The second derivative in s, inverted, times ``[cross, gradient]``: shape (n, k, d + 1).

    Through the step vectors where these are fewer than slopes: ``(D + P'SP)^-1 = D^-1 - D^-1 P'
    (I + S P D^-1 P')^-1 S P D^-1``.
    """
    right = np.concatenate([part.cross, gradient[..., None]], axis=2)
    P, S, D = stack.steps, part.inner, part.diagonal
    if part.coupling is None and P.shape[1] < P.shape[2]:
        right = right / D[..., None]
        shared = np.swapaxes(P, 1, 2) / D[..., None]
        system = np.eye(P.shape[1]) + np.matmul(S, np.matmul(P, shared))
        return right - np.matmul(shared, np.linalg.solve(system, np.matmul(S, P @ right)))
    matrix = S.copy() if stack.direct else stack.back(np.matmul(S, P))
    if part.coupling is not None:
        matrix += part.coupling
    index = np.arange(D.shape[1])
    matrix[:, index, index] += D
    return np.linalg.solve(matrix, right)


def _terms(stack, h, x, s, u, above, below, flat):
    """The `Terms` of one stack."""
    z = stack.query_predictions(x, s)
    (top, top1, top2), (bottom, bottom1, bottom2) = h(u)
    real = stack.real
    up, down = np.where(real, top - s, 1.0), np.where(real, s - bottom, 1.0)
    w_top, w_bottom = above / up, below / down
    nu, curvature = (f(stack.y_query, z) for f in (stack.loss.gradient, stack.loss.hessian))
    weighted, curved = stack.row_weight * nu, stack.row_weight * curvature
    loss_hessian = gram(stack.Phi, curved)
    turned = np.swapaxes(curved[..., None] * stack.moved_query, 1, 2)
    found = Terms(
        up=up,
        down=down,
        top_slope=top1,
        bottom_slope=bottom1,
        nu=nu,
        curvature=curvature,
        gradient=flat_vecmat(weighted, stack.Phi),
        pulled=stack.pulled(weighted),
        hessian=loss_hessian,
        loss_hessian=loss_hessian,
        cross=-stack.back(np.matmul(turned, stack.Phi)),
        diagonal=np.where(real, w_top + w_bottom, 1.0),
        inner=np.matmul(turned, stack.moved_query),
    )
    if flat:
        return found
    own = w_top * top1 * top1 + w_bottom * bottom1 * bottom1 - above * top2 + below * bottom2
    own, mixed = stack.masked(own), stack.masked(-w_top * top1 - w_bottom * bottom1)
    cross = found.cross + mixed[..., None] * stack.F
    found = found._replace(hessian=loss_hessian + gram(stack.F, own), cross=cross)
    if not stack.coupled:
        return found
    back, across = np.swapaxes(stack.B, 1, 2), mixed[..., None] * stack.B
    coupling = np.matmul(back, own[..., None] * stack.B) - across - np.swapaxes(across, 1, 2)
    cross = cross - np.matmul(back, own[..., None] * stack.F)
    return found._replace(cross=cross, coupling=coupling)
