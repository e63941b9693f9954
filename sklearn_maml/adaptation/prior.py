"""How tasks differ: the covariance of their parameters, and the noise of their rows."""

from dataclasses import dataclass

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import flat_matmul, matvec

__all__ = ["Metric", "Noise", "Starts", "check_by_shots"]

# A factor of more entries than these that is a scale for each effect, beside what centring moves of
# the intercept, is not multiplied as a matrix.
WIDE = 2**14


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
        if self._scales is None:
            return flat_matmul(V, self.factor)
        at, scale, last = self._scales
        moved = V[..., -1:] * last
        moved += V[..., at] * scale
        return moved

    def lift(self, U):
        """``U L'`` for rows U (..., q)."""
        if self._scales is None:
            return flat_matmul(U, self.factor.T)
        at, scale, last = self._scales
        lifted = np.zeros((*U.shape[:-1], len(self.factor)))
        lifted[..., at] = U * scale
        lifted[..., -1] += matvec(U, last)
        return lifted

    @cached_property
    def _scales(self):
        """(at, scale, last), with ``L = last in its last row, scale at``; None of another L."""
        if self.factor.size <= WIDE:
            return None
        above = self.factor[:-1] != 0
        if (above.sum(axis=0) > 1).any():
            return None
        own = above.any(axis=0)
        at = np.where(own, above.argmax(axis=0), len(self.factor) - 1)
        if len(np.unique(at)) < len(at):
            return None
        scale, last = self.factor[at, np.arange(len(at))], np.where(own, self.factor[-1], 0.0)
        return slice(0, len(at)) if (at == np.arange(len(at))).all() else at, scale, last

    @property
    def covariance(self):
        """Sigma, shape (d, d)."""
        return self.factor @ self.factor.T


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

    def __post_init__(self):
        check_by_shots(self.shots, variance=self.variance)
        if (self.variance < 0).any():
            raise ValueError(f"A variance cannot be negative; got {self.variance}.")

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

    def __post_init__(self):
        check_by_shots(self.shots, shift=self.shift)

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


def check_by_shots(shots, **values):
    """Raise unless there is a value for each of ascending numbers of support rows.

    Parameters
    ----------
    shots : ndarray of shape (k,)
    **values : ndarray of shape (k, ...)

    Raises
    ------
    ValueError
        Naming the array.
    """
    for name, array in {"shots": shots, **values}.items():
        if array.dtype.kind not in "iuf" or array.shape[:1] != (shots.size,) or not shots.size:
            raise ValueError(f"{name} must hold numbers, one entry for each number of shots")
    if shots.ndim > 1 or (np.diff(shots) <= 0).any():
        raise ValueError(f"shots must ascend; got {shots}")
