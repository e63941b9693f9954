"""`MAMLRegressor` with rule, features and penalty chosen by cross-validation over tasks."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._component import Documented
from sklearn_maml._estimators.adapted import AdaptedRegressor
from sklearn_maml._estimators.adapted_tasks import AdaptedTasks
from sklearn_maml._estimators.defaults import judging_episodes
from sklearn_maml._estimators.fitting import (
    N_STAGES,
    episodes_of,
    expect_same,
    fit_rows,
    fit_searched,
)
from sklearn_maml._estimators.regressor import MAMLRegressor
from sklearn_maml._estimators.wholeness import all_or_nothing
from sklearn_maml._progress import (
    CallbackSupportMixin,
    refusing_overflow,
    report,
    stage,
    telling,
    with_callbacks,
)
from sklearn_maml._tasks.features import fit_featurizer
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
from sklearn_maml.model_selection.candidates import alike, read_candidates
from sklearn_maml.model_selection.scores import SameFeatures
from sklearn_maml.model_selection.splits import LEAVE_ONE_OUT, check_weights, task_splits

__all__ = ["MAMLRegressorCV"]

Grid = Mapping[str, Sequence[Any]]


class MAMLRegressorCV(CallbackSupportMixin, Documented, RegressorMixin, BaseEstimator):
    """`MAMLRegressor` with rule, features and penalty chosen by cross-validation over tasks.

    The scores are those of ``GridSearchCV(MAMLRegressor(loss="squared_error"), grid)``, the R2 of
    the query rows of the tasks left out, at a smaller cost. Of a rule that is given, such as the
    gradient steps of `inner_lrs` and `n_steps`, all `alphas` and folds take a few fits: the normal
    equations are sums over tasks, from which the folds are subtracted, and one reduction of a
    fold's serves all penalties. Leaving out one task after the other costs no more than that. Where
    the equations are too ill-conditioned, the exact solver fits the fold itself. A rule that is
    learned is learned for each fold anew; rows are read, features made and tasks split once for
    all candidates, a covariance by REML is found once for all penalties, and folds have neither
    certificate nor intervals.

    Parameters
    ----------
    inner_lrs : sequence of "auto" or float, default=None
        Candidates for `inner_lr`; None is "auto". For gradient steps: see `param_grid`.
    n_steps : sequence of int, default=None
        Candidates for `n_steps`; None is 1, 5 and 20.
    alphas : sequence of float, default=(0.0, 0.001, 0.01, 0.1)
        Candidates for `alpha`, with all others.
    param_grid : dict or list of dict, default=None
        Candidates for `adaptation` and `featurizer` and for their own parameters, by names as in
        `GridSearchCV`: ``{"adaptation": ["learned", Proximal(metric="diagonal")]}`` or
        ``{"featurizer__degree": [1, 2]}``. A dict that does not name `adaptation` is for gradient
        steps, and is crossed with `inner_lrs` and `n_steps`. With several dicts each is a grid of
        its own; None is one that names nothing.
    cv : int, "leave-one-task-out", splitter or iterable, default=5
        An int is that many folds of tasks: `KFold` for a list of tasks, `GroupKFold` for rows with
        labels. A splitter splits the tasks of a list, or rows, of which it must keep those of a
        task together; as it would in `GridSearchCV`. "leave-one-task-out" is for rules that are
        given.
    featurizer : transformer, default=None
        As in `MAMLRegressor`. Each that is tried is fitted once, to all rows, as are the
        coordinates in which ``inner_lr="auto"`` steps: neither should look at y, lest the scores
        flatter. One that cross-fits by task, such as `PooledPrediction`, may: a task that is left
        out is judged by predictions that saw none of its rows.
    fit_intercept : bool, default=True
    support : "auto", "all", int, float or list of int, default=0.5
        As in `MAMLRegressor`: how a task is split for fitting and for scoring. With "auto" and
        "all" it is scored at 1, 2, 3, 5 and 10 rows in turn, as in `MAMLRegressor.score`.
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
        Of `alpha`, `inner_lr` and `n_steps`, or what `param_grid` names.
    best_score_ : float
    best_index_ : int
    cv_results_ : dict of arrays
        As in `GridSearchCV`: ``params``, ``param_*``, ``split*_test_score``, ``mean_test_score``,
        ``std_test_score``, ``rank_test_score``; without times, as candidates share their work.
    n_splits_ : int
    coef_, intercept_ : ndarray, float or ndarray
        Those of `best_estimator_`.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressorCV, Proximal
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> model = MAMLRegressorCV(support=5, alphas=(0.0, 0.1), random_state=0).fit(tasks)
    >>> sorted(model.best_params_)
    ['alpha', 'inner_lr', 'n_steps']
    >>> model.cv_results_["mean_test_score"].shape
    (6,)
    >>> rules = [Proximal(metric="full"), Proximal(metric="diagonal", criterion="reml")]
    >>> grid = [{"adaptation": rules}, {}]  # and gradient steps
    >>> search = MAMLRegressorCV(param_grid=grid, alphas=[0.0], support=5, random_state=0)
    >>> search.fit(tasks).best_params_
    {'adaptation': Proximal(criterion='reml', metric='diagonal'), 'alpha': 0.0}
    """

    offset_column = None  # for the reader of rows: no parameter of this search

    # With metadata routing enabled, groups arrive without any set_fit_request.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lrs: Sequence[float | Literal["auto"]] | None = None,
        n_steps: Sequence[int] | None = None,
        alphas: Sequence[float] = (0.0, 0.001, 0.01, 0.1),
        *,
        param_grid: Grid | Sequence[Grid] | None = None,
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
        self.param_grid = param_grid
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
            If the data or a parameter are not as described, a parameter would have no effect, or
            a fold splits a task.
        """
        with telling(self, X, y, N_STAGES + 1), all_or_nothing(self):
            given = self.inner_lrs, self.n_steps, self.alphas, self._shared()
            candidates = read_candidates(self.param_grid, *given)
            _refuse_costly(self.cv, candidates)
            with stage("reading"):
                tables = self._read(candidates, X, y, groups, sample_weight)
            rows = next(iter(tables.values()))
            splits = task_splits(self.cv, rows)
            check_weights(splits, rows.tasks.weight)
            with stage("search"):
                scores, leader = self._search(candidates, tables, splits, self._judging(candidates))
            self.cv_results_ = _results([each.params for each in candidates], scores)
            self.best_index_ = int(self.cv_results_["rank_test_score"].argmin())
            best = candidates[self.best_index_]
            self.best_params_, self.n_splits_ = best.params, len(splits)
            self.best_score_ = float(self.cv_results_["mean_test_score"][self.best_index_])
            fitted = self.best_estimator_ = self._refit(best, leader)
            self.coef_, self.intercept_ = fitted.coef_, fitted.intercept_
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

    def _shared(self):
        """The parameters that all models have in common."""
        shared = self.get_params(deep=False)
        for name in ("inner_lrs", "n_steps", "alphas", "param_grid", "cv"):
            del shared[name]
        return shared

    def __sklearn_tags__(self):
        return MAMLRegressor(**self._shared()).__sklearn_tags__()

    def _read(self, candidates, X, y, groups, sample_weight):
        """`TaskRows` as features are made of them by a featurizer, or without one."""
        tables, reader = {}, copy(self)
        for candidate in candidates:
            reader.featurizer = candidate.model.featurizer
            plain = reader.featurizer is None
            if plain not in tables:  # it does not matter which featurizer it is
                tables[plain] = read_tasks(reader, X, y, groups, sample_weight, reset=True)
            tasks, ids = tables[plain].tasks, tables[plain].ids
            episodes_of(candidate.plan, tasks).check_sizes(tasks.sizes, names=ids)
            expect_same(candidate.model, reader)
        expect_same(self, reader)
        return tables

    def _judging(self, candidates):
        """How tasks are split to judge all candidates; None judges them as they are fitted."""
        plan = candidates[0].plan
        if plan.mixed or plan.episodes.support == "all":  # which would judge by rows adapted to
            return judging_episodes(replace(plan.episodes, support="all"), self.random_state)
        return None

    def _search(self, candidates, tables, splits, judging):
        """Scores (n_splits, n_candidates), and what is known of the best."""
        scores, leader = np.empty((len(splits), len(candidates))), None
        for members in alike(candidates, range(len(candidates)), "features"):
            featurizer = candidates[members[0]].model.featurizer
            rows = tables[featurizer is None]
            fitted = fit_featurizer(featurizer, rows.X, rows.tasks).kept(rows.X)
            same = SameFeatures(rows, fitted, self.fit_intercept, splits, judging)
            for numbers in alike(candidates, members, "batch"):
                first = candidates[numbers[0]]
                with refusing_overflow():
                    found, sums = _scored(same, [candidates[k] for k in numbers])
                    if np.isnan(found).any():
                        raise FloatingPointError("NaN among the scores")
                scores[:, numbers] = found
                mean = found.mean(axis=0)
                rank = (-mean.max(), numbers[mean.argmax()])  # of equal ones the first
                if leader is None or rank < leader.rank:  # what is kept of tasks is kept for one
                    leader = Leader(rank, same, sums)
                if first.given:  # the others have told of each of their folds
                    report(f"{first.told('alpha')}: R2 {mean.max():.6g}", self.verbose)
        return scores, leader

    def _refit(self, best, leader):
        """The model of the best candidate, the leader, fitted to all tasks."""
        given = best.model, best.plan, leader.same.rows, leader.same.featurizer
        if not best.given:
            fit_rows(*given)
            return best.model
        folds, objective, learned = leader.sums
        penalty = best.model.alpha * folds.penalised
        fit_searched(*given, objective.penalised(penalty, self.verbose), learned)
        return best.model


