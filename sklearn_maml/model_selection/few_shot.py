"""Judging models by what they will be used for: a few rows of a new task."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.metrics import get_scorer
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_maml._component import check_int, check_option, random_of, resolve
from sklearn_maml._estimators.defaults import AUTO_SHOTS
from sklearn_maml._estimators.intervals import temperatures
from sklearn_maml._estimators.objectives import query_predictions
from sklearn_maml._estimators.prediction import response, truth_of
from sklearn_maml._tasks.classes import probabilities
from sklearn_maml._tasks.episodes import Episodes, read_episodes
from sklearn_maml._typing import Array, Floats, PerRow, Random, Shots, Split, Support, Tasks
from sklearn_maml.adaptation import RULES
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.model_selection.errors import MISCOVERAGE, choose_metric, errors_of_rows
from sklearn_maml.model_selection.pipelines import at_the_model, unwrap

__all__ = [
    "FewShotCurve",
    "FewShotScorer",
    "few_shot_curve",
    "few_shot_episodes",
    "few_shot_scorer",
    "nothing_tells_tasks_apart",
]


def few_shot_scorer(
    metric: str | Callable[..., float] | None = None,
    support: Support = 5,
    n_draws: int = 10,
    random_state: Random | None = 0,
    split: Split = "random",
) -> "FewShotScorer":
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
    support : int, float, list of int or "auto", default=5
        What a task is adapted to: as in `MAMLRegressor`. "auto" is 1, 2, 3, 5 and 10 rows in turn,
        as far as a task has them. ``"all"`` would judge by the very rows that were adapted to, and
        is refused.
    n_draws : int, default=10
        Random draws of the support rows of each task.
    random_state : int, RandomState or None, default=0
        For the draws. An int gives the same draws for every candidate of a search.
    split : {"random", "first"}, default="random"
        "first" adapts to a task's first rows, for ordered data; there is one draw of these.

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
    scorer = FewShotScorer(metric, support, n_draws, random_state, split)
    scorer.episodes()
    if metric is not None:
        _scorer_of(metric)
    return scorer


def _scorer_of(metric):
    """A scorer from its name, or checked: it is called with an estimator, X and y."""
    if not isinstance(metric, str):
        try:
            signature(metric).bind("estimator", "X", "y")
        except TypeError:
            raise TypeError(
                "metric must be a name or a scorer, which is called with (estimator, X, y); got "
                f"{metric!r}. Of a function of (y_true, y_pred) sklearn.metrics.make_scorer makes "
                "one."
            ) from None
    return get_scorer(metric)


class FewShotScorer(BaseEstimator):
    """What `few_shot_scorer` returns: a scorer that judges by rows not adapted to.

    Parameters
    ----------
    metric, support, n_draws, random_state, split
        As in `few_shot_scorer`.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor, few_shot_scorer
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> judge = few_shot_scorer("neg_mean_absolute_error", support=3)
    >>> judge
    FewShotScorer(metric='neg_mean_absolute_error', support=3)
    >>> judge(MAMLRegressor(random_state=0).fit(tasks[:30]), tasks[30:]) < 0
    True
    """

    def __init__(
        self,
        metric: str | Callable[..., float] | None = None,
        support: Support = 5,
        n_draws: int = 10,
        random_state: Random | None = 0,
        split: Split = "random",
    ) -> None:
        self.metric = metric
        self.support = support
        self.n_draws = n_draws
        self.random_state = random_state
        self.split = split

    def __call__(
        self,
        estimator: Any,
        X: Tasks,
        y: PerRow = None,
        *,
        groups: PerRow = None,
        sample_weight: PerRow = None,
    ) -> float:
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
        steps, model = unwrap(estimator)
        X, y, given = at_the_model(steps, model, X, y, groups, sample_weight)
        if nothing_tells_tasks_apart(model, y, given["groups"]):
            raise ValueError(
                "few_shot_scorer got rows without task labels. Pass a list of (X, y) tuples, set "
                f"task_column= on the {type(model).__name__}, or switch metadata routing on "
                "(sklearn.config_context(enable_metadata_routing=True)) so that groups arrive."
            )
        truth, z, weight, n_rows, _ = query_predictions(
            model, X, y, **given, episodes=self.episodes()
        )
        # Some metrics take no weights, so none are passed where they would change nothing.
        weighted = {} if np.allclose(weight, weight[0]) else {"sample_weight": weight}
        classes = is_classifier(model)
        shown = _Classified(model, n_rows) if classes else _Predicted(model)
        metric = self.metric or ("accuracy" if classes else "r2")
        return _scorer_of(metric)(shown, z, truth_of(model, truth), **weighted)

    def get_metadata_routing(self) -> MetadataRequest:
        """With metadata routing enabled, groups arrive without any request.

        Returns
        -------
        MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=True)
        return request

    def episodes(self) -> Episodes:
        """The splits of a task into support and query.

        Raises
        ------
        ValueError, TypeError
            If a parameter is out of range.
        """
        return few_shot_episodes(self.support, self.n_draws, self.random_state, self.split)


