"""Temperatures: how much surer, or less sure, classes are than scores say, by number of rows.

Scores z / T have the probabilities of z at the temperature T (Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017): above 1 they are drawn together, and which is largest stays. T is that
of the smallest log loss of tasks that played the new one, each counting the same. With few tasks it
is hardly known, and drawn towards 1: for ``x = log(1 / T)`` with the standard error s over tasks it
is ``x max(0, 1 - s^2 / x^2)``, which is James & Stein's positive part in one dimension.
Where the log loss still falls at the bound of T, s / x is that of its slope at T = 1 over tasks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, log_expit

from sklearn_maml._tasks.classes import codes_of, probabilities
from sklearn_maml.adaptation.prior import check_by_shots
from sklearn_maml.losses.offset import split_offset

__all__ = [
    "Temperature",
    "misfits",
    "misfits_of_tasks",
    "odds_and_class",
    "slope_and_curvature",
    "temperature_of",
    "temperatures_at",
]

# Temperatures are within a factor of so much of 1: beyond, classes are all but certain.
FURTHEST = 4.0


@dataclass(frozen=True, eq=False)
class Temperature:
    """Temperatures by number of support rows: lines between these, level beyond them.

    Attributes
    ----------
    shots : ndarray of shape (k,)
        Numbers of support rows, ascending.
    value : ndarray of shape (k,)
        Positive.
    """

    shots: np.ndarray
    value: np.ndarray

    def __post_init__(self):
        check_by_shots(self.shots, value=self.value)
        if self.value.ndim > 1 or not (self.value > 0).all():
            raise ValueError(f"A temperature must be positive; got {self.value}.")

    def at(self, n_rows):
        """T after so many support rows: (n,) to (n,)."""
        return np.interp(n_rows, self.shots, self.value)


def odds_and_class(query, z, support):
    """Log odds of rows, and below them the number of the class that each has; a "score".

    Parameters and return value are those of the scores of `scores_of_tasks`; the first axis has one
    entry more than there are scores.
    """
    truth, offset = split_offset(query.targets)
    odds = (z + offset).reshape(-1, *z.shape[-2:])
    targets = np.broadcast_to(truth, z.shape).reshape(odds.shape)
    codes = codes_of(targets.reshape(len(odds), -1).T if len(odds) > 1 else targets.ravel())
    return np.concatenate([odds, codes.reshape(1, *z.shape[-2:])])


def misfits(values, temperature=1.0):
    """1 minus the probabilities of the classes that rows have, (n,), of `odds_and_class` (k, n)."""
    odds, codes = _parted(values)
    share = probabilities(odds.T if len(odds) > 1 else odds[0], temperature)
    return 1.0 - np.nan_to_num(share[np.arange(len(share)), codes])


def misfits_of_tasks(scores, temperature):
    """Scores of `odds_and_class` made `misfits`, by the temperature of each number of rows.

    Parameters
    ----------
    scores : dict of int to TaskScores
    temperature : Temperature or None

    Returns
    -------
    dict of int to TaskScores
    """
    at = {k: temperatures_at(temperature, k) for k in scores}
    return {k: own._replace(values=misfits(own.values, at[k])) for k, own in scores.items()}


def temperatures_at(temperature, n_rows):
    """Temperatures after so many rows, of the shape of `n_rows`; 1 where none are known."""
    return np.ones(np.shape(n_rows)) if temperature is None else temperature.at(n_rows)


def temperature_of(scores):
    """The `Temperature` at which tasks that played the new one have the smallest log loss.

    Parameters
    ----------
    scores : dict of int to TaskScores
        Of `odds_and_class`.

    Returns
    -------
    Temperature
    """
    shots = sorted(scores)
    value = [np.exp(-_shrunken(scores[k])) for k in shots]
    return Temperature(np.array(shots), np.array(value))


def _shrunken(scores):
    """``log(1 / T)`` of one number of support rows."""
    odds, codes = _parted(scores.values)
    mass = scores.mass / scores.mass.sum()
    finite = np.isfinite(odds).all(axis=0)
    odds, codes, mass, owner = odds[:, finite], codes[finite], mass[finite], scores.owner[finite]
    if len(np.unique(owner)) < 2:
        return 0.0

    def slope(x):
        return mass @ slope_and_curvature(odds, codes, x)[0]

    furthest = np.log(FURTHEST)
    ends = slope(-furthest), slope(furthest)
    if ends[0] < 0 < ends[1]:
        x = brentq(slope, -furthest, furthest, xtol=1e-9)
        slopes, curvatures = slope_and_curvature(odds, codes, x)
        moved = mass @ curvatures * x
    else:  # it falls beyond, too: how surely, slopes at T = 1 tell
        x = -furthest if ends[0] >= 0 else furthest
        slopes, _ = slope_and_curvature(odds, codes, 0.0)
        moved = -(mass @ slopes)
    apart = np.bincount(owner, mass * (slopes - mass @ slopes))
    n_tasks = len(np.unique(owner))
    variance = np.square(apart).sum() * n_tasks / (n_tasks - 1)
    # s^2 / x^2 = variance / moved^2; nothing is known where the log loss is flat, or bends down.
    if moved * x <= 0 or variance >= moved**2:
        return 0.0
    return float(x - x * variance / moved**2)


def slope_and_curvature(odds, codes, x):
    """Derivatives in x of the log losses of scores ``exp(x) z``.

    With the scores u, ``b_c = u_c s(-u_c)`` and ``k_c = b_c - u_c^2 s(u_c) s(-u_c)`` are the
    derivatives of ``log s(u_c)``, whose shares of the sum are the probabilities p: the loss
    ``log sum_c s(u_c) - log s(u_y)`` has the derivatives ``p'b - b_y`` and ``p'k + p'b^2 - (p'b)^2
    - k_y``.

    Parameters
    ----------
    odds : ndarray of shape (1, n) or (n_classes, n)
        z; one for two classes.
    codes : ndarray of shape (n,)
    x : float

    Returns
    -------
    slope, curvature : ndarray of shape (n,)
    """
    u = np.exp(x) * (np.concatenate([-odds, odds]) if len(odds) == 1 else odds)
    log_share = log_expit(u)
    share = np.exp(log_share - log_share.max(axis=0))
    share /= share.sum(axis=0)
    rest = expit(-u)
    first = u * rest
    second = first - u**2 * rest * expit(u)
    mean = (share * first).sum(axis=0)
    own = codes, np.arange(u.shape[1])
    bent = (share * (second + first**2)).sum(axis=0) - mean**2
    return mean - first[own], bent - second[own]


def _parted(values):
    """Log odds (k - 1, n) and codes (n,) of `odds_and_class`."""
    return values[:-1], values[-1].astype(np.intp)
