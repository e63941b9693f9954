"""`MAMLRegressor` with inner loop and penalty chosen by cross-validation over tasks."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import (
    GroupKFold,
    ParameterGrid,
    check_cv,
)
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._component import Documented, check_number, random_of
from sklearn_maml._estimators.adapted import AdaptedRegressor
from sklearn_maml._estimators.adapted_tasks import AdaptedTasks
from sklearn_maml._estimators.defaults import gradient_rule, judging_episodes
from sklearn_maml._estimators.fitting import N_STAGES, expect_same, fit_searched
from sklearn_maml._estimators.plan import check_parameters, make_plan
from sklearn_maml._estimators.regressor import MAMLRegressor
from sklearn_maml._estimators.wholeness import all_or_nothing
from sklearn_maml._objective.quadratic import refuse_too_wide
from sklearn_maml._progress import CallbackSupportMixin, report, stage, telling, with_callbacks
from sklearn_maml._tasks.episodes import read_episodes
from sklearn_maml._tasks.features import check_featurizer, fit_featurizer
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.tables import read_tasks
from sklearn_maml._typing import (
    Column,
    Floats,
    PerRow,
    Random,
    Split,
    Support,
    Table,
    Tasks,
    Unknown,
)
from sklearn_maml.certificate.gap_certificate import GapCertificate
from sklearn_maml.model_selection.leave_tasks_out import Folds

__all__ = ["MAMLRegressorCV", "task_splits"]


class MAMLRegressorCV(CallbackSupportMixin, Documented, RegressorMixin, BaseEstimator):
    """`MAMLRegressor` with inner loop and penalty chosen by cross-validation over tasks.

    The scores are those of ``GridSearchCV(MAMLRegressor(loss="squared_error"), grid)``, the R2 of
    the query rows of the tasks left out, at the cost of a few fits for each pair of `inner_lrs`
    and `n_steps`, whatever the number of `alphas`: the normal equations are sums over tasks, from
    which the folds are subtracted, and one reduction of a fold's serves all penalties. Leaving out
    one task after the other costs no more than that. Where the equations are too ill-conditioned,
    the exact solver fits the fold itself.

    Parameters
    ----------
    inner_lrs : sequence of "auto" or float, default=("auto",)
        Candidates for `inner_lr`.
    n_steps : sequence of int, default=(1, 5, 20)
        Candidates for `n_steps`.
    alphas : sequence of float, default=(0.0, 0.001, 0.01, 0.1)
        Candidates for `alpha`.
    cv : int, "leave-one-task-out", splitter or iterable, default=5
        An int is that many folds of tasks: `KFold` for a list of tasks, `GroupKFold` for rows with
        labels. A splitter splits the tasks of a list, or rows, of which it must keep those of a
        task together; as it would in `GridSearchCV`.
    featurizer : transformer, default=None
        As in `MAMLRegressor`. It is fitted once, to all rows, as are the coordinates in which
        ``inner_lr="auto"`` steps: neither should look at y, lest the scores flatter. One that
        cross-fits by task, such as `PooledPrediction`, may: a task that is left out is judged by
        predictions that saw none of its rows.
    fit_intercept : bool, default=True
    support : "all", int, float or list of int, default=0.5
        As in `MAMLRegressor`: how a task is split for fitting and for scoring. With "all" it is
        scored at 1, 2, 3, 5 and 10 rows in turn, as in `MAMLRegressor.score`.
    split : {"random", "first"}, default="random"
    n_episodes : int, default=1
        Random draws are those of one fit to all tasks; in `GridSearchCV` each fold has its own.
    task_column : str or int, default=None
        Offsets are not for this search: put a `MAMLRegressor` with `offset_column` in a
        `GridSearchCV`.
    on_unknown_task : {"meta", "raise"}, default="meta"
    n_jobs : int, default=None
    random_state : int, RandomState or None, default=None
    verbose : int, default=0

    Attributes
    ----------
    best_estimator_ : MAMLRegressor
        Fitted with `best_params_` to all tasks.
    best_params_ : dict
        Of `inner_lr`, `n_steps` and `alpha`.
    best_score_ : float
    best_index_ : int
    cv_results_ : dict of arrays
        As in `GridSearchCV`: ``params``, ``param_*``, ``split*_test_score``, ``mean_test_score``,
        ``std_test_score``, ``rank_test_score``.
    n_splits_ : int
    coef_, intercept_ : ndarray, float or ndarray
        Those of `best_estimator_`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressorCV
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> model = MAMLRegressorCV(support=5, alphas=(0.0, 0.1), random_state=0).fit(tasks)
    >>> sorted(model.best_params_)
    ['alpha', 'inner_lr', 'n_steps']
    >>> model.cv_results_["mean_test_score"].shape
    (6,)
    """

    offset_column = None  # for the reader of rows: no parameter of this search

    # With metadata routing enabled, groups arrive without any set_fit_request.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lrs: Sequence[float | Literal["auto"]] = ("auto",),
        n_steps: Sequence[int] = (1, 5, 20),
        alphas: Sequence[float] = (0.0, 0.001, 0.01, 0.1),
        *,
        cv: Any = 5,
        featurizer: Any = None,
        fit_intercept: bool = True,
        support: Support = 0.5,
        split: Split = "random",
        n_episodes: int = 1,
        task_column: Column | None = None,
        on_unknown_task: Unknown = "meta",
        n_jobs: int | None = None,
        random_state: Random | None = None,
        verbose: int = 0,
    ) -> None:
        self.inner_lrs = inner_lrs
        self.n_steps = n_steps
        self.alphas = alphas
        self.cv = cv
        self.featurizer = featurizer
        self.fit_intercept = fit_intercept
        self.support = support
        self.split = split
        self.n_episodes = n_episodes
        self.task_column = task_column
        self.on_unknown_task = on_unknown_task
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Self:
        """Choose by cross-validation over tasks, then fit to all of them.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `MAMLRegressor.fit`. Without a list of tasks, labels are required.

        Returns
        -------
        self : MAMLRegressorCV

        Raises
        ------
        ValueError, TypeError
            If the data or a parameter are not as described, or a fold splits a task.
        """
        with telling(self, X, y, N_STAGES), all_or_nothing(self):
            check_featurizer(self.featurizer)
            grid = self._grid()
            check_parameters(self._model(grid[0]))
            with stage("reading"):
                rows = read_tasks(self, X, y, groups, sample_weight, reset=True)
            splits = task_splits(self.cv, rows)
            featurizer = fit_featurizer(self.featurizer, rows.X, rows.tasks)
            with stage("search"):
                self.cv_results_, objective = self._search(grid, rows, splits, featurizer)
            self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
            self.best_params_, self.n_splits_ = grid[self.best_index_], len(splits)
            self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
            best = self.best_estimator_ = self._model(self.best_params_)
            expect_same(best, self)
            fit_searched(best, make_plan(best), rows, featurizer, objective)
            self.coef_, self.intercept_ = best.coef_, best.intercept_
        return self

    def predict(self, X: Table, *, groups: PerRow = None) -> Floats:
        """Predict by the best estimator; see `MAMLRegressor.predict`."""
        check_is_fitted(self)
        return self.best_estimator_.predict(X, groups=groups)

    def adapt(self, X: Table, y: ArrayLike, *, sample_weight: PerRow = None) -> AdaptedRegressor:
        """Learn a new task; see `MAMLRegressor.adapt`."""
        check_is_fitted(self)
        return self.best_estimator_.adapt(X, y, sample_weight=sample_weight)

    def adapt_tasks(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> AdaptedTasks[AdaptedRegressor]:
        """Learn many new tasks at once; see `MAMLRegressor.adapt_tasks`."""
        check_is_fitted(self)
        return self.best_estimator_.adapt_tasks(X, y, groups=groups, sample_weight=sample_weight)

    def score(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> float:
        """R2 of query rows after adapting; see `MAMLRegressor.score`."""
        check_is_fitted(self)
        return self.best_estimator_.score(X, y, groups=groups, sample_weight=sample_weight)

    def certify(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> GapCertificate | None:
        """Certify the meta-parameters on other tasks; see `MAMLRegressor.certify`."""
        check_is_fitted(self)
        return self.best_estimator_.certify(X, y, groups=groups, sample_weight=sample_weight)

    def _model(self, candidate):
        shared = self.get_params(deep=False)
        for name in ("inner_lrs", "n_steps", "alphas", "cv"):
            del shared[name]
        return MAMLRegressor(**shared, **candidate)

    def __sklearn_tags__(self):
        return self._model({}).__sklearn_tags__()

    def _grid(self):
        """All candidates, in the order of `GridSearchCV`."""
        values = {"inner_lr": self.inner_lrs, "n_steps": self.n_steps, "alpha": self.alphas}
        for name, candidates in values.items():
            if isinstance(candidates, str) or np.ndim(candidates) != 1 or len(candidates) == 0:
                raise ValueError(
                    f"{name} needs a sequence of candidates, one or more; got {candidates!r}."
                )
        for alpha in self.alphas:
            check_number("each of alphas", alpha)
        return list(ParameterGrid({name: list(values[name]) for name in values}))

    def _search(self, grid, rows, splits, featurizer):
        """The results of all candidates, and the meta-objective of the best, of all tasks."""
        random = random_of(self.random_state)
        episodes = read_episodes(self.support, self.split, self.n_episodes, random)
        episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
        features = featurizer.training_features(rows.X, self.fit_intercept)
        blocks = judged = Blocks(rows.tasks, features, episodes)
        refuse_too_wide(blocks, products=True)
        if episodes.support == "all":  # which would judge by the rows that were adapted to
            judged = Blocks(rows.tasks, features, judging_episodes(episodes, self.random_state))
        folds = Folds(blocks, splits, list(self.alphas), self.n_jobs, judged)
        scores, most, leading = np.empty((len(splits), len(grid))), -np.inf, {}
        for loop in dict.fromkeys(_loop_of(candidate) for candidate in grid):
            at = [_loop_of(candidate) == loop for candidate in grid]
            objective = folds.objective(gradient_rule(*loop, blocks))
            found = folds.scores(objective)
            # A candidate that is given twice has two columns, side by side.
            scores[:, at] = np.repeat(found, sum(at) // found.shape[1], axis=1)
            best = scores[:, at].mean(axis=0).max()
            if best > most:  # what is kept of the tasks is kept for one inner loop
                most, leading = best, {loop: objective}
            report(f"inner_lr={loop[0]}, n_steps={loop[1]}: R2 {best:.6g}", self.verbose)
        results = _results(grid, scores)
        best = grid[results["rank_test_score"].argmin()]
        objective = leading.get(_loop_of(best))
        if objective is None:  # as good as the leading one, and first in the grid
            objective = folds.objective(gradient_rule(*_loop_of(best), blocks))
        return results, objective.penalised(best["alpha"] * folds.penalised, self.verbose)


def _loop_of(candidate):
    return candidate["inner_lr"], candidate["n_steps"]


def task_splits(cv, rows):
    """Folds of tasks, as `GridSearchCV` would make them.

    Parameters
    ----------
    cv : int, "leave-one-task-out", splitter or iterable
    rows : TaskRows

    Returns
    -------
    list of (train, test)
        Boolean arrays of shape (n_tasks,).

    Raises
    ------
    ValueError
        If there are not two tasks or more, or a task is on both sides of a split.
    """
    n_tasks = len(rows.ids)
    if n_tasks < 2:
        raise ValueError(
            f"Cross-validation over tasks needs at least two of them; got {n_tasks}. Pass a list "
            "of (X, y) tuples, or all rows with groups= or task_column=."
        )
    if isinstance(cv, str):
        if cv != "leave-one-task-out":
            raise ValueError(
                f"cv must be an int, 'leave-one-task-out', a splitter or an iterable; got {cv!r}."
            )
        order = rows.ids.argsort() if rows.named else slice(None)  # that of `LeaveOneGroupOut`
        return [(~task, task) for task in np.eye(n_tasks, dtype=bool)[order]]
    codes = rows.codes if rows.named else np.arange(n_tasks)
    if rows.named and isinstance(cv, Integral):
        cv = GroupKFold(cv)
    elif isinstance(cv, Iterable) and getattr(cv, "ndim", 1):
        cv = list(cv)
        if any(not isinstance(split, tuple | list) or len(split) != 2 for split in cv):
            raise ValueError(f"cv must hold pairs (train, test) of indices; got {cv!r}.")
    splits = []
    given = {"groups": rows.ids[codes]} if rows.named else {}
    for sides in check_cv(cv).split(np.zeros((len(codes), 1)), **given):
        masks = _sides(sides, codes, n_tasks, len(splits))
        torn = masks[0] & masks[1]
        if torn.any():
            raise ValueError(
                f"cv puts rows of task {rows.ids[torn.argmax()]} into both train and test; use a "
                "splitter that keeps groups together, such as GroupKFold."
            )
        splits.append(masks)
    if not splits:
        raise ValueError(f"cv has no splits; got {cv!r}.")
    return splits


def _sides(sides, codes, n_tasks, number):
    """Which tasks are in train and which in test, of one split that cv yields: two masks."""
    masks = []
    for name, side in zip(("train", "test"), sides, strict=True):
        try:
            members = codes[np.asarray(side, dtype=None if len(side) else np.intp)]
        except (IndexError, TypeError, ValueError):
            raise ValueError(
                f"cv: the {name} indices of split {number} must be positions among the "
                f"{len(codes)} that are split; got {side!r}."
            ) from None
        if len(members) == 0:
            raise ValueError(f"cv leaves no task in {name} of split {number}; use another cv.")
        masks.append(np.bincount(members, minlength=n_tasks) > 0)
    return tuple(masks)


def _results(grid, scores):
    """`cv_results_` of test scores (n_splits, n_candidates)."""
    mean = scores.mean(axis=0)
    results = {"params": grid}
    for name in grid[0]:
        column = np.empty(len(grid), dtype=object)
        column[:] = [candidate[name] for candidate in grid]
        results[f"param_{name}"] = column
    results |= {f"split{s}_test_score": row for s, row in enumerate(scores)}
    return results | {
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": rankdata(-mean, method="min").astype(np.int32),
    }
