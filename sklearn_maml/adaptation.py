"""Adaptation rules: from meta-parameters and a task's support rows to the task's parameters.

A rule returns theta_i and its *pullback* ``V -> V J_i`` with ``J_i = d theta_i / d theta``. The
gradient, the exact solver and the certificate are made of nothing else, so a new rule gets all
three. To add one, write a subclass of `AdaptationRule`.
"""

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._component import Component
from sklearn_maml._coordinates import Standardization, standardization
from sklearn_maml._metrics import (
    LOG_DEVIATION,
    LOG_SCALE,
    Metric,
    best_scale,
    minimize_query_loss,
    noise_variance,
    restricted_likelihood,
    task_coordinates,
)
from sklearn_maml._stacked import (
    geometric_sum,
    largest_eigenvalue,
    matvec,
    row_products,
    vecmat,
    weighted_gram,
)

__all__ = [
    "RULES",
    "AdaptationRule",
    "GradientSteps",
    "Learnable",
    "LearnedMetric",
    "Proximal",
    "Standardization",
    "standardization",
]


class Learnable(NamedTuple):
    """A parameter of a rule that is learned from training tasks.

    Attributes
    ----------
    name : str
        The constructor parameter.
    coordinates : str
        In which it is sought: "log", or "cholesky" for a symmetric matrix.
    start : object
    bounds : tuple of (float, float) or None
        Of each coordinate.
    """

    name: str
    coordinates: str
    start: Any
    bounds: tuple | None


class AdaptationRule(Component):
    """Base class of the adaptation rules ``theta_i = A_i(theta)``."""

    @abstractmethod
    def adapt(self, theta, risk):
        """Adapt theta to the rows of a support risk.

        Parameters
        ----------
        theta : ndarray of shape (..., d)
            Meta-parameters; leading axes broadcast against those of `risk`.
        risk : Risk
            Support rows of a stack of tasks: features (..., m, d), targets and weights (..., m).

        Returns
        -------
        theta_i : ndarray of shape (..., d)
            A new array.
        pullback : callable
            Maps rows V (..., k, d) to ``V J_i``, of the same shape.
        """

    @property
    def learnable(self):
        """The `Learnable` parameters that `learn` will set: none, unless a rule says otherwise."""
        return ()

    def learn(self, objective, solver):
        """Learn the parameters that were left to be learned; by default there are none.

        Parameters
        ----------
        objective : MetaObjective
            The meta-objective with this rule: its tasks, split as in `fit`, and its loss.
        solver : Solver
            Finds theta for each candidate.

        Returns
        -------
        rule : AdaptationRule
            With all its parameters set; this rule itself is unchanged.
        learned : object
            What was learned and how, for people to read; None where nothing was.
        """
        return self, None

    def calibrate(self, objective, theta):
        """The rule with what it has to know of the noise once theta is found; by default itself."""
        return self

    def predictive_variance(self, V, risk=None):
        """Variance of the target of rows V, for a task with that support risk (None: any task).

        Parameters
        ----------
        V : ndarray of shape (k, d)
        risk : Risk, default=None

        Returns
        -------
        ndarray of shape (k,) or (n_targets, k)
        """
        raise ValueError(
            f"return_std=True needs a rule that knows how tasks vary, such as adaptation='learned'; "
            f"{type(self).__name__} does not."
        )

    def relative_step(self, risk):
        """Step length times the support Hessian's largest eigenvalue, for each task.

        Above 1 a step overshoots in some direction, above 2 repeated steps diverge. Rules that
        take no steps return 0.
        """
        return np.zeros(risk.weights.shape[:-1])


# A step of exactly 1 / lambda_max would erase theta along that task's top direction.
MARGIN = 1.01


