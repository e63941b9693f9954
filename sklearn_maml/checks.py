"""Checks for losses, adaptation rules and solvers of one's own, in the spirit of `check_estimator`.

Each raises an AssertionError that says what was found and what is asked for. A certificate believes
what a part asserts of itself; these checks are how a part earns it.
"""

import copy
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._objective.risk import Risk
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.certificate.spot_checks import affine_error, pullback_error
from sklearn_maml.losses import LogLoss, PseudoHuber, SquaredError
from sklearn_maml.losses.loss import Loss
from sklearn_maml.solvers.solver import Solver

__all__ = ["check_adaptation_rule", "check_loss", "check_solver"]

# Predictions at which losses are tried.
GRID = np.concatenate([np.linspace(-4.0, 4.0, 33), [-30.0, 30.0]])

# Differences of float64 are right to about this share.
CLOSE, STEP = 1e-5, 1e-5

LOSSES_TO_ADAPT_BY = (SquaredError(), LogLoss(), PseudoHuber())


def _demand(condition, text):
    if not condition:
        raise AssertionError(text)


def _check_component(part):
    """A part holds hyperparameters only: it can be validated and cloned."""
    part.validate()
    twin = clone(part)
    _demand(repr(twin) == repr(part), f"{part!r} is another when cloned: __init__ may only store.")


# --------------------------------------------------------------------------------------------------
# Losses


def check_loss(loss: Loss, targets: ArrayLike | None = None) -> None:
    """Check a loss: derivatives, convexity, bounds, duals, targets, broadcasting, purity.

    Parameters
    ----------
    loss : Loss
    targets : array-like of shape (n,), default=None
        Targets to try; None tries real numbers, positive ones or shares, the first that the loss
        allows.

    Raises
    ------
    AssertionError
        Saying what a loss asserts that does not hold, and where.

    Examples
    --------
    >>> from sklearn_maml.checks import check_loss
    >>> from sklearn_maml.losses import PseudoHuber
    >>> check_loss(PseudoHuber(delta=0.5))
    """
    _check_component(loss)
    y = _targets_of(loss) if targets is None else np.asarray(targets, float)
    loss.check_targets(y)
    y, z = y[:, None], GRID[None]
    with np.errstate(over="ignore", invalid="ignore"):
        _check_arrays(loss, y, z)
        _check_derivatives(loss, y, z)
        _check_bounds(loss, y, z)
        _check_slopes(loss, y, z)
        _check_dual(loss, y, z)


def _targets_of(loss):
    """Targets that the loss allows."""
    real = np.array([-1.3, -0.4, 0.0, 0.7, 2.1])
    for y in (real, np.array([0.0, 1.0, 1.0, 0.0]), np.abs(real), np.exp(real)):
        try:
            loss.check_targets(y)
        except ValueError:
            continue
        return y
    raise AssertionError(f"{loss!r} allows neither real, nor 0/1, nor positive targets; give some.")


def _check_arrays(loss, y, z):
    """Pointwise, broadcasting, and without changing what they are given."""
    shape = np.broadcast_shapes(y.shape, z.shape)
    for name in ("value", "gradient", "hessian"):
        f, before = getattr(loss, name), (y.copy(), z.copy())
        out = np.asarray(f(y, z))
        _demand(
            out.shape == shape,
            f"{name} of targets {y.shape} and predictions {z.shape} has the shape {out.shape}; "
            f"expected {shape}.",
        )
        _demand((y == before[0]).all() and (z == before[1]).all(), f"{name} changes its arguments.")
        full = np.asarray(f(np.broadcast_to(y, shape).copy(), np.broadcast_to(z, shape).copy()))
        _demand(np.array_equal(out, full, equal_nan=True), f"{name} is not pointwise.")


