"""When a solver is near enough to the minimum."""

import numpy as np

__all__ = ["negligible_gap"]


def negligible_gap(objective, tol):
    """From a meta-loss to the gap that is negligible beside it.

    `tol` times the meta-loss; but a loss that falls to zero is not followed below 1e-10 of where it
    can start: at theta = 0, or at predictions of 0 where adapting from there overshoots.

    Parameters
    ----------
    objective : MetaObjective
    tol : float

    Returns
    -------
    callable
    """
    origin = objective.origin()
    (unadapted,) = objective.reduce(_value_at_zero, origin)
    top = np.fmin(abs(objective.value(origin)), abs(unadapted))

    def enough(value):
        return max(tol * min(max(abs(value), 1e-10 * top), top), 1e-15 * abs(value))

    return enough


def _value_at_zero(linearization):
    """A block's part of the meta-loss of predictions that are all zero."""
    query = linearization.query
    return ((linearization.row_weight * query.loss.value(query.targets, 0.0)).sum(),)
