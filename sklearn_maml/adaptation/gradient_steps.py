"""Gradient steps: the inner loop of MAML."""

from functools import partial
from numbers import Integral

import numpy as np

from sklearn_maml._learning.step_lengths import LOG_LENGTH, LearnedSteps, learn_lengths
from sklearn_maml._learning.variable_projection import Learnable, best_scale, need_query_rows
from sklearn_maml._linalg import (
    curvature_norm,
    geometric_sum,
    largest_eigenvalue,
    row_products,
    vecmat,
)
from sklearn_maml._tasks.stacks import moments
from sklearn_maml.adaptation.rule import AdaptationRule, SlopeForm
from sklearn_maml.adaptation.standardization import Standardization
from sklearn_maml.adaptation.step_geometry import Geometry, Stride, follow
from sklearn_maml.adaptation.step_length import check_step_lengths

__all__ = ["GradientSteps"]

# A step of exactly 1 / lambda_max would erase theta along that task's top direction.
MARGIN = 1.01

# Up to this many steps are taken one by one, where the loss would allow to take them at once.
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

    affine = True

    def __init__(
        self,
        inner_lr=0.1,
        n_steps=1,
        *,
        cap=True,
        relative=False,
        coordinates=None,
        first_order=False,
    ):
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.cap = cap
        self.relative = relative
        self.coordinates = coordinates
        self.first_order = first_order

    def validate(self):
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
        if self.learnable and (self.relative or self.n_steps == 0 or self.coordinates is not None):
            raise ValueError(
                "inner_lr='learn' learns lengths in standardised features, for one step or more; "
                f"it needs relative=False, coordinates=None and n_steps >= 1; got {self!r}."
            )

    @property
    def lengths(self):
        """`inner_lr`, and whether steps are capped."""
        return self.inner_lr, self.cap

    @property
    def learnable(self):
        """The lengths, where they are to be learned."""
        if not (isinstance(self.inner_lr, str) and self.inner_lr == "learn"):
            return ()
        return (Learnable("inner_lr", "log", 1.0, LOG_LENGTH),)

    def learn(self, objective, solver):
        """Learn one length a parameter, if asked to; see `AdaptationRule.learn`."""
        if not self.learnable:
            return self, None
        blocks = objective.blocks
        standard = Standardization.from_moments(*moments(blocks), blocks.features.intercept, 1.0)
        given = {**self.get_params(deep=False), "coordinates": standard}

        def steps(lengths, **changed):
            return GradientSteps(**{**given, "inner_lr": lengths, **changed})

        need_query_rows(objective, "the lengths of steps")
        if len(blocks.tasks.weight) < 2:  # one task does not show how tasks differ
            found = LearnedSteps(np.zeros(objective.n_parameters), 0, True)
            return steps(found.inner_lr, n_steps=0), found
        # Only damping is smooth in the lengths: a cap comes in afterwards.
        damped = self._is_damped(objective.loss)
        sought = partial(steps, cap=damped, first_order=False)
        found = learn_lengths(objective, solver, sought)
        if self.cap and not damped:
            longer = lambda scale: steps(scale * found.inner_lr)  # noqa: E731
            found = found.scaled(best_scale(objective, solver, longer, near=True))
        return steps(found.inner_lr), found

    def slope(self, theta, linearization):
        """Derivative in the lengths l of uncapped or damped steps; see `AdaptationRule.slope`.

        With v the loss's derivative in ``theta^{k+1}``, and ``s L diag(l) L' g`` the step, damped
        by s, from ``theta^k``, that in l is ``- s (v L) (g L)``; that of s comes in addition.
        """
        risk = linearization.support
        geometry = self._geometry(risk)
        step = None if self._is_damped(risk.loss) else self._step(risk, geometry)
        v = linearization.weight[:, None] * linearization.adapted_gradients
        total = np.zeros(theta.shape[-1])
        path, _ = self._walk(theta[..., None, :], risk, step, geometry)
        for stride in reversed(path):
            share = stride.step[..., None] / self._length()
            part = -share * self._standardise(v) * self._standardise(risk.gradient(stride.start))
            if step is None:
                along = (v * stride.move).sum(axis=-1, keepdims=True)
                part = part + along * self._damping(stride, risk, geometry)
            total += part.reshape(-1, len(total)).sum(axis=0)
            v = self._walk_back([stride], risk, v[..., None, :])[..., 0, :]
        return total

    def _damping(self, stride, risk, geometry):
        """Minus the gradient, in the lengths, of a damped step's logarithm, shape (..., d)."""
        root = np.sqrt(risk.weights * self._bend(risk, stride.start))
        columns = np.swapaxes(root[..., None] * geometry.rows, -1, -2)
        largest, shares = curvature_norm(columns, np.ones(columns.shape[-2]))
        return shares * np.square(stride.step * largest)[..., None] / np.asarray(self.inner_lr)

    def exact(self):
        """These steps with ``first_order=False``."""
        if not self.first_order:
            return self
        return type(self)(**{**self.get_params(deep=False), "first_order": False})

    def relative_step(self, risk):
        """``eta * lambda_i`` of each task, before the cap, shape (...).

        Where lambda_i depends on theta, that of predictions which fit the targets exactly.
        """
        if self.relative or self.n_steps == 0:
            return np.full(risk.weights.shape[:-1], self._length() * (self.n_steps > 0))
        if np.isfinite(risk.loss.hessian_bound):
            return self._length() * self._largest_curvature(risk, self._geometry(risk))
        at_targets = risk.weights * risk.loss.saturated_hessian(risk.targets)
        largest, _ = curvature_norm(self._geometry(risk).rows, at_targets)
        return self._length() * largest.reshape(-1, *risk.weights.shape[:-1]).max(axis=0)

    def slope_form(self, risk):
        """Steps of given length, or capped ones; see `AdaptationRule.slope_form`."""
        d, shape = risk.features.shape[-1], risk.weights.shape[:-1]
        if self.n_steps == 0:
            return SlopeForm(np.zeros(shape), np.eye(d))
        if self._is_damped(risk.loss):
            return None
        factor = self._lift(np.eye(d)).T
        return SlopeForm(self._step(risk, self._geometry(risk)), factor, self.n_steps)

    def adapt(self, theta, risk):
        """Take the steps; see `AdaptationRule.adapt`."""
        if self.n_steps == 0:
            shape = np.broadcast_shapes(theta.shape, (*risk.weights.shape[:-1], 1))
            return np.broadcast_to(theta, shape).copy(), lambda V: V
        if self._is_damped(risk.loss):
            path, theta_i = self._walk(theta, risk, None, self._geometry(risk))
            pullback = partial(self._walk_back, path, risk)
        else:
            theta_i, pullback = self._adapt_evenly(theta, risk)
        return theta_i, (lambda V: V) if self.first_order else pullback

    def follow(self, theta, support, query):
        """Take the steps in the space of rows; see `AdaptationRule.follow`."""
        few = self.n_steps <= FEW_STEPS or not support.loss.constant_hessian
        even = self.n_steps > 0 and not (self.first_order or self._is_damped(support.loss))
        geometry = self._geometry(support)
        if support.kept is None or geometry.tall or not (few and even):
            return None
        return follow(theta, support, query, geometry, self._step(support, geometry), self.n_steps)

    def _is_damped(self, loss):
        return (self.cap or self.relative) and not np.isfinite(loss.hessian_bound)

    def _adapt_evenly(self, theta, risk):
        """Steps whose length does not depend on theta."""
        geometry = self._geometry(risk)
        step = self._step(risk, geometry)
        if risk.loss.constant_hessian and self.n_steps > FEW_STEPS:
            pullback = partial(self._pull_back_at_once, risk, step, geometry)
            return theta - self._all_steps(theta, risk, step, geometry), pullback
        path, theta_i = self._walk(theta, risk, step, geometry)

        def pullback(V):
            if risk.loss.constant_hessian and V.shape[-2] > 1:
                return self._pull_back_at_once(risk, step, geometry, V)
            return self._walk_back(path, risk, V)

        return theta_i, pullback

    def _walk(self, theta, risk, step, geometry):
        """The `Stride` of each step from theta, and where they end; damped where `step` is None."""
        path, even = [], (step, None)
        for _ in range(self.n_steps):
            length, shortening = self._damped_step(theta, risk, geometry) if step is None else even
            z = risk.predict(theta)
            move = length[..., None] * self._metric(vecmat(risk.residual_at(z), risk.features))
            path.append(Stride(theta, z, length, move, shortening))
            theta = theta - move
        return path, theta

    def _walk_back(self, path, risk, V):
        """``V J`` along a path: ``d eta = -eta shortening' d theta`` where steps are damped."""
        for _, z, step, move, shortening in reversed(path):
            weight = step[..., None] * risk.curvature_at(z)
            back = row_products(self._metric(V), risk.features, weight, risk.features)
            if shortening is not None:
                back -= np.matmul(V, move[..., None]) * shortening[..., None, :]
            V = np.subtract(V, back, out=back)
        return V

    def _damped_step(self, theta, risk, geometry):
        """The step's length at theta, shape (...), and minus its logarithm's gradient (..., d)."""
        loss, y, z = risk.loss, risk.targets, risk.predict(theta)
        hessian, bend = loss.hessian(y, z), self._bend(risk, theta)
        safe = np.where(bend > 0, bend, 1.0)
        largest, shares = curvature_norm(geometry.rows, risk.weights * bend)
        slopes = shares * (hessian / safe) * (loss.third(y, z) / safe)
        if self.relative:
            length = min(self._length(), 1.0) if self.cap else self._length()
            step = length / np.where(largest > 0, largest, 1.0)
        else:
            step = 1.0 / np.hypot(1.0 / self._length(), largest)
            slopes = slopes * np.square(step * largest)[..., None]
        return step, vecmat(slopes, risk.features)

    def _bend(self, risk, theta):
        """The curvatures by which a step from theta is damped, shape (..., m)."""
        hessian = risk.loss.hessian(risk.targets, risk.predict(theta))
        return np.hypot(hessian, risk.loss.saturated_hessian(risk.targets))

    def _all_steps(self, theta, risk, step, geometry):
        """``theta - theta^K`` for a constant Hessian; see `_pull_back_at_once`."""
        rows, curvature = geometry.rows, risk.curvature(None)
        q = geometric_sum(geometry.gram(curvature), step, self.n_steps)
        if geometry.tall:
            away = vecmat(vecmat(risk.residual(theta), rows), q)
        else:
            root = np.sqrt(curvature)
            newton = risk.loss.gradient(risk.targets, risk.predict(theta)) / risk.loss.hessian_bound
            away = vecmat(root * vecmat(root * newton, q), rows)
        return self._lift(away)

    def _pull_back_at_once(self, risk, step, geometry, V):
        """``V J`` for a constant Hessian, at a cost that hardly grows with the number of steps.

        With F the rows in the stepping coordinates, W the curvatures and ``T = W^1/2 F F' W^1/2``,
        K steps apply the polynomial ``q(T) = eta sum_{k<K} (I - eta T)^k`` once:
        ``J = I - L F' W^1/2 q(T) W^1/2 Phi``, or ``I - L q(F' W F) F' W Phi`` where rows
        outnumber features.
        """
        rows, curvature = geometry.rows, risk.curvature(None)
        if geometry.tall:
            gram = geometry.gram(curvature)
            q = geometric_sum(gram, step, self.n_steps)
            if rows is risk.features:
                return np.matmul(V, np.eye(V.shape[-1]) - np.matmul(q, gram))
            left = np.matmul(rows if V is risk.features else geometry.standardise(V), q)
            return V - row_products(left, rows, curvature, risk.features)
        if V is risk.features:
            products = geometry.products
        else:
            products = np.matmul(geometry.standardise(V), np.swapaxes(rows, -1, -2))
        if self.n_steps == 1:
            products = products * (step[..., None] * curvature)[..., None, :]
        else:
            q = geometric_sum(geometry.gram(curvature), step, self.n_steps)
            root = np.sqrt(curvature)
            products = np.matmul(products, root[..., :, None] * q * root[..., None, :])
        if V is risk.features:  # then V J is a product of two small matrices
            return np.matmul(np.eye(V.shape[-2]) - products, V)
        return V - np.matmul(products, risk.features)

    def _geometry(self, risk):
        d = risk.features.shape[-1]
        if np.ndim(self.inner_lr) and len(self.inner_lr) != d:
            raise ValueError(
                f"inner_lr has {len(self.inner_lr)} step lengths but there are {d} parameters (one "
                "a feature, then the intercept if it is fitted)."
            )
        ratios = None if np.ndim(self.inner_lr) == 0 else self._ratios()
        return Geometry(risk, self.coordinates, ratios)

    def _metric(self, V):
        """``V L diag(ratios) L'``."""
        if np.ndim(self.inner_lr) == 0:
            return V if self.coordinates is None else self.coordinates.metric(V)
        if self.coordinates is None:
            return V * self._ratios()
        return self.coordinates.lift(self.coordinates.rows(V) * self._ratios())

    def _standardise(self, V):
        """``V L``."""
        return V if self.coordinates is None else self.coordinates.rows(V)

    def _lift(self, U):
        """``U (L diag(ratios)^1/2)'`` for rows U (..., d) in the stepping coordinates."""
        U = U if np.ndim(self.inner_lr) == 0 else U * np.sqrt(self._ratios())
        return U if self.coordinates is None else self.coordinates.lift(U)

    def _length(self):
        """The step length, or the largest one."""
        if self.learnable:
            raise ValueError(
                f"{self!r} has lengths that are not learned yet; MAMLRegressor.fit learns them: "
                "use the estimator's adaptation_."
            )
        return float(np.max(self.inner_lr))

    def _ratios(self):
        return np.asarray(self.inner_lr, dtype=float) / self._length()

    def _step(self, risk, geometry):
        """The step length of each task, shape (...)."""
        longest = self._length()
        if not (self.cap or self.relative):
            return np.full(risk.weights.shape[:-1], longest)
        largest = self._largest_curvature(risk, geometry)
        if self.relative:
            length = min(longest, 1.0) if self.cap else longest
            return length / np.where(largest > 0, largest, 1.0)
        return 1.0 / np.maximum(1.0 / longest, largest)

    def _largest_curvature(self, risk, geometry):
        """The lambda_i of each support Hessian; or a larger bound, where even that caps nothing."""
        if "largest_curvature" not in risk.memo:
            gram = geometry.gram(risk.weights * risk.loss.hessian_bound)
            largest = np.asarray(np.einsum("...ii->...", gram))  # the trace
            near = (largest > 0) if self.relative else (largest > 1 / self._length())
            if near.any():
                largest[near] = MARGIN * largest_eigenvalue(gram[near])
            risk.memo["largest_curvature"] = largest
        return risk.memo["largest_curvature"]
