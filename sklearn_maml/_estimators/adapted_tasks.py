"""What adapting to many tasks returns: a mapping from task labels to estimators."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from sklearn_maml._component import check_bool
from sklearn_maml._estimators.adapted import AdaptedT, adapter
from sklearn_maml._estimators.intervals import (
    intervals_of,
    label_sets_of,
    probabilities_of,
    quantiles_of,
)
from sklearn_maml._estimators.prediction import (
    linear,
    linear_and_deviation,
    response,
    rows_by_task,
    split_theta,
    uncertainty_of,
)
from sklearn_maml._estimators.task_effects import TaskEffects, task_effects
from sklearn_maml._tasks.labels import TaskIndex
from sklearn_maml._typing import Array, Coverage, Floats, PerRow, Table, available_if

__all__ = ["AdaptedTasks", "in_pipeline", "of_classes", "through"]


def of_classes(tasks):
    """Whether adapted tasks are those of a classifier."""
    return is_classifier(tasks.meta.estimator)


def of_numbers(tasks):
    """Whether adapted tasks are those of a regressor."""
    return not of_classes(tasks)


class AdaptedTasks(Mapping[Any, AdaptedT]):
    """Many tasks, each with its adapted estimator; what `adapt_tasks` returns.

    A read-only mapping from a task's label (its position, for a list of tasks) to its
    `AdaptedRegressor` or `AdaptedClassifier`.

    Parameters
    ----------
    meta : MAMLRegressor or MAMLClassifier
        Fitted; in a ``sklearn.frozen.FrozenEstimator``.
    task_ids : ndarray of shape (n_tasks,)
    theta : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_targets, n_phi)
        The tasks' parameters, the intercept last.
    information : ndarray of shape (n_tasks, k) or (n_tasks, n_targets, k), default=None
        See ``AdaptationRule.information``.
    steps : list of (str, transformer), default=()
        Fitted steps of a pipeline that X goes through first.
    n_rows : ndarray of shape (n_tasks,), default=None
        How many rows tasks were adapted to; None is 0.

    Attributes
    ----------
    task_ids : ndarray of shape (n_tasks,)
    coef : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_targets, n_phi)
    intercept : ndarray of shape (n_tasks,) or (n_tasks, n_targets)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> adapted = MAMLRegressor().fit(tasks[:20]).adapt_tasks(tasks[20:])
    >>> len(adapted), adapted[3].coef_.shape
    (10, (5,))
    >>> rows, labels = np.zeros((2, 5)), [3, 7]
    >>> np.allclose(adapted.predict(rows, groups=labels), adapted.intercept[labels])
    True
    """

    def __init__(
        self,
        meta: FrozenEstimator,
        task_ids: Array,
        theta: Floats,
        information: Floats | None = None,
        steps: Sequence[tuple[str, Any]] = (),
        n_rows: Array | None = None,
    ) -> None:
        if not isinstance(meta, FrozenEstimator):
            raise TypeError(
                "AdaptedTasks is what adapt_tasks returns; to make one, pass a fitted model in a "
                f"FrozenEstimator; got {type(meta).__name__}."
            )
        self.meta, self.task_ids, self.steps = meta, task_ids, tuple(steps)
        self.coef, self.intercept = split_theta(theta, meta.estimator._has_intercept)
        self._theta, self._information = theta, information
        self._known = TaskIndex(task_ids)
        self._n_rows = np.zeros(len(task_ids)) if n_rows is None else n_rows

    def __setstate__(self, state):
        # Those that were pickled before rows were counted have a model without calibration.
        vars(self).update({"_n_rows": np.zeros(len(state["task_ids"]))} | state)

    def __getitem__(self, label: Any) -> AdaptedT:
        at = self._known.at[label]
        information = None if self._information is None else self._information[at]
        adapted = adapter(self.meta)._keep(self._theta[at], information, self._n_rows[at])
        return in_pipeline(self.steps, adapted)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._known.at)

    def __len__(self) -> int:
        return len(self._known.at)

    def __repr__(self):
        return f"<AdaptedTasks: {len(self)} tasks>"

    def behind(self, steps: Sequence[tuple[str, Any]]) -> Self:
        """The same tasks, for an X that goes through fitted pipeline steps first."""
        known = self._theta, self._information
        return type(self)(self.meta, self.task_ids, *known, steps, self._n_rows)

    @overload
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: Literal[False] = False
    ) -> Array: ...
    @overload
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: Literal[True]
    ) -> tuple[Floats, Floats]: ...
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: bool = False
    ) -> Array | tuple[Floats, Floats]:
        """Predict rows of several tasks, each with its task's parameters.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        groups : array-like of shape (n_rows,), default=None
            The task of each row; None where X has a task column.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too; see
            `AdaptedRegressor.predict`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
            Numbers, or classes.
        std : ndarray of the same shape
            Only if ``return_std=True``.

        Raises
        ------
        KeyError
            For a task that is not among these, if ``meta.on_unknown_task`` is "raise"; else the
            meta-parameters predict its rows.
        """
        check_bool("return_std", return_std)
        model, rows = self.meta.estimator, self._rows(X, groups)
        if not return_std:
            return response(model, linear(model, rows))
        uncertainty = uncertainty_of(model, self._information, rows.at)
        z, deviation = linear_and_deviation(model, rows, uncertainty)
        return response(model, z), deviation

    @available_if(of_numbers)
    def predict_interval(
        self, X: Table, coverage: Coverage = 0.9, *, signed: bool = False, groups: PerRow = None
    ) -> tuple[Floats, Floats]:
        """Intervals in which targets of rows are, each by its own task.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        coverage, signed
            See `MAMLRegressor.predict_interval`.
        groups : array-like of shape (n_rows,), default=None
            As in `predict`.

        Returns
        -------
        low, high : ndarray of shape (n_rows,) or (n_rows, n_targets)
            With one more axis, the last, for several coverages.
        """
        model, rows = self.meta.estimator, self._rows(X, groups)
        return intervals_of(model, rows, self._information, self._n_rows, coverage, signed)

    @available_if(of_numbers)
    def predict_quantile(
        self, X: Table, quantile: Coverage = 0.5, *, groups: PerRow = None
    ) -> Floats:
        """Quantiles of targets of rows, each by its own task; see `predict_interval`.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        quantile : float or sequence of float, default=0.5
            See `MAMLRegressor.predict_quantile`.
        groups : array-like of shape (n_rows,), default=None
            As in `predict`.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_targets)
            With one more axis, the last, for several quantiles.
        """
        model, rows = self.meta.estimator, self._rows(X, groups)
        return quantiles_of(model, rows, self._information, self._n_rows, quantile)

    @available_if(of_classes)
    def predict_set(
        self, X: Table, coverage: Coverage = 0.9, *, groups: PerRow = None
    ) -> NDArray[np.bool_]:
        """Sets of classes that rows may have, each by its own task, of classifiers.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        coverage : float or sequence of float, default=0.9
            See `MAMLClassifier.predict_set`.
        groups : array-like of shape (n_rows,), default=None
            As in `predict`.

        Returns
        -------
        ndarray of bool of shape (n_rows, n_classes)
            With one more axis, the last, for several coverages.
        """
        rows = self._rows(X, groups)
        return label_sets_of(self.meta.estimator, rows, self._n_rows, coverage)

    def random_effects(self) -> TaskEffects:
        """By how much each task differs from the meta-parameters, and how surely.

        Returns
        -------
        TaskEffects
            See `MAMLRegressor.random_effects`.
        """
        return task_effects(self.meta.estimator, self.task_ids, self._theta, self._information)

    @available_if(of_classes)
    def predict_proba(self, X: Table, *, groups: PerRow = None) -> Floats:
        """Probabilities of the classes, of classifiers; see `predict`.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
        """
        return probabilities_of(self.meta.estimator, self._rows(X, groups), self._n_rows)

    @available_if(of_classes)
    def decision_function(self, X: Table, *, groups: PerRow = None) -> Floats:
        """Scores, of classifiers; see `predict`.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
        """
        return self._linear(X, groups)

    def _rows(self, X, groups):
        """Rows that are to be predicted, each for its task."""
        X = through(self.steps, X)
        return rows_by_task(self.meta.estimator, X, groups, self._known, self._theta)

    def _linear(self, X, groups):
        """Predictions before the link."""
        return linear(self.meta.estimator, self._rows(X, groups))


def last_has(name):
    """A check whether the last step of a pipeline has a method."""
    return lambda pipeline: hasattr(pipeline.steps[-1][1], name)


class AdaptedPipeline(Pipeline):
    """A pipeline that ends in an adapted model, and reaches its intervals and label sets."""

    @available_if(last_has("predict_interval"))
    def predict_interval(self, X, coverage=0.9, *, signed=False):
        """Intervals of rows; see `AdaptedRegressor.predict_interval`."""
        X = through(self.steps[:-1], X)
        return self.steps[-1][1].predict_interval(X, coverage, signed=signed)

    @available_if(last_has("predict_quantile"))
    def predict_quantile(self, X, quantile=0.5):
        """Quantiles of targets; see `AdaptedRegressor.predict_quantile`."""
        return self.steps[-1][1].predict_quantile(through(self.steps[:-1], X), quantile)

    @available_if(last_has("predict_set"))
    def predict_set(self, X, coverage=0.9):
        """Sets of classes of rows; see `AdaptedClassifier.predict_set`."""
        return self.steps[-1][1].predict_set(through(self.steps[:-1], X), coverage)


def in_pipeline(steps, estimator):
    """The estimator, at the end of a pipeline where there are steps before it."""
    if not steps:
        return estimator
    return AdaptedPipeline(
        [*steps, ("classifier" if is_classifier(estimator) else "regressor", estimator)]
    )


def through(steps, X):
    """X as it leaves the fitted steps of a pipeline."""
    for _, step in steps:
        X = X if step in (None, "passthrough") else step.transform(X)
    return X
