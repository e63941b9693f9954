"""The logistic loss, for classes, and the functions that it is made of."""

import numpy as np
from scipy.special import entr, expit

from sklearn_maml._typing import Floats, Numbers
from sklearn_maml.losses.loss import Loss

__all__ = ["LOGISTIC_LOSSES", "LogLoss", "logistic", "logistic_slope"]


def logistic(z):
    """``sigma(z)`` and ``sigma(-z)`` from one exponential, both precise where they are small."""
    decay = np.exp(-np.abs(z))
    large = 1.0 / (1.0 + decay)
    small = decay * large
    rising = np.greater_equal(z, 0)
    return np.where(rising, large, small), np.where(rising, small, large)


def logistic_slope(z):
    """``sigma(z) sigma(-z)``."""
    decay = np.exp(-np.abs(z))
    return decay / np.square(1.0 + decay)


class LogLoss(Loss):
    """The logistic loss ``l(y, z) = log(1 + exp(z)) - y z`` for classes 0 and 1.

    A risk is ``sklearn.metrics.log_loss``. Targets may be shares in [0, 1].

    Examples
    --------
    >>> from sklearn_maml.losses import LogLoss
    >>> round(float(LogLoss().value(1.0, 0.0)), 4)
    0.6931
    """

    dispersion = 1.0
    target_range = (0.0, 1.0)
    gradient_bound = 1.0
    hessian_bound = 0.25
    third_bound = 1.0 / 108.0**0.5
    fourth_bound = 0.125
    third_ratios = (1.0, 1.0)

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``y log(1 + exp(-z)) + (1 - y) log(1 + exp(z))``, precise where it is small."""
        y = np.asarray(y)
        linear = y * np.maximum(np.negative(z), 0.0) + (1.0 - y) * np.maximum(z, 0.0)
        return linear + np.log1p(np.exp(-np.abs(z)))

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma(z) - y``, precise where it is small."""
        y, (up, down) = np.asarray(y), logistic(z)
        return (1.0 - y) * up - y * down

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma (1 - sigma)``."""
        return logistic_slope(z) + 0.0 * np.asarray(y)

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``sigma (1 - sigma) (1 - 2 sigma)``."""
        up, down = logistic(z)
        return up * down * (down - up) + 0.0 * np.asarray(y)

    def slope_range(self, y: Numbers) -> tuple[Floats, Floats]:
        """``(-y, 1 - y)``."""
        return np.negative(y), 1.0 - np.asarray(y, float)

    def slope_turn(self, y: Numbers) -> Floats:
        """0, whatever the class."""
        return np.zeros(np.shape(y))

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """The entropy of ``y + slope``."""
        share = np.add(y, slope)
        return entr(share) + entr(1.0 - share)

    def check_targets(self, y: Numbers) -> None:
        """Raise for targets outside [0, 1]."""
        if np.min(y) < 0 or np.max(y) > 1:
            raise ValueError(
                "The loss LogLoss needs targets in [0, 1], where 0 and 1 are the two classes; y "
                f"ranges from {np.min(y):g} to {np.max(y):g}."
            )

    def inverse_link(self, z: Numbers) -> Floats:
        """``1 / (1 + exp(-z))``: the probability of class 1."""
        return expit(z)

    def deviation(self, mean: Numbers) -> Floats:
        """``sqrt(mean (1 - mean))``; the smallest number where that is 0."""
        return np.maximum(np.sqrt(mean * np.subtract(1.0, mean)), np.finfo(float).tiny)


LOGISTIC_LOSSES = {"log_loss": LogLoss}
