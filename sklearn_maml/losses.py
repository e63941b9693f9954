"""Losses: how wrong a prediction is, pointwise, with derivatives in the prediction.

A loss is convex and three times differentiable in ``z``, the prediction before the link. To add
one, write a subclass of `Loss` and a line in `LOSSES`. Losses for targets that are real numbers
have the identity link; those for counts and amounts the log link; `LogLoss` the logit link.
"""

from abc import abstractmethod

import numpy as np
from scipy.special import entr, expit, xlogy

from sklearn_maml._component import Component, check_number

__all__ = [
    "LOSSES",
    "Gamma",
    "LogCosh",
    "LogLoss",
    "Loss",
    "Poisson",
    "PseudoHuber",
    "SmoothedQuantile",
    "SquaredError",
    "Tweedie",
]


class Loss(Component):
    """Base class of the losses ``l(y, z)``.

    All methods are pointwise: `y` (targets) and `z` (predictions before the link) broadcast
    against one another and the result has their common shape. A subclass writes `value`,
    `gradient` and `hessian`; everything else has a default.

    Attributes
    ----------
    constant_hessian : bool
        Whether ``l''`` is the same number everywhere. The meta-objective is then a quadratic
        for every rule that is built from gradients, and can be minimised exactly.
    gradient_bound, hessian_bound, third_bound : float
        The suprema of ``|l'|``, ``l''`` and ``|l'''|`` over all predictions and targets; infinite
        if there is none. Losses whose `hessian_bound` is infinite also need `third` and
        `saturated_hessian`, by which gradient steps are kept from overshooting.
    least_at_target : bool
        Whether the loss is least where the prediction z is about the target y. Solvers then know
        how far they are from it, also where ``l''`` vanishes.
    """

    constant_hessian = False
    least_at_target = False
    gradient_bound = np.inf
    hessian_bound = np.inf
    third_bound = np.inf

    @abstractmethod
    def value(self, y, z):
        """``l(y, z)``."""

    @abstractmethod
    def gradient(self, y, z):
        """``dl/dz``."""

    @abstractmethod
    def hessian(self, y, z):
        """``d2l/dz2``, non-negative."""

    def third(self, y, z):
        """``d3l/dz3``."""
        raise NotImplementedError(
            f"The loss {type(self).__name__} has no third derivative. Steps of losses without a "
            "finite hessian_bound are damped by their curvature, and need it: implement third() "
            "and saturated_hessian(), or set hessian_bound, or use GradientSteps(cap=False)."
        )

    def saturated_hessian(self, y):
        """``l''`` where the prediction fits the target exactly: how curved the loss is, by y."""
        return np.zeros(np.shape(y))

    def dual(self, y, slope):
        """``inf over z of l(y, z) - slope * z``: the concave dual, -inf where unbounded.

        With ``slope = 0`` it is the loss's infimum. The default brackets the z at which ``l'`` is
        `slope` and bisects; what it returns is a lower bound by convexity, off by rounding.
        """
        y, slope = np.broadcast_arrays(np.asarray(y, float), np.asarray(slope, float))
        with np.errstate(over="ignore", invalid="ignore"):  # beyond float64 l' is infinite
            low, high, found = _bracket(lambda z: self.gradient(y, z) - slope, y.shape)
            # The chord from one end of the bracket, along the tangent there, is never above l.
            bound = self.value(y, low) - slope * low
            bound = bound + np.minimum((self.gradient(y, low) - slope) * (high - low), 0.0)
        return np.where(found & np.isfinite(bound), bound, -np.inf)

    def check_targets(self, y):
        """Raise for targets that the loss is not defined for; all are allowed by default.

        Raises
        ------
        ValueError
            Saying what was got and what is expected.
        """

    def inverse_link(self, z):
        """The response that a prediction ``z`` stands for; the identity by default."""
        return z


def _bracket(increasing, shape, n_doublings=60, n_halvings=120):
    """An interval around the root of an increasing function, as narrow as float64 allows."""
    low, high = np.full(shape, -1.0), np.full(shape, 1.0)
    for _ in range(n_doublings):
        low = np.where(increasing(low) > 0, 2.0 * low, low)
        high = np.where(increasing(high) < 0, 2.0 * high, high)
    found = (increasing(low) <= 0) & (increasing(high) >= 0)
    for _ in range(n_halvings):
        middle = 0.5 * (low + high)
        above = increasing(middle) > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low, high, found