def _check_derivatives(loss, y, z):
    """Each derivative against differences of the one before it; the second is not negative."""
    names = ["value", "gradient", "hessian"]
    if np.isfinite(loss.third_bound) or np.isfinite(loss.third_ratios).all():
        names.append("third")
    inside = z[:, np.abs(z[0]) < 10]
    for f, derivative in pairwise(names):
        f, got = getattr(loss, f), np.asarray(getattr(loss, derivative)(y, inside))
        wanted = (f(y, inside + STEP) - f(y, inside - STEP)) / (2 * STEP)
        off = np.abs(got - wanted) / (1.0 + np.abs(wanted))
        _demand(
            off.max() <= CLOSE,
            f"{derivative} differs from differences of {names[names.index(derivative) - 1]} by "
            f"{off.max():.2g} of its size.",
        )
    _demand((loss.hessian(y, z) >= 0).all(), "hessian is negative somewhere: not convex.")


def _check_bounds(loss, y, z):
    """The suprema that the loss asserts."""
    found = {"gradient": loss.gradient_bound, "hessian": loss.hessian_bound}
    if np.isfinite(loss.third_bound):
        found["third"] = loss.third_bound
    for name, bound in found.items():
        most = np.abs(getattr(loss, name)(y, z)).max()
        _demand(most <= bound * (1 + 1e-12), f"{name} reaches {most:.6g}, above {name}_bound.")
    if loss.constant_hessian:
        same = np.ptp(loss.hessian(y, z)) == 0 and loss.hessian(y, z).max() == loss.hessian_bound
        _demand(same, "constant_hessian is True, but hessian is not hessian_bound everywhere.")
    if loss.least_at_target:
        slope = np.abs(loss.gradient(y, y)).max()
        _demand(slope <= 1.0, f"least_at_target is True, but the slope there is {slope:.2g}.")
    if loss.of_residual:
        # A power of two, so that y + 0.5 and z + 0.5 differ as y and z do.
        apart = np.abs(loss.gradient(y + 0.5, z + 0.5) - loss.gradient(y, z)).max()
        _demand(apart <= CLOSE, f"of_residual is True, but moving both matters: {apart:.2g}.")
    up, down = loss.third_ratios
    if np.isfinite([up, down]).all():
        third, hessian = loss.third(y, z), loss.hessian(y, z)
        finite = np.isfinite(third) & np.isfinite(hessian)
        room = 1e-9 * (np.abs(third) + hessian)
        inside = (third <= up * hessian + room) & (-third <= down * hessian + room)
        _demand(inside[finite].all(), "third_ratios do not bound third over hessian.")


def _check_slopes(loss, y, z):
    """What certificates ask of l': its range, and where it turns."""
    low, high = loss.slope_range(y)
    slope = loss.gradient(y, z)
    room = 1e-12 * (1.0 + np.abs(slope))
    inside = (slope >= low - room) & (slope <= high + room)
    _demand(inside.all(), "gradient leaves slope_range.")
    turn = loss.slope_turn(y)
    if turn is None:
        return
    away = np.linspace(0.0, 20.0, 401)
    right, left = loss.hessian(y, turn + away), loss.hessian(y, turn - away)
    top = right[:, :1]
    _demand((np.abs(right - left) <= 1e-9 * top).all(), "hessian is not even about slope_turn.")
    _demand((np.diff(right) <= 1e-12 * top).all(), "hessian rises away from slope_turn.")


def _check_dual(loss, y, z):
    """A dual is below what it is the infimum of, for slopes that the loss takes."""
    for at in (-2.0, 0.0, 1.5):
        nu = loss.gradient(y, np.full(y.shape, at))
        gap = loss.value(y, z) - nu * z - loss.dual(y, nu)
        room = 1e-9 * (1.0 + np.abs(loss.value(y, z)) + np.abs(nu * z))
        _demand((gap >= -room)[np.isfinite(gap)].all(), "dual is above the infimum.")


# --------------------------------------------------------------------------------------------------
# Rules


