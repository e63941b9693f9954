"""Gradient steps: the inner loop of MAML."""

from functools import partial
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import geometric_sum
from sklearn_maml._objective.linearization import Linearization
from sklearn_maml._objective.risk import Risk
from sklearn_maml._progress import stage
from sklearn_maml._typing import Floats, Pullback
from sklearn_maml.adaptation.affine import AffineLoop
from sklearn_maml.adaptation.inner_loop import InnerLoop
from sklearn_maml.adaptation.rule import AdaptationRule, SlopeForm
from sklearn_maml.adaptation.standardization import Standardization
from sklearn_maml.adaptation.step_geometry import Geometry, StepMetric
from sklearn_maml.adaptation.step_length import EvenLengths, StepLength, check_step_lengths
from sklearn_maml.adaptation.step_path import StepPath

__all__ = ["GradientSteps"]


# Up to this many steps are taken one by one where only theta_i is asked for.
FEW_STEPS = 8


class GradientSteps(AdaptationRule):
    """A few steps of gradient descent on the support risk: the inner loop of MAML.

    ``theta^{k+1} = theta^k - eta_i L L' grad R_i(theta^k)`` for k = 0, ..., n_steps - 1, where L is
    the identity unless `coordinates` are given. The step of a task is capped, ``eta_i =
    min(inner_lr, 1 / lambda_i)``, just above the largest eigenvalue of that support set's Hessian:
    then no direction overshoots and no number of steps can diverge. lambda_i exceeds the
    eigenvalue by 1 to 6 percent, so that a capped task still depends on theta in every direction.
    The cap depends on support inputs only, so that theory and certificate hold unchanged.

    Losses of unbounded curvature (`Poisson`, `Gamma`, `Tweedie`) have no such eigenvalue for all
    theta. For them the step is damped by where it starts, and its derivative is part of the
    pullback: ``eta_i = 1 / hypot(1 / inner_lr, lambda_i(theta^k))``, or ``inner_lr /
    lambda_i(theta^k)`` if `relative`. lambda_i is a smooth bound on the largest eigenvalue of
    ``sum_j a_j w_j phi_j phi_j'`` with ``w_j = hypot(l''(y_j, z_j), l''(y_j, link(y_j)))``. The
    curvature at the target keeps a step from far below it from overshooting, where l'' is tiny.

    Parameters
    ----------
    inner_lr : float, array-like of shape (d,) or "learn", default=0.1
        Step length eta, positive; or one a parameter (Meta-SGD), the intercept last, none
        negative. Then steps are ``eta * r * gradient``, with eta the largest length, capped as a
        whole, and r the ratios to it. "learn" finds one a parameter in ``MAMLRegressor.fit``, in
        standardised features: those that leave the smallest meta-loss, sought without the cap,
        and with it their common scale.
    n_steps : int, default=1
        Number of steps; 0 leaves theta as it is.
    cap : bool, default=True
        False takes steps of exactly `inner_lr`, as the papers write them.
    relative : bool, default=False
        Whether `inner_lr` is in units of 1 / lambda_i, the longest step that overshoots in no
        direction: ``eta_i = inner_lr / lambda_i``, in any units of features and targets.
    coordinates : Standardization, default=None
        Coordinates in which to step; None steps on the parameters themselves.
    first_order : bool, default=False
        Whether the pullback is the identity instead of the derivative (first-order MAML). For the
        solvers `GradientDescent` and `SGD`; certificates use the true derivative.

    Notes
    -----
    Several steps at the cap take a task almost all the way to its own fit along the steepest
    direction: after K of them theta counts for as little as ``0.06^K`` there. Where all tasks are
    capped, and adapt to the rows they are judged on (``support="all"``), theta is then hardly
    determined in that direction. Shorter steps, or ``relative=True``, avoid it.

    References
    ----------
    Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    ICML 2017. Li, Zhou, Chen & Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning",
    arXiv 1707.09835, 2017.

    Examples
    --------
    >>> from sklearn_maml import GradientSteps, MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=50, random_state=0)
    >>> model = MAMLRegressor(adaptation=GradientSteps(0.05, n_steps=5)).fit(tasks)
    >>> model.adaptation_
    GradientSteps(inner_lr=0.05, n_steps=5)
    """

    affine = of_moments = True

    def __init__(
        self,
        inner_lr: ArrayLike | Literal["learn"] = 0.1,
        n_steps: int = 1,
        *,
        cap: bool = True,
        relative: bool = False,
        coordinates: Standardization | None = None,
        first_order: bool = False,
    ) -> None:
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.cap = cap
        self.relative = relative
        self.coordinates = coordinates
        self.first_order = first_order

    @classmethod
    def examples(cls) -> list[Any]:
        """No step, one and several, of each kind of length; see `Component.examples`."""
        units = Standardization(np.array([0.5, -0.2, 0.0]), np.array([1.0, 2.0, 0.25]))
        lengths = [0.2, 0.0, 0.1]
        return [
            cls(0.1, 0),
            cls(0.02, cap=False),
            cls(3.0, 2),
            cls(0.7, 5, relative=True),
            cls(1.2, relative=True, cap=False),
            cls(0.5, 2, relative=True, coordinates=units),
            cls(lengths),
            cls(lengths, 5, relative=True, coordinates=units),
            cls(0.3, 3, first_order=True),
        ]

    def validate(self) -> None:
        """Raise for a step length that is not positive, or a number of steps that is not one."""
        if not self.learnable:
            check_step_lengths(self.inner_lr)
        if isinstance(self.n_steps, bool) or not isinstance(self.n_steps, Integral):
            raise TypeError(f"n_steps must be an int >= 0; got {self.n_steps!r}.")
        if self.n_steps < 0:
            raise ValueError(f"n_steps must be an int >= 0; got {self.n_steps}.")
        for name in ("cap", "relative", "first_order"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False; got {getattr(self, name)!r}.")
        if self.coordinates is not None:
            if not isinstance(self.coordinates, Standardization):
                raise TypeError(
                    f"coordinates must be None or a Standardization; got {self.coordinates!r}."
                )
            self.coordinates.validate()
        if self.learnable and (self.relative or self.n_steps == 0 or self.coordinates is not None):
            raise ValueError(
                "inner_lr='learn' learns lengths in standardised features, for one step or more; "
                f"it needs relative=False, coordinates=None and n_steps >= 1; got {self!r}."
            )

    @property
    def lengths(self) -> tuple[Any, bool]:
        """`inner_lr`, and whether steps are capped."""
        return self.inner_lr, self.cap

    @property
    def learnable(self) -> bool:
        """Whether the lengths are to be learned."""
        return isinstance(self.inner_lr, str) and self.inner_lr == "learn"

    def learn(self, problem: Any) -> tuple[AdaptationRule, Any]:
        """Learn one length a parameter, if asked to; see `AdaptationRule.learn`."""
        if not self.learnable:
            return self, None
        if problem.shows_differences:
            problem.need_query_rows("the lengths of steps")
        given = {**self.get_params(deep=False), "coordinates": problem.standardization}

        def steps(lengths, **changed):
            return GradientSteps(**{**given, "inner_lr": lengths, **changed})

        # Only damping is smooth in the lengths: a cap comes in afterwards.
        damped = StepLength(1.0, self.cap, self.relative).is_damped(problem.loss)
        with stage("lengths"):
            found = problem.step_lengths(partial(steps, cap=damped, first_order=False))
        if not found.inner_lr.any():  # no step is a step of length 0, which none can be
            return steps(found.inner_lr, n_steps=0), found
        if self.cap and not damped:
            scale = problem.best_scale(lambda scale: steps(scale * found.inner_lr), near=True)
            found = found.scaled(scale)
        return steps(found.inner_lr), found

    def slope(self, theta: Floats, linearization: Linearization) -> Floats:
        """Derivative in the lengths l of uncapped or damped steps; see `AdaptationRule.slope`.

        With v the loss's derivative in ``theta^{k+1}``, and ``s L diag(l) L' g`` the step, damped
        by s, from ``theta^k``, that in l is ``- s (v L) (g L)``; that of s comes in addition.
        """
        path = StepPath(self, self._geometry(linearization.support), None, self._step, self.n_steps)
        standardise = StepMetric(self.coordinates).rows
        v = linearization.weight[:, None] * linearization.adapted_gradients
        total = np.zeros(theta.shape[-1])
        strides, _ = path.walk(theta[..., None, :])
        for stride in reversed(strides):
            share = stride.length[..., None] / self._step.longest
            gradient = path.support.gradient(stride.start)
            part = -share * standardise(v) * standardise(gradient)
            if path.damped:
                along = (v * stride.move).sum(axis=-1, keepdims=True)
                shares = self._step.shares(path.geometry, stride.start, stride.length)
                part = part + along * shares / np.asarray(self.inner_lr)
            total += part.reshape(-1, len(total)).sum(axis=0)
            v = path.walk_back([stride], v[..., None, :])[..., 0, :]
        return total

    def exact(self) -> Self:
        """These steps with ``first_order=False``."""
        if not self.first_order:
            return self
        return type(self)(**{**self.get_params(deep=False), "first_order": False})

    def slope_form(self, risk: Risk) -> SlopeForm | None:
        """Steps of given length, or capped ones; see `AdaptationRule.slope_form`."""
        d = risk.features.shape[-1]
        if self.n_steps == 0:
            return SlopeForm(np.zeros(risk.weights.shape[:-1]), np.eye(d))
        if self._step.is_damped(risk.loss):
            return None
        geometry = self._geometry(risk)
        factor = geometry.metric.rows(np.eye(d))
        return SlopeForm(EvenLengths(self._step, geometry).length, factor, self.n_steps)

    def adapt(self, theta: Floats, risk: Risk) -> tuple[Floats, Pullback]:
        """Take the steps; see `AdaptationRule.adapt`."""
        if self.n_steps == 0:
            shape = np.broadcast_shapes(theta.shape, (*risk.weights.shape[:-1], 1))
            return np.broadcast_to(theta, shape).copy(), lambda V: V
        theta_i, pullback = self._bind_exact(risk).adapt(theta)
        return theta_i, (lambda V: V) if self.first_order else pullback

    def bind(self, support: Risk, query: Risk | None = None) -> InnerLoop:
        """The steps of a stack of tasks: their lengths, and for a square the closed form."""
        if self.n_steps == 0:
            return InnerLoop(self, support, query)
        if self.first_order:
            return FirstOrderLoop(self, self._bind_exact(support), query)
        return self._bind_exact(support, query)

    def _bind_exact(self, support, query=None):
        geometry, step = self._geometry(support), self._step
        if support.loss.constant_hessian:
            return AffineSteps(self, geometry, query, step, self.n_steps)
        return StepPath(self, geometry, query, step, self.n_steps)

    def _geometry(self, risk):
        d = risk.features.shape[-1]
        if self.coordinates is not None and len(self.coordinates.mean) != d:
            raise ValueError(
                f"coordinates are of {len(self.coordinates.mean)} parameters but there are {d} (of "
                "each feature, then the intercept if it is fitted)."
            )
        if np.ndim(self.inner_lr) == 0:
            return Geometry(risk, StepMetric(self.coordinates))
        if len(self.inner_lr) != d:
            raise ValueError(
                f"inner_lr has {len(self.inner_lr)} step lengths but there are {d} parameters (one "
                "a feature, then the intercept if it is fitted)."
            )
        ratios = np.asarray(self.inner_lr, dtype=float) / self._step.longest
        return Geometry(risk, StepMetric(self.coordinates, ratios))

    @property
    def _step(self):
        """The length of the steps, or of the longest of them."""
        if self.learnable:
            raise ValueError(
                f"{self!r} has lengths that are not learned yet; MAMLRegressor.fit learns them: "
                "use the estimator's adaptation_."
            )
        return StepLength(float(np.max(self.inner_lr)), self.cap, self.relative)


class AffineSteps(AffineLoop):
    """Gradient steps on a square: ``q(S) = eta sum_{k<K} (I - eta S)^k``; see `AffineLoop`."""

    def __init__(self, rule, geometry, query, step, n_steps):
        super().__init__(rule, geometry, query)
        self.path = StepPath(rule, geometry, query, step, n_steps)

    @property
    def relative_step(self):
        """Before the cap; see `InnerLoop.relative_step`."""
        return self.path.relative_step

    def recall(self, facts):
        """See `StepPath.recall`."""
        self.path.recall(facts)

    def adapt(self, theta):
        """A few steps one by one, which reads the rows less often than to make the filter does."""
        if self.path.n_steps > FEW_STEPS:
            return super().adapt(theta)
        return self.path.walk(theta)[1], self._pullback

    @cached_property
    def spectral(self):
        """See `AffineLoop.spectral`."""
        lengths, n_steps = self.path.lengths, self.path.n_steps
        if n_steps == 1:
            return lengths.length
        return geometric_sum(lengths.gram, lengths.length, n_steps)


class FirstOrderLoop(InnerLoop):
    """An inner loop whose derivative is taken for the identity: first-order MAML."""

    def __init__(self, rule, exact, query):
        super().__init__(rule, exact.support, query)
        self.exact = exact

    @property
    def relative_step(self):
        """That of the steps themselves."""
        return self.exact.relative_step

    def recall(self, facts):
        """Those of the steps themselves."""
        self.exact.recall(facts)

    def adapt(self, theta):
        """theta_i, and a pullback that leaves rows as they are."""
        return self.exact.adapt(theta)[0], lambda V: V
