"""Losses of the residual, for targets that are real numbers: the identity link.

The formulas are in ``e = z - y``, the error of a prediction: minus the residual.
"""

from typing import Any

import numpy as np
from scipy.special import entr, expit

from sklearn_maml._component import check_number, check_scale
from sklearn_maml._typing import Floats, Numbers
from sklearn_maml.losses.logistic import logistic, logistic_slope
from sklearn_maml.losses.loss import Loss

__all__ = ["RESIDUAL_LOSSES", "LogCosh", "PseudoHuber", "SmoothedQuantile", "SquaredError"]


class SquaredError(Loss):
    """The squared error ``l(y, z) = (z - y)**2``, not halved: a risk is a mean squared error.

    Examples
    --------
    >>> from sklearn_maml.losses import SquaredError
    >>> loss = SquaredError()
    >>> float(loss.value(1.0, 3.0)), float(loss.gradient(1.0, 3.0)), float(loss.hessian(1.0, 3.0))
    (4.0, 4.0, 2.0)
    """

    constant_hessian = True
    least_at_target = of_residual = True
    hessian_bound = 2.0
    third_bound = fourth_bound = 0.0
    third_ratios = (0.0, 0.0)

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``(z - y)**2``."""
        return np.square(np.subtract(z, y))

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (z - y)``."""
        return 2.0 * np.subtract(z, y)

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``2``."""
        return np.full(np.broadcast_shapes(np.shape(y), np.shape(z)), 2.0)

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``0``."""
        return np.zeros(np.broadcast_shapes(np.shape(y), np.shape(z)))

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """``-slope y - slope^2 / 4``."""
        return -np.multiply(slope, y) - np.square(slope) / 4.0


class PseudoHuber(Loss):
    """A smooth Huber loss: squares near the target, straight lines far from it.

    ``l(y, z) = 2 delta^2 (sqrt(1 + ((z - y) / delta)^2) - 1)``, which is ``(z - y)^2`` for
    residuals much smaller than delta and ``2 delta |z - y|`` for much larger ones.

    Parameters
    ----------
    delta : float, default=1.0
        Residuals larger than this count as outliers; positive, in the units of y.

    References
    ----------
    Charbonnier, Blanc-Feraud, Aubert & Barlaud, "Deterministic edge-preserving regularization in
    computed imaging", IEEE Transactions on Image Processing 6(2), 1997.

    Examples
    --------
    >>> from sklearn_maml.losses import PseudoHuber
    >>> [round(float(PseudoHuber(delta=1.0).value(0.0, z)), 2) for z in (0.1, 10.0, 100.0)]
    [0.01, 18.1, 198.01]
    """

    least_at_target = of_residual = True
    hessian_bound = 2.0

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    @classmethod
    def examples(cls) -> list[Any]:
        """Small residuals and large ones; see `Component.examples`."""
        return [cls(), cls(0.3), cls(20.0)]

    def validate(self) -> None:
        """Raise unless delta is a positive number."""
        check_scale("delta", self.delta)

    @property
    def gradient_bound(self) -> float:
        """``2 delta``."""
        return 2.0 * self.delta

    @property
    def third_bound(self) -> float:
        """``|l'''|`` is largest half a delta away from the target."""
        return 3.0 * 1.25**-2.5 / self.delta

    @property
    def fourth_bound(self) -> float:
        """``6 / delta^2``, at the target."""
        return 6.0 / self.delta**2

    @property
    def third_ratios(self) -> tuple[float, float]:
        """``3 x / (1 + x^2) / delta`` is largest at x = 1."""
        return (1.5 / self.delta,) * 2

    def slope_turn(self, y: Numbers) -> Floats:
        """The target."""
        return np.asarray(y, float)

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``2 e^2 / (1 + sqrt(1 + (e / delta)^2))``, free of cancellation."""
        e = np.subtract(z, y)
        return 2.0 * e * (e / (1.0 + self._root(e / self.delta)))

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``2 e / sqrt(1 + (e / delta)^2)``."""
        e = np.subtract(z, y)
        return 2.0 * e / self._root(e / self.delta)

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (1 + (e / delta)^2)^(-3/2)``."""
        falling = 1.0 / self._root(np.subtract(z, y) / self.delta)
        return 2.0 * falling * falling * falling

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``-6 (e / delta^2) (1 + (e / delta)^2)^(-5/2)``."""
        x = np.subtract(z, y) / self.delta
        return -6.0 * x / self.delta * self._root(x) ** -5.0

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """``-slope y - 2 delta^2 (1 - sqrt(1 - s^2))`` with ``s = slope / (2 delta)``."""
        square = np.square(np.divide(slope, 2.0 * self.delta))
        root = np.sqrt(np.maximum(1.0 - square, 0.0))
        bound = -np.multiply(slope, y) - 2.0 * self.delta**2 * square / (1.0 + root)
        return np.where(square <= 1, bound, -np.inf)

    @staticmethod
    def _root(x):
        """``sqrt(1 + x^2)``, four times as fast as numpy.hypot where no square overflows."""
        with np.errstate(over="ignore"):
            root = np.sqrt(1.0 + x * x)
        return np.hypot(1.0, x) if np.isinf(root).any() else root


