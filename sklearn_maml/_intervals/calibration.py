"""Conformal calibration over tasks: which errors, in units of their scale, are to be expected.

Each calibration task i has played the new one; F_i is the distribution of the scores of its rows.
With n tasks an interval that reaches to the quantile

    q = inf {s : sum_i F_i(s) / (n + 1) >= coverage}

holds a random row of a new task that is exchangeable with them with at least that probability
(docs: intervals; Lee, Barber & Willett 2023). There is no such q where ``coverage > n / (n + 1)``.
"""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_maml._intervals.temperature import Temperature
from sklearn_maml.adaptation.prior import check_by_shots

__all__ = ["Calibration", "calibration_of", "tasks_needed", "weighted_quantiles"]

# Quantiles are kept at so many levels; between them the next one is taken, which is never short.
N_LEVELS = 512


def tasks_needed(coverage, signed=False):
    """How many tasks an interval of that coverage takes."""
    inside = 0.5 * (1.0 + coverage) if signed else coverage
    return int(np.ceil(inside / (1.0 - inside) - 1e-9))


@dataclass(frozen=True, eq=False)
class Calibration:
    """Quantiles of the scores of calibration tasks, by number of support rows.

    Attributes
    ----------
    shots : ndarray of shape (k,)
        Numbers of support rows, ascending; between them quantiles are interpolated.
    n_tasks : ndarray of shape (k,)
        How many tasks the scores are of; with task weights what they count for, ``(sum p_i)^2 /
        sum p_i^2``.
    absolute, signed : ndarray of shape (k, n_levels + 1) or (k, n_targets, n_levels + 1)
        Quantiles at the levels 0, 1 / n_levels, ..., 1 of the sizes of scores, and of scores
        themselves; None for those that are not known.
    temperature : Temperature or None
        Of the probabilities of classes, whose scores these are.
    """

    shots: np.ndarray
    n_tasks: np.ndarray
    absolute: np.ndarray
    signed: np.ndarray | None = None
    temperature: Temperature | None = None

    def __post_init__(self):
        grids = {"absolute": self.absolute, "signed": self.signed}
        grids = {name: grid for name, grid in grids.items() if grid is not None}
        check_by_shots(self.shots, n_tasks=self.n_tasks, **grids)

    def uncorrected(self):
        """Without the factor ``1 + 1 / n``: quantiles of the scores as they are."""
        return replace(self, n_tasks=np.full(len(self.shots), np.inf))

    def upper(self, coverage, n_rows):
        """The bound q on the size of scores after so many support rows.

        Parameters
        ----------
        coverage : float
        n_rows : ndarray of shape (n,)

        Returns
        -------
        ndarray of shape (n,) or (n, n_targets), or None
            None with too few tasks for that coverage.
        """
        return self._at(self.absolute, coverage, n_rows, np.ceil)

    def quantile(self, q, n_rows):
        """The quantile q of scores after so many support rows, on the safe side.

        Above one half at least the share q of a new task's scores is below it, under one half at
        most; the median itself is on neither side.

        Parameters and return value are those of `upper`.
        """
        if q == 0.5:
            return self.uncorrected()._at(self.signed, q, n_rows, np.ceil)
        if q > 0.5:
            return self._at(self.signed, q, n_rows, np.ceil)
        return self._at(self.signed, 1.0 - q, n_rows, np.floor, below=True)

    def _at(self, grid, inside, n_rows, rounded, below=False):
        """Quantiles that leave all but `inside` beyond them, at numbers of rows."""
        level = inside * (1.0 + 1.0 / self.n_tasks)
        enough = level <= 1.0 + 1e-12
        if not enough.any():
            return None
        place = N_LEVELS * (1.0 - level if below else level)[enough]
        place = np.clip(rounded(np.round(place, 9)), 0, N_LEVELS).astype(int)
        values = grid[enough][np.arange(len(place)), ..., place]
        return interpolated(n_rows, self.shots[enough], values)


def interpolated(n_rows, shots, values):
    """Values (k, ...) by number of shots at other numbers of rows (n,): linear, level outside."""
    flat = values.reshape(len(shots), -1)
    found = np.column_stack([np.interp(n_rows, shots, column) for column in flat.T])
    return found.reshape(len(n_rows), *values.shape[1:])


def calibration_of(scores, with_signs=True, temperature=None):
    """The `Calibration` that scores of tasks amount to.

    Parameters
    ----------
    scores : dict of int to TaskScores
        For each number of support rows.
    with_signs : bool, default=True
    temperature : Temperature, default=None

    Returns
    -------
    Calibration
    """
    shots = sorted(scores)
    absolute, signed, counts = [], [], []
    levels = np.linspace(0.0, 1.0, N_LEVELS + 1)
    for k in shots:
        values, mass, n_tasks, *_ = scores[k]
        absolute.append(weighted_quantiles(np.abs(values), mass, levels))
        if with_signs:
            signed.append(weighted_quantiles(values, mass, levels))
        counts.append(n_tasks)
    signed = np.array(signed) if with_signs else None
    return Calibration(np.array(shots), np.array(counts), np.array(absolute), signed, temperature)


def weighted_quantiles(values, mass, levels):
    """``inf {s : F(s) >= level}`` of the distribution with so much mass at each value.

    Parameters
    ----------
    values : ndarray of shape (..., n)
    mass : ndarray of shape (n,)
        Non-negative.
    levels : ndarray of shape (k,)

    Returns
    -------
    ndarray of shape (..., k)
    """
    order = np.argsort(values, axis=-1)
    total = np.cumsum(mass[order], axis=-1)
    wanted = levels * (1.0 - 1e-12) * total[..., -1:]  # sums round
    flat = total.reshape(-1, total.shape[-1]), wanted.reshape(-1, len(levels))
    at = np.array([np.searchsorted(*pair) for pair in zip(*flat, strict=True)])
    at = np.minimum(at, values.shape[-1] - 1).reshape(wanted.shape)
    return np.take_along_axis(np.take_along_axis(values, order, axis=-1), at, axis=-1)
