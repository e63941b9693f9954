"""The estimators: they validate, assemble the parts and store what comes out."""

import warnings
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from numbers import Real

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import r2_score
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from sklearn_maml._blocks import Blocks, Episodes, Features, check_phi, moments, take_rows
from sklearn_maml._component import resolve
from sklearn_maml._objective import MetaObjective, Risk
from sklearn_maml._tasks import (
    Tasks,
    check_finite,
    group_rows,
    is_task_list,
    looks_ragged,
    pool,
    refuse_masked,
)
from sklearn_maml.adaptation import AdaptationRule, GradientSteps, Standardization
from sklearn_maml.certificate import certify
from sklearn_maml.losses import LOSSES, Loss
from sklearn_maml.proximal import RULES
from sklearn_maml.solvers import SOLVERS, Solver

__all__ = ["AdaptedRegressor", "MAMLRegressor"]

# What inner_lr="auto" stands for, chosen by benchmarks/bench_defaults.py: all steps together leave
# this share of theta along the steepest direction of a task, in standardised features, ...
AUTO_REMAINDER = 0.1
# ... and move the intercept this many times as far as a coefficient.
AUTO_INTERCEPT_STEP = 16.0
# What support="auto" stands for where the rule is learned: one fit for all numbers of shots, each
# with this many random splits in all, if tasks are few.
AUTO_SHOTS = (1, 2, 3, 5, 10)
AUTO_EPISODES = 1000
# Targets beyond this are refused, like such features: squares of products would overflow float64.
LARGEST_TARGET = 1e70


