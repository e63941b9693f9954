"""Choosing and judging models by what they will be used for: a few rows of a new task.

`few_shot_scorer` and `few_shot_curve` adapt to some rows of each task and judge by the others;
`adapt` and `adapt_tasks` reach a fitted `MAMLRegressor` or `MAMLClassifier` through pipelines and
searches.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.utils import check_array, check_random_state
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._adapted import in_pipeline, through
from sklearn_maml._blocks import read_episodes
from sklearn_maml._classes import codes_of, most_probable, probabilities
from sklearn_maml._component import resolve
from sklearn_maml._fitted import objective_on, query_predictions, response, theta_of, truth_of
from sklearn_maml._newton import RidgeProblem, ridge_minimum
from sklearn_maml._objective import MetaObjective
from sklearn_maml._rows import read_tasks
from sklearn_maml._tasks import is_task_list, pool
from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.certificate import certify
from sklearn_maml.proximal import RULES

__all__ = [
    "FewShotCurve",
    "FewShotScorer",
    "adapt",
    "adapt_tasks",
    "few_shot_curve",
    "few_shot_scorer",
]


def adapt(fitted, X, y, *, sample_weight=None):
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
    >>> y = X[:, 0] * X[:, 1]
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


def adapt_tasks(fitted, X, y=None, *, groups=None, sample_weight=None):
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
    """
    steps, model = _unwrap(fitted)
    X, y, given = _at_the_model(steps, model, X, y, groups, sample_weight)
    return model.adapt_tasks(X, y, **given).behind(steps)


def few_shot_scorer(metric=None, support=5, n_draws=10, random_state=0):
    """A scorer that adapts to a few rows of each task and judges by the others.

    Use it as ``scoring=`` in `GridSearchCV`, `cross_validate` and their like, alone or in a dict
    of scorers. It takes lists of tasks, tables with a task column, and `groups` under metadata
    routing; and pipelines that end in a `MAMLRegressor` or a `MAMLClassifier`.

    Parameters
    ----------
    metric : str or callable, default=None
        A name from ``sklearn.metrics.get_scorer_names()``, or a scorer from
        ``sklearn.metrics.make_scorer``; for classifiers also one of probabilities or scores, such
        as "neg_log_loss" and "roc_auc". None is "r2", and "accuracy" for a classifier.
    support : int, float or list of int, default=5
        What a task is adapted to: as in `MAMLRegressor`. ``"all"`` would judge by the very rows
        that were adapted to, and is refused.
    n_draws : int, default=10
        Random draws of the support rows of each task.
    random_state : int, RandomState or None, default=0
        For the draws. An int gives the same draws for every candidate of a search.

    Returns
    -------
    FewShotScorer
        A callable ``scorer(estimator, X, y=None, *, groups=None)`` that returns a float: the
        metric over the query rows of all draws of all tasks, pooled. The greater the better.

    Raises
    ------
    ValueError
        If the metric is not known, or a parameter out of range.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.model_selection import few_shot_scorer
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> scorer = few_shot_scorer("neg_mean_absolute_error", support=3)
    >>> cross_val_score(MAMLRegressor(), tasks, scoring=scorer, cv=3).shape
    (3,)
    """
    scorer = FewShotScorer(metric, support, n_draws, random_state)
    scorer.episodes()
    if metric is not None and not callable(metric):
        get_scorer(metric)
    return scorer


