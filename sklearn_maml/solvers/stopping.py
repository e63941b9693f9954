"""When a solver is near enough to the minimum."""

from functools import cache

import numpy as np

__all__ = ["negligible_gap"]


# Predictions that are off by a few digits of the last place lose this share of the meta-loss that
# predictions of 0 have: a few squares of float64's precision.
ROUNDED = 1e-30


def negligible_gap(objective, tol):
    """From a meta-loss to the gap that is negligible beside it.

    `tol` times the meta-loss; but a loss that falls to zero is not followed below 1e-10 of where it
    can start: at theta = 0, or at predictions of 0 where adapting from there overshoots. Nor below
    what rounding makes of predictions: tasks may be adapted perfectly from anywhere.

    Parameters
    ----------
    objective : MetaObjective
    tol : float

    Returns
    -------
    callable
    """
    (unadapted,) = (abs(part) for part in objective.reduce(_value_at_zero, objective.origin()))

    @cache
    def top():
        return np.fmin(abs(objective.value(objective.origin())), unadapted)

    def enough(value):
        size = abs(value)
        # Here the other start is of no account: no pass over the data for it.
        between = 1e-10 * unadapted <= size <= unadapted
        wanted = size if between else min(max(size, 1e-10 * top()), top())
        return max(tol * wanted, 1e-15 * size, ROUNDED * unadapted)

    return enough


def _value_at_zero(linearization):
    """A block's part of the meta-loss of predictions that are all zero."""
    query = linearization.query
    return ((linearization.row_weight * query.loss.value(query.targets, 0.0)).sum(),)