def check_adaptation_rule(rule: AdaptationRule) -> None:
    """Check a rule: its pullback, that it is as affine as it says, broadcasting, padding, purity.

    Parameters
    ----------
    rule : AdaptationRule
        With all its parameters set.

    Raises
    ------
    AssertionError
        Saying what a rule asserts that does not hold.

    Examples
    --------
    >>> from sklearn_maml import GradientSteps
    >>> from sklearn_maml.checks import check_adaptation_rule
    >>> check_adaptation_rule(GradientSteps(0.1, n_steps=3))
    """
    _check_component(rule)
    rule = rule.exact()
    for loss in LOSSES_TO_ADAPT_BY:
        support = _support(loss)
        theta = np.array([0.4, -0.7, 0.2])
        _check_shapes(rule, theta, support)
        error = pullback_error(rule, theta[None], support, support.features)
        _demand(
            error <= CLOSE,
            f"with {loss!r} the pullback differs from the derivative of adapt by {error:.2g} of "
            "its size.",
        )
        if rule.affine and loss.constant_hessian:
            error = affine_error(rule, theta[None], support)
            _demand(
                error <= 1e-9, f"affine is True, but adapt is off an affine map by {error:.2g}."
            )
        _check_tasks_apart(rule, theta, support)
        _check_slope_form(rule, theta, support)


def _support(loss, n_tasks=4, m=5, d=3):
    """Support rows of a few tasks; the last row of the first one is padding."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_tasks, m, d))
    features[..., -1] = 1.0
    y = rng.normal(size=(n_tasks, m))
    y = (y > 0) * 1.0 if np.any(loss.slope_turn(y) != y) else y
    weights = np.full((n_tasks, m), 1.0 / m)
    weights[0] = [*[1.0 / (m - 1)] * (m - 1), 0.0]
    return Risk(loss, features, y, weights)


def _check_shapes(rule, theta, support):
    """One task, a stack of them, and several targets; nothing that is given is changed."""
    n, m, d = support.features.shape
    one = Risk(support.loss, support.features[1], support.targets[1], support.weights[1])
    both = np.stack([support.targets, support.targets[..., ::-1]])
    several = Risk(support.loss, support.features, both, support.weights)
    cases = (
        (theta, one, (d,), (m, d)),
        (theta[None], support, (n, d), (n, m, d)),
        (np.stack([theta, -theta])[:, None], several, (2, n, d), (2, n, m, d)),
    )
    for at, risk, wanted, pulled_shape in cases:
        at, given = at.copy(), copy.deepcopy(risk)
        before = at.copy()
        theta_i, pullback = rule.adapt(at, given)
        _demand(
            theta_i.shape == wanted,
            f"adapt of theta {at.shape} and features {risk.features.shape} returns the shape "
            f"{theta_i.shape}; expected {wanted}.",
        )
        _demand(not np.shares_memory(theta_i, at), "adapt returns theta's own memory.")
        V = risk.features.copy()
        pulled = np.shape(pullback(V))
        _demand(
            pulled in (pulled_shape, V.shape),
            f"pullback returns the shape {pulled}; expected {pulled_shape}.",
        )
        _demand((risk.features == V).all() and (at == before).all(), "arguments are changed.")
        same = all(
            np.array_equal(getattr(risk, name), getattr(given, name))
            for name in ("features", "targets", "weights")
        )
        _demand(same, "the support rows are changed.")
        again, _ = rule.adapt(at, given)
        _demand(np.array_equal(again, theta_i), "adapt returns something else the second time.")


def _check_tasks_apart(rule, theta, support):
    """A task's parameters depend on its own rows, and not on padding."""
    together, _ = rule.adapt(theta[None], support)
    alone = [rule.adapt(theta[None], support.take([i]))[0][0] for i in range(len(together))]
    _demand(
        np.allclose(together, alone, rtol=1e-8, atol=1e-10), "tasks depend on their neighbours."
    )
    features, targets = support.features.copy(), support.targets.copy()
    padding = support.weights == 0
    features[padding], targets[padding] = 7.0, 1.0 - targets[padding]
    other = Risk(support.loss, features, targets, support.weights)
    moved, _ = rule.adapt(theta[None], other)
    _demand(
        np.allclose(together, moved, rtol=1e-8, atol=1e-10),
        "rows of weight 0 change the adapted parameters.",
    )


