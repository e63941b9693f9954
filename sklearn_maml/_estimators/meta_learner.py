"""What `MAMLRegressor` and `MAMLClassifier` share: fitting, adapting, certifying."""

from abc import ABCMeta, abstractmethod
from copy import copy
from inspect import signature
from typing import Generic, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OneToOneFeatureMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._component import Documented
from sklearn_maml._estimators.adapted import AdaptedT, adapter
from sklearn_maml._estimators.adapted_tasks import AdaptedTasks
from sklearn_maml._estimators.defaults import scoring_episodes
from sklearn_maml._estimators.fitting import N_STAGES, certified, fit_rows
from sklearn_maml._estimators.intervals import calibrated_on
from sklearn_maml._estimators.objectives import (
    objective_of,
    objective_on,
    query_predictions,
    with_offsets,
)
from sklearn_maml._estimators.plan import make_plan
from sklearn_maml._estimators.prediction import (
    check_targets,
    features_of,
    join_theta,
    linear,
    response,
    rows_by_task,
    rows_of_one,
    takes_uncapped_steps,
    theta_of,
    truth_of,
    warn_if_diverging,
)
from sklearn_maml._estimators.stored import write_model
from sklearn_maml._estimators.task_effects import TaskEffects, task_effects
from sklearn_maml._estimators.wholeness import all_or_nothing
from sklearn_maml._progress import (
    CallbackSupportMixin,
    check_overflow,
    refusing_overflow,
    stage,
    telling,
    with_callbacks,
)
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.labels import TaskIndex
from sklearn_maml._tasks.single_task import warn_of_lost_tasks, warn_of_single_task
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.tables import read_tasks
from sklearn_maml._typing import Path, PerRow, Table, Tasks
from sklearn_maml.certificate.gap_certificate import GapCertificate

__all__ = ["MetaLearner"]