def _logistic(z):
    """``sigma(z)`` and ``sigma(-z)`` from one exponential, both precise where they are small."""
    decay = np.exp(-np.abs(z))
    large = 1.0 / (1.0 + decay)
    small = decay * large
    rising = np.greater_equal(z, 0)
    return np.where(rising, large, small), np.where(rising, small, large)


def _logistic_slope(z):
    """``sigma(z) sigma(-z)``."""
    decay = np.exp(-np.abs(z))
    return decay / np.square(1.0 + decay)


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
    least_at_target = True
    hessian_bound = 2.0
    third_bound = 0.0

    def value(self, y, z):
        """``(z - y)**2``."""
        return np.square(np.subtract(z, y))

    def gradient(self, y, z):
        """``2 (z - y)``."""
        return 2.0 * np.subtract(z, y)

    def hessian(self, y, z):
        """``2``."""
        return np.full(np.broadcast_shapes(np.shape(y), np.shape(z)), 2.0)

    def third(self, y, z):
        """``0``."""
        return np.zeros(np.broadcast_shapes(np.shape(y), np.shape(z)))

    def dual(self, y, slope):
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

    least_at_target = True
    hessian_bound = 2.0

    def __init__(self, delta=1.0):
        self.delta = delta

    def validate(self):
        """Raise unless delta is a positive number."""
        check_number("delta", self.delta, above=True)

    @property
    def gradient_bound(self):
        """``2 delta``."""
        return 2.0 * self.delta

    @property
    def third_bound(self):
        """``|l'''|`` is largest half a delta away from the target."""
        return 3.0 * 1.25**-2.5 / self.delta

    def value(self, y, z):
        """``2 r^2 / (1 + sqrt(1 + (r / delta)^2))``, free of cancellation."""
        r = np.subtract(z, y)
        return 2.0 * r * (r / (1.0 + self._root(r / self.delta)))

    def gradient(self, y, z):
        """``2 r / sqrt(1 + (r / delta)^2)``."""
        r = np.subtract(z, y)
        return 2.0 * r / self._root(r / self.delta)

    def hessian(self, y, z):
        """``2 (1 + (r / delta)^2)^(-3/2)``."""
        falling = 1.0 / self._root(np.subtract(z, y) / self.delta)
        return 2.0 * falling * falling * falling

    def third(self, y, z):
        """``-6 (r / delta^2) (1 + (r / delta)^2)^(-5/2)``."""
        x = np.subtract(z, y) / self.delta
        return -6.0 * x / self.delta * self._root(x) ** -5.0

    def dual(self, y, slope):
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

    least_at_target = True
    gradient_bound = 1.0
    hessian_bound = 1.0
    third_bound = 4.0 / 27.0**0.5

    def value(self, y, z):
        """``|r| + log((1 + exp(-2 |r|)) / 2)``, or its form without cancellation near 0."""
        r = np.abs(np.subtract(z, y))
        near = np.log1p(2.0 * np.sinh(0.5 * np.minimum(r, 1.0)) ** 2)
        return np.where(r < 1, near, r + np.log1p(np.exp(-2.0 * r)) - np.log(2.0))

    def gradient(self, y, z):
        """``tanh(r)``."""
        return np.tanh(np.subtract(z, y))

    def hessian(self, y, z):
        """``1 / cosh(r)^2``."""
        decay = np.exp(-2.0 * np.abs(np.subtract(z, y)))
        return 4.0 * decay / (1.0 + decay) ** 2

    def third(self, y, z):
        """``-2 tanh(r) / cosh(r)^2``."""
        return -2.0 * self.gradient(y, z) * self.hessian(y, z)

    def dual(self, y, slope):
        """``-slope y`` minus half the entropy that slopes in (-1, 1) lack."""
        up, down = (1.0 + np.asarray(slope)) / 2.0, (1.0 - np.asarray(slope)) / 2.0
        return -np.multiply(slope, y) + entr(up) + entr(down) - np.log(2.0)


