"""Few-shot regression."""

from typing import Any, Literal, overload

from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from sklearn_maml._component import check_bool, resolve
from sklearn_maml._estimators.adapted import AdaptedRegressor
from sklearn_maml._estimators.fitted_in_parts import FittedInParts
from sklearn_maml._estimators.intervals import intervals_of, quantiles_of
from sklearn_maml._estimators.meta_learner import MetaLearner
from sklearn_maml._estimators.prediction import (
    linear,
    linear_and_deviation,
    prior_of,
    response,
    uncertainty_of,
)
from sklearn_maml._tasks.tables import check_y
from sklearn_maml._typing import (
    Column,
    Coverage,
    Effort,
    Floats,
    PerRow,
    Random,
    Split,
    Support,
    Table,
    Tasks,
    Unknown,
)
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.losses import LOSSES
from sklearn_maml.losses.loss import Loss
from sklearn_maml.solvers.solver import Solver

__all__ = ["MAMLRegressor"]


class MAMLRegressor(RegressorMixin, FittedInParts, MetaLearner[AdaptedRegressor]):
    """Few-shot regression: meta-parameters from which a new task is learned with a few rows.

    Every task i (a patient, a store, a school) has its own parameters ``theta_i``, reached from
    the meta-parameters ``theta`` by adapting to the task's support rows. How tasks differ, and so
    how far they are to be moved, is learned from the tasks, as a mixed model does; `inner_lr` or
    `n_steps` ask for the gradient steps of the papers instead. `fit` finds the theta whose adapted
    parameters predict the tasks' query rows best,

    ``L(theta) = sum_i p_i sum_j b_ij l(phi(x_ij)' theta_i, y_ij) + alpha ||coef||^2``,

    and with the squared loss it finds the global minimum, in closed form. `gap_certificate_`
    bounds how far L(theta) is from it.

    Parameters
    ----------
    inner_lr : "auto" or float, default=None
        None, with ``n_steps=None``, learns the rule: see `adaptation`. Otherwise the length eta of
        the inner gradient steps. A number is the step of the papers, on every parameter, capped
        task by task at 1 / the largest eigenvalue of the support risk's Hessian (see
        `GradientSteps`). "auto" steps in standardised features, 16 times as far for the intercept,
        and as far in each task as leaves 10 percent of theta along the steepest direction after
        all steps; it does not depend on units.
    n_steps : int, default=None
        Number of inner gradient steps: 1 if only `inner_lr` is given; 0 is pooled regression.
    featurizer : transformer, default=None
        phi: any scikit-learn transformer or pipeline of them. It is cloned and fitted on all rows;
        wrap a fitted one in ``sklearn.frozen.FrozenEstimator``. None uses the columns of X.
        One that looks at y should cross-fit, as `PooledPrediction` does: if its ``fit_transform``
        asks for `groups` it is given the tasks, and the model is fitted on what that returns;
        ``transform`` is for rows to come, those of `score` and `certify` among them.
    pooled : regressor, default=None
        A model for all tasks at once, such as ``HistGradientBoostingRegressor()``. Its prediction,
        cross-fitted by task (`PooledPrediction`), becomes one more feature that tasks adapt, or
        splines of the columns do, or both, or neither; and, for losses of residuals, the prediction
        of a second one, of what tasks adapted without it leave over: what predicts held-out tasks
        best, see `feature_choice_`. A `featurizer` makes the columns, `pooled` is given X itself.
    loss : str or Loss, default="squared_error"
        A key of ``sklearn_maml.losses.LOSSES`` or an instance.
    adaptation : str or AdaptationRule, default=None
        None is ``Proximal()``, which learns from the tasks how they differ, unless `inner_lr` or
        `n_steps` ask for gradient steps. An instance, or a name: "learned" or "proximal" for
        ``Proximal()``, "gradient_steps" for ``GradientSteps()``. `inner_lr` and `n_steps` must
        then be None.
    solver : str or Solver, default="auto"
        "auto" chooses the exact solver for the squared loss, Gauss-Newton for other losses, and
        gradient descent for a first-order rule. With other losses there may be several local
        minima: where the certificate leaves more than 30 percent of the loss open, "auto" starts
        once more, from the parameters that predict best without adapting, and keeps the
        better.
    alpha : float, default=0.0
        Ridge penalty on the meta-parameters in feature space, the intercept excepted.
    fit_intercept : bool, default=True
        Whether to add a constant feature; it is adapted like the others, and not penalised.
    support : "auto", "all", int, float or list of int, default="auto"
        What a task adapts to while fitting: "all" rows, which are then also the query rows; that
        many rows; a fraction of them; or each number of rows in turn. The remaining rows are
        the query. Choose what deployment will look like. "auto" is 1, 2, 3, 5 and 10 rows in turn
        for a rule that is learned, as far as a task has them, with up to 20 random splits of each
        task where tasks are few; and "all" for other rules, and for one task alone.
    split : {"random", "first"}, default="random"
        Which rows are the support: drawn at random, or a task's first rows, for ordered data.
    n_episodes : int, default=1
        Random splits per task (and per number of rows); the least number for support="auto".
    task_column : str or int, default=None
        The column of X that holds the task labels, by name or by position. It is taken out of X
        before features are made, and replaces `groups` in every method; so it works wherever
        scikit-learn passes X alone.
    offset_column : str or int, default=None
        The column of X that is added to predictions before the link, with a coefficient of 1: the
        logarithm of an exposure for counts, a forecast for numbers. It is taken out of X before
        features are made, and is needed wherever X is.
    on_unknown_task : {"meta", "raise"}, default="meta"
        What `predict` does with rows of a task that was not seen in `fit`: predict them with the
        meta-parameters, or raise a KeyError.
    certificate : {"fast", "full", "branch"} or None, default="fast"
        What the certificate of a fit may cost, see `sklearn_maml.certify`: no more than about the
        fit; several times as much, for tighter bounds with other losses than the squared one; or
        as long as it takes, for few parameters. None makes none.
    calibrate : "auto" or bool, default="auto"
        Whether to calibrate intervals on the training tasks, see `predict_interval`; it takes less
        than the fit again. "auto" does where the rule is learned.
    n_jobs : int, default=None
        Workers for blocks of tasks, as in joblib. It does not change the result in any bit.
    random_state : int, RandomState or None, default=None
        For random splits.
    verbose : int, default=0
        Whether to report the stages of a fit (reading, metric, strength, theta, certificate), their
        iterations and the seconds so far: to the logger "sklearn_maml" at level INFO, or printed
        where logging is not configured. With scikit-learn 1.9 callbacks hear of the same.

    Attributes
    ----------
    coef_ : ndarray of shape (n_phi,) or (n_targets, n_phi)
        Meta-parameters in feature space.
    intercept_ : float or ndarray of shape (n_targets,)
    loss_ : Loss
        The loss in use.
    featurizer_ : transformer or None
        The fitted featurizer.
    feature_choice_ : FeatureChoice
        With `pooled`: the sets of features that were tried, how well held-out tasks were
        predicted with each (`mean`, `standard_error`), and which was `chosen`; print it.
    adaptation_ : AdaptationRule
        The rule in use, with what was learned of it.
    learned_ : LearnedMetric, LearnedSteps or None
        What was learned of the rule, and how; print it.
    inner_lr_ : float or ndarray of shape (d,)
        The step length in use, before the cap, or one a parameter; for "auto" in units of 1 / the
        largest eigenvalue of each task's Hessian in standardised features. Present for rules that
        take steps.
    capped_share_ : float
        The share of tasks (by weight) whose step was capped. Present for rules that take steps.
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
    gap_certificate_ : GapCertificate or None
        ``float(model.gap_certificate_)`` bounds ``L - min L``; print it for the whole story.
    statistics_ : TaskStatistics
        Of all tasks so far. Only after `partial_fit` with the squared loss, `from_statistics` and
        `merge`.
    calibration_ : Calibration or None
        Quantiles of the errors of training tasks, by number of support rows; None without
        `calibrate`, and where tasks show no differences.
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

    def __init__(
        self,
        inner_lr: float | Literal["auto"] | None = None,
        n_steps: int | None = None,
        *,
        featurizer: Any = None,
        pooled: Any = None,
        loss: str | Loss = "squared_error",
        adaptation: str | AdaptationRule | None = None,
        solver: str | Solver = "auto",
        alpha: float = 0.0,
        fit_intercept: bool = True,
        support: Support = "auto",
        split: Split = "random",
        n_episodes: int = 1,
        task_column: Column | None = None,
        offset_column: Column | None = None,
        on_unknown_task: Unknown = "meta",
        certificate: Effort | None = "fast",
        calibrate: bool | Literal["auto"] = "auto",
        n_jobs: int | None = None,
        random_state: Random | None = None,
        verbose: int = 0,
    ) -> None:
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.featurizer = featurizer
        self.pooled = pooled
        self.loss = loss
        self.adaptation = adaptation
        self.solver = solver
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.support = support
        self.split = split
        self.n_episodes = n_episodes
        self.task_column = task_column
        self.offset_column = offset_column
        self.on_unknown_task = on_unknown_task
        self.certificate = certificate
        self.calibrate = calibrate
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @overload
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: Literal[False] = False
    ) -> Floats: ...
    @overload
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: Literal[True]
    ) -> tuple[Floats, Floats]: ...
    def predict(
        self, X: Table, *, groups: PerRow = None, return_std: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Predict rows: of a known task with its own parameters, else with the meta-parameters.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        groups : array-like of shape (n_rows,), default=None
            The task of each row. Rows of a task seen in `fit` are predicted with its parameters,
            adapted to all of its rows (`task_coef_`); other rows as `on_unknown_task` says.
            If none is known, and the labels are of another type than those of `fit`, a warning
            says so.
            Without `groups` or a task column all rows are predicted with the meta-parameters.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise, what is
            not known of the task (for tasks not seen in `fit`, all that tasks differ by) and of the
            meta-parameters. For rules that know of them, such as `Proximal`.

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
        check_bool("return_std", return_std)
        rows = self._rows(X, groups)
        if not return_std:
            return response(self, linear(self, rows))
        of_one = rows.at is None
        uncertainty = prior_of(self) if of_one else uncertainty_of(self, self._information, rows.at)
        z, deviation = linear_and_deviation(self, rows, uncertainty)
        return response(self, z), deviation

    def predict_interval(
        self, X: Table, coverage: Coverage = 0.9, *, signed: bool = False, groups: PerRow = None
    ) -> tuple[Floats, Floats]:
        """Intervals in which targets are with a given probability, whatever tasks look like.

        Calibrated on the training tasks, each of which has played the new one: of rows of new tasks
        drawn as these the share `coverage` is inside, on average over tasks (docs: intervals).

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        coverage : float or sequence of float, default=0.9
            Between 0 and 1, excluded.
        signed : bool, default=False
            Whether intervals may reach further to one side, for skewed errors: each end is missed
            with half the probability, which takes twice as many tasks. Otherwise they are
            symmetric about the mean, in the range of targets.
        groups : array-like of shape (n_rows,), default=None
            As in `predict`. Tasks seen in `fit` have intervals by how many rows they have there.

        Returns
        -------
        low, high : ndarray of shape (n_rows,) or (n_rows, n_targets)
            With one more axis, the last, for several coverages. They are nested.

        Raises
        ------
        ValueError
            If it knows none: without calibration, and by a rule that knows not how tasks vary.

        Warns
        -----
        UserWarning
            With fewer than ``coverage / (1 - coverage)`` tasks: then they are the model's own.

        Examples
        --------
        >>> from sklearn_maml import MAMLRegressor
        >>> from sklearn_maml.datasets import make_linear_tasks
        >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=101, noise=0.5, random_state=0)
        >>> adapted = MAMLRegressor(random_state=0).fit(tasks).adapt(X_new[:5], y_new[:5])
        >>> low, high = adapted.predict_interval(X_new[5:], coverage=0.8)
        >>> int(((low <= y_new[5:]) & (y_new[5:] <= high)).sum()), len(low)
        (13, 15)
        """
        rows, n_rows = self._rows_and_sizes(X, groups)
        return intervals_of(self, rows, self._information, n_rows, coverage, signed)

    def predict_quantile(
        self, X: Table, quantile: Coverage = 0.5, *, groups: PerRow = None
    ) -> Floats:
        """Quantiles of the targets of rows: ends of intervals with ``signed=True``.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        quantile : float or sequence of float, default=0.5
            Above 0.5 at least that share of rows of new tasks is below, under 0.5 at most; 0.5 is
            the median of the errors of training tasks as it is.
        groups : array-like of shape (n_rows,), default=None
            As in `predict_interval`; so is what is raised, and warned of.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_targets)
            With one more axis, the last, for several quantiles.
        """
        rows, n_rows = self._rows_and_sizes(X, groups)
        return quantiles_of(self, rows, self._information, n_rows, quantile)

    def score(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> float:
        """R2 of query rows after adapting to support rows; or plain R2, without tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`. With a list of tasks, `groups` or a task column, the model adapts to some
            rows of each task and is scored on the others, all tasks pooled: `support` rows where
            that says how many, else 1, 2, 3, 5 and 10 in turn; 10 random draws of each, by
            `random_state` (None is 0: candidates are compared on the same rows), or the first rows
            with ``split="first"``. Otherwise the meta-parameters' predictions are scored.

        Returns
        -------
        float
        """
        y = None if y is None else check_y(y, self)
        return self._score(r2_score, X, y, groups, sample_weight)

    def _make_loss(self):
        return resolve(self.loss, LOSSES, Loss, "loss")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        # Without tasks to compare, a split leaves the meta-parameters themselves hardly determined.
        tags.regressor_tags.poor_score = not isinstance(self.support, str)
        return tags