def _check_slope_form(rule, theta, support):
    """The slope form, where there is one, leads to the parameters that adapt returns."""
    form = rule.slope_form(support)
    if form is None:
        return
    theta_i, _ = rule.adapt(theta[None], support)
    at = np.repeat(theta[None], len(theta_i), axis=0)
    turned = np.swapaxes(support.features, 1, 2) * support.weights[:, None, :]
    move = form.length[:, None, None] * (form.factor @ form.factor.T @ turned)
    for _ in range(form.n_steps):
        z = support.predict(theta_i if form.implicit else at)
        slopes = support.loss.gradient(support.targets, z)
        at = at - np.matmul(move, slopes[..., None])[..., 0]
    _demand(
        np.allclose(at, theta_i, rtol=1e-7, atol=1e-9),
        f"slope_form with {support.loss!r} does not lead to the parameters that adapt returns.",
    )


# --------------------------------------------------------------------------------------------------
# Solvers


def check_solver(solver: Solver, tolerance: float = 1e-3) -> None:
    """Check a solver: that it lowers meta-losses to their minimum, for one and several targets.

    Parameters
    ----------
    solver : Solver
    tolerance : float, default=1e-3
        How far above the minimum it may stop, as a share of what there was to gain.

    Raises
    ------
    AssertionError
        Saying what a solver breaks.

    Examples
    --------
    >>> from sklearn_maml import GaussNewton
    >>> from sklearn_maml.checks import check_solver
    >>> check_solver(GaussNewton())
    """
    _check_component(solver)
    for n_targets in (0, 2):
        objective = _objective(n_targets)
        start = objective.origin()
        before = start.copy()
        result = solver.minimize(objective, start)
        theta, values = result.theta, np.asarray(result.values, float)
        _demand((start == before).all(), "the solver changes the theta that it starts from.")
        _demand(
            theta.shape == start.shape and np.isfinite(theta).all(),
            f"theta has the shape {theta.shape}, expected {start.shape}, all finite.",
        )
        first, last = objective.value(start), objective.value(theta)
        _demand(
            len(values) > 0 and np.isclose(values[0], first, rtol=1e-9),
            "values does not begin with the meta-loss at the start.",
        )
        best = _least(objective)
        _demand(
            last - best <= tolerance * (first - best),
            f"it stops at {last:.6g}, where {best:.6g} is reached and {first:.6g} is the start.",
        )
        if solver.get_params().get("random_state", 0) is None:
            continue
        again = solver.minimize(objective, start)
        _demand(np.array_equal(again.theta, theta), "a second run ends elsewhere.")


def _objective(n_targets):
    """A small quadratic meta-objective."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    shape = (60, n_targets) if n_targets else 60
    y = (X @ [1.0, -2.0]).reshape(60, *[1] * (n_targets > 0)) + 0.3 * rng.normal(size=shape)
    blocks = Blocks(Tasks.from_codes(y, np.repeat(np.arange(10), 6)), Features(X), Episodes())
    return MetaObjective(blocks, SquaredError(), GradientSteps(0.1), np.zeros(3))


def _least(objective):
    """The smallest value of a quadratic, by its gradients at the unit vectors."""
    origin, d = objective.origin(), objective.n_parameters
    offset = objective.value_and_gradient(origin)[1]
    columns = []
    for k in range(d):
        at = origin.copy()
        at[..., k] += 1.0
        columns.append(objective.value_and_gradient(at)[1] - offset)
    hessian = np.stack(columns, axis=-1)
    best = -np.linalg.solve(hessian, offset[..., None])[..., 0]
    return objective.value(best)
