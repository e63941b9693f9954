"""Unit deviances with the log link, for counts and amounts."""

from typing import Any

import numpy as np
from scipy.special import xlogy

from sklearn_maml._component import check_number
from sklearn_maml._typing import Floats, Numbers
from sklearn_maml.losses.loss import Loss

__all__ = ["DEVIANCES", "Gamma", "LogLinkDeviance", "Poisson", "Tweedie"]


TINY = np.finfo(float).tiny


class LogLinkDeviance(Loss):
    """Base of the unit deviances of Tweedie distributions with variance mean^power, log link.

    With ``mu = exp(z)``, ``l' = 2 (mu^(2-p) - y mu^(1-p))``. Under the log link the deviance is
    convex for 1 <= p <= 2 and for no other power.

    Attributes
    ----------
    power : float
        p: of a subclass's own, or a hyperparameter.
    """

    target_range = (0.0, np.inf)

    @property
    def third_ratios(self) -> tuple[float, float]:
        """``(2 - p, p - 1)``, reached where one term of the loss outweighs the other."""
        return 2.0 - self.power, self.power - 1.0

    def slope_range(self, y: Numbers) -> tuple[Floats, Floats]:
        """``(-2 y, inf)`` for p = 1, ``(-inf, 2)`` for p = 2; no bounds in between if y > 0."""
        y, p = np.asarray(y, float), self.power
        low = -2.0 * y if p == 1 else np.where(y > 0, -np.inf, 0.0)
        return low, np.full(y.shape, np.inf if p < 2 else 2.0)

    def _terms(self, y, z):
        """``mu^(2-p)`` and ``y mu^(1-p)``; infinite beyond the range of float64."""
        p = self.power
        with np.errstate(over="ignore", invalid="ignore"):
            if p == 1:  # cheaper, and the same
                return np.exp(z), y
            falling = np.exp(np.multiply(1.0 - p, z))
            rising = 1.0 if p == 2 else np.exp(np.multiply(2.0 - p, z))
            return rising, np.where(np.greater(y, 0), y * falling, 0.0)

    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (mu^(2-p) - y mu^(1-p))``."""
        rising, falling = self._terms(y, z)
        return 2.0 * (rising - falling)

    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``2 ((2-p) mu^(2-p) + (p-1) y mu^(1-p))``."""
        p = self.power
        rising, falling = self._terms(y, z)
        return 2.0 * ((2.0 - p) * rising + (p - 1.0) * falling) + 0.0 * np.asarray(y)

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``2 ((2-p)^2 mu^(2-p) - (p-1)^2 y mu^(1-p))``."""
        p = self.power
        rising, falling = self._terms(y, z)
        return 2.0 * ((2.0 - p) ** 2 * rising - (p - 1.0) ** 2 * falling) + 0.0 * np.asarray(y)

    def saturated_hessian(self, y: Numbers) -> Floats:
        """``2 y^(2-p)``, at ``mu = y``."""
        return 2.0 * np.power(np.asarray(y, float), 2.0 - self.power)

    def check_targets(self, y: Numbers) -> None:
        """Raise for negative targets, and for zeros where power is 2."""
        low = np.min(y)
        if low < 0 or (self.power == 2 and low == 0):
            wanted = "positive targets" if self.power == 2 else "targets >= 0"
            raise ValueError(
                f"The loss {type(self).__name__} (log link) needs {wanted}; the smallest of y is "
                f"{low:g}. Shift or drop such rows, or choose a loss for real targets."
            )

    def inverse_link(self, z: Numbers) -> Floats:
        """``exp(z)``."""
        return np.exp(z)

    def deviation(self, mean: Numbers) -> Floats:
        """``mean^(power / 2)``; the smallest number where that is 0."""
        return np.maximum(np.power(mean, 0.5 * self.power), TINY)


class Poisson(LogLinkDeviance):
    """The Poisson deviance with log link, for counts: ``2 (mu - y z + y log y - y)``.

    A risk is ``sklearn.metrics.mean_poisson_deviance``; targets are numbers >= 0.

    Examples
    --------
    >>> from sklearn_maml.losses import Poisson
    >>> round(float(Poisson().value(2.0, 0.0)), 4)
    0.7726
    """

    power = 1

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (mu - y z + y log y - y)``."""
        saturated = y * np.log(np.maximum(y, TINY)) - y  # y log y is 0 at 0
        return 2.0 * (self._terms(y, z)[0] - np.multiply(y, z) + saturated)

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """Attained at ``mu = y + slope / 2``."""
        half = np.multiply(slope, 0.5)
        mean = np.maximum(y + half, 0.0)
        bound = 2.0 * (half + xlogy(y, y) - xlogy(mean, mean))
        return np.where(y + half >= 0, bound, -np.inf)


class Gamma(LogLinkDeviance):
    """The gamma deviance with log link, for positive amounts: ``2 (z - log y + y / mu - 1)``.

    A risk is ``sklearn.metrics.mean_gamma_deviance``; targets are positive.

    Examples
    --------
    >>> from sklearn_maml.losses import Gamma
    >>> round(float(Gamma().value(2.0, 0.0)), 4)
    0.6137
    """

    power = 2

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (z - log y + y / mu - 1)``."""
        return 2.0 * (np.subtract(z, np.log(y)) + self._terms(y, z)[1] - 1.0)

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
        """Attained at ``mu = y / (1 - slope / 2)``."""
        rest = 1.0 - np.multiply(slope, 0.5)
        positive = np.maximum(rest, 0.0)
        bound = -np.multiply(slope, np.log(y)) - 2.0 * xlogy(positive, positive) - slope
        return np.where(rest >= 0, bound, -np.inf)


class Tweedie(LogLinkDeviance):
    """The Tweedie deviance with log link, for amounts that may be exactly zero.

    Between powers 1 and 2 targets are a Poisson number of gamma amounts: rain, insurance claims.

    Parameters
    ----------
    power : float, default=1.5
        Variances are proportional to mean^power. In [1, 2]: 1 is `Poisson`, 2 is `Gamma`; for
        other powers the deviance is not convex under the log link.

    Examples
    --------
    >>> from sklearn_maml.losses import Tweedie
    >>> round(float(Tweedie(power=1.5).value(0.0, 0.0)), 4)
    4.0
    """

    def __init__(self, power: float = 1.5) -> None:
        self.power = power

    @classmethod
    def examples(cls) -> list[Any]:
        """The ends of the range, and near them; see `Component.examples`."""
        return [cls(), cls(1.1), cls(1.9), cls(1.0), cls(2.0)]

    def validate(self) -> None:
        """Raise unless the power is in [1, 2]."""
        check_number("power", self.power, above=True)
        if not 1 <= self.power <= 2:
            raise ValueError(
                f"power must be in [1, 2], where the Tweedie deviance is convex under the log "
                f"link; got {self.power!r}."
            )

    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``2 (y^(2-p) / ((1-p)(2-p)) - y mu^(1-p) / (1-p) + mu^(2-p) / (2-p))``."""
        p = self.power
        if p in (1, 2):
            return (Poisson() if p == 1 else Gamma()).value(y, z)
        rising, falling = self._terms(y, z)
        saturated = np.power(np.asarray(y, float), 2.0 - p) / ((1.0 - p) * (2.0 - p))
        return 2.0 * (saturated - falling / (1.0 - p) + rising / (2.0 - p))


DEVIANCES = {"poisson": Poisson, "gamma": Gamma, "tweedie": Tweedie}
