"""Losses: how wrong a prediction is, pointwise, with derivatives in the prediction.

A loss is convex and twice differentiable in ``z``, the prediction before the link. To add one,
write a subclass of `Loss` and a line in `LOSSES`.
"""

from abc import abstractmethod

import numpy as np

from sklearn_maml._component import Component

__all__ = ["LOSSES", "Loss", "SquaredError"]


class Loss(Component):
    """Base class of the losses ``l(y, z)``.

    All methods are pointwise: `y` (targets) and `z` (predictions before the link) broadcast
    against one another and the result has their common shape.

    Attributes
    ----------
    constant_hessian : bool
        Whether ``l''`` is the same number everywhere. The meta-objective is then a quadratic
        for every rule that is built from gradients, and can be minimised exactly.
    hessian_bound : float
        The supremum of ``l''`` over all predictions and targets; infinite if there is none.
    """

    constant_hessian = False
    hessian_bound = np.inf

    @abstractmethod
    def value(self, y, z):
        """``l(y, z)``."""

    @abstractmethod
    def gradient(self, y, z):
        """``dl/dz``."""

    @abstractmethod
    def hessian(self, y, z):
        """``d2l/dz2``, non-negative."""

    def inverse_link(self, z):
        """The response that a prediction ``z`` stands for; the identity by default."""
        return z


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
    hessian_bound = 2.0

    def value(self, y, z):
        """``(z - y)**2``."""
        return np.square(np.subtract(z, y))

    def gradient(self, y, z):
        """``2 (z - y)``."""
        return 2.0 * np.subtract(z, y)

    def hessian(self, y, z):
        """``2``."""
        return np.full(np.broadcast_shapes(np.shape(y), np.shape(z)), 2.0)


LOSSES = {"squared_error": SquaredError}
