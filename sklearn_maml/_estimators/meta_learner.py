"""What `MAMLRegressor` and `MAMLClassifier` share: fitting, adapting, certifying."""

from abc import ABCMeta, abstractmethod
from copy import copy

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._component import check_number, resolve
from sklearn_maml._estimators.adapted import AdaptedTasks, adapter
from sklearn_maml._estimators.defaults import (
    AUTO_EPISODES,
    AUTO_ROWS,
    choose_solver,
    choose_support,
    gradient_rule,
)
from sklearn_maml._estimators.prediction import (
    check_targets,
    feature_names_of,
    features_of,
    join_theta,
    linear,
    linear_by_task,
    objective_of,
    objective_on,
    query_predictions,
    response,
    split_theta,
    theta_of,
    truth_of,
    warn_if_diverging,
)
from sklearn_maml._learning.problem import LearningProblem
from sklearn_maml._objective.parallel import one_blas_thread
from sklearn_maml._progress import (
    CallbackSupportMixin,
    check_overflow,
    ended,
    refusing_overflow,
    started,
    with_callbacks,
)
from sklearn_maml._tasks.episodes import Episodes, read_episodes
from sklearn_maml._tasks.features import check_featurizer, fit_featurizer
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.tables import in_cross_validation, read_tasks, warn_of_single_task
from sklearn_maml.adaptation import RULES
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.certificate.certify import certify, check_effort
from sklearn_maml.solvers import SOLVERS
from sklearn_maml.solvers.solver import Solver

__all__ = ["MetaLearner"]