class LogCosh(Loss):
    """``l(y, z) = log cosh(z - y)``: half the square near the target, ``|z - y|`` far from it.

    Examples
    --------
    >>> from sklearn_maml.losses import LogCosh
    >>> round(float(LogCosh().value(0.0, 700.0)), 4)
    699.3069
    """

    least_at_target = of_residual = True
    gradient_bound = 1.0
    hessian_bound = 1.0
    third_bound = 4.0 / 27.0**0.5
    fourth_bound = 2.0
    third_ratios = (2.0, 2.0)

    def slope_turn(self, y: Numbers) -> Floats:
        """The target."""
        return np.asarray(y, float)

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``|e| + log((1 + exp(-2 |e|)) / 2)``, or its form without cancellation near 0."""
        e = np.abs(np.subtract(z, y))
        near = np.log1p(2.0 * np.sinh(0.5 * np.minimum(e, 1.0)) ** 2)
        return np.where(e < 1, near, e + np.log1p(np.exp(-2.0 * e)) - np.log(2.0))

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``tanh(e)``."""
        return np.tanh(np.subtract(z, y))

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``1 / cosh(e)^2``."""
        decay = np.exp(-2.0 * np.abs(np.subtract(z, y)))
        return 4.0 * decay / (1.0 + decay) ** 2

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``-2 tanh(e) / cosh(e)^2``."""
        return -2.0 * self.gradient(y, z) * self.hessian(y, z)

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """``-slope y`` minus half the entropy that slopes in (-1, 1) lack."""
        up, down = (1.0 + np.asarray(slope)) / 2.0, (1.0 - np.asarray(slope)) / 2.0
        return -np.multiply(slope, y) + entr(up) + entr(down) - np.log(2.0)


class SmoothedQuantile(Loss):
    """The quantile (pinball) loss with its kink rounded off.

    ``l(y, z) = (1 - quantile) e + smoothing log(1 + exp(-e / smoothing))`` with ``e = z - y``.
    It is the pinball loss convolved with a logistic density. As `smoothing` falls to 0 it becomes
    the pinball loss, and its minimiser the quantile.

    Parameters
    ----------
    quantile : float, default=0.5
        In (0, 1); 0.5 is the median.
    smoothing : float, default=0.1
        Width of the rounded kink; positive, in the units of y.

    References
    ----------
    Zheng, "Gradient descent algorithms for quantile regression with smooth approximation",
    International Journal of Machine Learning and Cybernetics 2, 2011.

    Examples
    --------
    >>> from sklearn_maml.losses import SmoothedQuantile
    >>> loss = SmoothedQuantile(quantile=0.9, smoothing=0.01)
    >>> [round(float(loss.value(0.0, z)), 3) for z in (-1.0, 1.0)]
    [0.9, 0.1]
    """

    least_at_target = of_residual = True

    def __init__(self, quantile: float = 0.5, smoothing: float = 0.1) -> None:
        self.quantile = quantile
        self.smoothing = smoothing

    @classmethod
    def examples(cls) -> list[Any]:
        """Quantiles near the ends, with a narrow and a wide kink; see `Component.examples`."""
        return [cls(), cls(0.9, 0.05), cls(0.2, 2.0)]

    def validate(self) -> None:
        """Raise unless the quantile is inside (0, 1) and smoothing positive."""
        check_scale("smoothing", self.smoothing)
        check_number("quantile", self.quantile, above=True)
        if not self.quantile < 1:
            raise ValueError(f"quantile must be inside (0, 1); got {self.quantile!r}.")

    @property
    def gradient_bound(self) -> float:
        """Slopes are those of the pinball loss, at most."""
        return max(self.quantile, 1.0 - self.quantile)

    @property
    def hessian_bound(self) -> float:
        """``1 / (4 smoothing)``."""
        return 0.25 / self.smoothing

    @property
    def third_bound(self) -> float:
        """That of the logistic function's second derivative."""
        return 1.0 / (108.0**0.5 * self.smoothing**2)

    @property
    def fourth_bound(self) -> float:
        """That of the logistic function, differentiated three times."""
        return 0.125 / self.smoothing**3

    @property
    def third_ratios(self) -> tuple[float, float]:
        """``(1 - 2 sigma) / smoothing`` lies between them."""
        return (1.0 / self.smoothing,) * 2

    def slope_range(self, y: Numbers) -> tuple[Floats, Floats]:
        """``(-quantile, 1 - quantile)``."""
        one = np.ones(np.shape(y))
        return -self.quantile * one, (1.0 - self.quantile) * one

    def slope_turn(self, y: Numbers) -> Floats:
        """The target."""
        return np.asarray(y, float)

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """See the class."""
        e = np.subtract(z, y)
        rounded = self.smoothing * np.log1p(np.exp(-np.abs(e) / self.smoothing))
        return (1.0 - self.quantile) * e + np.maximum(-e, 0.0) + rounded

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma(e / smoothing) - quantile``."""
        return expit(np.subtract(z, y) / self.smoothing) - self.quantile

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma (1 - sigma) / smoothing``."""
        return logistic_slope(np.subtract(z, y) / self.smoothing) / self.smoothing

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma (1 - sigma) (1 - 2 sigma) / smoothing^2``."""
        up, down = logistic(np.subtract(z, y) / self.smoothing)
        return up * down * (down - up) / self.smoothing**2

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """``-slope y`` plus smoothing times the entropy of ``quantile + slope``."""
        level = np.asarray(slope) + self.quantile
        return -np.multiply(slope, y) + self.smoothing * (entr(level) + entr(1.0 - level))


RESIDUAL_LOSSES = {
    "squared_error": SquaredError,
    "pseudo_huber": PseudoHuber,
    "log_cosh": LogCosh,
    "smoothed_quantile": SmoothedQuantile,
}
