"""A ridge regression on a task's rows about where it starts: the proximal step in closed form."""

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import inverse
from sklearn_maml.adaptation.affine import AffineLoop

__all__ = ["RidgeLoop", "ridge_gain"]


class RidgeLoop(AffineLoop):
    """A proximal step on a square: ``q(S) = (S + strength_i)^-1``; see `AffineLoop`."""

    def __init__(self, rule, geometry, query, strength, starts):
        super().__init__(rule, geometry, query)
        self.strength, self.starts = strength, starts

    def start(self, theta):
        """theta, shifted as for tasks with so many rows."""
        return theta if self.starts is None else theta + self.starts.at(self.support.n_rows)

    @cached_property
    def spectral(self):
        """See `AffineLoop.spectral`; a square counts as the squared error, whatever its factor."""
        factor, curvatures = self.support.loss.hessian_bound, self.support.curvatures(None)
        gram = self.geometry.gram(curvatures)
        ridge = factor * np.asarray(self.strength)[..., None, None] * np.eye(gram.shape[-1])
        return inverse(gram + ridge)

    def amplified(self, theta_i):
        """``(tr K / 2 s) |phi L| |r_i| / s^1/2`` for residuals r_i; see `InnerLoop.amplified`.

        With ``K = W^1/2 X X' W^1/2`` and ``(K + s) a = W^1/2 (y - F theta)``, a rounding of K by
        epsilon tr K turns a by ``(K + s)^-1`` times so much of a, and ``s a`` is W^1/2 r_i. In
        what moves a prediction, ``phi L X' W^1/2 (K + s)^-1``, no direction counts for more than
        ``|phi L| / 2 s^1/2``.
        """
        support, curvatures = self.support, self.support.curvatures(None)
        strength = self.support.loss.hessian_bound * np.asarray(self.strength)
        residuals = support.residuals(support.predict(theta_i))
        size = np.sqrt((curvatures * np.square(residuals)).sum(axis=-1, keepdims=True))
        worse = 0.5 * (self.geometry.trace(curvatures) / strength**1.5)[..., None]
        rows = self.geometry.metric.rows(self.query.features)
        return worse * np.sqrt(np.einsum("...md,...md->...m", rows, rows)) * size


def ridge_gain(curvature, rows, strength):
    """``(F' W F + strength)^-1 F' W``, in row space where rows F are fewer than columns.

    Parameters
    ----------
    curvature : ndarray of shape (..., m)
        The diagonal of W.
    rows : ndarray of shape (..., m, q)
    strength : ndarray of shape (...)

    Returns
    -------
    ndarray of shape (..., q, m)
    """
    curvature, strength = curvature[..., None], strength[..., None, None]
    m, q = rows.shape[-2:]
    if m <= q:
        root = np.sqrt(curvature)
        scaled = root * rows
        gram = np.matmul(scaled, np.swapaxes(scaled, -1, -2)) + strength * np.eye(m)
        return np.swapaxes(root * np.linalg.solve(gram, scaled), -1, -2)
    weighted = np.swapaxes(curvature * rows, -1, -2)
    return np.linalg.solve(np.matmul(weighted, rows) + strength * np.eye(q), weighted)
