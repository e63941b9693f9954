"""Intervals and label sets from a calibration, or the model's own where tasks are too few."""

import numpy as np
from scipy.stats import norm

from sklearn_maml._tasks.lists import as_array

__all__ = ["interval", "label_set", "multipliers", "own_label_set", "read_coverage"]


def read_coverage(coverage):
    """Coverages as a list, and whether several were asked for.

    Raises
    ------
    TypeError, ValueError
        Unless it is a number between 0 and 1, both excluded, or a sequence of such numbers.
    """
    values = as_array(coverage)
    if values.dtype.kind not in "fiu" or values.ndim > 1 or not values.size:
        raise TypeError(f"coverage must be a number, or a sequence of numbers; got {coverage!r}.")
    if not ((values > 0) & (values < 1)).all():
        raise ValueError(f"coverage must be between 0 and 1, such as 0.9; got {coverage!r}.")
    return np.atleast_1d(values).astype(float).tolist(), values.ndim == 1


def multipliers(calibration, coverage, n_rows, signed, knows_deviation):
    """How many deviations an interval reaches below and above the mean.

    Parameters
    ----------
    calibration : Calibration or None
    coverage : float
    n_rows : ndarray of shape (n,)
        Support rows of n tasks.
    signed : bool
        Whether each side is missed with half the probability.
    knows_deviation : bool
        Whether scores are in units of the model's own standard deviation.

    Returns
    -------
    low, high : ndarray of shape (n,) or (n, n_targets), or None
        None where tasks are too few, and nothing else is known.
    holds : bool
        Whether the calibration gives them; else they are those of a normal distribution, or
        quantiles of the few scores as they are.
    """
    if calibration is not None:
        if signed:
            found = calibration.bounds(coverage, n_rows)
        else:
            high = calibration.upper(coverage, n_rows)
            found = None if high is None else (-high, high)
        if found is not None:
            return (*found, True)
    if knows_deviation:
        high = np.full(len(n_rows), norm.ppf(0.5 * (1.0 + coverage)))
        return -high, high, False
    if calibration is None:
        return None, None, False
    return *multipliers(calibration.uncorrected(), coverage, n_rows, signed, False)[:2], False


def interval(mean, scale, low, high, target_range):
    """``[mean + low * scale, mean + high * scale]``, within the range of targets.

    Parameters
    ----------
    mean, scale : ndarray of shape (n,) or (n, n_targets)
    low, high : ndarray that broadcasts against them
    target_range : (float, float)
    """
    return tuple(np.clip(mean + side * scale, *target_range) for side in (low, high))


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