class FewShotScorer(BaseEstimator):
    """What `few_shot_scorer` returns; its parameters are described there."""

    def __init__(self, metric=None, support=5, n_draws=10, random_state=0):
        self.metric = metric
        self.support = support
        self.n_draws = n_draws
        self.random_state = random_state

    def __call__(self, estimator, X, y=None, *, groups=None, sample_weight=None):
        """Score a fitted estimator on held-out tasks.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
            Fitted.
        X, y, groups, sample_weight
            As in `MAMLRegressor.fit`.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If there is nothing to tell tasks apart by, or a task is too small.
        """
        steps, model = _unwrap(estimator)
        X, y, given = _at_the_model(steps, model, X, y, groups, sample_weight)
        if y is not None and given["groups"] is None and model.task_column is None:
            raise ValueError(
                "few_shot_scorer got rows without task labels. Pass a list of (X, y) tuples, set "
                f"task_column= on the {type(model).__name__}, or switch metadata routing on "
                "(sklearn.config_context(enable_metadata_routing=True)) so that groups arrive."
            )
        truth, z, weight, _ = query_predictions(model, X, y, **given, episodes=self.episodes())
        # Some metrics take no weights, so none are passed where they would change nothing.
        weighted = {} if np.allclose(weight, weight[0]) else {"sample_weight": weight}
        classes = is_classifier(model)
        shown = _Classified(model) if classes else _Predicted(model)
        metric = self.metric or ("accuracy" if classes else "r2")
        return get_scorer(metric)(shown, z, truth_of(model, truth), **weighted)

    def get_metadata_routing(self):
        """With metadata routing enabled, groups arrive without any request.

        Returns
        -------
        MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=True)
        return request

    def episodes(self):
        """The splits of a task into support and query.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range.
        """
        return few_shot_episodes(self.support, self.n_draws, self.random_state)


class _Predicted(RegressorMixin, BaseEstimator):
    """A regressor whose X are predictions before the link: what a scikit-learn scorer is shown."""

    def __init__(self, model):
        self.model = model

    def predict(self, X):
        return response(self.model, X)


class _Classified(ClassifierMixin, _Predicted):
    """A classifier whose X are scores."""

    @property
    def classes_(self):
        return self.model.classes_

    def decision_function(self, X):
        return X

    def predict_proba(self, X):
        return probabilities(X)


@dataclass(frozen=True, eq=False)
class FewShotCurve:
    """Errors on new tasks against the number of rows adapted to.

    Attributes
    ----------
    supports : ndarray of shape (n_supports,)
        Numbers of support rows.
    task_errors : ndarray of shape (n_supports, n_tasks)
        The mean error of each task's query rows, over all draws.
    metric : str
    """

    supports: np.ndarray
    task_errors: np.ndarray
    metric: str

    @property
    def mean(self):
        """The mean over tasks, shape (n_supports,); every task counts the same."""
        return self.task_errors.mean(axis=1)

    @property
    def standard_error(self):
        """The standard error of `mean` over tasks, shape (n_supports,); NaN for one task."""
        n_tasks = self.task_errors.shape[1]
        if n_tasks == 1:
            return np.full(len(self.supports), np.nan)
        return self.task_errors.std(axis=1, ddof=1) / np.sqrt(n_tasks)


ERRORS = {"mean_squared_error": np.square, "mean_absolute_error": np.abs}


def _log_loss(codes, predicted, shares):
    """Minus the logarithm of the true class's probability, at least that of an exact zero."""
    shares = shares[np.arange(len(codes)), codes]
    return -np.log(np.maximum(shares, np.finfo(float).eps))


def _zero_one_loss(codes, predicted, shares):
    return (predicted != codes).astype(float)


# Of a row's class, the predicted class, and the probabilities of all.
CLASS_ERRORS = {"log_loss": _log_loss, "zero_one_loss": _zero_one_loss}


def choose_metric(model, metric):
    """The error of a few-shot curve, checked; None is the first that suits the model.

    Raises
    ------
    ValueError
        For an error that is not known, or is of another kind of model.
    """
    errors = CLASS_ERRORS if is_classifier(model) else ERRORS
    if metric is None:
        return next(iter(errors))
    if metric not in errors:
        raise ValueError(
            f"metric must be one of {sorted(errors)} for {type(model).__name__}; got {metric!r}."
        )
    return metric


def _mean_errors(metric, truth, predicted):
    """Each row's error, the mean over targets."""
    return ERRORS[metric](truth - predicted).reshape(len(truth), -1).mean(axis=1)