class SmoothedQuantile(Loss):
    """The quantile (pinball) loss with its kink rounded off.

    ``l(y, z) = (1 - quantile) r + smoothing log(1 + exp(-r / smoothing))`` with ``r = z - y``.
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

    least_at_target = True

    def __init__(self, quantile=0.5, smoothing=0.1):
        self.quantile = quantile
        self.smoothing = smoothing

    def validate(self):
        """Raise unless the quantile is inside (0, 1) and smoothing positive."""
        check_number("smoothing", self.smoothing, above=True)
        check_number("quantile", self.quantile, above=True)
        if not self.quantile < 1:
            raise ValueError(f"quantile must be inside (0, 1); got {self.quantile!r}.")

    @property
    def gradient_bound(self):
        """Slopes are those of the pinball loss, at most."""
        return max(self.quantile, 1.0 - self.quantile)

    @property
    def hessian_bound(self):
        """``1 / (4 smoothing)``."""
        return 0.25 / self.smoothing

    @property
    def third_bound(self):
        """That of the logistic function's second derivative."""
        return 1.0 / (108.0**0.5 * self.smoothing**2)

    def value(self, y, z):
        """See the class."""
        r = np.subtract(z, y)
        rounded = self.smoothing * np.log1p(np.exp(-np.abs(r) / self.smoothing))
        return (1.0 - self.quantile) * r + np.maximum(-r, 0.0) + rounded

    def gradient(self, y, z):
        """``sigma(r / smoothing) - quantile``."""
        return expit(np.subtract(z, y) / self.smoothing) - self.quantile

    def hessian(self, y, z):
        """``sigma (1 - sigma) / smoothing``."""
        return _logistic_slope(np.subtract(z, y) / self.smoothing) / self.smoothing

    def third(self, y, z):
        """``sigma (1 - sigma) (1 - 2 sigma) / smoothing^2``."""
        up, down = _logistic(np.subtract(z, y) / self.smoothing)
        return up * down * (down - up) / self.smoothing**2

    def dual(self, y, slope):
        """``-slope y`` plus smoothing times the entropy of ``quantile + slope``."""
        level = np.asarray(slope) + self.quantile
        return -np.multiply(slope, y) + self.smoothing * (entr(level) + entr(1.0 - level))


class LogLinkDeviance(Loss):
    """Base of the unit deviances of Tweedie distributions with variance mean^power, log link.

    With ``mu = exp(z)``, ``l' = 2 (mu^(2-p) - y mu^(1-p))``. Under the log link the deviance is
    convex for 1 <= p <= 2 and for no other power.
    """

    @property
    @abstractmethod
    def power(self):
        """The power p, in [1, 2]."""

    def _terms(self, y, z):
        """``mu^(2-p)`` and ``y mu^(1-p)``; infinite beyond the range of float64."""
        p = self.power
        with np.errstate(over="ignore", invalid="ignore"):
            if p == 1:  # cheaper, and the same
                return np.exp(z), y
            falling = np.exp(np.multiply(1.0 - p, z))
            rising = 1.0 if p == 2 else np.exp(np.multiply(2.0 - p, z))
            return rising, np.where(np.greater(y, 0), y * falling, 0.0)

    def gradient(self, y, z):
        """``2 (mu^(2-p) - y mu^(1-p))``."""
        rising, falling = self._terms(y, z)
        return 2.0 * (rising - falling)

    def hessian(self, y, z):
        """``2 ((2-p) mu^(2-p) + (p-1) y mu^(1-p))``."""
        p = self.power
        rising, falling = self._terms(y, z)
        return 2.0 * ((2.0 - p) * rising + (p - 1.0) * falling) + 0.0 * np.asarray(y)

    def third(self, y, z):
        """``2 ((2-p)^2 mu^(2-p) - (p-1)^2 y mu^(1-p))``."""
        p = self.power
        rising, falling = self._terms(y, z)
        return 2.0 * ((2.0 - p) ** 2 * rising - (p - 1.0) ** 2 * falling) + 0.0 * np.asarray(y)

    def saturated_hessian(self, y):
        """``2 y^(2-p)``, at ``mu = y``."""
        return 2.0 * np.power(np.asarray(y, float), 2.0 - self.power)

    def check_targets(self, y):
        """Raise for negative targets, and for zeros where power is 2."""
        low = np.min(y)
        if low < 0 or (self.power == 2 and low == 0):
            wanted = "positive targets" if self.power == 2 else "targets >= 0"
            raise ValueError(
                f"The loss {type(self).__name__} (log link) needs {wanted}; the smallest of y is "
                f"{low:g}. Shift or drop such rows, or choose a loss for real targets."
            )

    def inverse_link(self, z):
        """``exp(z)``."""
        return np.exp(z)


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

    def value(self, y, z):
        """``2 (mu - y z + y log y - y)``."""
        saturated = y * np.log(np.maximum(y, np.finfo(float).tiny)) - y  # y log y is 0 at 0
        return 2.0 * (self._terms(y, z)[0] - np.multiply(y, z) + saturated)

    def dual(self, y, slope):
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

    def value(self, y, z):
        """``2 (z - log y + y / mu - 1)``."""
        return 2.0 * (np.subtract(z, np.log(y)) + self._terms(y, z)[1] - 1.0)

    def dual(self, y, slope):
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

    power = None  # not the property of the base: a hyperparameter

    def __init__(self, power=1.5):
        self.power = power

    def validate(self):
        """Raise unless the power is in [1, 2]."""
        check_number("power", self.power, above=True)
        if not 1 <= self.power <= 2:
            raise ValueError(
                f"power must be in [1, 2], where the Tweedie deviance is convex under the log "
                f"link; got {self.power!r}."
            )

    def value(self, y, z):
        """``2 (y^(2-p) / ((1-p)(2-p)) - y mu^(1-p) / (1-p) + mu^(2-p) / (2-p))``."""
        p = self.power
        if p in (1, 2):
            return (Poisson() if p == 1 else Gamma()).value(y, z)
        rising, falling = self._terms(y, z)
        saturated = np.power(np.asarray(y, float), 2.0 - p) / ((1.0 - p) * (2.0 - p))
        return 2.0 * (saturated - falling / (1.0 - p) + rising / (2.0 - p))


