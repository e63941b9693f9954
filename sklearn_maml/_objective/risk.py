"""A risk: a loss averaged over the rows of a task, of many tasks at once."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sklearn_maml._linalg import matvec, row_products, vecmat

__all__ = ["Risk"]


@dataclass(frozen=True, eq=False)
class Risk:
    """A loss averaged over rows: ``R(theta) = sum_j a_j l(phi_j' theta, y_j)``.

    Attributes
    ----------
    loss : Loss
    features : ndarray of shape (..., m, d)
    targets : ndarray of shape (..., m)
    weights : ndarray of shape (..., m)
        Sum to 1 over the rows of a task; padding has weight 0.
    size : ndarray of shape (...), default=None
        How many rows a task counts for; None counts those that weigh something.
    """

    loss: Any
    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    size: np.ndarray | None = None

    def take(self, members):
        """The risk of some of the stacked tasks."""
        targets = self.targets[..., members, :]
        size = None if self.size is None else self.size[members]
        return Risk(self.loss, self.features[members], targets, self.weights[members], size)

    @property
    def n_rows(self):
        """How many rows each task counts for, shape (...)."""
        return np.asarray((self.weights > 0).sum(axis=-1) if self.size is None else self.size)

    def predict(self, theta):
        """``phi_j' theta``: theta (..., d) to (..., m)."""
        return matvec(self.features, theta)

    def magnitude(self, theta):
        """``|phi_j|' |theta|``: the size of the terms that `predict` adds up, shape (..., m)."""
        return matvec(np.abs(self.features), np.abs(theta))

    def value(self, theta):
        """The risk, shape (...)."""
        return (self.weights * self.loss.value(self.targets, self.predict(theta))).sum(axis=-1)

    def slopes(self, z):
        """``a_j l'(z_j, y_j)`` where the rows are predicted to be z, shape (..., m)."""
        return self.weights * self.loss.gradient(self.targets, z)

    def gradient(self, theta):
        """``sum_j a_j l'_j phi_j``, shape (..., d)."""
        return vecmat(self.slopes(self.predict(theta)), self.features)

    def curvatures(self, z):
        """``a_j l''(z_j, y_j)``, shape (..., m); z may be None where l'' is constant."""
        if self.loss.constant_hessian:
            return self.weights * self.loss.hessian_bound
        return self.weights * self.loss.hessian(self.targets, z)

    def square_about(self, z):
        """The risk whose rows are squares, curved as the loss is where they are predicted to be z.

        Rows weigh ``a_j l''(z_j, y_j) / 2``, which is Laplace's approximation; the square counts
        as itself, whatever its factor, with what z leaves of its targets. The task still counts for
        as many rows.
        """
        if self.loss.constant_hessian:
            return replace(self, targets=self.residuals(z))
        return replace(self, weights=0.5 * self.curvatures(z), size=self.n_rows)

    def hessian_dot(self, theta, V):
        """``V H`` for rows `V` (..., k, d), with ``H = sum_j a_j l''_j phi_j phi_j'``."""
        curvatures = self.curvatures(self.predict(theta))
        return row_products(V, self.features, curvatures, self.features)

    def residuals(self, z):
        """``y_j - z_j`` for a loss with a constant Hessian, a square about y: ``-l'_j / l''``."""
        return self.loss.gradient(self.targets, z) / -self.loss.hessian_bound