class MAMLRegressor(RegressorMixin, BaseEstimator):
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
        "auto" chooses the exact solver for the squared loss.
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
    n_jobs : int, default=None
        Workers for blocks of tasks, as in joblib. It does not change the result in any bit.
    random_state : int, RandomState or None, default=None
        For random splits.
    verbose : int, default=0
        Whether to print the meta-loss at each evaluation.

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
        The labels in `groups`, in order of appearance; positions, for a list of tasks.
    n_iter_ : int
        Iterations of the solver.
    meta_loss_ : float
        L at the fitted meta-parameters.
    gap_certificate_ : GapCertificate
        ``float(model.gap_certificate_)`` bounds ``L - min L``; print it for the whole story.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    See Also
    --------
    AdaptedRegressor : What `adapt` returns.
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

    # With metadata routing enabled, groups reach fit and score without set_fit_request.
    __metadata_request__fit = {"groups": True}
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
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

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
            The task of each row: hashable labels in any order. None: all rows are one task.
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
        vars(self).pop("coef_", None)  # a fit that fails leaves no model of mixed parts
        self._loss = resolve(self.loss, LOSSES, Loss, "loss")
        solver, rule = self._make_solver(), self._given_rule()
        self._episodes = self._make_episodes(rule)
        _check_featurizer(self.featurizer)
        X, tasks, self.task_ids_ = self._read(X, y, groups, sample_weight, reset=True)
        if self._shots_are_free(rule):
            self._episodes = self._episodes.adjusted(AUTO_EPISODES, len(tasks.weight))
        self.featurizer_ = _fit_featurizer(self.featurizer, X, tasks)
        blocks = Blocks(tasks, self._features(X), self._episodes)
        self.adaptation_ = self._steps(blocks) if rule is None else rule
        objective = self._objective(blocks)
        with _refusing_overflow():
            self.adaptation_, self.learned_ = self.adaptation_.learn(objective, solver)
            objective = objective.vary(rule=self.adaptation_, verbose=self.verbose)
            result = solver.minimize(objective, objective.origin())
            certificate = _certify(objective, result.theta)
            self.adaptation_ = self.adaptation_.calibrate(objective, result.theta)
        self.n_tasks_, self.n_iter_ = len(self.task_ids_), result.n_iter
        self.coef_, self.intercept_ = _split_theta(result.theta, self.fit_intercept)
        self.gap_certificate_, self.meta_loss_ = certificate, certificate.meta_loss
        self._report_steps(objective)
        return self

    def predict(self, X, return_std=False):
        """Predict with the meta-parameters: for a task of which nothing is known.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise and what
            tasks differ by. For rules that know of them, such as `Proximal`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.
        """
        check_is_fitted(self)
        mean = self._response(X, self.coef_, self.intercept_)
        return (mean, self._deviation(X)) if return_std else mean

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
        if self.learned_ is not None and self.n_tasks_ == 1:
            warnings.warn(
                "The model was fitted to one task, which does not show how tasks differ: adapting "
                "returns the meta-parameters. Fit it with groups= or to a list of tasks.",
                UserWarning,
                stacklevel=2,
            )
        # A copy (of references), so that fitting the model anew leaves the adapted one as it is.
        meta = FrozenEstimator(copy(self))
        return AdaptedRegressor(meta).fit(X, y, sample_weight=sample_weight)

    def score(self, X, y=None, *, groups=None, sample_weight=None):
        """R2 of query rows after adapting to support rows; or plain R2, without tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`. With a list of tasks or `groups`, each task is split as in `fit`, and the
            query rows of all tasks are pooled; with ``support="all"`` they are the support rows
            themselves. Otherwise the meta-parameters' predictions of the rows are scored.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        if y is not None and groups is None:
            y = _check_y(y, self)
            return r2_score(y, self.predict(X), sample_weight=sample_weight)
        objective = self._objective_on(X, y, groups, sample_weight)
        truth, predicted, weight = objective.reduce(
            _query_predictions, self._theta(), combine=_concatenate
        )
        return r2_score(truth.T, predicted.T, sample_weight=weight)

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
        with _refusing_overflow():
            return _certify(objective, self._theta())

    def _objective_on(self, X, y, groups, sample_weight):
        """The meta-objective on other tasks, with the fitted featurizer and rule."""
        X, tasks, _ = self._read(X, y, groups, sample_weight, reset=False)
        self._check_targets(tasks.y)
        return self._objective(Blocks(tasks, self._features(X), self._episodes))

    def _objective(self, blocks):
        penalty = np.full(blocks.features.width, float(self.alpha))
        if self.fit_intercept:
            penalty[-1] = 0.0
        return MetaObjective(
            blocks, self._loss, self.adaptation_, penalty, self.n_jobs, self.verbose
        )

    def _features(self, X):
        transform = None if self.featurizer_ is None else self.featurizer_.transform
        return Features(X, transform, self.fit_intercept)

    def _theta(self):
        if not self.fit_intercept:
            return self.coef_
        return np.concatenate([self.coef_, np.asarray(self.intercept_)[..., None]], axis=-1)

    def _shots_are_free(self, rule):
        """Whether "auto" stands for mixed numbers of shots: where a rule has to be learned."""
        automatic = isinstance(self.support, str) and self.support == "auto"
        return automatic and rule is not None and bool(rule.learnable)

    def _make_episodes(self, rule):
        support = self.support
        if isinstance(support, str) and support == "auto":
            support = AUTO_SHOTS if self._shots_are_free(rule) else "all"
        if isinstance(support, np.ndarray):
            support = support.tolist()
        if isinstance(support, list):
            support = tuple(support)
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        episodes = Episodes(support, self.split, self.n_episodes, seed)
        episodes.check()
        return replace(episodes, lenient=self._shots_are_free(rule))

    def _make_solver(self):
        _check_number("alpha", self.alpha, 0)
        if not isinstance(self.fit_intercept, bool | np.bool_):
            raise TypeError(f"fit_intercept must be True or False; got {self.fit_intercept!r}.")
        solver = "least_squares" if self.solver == "auto" else self.solver
        return resolve(solver, SOLVERS, Solver, "solver")

    def _given_rule(self):
        """The rule that `adaptation` names or is, or None."""
        if self.adaptation is None:
            return None
        if not self._automatic_step() or self.n_steps != 1:
            raise ValueError(
                f"inner_lr={self.inner_lr!r} and n_steps={self.n_steps!r} have no effect "
                "with adaptation=...; set them on the adaptation rule instead."
            )
        return clone(resolve(self.adaptation, RULES, AdaptationRule, "adaptation"))

    def _automatic_step(self):
        return isinstance(self.inner_lr, str) and self.inner_lr == "auto"

    def _steps(self, blocks):
        """The gradient steps in use; "auto" is decided here."""
        automatic = self._automatic_step()
        if isinstance(self.inner_lr, str) and not automatic:
            raise ValueError(f"inner_lr must be 'auto' or a number; got {self.inner_lr!r}.")
        if not automatic:
            rule = GradientSteps(self.inner_lr, self.n_steps)
        else:
            GradientSteps(n_steps=self.n_steps).validate()
            coordinates = Standardization.from_moments(
                *moments(blocks), self.fit_intercept, AUTO_INTERCEPT_STEP
            )
            length = 1.0 - AUTO_REMAINDER ** (1.0 / max(self.n_steps, 1))
            rule = GradientSteps(length, self.n_steps, relative=True, coordinates=coordinates)
        rule.validate()
        return rule

    def _report_steps(self, objective):
        """Store how many steps were capped, and warn where uncapped steps diverge."""
        rule = self.adaptation_
        if hasattr(rule, "inner_lr"):
            capped, diverging = objective.relative_step_shares((1.0, 2.0))
            self.inner_lr_, self.capped_share_ = rule.inner_lr, capped if rule.cap else 0.0
            _warn_if_diverging(rule, diverging)

    def _read(self, X, y, groups, sample_weight, reset):
        """Validated rows, the `Tasks` they form and the tasks' labels."""
        if is_task_list(X, y):
            X, y, codes, ids, weights = _read_task_list(X, y, groups, sample_weight)
            X, y = self._check_rows(X, y, reset, finite=False)
        else:
            X, y = self._check_flat(X, y, reset, finite=False)
            ids, codes = np.arange(1), np.zeros(len(y), dtype=np.intp)
            if groups is not None:
                ids, codes = group_rows(groups, len(y))
            weights = (_row_weights(sample_weight, X), None)
        check_finite(y, codes, ids, "y")
        if self.featurizer is None:  # else its output is checked
            check_finite(X, codes, ids, "X")
        tasks = Tasks.from_codes(y, codes, *weights, names=ids)
        self._episodes.check_sizes(tasks.sizes, names=ids)
        return X, tasks, ids

    def _check_flat(self, X, y, reset, finite=True):
        """Rows and targets in two tables; errors point to the list of tasks."""
        hint = "pass a list of (X, y) tuples, one a task, or all rows with y= and groups=."
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None; {hint}"
            )
        if looks_ragged(X):
            raise ValueError(f"X is a list of tables, one a task, and y is given apart; {hint}")
        return self._check_rows(X, y, reset, finite)

    def _check_rows(self, X, y, reset, finite):
        """X as phi takes it, and y as float64; all finite, or to be checked task by task."""
        X, y = self._check_X(X, reset, finite), _check_y(y, self, finite)
        if len(y) != X.shape[0]:
            raise ValueError(f"X has {X.shape[0]} rows but y has {len(y)}; give one target a row.")
        return X, y

    def _check_X(self, X, reset=False, finite=True):
        """Rows in a form that the featurizer, or phi itself, takes."""
        _check_table(X)
        if self.featurizer is None:
            _refuse_dates(X)
            X = validate_data(
                self,
                X,
                accept_sparse=("csr", "csc"),
                dtype=np.float64,
                ensure_all_finite=finite,
                reset=reset,
            )
            return X.tocsr() if sp.issparse(X) else X
        if not hasattr(X, "columns"):
            X = check_array(
                X, accept_sparse=("csr", "csc"), dtype=None, ensure_all_finite=False, estimator=self
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X.tocsr() if sp.issparse(X) else X

    def _check_targets(self, y):
        """Raise where y does not have the number of targets of fit."""
        expected = ("n_rows", *map(str, self.coef_.shape[:-1]))
        if y.shape[1:] != self.coef_.shape[:-1]:
            raise ValueError(
                f"y must have the shape ({', '.join(expected)}) of fit; got {y.shape}."
            )

    def _response(self, X, coef, intercept):
        """The response that parameters in feature space predict."""
        X = self._check_X(X)
        phi = X if self.featurizer_ is None else check_phi(self.featurizer_.transform(X))
        return self._loss.inverse_link(phi @ coef.T + intercept)

    def _deviation(self, X, support=None):
        """Standard deviations of the rows' targets, given a task's support rows."""
        X = self._check_X(X)
        rows = self._features(X)[slice(None)]
        variance = self.adaptation_.predictive_variance(rows, support)
        return np.sqrt(np.moveaxis(variance, 0, -1) if variance.ndim > 1 else variance)

    def _adapted_theta(self, X, y, sample_weight):
        """Parameters of the one task whose support rows these are, and its support risk."""
        X, y = self._check_flat(X, y, reset=False)
        self._check_targets(y)
        tasks = Tasks.from_codes(y, np.zeros(len(y), dtype=np.intp), _row_weights(sample_weight, X))
        rows = slice(None) if tasks.rows is None else tasks.rows
        weight = tasks.row_weight[rows]
        features = self._features(X)[rows]
        risk = Risk(self._loss, features, y[rows].T, weight / weight.sum(), weight.sum())
        with _refusing_overflow():
            theta, _ = self.adaptation_.adapt(self._theta(), risk)
            _check_overflow(theta)
        _warn_if_diverging(self.adaptation_, (self.adaptation_.relative_step(risk) > 2).mean())
        return theta, risk

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


class AdaptedRegressor(RegressorMixin, BaseEstimator):
    """A regressor for one task, adapted from a fitted meta-model; what `adapt` returns.

    Fitting it is adapting: it always starts from the meta-parameters of `meta`, never from what
    it learned before. As an ordinary scikit-learn estimator it can be cross-validated on the rows
    of a new task.

    Parameters
    ----------
    meta : MAMLRegressor
        Fitted; in a ``sklearn.frozen.FrozenEstimator``, so that cloning leaves it fitted.

    Attributes
    ----------
    coef_ : ndarray of shape (n_phi,) or (n_targets, n_phi)
        The task's parameters in feature space.
    intercept_ : float or ndarray of shape (n_targets,)

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=31, random_state=0)
    >>> adapted = MAMLRegressor().fit(tasks).adapt(X_new[:5], y_new[:5])
    >>> adapted.coef_.shape
    (5,)
    """

    def __init__(self, meta):
        self.meta = meta

    def fit(self, X, y, *, sample_weight=None):
        """Adapt to the rows of one task.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
        y : array-like of shape (m,) or (m, n_targets)
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        self : AdaptedRegressor
        """
        meta = self._meta()
        theta, self._support = meta._adapted_theta(X, y, sample_weight)
        self.coef_, self.intercept_ = _split_theta(theta, meta.fit_intercept)
        return self

    def predict(self, X, return_std=False):
        """Predict rows of the task.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise and what
            the support rows leave unknown of the task. Uncertainty of the meta-parameters is not
            part of them. For rules that know of them, such as `Proximal`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.
        """
        check_is_fitted(self)
        meta = self._meta()
        mean = meta._response(X, self.coef_, self.intercept_)
        return (mean, meta._deviation(X, self._support)) if return_std else mean

    def _meta(self):
        meta = self.meta.estimator if isinstance(self.meta, FrozenEstimator) else self.meta
        check_is_fitted(meta)
        return meta


@contextmanager
def _refusing_overflow():
    """Turn what overflow leads to into one error; numpy's warnings come before that, and less."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        raise ValueError(
            f"Overflow: numbers beyond the range of float64 ({error}). Inner steps that are not "
            "capped grow without bound; use cap=True or a smaller inner_lr. Or rescale X and y."
        ) from error


def _check_overflow(values):
    if not np.isfinite(values).all():
        raise FloatingPointError("infinity or NaN in the result")


def _certify(objective, theta):
    """The certificate; infinite or undefined, it shows that the fit cannot be trusted either."""
    certificate = certify(objective, theta)
    _check_overflow([certificate.meta_loss, certificate.bound, *theta.flat])
    return certificate


def _check_number(name, value, low):
    """Raise unless `value` is a finite number, at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number >= {low}; got {value!r}.")
    if not low <= value < np.inf:
        raise ValueError(f"{name} must be finite and >= {low}; got {value!r}.")


def _check_featurizer(featurizer):
    """Raise for what cannot be fitted and then transform."""
    able = all(hasattr(featurizer, method) for method in ("fit", "transform"))
    if featurizer is not None and (isinstance(featurizer, type) or not able):
        raise TypeError(
            "featurizer must be None or a transformer, an object with fit and transform; "
            f"got {featurizer!r}."
        )


def _check_table(X):
    """Raise for what does not hold one row a row: a list of tasks, masked entries, nothing."""
    if looks_ragged(X) or is_task_list(X, y=()):
        raise ValueError(
            "X must be one table of rows; got a list of tables or of tasks. A list of (X, y) "
            "tuples goes to fit, score or certify as it is, with y=None."
        )
    refuse_masked(X, "X")
    if hasattr(X, "columns") and 0 in X.shape:
        raise ValueError(f"X must have at least one row and one column; got shape {X.shape}.")


def _refuse_dates(X):
    """Raise for dates and durations, which would count as nanoseconds or so."""
    dtypes = getattr(X, "dtypes", [getattr(X, "dtype", None)])
    for i, dtype in enumerate(dtypes):
        temporal = getattr(dtype, "is_temporal", bool)  # of polars
        if getattr(dtype, "kind", "") in ("m", "M") or temporal():
            name = f"column {X.columns[i]!r}" if hasattr(X, "columns") else "X"
            raise ValueError(
                f"{name} holds dates or durations ({dtype}); turn them into numbers of a unit "
                "that you choose, for example in a featurizer."
            )


def _check_y(y, estimator, finite=True):
    """Targets as float64, of one or two axes; numbers in an array of objects are refused."""
    refuse_masked(y, "y")
    if not hasattr(getattr(y, "dtype", None), "kind"):
        y = np.asarray(y)
    if y.dtype.kind not in "biufc":
        raise ValueError(
            f"Unknown label type: y must be numeric, got dtype {y.dtype}. Convert it first, for "
            "example with np.asarray(y, dtype=float)."
        )
    y = check_array(
        y,
        ensure_2d=False,
        dtype=np.float64,
        ensure_all_finite=finite,
        input_name="y",
        estimator=estimator,
    )
    largest = np.abs(y).max(where=np.isfinite(y), initial=0.0)
    if largest > LARGEST_TARGET:
        raise ValueError(
            f"Targets must be at most {LARGEST_TARGET:g} in size; got {largest:g}. Rescale y."
        )
    return y


def _row_weights(sample_weight, X):
    """Weights of rows as float64, or None."""
    if sample_weight is None:
        return None
    refuse_masked(sample_weight, "sample_weight")
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def _task_weights(sample_weight, ids):
    """Weights of tasks as float64."""
    if not np.isscalar(sample_weight) and len(sample_weight) != len(ids):
        raise ValueError(
            f"With a list of tasks, sample_weight has one number a task: {len(ids)}; got "
            f"{len(sample_weight)}. Weights of rows go into the tuples, (X, y, weight)."
        )
    return _row_weights(sample_weight, ids)


def _read_task_list(tasks, y, groups, sample_weight):
    """Pooled rows and targets, task numbers, labels, and weights of rows and of tasks."""
    for name, value in (("y", y), ("groups", groups)):
        if value is not None:
            raise ValueError(
                f"{name} must be None when X is a list of (X, y) tuples, which say it all; "
                f"got {type(value).__name__}."
            )
    pooled = pool(tasks)
    ids = np.arange(len(tasks))
    task_weight = pooled.task_weight
    if sample_weight is not None:
        given = _task_weights(sample_weight, ids)
        task_weight = given if task_weight is None else task_weight * given
    codes = np.repeat(ids, pooled.sizes)
    return pooled.X, pooled.y, codes, ids, (pooled.row_weight, task_weight)


def _fit_featurizer(featurizer, X, tasks):
    """A clone of the featurizer, fitted on the rows that weigh something."""
    if featurizer is None:
        return None
    rows = slice(None) if tasks.rows is None else tasks.rows
    weight = np.zeros(len(tasks.y))
    weight[rows] = tasks.row_weight[rows] * np.repeat(
        tasks.weight / tasks.weight.max(), tasks.sizes
    )
    y = tasks.y
    if not weight.all():
        kept = np.flatnonzero(weight)
        X, y, weight = take_rows(X, kept), y[kept], weight[kept]
    featurizer = clone(featurizer)
    weighted = has_fit_parameter(featurizer, "sample_weight") and not (weight == 1).all()
    return featurizer.fit(X, y, **({"sample_weight": weight} if weighted else {}))


def _split_theta(theta, fit_intercept):
    """(coef_, intercept_) of parameters whose last entry is the intercept, if there is one."""
    if fit_intercept:
        coef, intercept = theta[..., :-1].copy(), theta[..., -1]
        return coef, intercept.copy() if intercept.ndim else float(intercept)
    return theta, np.zeros(theta.shape[:-1]) if theta.ndim > 1 else 0.0


def _query_predictions(linearization):
    """Query targets, their predictions and weights, pooled; weights average 1 in each task."""
    weights = linearization.query.weights
    real = weights > 0
    scaled = weights * real.sum(axis=1, keepdims=True)
    predictions = np.broadcast_to(linearization.predictions, linearization.query.targets.shape)
    return linearization.query.targets[..., real], predictions[..., real], scaled[real]


def _concatenate(total, part):
    return tuple(np.concatenate(pair, axis=-1) for pair in zip(total, part, strict=True))


def _warn_if_diverging(rule, share):
    """Warn where steps longer than 2 / curvature are taken as they are."""
    if share > 0 and not getattr(rule, "cap", True):
        warnings.warn(
            f"Uncapped inner steps (inner_lr={rule.inner_lr:g}) diverge on {share:.0%} of the "
            "tasks: step length times curvature exceeds 2. Use a smaller inner_lr or cap=True.",
            ConvergenceWarning,
            stacklevel=4,
        )
