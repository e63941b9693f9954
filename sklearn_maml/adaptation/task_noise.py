"""Noise whose variance differs between tasks, and what the rows of a task tell of its own.

The variance s_i of a task's noise is drawn as a scaled inverse chi-squared with nu degrees of
freedom and mean s; the covariance of the task's parameters is in proportion to it, ``s_i Sigma``.
Then the k rows of a task are multivariate t, with the squares

    Q = (y - F theta)' (F Sigma F' + W^-1)^-1 (y - F theta),

and given them s_i is again such a variance, with nu + k degrees of freedom and the mean
``((nu - 2) s + Q) / (nu - 2 + k)``: the shared one counts for nu - 2 rows.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from scipy.stats import t

from sklearn_maml._linalg import vecmat

__all__ = ["TaskNoise", "log_density", "prior_squares"]


@dataclass(frozen=True, eq=False)
class TaskNoise:
    """How the variance of the noise differs between tasks.

    Attributes
    ----------
    freedom : ndarray of shape () or (n_targets,)
        nu, above 2.
    variance : ndarray of shape () or (n_targets,)
        s.
    """

    freedom: np.ndarray
    variance: np.ndarray

    def __post_init__(self):
        for part in (self.freedom, self.variance):
            if part.dtype.kind not in "iuf" or part.ndim > 1 or part.shape != self.freedom.shape:
                raise ValueError("Degrees of freedom and variances must be numbers, one a target")
        if not ((self.freedom > 2).all() and (self.variance > 0).all()):
            raise ValueError(
                f"Degrees of freedom must be above 2, and variances positive; got {self.freedom} "
                f"and {self.variance}."
            )

    def check_targets(self, shape):
        """Raise unless there is a number for each target."""
        if self.freedom.shape != shape:
            raise ValueError(
                f"task_noise has degrees of freedom of shape {self.freedom.shape}; expected one a "
                f"target, {shape}."
            )

    def ratio(self, n_rows, squares):
        """The mean of a task's variance given its rows, in units of s.

        Parameters
        ----------
        n_rows : ndarray of shape (n,)
        squares : ndarray of shape (n,) or (n, n_targets)
            Q.

        Returns
        -------
        ndarray of the shape of squares
        """
        shared = self.freedom - 2.0
        return (shared + squares / self.variance) / (shared + self._of_each(n_rows))

    def quantile(self, q, n_rows):
        """How many standard deviations the quantile q is above the mean, after so many rows.

        Parameters
        ----------
        q : float
        n_rows : ndarray of shape (n,)

        Returns
        -------
        ndarray of shape (n,) or (n, n_targets)
        """
        freedom = self.freedom + self._of_each(n_rows)
        return t.ppf(q, freedom) * np.sqrt(1.0 - 2.0 / freedom)

    def _of_each(self, n_rows):
        """Numbers of rows, to broadcast with those of targets."""
        return np.reshape(n_rows, np.shape(n_rows) + (1,) * self.freedom.ndim)


def prior_squares(rows, weights, residuals, strength):
    """Q of tasks from what their rows leave at theta_i: ``e' W e + |L' F' W e|^2 / strength``.

    That is what theta_i minimises, as it moves by L times ``L' F' W e / strength``; and a sum of
    squares, which does not cancel.

    Parameters
    ----------
    rows : ndarray of shape (..., m, q)
        F L.
    weights : ndarray of shape (..., m)
        How many rows each row counts for: the diagonal of W.
    residuals : ndarray of shape (..., m)
        e.
    strength : float

    Returns
    -------
    ndarray of shape (...)
    """
    weighted = weights * residuals
    moved = vecmat(weighted, rows)
    return (weighted * residuals).sum(axis=-1) + np.square(moved).sum(axis=-1) / strength


def log_density(freedom, n_rows, squares):
    """The log density of tasks' rows, less what is the same for all degrees of freedom.

    Parameters
    ----------
    freedom : float
        Above 2; infinite for a variance that all tasks share.
    n_rows : ndarray of shape (n,)
    squares : ndarray of shape (n,)
        Q in units of s.

    Returns
    -------
    ndarray of shape (n,)
    """
    if np.isinf(freedom):
        return -0.5 * squares
    half, shared = 0.5 * freedom, freedom - 2.0
    found = gammaln(half + 0.5 * n_rows) - gammaln(half) - 0.5 * n_rows * np.log(0.5 * shared)
    return found - (half + 0.5 * n_rows) * np.log1p(squares / shared)