class MetaLearner(
    CallbackSupportMixin, Documented, BaseEstimator, Generic[AdaptedT], metaclass=ABCMeta
):
    """Base class of the estimators; a subclass says which loss, and predicts and scores.

    It has the parameters of `MAMLClassifier`, and reads y as classes if it is a classifier.
    """

    # With metadata routing enabled, groups arrive without any set_fit_request.
    __metadata_request__fit = {"groups": True}
    __metadata_request__partial_fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    @abstractmethod
    def _make_loss(self):
        """The loss, checked."""

    @with_callbacks
    def fit(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Self:
        """Find the meta-parameters.

        Parameters
        ----------
        X : list of (X_t, y_t) or (X_t, y_t, weight_t), or array-like of shape (n_rows, n_features)
            One tuple a task; `weight_t` holds one weight a row, or is a number, the task's weight.
            Or all rows in one table (array, CSR or CSC matrix, DataFrame), with `y` and `groups`.
            With tasks and an intercept there need be no feature: intercepts alone then differ.
        y : array-like of shape (n_rows,) or (n_rows, n_targets), default=None
            Numbers; for a classifier class labels of any type, one a row. None for a list of tasks.
        groups : array-like of shape (n_rows,), default=None
            The task of each row: hashable labels in any order. None with `task_column`, or if
            all rows are one task.
        sample_weight : array-like of shape (n_rows,), default=None
            What a row counts within its task; tasks count the same whatever their rows weigh.
            With a list of tasks: of shape (n_tasks,), what a task counts.

        Returns
        -------
        self : MAMLRegressor or MAMLClassifier

        Raises
        ------
        ValueError, TypeError
            If the data or a parameter are not as described, or a classifier gets fewer than two
            classes; the message names it.

        Notes
        -----
        A fit that fails, or is interrupted, leaves no model: neither that of an earlier fit nor
        parts of this one.
        """
        with telling(self, X, y, N_STAGES + (self.pooled is not None)), all_or_nothing(self):
            plan = make_plan(self)
            with stage("reading"):
                rows = read_tasks(self, X, y, groups, sample_weight, reset=True)
            warn_of_lost_tasks(type(self).__name__, rows, plan.learns)
            fit_rows(self, plan, rows)
        return self

    def adapt(self, X: Table, y: ArrayLike, *, sample_weight: PerRow = None) -> AdaptedT:
        """Learn a new task from its support rows; the model itself is unchanged.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
            The task's rows, one or more.
        y : array-like of shape (m,) or (m, n_targets)
            For a classifier labels among ``classes_``; some of them, or only one, will do.
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        AdaptedRegressor or AdaptedClassifier
            Fitted, from the meta-parameters.
        """
        check_is_fitted(self)
        if self._untold:
            warn_of_single_task("The model adapts from a fit in which all rows were one task.")
        return adapter(self._frozen()).fit(X, y, sample_weight=sample_weight)

    def adapt_tasks(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> AdaptedTasks[AdaptedT]:
        """Learn many new tasks at once; the model itself is unchanged.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`: a list of tasks, or rows with labels in `groups` or in the task column.

        Returns
        -------
        AdaptedTasks
            A mapping from a task's label to what `adapt` returns, with a vectorised ``predict``
            and, for a classifier, ``predict_proba``.

        Raises
        ------
        ValueError
            If there is nothing to tell tasks apart by.
        """
        check_is_fitted(self)
        rows = read_tasks(self, X, y, groups, sample_weight)
        if rows.untold:
            raise ValueError(
                "adapt_tasks got rows without labels; pass groups=, set task_column=, or pass a "
                "list of (X, y) tuples. For the rows of one task use adapt."
            )
        check_targets(self, rows.tasks.y)
        tasks = with_offsets(self, rows)
        objective = objective_of(self, Blocks(tasks, features_of(self, rows.X), Episodes()))
        if takes_uncapped_steps(self.adaptation_):
            (diverging,) = objective.relative_step_shares((2.0,))
            warn_if_diverging(self.adaptation_, diverging)
        with refusing_overflow():
            theta, information = objective.adapted(theta_of(self))
            check_overflow(theta)
        n_rows = rows.tasks.n_rows
        return AdaptedTasks(self._frozen(), rows.ids, theta, information, n_rows=n_rows)

    def recalibrate(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Self:
        """The same model with intervals, or label sets, that are calibrated on other tasks.

        For these the guarantee is exact: theta and the rule know nothing of them. Probabilities of
        classes stay as they are.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`: tasks that the model was not fitted to.

        Returns
        -------
        MAMLRegressor or MAMLClassifier
            A fitted copy; the model itself is unchanged.

        Raises
        ------
        ValueError
            If no task has a row to spare for being predicted.
        """
        check_is_fitted(self)
        episodes = scoring_episodes(self._episodes, self._judging)
        objective = objective_on(self, X, y, groups, sample_weight, episodes)
        other = copy(self)
        with refusing_overflow():
            other.calibration_ = calibrated_on(self, objective)
        return other

    def random_effects(self) -> TaskEffects:
        """By how much each task of the fit differs from the meta-parameters, and how surely.

        lme4's ``ranef(condVar = TRUE)``, about the meta-parameters. Standard errors take these,
        the covariance of the random effects and the residual variance for known: that of the mixed
        model, `learned_.residual_variance`, where one was learned, else that of
        ``predict(return_std=True)``; times a task's share with a `task_noise`. For
        other losses than the squared one they are by Laplace's approximation, about the task's
        parameters. With first rows as support, deviations hold what `Proximal` learned of where
        tasks start from, too.

        Returns
        -------
        TaskEffects
            A table: of each task, the deviation of each effect that may differ between tasks from
            the meta-parameters, in the units of ``coef_``, with its standard error.

        Raises
        ------
        ValueError
            If tasks have no names, the rule does not know how tasks vary, as gradient steps do
            not, or the loss leaves the variance of its rows open.
        """
        check_is_fitted(self)
        if self.task_coef_ is None:
            raise ValueError(
                "random_effects knows no task by name: the model was fitted on a list of tasks or "
                "without groups. Fit it with groups= or task_column=, or call "
                "adapt_tasks(...).random_effects() with the rows of these tasks."
            )
        return task_effects(self, self.task_ids_, self._task_theta(), self._information)

    def save(self, path: Path) -> None:
        """Write the fitted model to a small file of numbers and text, for `load_model`.

        The file holds what `adapt`, `predict`, `score` and `random_effects` need: the
        meta-parameters, the rule, the noise, and names and parameters of the training tasks; none
        of their rows, no code and no pickle. Models of a few features take kilobytes, and as much
        again as the parameters of the named tasks.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, once all is written; ``.npz`` is the usual ending, and is not
            added.

        Raises
        ------
        TypeError
            If the model holds something that is code: a featurizer, a loss, a rule or a solver of
            one's own, a `RandomState`; or labels of tasks that are neither text nor numbers. Such
            models are stored by skops, or pickle.
        """
        check_is_fitted(self)
        write_model(self, path)

    def certify(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> GapCertificate | None:
        """Certify the meta-parameters on other tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`.

        Returns
        -------
        GapCertificate
            How far the meta-loss on these tasks is from its minimum over all meta-parameters.
        """
        check_is_fitted(self)
        objective = objective_on(self, X, y, groups, sample_weight, self._episodes)
        with refusing_overflow():
            effort = self.certificate or "fast"
            return certified(objective, theta_of(self), effort, self.learned_)[1]

    def _rows(self, X, groups):
        """Rows that are to be predicted: of known tasks with their own parameters."""
        check_is_fitted(self)
        if self.task_column is None and groups is None:
            return rows_of_one(self, X, theta_of(self))
        if self.task_coef_ is None:
            raise ValueError(
                "predict got groups, but the model knows no task by name: it was fitted on a list "
                "of tasks or without groups. Fit it with groups= or task_column=, or call "
                "adapt_tasks on some rows of these tasks."
            )
        return rows_by_task(self, X, groups, self._known, self._task_theta())

    def _rows_and_sizes(self, X, groups):
        """The same, and how many rows known tasks were adapted to; None where none is asked for."""
        rows = self._rows(X, groups)
        return rows, None if rows.at is None else self._n_rows

    def _task_theta(self):
        """The parameters of known tasks, the intercept last."""
        return join_theta(self.task_coef_, self.task_intercept_, self._has_intercept)

    def _linear(self, X, groups):
        """Predictions before the link."""
        return linear(self, self._rows(X, groups))

    def _score(self, metric, X, y, groups, sample_weight):
        """A metric of query rows after adapting; or of the rows as they are, without tasks."""
        check_is_fitted(self)
        if y is not None and groups is None and self.task_column is None:
            return metric(y, self.predict(X), sample_weight=sample_weight)
        truth, z, weight, *_ = query_predictions(self, X, y, groups, sample_weight, self._judging)
        return metric(truth_of(self, truth), response(self, z), sample_weight=weight)

    def _frozen(self):
        """A fitted copy that later changes leave as it is, and that names no training task."""
        frozen = copy(self)
        frozen.coef_, frozen.intercept_ = self.coef_.copy(), copy(self.intercept_)
        frozen.task_ids_ = frozen.task_coef_ = frozen.task_intercept_ = None
        frozen._information = frozen._n_rows = None
        frozen._known = TaskIndex()
        return FrozenEstimator(frozen)

    def __setstate__(self, state):
        # A model that was stored before a parameter was there has its default, and one from before
        # intervals were calibrated has no calibration.
        parameters = signature(type(self)).parameters.values()
        before = {p.name: p.default for p in parameters}
        if "coef_" in state:
            named = state["task_coef_"] is not None
            before["calibration_"] = None
            before["_n_rows"] = np.zeros(len(state["task_coef_"])) if named else None
        super().__setstate__(before | state)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coef_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        if self.featurizer is not None:
            given = get_tags(self.featurizer).input_tags
            for fact in ("sparse", "string", "categorical"):
                setattr(tags.input_tags, fact, getattr(given, fact))
            # A scaler that lets NaN through column by column hands it on to the regression.
            passes_on = isinstance(self.featurizer, OneToOneFeatureMixin)
            tags.input_tags.allow_nan = given.allow_nan and not passes_on
        return tags
