"""How tasks differ: the covariance of their parameters, and the noise of their rows."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import scipy.sparse as sp

__all__ = ["Metric", "Noise", "Starts"]

# A factor of more entries than these, of which this share is not zero, is multiplied as a sparse
# array. That of independent effects has two entries a column: a scale, and what centring moves.
WIDE, FEW = 2**14, 0.02


@dataclass(frozen=True, eq=False)
class Metric:
    """A covariance ``Sigma = L L'`` of task parameters, which may be singular.

    Attributes
    ----------
    factor : ndarray of shape (d, q)
        L.
    """

    factor: np.ndarray

    @classmethod
    def from_covariance(cls, covariance):
        """From variances (d,) or a symmetric positive semi-definite matrix (d, d)."""
        if covariance.ndim == 1:
            return cls(np.diag(np.sqrt(covariance)))
        size = np.sqrt(np.maximum(np.diagonal(covariance), 0.0))
        size = np.where(size > 0, size, 1.0)
        values, vectors = np.linalg.eigh(covariance / np.outer(size, size))
        kept = values > 1e-15 * values.max(initial=0.0)
        return cls(size[:, None] * vectors[:, kept] * np.sqrt(values[kept]))

    @classmethod
    def read(cls, metric, d):
        """The metric that a user gave for d parameters, checked.

        Parameters
        ----------
        metric : Metric or array-like of shape (d,) or (d, d)
        d : int

        Returns
        -------
        Metric

        Raises
        ------
        TypeError, ValueError
            If it is no covariance of d parameters; the message says what was expected.
        """
        if isinstance(metric, Metric):
            if len(metric.factor) != d:
                raise ValueError(
                    f"The metric is for {len(metric.factor)} parameters, but there are {d}."
                )
            return metric
        if np.asarray(metric).dtype.kind not in "iuf":
            raise TypeError(f"metric must be an array of numbers or a name; got {metric!r}.")
        covariance = np.asarray(metric, dtype=float)
        if covariance.shape not in ((d,), (d, d)) or not np.isfinite(covariance).all():
            raise ValueError(
                f"metric must be finite and of shape ({d},) or ({d}, {d}), one entry for each "
                f"parameter, the intercept last; got shape {covariance.shape}."
            )
        matrix = np.diag(covariance) if covariance.ndim == 1 else covariance
        size = np.abs(matrix).max(initial=0.0)
        if np.abs(matrix - matrix.T).max() > 1e-10 * size or (
            np.linalg.eigvalsh(matrix).min() < -1e-10 * size
        ):
            raise ValueError("metric must be symmetric and positive semi-definite.")
        return cls.from_covariance(covariance)

    def rows(self, V):
        """``V L`` for rows V (..., d)."""
        return _times(V, self.factor, self._few)

    def lift(self, U):
        """``U L'`` for rows U (..., q)."""
        return _times(U, self.factor.T, None if self._few is None else self._few.T)

    @cached_property
    def _few(self):
        """L as a sparse array where its entries are few, as of independent effects; else None."""
        wide = self.factor.size > WIDE and np.count_nonzero(self.factor) < FEW * self.factor.size
        return sp.csc_array(self.factor) if wide else None

    @property
    def covariance(self):
        """Sigma, shape (d, d)."""
        return self.factor @ self.factor.T


def _times(rows, matrix, few):
    """Rows (..., d) times a matrix, by its few entries where these are known.

    In one product: of a stack of few rows each numpy would make a call of BLAS for each.
    """
    flat = rows.reshape(prod(rows.shape[:-1]), len(matrix)) @ (matrix if few is None else few)
    return flat.reshape(*rows.shape[:-1], matrix.shape[1])


@dataclass(frozen=True, eq=False)
class Noise:
    """Variance of the noise by number of support rows: lines between these, level beyond them.

    A model of curves that bend errs more on rows far ahead than on those near by. Where a task's
    first rows are the support, rows to be predicted are the further ahead the more it has.

    Attributes
    ----------
    shots : ndarray of shape (k,)
        Numbers of support rows, ascending.
    variance : ndarray of shape (k,) or (k, n_targets)
    """

    shots: np.ndarray
    variance: np.ndarray

    @classmethod
    def read(cls, noise):
        """The noise that a user gave; it does not depend on the number of rows."""
        return (
            noise if isinstance(noise, Noise) else cls(np.ones(1), np.asarray(noise, float)[None])
        )

    def of_each(self, n_targets):
        """The same with one variance a target, where one was given for all."""
        if self.variance.ndim > 1:
            return self
        return Noise(self.shots, np.repeat(self.variance[:, None], n_targets, axis=1))

    def at(self, n_rows):
        """The variances after so many support rows: (n,) to (n,) or (n, n_targets)."""
        return _between(n_rows, self.shots, self.variance)


@dataclass(frozen=True, eq=False)
class Starts:
    """Where tasks start from, by number of support rows: lines between these, level beyond them.

    Attributes
    ----------
    shots : ndarray of shape (k,)
        Numbers of support rows, ascending.
    shift : ndarray of shape (k, d) or (k, n_targets, d)
        What is added to theta.
    """

    shots: np.ndarray
    shift: np.ndarray

    def at(self, n_rows):
        """The shift after so many support rows: (...) to (..., d) or (n_targets, ..., d)."""
        shift = _between(n_rows, self.shots, self.shift)
        return shift if self.shift.ndim == 2 else np.moveaxis(shift, -2, 0)


def _between(n_rows, shots, values):
    """Values (k, ...) by number of shots, at other numbers of rows; linear, and level outside."""
    place = np.interp(n_rows, shots, np.arange(len(shots)))
    below, above = np.floor(place).astype(int), np.ceil(place).astype(int)
    share = np.reshape(place - below, np.shape(place) + (1,) * (values.ndim - 1))
    return (1.0 - share) * values[below] + share * values[above]
