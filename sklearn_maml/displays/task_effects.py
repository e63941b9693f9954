"""Random effects of tasks with their intervals, drawn: the caterpillar plot."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from sklearn_maml._estimators.task_effects import TaskEffects
from sklearn_maml._typing import Array, Axes
from sklearn_maml.displays.display import check_axes
from sklearn_maml.model_selection.pipelines import find_model

__all__ = ["TaskEffectsDisplay"]

# Intervals reach so many standard errors to either side: 95 percent of a normal distribution.
WIDTH = 1.96

# Of more tasks than these, labels would not be legible.
MANY_LABELS = 60


class TaskEffectsDisplay:
    """The caterpillar plot: random effects of tasks, sorted, with intervals of 95 percent.

    One panel an effect, each sorted by itself. Where an interval does not reach the line at zero,
    which is the meta-parameters, the task is drawn in colour: it differs visibly from the others.

    Parameters
    ----------
    effects : TaskEffects
        What ``random_effects`` returns.
    feature : str or list of str, default=None
        Which effects to draw, by name; None draws all.

    Attributes
    ----------
    effects : TaskEffects
    axes_ : ndarray of matplotlib Axes, shape (n_panels,)
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.displays import TaskEffectsDisplay
    >>> tasks = make_linear_tasks(n_tasks=60, n_features=2, random_state=0)
    >>> adapted = MAMLRegressor(random_state=0).fit(tasks[:40]).adapt_tasks(tasks[40:])
    >>> display = TaskEffectsDisplay.from_estimator(adapted, feature=["x0", "intercept"])
    >>> display.axes_.shape
    (2,)
    """

    def __init__(self, effects: TaskEffects, feature: str | Sequence[str] | None = None) -> None:
        self.effects, self.feature = effects, feature

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        feature: str | Sequence[str] | None = None,
        ax: Axes | Sequence[Axes] | Array | None = None,
    ) -> Self:
        """Draw the random effects of the tasks of a fit.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, search or AdaptedTasks
            Fitted. Of `AdaptedTasks`, which `adapt_tasks` returns, these tasks are drawn.
        feature : str or list of str, default=None
            Which effects to draw, by name; None draws all.
        ax : matplotlib Axes or array-like of Axes, default=None
            One for each panel.

        Returns
        -------
        TaskEffectsDisplay

        Raises
        ------
        ValueError
            If there are no random effects, see `MAMLRegressor.random_effects`.
        """
        told = hasattr(estimator, "random_effects")
        effects = (estimator if told else find_model(estimator)).random_effects()
        return cls(effects, feature).plot(ax=ax)

    def plot(self, ax: Axes | Sequence[Axes] | Array | None = None) -> Self:
        """Draw on axes that are given, or on new ones.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            One for each panel.

        Returns
        -------
        self : object
            With `axes_` and `figure_`, what was drawn on.
        """
        columns = self._columns()
        self.axes_ = self._new_axes(len(columns)) if ax is None else _given_axes(ax, len(columns))
        self.figure_ = self.axes_[0].figure
        for axis, column in zip(self.axes_, columns, strict=True):
            self._draw(axis, *column)
        return self

    def _columns(self):
        """(name, deviations, standard errors) of the panels."""
        columns, known = self.effects.columns(), [name for name, *_ in self.effects.columns()]
        if self.feature is None:
            return columns
        wanted = [self.feature] if isinstance(self.feature, str) else self.feature
        if not isinstance(wanted, list | tuple) or not all(isinstance(n, str) for n in wanted):
            raise TypeError(f"feature must be a name or a list of names; got {self.feature!r}.")
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise ValueError(
                f"feature must name random effects, which are {known}; got {self.feature!r}."
            )
        return [columns[known.index(name)] for name in wanted]

    def _new_axes(self, n_panels):
        """Axes side by side, high enough for the labels."""
        import matplotlib.pyplot as plt

        height = np.clip(0.18 * len(self.effects.tasks), 3.6, 10.0)
        size = (1.0 + 3.6 * n_panels, height)
        return plt.subplots(1, n_panels, figsize=size, layout="constrained", squeeze=False)[1][0]

    def _draw(self, ax, name, deviations, errors):
        order, places = np.argsort(deviations, kind="stable"), np.arange(len(deviations))
        deviations, half = deviations[order], WIDTH * errors[order]
        apart = np.abs(deviations) > half
        ax.axvline(0.0, color="black", linewidth=0.8)
        for chosen, color in ((~apart, "tab:gray"), (apart, "tab:blue")):
            at, left, right = places[chosen], deviations - half, deviations + half
            ax.hlines(at, left[chosen], right[chosen], color=color, linewidth=1.2)
            ax.plot(deviations[chosen], at, "o", color=color, markersize=3.5)
        if len(places) <= MANY_LABELS:
            ax.set_yticks(places, [str(task) for task in self.effects.tasks[order]], fontsize=7)
        else:
            ax.set_yticks([])
        ax.set(
            xlabel="deviation from the meta-parameter",
            ylabel="tasks, sorted",
            title=f"{name}: {int(apart.sum())} of {len(places)} apart from 0",
        )


def _given_axes(ax, n_panels):
    """Axes as an array, one a panel."""
    axes = np.ravel(np.asarray(ax, dtype=object))
    for one in axes:
        check_axes(one)
    if len(axes) != n_panels:
        raise ValueError(
            f"ax must hold one Axes for each of the {n_panels} effects to draw; got {len(axes)}. "
            "Choose effects by feature=."
        )
    return axes
