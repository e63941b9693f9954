"""Proximal adaptation: a task's parameters stay near the meta-parameters."""

from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_maml._component import check_number, check_option
from sklearn_maml._linalg import chain, matvec
from sklearn_maml._objective.linearization import Linearization
from sklearn_maml._objective.risk import Risk
from sklearn_maml._progress import stage
from sklearn_maml._task_newton import RidgeProblem, ridge_minimum
from sklearn_maml._tasks.lists import as_array
from sklearn_maml._typing import Floats, Pullback
from sklearn_maml.adaptation.inner_loop import InnerLoop
from sklearn_maml.adaptation.prior import Metric, Noise, Starts
from sklearn_maml.adaptation.ridge import RidgeLoop, ridge_gain
from sklearn_maml.adaptation.rule import AdaptationRule, SlopeForm
from sklearn_maml.adaptation.shrinking import Shrinking
from sklearn_maml.adaptation.step_geometry import Geometry
from sklearn_maml.adaptation.structure import chosen_structure
from sklearn_maml.adaptation.task_noise import TaskNoise

__all__ = ["Proximal"]

KINDS = ("auto", "identity", "intercept", "diagonal", "low_rank", "full")


class Proximal(Shrinking):
    """Stay near theta: ridge regression on a task's rows, shrunk towards the meta-parameters.

    ``theta_i = argmin_t sum_j w_j l(y_j, phi_j't) + strength (t - theta)' Sigma^-1 (t - theta)``:
    no step length, and Sigma may be singular. A loss with a constant Hessian counts as the squared
    error here, whatever its factor. For that the solution is ``theta + Sigma F' (F Sigma F' +
    strength W^-1)^-1 (y - F theta)``; other losses take Newton steps to the minimum, in row space
    where a task has fewer rows than features. With a `strength` equal to the variance of
    the noise and Sigma the covariance of the task parameters, the squared error's is the best
    linear unbiased prediction (BLUP) of a linear mixed model. The prior counts as `strength` rows,
    so that a task with more rows moves further.

    What is not given is learned in ``MAMLRegressor.fit``: `metric`, up to its size, so that a
    strength of 1 is right, and then the strength, which leaves the smallest meta-loss.

    Parameters
    ----------
    strength : float, default=None
        In rows. None learns it on the query loss, from at most 2,000 tasks; a number multiplies
        the strength that the learned metric has by itself, so 1 leaves it as it is.
    metric : str or array-like, default="auto"
        Sigma: a matrix (d, d) or its diagonal (d,), the intercept last; or what is to be learned,
        in standardised features, "identity", "intercept", "diagonal", "low_rank" or "full":
        nothing, one variance for the intercept and one for the others,
        one for each, that and common factors (as many as predict held-out tasks best), or all
        covariances. By "reml" a "diagonal" is one in the features' own coordinates. Only features
        that vary within tasks, and the intercept, differ between tasks. "auto" is
        "full" by REML for the squared error and up to 15 such parameters; up to 100 "intercept"
        or "low_rank" by REML, whichever predicts held-out tasks better; "intercept" on the query
        loss beyond. For other losses it is "full" where there are two tasks for each of its
        entries, else "diagonal", both by "reml".
    random_effects : "intercept", or array-like of names, positions or booleans, default=None
        The features whose effects may differ between tasks, beside the intercept; "intercept" for
        the intercept alone, lme4's ``(1 | g)``. None is all features that vary within tasks.
    criterion : {"auto", "reml", "query"}, default="auto"
        "reml" maximises the restricted likelihood of a linear mixed model of all rows, for losses
        other than the squared error one of working responses (penalised quasi-likelihood);
        "query" minimises the meta-loss, and needs query rows that are not support rows. "auto" is
        "reml" for "full" and "low_rank", and "query" for other metrics.
    starts : "auto" or None, default="auto"
        "auto" learns, where a strength or a metric is learned too, the loss is the squared error
        and tasks are split at several numbers of first rows, by how much a task with so many rows
        starts from elsewhere than theta: what is to be predicted lies ahead, and another line fits
        there. Held-out tasks decide whether that helps. None starts all from theta.
    noise : float or ndarray of shape (n_targets,), default=None
        Variance of the noise, for ``predict(return_std=True)`` with the squared error, and for
        ``random_effects()`` unless a mixed model was learned, which has one. None estimates it in
        `fit`: where tasks are split at several numbers of support rows, for each.
    doubt : "auto" or None, default="auto"
        Whether ``predict(return_std=True)`` counts what is not known of theta and, to first order,
        of a metric that was learned: "auto", for the squared error, where tasks are not so many
        that it would not be seen. None takes both for known, as lme4's ``condVar`` does.
    task_noise : "auto", float or None, default=None
        Whether the variance of the noise differs between tasks, for standard deviations and
        intervals with the squared error: drawn as a scaled inverse chi-squared with so many degrees
        of freedom, a number above 2; the shared one counts for 2 rows fewer beside those that a
        task is adapted to. "auto" learns the number (one a target) by maximum likelihood, and
        leaves it at one variance for all where that is as likely. Predictions stay as they are.

    References
    ----------
    Rajeswaran, Finn, Kakade & Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019.
    Robinson, "That BLUP is a good thing", Statistical Science 1991.
    Gelman et al., "Bayesian Data Analysis", 3rd edition, 2013, section 3.3: variances that differ.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor, Proximal
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=101, noise=0.1, random_state=0)
    >>> model = MAMLRegressor(adaptation=Proximal(metric="full"), random_state=0).fit(tasks)
    >>> mean, std = model.adapt(X_new[:5], y_new[:5]).predict(X_new[5:], return_std=True)
    >>> bool(np.abs(mean - y_new[5:]).max() < 4 * std.max())
    True
    """

    affine = of_moments = True
    doubt: Any = None  # of rules that were pickled before there was any
    task_noise: Any = None

    def __init__(
        self,
        strength: float | None = None,
        metric: str | ArrayLike = "auto",
        *,
        random_effects: Literal["intercept"] | ArrayLike | None = None,
        criterion: Literal["auto", "reml", "query"] = "auto",
        starts: Any = "auto",
        noise: float | Floats | None = None,
        doubt: Any = "auto",
        task_noise: Any = None,
    ) -> None:
        self.strength = strength
        self.metric = metric
        self.random_effects = random_effects
        self.criterion = criterion
        self.starts = starts
        self.noise = noise
        self.doubt = doubt
        self.task_noise = task_noise

    @classmethod
    def examples(cls) -> list[Any]:
        """Metrics of full rank, singular ones, and a diagonal; see `Component.examples`."""
        singular = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 4.0]])
        return [cls(0.7, singular + 0.1 * np.eye(3)), cls(0.1, singular), cls(2.0, [1.0, 2.0, 0.0])]

    def validate(self) -> None:
        """Raise for a strength, metric or criterion that is none."""
        if self.strength is not None:
            check_number("strength", self.strength, above=True)
        if self.noise is not None and not isinstance(self.noise, Noise):
            noise = as_array(self.noise)
            if noise.dtype.kind not in "iuf" or noise.ndim > 1:
                raise TypeError(f"noise must be a number or one a target; got {self.noise!r}.")
            if not (np.isfinite(noise).all() and (noise > 0).all()):
                raise ValueError(f"noise must be positive and finite; got {self.noise!r}.")
        check_option("criterion", self.criterion, ("auto", "reml", "query"))
        automatic = isinstance(self.starts, str) and self.starts == "auto"
        if not (self.starts is None or automatic or isinstance(self.starts, Starts)):
            raise ValueError(f"starts must be 'auto' or None; got {self.starts!r}.")
        named_doubt = isinstance(self.doubt, str) and self.doubt in ("auto", "theta")
        if not (self.doubt is None or self._doubts or named_doubt):
            raise ValueError(f"doubt must be 'auto' or None; got {self.doubt!r}.")
        own, automatic = self.task_noise, isinstance(self.task_noise, str)
        if not (own is None or (automatic and own == "auto") or isinstance(own, TaskNoise)):
            check_number("task_noise", own, 2, above=True)  # with fewer it would have no mean
        if self.noise is not None and isinstance(own, TaskNoise):
            own.check_targets(Noise.read(self.noise).variance.shape[1:])
        named = isinstance(self.metric, str)
        if named and self.metric not in KINDS:
            raise ValueError(f"metric must be an array or one of {KINDS}; got {self.metric!r}.")
        if self.random_effects is not None and not named:
            raise ValueError(
                f"random_effects={self.random_effects!r} has no effect with a metric that is given:"
                " there the variance 0 keeps an effect the same in all tasks."
            )
        if self.criterion != "auto" and not (named and self.metric != "identity"):
            raise ValueError(
                f"criterion={self.criterion!r} has no effect with a metric that is not learned."
            )
        if self.criterion != "auto" and self.metric == "auto":
            raise ValueError(
                f"criterion={self.criterion!r} needs a metric to learn: give metric='intercept', "
                "'diagonal' or 'full'; metric='auto' chooses both."
            )

    @property
    def learnable(self) -> bool:
        """Whether metric or strength are to be learned."""
        named = isinstance(self.metric, str) and self.metric != "identity"
        return named or self.strength is None

    def adapt(self, theta: Floats, risk: Risk) -> tuple[Floats, Pullback]:
        """Solve for the task's parameters; see `AdaptationRule.adapt`."""
        if risk.loss.constant_hessian:
            return self.bind(risk).adapt(theta)
        metric = self._metric(risk.features.shape[-1])
        rows, strength = metric.rows(risk.features), self._strength(risk)
        start = np.broadcast_to(risk.predict(theta), risk.targets.shape)
        problem = RidgeProblem(risk.loss, risk.targets, risk.weights, start, rows, strength)
        moved = ridge_minimum(problem)
        hessian = risk.loss.hessian(risk.targets, start + matvec(rows, moved))
        gain = ridge_gain(0.5 * risk.weights * hessian, rows, strength)
        theta_i = theta + metric.lift(moved)

        def pullback(V):
            return V - chain(metric.rows(V), gain, risk.features)

        return theta_i, pullback

    def bind(self, support: Risk, query: Risk | None = None) -> InnerLoop:
        """In closed form for a square, else by `adapt`; see `AdaptationRule.bind`."""
        if not support.loss.constant_hessian:
            return InnerLoop(self, support, query)
        metric = self._metric(support.features.shape[-1])
        starts = self.starts if isinstance(self.starts, Starts) else None
        return RidgeLoop(self, Geometry(support, metric), query, self._strength(support), starts)

    def slope(self, theta: Floats, linearization: Linearization) -> Floats:
        """Derivative in Sigma, not yet symmetric, shape (d, d); see `AdaptationRule.slope`.

        ``theta_i - theta = Sigma e_i`` with ``e_i = -grad R_i(theta_i) / (2 strength_i)``, so that
        ``d theta_i = J_i dSigma e_i``.
        """
        risk = linearization.support
        scale = risk.loss.hessian_bound if risk.loss.constant_hessian else 2.0
        force = risk.gradient(linearization.theta_i) / (-scale * self._strength(risk)[..., None])
        pulled = linearization.task_gradients * linearization.weight[:, None]
        d = force.shape[-1]
        return pulled.reshape(-1, d).T @ force.reshape(-1, d)

    def slope_form(self, risk: Risk) -> SlopeForm | None:
        """``theta - Sigma F' (w s) / (2 strength_i)``; see `AdaptationRule.slope_form`."""
        length = 0.5 / self._strength(risk)
        return SlopeForm(length, self._metric(risk.features.shape[-1]).factor, implicit=True)

    def learn(self, problem: Any) -> tuple[AdaptationRule, Any]:
        """Learn metric and strength where they are not given; see `AdaptationRule.learn`."""
        self._check_noise(problem)
        if isinstance(self.metric, str):
            with stage("metric"):
                effects = problem.random_effects(self.random_effects)
                chosen = chosen_structure(self, problem, int(effects.varies.sum()))
                metric, found = problem.covariance(
                    effects, *chosen, lambda metric: Proximal(1.0, metric)
                )
        else:
            metric = Metric.read(self.metric, problem.n_parameters)
            found = problem.given_covariance(metric)
        strength = self.strength
        if strength is None:
            with stage("strength"):
                strength = self._best_strength(problem, metric, found)
        starts = self.starts
        if not isinstance(starts, Starts):
            wanted = self.learnable and starts is not None
            starts = problem.starts(self._with(metric, strength)) if wanted else None
            shots = () if starts is None else tuple(starts.shots[1:].tolist())
            found = replace(found, starts=shots)
        automatic = isinstance(self.doubt, str)
        doubt = ("auto" if isinstance(self.metric, str) else "theta") if automatic else self.doubt
        rule = self._with(metric, strength, starts, self.noise, doubt)
        return rule, replace(found, strength=rule.strength)

    def calibrate(self, problem: Any, theta: Floats) -> Self:
        """The rule that knows the noise, and what it does not know of theta."""
        if not problem.is_quadratic:
            return self
        doubt, noise = self.doubt, self.noise
        given = None if noise is None or isinstance(noise, Noise) else as_array(noise)
        if given is not None and not problem.n_targets:
            noise = given = given.item()  # of one target one in a list is as good as a number
        if isinstance(doubt, str):
            varies = self._metric(problem.n_parameters).factor.any(axis=1)
            doubt = problem.doubt(varies if doubt == "auto" else ~np.ones_like(varies))
        rule = self._with(self.metric, self.strength, self.starts, noise, doubt)
        if noise is None and not problem.is_interpolated(rule):
            noise = problem.noise(theta, rule)
        elif noise is not None and problem.n_targets:
            noise = Noise.read(noise).of_each(problem.n_targets)
        rule = self._with(self.metric, self.strength, self.starts, noise, doubt)
        own = self.task_noise
        if own is None or isinstance(own, TaskNoise) or noise is None:
            return rule
        freedom = None if isinstance(own, str) else own
        return rule.set_params(task_noise=problem.task_noise(theta, given, freedom))

    def _check_noise(self, problem):
        """Raise for what is said of the variance of the noise and would be ignored."""
        for name in ("noise", "task_noise"):
            if getattr(self, name) is not None and not problem.is_quadratic:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect with {problem.loss!r}: it is of "
                    "the variance of a squared error. Leave it at None."
                )
        if isinstance(self.task_noise, TaskNoise):
            self.task_noise.check_targets((problem.n_targets,) if problem.n_targets else ())
        if self.noise is None:
            return
        n_targets, given = problem.n_targets or 1, Noise.read(self.noise).variance[0].size
        if given not in (1, n_targets):
            raise ValueError(
                f"noise has {given} variances but there are {n_targets} target(s); give one "
                "number, or one a target."
            )

    def _best_strength(self, problem, metric, found):
        """The strength on the query loss; 1 is what a metric has by the criterion that found it."""
        likely = found.criterion == "reml" and not problem.has_query_rows
        if not problem.shows_differences or found.criterion == "query" or likely:
            return 1.0
        problem.need_query_rows("the strength")
        if not problem.shows("the strength", self._with(metric, 1.0)):
            return 1.0
        # A theta for each strength costs much more with other losses, and hardly changes it.
        near, square = found.criterion == "reml", problem.loss.constant_hessian
        theta = found.fixed_effects if near and not square else None
        return 1.0 / problem.best_scale(lambda x: self._with(metric, 1.0 / x), near, theta)

    def _with(self, metric, strength, starts=None, noise=None, doubt=None):
        given = {"starts": starts, "noise": noise, "doubt": doubt, "task_noise": self.task_noise}
        return Proximal(float(strength), metric, **given)

    def _metric(self, d):
        """Sigma of d parameters, as a `Metric`."""
        if self.strength is None or isinstance(self.metric, str):
            raise ValueError(
                f"{self!r} has parameters that are not learned yet; MAMLRegressor.fit learns "
                "them: use the estimator's adaptation_."
            )
        return Metric.read(self.metric, d)

    def _strength(self, risk):
        """lambda_i = strength / rows, shape (...); 1 for a task without rows, which stays."""
        n_rows = risk.n_rows
        return np.where(n_rows > 0, self.strength / np.where(n_rows > 0, n_rows, 1.0), 1.0)