class LogLoss(Loss):
    """The logistic loss ``l(y, z) = log(1 + exp(z)) - y z`` for classes 0 and 1.

    A risk is ``sklearn.metrics.log_loss``. Targets may be shares in [0, 1].

    Examples
    --------
    >>> from sklearn_maml.losses import LogLoss
    >>> round(float(LogLoss().value(1.0, 0.0)), 4)
    0.6931
    """

    gradient_bound = 1.0
    hessian_bound = 0.25
    third_bound = 1.0 / 108.0**0.5

    def value(self, y, z):
        """``y log(1 + exp(-z)) + (1 - y) log(1 + exp(z))``, precise where it is small."""
        y = np.asarray(y)
        linear = y * np.maximum(np.negative(z), 0.0) + (1.0 - y) * np.maximum(z, 0.0)
        return linear + np.log1p(np.exp(-np.abs(z)))

    def gradient(self, y, z):
        """``sigma(z) - y``, precise where it is small."""
        y, (up, down) = np.asarray(y), _logistic(z)
        return (1.0 - y) * up - y * down

    def hessian(self, y, z):
        """``sigma (1 - sigma)``."""
        return _logistic_slope(z) + 0.0 * np.asarray(y)

    def third(self, y, z):
        """``sigma (1 - sigma) (1 - 2 sigma)``."""
        up, down = _logistic(z)
        return up * down * (down - up) + 0.0 * np.asarray(y)

    def dual(self, y, slope):
        """The entropy of ``y + slope``."""
        share = np.add(y, slope)
        return entr(share) + entr(1.0 - share)

    def check_targets(self, y):
        """Raise for targets outside [0, 1]."""
        if np.min(y) < 0 or np.max(y) > 1:
            raise ValueError(
                "The loss LogLoss needs targets in [0, 1], where 0 and 1 are the two classes; y "
                f"ranges from {np.min(y):g} to {np.max(y):g}."
            )

    def inverse_link(self, z):
        """``1 / (1 + exp(-z))``: the probability of class 1."""
        return expit(z)


LOSSES = {
    "squared_error": SquaredError,
    "pseudo_huber": PseudoHuber,
    "log_cosh": LogCosh,
    "smoothed_quantile": SmoothedQuantile,
    "poisson": Poisson,
    "gamma": Gamma,
    "tweedie": Tweedie,
    "log_loss": LogLoss,
}
