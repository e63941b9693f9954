"""The estimators: they validate, assemble the parts and store what comes out."""

import warnings
from copy import copy

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import r2_score
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._adapted import (
    AdaptedRegressor,
    AdaptedTasks,
    deviations_of_rows,
    join_theta,
    predict_rows,
    split_theta,
    uncertainty_of,
)
from sklearn_maml._blocks import Blocks, Episodes, Features, check_phi, read_episodes
from sklearn_maml._choices import AUTO_EPISODES, choose_solver, choose_support, gradient_rule
from sklearn_maml._component import check_number, resolve
from sklearn_maml._objective import MetaObjective, Risk
from sklearn_maml._overflow import check_overflow, refusing_overflow
from sklearn_maml._progress import CallbackSupportMixin, ended, started, with_callbacks
from sklearn_maml._rows import (
    check_featurizer,
    check_y,
    fit_featurizer,
    in_cross_validation,
    positions_of,
    read_labels,
    read_one_task,
    read_rows,
    read_tasks,
    warn_of_single_task,
)
from sklearn_maml._stacked import one_blas_thread
from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.certificate import certify
from sklearn_maml.losses import LOSSES, Loss
from sklearn_maml.proximal import RULES
from sklearn_maml.solvers import SOLVERS, Solver

__all__ = ["MAMLRegressor"]