class MetaLearner(CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta):
    """Base class of the estimators; a subclass says which loss, and predicts and scores.

    It has the parameters of `MAMLClassifier`, and reads y as classes if it is a classifier.
    """

    # With metadata routing enabled, groups arrive without any set_fit_request.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    @abstractmethod
    def _make_loss(self):
        """The loss, checked."""

    @with_callbacks
    def fit(self, X, y=None, *, groups=None, sample_weight=None):
        """Find the meta-parameters.

        Parameters
        ----------
        X : list of (X_t, y_t) or (X_t, y_t, weight_t), or array-like of shape (n_rows, n_features)
            One tuple a task; `weight_t` holds one weight a row, or is a number, the task's weight.
            Or all rows in one table (array, CSR or CSC matrix, DataFrame), with `y` and `groups`.
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
        """
        context = started(self, X, y)
        for name in ("coef_", "inner_lr_", "capped_share_"):
            vars(self).pop(name, None)  # no model of mixed parts, also after a fit that fails
        self.loss_ = self._make_loss()
        rule = self._given_rule()
        solver = self._make_solver(rule)
        support, mixed = choose_support(self.support, rule)
        self._episodes = read_episodes(support, self.split, self.n_episodes, self.random_state)
        check_featurizer(self.featurizer)
        rows = read_tasks(self, X, y, groups, sample_weight, reset=True)
        self.loss_.check_targets(rows.tasks.y)
        if mixed:
            self._episodes = self._episodes.adjusted(
                AUTO_EPISODES, AUTO_ROWS, len(rows.ids), int(rows.tasks.offsets[-1])
            )
        self._unlabelled = y is not None and not rows.named
        self._warn_of_lost_groups(len(rows.tasks.y))
        self._episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
        told = truth_of(self, rows.tasks.y)
        self.featurizer_ = fit_featurizer(self.featurizer, rows.X, rows.tasks, told)
        blocks = Blocks(rows.tasks, features_of(self, rows.X), self._episodes)
        with refusing_overflow(), one_blas_thread():  # once, for all passes over the data
            if rule is None:
                rule = gradient_rule(self.inner_lr, self.n_steps, blocks)
            names = feature_names_of(self)
            problem = LearningProblem(objective_of(self, blocks, rule), solver, names)
            rule, self.learned_ = rule.learn(problem)
            objective = objective_of(self, blocks, rule)
            result = solver.minimize(objective, objective.origin())
            self.meta_loss_, self.gap_certificate_ = _certified(
                objective, result.theta, self.certificate
            )
            self.adaptation_ = rule.calibrate(LearningProblem(objective, solver), result.theta)
        self.task_ids_, self.n_tasks_, self.n_iter_ = rows.ids, len(rows.ids), result.n_iter
        self.coef_, self.intercept_ = split_theta(result.theta, self.fit_intercept)
        self.meta_losses_ = np.array(result.values)
        self._report_steps(objective)
        self._keep_tasks(objective, rows)
        ended(self, context, X, y)
        return self

    def adapt(self, X, y, *, sample_weight=None):
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
        if self._unlabelled:
            warn_of_single_task("The model adapts from a fit in which all rows were one task.", 2)
        return adapter(self._frozen()).fit(X, y, sample_weight=sample_weight)

    def adapt_tasks(self, X, y=None, *, groups=None, sample_weight=None):
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
        if y is not None and not rows.named:
            raise ValueError(
                "adapt_tasks got rows without labels; pass groups=, set task_column=, or pass a "
                "list of (X, y) tuples. For the rows of one task use adapt."
            )
        check_targets(self, rows.tasks.y)
        objective = objective_of(self, Blocks(rows.tasks, features_of(self, rows.X), Episodes()))
        if self.adaptation_.lengths is not None:
            (diverging,) = objective.relative_step_shares((2.0,))
            warn_if_diverging(self.adaptation_, diverging, stacklevel=3)
        with refusing_overflow():
            theta, information = objective.adapted(theta_of(self))
            check_overflow(theta)
        return AdaptedTasks(self._frozen(), rows.ids, theta, information)

    def certify(self, X, y=None, *, groups=None, sample_weight=None):
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
            return _certified(objective, theta_of(self), self.certificate or "fast")[1]

    def _linear(self, X, groups):
        """Predictions before the link: of known tasks by their own parameters."""
        check_is_fitted(self)
        if self.task_column is None and groups is None:
            return linear(self, X, self.coef_, self.intercept_)
        if self.task_coef_ is None:
            raise ValueError(
                "predict got groups, but the model knows no task by name: it was fitted on a list "
                "of tasks or without groups. Fit it with groups= or task_column=, or call "
                "adapt_tasks on some rows of these tasks."
            )
        theta = join_theta(self.task_coef_, self.task_intercept_, self.fit_intercept)
        return linear_by_task(self, X, groups, self._known, theta)

    def _score(self, metric, X, y, groups, sample_weight):
        """A metric of query rows after adapting; or of the rows as they are, without tasks."""
        check_is_fitted(self)
        if y is not None and groups is None and self.task_column is None:
            return metric(y, self.predict(X), sample_weight=sample_weight)
        truth, z, weight, _ = query_predictions(self, X, y, groups, sample_weight, self._episodes)
        return metric(truth_of(self, truth), response(self, z), sample_weight=weight)

    def _warn_of_lost_groups(self, n_rows):
        """Warn where cross-validation kept the groups to itself."""
        if self._unlabelled and in_cross_validation():
            warn_of_single_task(
                f"{type(self).__name__} sees all {n_rows} rows as one task: cross-validation "
                "passed no groups on to it.",
                stacklevel=4,
            )

    def _keep_tasks(self, objective, rows):
        """Store the parameters of named tasks, adapted to all of their rows."""
        self.task_coef_ = self.task_intercept_ = self._information = None
        self._known = {}
        if rows.named:
            # With the rule that knows the noise, and the rows that are kept.
            objective = objective_of(self, objective.blocks.unsplit())
            theta, self._information = objective.adapted(theta_of(self))
            self.task_coef_, self.task_intercept_ = split_theta(theta, self.fit_intercept)
            self._known = {label: i for i, label in enumerate(rows.ids)}

    def _frozen(self):
        """A fitted copy that later changes leave as it is, and that names no training task."""
        frozen = copy(self)
        frozen.coef_, frozen.intercept_ = self.coef_.copy(), copy(self.intercept_)
        frozen.task_ids_ = frozen.task_coef_ = frozen.task_intercept_ = frozen._information = None
        frozen._known = {}
        return FrozenEstimator(frozen)

    def _make_solver(self, rule):
        check_number("alpha", self.alpha)
        check_effort(self.certificate)
        if not isinstance(self.verbose, bool):
            check_number("verbose", self.verbose)
        if not isinstance(self.fit_intercept, bool | np.bool_):
            raise TypeError(f"fit_intercept must be True or False; got {self.fit_intercept!r}.")
        if self.on_unknown_task not in ("meta", "raise"):
            raise ValueError(
                f"on_unknown_task must be 'meta' or 'raise'; got {self.on_unknown_task!r}."
            )
        solver = self.solver
        if isinstance(solver, str) and solver == "auto":
            solver = choose_solver(self.loss_, rule)
        return resolve(solver, SOLVERS, Solver, "solver")

    def _given_rule(self):
        """The rule that `adaptation` names or is, or None."""
        if np.ndim(self.inner_lr):
            raise TypeError(
                "inner_lr must be a positive number or 'auto'; for one a parameter pass "
                f"adaptation=GradientSteps(inner_lr=...); got {self.inner_lr!r}."
            )
        if self.adaptation is None:
            return None
        automatic = isinstance(self.inner_lr, str) and self.inner_lr == "auto"
        if not automatic or self.n_steps != 1:
            raise ValueError(
                f"inner_lr={self.inner_lr!r} and n_steps={self.n_steps!r} have no effect "
                "with adaptation=...; set them on the adaptation rule instead."
            )
        return clone(resolve(self.adaptation, RULES, AdaptationRule, "adaptation"))

    def _report_steps(self, objective):
        """Store how many steps were capped, and warn where uncapped steps diverge."""
        rule = self.adaptation_
        if rule.lengths is not None:
            self.inner_lr_, is_capped = rule.lengths
            capped, diverging = objective.relative_step_shares((1.0, 2.0))
            self.capped_share_ = capped if is_capped else 0.0
            warn_if_diverging(rule, diverging, stacklevel=5)

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


def _certified(objective, theta, effort):
    """The meta-loss and the certificate; one that is no number shows a fit not to be trusted."""
    certificate = certify(objective, theta, effort)
    if certificate is None:
        value = objective.value(theta)
        check_overflow([value, *theta.flat])
        return value, None
    check_overflow([certificate.meta_loss, certificate.bound, *theta.flat])
    return certificate.meta_loss, certificate
