"""Coordinates in which features are centred and of unit size."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from sklearn_maml._tasks.lists import as_array
from sklearn_maml._typing import Floats

__all__ = ["Standardization"]


@dataclass(frozen=True)
class Standardization:
    """Coordinates in which all features are centred and of unit size.

    A gradient step in them, seen from theta, is ``theta - eta L L' grad R(theta)``: it does not
    depend on the units or the origin of a feature.

    Attributes
    ----------
    mean : ndarray of shape (d,)
        0 for the intercept's column, and everywhere if there is no intercept to shift.
    scale : ndarray of shape (d,)
        Features are divided by it. For the intercept's column, 1 / its relative step.

    Examples
    --------
    A temperature in degrees, and an intercept that is to be moved four times as far:

    >>> import numpy as np
    >>> from sklearn_maml.adaptation import Standardization
    >>> mean, deviation = np.array([20.0, 1.0]), np.array([5.0, 0.0])
    >>> coordinates = Standardization.from_moments(mean, deviation, True, intercept_step=4.0)
    >>> coordinates.rows(np.array([[25.0, 1.0]]))
    array([[1., 2.]])
    """

    mean: Floats
    scale: Floats

    @classmethod
    def from_moments(
        cls, mean: Floats, deviation: Floats, intercept: bool, intercept_step: float
    ) -> Self:
        """Coordinates for features with these moments.

        Parameters
        ----------
        mean, deviation : ndarray of shape (d,)
            Of the features, the intercept's constant column included.
        intercept : bool
            Whether the last column is that of an intercept. If not, nothing is centred, and
            features are scaled by their root mean squares.
        intercept_step : float
            How many times as far a step moves the intercept as a standardised coefficient.

        Returns
        -------
        Standardization
        """
        if not intercept:
            scale = np.hypot(mean, deviation)
            return cls(np.zeros_like(mean), np.where(scale > 0, scale, 1.0))
        # What rounding leaves of a constant column's deviation is no scale.
        scale = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)
        scale[-1] = 1.0 / np.sqrt(intercept_step)
        return cls(np.append(mean[:-1], 0.0), scale)

    def validate(self) -> None:
        """Raise unless mean and scale are one finite number a parameter, and the scale positive."""
        mean, scale = as_array(self.mean), as_array(self.scale)
        if not all(part.dtype.kind in "iuf" for part in (mean, scale)):
            raise TypeError(
                f"coordinates need numbers; got mean={self.mean!r} and scale={self.scale!r}."
            )
        if mean.ndim != 1 or mean.shape != scale.shape:
            raise ValueError(
                "coordinates need a mean and a scale for each parameter; got shapes "
                f"{mean.shape} and {scale.shape}."
            )
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(
                f"coordinates need finite means and positive scales; got mean={self.mean!r} and "
                f"scale={self.scale!r}."
            )

    def rows(self, V: Floats) -> Floats:
        """``V L`` for rows V (..., d): centred on the last column's multiples, then scaled."""
        out = self._centred(V)
        out *= 1.0 / self.scale
        return out

    def lift(self, U: Floats) -> Floats:
        """``U L'`` for rows U (..., d), back in the parameters' own coordinates."""
        return self._uncentre(U / self.scale)

    def _centred(self, V):
        out = V[..., -1:] * self.mean
        return np.subtract(V, out, out=out)

    def _uncentre(self, U):
        U[..., -1] -= U @ self.mean
        return U