class Leader(NamedTuple):
    """The best candidate so far: minus its score and its number, and what is kept of its tasks."""

    rank: tuple
    same: SameFeatures
    sums: tuple


def _scored(same, candidates):
    """Scores (n_splits, n_candidates) of a batch, and the sums that they were made of, if any."""
    if not candidates[0].given:
        return same.learned(candidates), ()
    penalties = [candidate.params["alpha"] for candidate in candidates]
    alphas = list(dict.fromkeys(penalties))
    sums = folds, objective, _ = same.given(candidates[0], alphas)
    return folds.scores(objective)[:, [alphas.index(c) for c in penalties]], sums


def _refuse_costly(cv, candidates):
    """Raise where a rule would be learned once for each task."""
    if not (isinstance(cv, str) and cv == LEAVE_ONE_OUT):
        return
    for candidate in candidates:
        if not candidate.given:
            raise ValueError(
                f"cv={cv!r} is for rules that are given, whose sums over tasks serve all folds; "
                f"{candidate.plan.rule!r} would be fitted anew for each task. Use a number of "
                "folds, or a splitter if you want to wait: LeaveOneOut() for a list of tasks, "
                "LeaveOneGroupOut() for rows with labels."
            )


def _results(grid, scores):
    """`cv_results_` of test scores (n_splits, n_candidates)."""
    mean = scores.mean(axis=0)
    results = {"params": grid}
    for name in dict.fromkeys(name for candidate in grid for name in candidate):
        column = np.ma.masked_all(len(grid), dtype=object)  # as in `GridSearchCV`
        for k, candidate in enumerate(grid):
            if name in candidate:
                column[k] = candidate[name]
        results[f"param_{name}"] = column
    results |= {f"split{s}_test_score": row for s, row in enumerate(scores)}
    return results | {
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": rankdata(-mean, method="min").astype(np.int32),
    }