class GradientSteps(AdaptationRule):
    """A few steps of gradient descent on the support risk: the inner loop of MAML.

    ``theta^{k+1} = theta^k - eta_i L L' grad R_i(theta^k)`` for k = 0, ..., n_steps - 1, where L is
    the identity unless `coordinates` are given. The step of a task is capped, ``eta_i =
    min(inner_lr, 1 / lambda_i)``, just above the largest eigenvalue of that support set's Hessian:
    then no direction overshoots and no number of steps can diverge. lambda_i exceeds the
    eigenvalue by 1 to 2 percent, so that a capped task still depends on theta in every direction.
    The cap depends on support inputs only, so that theory and certificate hold unchanged.

    Parameters
    ----------
    inner_lr : float, default=0.1
        Step length eta, positive.
    n_steps : int, default=1
        Number of steps; 0 leaves theta as it is.
    cap : bool, default=True
        False takes steps of exactly `inner_lr`, as the papers write them.
    relative : bool, default=False
        Whether `inner_lr` is in units of 1 / lambda_i, the longest step that overshoots in no
        direction: ``eta_i = inner_lr / lambda_i``, in any units of features and targets.
    coordinates : Standardization, default=None
        Coordinates in which to step; None steps on the parameters themselves.

    References
    ----------
    Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml._objective import Risk
    >>> from sklearn_maml.adaptation import GradientSteps
    >>> from sklearn_maml.losses import SquaredError
    >>> risk = Risk(SquaredError(), np.eye(2), np.array([1.0, 2.0]), np.array([0.5, 0.5]))
    >>> theta_i, pullback = GradientSteps(inner_lr=0.25).adapt(np.zeros(2), risk)
    >>> theta_i
    array([0.25, 0.5 ])
    >>> pullback(np.eye(2))
    array([[0.75, 0.  ],
           [0.  , 0.75]])
    """

    def __init__(self, inner_lr=0.1, n_steps=1, *, cap=True, relative=False, coordinates=None):
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.cap = cap
        self.relative = relative
        self.coordinates = coordinates

    def validate(self):
        """Raise for a step length that is not positive, or a number of steps that is not one."""
        if isinstance(self.inner_lr, bool) or not isinstance(self.inner_lr, Real):
            raise TypeError(f"inner_lr must be a positive number; got {self.inner_lr!r}.")
        if not 0 < self.inner_lr < np.inf:
            raise ValueError(f"inner_lr must be positive and finite; got {self.inner_lr}.")
        if isinstance(self.n_steps, bool) or not isinstance(self.n_steps, Integral):
            raise TypeError(f"n_steps must be an int >= 0; got {self.n_steps!r}.")
        if self.n_steps < 0:
            raise ValueError(f"n_steps must be an int >= 0; got {self.n_steps}.")
        for name in ("cap", "relative"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False; got {getattr(self, name)!r}.")

    def relative_step(self, risk):
        """``eta * lambda_i`` of each task, before the cap, shape (...)."""
        if self.relative:
            return np.full(risk.weights.shape[:-1], float(self.inner_lr))
        return self.inner_lr * self._largest_curvature(risk)

    def adapt(self, theta, risk):
        """Take the steps; see `AdaptationRule.adapt`."""
        if self.n_steps == 0:
            shape = np.broadcast_shapes(theta.shape, (*risk.weights.shape[:-1], 1))
            return np.broadcast_to(theta, shape).copy(), lambda V: V
        step = self._step(risk)
        path = [theta]
        for _ in range(self.n_steps):
            path.append(path[-1] - step[..., None] * self._metric(risk.gradient(path[-1])))
        closed = self.n_steps > 1 and risk.loss.constant_hessian

        def pullback(V):
            if closed and V.shape[-2] > 1:
                return self._pull_back_at_once(V, risk, step)
            for at in reversed(path[:-1]):
                weight = step[..., None] * risk.curvature(at)
                V = V - row_products(self._metric(V), risk.features, weight, risk.features)
            return V

        return path[-1], pullback

    def _pull_back_at_once(self, V, risk, step):
        """``V J`` for a constant Hessian, at a cost that hardly grows with the number of steps.

        With F the rows in the stepping coordinates, W the curvatures and ``T = W^1/2 F F' W^1/2``,
        K steps apply the polynomial ``q(T) = eta sum_{k<K} (I - eta T)^k`` once:
        ``J = I - L F' W^1/2 q(T) W^1/2 Phi``, or ``I - L q(F' W F) F' W Phi`` where rows
        outnumber features.
        """
        rows = self._rows(risk.features)
        left = rows if V is risk.features else self._rows(V)
        curvature = risk.curvature(None)
        gram = weighted_gram(rows, curvature)
        q = geometric_sum(gram, step, self.n_steps)
        if rows.shape[-2] > rows.shape[-1]:
            return V - row_products(np.matmul(left, q), rows, curvature, risk.features)
        root = np.sqrt(curvature)
        q *= root[..., :, None]
        q *= root[..., None, :]
        products = np.matmul(left, np.swapaxes(rows, -1, -2))
        return V - np.matmul(np.matmul(products, q), risk.features)

    def _rows(self, V):
        return V if self.coordinates is None else self.coordinates.rows(V)

    def _lift(self, U):
        return U if self.coordinates is None else self.coordinates.lift(U)

    def _metric(self, V):
        return V if self.coordinates is None else self.coordinates.metric(V)

    def _step(self, risk):
        """The step length of each task, shape (...)."""
        if not (self.cap or self.relative):
            return np.full(risk.weights.shape[:-1], float(self.inner_lr))
        largest = self._largest_curvature(risk)
        if self.relative:
            length = min(self.inner_lr, 1.0) if self.cap else self.inner_lr
            return length / np.where(largest > 0, largest, 1.0)
        return self.inner_lr / np.maximum(1.0, self.inner_lr * largest)

    def _largest_curvature(self, risk):
        """The lambda_i of each support Hessian; or a larger bound, where even that caps nothing."""
        if "largest_curvature" not in risk.memo:
            curvature = risk.weights * risk.loss.hessian_bound
            gram = weighted_gram(self._rows(risk.features), curvature)
            largest = np.asarray(np.sqrt(np.einsum("...ij,...ij->...", gram, gram)))
            near = (largest > 0) if self.relative else (self.inner_lr * largest > 1)
            largest[near] = MARGIN * largest_eigenvalue(gram[near])
            risk.memo["largest_curvature"] = largest
        return risk.memo["largest_curvature"]


# "auto" fits a mixed model with a full covariance up to this number of random effects.
MANY_EFFECTS = 15
# The scale of a metric is one number: this many tasks determine it.
TASKS_FOR_SCALE, TASKS_FOR_NOISE = 2000, 20000
KINDS = ("auto", "identity", "intercept", "diagonal", "full")


@dataclass(frozen=True, eq=False)
class LearnedMetric:
    """What `Proximal` learned from the training tasks, and how; ``print`` tells it.

    Parameters are those of the features, the intercept last. `covariance` and what follows it are
    those of the mixed model, before `strength` was chosen, and None for other criteria.

    Attributes
    ----------
    metric : str
        "identity", "intercept", "diagonal", "full", or "given".
    criterion : {"reml", "query"} or None
        None where nothing but the strength was to be learned.
    reason : str
        Why these were chosen.
    strength : float
        The strength in use, in rows; 1 is what the criterion itself found.
    varies : ndarray of bool, shape (d,)
        Parameters that differ between tasks.
    covariance : ndarray of shape (d, d)
        Covariance of the random effects (of the first target).
    residual_variance : ndarray of shape () or (n_targets,)
    fixed_effects : ndarray of shape (d,) or (n_targets, d)
    log_likelihood : float
        Log restricted likelihood, summed over targets.
    singular : bool
        Whether some direction has no variance.
    n_iter : int
    converged : bool
    """

    metric: str
    criterion: str | None
    reason: str
    strength: float
    varies: np.ndarray
    covariance: np.ndarray | None = None
    residual_variance: np.ndarray | None = None
    fixed_effects: np.ndarray | None = None
    log_likelihood: float | None = None
    singular: bool | None = None
    n_iter: int = 0
    converged: bool = True

    def __str__(self):
        how = {"reml": " by REML", "query": " on the query loss", None: ""}[self.criterion]
        lines = [
            f"Proximal adaptation, metric {self.metric}{how}: {self.reason}.",
            f"  parameters that differ between tasks  {int(self.varies.sum())} of "
            f"{len(self.varies)}",
            f"  strength                              {self.strength:.4g} row(s)",
        ]
        if self.criterion == "reml":
            deviation = np.sqrt(np.diagonal(self.covariance))
            lines += [
                f"  log restricted likelihood             {self.log_likelihood:.6g}",
                f"  residual standard deviation           {np.sqrt(self.residual_variance)}",
                f"  fixed effects                         {self.fixed_effects}",
                f"  standard deviations between tasks     {deviation}",
            ]
            lines += ["  the covariance is singular: a direction has no variance"] * self.singular
        return "\n".join(lines)


class Proximal(AdaptationRule):
    """Stay near theta: ridge regression on a task's rows, shrunk towards the meta-parameters.

    ``theta_i = argmin_t sum_j w_j (phi_j' t - y_j)^2 + strength (t - theta)' Sigma^-1 (t - theta)``,
    which is ``theta + Sigma F' (F Sigma F' + strength W^-1)^-1 (y - F theta)``: no step length, and
    Sigma may be singular. With a `strength` equal to the variance of the noise and Sigma the
    covariance of the task parameters it is the best linear unbiased prediction (BLUP) of a linear
    mixed model. The prior counts as `strength` rows, so that a task with more rows moves further.

    What is not given is learned in ``MAMLRegressor.fit``: `metric`, up to its size, so that a
    strength of 1 is right, and then the strength, which leaves the smallest meta-loss.

    Parameters
    ----------
    strength : float, default=None
        In rows. None learns it on the query loss, from at most 2,000 tasks; a number multiplies
        the strength that the learned metric has by itself, so 1 leaves it as it is.
    metric : {"auto", "identity", "intercept", "diagonal", "full"} or array-like, default="auto"
        Sigma: a matrix (d, d) or its diagonal (d,), the intercept last; or what is to be learned,
        in standardised features: nothing, one variance for the intercept and one for the others,
        one for each, or all covariances. Only features that vary within tasks, and the
        intercept, differ between tasks. "auto" is "full" by REML for up to 15 such parameters and
        "diagonal" on the query loss beyond.
    criterion : {"auto", "reml", "query"}, default="auto"
        "reml" maximises the restricted likelihood of a linear mixed model of all rows; "query"
        minimises the meta-loss, and needs query rows that are not support rows. "auto" is "reml" for
        "full" and "query" for other metrics.
    noise : float or ndarray of shape (n_targets,), default=None
        Variance of the noise, for ``predict(return_std=True)``. None estimates it in `fit`.

    References
    ----------
    Rajeswaran, Finn, Kakade & Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019.
    Robinson, "That BLUP is a good thing", Statistical Science 1991.

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

    def __init__(self, strength=None, metric="auto", *, criterion="auto", noise=None):
        self.strength = strength
        self.metric = metric
        self.criterion = criterion
        self.noise = noise

    def validate(self):
        """Raise for a strength, metric or criterion that is none."""
        if self.strength is not None:
            if isinstance(self.strength, bool) or not isinstance(self.strength, Real):
                raise TypeError(f"strength must be a positive number; got {self.strength!r}.")
            if not 0 < self.strength < np.inf:
                raise ValueError(f"strength must be positive and finite; got {self.strength}.")
        if self.criterion not in ("auto", "reml", "query"):
            raise ValueError(
                f"criterion must be 'auto', 'reml' or 'query'; got {self.criterion!r}."
            )
        named = isinstance(self.metric, str)
        if named and self.metric not in KINDS:
            raise ValueError(f"metric must be an array or one of {KINDS}; got {self.metric!r}.")
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
    def learnable(self):
        """The metric, where it is named, and the strength, where it is None."""
        metric = strength = ()
        if isinstance(self.metric, str) and self.metric != "identity":
            full = self.metric in ("auto", "full")
            coordinates = ("cholesky", None) if full else ("log", LOG_DEVIATION)
            metric = (Learnable("metric", coordinates[0], 1.0, coordinates[1]),)
        if self.strength is None:
            strength = (Learnable("strength", "log", 1.0, (-LOG_SCALE, LOG_SCALE)),)
        return metric + strength

    def adapt(self, theta, risk):
        """Solve for the task's parameters; see `AdaptationRule.adapt`."""
        _check_squared(risk.loss)
        factor = self._factor(risk.features.shape[-1])
        gain = self._gain(risk, np.matmul(risk.features, factor))
        moved = matvec(gain, _residual(risk, theta))
        theta_i = theta + matvec(factor, moved)

        def pullback(V):
            return V - np.matmul(np.matmul(np.matmul(V, factor), gain), risk.features)

        return theta_i, pullback

    def force(self, theta_i, risk):
        """``e_i`` with ``theta_i - theta = Sigma e_i``, shape (..., d)."""
        weights = risk.weights / self._strength(risk)[..., None]
        return vecmat(weights * _residual(risk, theta_i), risk.features)

    def spread(self, V, risk=None):
        """Variance of ``V theta_i`` given the support rows, in units of the noise's.

        Parameters
        ----------
        V : ndarray of shape (..., k, d)
        risk : Risk, default=None
            Support rows; None for a task of which nothing is known.

        Returns
        -------
        ndarray of shape (..., k)
        """
        factor = self._factor(V.shape[-1])
        rows = np.matmul(V, factor)
        left = rows
        if risk is not None:
            support = np.matmul(risk.features, factor)
            left = rows - np.matmul(np.matmul(rows, self._gain(risk, support)), support)
        return np.maximum((left * rows).sum(axis=-1), 0.0) / self.strength

    def predictive_variance(self, V, risk=None):
        """``noise (1 + spread)``; see `AdaptationRule.predictive_variance`."""
        noise = np.asarray(self.noise)
        return noise[..., None] * (1.0 + self.spread(V, risk))

    def learn(self, objective, solver):
        """Learn metric and strength where they are not given; see `AdaptationRule.learn`."""
        _check_squared(objective.loss)
        if not isinstance(self.metric, str):
            metric = _as_metric(self.metric, objective.n_parameters)
            found = LearnedMetric("given", None, "as given", 1.0, metric.factor.any(axis=1))
            return self._finish(metric, found, objective, solver)
        coordinates = task_coordinates(objective.blocks)
        kind, criterion, reason = self._choose(coordinates)
        found = LearnedMetric(kind, criterion, reason, 1.0, coordinates.varies)
        if len(objective.blocks.tasks.weight) < 2 or kind == "identity":
            return self._finish(Metric(coordinates.lift), found, objective, solver)
        learn = {"reml": _by_reml, "query": _by_query}[criterion]
        metric, found = learn(found, coordinates, objective, solver)
        if not found.converged:
            warnings.warn(
                f"The metric {kind!r} did not converge in {found.n_iter} iterations "
                f"(criterion {criterion!r}); it is used as it is.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return self._finish(metric, found, objective, solver)

    def calibrate(self, objective, theta):
        """The rule with an estimate of the noise's variance, where none was given."""
        if self.noise is not None:
            return self
        few = objective.vary(blocks=objective.blocks.sample(TASKS_FOR_NOISE))
        return self._with(self.metric, self.strength, noise=noise_variance(few, theta))

    def _choose(self, coordinates):
        """Metric, criterion and the reason for them."""
        n_effects = int(coordinates.varies.sum())
        if self.metric != "auto":
            criterion = "reml" if self.metric == "full" else "query"
            criterion = criterion if self.criterion == "auto" else self.criterion
            return self.metric, None if self.metric == "identity" else criterion, "as asked for"
        reason = f"{n_effects} parameter(s) can differ between tasks"
        if n_effects <= MANY_EFFECTS:
            return "full", "reml", f"{reason}, few enough for a full covariance"
        return "diagonal", "query", f"{reason}, too many for a full covariance"

    def _finish(self, metric, found, objective, solver):
        """The rule with that metric and with its strength, and what was found."""
        strength, reason = self.strength, found.reason
        if len(objective.blocks.tasks.weight) < 2:
            metric, reason = _no_metric(metric), "one task does not show how tasks differ"
            warnings.warn(
                "There is one task only, which does not show how tasks differ: adapting will "
                "return the meta-parameters. Pass groups= or a list of tasks.",
                UserWarning,
                stacklevel=5,
            )
        elif strength is None and found.criterion == "query":
            strength = 1.0
        elif strength is None and objective.blocks.episodes.support != "all":
            few = objective.vary(blocks=objective.blocks.sample(TASKS_FOR_SCALE))
            near = found.criterion == "reml"
            scale = best_scale(few, solver, lambda x: self._with(metric, 1.0 / x), near)
            strength = 1.0 / scale
        elif strength is None and found.criterion is None:
            raise ValueError(_needs_query("strength"))
        rule = self._with(metric, 1.0 if strength is None else strength, self.noise)
        return rule, replace(found, strength=rule.strength, reason=reason)

    def _with(self, metric, strength, noise=None):
        return Proximal(float(strength), metric, noise=noise)

    def _factor(self, d):
        """L of shape (d, q)."""
        if self.strength is None or isinstance(self.metric, str):
            raise ValueError(
                f"{self!r} has parameters that are not learned yet; MAMLRegressor.fit learns "
                "them: use the estimator's adaptation_."
            )
        return _as_metric(self.metric, d).factor

    def _strength(self, risk):
        """lambda_i = strength / rows, shape (...); 1 for a task without rows, which stays."""
        n_rows = risk.n_rows
        return np.where(n_rows > 0, self.strength / np.where(n_rows > 0, n_rows, 1.0), 1.0)

    def _gain(self, risk, rows):
        """S of shape (..., q, m) with ``theta_i = theta + L S (y - F theta)``, for rows F L.

        In row space where a task has fewer rows than the metric has directions.
        """
        strength = self._strength(risk)[..., None, None]
        weights = risk.weights[..., None]
        m, q = rows.shape[-2:]
        if m <= q:
            root = np.sqrt(weights)
            scaled = root * rows
            gram = np.matmul(scaled, np.swapaxes(scaled, -1, -2)) + strength * np.eye(m)
            return np.swapaxes(root * np.linalg.solve(gram, scaled), -1, -2)
        weighted = np.swapaxes(weights * rows, -1, -2)
        return np.linalg.solve(np.matmul(weighted, rows) + strength * np.eye(q), weighted)


def _check_squared(loss):
    """Raise for a loss whose proximal step has no closed form."""
    if not loss.constant_hessian:
        raise ValueError(
            f"Proximal needs a quadratic loss, such as 'squared_error'; got {loss!r}. "
            "GradientSteps takes any loss."
        )


def _residual(risk, theta):
    """``y - F theta``: by how much predictions must rise to be right, shape (..., m)."""
    return -risk.loss.gradient(risk.targets, risk.predict(theta)) / risk.loss.hessian_bound


def _as_metric(metric, d):
    """A `Metric` for d parameters from what a user may give; errors say what was expected."""
    if not isinstance(metric, Metric):
        covariance = np.asarray(metric, dtype=float)
        if covariance.shape not in ((d,), (d, d)) or not np.isfinite(covariance).all():
            raise ValueError(
                f"metric must be finite and of shape ({d},) or ({d}, {d}), one entry for each "
                f"parameter, the intercept last; got shape {covariance.shape}."
            )
        matrix = np.diag(covariance) if covariance.ndim == 1 else covariance
        size = np.abs(matrix).max(initial=0.0)
        if np.abs(matrix - matrix.T).max() > 1e-10 * size or (
            np.linalg.eigvalsh(matrix).min() < -1e-10 * size
        ):
            raise ValueError("metric must be symmetric and positive semi-definite.")
        return Metric.from_covariance(covariance)
    if len(metric.factor) != d:
        raise ValueError(f"The metric is for {len(metric.factor)} parameters, but there are {d}.")
    return metric


def _no_metric(metric):
    """The metric of tasks that do not differ."""
    return Metric(metric.factor[:, :0])


def _needs_query(what):
    return (
        f"support='all' leaves no query rows of their own to learn the {what} on; give support= "
        "a number of rows, a list of them or a fraction, or use support='auto'."
    )


def _by_reml(found, coordinates, objective, solver):
    """Metric and report of the restricted likelihood."""
    metric, model = restricted_likelihood(objective, coordinates, found.metric)
    several = objective.n_targets
    return metric, replace(
        found,
        covariance=metric.covariance * model.noise[0],
        residual_variance=model.noise if several else model.noise[0],
        fixed_effects=model.fixed if several else model.fixed[0],
        log_likelihood=model.log_likelihood,
        singular=model.singular,
        n_iter=model.n_iter,
        converged=model.converged,
    )


def _by_query(found, coordinates, objective, solver):
    """Metric and report of the query loss."""
    if objective.blocks.episodes.support == "all":
        raise ValueError(_needs_query(f"metric {found.metric!r}"))
    unit = Metric(coordinates.lift)
    few = objective.vary(blocks=objective.blocks.sample(TASKS_FOR_SCALE))
    start = best_scale(few, solver, lambda x: Proximal(1.0 / x, unit))
    metric, n_iter, converged = minimize_query_loss(
        objective, solver, lambda metric: Proximal(1.0, metric), coordinates, found.metric, start
    )
    return metric, replace(found, n_iter=n_iter, converged=converged)


RULES = {"gradient_steps": GradientSteps, "learned": Proximal, "proximal": Proximal}
