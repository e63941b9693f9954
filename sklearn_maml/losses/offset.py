"""Offsets: what is added to a row's prediction before the link, with a coefficient of 1.

A target is opaque to all but its loss, so that it may bring its offset along: as the imaginary part
of a complex number, which stacks, splits and pads like any other.
"""

import numpy as np

from sklearn_maml.losses.loss import Loss

__all__ = ["OffsetLoss", "loss_for", "split_offset", "with_offset"]

# Log means and log odds beyond this are hardly meant; exponentials overflow at 709.
LARGEST_OFFSET = 100.0


def with_offset(loss, y, offset):
    """The targets with which ``l(y, z + offset)`` is a function of z, by `loss_for`.

    Parameters
    ----------
    loss : Loss
    y : ndarray of shape (n_rows,) or (n_rows, n_targets)
    offset : ndarray of shape (n_rows,) or None

    Returns
    -------
    ndarray of the shape of y
        ``y - offset`` for a loss of the residual, which is another form of the same; else complex.

    Raises
    ------
    ValueError
        If offsets before a link are too large to be meant.
    """
    if offset is None:
        return y
    offset = offset.reshape(-1, *[1] * (y.ndim - 1))
    if loss.of_residual:
        return y - offset
    largest = np.abs(offset).max()
    if largest > LARGEST_OFFSET:
        raise ValueError(
            f"Offsets are added before the link of {loss!r}, in units of its predictions; the "
            f"largest is {largest:g}, beyond {LARGEST_OFFSET:g}. For exposures pass their "
            "logarithms."
        )
    return y + 1j * offset


def loss_for(loss, targets):
    """The loss of targets as `with_offset` made them."""
    return OffsetLoss(loss) if np.iscomplexobj(targets) else loss


def split_offset(targets):
    """Targets and offsets, real, from those of an `OffsetLoss`."""
    return np.real(targets), np.imag(targets)


def _fact(name):
    """A property: what the loss says of itself holds with offsets, too."""
    return property(lambda self: getattr(self.loss, name))


def _shifted(name):
    """A method: that of the loss, about the prediction with its offset."""

    def method(self, y, z):
        y, offset = split_offset(y)
        return getattr(self.loss, name)(y, z + offset)

    method.__doc__ = f"`{name}` of the loss at ``z + offset``."
    return method


def _unmoved(name):
    """A method: that of the loss, which offsets do not change."""

    def method(self, y):
        return getattr(self.loss, name)(np.real(y))

    method.__doc__ = f"`{name}` of the loss."
    return method


class OffsetLoss(Loss):
    """A loss of targets ``y + i offset``: ``l(y, z + offset)``.

    Parameters
    ----------
    loss : Loss
    """

    def __init__(self, loss):
        self.loss = loss

    constant_hessian = _fact("constant_hessian")
    dispersion = _fact("dispersion")
    gradient_bound = _fact("gradient_bound")
    hessian_bound = _fact("hessian_bound")
    third_bound = _fact("third_bound")
    fourth_bound = _fact("fourth_bound")
    third_ratios = _fact("third_ratios")

    value = _shifted("value")
    gradient = _shifted("gradient")
    hessian = _shifted("hessian")
    third = _shifted("third")

    saturated_hessian = _unmoved("saturated_hessian")
    slope_range = _unmoved("slope_range")

    def guesses(self, y):
        """Those of the loss, less the offset."""
        y, offset = split_offset(y)
        return tuple(guess - offset for guess in self.loss.guesses(y))

    def slope_turn(self, y):
        """That of the loss, less the offset."""
        y, offset = split_offset(y)
        turn = self.loss.slope_turn(y)
        return None if turn is None else turn - offset

    def dual(self, y, slope):
        """``inf over z of l(y, z + o) - s z`` is that of the loss, plus ``s o``."""
        y, offset = split_offset(y)
        return self.loss.dual(y, slope) + np.multiply(slope, offset)
