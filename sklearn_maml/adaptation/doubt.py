"""What is not known of the meta-parameters and of how tasks differ, and what that adds to a task.

A task's parameters move by J_i times an error of theta, and an error of Sigma moves them by
``J_i dSigma P_i`` times the task's residuals (docs: intervals), with ``P_i = S_i J_i`` and S_i the
Gram matrix of its support rows. All in units of the noise's variance.
"""

from dataclasses import dataclass

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import flat_matmul, matmul

__all__ = ["Doubt", "crossed_grams", "unknown_of_tasks"]


@dataclass(frozen=True, eq=False)
class Doubt:
    """Covariances of what was estimated, as factors.

    Attributes
    ----------
    theta : ndarray of shape (r, d)
        D, with the covariance ``D'D`` of theta.
    sigma : ndarray of shape (s, d)
        E, with ``E'E`` that of theta if only those effects were unknown that differ between tasks;
        of no rows where Sigma is given.
    times : float
        An error of Sigma adds ``times tr(E P_i E') J_i E'E J_i'`` to the covariance of theta_i.
    """

    theta: np.ndarray
    sigma: np.ndarray
    times: float = 0.0

    def __post_init__(self):
        if self.times < 0 or self.theta.ndim != 2 or self.theta.shape[1:] != self.sigma.shape[1:]:
            raise ValueError("Factors must have a column a parameter each, times be positive or 0")

    @cached_property
    def rows(self):
        """D and E, one above the other."""
        return np.concatenate([self.theta, self.sigma])

    @cached_property
    def _same(self):
        """Whether E is D: of all effects that differ between tasks, and with every parameter."""
        return np.array_equal(self.theta, self.sigma)

    def of_theta(self, rows):
        """``|v D'|^2`` for rows v (..., d)."""
        return np.square(flat_matmul(rows, self.theta.T)).sum(axis=-1)

    def of_rows(self, rows, taken):
        """The variance of rows v (..., k, d) times the parameters of tasks, ``v = phi' J_i``.

        Parameters
        ----------
        rows : ndarray of shape (..., k, d)
        taken : ndarray of shape (...)
            ``tr(E P_i E')``.
        """
        unknown = self.of_theta(rows)
        if not self.times:
            return unknown
        sigma = unknown
        if not self._same:
            sigma = np.square(flat_matmul(rows, self.sigma.T)).sum(axis=-1)
        return unknown + self.times * np.maximum(taken, 0.0)[..., None] * sigma

    def sizes(self, share):
        """What each of `rows` is to be multiplied by, for ``tr(E P_i E')`` (...): (..., r + s)."""
        root = np.sqrt(self.times * np.maximum(share, 0.0))[..., None]
        shape = root.shape[:-1]
        ones = np.ones((*shape, len(self.theta)))
        roots = np.broadcast_to(root, (*shape, len(self.sigma)))
        return np.concatenate([ones, roots], axis=-1)


def crossed_grams(rows, scaled, doubt):
    """All that `unknown_of_tasks` has to know of support rows, flat.

    Parameters
    ----------
    rows, scaled : ndarray of shape (..., m, q) and (..., m, d)
        ``W^1/2 F L`` and ``W^1/2 F``, where W holds a row's weight over lambda_i.
    doubt : Doubt or None

    Returns
    -------
    ndarray of shape (..., q^2) or (..., q (q + r + s) + 1)
        The Gram matrix ``L'F'WFL``; with a doubt beside it ``L'F'WF (D', E')``, and ``|WFE'|^2``.
    """
    beside = rows
    if doubt is not None:
        beside = np.concatenate([rows, flat_matmul(scaled, doubt.rows.T)], axis=-1)
    grams = matmul(np.swapaxes(rows, -1, -2), beside)
    flat = grams.reshape(*grams.shape[:-2], -1)
    if doubt is None:
        return flat
    own = np.square(flat_matmul(scaled, doubt.sigma.T)).sum(axis=(-2, -1))
    return np.concatenate([flat, own[..., None]], axis=-1)


def unknown_of_tasks(factor, strength, doubt, flat):
    """Factors of what is not known of tasks' parameters.

    Parameters
    ----------
    factor : ndarray of shape (d, q)
        L.
    strength : float
    doubt : Doubt or None
    flat : ndarray of shape (n, k)
        What `crossed_grams` made of the tasks' rows.

    Returns
    -------
    posterior : ndarray of shape (n, q, d)
        ``U'U = L (I + G_i)^-1 L' / strength``.
    estimated : ndarray of shape (n, r + s, d)
        ``U'U = J_i (D'D + times tr(E P_i E') E'E) J_i'``, ``J_i = I - L (I + G_i)^-1 L'F'WF``.
    """
    (d, q), n = factor.shape, len(flat)
    width = q + (0 if doubt is None else len(doubt.rows))
    crossed = flat[:, : q * width].reshape(n, q, width)
    values, vectors = np.linalg.eigh(crossed[..., :q])
    root = vectors / np.sqrt(1.0 + np.maximum(values, 0.0))[:, None, :]
    lifted = matmul(factor, root)
    posterior = np.swapaxes(lifted, -1, -2) / np.sqrt(strength)
    if doubt is None:
        return posterior, np.zeros((n, 0, d))
    along = matmul(np.swapaxes(root, -1, -2), crossed[..., q:])
    moved = doubt.rows - np.swapaxes(matmul(lifted, along), -1, -2)
    taken = np.square(along[..., len(doubt.theta) :]).sum(axis=(-2, -1))
    return posterior, moved * doubt.sizes(strength * (flat[:, -1] - taken))[..., None]