class _Predicted(RegressorMixin, BaseEstimator):
    """A regressor whose X are predictions before the link: what a scikit-learn scorer is shown."""

    def __init__(self, model):
        self.model = model

    def predict(self, X):
        return response(self.model, X)


class _Classified(ClassifierMixin, _Predicted):
    """A classifier whose X are scores, after so many support rows each."""

    def __init__(self, model, n_rows):
        super().__init__(model)
        self.n_rows = n_rows

    @property
    def classes_(self):
        return self.model.classes_

    def decision_function(self, X):
        return X

    def predict_proba(self, X):
        return probabilities(X, temperatures(self.model, self.n_rows))


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

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor, few_shot_curve
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> model = MAMLRegressor(random_state=0).fit(tasks[:30])
    >>> curve = few_shot_curve(model, tasks[30:], supports=[1, 3, 10])
    >>> bool(curve.mean[0] > curve.mean[2])  # the more rows, the smaller the error
    True
    """

    supports: Array
    task_errors: Floats
    metric: str

    @property
    def mean(self) -> Floats:
        """The mean over tasks, shape (n_supports,); every task counts the same."""
        return self.task_errors.mean(axis=1)

    @property
    def standard_error(self) -> Floats:
        """The standard error of `mean` over tasks, shape (n_supports,); NaN for one task."""
        n_tasks = self.task_errors.shape[1]
        if n_tasks == 1:
            return np.full(len(self.supports), np.nan)
        return self.task_errors.std(axis=1, ddof=1) / np.sqrt(n_tasks)


def few_shot_curve(
    model: Any,
    tasks: Tasks,
    y: PerRow = None,
    *,
    groups: PerRow = None,
    supports: Shots = (0, 1, 3, 5, 10),
    n_draws: int = 10,
    metric: str | None = None,
    adaptation: str | AdaptationRule | None = None,
    random_state: Random | None = 0,
    coverage: float = 0.9,
) -> FewShotCurve:
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
        default for a classifier, or "zero_one_loss", the share of wrong classes. "miscoverage", of
        both: the share of rows outside their intervals, or label sets, of a `coverage`.
    adaptation : str or AdaptationRule, default=None
        A rule in place of the model's own, for comparison; with nothing to be learned. Its
        probabilities are those of its scores, and it has no "miscoverage".
    random_state : int, RandomState or None, default=0
    coverage : float, default=0.9
        With "miscoverage", which is to be 1 less that.

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
    if isinstance(supports, str) or np.ndim(supports) != 1 or len(supports) == 0:
        raise TypeError(f"supports must be a list of numbers of rows; got {supports!r}.")
    for shots in supports:
        check_int("each of supports", shots, low=0)
    check_int("n_draws", n_draws)
    if adaptation is not None:
        adaptation = resolve(adaptation, RULES, AdaptationRule, "adaptation")
    seed = random_of(random_state).randint(2**31 - 1)
    steps, model = unwrap(model)
    metric = choose_metric(model, metric)
    if metric == MISCOVERAGE and adaptation is not None:
        raise ValueError(
            f"metric={metric!r} judges the intervals of the model's own rule; adaptation must be "
            f"None, got {adaptation!r}."
        )
    if not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(f"coverage must be a number between 0 and 1; got {coverage!r}.")
    if metric != MISCOVERAGE and coverage != 0.9:
        raise ValueError(f"coverage={coverage!r} has no effect with metric={metric!r}.")
    X, y, given = at_the_model(steps, model, tasks, y, groups, None)
    if nothing_tells_tasks_apart(model, y, given["groups"]):
        raise ValueError(
            "few_shot_curve got rows without task labels. Pass a list of (X, y) tuples, one a "
            f"task, or groups=, or set task_column= on the {type(model).__name__}."
        )
    errors = []
    for shots in supports:
        episodes = few_shot_episodes(shots, n_draws if shots else 1, seed)
        rows, weight, task = errors_of_rows(
            metric, model, X, y, **given, episodes=episodes, rule=adaptation, coverage=coverage
        )
        errors.append(np.bincount(task, weight * rows) / np.bincount(task, weight))
    return FewShotCurve(np.array(supports), np.array(errors), metric)


def few_shot_episodes(support, n_draws, random_state, split="random"):
    """Checked `Episodes` for judging a model by rows that it was not adapted to."""
    check_option("split", split, ("random", "first"))
    automatic = isinstance(support, str) and support == "auto"
    if isinstance(support, str) and not automatic:
        raise ValueError(
            f"support must be a number of rows, a fraction or a list of numbers; got {support!r}, "
            "which leaves no rows to judge by."
        )
    shots = AUTO_SHOTS if automatic else support
    n_draws = n_draws if split == "random" else 1
    episodes = read_episodes(shots, split, n_draws, random_of(random_state))
    return replace(episodes, lenient=automatic)


def nothing_tells_tasks_apart(model, y, groups):
    """Whether all rows would count as one task."""
    return y is not None and groups is None and model.task_column is None