class MAMLRegressor(CallbackSupportMixin, RegressorMixin, BaseEstimator):
    """Few-shot regression: meta-parameters from which a new task is learned with a few rows.

    Every task i (a patient, a store, a school) has its own parameters ``theta_i``, reached from
    the meta-parameters ``theta`` by a few gradient steps on the task's support rows. `fit`
    finds the theta whose adapted parameters predict the tasks' query rows best,

    ``L(theta) = sum_i p_i sum_j b_ij l(phi(x_ij)' theta_i, y_ij) + alpha ||coef||^2``,

    and with the squared loss it finds the global minimum, in closed form. `gap_certificate_`
    bounds how far L(theta) is from it.

    Parameters
    ----------
    inner_lr : "auto" or float, default="auto"
        Length eta of the inner gradient steps. A number is the step of the papers, on every
        parameter, capped task by task at 1 / the largest eigenvalue of the support risk's Hessian
        (see `GradientSteps`). "auto" steps in standardised features, 16 times as far for the
        intercept, and as far in each task as leaves 10 percent of theta along the steepest
        direction after all steps; it does not depend on units.
    n_steps : int, default=1
        Number of inner steps; 0 is pooled regression.
    featurizer : transformer, default=None
        phi: any scikit-learn transformer or pipeline of them. It is cloned and fitted on all rows;
        wrap a fitted one in ``sklearn.frozen.FrozenEstimator``. None uses the columns of X.
    loss : str or Loss, default="squared_error"
        A key of ``sklearn_maml.losses.LOSSES`` or an instance.
    adaptation : str or AdaptationRule, default=None
        Replaces the rule made of `inner_lr` and `n_steps`, which must then be at their defaults.
        "learned" learns from the tasks how they differ: ``Proximal()``, the recommended choice for
        data in groups.
    solver : str or Solver, default="auto"
        "auto" chooses the exact solver for the squared loss, Gauss-Newton for other losses, and
        gradient descent for a first-order rule.
    alpha : float, default=0.0
        Ridge penalty on the meta-parameters in feature space, the intercept excepted.
    fit_intercept : bool, default=True
        Whether to add a constant feature; it is adapted like the others, and not penalised.
    support : "auto", "all", int, float or list of int, default="auto"
        What a task adapts to while fitting: "all" rows, which are then also the query rows; that
        many rows; a fraction of them; or each number of rows in turn. The remaining rows are
        the query. Choose what deployment will look like. "auto" is "all", but 1, 2, 3, 5 and 10
        rows in turn for a rule that is learned, as far as a task has them, with up to 20 random
        splits of each task where tasks are few.
    split : {"random", "first"}, default="random"
        Which rows are the support: drawn at random, or a task's first rows, for ordered data.
    n_episodes : int, default=1
        Random splits per task (and per number of rows); the least number for support="auto".
    task_column : str or int, default=None
        The column of X that holds the task labels, by name or by position. It is taken out of X
        before features are made, and replaces `groups` in every method; so it works wherever
        scikit-learn passes X alone.
    on_unknown_task : {"meta", "raise"}, default="meta"
        What `predict` does with rows of a task that was not seen in `fit`: predict them with the
        meta-parameters, or raise a KeyError.
    n_jobs : int, default=None
        Workers for blocks of tasks, as in joblib. It does not change the result in any bit.
    random_state : int, RandomState or None, default=None
        For random splits.
    verbose : int, default=0
        Whether to report the meta-loss at each evaluation: to the logger "sklearn_maml" at level
        INFO, or printed where logging is not configured.

    Attributes
    ----------
    coef_ : ndarray of shape (n_phi,) or (n_targets, n_phi)
        Meta-parameters in feature space.
    intercept_ : float or ndarray of shape (n_targets,)
    featurizer_ : transformer or None
        The fitted featurizer.
    adaptation_ : AdaptationRule
        The rule in use, with what was learned of it.
    learned_ : LearnedMetric or None
        What was learned of the rule, and how; print it.
    inner_lr_ : float
        The step length in use, before the cap; for "auto" in units of 1 / the largest eigenvalue
        of each task's Hessian in standardised features. Present for rules that have one.
    capped_share_ : float
        The share of tasks (by weight) whose step was capped. Present for rules that have a cap.
    n_tasks_ : int
    task_ids_ : ndarray of shape (n_tasks,)
        The labels of the tasks, in order of appearance; positions, for a list of tasks.
    task_coef_ : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_targets, n_phi), or None
        The parameters of each task, adapted to all of its rows. None where tasks are not named:
        after fitting a list of tasks, or rows without labels.
    task_intercept_ : ndarray of shape (n_tasks,) or (n_tasks, n_targets), or None
    n_iter_ : int
        Iterations of the solver.
    meta_loss_ : float
        L at the fitted meta-parameters.
    meta_losses_ : ndarray of shape (n_values,)
        L at the start and after each iteration of the solver.
    gap_certificate_ : GapCertificate
        ``float(model.gap_certificate_)`` bounds ``L - min L``; print it for the whole story.
    n_features_in_ : int
        Columns of the X that was passed, the task column included.
    feature_names_in_ : ndarray of str
        Only where X has column names.

    See Also
    --------
    AdaptedRegressor : What `adapt` returns.
    sklearn_maml.model_selection.adapt : The same through a pipeline or a search.
    sklearn_maml.certificate.GapCertificate : The certificate.

    References
    ----------
    Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    ICML 2017. Wang, Cai, Yang & Wang, "On the Global Optimality of Model-Agnostic Meta-Learning",
    ICML 2020.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=101, random_state=0)
    >>> model = MAMLRegressor().fit(tasks)
    >>> model.adapt(X_new[:5], y_new[:5]).predict(X_new[5:]).shape
    (15,)
    >>> model.gap_certificate_.bound < 1e-9 * model.meta_loss_
    True
    """

    # With metadata routing enabled, groups arrive without any set_fit_request.
    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lr="auto",
        n_steps=1,
        *,
        featurizer=None,
        loss="squared_error",
        adaptation=None,
        solver="auto",
        alpha=0.0,
        fit_intercept=True,
        support="auto",
        split="random",
        n_episodes=1,
        task_column=None,
        on_unknown_task="meta",
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.featurizer = featurizer
        self.loss = loss
        self.adaptation = adaptation
        self.solver = solver
        self.alpha = alpha
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
    def fit(self, X, y=None, *, groups=None, sample_weight=None):
        """Find the meta-parameters.

        Parameters
        ----------
        X : list of (X_t, y_t) or (X_t, y_t, weight_t), or array-like of shape (n_rows, n_features)
            One tuple a task; `weight_t` holds one weight a row, or is a number, the task's weight.
            Or all rows in one table (array, CSR or CSC matrix, DataFrame), with `y` and `groups`.
        y : array-like of shape (n_rows,) or (n_rows, n_targets), default=None
            None for a list of tasks.
        groups : array-like of shape (n_rows,), default=None
            The task of each row: hashable labels in any order. None with `task_column`, or if
            all rows are one task.
        sample_weight : array-like of shape (n_rows,), default=None
            What a row counts within its task; tasks count the same whatever their rows weigh.
            With a list of tasks: of shape (n_tasks,), what a task counts.

        Returns
        -------
        self : MAMLRegressor

        Raises
        ------
        ValueError, TypeError
            If the data or a parameter are not as described; the message names it.
        """
        context = started(self, X, y)
        vars(self).pop("coef_", None)  # a fit that fails leaves no model of mixed parts
        self._loss = resolve(self.loss, LOSSES, Loss, "loss")
        rule = self._given_rule()
        solver = self._make_solver(rule)
        support, mixed = choose_support(self.support, rule)
        self._episodes = read_episodes(support, self.split, self.n_episodes, self.random_state)
        check_featurizer(self.featurizer)
        rows = read_tasks(self, X, y, groups, sample_weight, reset=True)
        self._loss.check_targets(rows.tasks.y)
        if mixed:
            self._episodes = self._episodes.adjusted(AUTO_EPISODES, len(rows.ids))
        self._unlabelled = y is not None and not rows.named
        self._warn_of_lost_groups(len(rows.tasks.y))
        self._episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
        self.featurizer_ = fit_featurizer(self.featurizer, rows.X, rows.tasks)
        blocks = Blocks(rows.tasks, self._features(rows.X), self._episodes)
        with refusing_overflow(), one_blas_thread():  # once, for all passes over the data
            if rule is None:
                rule = gradient_rule(self.inner_lr, self.n_steps, blocks)
            rule, self.learned_ = rule.learn(self._objective(blocks, rule), solver)
            objective = self._objective(blocks, rule)
            result = solver.minimize(objective, objective.origin())
            certificate = _certify(objective, result.theta)
            self.adaptation_ = rule.calibrate(objective, result.theta)
        self.task_ids_, self.n_tasks_, self.n_iter_ = rows.ids, len(rows.ids), result.n_iter
        self.coef_, self.intercept_ = split_theta(result.theta, self.fit_intercept)
        self.gap_certificate_, self.meta_loss_ = certificate, certificate.meta_loss
        self.meta_losses_ = np.array(result.values)
        self._report_steps(objective)
        self._keep_tasks(objective, rows)
        ended(self, context, X, y)
        return self

    def predict(self, X, *, groups=None, return_std=False):
        """Predict rows: of a known task with its own parameters, else with the meta-parameters.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        groups : array-like of shape (n_rows,), default=None
            The task of each row. Rows of a task seen in `fit` are predicted with its parameters,
            adapted to all of its rows (`task_coef_`); other rows as `on_unknown_task` says.
            Without `groups` or a task column all rows are predicted with the meta-parameters.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise and what
            is not known of the task; for tasks not seen in `fit`, all that tasks differ by. For
            rules that know of them, such as `Proximal`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.

        Raises
        ------
        ValueError
            If `groups` are given but `fit` was given no labels, or if there are no standard
            deviations: the rule knows none, or what it knows of all tasks fills above 128 MiB.
        KeyError
            For an unknown task, if `on_unknown_task` is "raise".
        """
        check_is_fitted(self)
        if self.task_column is None and groups is None:
            mean = self._response(X, self.coef_, self.intercept_)
            if not return_std:
                return mean
            return mean, self._deviation(X, self.adaptation_.uncertainty(self._theta().shape[-1]))
        if self.task_coef_ is None:
            raise ValueError(
                "predict got groups, but the model knows no task by name: it was fitted on a list "
                "of tasks or without groups. Fit it with groups= or task_column=, or call "
                "adapt_tasks on some rows of these tasks."
            )
        theta = join_theta(self.task_coef_, self.task_intercept_, self.fit_intercept)
        return self._predict_tasks(X, groups, self._known, theta, self._information, return_std)

    def adapt(self, X, y, *, sample_weight=None):
        """Learn a new task from its support rows; the model itself is unchanged.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
            The task's rows, one or more.
        y : array-like of shape (m,) or (m, n_targets)
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        AdaptedRegressor
            Fitted, from the meta-parameters.
        """
        check_is_fitted(self)
        if self._unlabelled:
            warn_of_single_task("The model adapts from a fit in which all rows were one task.", 2)
        return AdaptedRegressor(self._frozen()).fit(X, y, sample_weight=sample_weight)

    def adapt_tasks(self, X, y=None, *, groups=None, sample_weight=None):
        """Learn many new tasks at once; the model itself is unchanged.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`: a list of tasks, or rows with labels in `groups` or in the task column.

        Returns
        -------
        AdaptedTasks
            A mapping from a task's label to its `AdaptedRegressor`, with a vectorised ``predict``.

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
        self._check_targets(rows.tasks.y)
        objective = self._objective(Blocks(rows.tasks, self._features(rows.X), Episodes()))
        if hasattr(self.adaptation_, "inner_lr"):
            (diverging,) = objective.relative_step_shares((2.0,))
            _warn_if_diverging(self.adaptation_, diverging, stacklevel=3)
        with refusing_overflow():
            theta, information = objective.adapted(self._theta())
            check_overflow(theta)
        return AdaptedTasks(self._frozen(), rows.ids, theta, information)

    def score(self, X, y=None, *, groups=None, sample_weight=None):
        """R2 of query rows after adapting to support rows; or plain R2, without tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`. With a list of tasks, `groups` or a task column, each task is split as in
            `fit`, and the query rows of all tasks are pooled; with ``support="all"`` they are the
            support rows themselves. Otherwise the meta-parameters' predictions are scored.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        if y is not None and groups is None and self.task_column is None:
            y = check_y(y, self)
            return r2_score(y, self.predict(X), sample_weight=sample_weight)
        truth, predicted, weight, _ = self._query_predictions(X, y, groups, sample_weight)
        return r2_score(truth, predicted, sample_weight=weight)

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
        objective = self._objective_on(X, y, groups, sample_weight)
        with refusing_overflow():
            return _certify(objective, self._theta())

    def _objective_on(self, X, y, groups, sample_weight, episodes=None, rule=None):
        """The meta-objective on other tasks, with the fitted featurizer and rule."""
        episodes = self._episodes if episodes is None else episodes
        rows = read_tasks(self, X, y, groups, sample_weight)
        self._check_targets(rows.tasks.y)
        episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
        return self._objective(Blocks(rows.tasks, self._features(rows.X), episodes), rule)

    def _query_predictions(self, X, y, groups, sample_weight, episodes=None, rule=None):
        """Truth and responses (n, ...), weights and task numbers of all query rows."""
        objective = self._objective_on(X, y, groups, sample_weight, episodes, rule)
        truth, predicted, weight, task = objective.query_predictions(self._theta())
        return truth.T, self._loss.inverse_link(predicted.T), weight, task

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
            if self._episodes.support != "all":
                every = Blocks(rows.tasks, objective.blocks.features, Episodes())
                objective = self._objective(every)
            theta, self._information = objective.adapted(self._theta())
            self.task_coef_, self.task_intercept_ = split_theta(theta, self.fit_intercept)
            self._known = {label: i for i, label in enumerate(rows.ids)}

    def _predict_tasks(self, X, groups, known, theta, information, return_std):
        """Responses for rows of the tasks in `known`, and how sure they are if `return_std`."""
        X, _, labels = read_rows(self, X)
        numbered = read_labels(self, labels, groups, X.shape[0])
        if numbered is None:
            raise ValueError("groups= must say which task each row belongs to; got None.")
        ids, codes = numbered
        at, features = positions_of(ids, known, self.on_unknown_task), self._features(X)
        own = np.where(at.reshape(-1, *[1] * (theta.ndim - 1)) >= 0, theta[at], self._theta())
        mean = self._loss.inverse_link(predict_rows(features, own, codes))
        if not return_std:
            return mean
        return mean, deviations_of_rows(features, uncertainty_of(self, information, at), codes)

    def _frozen(self):
        """A fitted copy that later changes leave as it is, and that names no training task."""
        frozen = copy(self)
        frozen.coef_, frozen.intercept_ = self.coef_.copy(), copy(self.intercept_)
        frozen.task_ids_ = frozen.task_coef_ = frozen.task_intercept_ = frozen._information = None
        frozen._known = {}
        return FrozenEstimator(frozen)

    def _objective(self, blocks, rule=None):
        penalty = np.full(blocks.features.width, float(self.alpha))
        if self.fit_intercept:
            penalty[-1] = 0.0
        rule = self.adaptation_ if rule is None else rule
        return MetaObjective(blocks, self._loss, rule, penalty, self.n_jobs, self.verbose)

    def _features(self, X):
        transform = None if self.featurizer_ is None else self.featurizer_.transform
        return Features(X, transform, self.fit_intercept)

    def _theta(self):
        return join_theta(self.coef_, self.intercept_, self.fit_intercept)

    def _make_solver(self, rule):
        check_number("alpha", self.alpha, 0)
        check_number("verbose", self.verbose, 0)
        if not isinstance(self.fit_intercept, bool | np.bool_):
            raise TypeError(f"fit_intercept must be True or False; got {self.fit_intercept!r}.")
        if self.on_unknown_task not in ("meta", "raise"):
            raise ValueError(
                f"on_unknown_task must be 'meta' or 'raise'; got {self.on_unknown_task!r}."
            )
        solver = self.solver
        if isinstance(solver, str) and solver == "auto":
            solver = choose_solver(self._loss, rule)
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
        if hasattr(rule, "inner_lr"):
            capped, diverging = objective.relative_step_shares((1.0, 2.0))
            self.inner_lr_, self.capped_share_ = rule.inner_lr, capped if rule.cap else 0.0
            _warn_if_diverging(rule, diverging)

    def _check_targets(self, y):
        """Raise where y does not have the number of targets of fit."""
        expected = ("n_rows", *map(str, self.coef_.shape[:-1]))
        if y.shape[1:] != self.coef_.shape[:-1]:
            raise ValueError(
                f"y must have the shape ({', '.join(expected)}) of fit; got {y.shape}."
            )
        self._loss.check_targets(y)

    def _response(self, X, coef, intercept):
        """The response that parameters in feature space predict."""
        return self._loss.inverse_link(self._linear(X, coef, intercept))

    def _linear(self, X, coef, intercept):
        """What parameters in feature space predict, before the link."""
        X, _, _ = read_rows(self, X)
        phi = X if self.featurizer_ is None else check_phi(self.featurizer_.transform(X))
        return phi @ coef.T + intercept

    def _deviation(self, X, uncertainty):
        """Standard deviations of the targets of one task's rows."""
        features = self._features(read_rows(self, X)[0])
        return deviations_of_rows(features, uncertainty, np.zeros(features.n_rows, int))

    def _adapt_one(self, X, y, sample_weight):
        """Parameters of the one task whose support rows these are, and what they tell of it."""
        X, tasks = read_one_task(self, X, y, sample_weight)
        self._check_targets(tasks.y)
        rows = slice(None) if tasks.rows is None else tasks.rows
        weight = tasks.row_weight[rows]
        phi, size = self._features(X)[rows], weight.sum()
        risk = Risk(self._loss, phi, tasks.y[rows].T, weight / size, size)
        with refusing_overflow():
            theta, _ = self.adaptation_.adapt(self._theta(), risk)
            check_overflow(theta)
        _warn_if_diverging(self.adaptation_, (self.adaptation_.relative_step(risk) > 2).mean())
        return theta, self.adaptation_.information(risk)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coef_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        # Without tasks to compare, a split leaves the meta-parameters themselves hardly determined.
        tags.regressor_tags.poor_score = not isinstance(self.support, str)
        tags.input_tags.sparse = True
        if self.featurizer is not None:
            given = get_tags(self.featurizer).input_tags
            for fact in ("sparse", "string", "categorical"):
                setattr(tags.input_tags, fact, getattr(given, fact))
            # A scaler that lets NaN through column by column hands it on to the regression.
            passes_on = isinstance(self.featurizer, OneToOneFeatureMixin)
            tags.input_tags.allow_nan = given.allow_nan and not passes_on
        return tags


def _certify(objective, theta):
    """The certificate; infinite or undefined, it shows that the fit cannot be trusted either."""
    certificate = certify(objective, theta)
    check_overflow([certificate.meta_loss, certificate.bound, *theta.flat])
    return certificate


def _warn_if_diverging(rule, share, stacklevel=5):
    """Warn where steps longer than 2 / curvature are taken as they are."""
    if share > 0 and not getattr(rule, "cap", True):
        warnings.warn(
            f"Uncapped inner steps (inner_lr={np.max(rule.inner_lr):g}) diverge on {share:.0%} of "
            "the tasks: step length times curvature exceeds 2. Use a smaller inner_lr or cap=True.",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )
