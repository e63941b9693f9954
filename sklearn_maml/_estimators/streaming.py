"""Fitting without all rows at hand: from statistics of tasks, call by call, and from other models.

For the squared loss tasks are summarised, and each call fits to the summaries of all tasks so far.
Other losses have no such summaries: they take steps over the tasks that are at hand.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone

from sklearn_maml._estimators.fitting import certified, fit_blocks, fit_rows, keep_facts, keep_tasks
from sklearn_maml._estimators.meta_learner import MetaLearner
from sklearn_maml._estimators.objectives import objective_of, with_offsets
from sklearn_maml._estimators.plan import make_plan
from sklearn_maml._estimators.prediction import (
    check_targets,
    check_width,
    features_of,
    split_theta,
    theta_of,
    truth_of,
)
from sklearn_maml._estimators.settled import check_settled, digest_of, settle
from sklearn_maml._estimators.wholeness import all_or_nothing, forget, unchanged_by_failure
from sklearn_maml._parallel import one_blas_thread
from sklearn_maml._progress import refusing_overflow, warn_user
from sklearn_maml._tasks.classes import distinct, read_classes
from sklearn_maml._tasks.features import fit_featurizer
from sklearn_maml._tasks.labels import TaskIndex
from sklearn_maml._tasks.single_task import called_from
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.statistics import Settings, TaskStatistics, joined_labels
from sklearn_maml._tasks.summaries import summarise
from sklearn_maml._tasks.tables import read_tasks
from sklearn_maml._typing import PerRow, Tasks
from sklearn_maml.solvers.sgd import SGD

__all__ = ["from_statistics", "go_on", "merged", "task_statistics"]


def task_statistics(
    model: Any, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
) -> TaskStatistics:
    """Statistics of tasks, from which a model is fitted without their rows.

    Parts of the data, wherever they are, give parts of the statistics: each task has to be in one
    part, as a whole.

    Parameters
    ----------
    model : MAMLRegressor
        Which is not changed. It says how tasks are read and split: its `featurizer`, `support`,
        `split`, `n_episodes`, `fit_intercept`, `task_column` and `random_state` (None is 0). A
        featurizer has to be fitted, in a ``sklearn.frozen.FrozenEstimator``. ``support="auto"`` is
        1, 2, 3, 5 and 10 shots, drawn `n_episodes` times each: it does not depend on the data.
    X, y, groups, sample_weight
        As in `MAMLRegressor.fit`.

    Returns
    -------
    TaskStatistics

    Raises
    ------
    TypeError
        If `model` is none.
    ValueError
        If the data are not as described, or the loss or the rule are not ones that moments of the
        rows are enough for.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor, task_statistics
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> task_statistics(MAMLRegressor(), make_linear_tasks(n_tasks=30, random_state=0))
    <TaskStatistics: 30 tasks, 600 rows>
    """
    if not isinstance(model, MetaLearner):
        raise TypeError(
            f"model must be a MAMLRegressor, which says how tasks are read; got {model!r}."
        )
    reader = clone(model)
    if reader.random_state is None:
        reader.random_state = 0
    plan = make_plan(reader)
    _check_sums(reader, plan)
    _check_frozen(reader)
    rows = read_tasks(reader, X, y, groups, sample_weight, reset=True)
    return _statistics(reader, plan, rows)[0]


def go_on(model, X, y, groups, sample_weight, classes=None):
    """Fit to more tasks; see `MetaLearner.partial_fit`."""
    first = not hasattr(model, "coef_")
    with unchanged_by_failure(model):
        before, plan = getattr(model, "loss_", None), make_plan(model)
        sums = _is_summable(model, plan)
        kept = hasattr(model, "statistics_") or hasattr(model, "_settled")
        if sums and not first and not kept:
            _begin_anew(model)
            plan, first = make_plan(model), True
        if not first:
            check_settled(model, before)
        settle(model, sums)
        if classes is not None:
            classes = distinct(read_classes(classes), type(model).__name__)
            _read_told(model, classes, first)
        rows = read_tasks(model, X, y, groups, sample_weight, reset=first)
        if sums:
            statistics, featurizer = _statistics(model, plan, rows)
            _fit_statistics(model, plan, statistics, featurizer)
        elif first:
            fit_rows(model, plan, rows)
        else:
            _take_steps(model, plan, rows)


def _begin_anew(model):
    """Forget a model of `fit`, and say so; scikit-learn's own checks mean it."""
    forget(model)
    if not called_from("sklearn.utils.estimator_"):
        warn_user(
            "partial_fit begins anew: fit, by which the model was fitted, keeps no statistics of "
            "its tasks to go on from. Call partial_fit from the start, on a clone of the model.",
            UserWarning,
        )


def _read_told(model, classes, first):
    """Take the classes that there will be, told in the first call, and check them in later ones."""
    if first:
        model.classes_ = classes
    elif not np.array_equal(classes, model.classes_):
        raise ValueError(
            f"classes must be those of the first call, {model.classes_.tolist()}, or None; got "
            f"{classes.tolist()}."
        )


def _is_summable(model, plan):
    """Whether second moments of the rows are all that a fit needs of them."""
    rule, loss = plan.rule, model.loss_
    square = loss.constant_hessian and loss.of_residual and loss.least_at_target
    return square and (rule is None or rule.of_moments)


def _check_sums(model, plan):
    """Raise unless moments are enough."""
    if not _is_summable(model, plan):
        raise ValueError(
            "Task statistics are for the squared error and the package's own rules, which need no "
            f"more than second moments of the rows; got {model.loss_!r} and "
            f"{model.adaptation or plan.rule!r}. For others use partial_fit, or fit."
        )


def _statistics(model, plan, rows):
    """Statistics of all tasks so far, and the fitted featurizer."""
    _refuse_what_takes_rows(model)
    before = getattr(model, "statistics_", None)
    model.loss_.check_targets(rows.tasks.y)
    rows = rows._replace(tasks=with_offsets(model, rows))  # of a residual: y without its offset
    if before is None:
        told = truth_of(model, rows.tasks.y)
        featurizer = fit_featurizer(model.featurizer, rows.X, rows.tasks, told)
        features = featurizer.training_features(rows.X, bool(model.fit_intercept))
        transformer, n_before, episodes = featurizer.transformer, 0, plan.episodes
        digest = digest_of(transformer)
    else:
        features, transformer = features_of(model, rows.X), model.featurizer_
        n_before, digest = before.n_rows, before.settings.featurizer
        episodes = replace(plan.episodes, seed=before.episodes.seed)
    episodes = replace(episodes, lenient=plan.mixed)
    episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
    # Rows are drawn by their positions among those of all calls.
    tasks = replace(rows.tasks, first=rows.tasks.first + n_before)
    with one_blas_thread(), refusing_overflow():
        summaries = summarise(Blocks(tasks, features, episodes))
    names = getattr(model, "feature_names_in_", None)
    settings = Settings(
        support=episodes.support,
        split=episodes.split,
        n_episodes=episodes.n_episodes,
        lenient=episodes.lenient,
        fit_intercept=bool(model.fit_intercept),
        featurizer=digest,
        task_column=model.task_column,
        offset_column=model.offset_column,
        n_features_in=model.n_features_in_,
        feature_names_in=None if names is None else tuple(names.tolist()),
        n_targets=0 if rows.tasks.y.ndim == 1 else rows.tasks.y.shape[1],
        named=rows.named,
    )
    found = TaskStatistics(summaries, rows.ids, settings, episodes)
    return found if before is None else before + found, transformer


def _fit_statistics(model, plan, statistics, featurizer):
    """Fit to statistics, and store all that the model is made of.

    Parameters
    ----------
    model : MAMLRegressor
        That knows its loss, and which X to expect.
    plan : Plan
    statistics : TaskStatistics
    featurizer : transformer or None
        Fitted, that with which the statistics were made.
    """
    named, blocks = statistics.settings.named, statistics.blocks
    if plan.mixed and not blocks.tasks.show_differences:  # as in a fit: all rows are for theta
        blocks = blocks.unsplit()
    model.featurizer_ = featurizer
    keep_facts(model, blocks.episodes, untold=not named and statistics.n_tasks == 1)
    fit_blocks(model, plan, blocks, statistics.task_ids, named)
    settle(model, sums=True)
    model.statistics_, model.calibration_ = statistics, None
    if model.gap_certificate_ is not None:
        model.gap_certificate_ = model.gap_certificate_.assuming(
            f"the meta-loss is that of the statistics of {statistics.n_tasks} tasks, in which the "
            "rows of each stand summed up",
            "equal to that of the rows, to rounding",
        )


def from_statistics(model, statistics):
    """Fit an estimator to statistics; see `MAMLRegressor.from_statistics`."""
    if not isinstance(statistics, TaskStatistics):
        raise TypeError(
            f"statistics must be a TaskStatistics, which task_statistics makes; got "
            f"{type(statistics).__name__}."
        )
    plan = make_plan(model)
    _check_sums(model, plan)
    _check_frozen(model)
    _solve(model, plan, statistics, model.featurizer)
    return model


def merged(model, others):
    """A model of the tasks of several; see `MAMLRegressor.merge`."""
    parts = [_statistics_of(each) for each in (model, *others)]
    statistics = TaskStatistics.joined(parts)
    together = clone(model)
    plan = make_plan(together)
    _solve(together, plan, statistics, model.featurizer_)
    return together


