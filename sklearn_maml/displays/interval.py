"""Intervals of one new task that narrow as its rows arrive, drawn."""

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import (
    _safe_indexing,
    check_array,
    check_consistent_length,
    column_or_1d,
)

from sklearn_maml._tasks.lists import as_array
from sklearn_maml._typing import Axes, Floats, Shots, Table
from sklearn_maml.displays.display import Display
from sklearn_maml.model_selection import adapt

__all__ = ["IntervalDisplay"]


class IntervalDisplay(Display):
    """Predictions for one new task with their intervals, after several numbers of its rows.

    Parameters
    ----------
    x : ndarray of shape (n_rows,)
        What is drawn from left to right.
    y : ndarray of shape (n_rows,)
        The task's targets.
    shots : list of int
    mean, low, high : ndarray of shape (n_shots, n_rows)
        After the first so many rows.
    coverage : float, default=0.9

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.displays import IntervalDisplay
    >>> *tasks, (X, y) = make_linear_tasks(n_tasks=41, n_features=1, random_state=0)
    >>> model = MAMLRegressor(random_state=0).fit(tasks)
    >>> display = IntervalDisplay.from_estimator(model, X, y, shots=[1, 5])
    >>> bool((display.high - display.low)[1].mean() < (display.high - display.low)[0].mean())
    True
    """

    def __init__(
        self,
        x: Floats,
        y: Floats,
        shots: Shots,
        mean: Floats,
        low: Floats,
        high: Floats,
        coverage: float = 0.9,
    ) -> None:
        self.x, self.y, self.shots, self.coverage = x, y, shots, coverage
        self.mean, self.low, self.high = mean, low, high

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Table,
        y: ArrayLike,
        *,
        shots: Shots = (1, 3, 5),
        coverage: float = 0.9,
        feature: int = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Adapt to the first rows of a new task, and draw the intervals of those that follow.

        Parameters
        ----------
        estimator : MAMLRegressor, Pipeline that ends in one, or search over these
            Fitted, on other tasks.
        X : array-like of shape (n_rows, n_features)
            The new task's rows, in the order in which they arrive.
        y : array-like of shape (n_rows,)
        shots : sequence of int, default=(1, 3, 5)
            Numbers of rows, one or more and fewer than there are.
        coverage : float, default=0.9
        feature : int, default=0
            The column of X to be drawn from left to right.
        ax : matplotlib Axes, default=None

        Returns
        -------
        IntervalDisplay
        """
        values = check_array(X, dtype=None)
        targets = column_or_1d(check_array(y, ensure_2d=False, dtype="numeric"))
        check_consistent_length(values, targets)
        kept = as_array(shots)
        if kept.dtype.kind not in "iu" or kept.ndim != 1:
            raise TypeError(f"shots must be a sequence of int; got {shots!r}.")
        if not (kept.size and kept.min() >= 1 and kept.max() < len(targets)):
            raise ValueError(
                f"shots must be between 1 and {len(targets) - 1}, one or more; got {shots}."
            )
        if not isinstance(coverage, float):
            raise TypeError(f"coverage must be one number, such as 0.9; got {coverage!r}.")
        if not isinstance(feature, Integral) or not 0 <= feature < values.shape[1]:
            raise ValueError(
                f"feature must be the position of one of {values.shape[1]} columns; got "
                f"{feature!r}."
            )
        X = X if hasattr(X, "iloc") else values
        adapted = [
            adapt(estimator, _safe_indexing(X, slice(k)), targets[:k]) for k in kept.tolist()
        ]
        if not hasattr(adapted[0], "predict_interval"):
            raise TypeError(
                "estimator must be a MAMLRegressor, a Pipeline that ends in one, or a search over "
                f"these, whose targets are not transformed; got {type(estimator).__name__}."
            )
        mean = np.array([own.predict(X) for own in adapted])
        low, high = np.moveaxis([own.predict_interval(X, coverage) for own in adapted], 1, 0)
        x = values[:, feature].astype(float)
        return cls(x, targets, kept.tolist(), mean, low, high, coverage).plot(ax=ax)

    def _draw(self, ax):
        lines = zip(self.shots, self.mean, self.low, self.high, strict=True)
        for i, (k, mean, low, high) in enumerate(lines):
            style, to_come = {"color": f"C{i}"}, k + np.argsort(self.x[k:], kind="stable")
            x = self.x[to_come]
            ax.fill_between(x, low[to_come], high[to_come], alpha=0.2, **style)
            ax.plot(x, mean[to_come], label=f"after {k} row{'s' * (k > 1)}", **style)
        seen = max(self.shots)
        ax.plot(self.x[:seen], self.y[:seen], "ko", label="rows adapted to")
        ax.plot(self.x[seen:], self.y[seen:], "o", mfc="white", mec="k", label="rows to come")
        ax.set(title=f"{self.coverage:.0%} intervals of a new task")
