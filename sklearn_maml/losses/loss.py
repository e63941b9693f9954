"""What a loss is: how wrong a prediction is, pointwise, with derivatives in the prediction."""

from abc import abstractmethod

import numpy as np

from sklearn_maml._component import Component
from sklearn_maml._typing import Floats, Numbers

__all__ = ["Loss"]


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
    fourth_bound : float
        The supremum of the fourth derivative's size; infinite if there is none, or none is known.
    third_ratios : (float, float)
        The smallest ``up`` and ``down`` such that everywhere the third derivative is between
        ``-down l''`` and ``up l''``; infinite if there are none, or none are known. With them
        certificates prove rows of proximal steps convex.
    least_at_target : bool
        Whether the loss is least where the prediction z is about the target y. Solvers then know
        how far they are from it, also where ``l''`` vanishes.
    target_range : (float, float)
        The smallest and the largest target there is.
    of_residual : bool
        Whether the loss is a function of ``z - y`` alone. An offset of the prediction is then
        subtracted from the target.
    dispersion : float or None
        ``E[l'^2] / E[l'']`` at the true predictions, where the loss is a likelihood that leaves it
        no freedom: 1 for `LogLoss`. None where it is to be estimated.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.losses import Loss
    >>> class Fair(Loss):
    ...     hessian_bound = gradient_bound = 1.0
    ...     def value(self, y, z):
    ...         return np.abs(z - y) - np.log1p(np.abs(z - y))
    ...     def gradient(self, y, z):
    ...         return (z - y) / (1.0 + np.abs(z - y))
    ...     def hessian(self, y, z):
    ...         return 1.0 / (1.0 + np.abs(z - y)) ** 2
    >>> tasks = make_linear_tasks(random_state=0)
    >>> model = MAMLRegressor(inner_lr=0.1, loss=Fair()).fit(tasks)
    >>> bool(model.gap_certificate_.lower_bound <= model.meta_loss_)
    True
    """

    constant_hessian = False
    least_at_target = False
    of_residual = False
    dispersion: float | None = None
    target_range = (-np.inf, np.inf)
    gradient_bound = np.inf
    hessian_bound = np.inf
    third_bound = np.inf
    fourth_bound = np.inf
    third_ratios = (np.inf, np.inf)

    @abstractmethod
    def value(self, y: Numbers, z: Numbers) -> Floats:
        """``l(y, z)``."""

    @abstractmethod
    def gradient(self, y: Numbers, z: Numbers) -> Floats:
        """``dl/dz``."""

    @abstractmethod
    def hessian(self, y: Numbers, z: Numbers) -> Floats:
        """``d2l/dz2``, non-negative."""

    def third(self, y: Numbers, z: Numbers) -> Floats:
        """``d3l/dz3``."""
        raise NotImplementedError(
            f"The loss {type(self).__name__} has no third derivative. Steps of losses without a "
            "finite hessian_bound are damped by their curvature, and need it: implement third() "
            "and saturated_hessian(), or set hessian_bound, or use GradientSteps(cap=False)."
        )

    def saturated_hessian(self, y: Numbers) -> Floats:
        """``l''`` where the prediction fits the target exactly: how curved the loss is, by y."""
        return np.zeros(np.shape(y))

    def guesses(self, y: Numbers) -> tuple[Numbers, Numbers]:
        """Predictions z from which a search for small losses may start.

        Returns
        -------
        tuple of ndarray of the shape of y
            By default the targets, and their logarithms for losses that exponentiate.
        """
        return y, np.sign(y) * np.log1p(np.abs(y))

    def slope_range(self, y: Numbers) -> tuple[Floats, Floats]:
        """Infimum and supremum of ``l'`` over all predictions, for each target.

        Returns
        -------
        low, high : ndarray of the shape of y
            By default minus and plus `gradient_bound`.
        """
        bound = np.full(np.shape(y), float(self.gradient_bound))
        return -bound, bound

    def slope_turn(self, y: Numbers) -> Floats | None:
        """Where ``l''`` is largest, if it is even about that z and falls on both sides of it.

        ``l'`` is then convex below and concave above, and certificates know its envelopes.

        Returns
        -------
        ndarray of the shape of y, or None
            None, by default: the loss is not known to be so, and bounds that need it are left out.
        """
        return None

    def dual(self, y: Numbers, slope: Numbers) -> Floats:
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

    def check_targets(self, y: Numbers) -> None:
        """Raise for targets that the loss is not defined for; all are allowed by default.

        Raises
        ------
        ValueError
            Saying what was got and what is expected.
        """

    def deviation(self, mean: Numbers) -> Floats:
        """The standard deviation of targets of a mean, up to a factor; by default 1 for all."""
        return np.ones(np.shape(mean))

    @property
    def identity_link(self) -> bool:
        """Whether the response is the prediction z itself: `inverse_link` is as it is here."""
        return type(self).inverse_link is Loss.inverse_link

    def inverse_link(self, z: Numbers) -> Numbers:
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