def few_shot_curve(
    model,
    tasks,
    y=None,
    *,
    groups=None,
    supports=(0, 1, 3, 5, 10),
    n_draws=10,
    metric=None,
    adaptation=None,
    random_state=0,
):
    """Error on new tasks after adapting to so many rows: mean and standard error over tasks.

    Draws are nested: a task's three support rows are among its five.

    Parameters
    ----------
    model : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
        Fitted, on other tasks.
    tasks, y, groups
        Tasks in any form that `MAMLRegressor.fit` takes. Each needs more rows than the largest
        support.
    supports : sequence of int, default=(0, 1, 3, 5, 10)
        Numbers of support rows; 0 is the meta-parameters themselves.
    n_draws : int, default=10
        Random draws of the support rows of each task.
    metric : str, default=None
        "mean_squared_error", the default for a regressor, or "mean_absolute_error"; "log_loss", the
        default for a classifier, or "zero_one_loss", the share of wrong classes.
    adaptation : str or AdaptationRule, default=None
        A rule in place of the model's own, for comparison; with nothing to be learned.
    random_state : int, RandomState or None, default=0

    Returns
    -------
    FewShotCurve
        With `mean` and `standard_error`, arrays of shape (n_supports,).

    Raises
    ------
    ValueError
        If a task has too few rows, or a parameter is out of range.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.model_selection import few_shot_curve
    >>> tasks = make_linear_tasks(n_tasks=60, random_state=0)
    >>> curve = few_shot_curve(MAMLRegressor(support=5).fit(tasks[:40]), tasks[40:])
    >>> bool(curve.mean[-1] < curve.mean[0])
    True
    """
    if np.ndim(supports) != 1:
        raise TypeError(f"supports must be a list of numbers of rows; got {supports!r}.")
    if adaptation is not None:
        adaptation = resolve(adaptation, RULES, AdaptationRule, "adaptation")
    seed = check_random_state(random_state).randint(2**31 - 1)
    steps, model = _unwrap(model)
    metric = choose_metric(model, metric)
    X, y, given = _at_the_model(steps, model, tasks, y, groups, None)
    errors = []
    for shots in supports:
        episodes = few_shot_episodes(shots, n_draws if shots else 1, seed)
        truth, z, weight, task = query_predictions(
            model, X, y, **given, episodes=episodes, rule=adaptation
        )
        if is_classifier(model):
            rows = CLASS_ERRORS[metric](codes_of(truth), most_probable(z), probabilities(z))
        else:
            rows = _mean_errors(metric, truth, response(model, z))
        errors.append(np.bincount(task, weight * rows) / np.bincount(task, weight))
    return FewShotCurve(np.array(supports), np.array(errors), metric)


class OwnRidge(AdaptationRule):
    """A ridge-penalised fit to a task's support rows alone, as a rule: it forgets theta.

    ``min sum_j l(phi_j' t, y_j) + ||t||^2`` over the task's rows, each of weight 1 on average. With
    a quadratic loss the intercept, the constant last column of phi, is hardly penalised; with
    others it is, since rows of one class alone would send it to infinity.
    """

    def adapt(self, theta, risk):
        """The task's own parameters; their derivative in theta is 0."""
        rows, n_rows = risk.features, (risk.weights > 0).sum(axis=-1)
        unit = np.ones(rows.shape[-1])
        if risk.loss.constant_hessian and (rows[..., -1] == 1.0).all():
            unit[-1] = 1e4
        weights, start = n_rows[..., None] * risk.weights, np.zeros(risk.targets.shape)
        strength = np.ones(n_rows.shape)
        problem = RidgeProblem(risk.loss, risk.targets, weights, start, unit * rows, strength)
        return unit * ridge_minimum(problem), np.zeros_like


def pooled_task_errors(fitted, pooled, tasks, y, groups, metric):
    """Each task's mean error under one regression for all, shape (n_tasks,).

    Parameters
    ----------
    fitted : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
        It tells tasks apart.
    pooled : regressor or classifier
        Fitted; a classifier with the classes of `fitted`.
    tasks, y, groups, metric
        As in `few_shot_curve`.
    """
    steps, model = _unwrap(fitted)
    numeric = not is_classifier(model)
    table = pool(tasks, numeric).X if is_task_list(tasks, y) else tasks
    X, y, given = _at_the_model(steps, model, tasks, y, groups, None)
    rows, metric = read_tasks(model, X, y, **given), choose_metric(model, metric)
    truth, predicted = rows.tasks.y, pooled.predict(table)
    if numeric:
        errors = _mean_errors(metric, truth, predicted)
    else:
        predicted = np.searchsorted(model.classes_, predicted)
        errors = CLASS_ERRORS[metric](codes_of(truth), predicted, pooled.predict_proba(table))
    return np.bincount(rows.codes, errors) / np.bincount(rows.codes)


