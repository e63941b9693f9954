"""Adapting through pipelines, searches and transformed targets."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._estimators.adapted_tasks import AdaptedTasks, in_pipeline, through
from sklearn_maml._tasks.lists import is_task_list, pool
from sklearn_maml._typing import PerRow, Table, Tasks

__all__ = ["adapt", "adapt_tasks", "at_the_model", "find_model", "unwrap"]


def adapt(fitted: Any, X: Table, y: ArrayLike, *, sample_weight: PerRow = None) -> Any:
    """Learn a new task from its support rows, through pipelines, searches, transformed targets.

    Parameters
    ----------
    fitted : MAMLRegressor or MAMLClassifier, or what holds one
        A Pipeline, a search or a TransformedTargetRegressor; they may be nested. Fitted; it is not
        changed.
    X : array-like of shape (m, n_features)
        The task's rows, as `fitted` takes them.
    y : array-like of shape (m,) or (m, n_targets)
        In the units of `fitted`, too.
    sample_weight : array-like of shape (m,), default=None

    Returns
    -------
    AdaptedRegressor, AdaptedClassifier, Pipeline or TransformedTargetRegressor
        Takes the same X, predicts in the units of y. Transformers, also that of the targets, are
        held frozen, so that it can be cloned and fitted to another task.

    Raises
    ------
    TypeError
        If there is no `MAMLRegressor` or `MAMLClassifier` at the end of `fitted`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.model_selection import adapt
    >>> X = np.column_stack([np.repeat(np.arange(10), 8), np.tile(np.linspace(0, 1, 8), 10)])
    >>> y = X[:, 0] * X[:, 1] + 0.1 * np.sin(7.0 * X.sum(axis=1))
    >>> pipe = make_pipeline("passthrough", MAMLRegressor(task_column=0)).fit(X, y)
    >>> new = np.column_stack([np.full(3, 99), [0.0, 0.5, 1.0]])
    >>> adapt(pipe, new, [0.0, 6.0, 12.0]).predict(new).shape
    (3,)
    """
    steps, last = _peel(fitted)
    learn = partial(_adapt_transformed, last) if _transforms_target(last) else last.adapt
    adapted = learn(through(steps, X), y, sample_weight=sample_weight)
    return in_pipeline(steps, adapted)


def _adapt_transformed(fitted, X, y, sample_weight):
    """`adapt` for a fitted TransformedTargetRegressor: another, which transforms as that one."""
    y = check_array(y, ensure_2d=False, allow_nd=True, dtype="numeric", input_name="y")
    transformer = fitted.transformer_
    targets = np.asarray(transformer.transform(y.reshape(len(y), -1)))
    if targets.ndim == 2 and targets.shape[1] == 1 and y.ndim == 1:
        targets = targets[:, 0]
    adapted = adapt(fitted.regressor_, X, targets, sample_weight=sample_weight)
    result = TransformedTargetRegressor(
        FrozenEstimator(adapted),
        func=transformer.transform,  # scikit-learn would fit a transformer again, a frozen one too
        inverse_func=transformer.inverse_transform,
        check_inverse=False,
    ).fit(X, y)
    return result.set_params(regressor=adapted)  # a clone that is fitted adapts to another task


def adapt_tasks(
    fitted: Any, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
) -> AdaptedTasks[Any]:
    """Learn many new tasks at once, through a pipeline or a search.

    Parameters
    ----------
    fitted : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
        Fitted; it is not changed.
    X, y, groups, sample_weight
        As in `MAMLRegressor.fit`, with the rows as `fitted` takes them.

    Returns
    -------
    AdaptedTasks
        A mapping from a task's label to a fitted estimator, with a vectorised
        ``predict(X, groups=)`` and, for a classifier, ``predict_proba(X, groups=)``.

    Raises
    ------
    TypeError
        If there is no `MAMLRegressor` or `MAMLClassifier` at the end of `fitted`.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn_maml import MAMLRegressor, adapt_tasks
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> search = GridSearchCV(MAMLRegressor(random_state=0), {"alpha": [0.0, 0.1]}, cv=2)
    >>> adapted = adapt_tasks(search.fit(tasks[:30]), [(X[:5], y[:5]) for X, y in tasks[30:]])
    >>> len(adapted), adapted[0].predict(tasks[30][0][5:]).shape
    (10, (15,))
    """
    steps, model = unwrap(fitted)
    X, y, given = at_the_model(steps, model, X, y, groups, sample_weight)
    return model.adapt_tasks(X, y, **given).behind(steps)


def find_model(fitted):
    """The fitted model at the end of a pipeline or in a search."""
    return unwrap(fitted)[1]


def unwrap(fitted):
    """The fitted steps of a pipeline, frozen, and the model at its end."""
    steps, model = _peel(fitted)
    if _transforms_target(model):
        raise TypeError(
            "Of a TransformedTargetRegressor there is one adapted regressor at a time: use "
            "sklearn_maml.adapt, or transform the targets before fit."
        )
    return steps, model


def _transforms_target(fitted):
    return hasattr(fitted, "transformer_") and hasattr(fitted, "regressor_")


def _peel(fitted):
    """`unwrap`, but it stops at transformed targets, too."""
    if hasattr(fitted, "adapt_tasks"):
        check_is_fitted(fitted)
        return [], getattr(fitted, "best_estimator_", fitted)
    if hasattr(fitted, "fit"):
        check_is_fitted(fitted)
    if hasattr(fitted, "best_estimator_"):
        return _peel(fitted.best_estimator_)
    if _transforms_target(fitted):
        return [], fitted
    if hasattr(fitted, "named_steps"):  # a pipeline
        *leading, (_, last) = fitted.steps
        frozen = [
            (name, step if step in (None, "passthrough") else FrozenEstimator(step))
            for name, step in leading
        ]
        further, model = _peel(last)
        return frozen + further, model
    raise TypeError(
        "Expected a fitted MAMLRegressor or MAMLClassifier, a Pipeline that ends in one, or a "
        f"search over either that was fitted with refit=True; got {type(fitted).__name__}."
    )


def at_the_model(steps, model, X, y, groups, sample_weight):
    """X, y and {groups, sample_weight} as they reach the model behind the steps."""
    if steps and is_task_list(X, y):
        tasks = pool(X, numeric=not is_classifier(model))
        groups = np.repeat(np.arange(len(tasks.sizes)), tasks.sizes)
        X, y, sample_weight = tasks.X, tasks.y, tasks.row_weight
    return through(steps, X), y, {"groups": groups, "sample_weight": sample_weight}
