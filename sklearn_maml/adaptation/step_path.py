"""Gradient steps one by one, where the loss is no square: the path, and the way back along it.

    forward:   theta^{k+1} = theta^k - eta_k M F' (a l'(F theta^k))
    backward:  V <- V - (V M) F' diag(eta_k a l''_k) F        for k = K-1, ..., 0

From the rows, with ``K = F M F'``, ``z^{k+1} = K``-steps of the predictions ``z = F theta``: theta
moves within the span of the support rows, and features are read twice for a gradient instead of
four times a step.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import matvec, row_products, vecmat
from sklearn_maml.adaptation.inner_loop import InnerLoop, Response, RowResponse
from sklearn_maml.adaptation.step_length import EvenLengths

__all__ = ["StepPath"]


class Stride(NamedTuple):
    """One inner step of a stack of tasks.

    Attributes
    ----------
    start : ndarray of shape (..., d)
        The parameters that it leaves.
    predictions : ndarray of shape (..., m)
        Those of the support rows by them.
    length : ndarray of shape (...)
    move : ndarray of shape (..., d)
        What it subtracts from them.
    shortening : ndarray of shape (..., d) or None
        Minus the gradient of log(length) in `start`, where steps are damped.
    """

    start: np.ndarray
    predictions: np.ndarray
    length: np.ndarray
    move: np.ndarray
    shortening: np.ndarray | None


class StepPath(InnerLoop):
    """The inner loop of gradient steps, taken one by one.

    Parameters
    ----------
    rule : AdaptationRule
    geometry : Geometry
        Of the support rows.
    query : Risk or None
    step : StepLength
    n_steps : int
    """

    def __init__(self, rule, geometry, query, step, n_steps):
        super().__init__(rule, geometry.risk, query)
        self.geometry, self.step, self.n_steps = geometry, step, n_steps
        self.damped = step.is_damped(self.support.loss)
        self.lengths = None if self.damped else EvenLengths(step, geometry)

    @property
    def relative_step(self):
        """Before the cap; where it depends on theta, that of predictions which fit the targets."""
        if np.isfinite(self.support.loss.hessian_bound):
            return self.lengths.relative
        if self.step.relative:
            return np.full(self.support.weights.shape[:-1], self.step.longest)
        return self.step.saturated(self.geometry)

    def recall(self, facts):
        """The largest eigenvalues by which steps are capped."""
        if not self.damped:
            self.lengths.facts = facts

    def adapt(self, theta):
        """theta_i, and the pullback along the path to it."""
        path, theta_i = self.walk(theta)
        return theta_i, partial(self.walk_back, path)

    def respond(self, theta):
        """From the rows, unless they outnumber the features or steps are damped by theta."""
        if self.damped or self.geometry.tall:
            return Response(self.query, *self.adapt(theta))
        return self._respond_from_rows(theta)

    def walk(self, theta):
        """The `Stride` of each step from theta (..., n, d), and where they end."""
        risk, path = self.support, []
        for _ in range(self.n_steps):
            if self.damped:
                length, shortening = self.step.damped(self.geometry, theta)
            else:
                length, shortening = self.lengths.length, None
            z = risk.predict(theta)
            gradient = vecmat(risk.slopes(z), risk.features)
            move = length[..., None] * self.geometry.metric.apply(gradient)
            path.append(Stride(theta, z, length, move, shortening))
            theta = theta - move
        return path, theta

    def walk_back(self, path, V):
        """``V J`` along a path: ``d eta = -eta shortening' d theta`` where steps are damped."""
        risk = self.support
        for _, z, length, move, shortening in reversed(path):
            weights = length[..., None] * risk.curvatures(z)
            back = row_products(
                self.geometry.metric.apply(V), risk.features, weights, risk.features
            )
            if shortening is not None:
                back -= np.matmul(V, move[..., None]) * shortening[..., None, :]
            V = np.subtract(V, back, out=back)
        return V

    @cached_property
    def _outer(self):
        """``Phi M F'`` of the query rows, shape (n, query rows, m)."""
        if self.query is self.support:
            return self.geometry.products
        return self.geometry.products_with(self.query.features)

    def _respond_from_rows(self, theta):
        support, inner = self.support, self.geometry.products
        length = self.lengths.length[:, None]
        z, path, moved = support.predict(theta), [], 0.0
        start = z if self.query is support else self.query.predict(theta)
        for _ in range(self.n_steps):
            path.append(z)
            force = length * support.slopes(z)
            moved = moved + force
            z = z - matvec(inner, force)
        predictions = z if self.query is support else start - matvec(self._outer, moved)
        return RowResponse(
            self.query,
            support,
            predictions,
            lambda: self.adapt(theta)[0],
            partial(self._pull, [length * support.curvatures(z) for z in path]),
        )

    def _pull(self, curvatures, V):
        """``V R`` for rows V (..., n, k, query rows), or R itself where V is None.

        With ``D_k = diag(eta a l''_k)``, what step k adds to R is ``(outer - total K) D_k``, where
        total is what the later steps have added.
        """
        direct, total = self._outer if V is None else np.matmul(V, self._outer), None
        for curvature in reversed(curvatures):
            weights = curvature[..., None, :]
            if total is None:
                total = direct * weights
                continue
            # Into the same memory: more of it would cost as much as the products.
            back = np.matmul(total, self.geometry.products)
            np.subtract(direct, back, out=back)
            back *= weights
            back += total
            total = back
        return total
