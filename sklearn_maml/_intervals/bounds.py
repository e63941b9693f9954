"""Intervals and label sets from a calibration, or the model's own where tasks are too few."""

import numpy as np

from sklearn_maml._tasks.lists import as_array

__all__ = [
    "label_set",
    "multipliers",
    "own_label_set",
    "quantile_of_scores",
    "read_levels",
]


def read_levels(name, given):
    """Coverages, or quantiles, as a list, and whether several were asked for.

    Raises
    ------
    TypeError, ValueError
        Unless it is a number between 0 and 1, both excluded, or a sequence of such numbers.
    """
    values = as_array(given)
    if values.dtype.kind not in "fiu" or values.ndim > 1 or not values.size:
        raise TypeError(f"{name} must be a number, or a sequence of numbers; got {given!r}.")
    if not ((values > 0) & (values < 1)).all():
        raise ValueError(f"{name} must be between 0 and 1, such as 0.9; got {given!r}.")
    return np.atleast_1d(values).astype(float).tolist(), values.ndim == 1


def multipliers(calibration, coverage, n_rows, signed, own):
    """How many deviations an interval reaches below and above the mean.

    Parameters
    ----------
    calibration : Calibration or None
    coverage : float
    n_rows : ndarray of shape (n,)
        Support rows of n tasks.
    signed : bool
        Whether each side is missed with half the probability.
    own : callable or None
        The model's own quantiles, of a probability and n_rows, where scores are in units of its own
        standard deviation.

    Returns
    -------
    low, high : ndarray of shape (n,) or (n, n_targets), or None
        None where tasks are too few, and nothing else is known.
    holds : bool
        Whether the calibration gives them; else they are the model's own, or quantiles of the few
        scores as they are.
    """
    inside = 0.5 * (1.0 + coverage)
    if signed:
        low, holds = quantile_of_scores(calibration, 1.0 - inside, n_rows, own)
        return low, quantile_of_scores(calibration, inside, n_rows, own)[0], holds
    high, holds = None, False
    if calibration is not None:
        high = calibration.upper(coverage, n_rows)
        holds = high is not None
        if high is None and own is None:
            high = calibration.uncorrected().upper(coverage, n_rows)
    if high is None and own is not None:
        high = own(inside, n_rows)
    return None if high is None else -high, high, holds


def quantile_of_scores(calibration, q, n_rows, own):
    """How many deviations a quantile of targets is above the mean.

    Parameters are those of `multipliers`.

    Returns
    -------
    value : ndarray of shape (n,) or (n, n_targets), or None
    holds : bool
    """
    found = None if calibration is None else calibration.quantile(q, n_rows)
    if found is not None:
        return found, True
    if own is not None:
        return own(q, n_rows), False
    if calibration is None:
        return None, False
    return calibration.uncorrected().quantile(q, n_rows), False


def label_set(probabilities, bound):
    """Classes whose probability is at least ``1 - bound``, and the most probable one.

    Parameters
    ----------
    probabilities : ndarray of shape (n, n_classes)
    bound : ndarray of shape (n,)

    Returns
    -------
    ndarray of bool of shape (n, n_classes)
    """
    chosen = probabilities >= 1.0 - bound[:, None]
    chosen[np.arange(len(chosen)), probabilities.argmax(axis=1)] = True
    return chosen


def own_label_set(probabilities, coverage):
    """The fewest classes whose probabilities add up to the coverage."""
    order = np.argsort(-probabilities, axis=1)
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    chosen = np.empty(probabilities.shape, dtype=bool)
    np.put_along_axis(chosen, order, before < coverage, axis=1)
    return chosen