class _Recording(MetaObjective):
    """A meta-objective that remembers where it was evaluated, by value."""

    def __init__(self, objective):
        super().__init__(
            objective.blocks, objective.loss, objective.rule, objective.penalty, objective.n_jobs
        )
        self.visited = {}

    def value_and_gradient(self, theta):
        value, gradient = super().value_and_gradient(theta)
        self.visited[value] = theta.copy()
        return value, gradient


def certified_path(fitted, tasks, y, groups, sample_weight, n_points=50):
    """Meta-losses and certified lower bounds by iteration, from a second run of the solver.

    Parameters
    ----------
    fitted : MAMLRegressor, Pipeline that ends in one, or a search over either
    tasks, y, groups, sample_weight
        What it was fitted on.
    n_points : int, default=50
        At most so many iterates are certified, the first and the last among them.

    Returns
    -------
    values, lower_bounds : ndarray of shape (n_values,)
        NaN where an iterate was not certified.

    Raises
    ------
    ValueError
        If these are not the tasks of the fit.
    """
    steps, model = _unwrap(fitted)
    X, y, given = _at_the_model(steps, model, tasks, y, groups, sample_weight)
    objective = _Recording(objective_on(model, X, y, **given, episodes=model._episodes))
    value, _ = objective.value_and_gradient(theta_of(model))
    if not np.isclose(value, model.meta_loss_, rtol=1e-6):
        raise ValueError(
            f"The meta-loss on these tasks is {value:.6g}, but it was {model.meta_loss_:.6g} in "
            "fit; pass the tasks, groups and weights of fit."
        )
    result = model._make_solver(objective.rule).minimize(objective, objective.origin())
    values = np.array(result.values)
    bounds = np.full(len(values), np.nan)
    for k in np.unique(np.linspace(0, len(values) - 1, n_points).astype(int)):
        if result.values[k] in objective.visited:
            certificate = certify(objective, objective.visited[result.values[k]])
            bounds[k] = certificate.lower_bound
    return values, bounds


def find_model(fitted):
    """The fitted model at the end of a pipeline or in a search."""
    return _unwrap(fitted)[1]


def few_shot_episodes(support, n_draws, random_state):
    """Checked `Episodes` for judging a model by rows that it was not adapted to."""
    if isinstance(support, str):
        raise ValueError(
            f"support must be a number of rows, a fraction or a list of numbers; got {support!r}, "
            "which leaves no rows to judge by."
        )
    return read_episodes(support, "random", n_draws, random_state)


def _unwrap(fitted):
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
    """`_unwrap`, but it stops at transformed targets, too."""
    if hasattr(fitted, "adapt_tasks"):
        check_is_fitted(fitted)
        return [], getattr(fitted, "best_estimator_", fitted)
    if hasattr(fitted, "fit"):
        check_is_fitted(fitted)
    if hasattr(fitted, "best_estimator_"):
        return _peel(fitted.best_estimator_)
    if _transforms_target(fitted):
        return [], fitted
    if hasattr(fitted, "steps"):
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


def _at_the_model(steps, model, X, y, groups, sample_weight):
    """X, y and {groups, sample_weight} as they reach the model behind the steps."""
    if steps and is_task_list(X, y):
        tasks = pool(X, numeric=not is_classifier(model))
        groups = np.repeat(np.arange(len(tasks.sizes)), tasks.sizes)
        X, y, sample_weight = tasks.X, tasks.y, tasks.row_weight
    return through(steps, X), y, {"groups": groups, "sample_weight": sample_weight}