def _statistics_of(part):
    """The statistics that a model keeps, or that a part is."""
    if isinstance(part, TaskStatistics):
        return part
    if not hasattr(part, "statistics_"):
        raise ValueError(
            f"merge takes models that keep statistics, those of partial_fit and from_statistics, "
            f"or TaskStatistics; got {part!r}."
        )
    return part.statistics_


def _solve(model, plan, statistics, featurizer):
    """Fit a model to statistics that were made for models like it."""
    settings, episodes = statistics.settings, plan.episodes
    expected = replace(
        settings,
        support=episodes.support,
        split=episodes.split,
        n_episodes=episodes.n_episodes,
        lenient=plan.mixed,
        fit_intercept=bool(model.fit_intercept),
        featurizer=digest_of(featurizer),
        task_column=model.task_column,
        offset_column=model.offset_column,
    )
    settings.check_same(expected)
    loss = model.loss_
    with all_or_nothing(model):
        model.loss_ = loss
        model.n_features_in_ = settings.n_features_in
        if settings.feature_names_in is not None:
            model.feature_names_in_ = np.array(settings.feature_names_in, dtype=object)
        _fit_statistics(model, plan, statistics, featurizer)


def _refuse_what_takes_rows(model):
    """Raise for a choice of features, and for calibration, which take the rows of all tasks."""
    if model.calibrate is True:
        raise ValueError(
            "calibrate=True asks for the errors of rows, which statistics do not keep; leave it at "
            "'auto', and call recalibrate on some tasks."
        )
    if model.pooled is not None:
        raise ValueError(
            f"pooled={model.pooled!r} chooses features by all rows, which statistics do not keep; "
            "choose them on some tasks, and pass featurizer=FrozenEstimator(model.featurizer_)."
        )


def _check_frozen(model):
    """Raise for a featurizer that would be fitted to some of the rows."""
    _refuse_what_takes_rows(model)
    featurizer = model.featurizer
    if featurizer is not None and clone(featurizer) is not featurizer:
        raise ValueError(
            f"Statistics need a featurizer that is fitted, the same for all parts; got "
            f"{featurizer!r}. Fit it on some rows, and pass FrozenEstimator(featurizer)."
        )


def _take_steps(model, plan, rows):
    """Go on with stochastic steps over more tasks, by the rule of the first call."""
    if rows.named != (model.task_coef_ is not None):
        raise ValueError(
            "Tasks must have labels in each call of partial_fit, or in none: here those of the "
            f"first call have {'none' if rows.named else 'labels'}."
        )
    solver = plan.solver
    if isinstance(model.solver, str) and model.solver == "auto":
        solver = SGD(n_epochs=1, random_state=model._episodes.seed)
    if not solver.stochastic:
        raise ValueError(
            f"partial_fit goes on by stochastic steps, which {solver!r} does not take; use "
            "solver='auto' or SGD()."
        )
    if model.calibrate is True:
        raise ValueError(
            "calibrate=True asks for the errors of all tasks, and later calls of partial_fit see "
            "their own; set calibrate='auto', and call recalibrate on some tasks."
        )
    check_targets(model, rows.tasks.y)
    model._episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
    features = features_of(model, rows.X)
    check_width(model, features.n_features)
    blocks = Blocks(with_offsets(model, rows), features, model._episodes)
    start = theta_of(model)
    with one_blas_thread(), refusing_overflow():
        objective = objective_of(model, blocks)
        result = solver.minimize(objective, start)
        model.coef_, model.intercept_ = split_theta(result.theta, model._has_intercept)
        judged = certified(objective, result.theta, model.certificate, model.learned_)
        model.meta_loss_, model.gap_certificate_ = judged
        if model.gap_certificate_ is not None:
            model.gap_certificate_ = model.gap_certificate_.assuming(
                "the meta-loss is that of the tasks of the last call", "by definition"
            )
        model.meta_losses_, model.n_iter_ = np.array(result.values), result.n_iter
        model._start, model.calibration_ = start, None  # what it was of another theta is no more
        _add_tasks(model, blocks.unsplit(), rows)


def _add_tasks(model, blocks, rows):
    """Store more tasks beside those of earlier calls, which stay as they were adapted then."""
    names = "task_coef_", "task_intercept_", "_information", "_n_rows"
    before, ids = (
        [getattr(model, name) for name in names],
        np.arange(model.n_tasks_ + len(rows.ids)),
    )
    if rows.named:
        ids = joined_labels([model.task_ids_, rows.ids])
        keep_tasks(model, objective_of(model, blocks), rows.ids)
        for name, old in zip(names, before, strict=True):
            new = getattr(model, name)
            known = old is not None and new is not None
            setattr(model, name, np.concatenate([old, new]) if known else None)
        model._known = TaskIndex(ids)
    model.task_ids_, model.n_tasks_ = ids, len(ids)
