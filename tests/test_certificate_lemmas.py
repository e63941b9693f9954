"""Lemmas and theorems of the certificates one by one: closed forms, dense grids, inclusions."""

from types import SimpleNamespace

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of, stacked_risk
from scipy.optimize import approx_fprime, minimize, minimize_scalar
from small_parts import Shift

from sklearn_maml import Proximal, certify
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.certificate.branch import _effect, branch_and_bound
from sklearn_maml.certificate.central_path import CentralPath
from sklearn_maml.certificate.convexity import least_curvature
from sklearn_maml.certificate.coordinates import row_coordinates, unmet
from sklearn_maml.certificate.gap_certificate import Curve
from sklearn_maml.certificate.minimisers import _exceeds, _parabola, first_ball, shrunken_ellipsoid
from sklearn_maml.certificate.regions import Box, Ellipsoid, Intervals, everywhere, narrow
from sklearn_maml.certificate.relaxation import (
    Point,
    _inside,
    _Multipliers,
    _multipliers,
    relaxation,
)
from sklearn_maml.certificate.rows import _Row, rows_bound
from sklearn_maml.certificate.slope_problem import NotCovered, slope_problem
from sklearn_maml.certificate.slopes import curvature_least, hull, strip, third_range
from sklearn_maml.certificate.spot_checks import affine_error
from sklearn_maml.certificate.tight import _corollary, _State
from sklearn_maml.losses import LogCosh, PseudoHuber, SquaredError

THETA = np.array([0.4, -0.3, 0.2])
SIGMA = np.array([0.5, 1.0, 2.0])
STEP, PULL = GradientSteps(0.7, cap=False), Proximal(0.8, SIGMA)
RULES = [STEP, GradientSteps(0.3, 3, cap=False), PULL]
THETA_4 = np.array([[0.4, -0.3, 0.2, 0.1]])
SPLIT = {"support": 4, "split": "first"}


def problem_of(rule, loss=None, episodes=None, alpha=0.05):
    """A small objective, its slope problem at THETA, and the anchors there."""
    tasks = make_tasks(4, 7, n_features=2, seed=7)
    objective = objective_of(tasks, loss or LogCosh(), rule, alpha, episodes)
    problem = slope_problem(objective, THETA, 0, 1e10, True)
    return tasks, objective, problem, problem.anchors(problem.x)


def near(F, y):
    """argmin of the mean log cosh plus ``0.2 (t - THETA)' Sigma^-1 (t - THETA)``."""

    def value(t):
        return np.logaddexp(F @ t - y, y - F @ t).mean() + 0.2 * ((t - THETA) ** 2 / SIGMA).sum()

    def slope(t):
        return F.T @ np.tanh(F @ t - y) / len(y) + 0.4 * (t - THETA) / SIGMA

    def curvature(t):
        return (F.T / np.cosh(F @ t - y) ** 2) @ F / len(y) + np.diag(0.4 / SIGMA)

    options = {"gtol": 1e-13}
    return minimize(
        value, THETA, jac=slope, hess=curvature, method="trust-exact", options=options
    ).x


def moved_per_slope(tasks, rule):
    """c of Lemma 2 and how u moves with theta, by the formulas below it: rows (4, 4) and (.., 3).

    The first four rows of a task are its support.
    """
    c, rows = [], []
    for X, y in tasks:
        phi = np.column_stack([X, np.ones(7)])
        (F, Phi), (y, y_query) = np.split(phi, [4]), np.split(y, [4])
        if rule is STEP:
            adapted = THETA - 0.7 * F.T @ np.tanh(F @ THETA - y) / 4
            J, K = np.eye(3), 0.7 * np.eye(3)
        else:
            adapted = near(F, y)
            k = np.cosh(F @ adapted - y) ** -2
            J = np.linalg.inv(np.eye(3) + (SIGMA[:, None] * (F.T * k) @ F / 4) / 0.4)
            K = np.diag(SIGMA) @ J.T / 0.4
        gradient = Phi.T @ np.tanh(Phi @ adapted - y_query) / 3
        c.append(F @ K @ gradient / 4)
        rows.append(F @ J)
    return np.array(c), np.array(rows)


@pytest.mark.parametrize("rule", [STEP, PULL], ids=repr)
def test_corollary_5_is_what_grids_of_its_rows_say(rule):
    tasks, objective, problem, anchors = problem_of(rule, episodes=SPLIT)
    c, _ = moved_per_slope(tasks, rule)
    (at,), (stack,) = anchors, problem.stacks
    rng = np.random.default_rng(1)
    low, high = at.u - rng.uniform(0.1, 2, at.u.shape), at.u + rng.uniform(0.1, 2, at.u.shape)
    region = Ellipsoid(problem.x + np.array([0.3, 0.0, -0.4]), 0.5 * np.eye(3), 3.0)
    state = _State(problem, anchors, *problem.derivatives(anchors), 0.0)
    u = np.linspace(low, high, 20001)
    rho = np.tanh(u - stack.y) - np.tanh(at.u - stack.y) - at.curvature * (u - at.u)
    wanted = 0.25 * np.maximum((c * rho).max(axis=0), 0.0).sum()
    wanted += (0.5 + 1.5) * np.linalg.norm(problem.basis.T @ objective.value_and_gradient(THETA)[1])
    found = _corollary(state, region, [Intervals(low, high, at.z - 1, at.z + 1)])
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("rule", [STEP, PULL], ids=repr)
def test_boxes_are_halved_where_slopes_move_most_for_the_query(rule):
    tasks, _, problem, anchors = problem_of(rule, episodes=SPLIT)
    c, rows = moved_per_slope(tasks, rule)
    V = np.random.default_rng(2).normal(size=(3, 3))
    wanted = 0.25 * np.einsum("ij,ijk->k", np.abs(c), np.abs(rows @ problem.basis @ V))
    np.testing.assert_allclose(_effect(problem, anchors, V), wanted, rtol=1e-7)


@pytest.mark.parametrize("episodes", [None, SPLIT], ids=["all", "split"])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_slope_problem_has_the_derivatives_of_the_meta_loss(rule, episodes):
    _, objective, problem, anchors = problem_of(rule, episodes=episodes)
    value, gradient, hessian = problem.derivatives(anchors)
    wanted, slope = objective.value_and_gradient(THETA)
    assert value == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(gradient, problem.basis.T @ slope, rtol=1e-8, atol=1e-12)

    def at(x):
        return problem.basis.T @ objective.value_and_gradient(problem.basis @ x)[1]

    np.testing.assert_allclose(hessian, approx_fprime(problem.x, at, 1e-6), atol=1e-5)


def points_of(region, rng, n_points=300):
    """Points of an ellipsoid, as many on its surface as inside."""
    t = rng.normal(size=(n_points, 3))
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    t[::2] *= rng.uniform(size=(len(t[::2]), 1))
    return region.centre + region.radius * t @ region.V.T


def inside(low, value, high):
    return (low <= value).all() and (value <= high).all()


@pytest.mark.parametrize("radius", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_intervals_and_theorem_4_hold_at_every_point_of_a_region(rule, radius):
    _, _, problem, anchors = problem_of(rule, PseudoHuber(), SPLIT)
    (stack,), rng = problem.stacks, np.random.default_rng(3)
    V = 0.3 * rng.normal(size=(3, 3))
    region = Ellipsoid(problem.x + radius * V @ [0.1, -0.2, 0.1], V, radius)
    box = Box(region.centre, V, np.array([0.3, 1.0, 0.1]) * radius, region)
    value, gradient, _ = problem.derivatives(anchors)
    points = points_of(region, rng)
    away = np.linalg.solve(V, (points - region.centre).T).T
    in_box = points[(np.abs(away) <= box.half).all(axis=1)]
    for place, members in ((region, points), (box, in_box)):
        assert len(members) > 5
        (centred,) = problem.anchors(place.centre)
        (known,) = [narrow(stack, everywhere(stack), place, centred)]
        Q = least_curvature(problem, anchors, [known], place)
        for x in members:
            u, _, z = stack.graph(x)
            assert inside(known.low, u, known.high)
            assert inside(known.z_low, z, known.z_high)
            D = x - problem.x
            if Q is not None:
                assert problem.value(x) >= value + gradient @ D + 0.5 * D @ Q @ D - 1e-12
    if rule is STEP:  # u is linear: both ends are attained
        f = stack.F.reshape(-1, 3) @ V
        ends = radius * np.linalg.norm(f, axis=1).reshape(stack.y.shape)
        straight = narrow(stack, everywhere(stack), region, problem.anchors(region.centre)[0])
        middle = stack.F @ region.centre
        np.testing.assert_allclose(straight.high, middle + ends, rtol=1e-9)
        np.testing.assert_allclose(straight.low, middle - ends, rtol=1e-9)


@pytest.mark.parametrize("episodes", [None, SPLIT], ids=["all", "split"])
def test_theorem_4_tends_to_the_hessian_as_a_region_shrinks(episodes):
    _, _, problem, anchors = problem_of(STEP, PseudoHuber(), episodes)
    region = Ellipsoid(problem.x, 1e-4 * np.eye(3), 1.0)
    pairs = zip(problem.stacks, anchors, strict=True)
    intervals = [narrow(stack, everywhere(stack), region, at) for stack, at in pairs]
    Q = least_curvature(problem, anchors, intervals, region)
    hessian = problem.derivatives(anchors)[2]
    np.testing.assert_allclose(Q, hessian, atol=5e-3 * np.abs(hessian).max())
    assert np.linalg.eigvalsh(hessian - Q)[0] > -1e-9  # from below


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("episodes", [None, SPLIT], ids=["all", "split"])
def test_rows_have_a_unit_gram_matrix_in_their_coordinates(episodes, alpha):
    """Support and query rows by their weights, and the penalty's; columns of any unit, or zeros.

    A direction of 1e-9 is one that rows see, one of 1e-17 is none.
    """
    tasks = []
    for X, y in make_tasks(4, 7, n_features=3, seed=7):
        near = [X[:, 0] + 1e-9 * X[:, 1] ** 2, 2.0 * X[:, 0], 0.0 * y]
        tasks.append((np.column_stack([X * [1.0, 1e-6, 1e5], *near]), y))
    objective = objective_of(tasks, LogCosh(), STEP, alpha, episodes)
    basis, inverse = row_coordinates(objective)
    rows = [np.diag(np.sqrt(objective.penalty))]
    for X, _ in tasks:
        phi = np.column_stack([X, np.ones(7)])
        parts = [phi] if episodes is None else np.split(phi, [4])
        rows += [part / np.sqrt(4 * len(part)) for part in parts]
    rows = np.vstack(rows)
    d = 5 if alpha == 0 else 7  # the penalty sees all
    assert basis.shape == (7, d)
    np.testing.assert_allclose((rows @ basis).T @ (rows @ basis), np.eye(d), atol=1e-6)
    np.testing.assert_allclose(inverse @ basis, np.eye(d), atol=1e-6)
    theta = np.arange(1.0, 8.0)  # what rows predict is not changed by the way there and back
    np.testing.assert_allclose(rows @ (basis @ (inverse @ theta)), rows @ theta, rtol=1e-6)


def test_a_condition_that_does_not_hold_proves_nothing_and_one_that_all_but_does_costs_little():
    x, terms = np.array([3.0, 4.0]), np.array([1.0, 0.0])
    assert unmet(np.array([0.0, 1e-14]), terms, x, 2 * x) == pytest.approx(15e-12)
    assert unmet(np.array([0.0, 1e-9]), terms, x) == np.inf
    assert unmet(np.array([0.0, np.nan]), terms, x) == np.inf
    assert unmet(np.zeros(2), np.zeros(2), x) == 0.0


def test_each_target_adds_the_gap_of_its_own_best_route():
    """A relaxation on a region for the one, over all theta for the one that is far from it."""
    tasks, rule = make_tasks(8, 10, n_features=2, seed=3), GradientSteps(0.3)
    parts = [tasks, [(X, 0.5 * y + X[:, 0]) for X, y in tasks]]
    objectives = [objective_of(part, LogCosh(), rule) for part in parts]
    theta, least = np.array([[0.5, -0.5, 1.0], [10.0, -10.0, 1.0]]), 0.0
    alone = [certify(*pair, "full") for pair in zip(objectives, theta, strict=True)]
    assert len({certificate.route for certificate in alone}) == 2
    for certificate in alone:
        gaps = dict(certificate.routes)
        assert "best route of each target" not in gaps
        least += min(gaps.values()) - certificate.rounding
    both = [(X, np.column_stack([y, z])) for (X, y), (_, z) in zip(*parts, strict=True)]
    together = certify(objective_of(both, LogCosh(), rule), theta, "full")
    assert together.route == "best route of each target"
    assert together.bound - together.rounding == pytest.approx(least, rel=1e-9)


@pytest.mark.parametrize("moved", [0.0, 0.6])
@pytest.mark.parametrize("reach", [0.3, 2.0, 9.0])
def test_parabolas_of_theorem_2b_are_below_what_rows_are_in_excess(reach, moved):
    """``g(x)``: least at ``z* = y + artanh(nu)``, or at the end of its interval that is nearest."""
    rng = np.random.default_rng(5)
    loss, (y, z), nu = LogCosh(), rng.normal(size=(2, 1, 50)), rng.uniform(-0.9, 0.9, (1, 50))
    best, sides = y + np.arctanh(nu), moved * rng.uniform(size=(2, 1, 50))
    floor = loss.value(y, best) - nu * best

    def excess(x):
        at = np.clip(best, z + x - sides[1], z + x + sides[0])
        return loss.value(y, at) - nu * at - floor

    reaches = np.full_like(y, reach)
    beta, tau = _parabola(reaches, loss, y, z, (-sides[0], sides[1]), nu, floor)
    x = np.linspace(-reach, reach, 65)[:, None]  # the code's grid: between its points g is convex
    assert (excess(x) >= beta * x**2 - tau - 1e-12).all()
    assert (tau >= 0).all()
    edge = np.minimum(excess(reach), excess(-reach))
    assert (beta * reach**2 <= edge + 1e-12).all()
    assert (beta * reach**2 >= 0.5 * edge).all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_nothing_outside_of_a_region_is_as_good_as_the_point(rule):
    _, _, problem, _ = problem_of(rule, episodes=SPLIT, alpha=0.2)
    value, rng = problem.value(problem.x), np.random.default_rng(6)
    intervals = [everywhere(stack) for stack in problem.stacks]
    slopes = [s for _, s, _ in problem.graphs]
    point = relaxation(problem, intervals, None).solve(problem.x, slopes, value, 1e-6, 0.0)
    ball = first_ball(problem, point, value - point.lower)
    centred = problem.anchors(ball.centre)
    parts = zip(problem.stacks, intervals, centred, strict=True)
    intervals = [narrow(stack, known, ball, at) for stack, known, at in parts]
    point = relaxation(problem, intervals, ball).solve(problem.x, slopes, value, 1e-6, 0.0)
    ellipsoid = shrunken_ellipsoid(problem, intervals, point, value - point.lower)
    for region in (ball, ellipsoid):
        away = rng.normal(size=(400, 3))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        for x in region.centre + region.radius * (1.0 + 1e-9) * away @ region.V.T:
            assert problem.value(x) > value
    # Where L is no larger than at the point: from it, as far as one gets.
    directions = 5.0 * rng.normal(size=(400, 3)) * np.geomspace(1e-2, 1, 400)[:, None]
    level = [x for x in problem.x + directions if problem.value(x) <= value]
    assert len(level) > 20
    for region in (ball, ellipsoid):
        t = np.linalg.solve(region.V, (np.array(level) - region.centre).T)
        assert (np.linalg.norm(t, axis=0) <= region.radius).all()


@pytest.mark.parametrize("excess", [1e-6, 1e-2, 30.0])
def test_a_first_ball_is_hardly_larger_than_its_parabolas_ask_for(excess):
    """Squares: ``0.7 |x|^2 / 2 > e`` on the sphere, and radii are refined to a 16th of a doubling.

    Radii below half of the first that is tried are not looked for.
    """
    _, _, problem, _ = problem_of(GradientSteps(0.1, 0), PseudoHuber(1e4))
    value, slopes = problem.value(problem.x), [s for _, s, _ in problem.graphs]
    intervals = [everywhere(stack) for stack in problem.stacks]
    point = relaxation(problem, intervals, None).solve(problem.x, slopes, value, 1e-12, 0.0)
    least = np.sqrt(2.0 * excess / 0.7)
    radius = first_ball(problem, point, excess).radius
    assert 0.999 * least < radius < 1.001 * max(2 ** (1 / 16) * least, 0.25 * 2 ** (1 / 16))


@pytest.mark.parametrize("excess", [1e-6, 0.3])
def test_without_steps_the_ellipsoid_of_theorem_2_is_that_of_the_curvature(excess):
    """No slope moves anything: ``|x - x_hat|^2 <= 2 e`` in the norm of what is left, around it."""
    _, _, problem, _ = problem_of(GradientSteps(0.1, 0))
    (stack,), V = problem.stacks, 0.1 * np.eye(3)
    (known,) = [
        narrow(stack, everywhere(stack), Ellipsoid(problem.x, V, 1.0), *problem.anchors(problem.x))
    ]
    (s,) = [s for _, s, _ in problem.graphs]
    found = shrunken_ellipsoid(problem, [known], Point(0.0, problem.x, [s]), excess)
    np.testing.assert_allclose(found.centre, problem.x, atol=1e-12)
    assert found.radius == pytest.approx(np.sqrt(2.0 * excess), rel=1e-6)
    z, ends = stack.Phi @ problem.x, np.stack([known.z_low, known.z_high])
    loss, y = LogCosh(), stack.y_query
    fallen = loss.value(y, ends) - loss.value(y, z) - loss.gradient(y, z) * (ends - z)
    least = np.minimum((2.0 * fallen / (ends - z) ** 2).min(axis=0), loss.hessian(y, z))
    flat = stack.Phi.reshape(-1, 3)
    wanted = 2.0 * problem.A + (flat.T * (stack.row_weight * least).ravel()) @ flat
    np.testing.assert_allclose(np.linalg.inv(found.V @ found.V.T), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("away", [0.0, 0.2, 0.6])
def test_rows_of_theorem_3_that_are_convex_have_the_minimum_that_scipy_finds(away):
    rng = np.random.default_rng(8)
    (y, c), b = rng.normal(size=(2, 1, 20)), rng.uniform(0.5, 1.0, (1, 20))
    c, kappa = 0.4 * b * np.tanh(c), b * rng.uniform(-0.8, 0.8, (1, 20))
    wanted, at = np.zeros((2, 1, 20))
    for j, (t, w, m, k) in enumerate(zip(y[0], b[0], c[0], kappa[0], strict=True)):

        def row(v, t=t, w=w, m=m, k=k):
            return w * np.logaddexp(v - t, t - v) - w * np.log(2) - m * np.tanh(v - t) - k * v

        found = minimize_scalar(row, bracket=(t - 1, t + 1), tol=1e-12)
        wanted[0, j], at[0, j] = found.fun, found.x
    least = _Row(LogCosh(), y[0], b[0], c[0], kappa[0]).convex_minimum(at[0] + away)
    assert (least <= wanted[0] + 1e-12).all()
    # Newton steps go so far, hence with no doubt; a bracket costs what it is long.
    assert (least >= wanted[0] - (1e-6 if away < 0.3 else 0.3)).all()


def test_rows_of_theorem_3_that_are_not_convex_are_bounded_on_their_intervals():
    rng = np.random.default_rng(9)
    y, c, kappa = rng.normal(size=(3, 30)) * [[1.0], [3.0], [0.3]]
    low = y - rng.uniform(0.1, 4, 30)
    high, b = y + rng.uniform(0.1, 4, 30), rng.uniform(0.5, 1.0, 30)
    v = np.linspace(low, high, 20001)
    wanted = b * LogCosh().value(y, v) - c * np.tanh(v - y) - kappa * v
    least = _Row(LogCosh(), y, b, c, kappa).minimum_between(low, high)
    assert (least <= wanted.min(axis=0)).all()
    assert (least >= wanted.min(axis=0) - 2e-4).all()


@pytest.mark.parametrize("width", [0.5, 8.0])
def test_between_points_of_a_grid_a_row_falls_by_what_its_curvature_allows(width):
    """A pseudo-Huber row is as curved as its bound where it is 0: in the middle of a last cell."""
    low = np.array([-width * (0.5 + 0.5 / (8 * 1024))])
    row = _Row(PseudoHuber(1000.0), *np.array([[0.0], [1.0], [0.0], [0.0]]))
    assert row.minimum_between(low, low + width)[0] == pytest.approx(0.0, abs=1e-12 * width**2)


@pytest.mark.parametrize("shift", [0, -100])
def test_the_deeper_of_two_wells_is_not_lost_between_points_of_a_grid(shift):
    """``1 - cos(v - y) - k v`` is least near y + 2 pi, but on the grid, of 256 cells, at y."""
    cell, tilt = 2 * np.pi / 200.25, 4e-6
    loss = SimpleNamespace(
        value=lambda y, v: 1.0 - np.cos(v - y),
        gradient=lambda y, v: np.sin(v - y),
        hessian_bound=1.0,
        third_bound=1.0,
    )
    y = shift * cell
    row = _Row(loss, *np.array([[y], [1.0], [0.0], [tilt]]))
    low = np.array([y - 28 * cell])
    (values,) = row._on_grid(low, low + 256 * cell)[1]
    assert values.argmin() == 28
    assert row.minimum_between(low, low + 256 * cell)[0] <= -(2 * np.pi + y) * tilt


def test_theorem_3_bounds_rows_that_move_too_far_on_their_intervals():
    """A weak pull: without intervals there is no bound, with them one below L all over a region."""
    _, _, problem, anchors = problem_of(Proximal(0.05, np.ones(3)))
    _, gradient, _ = problem.derivatives(anchors)
    endless = [everywhere(stack) for stack in problem.stacks]
    assert rows_bound(problem, anchors, endless, gradient)[0] == -np.inf
    region = Ellipsoid(problem.x, np.eye(3), 0.3)
    intervals = [
        narrow(stack, known, region, at)
        for stack, known, at in zip(problem.stacks, endless, anchors, strict=True)
    ]
    lower, convex = rows_bound(problem, anchors, intervals, gradient)
    assert 0 < convex < 1
    points = points_of(region, np.random.default_rng(11))
    assert -np.inf < lower <= min(problem.value(x) for x in points)


@pytest.mark.parametrize("rule", [RULES[1], Proximal(0.8, np.ones(3))], ids=repr)
def test_what_a_step_of_the_relaxation_costs_is_what_it_multiplies(rule):
    """Four tasks, d = 3; k slopes a task, three of a row if there are three steps, and q = 3.

    Of slopes that are coupled one by one, k^3 / 3 for their factor, and products with d and the
    query rows; of step vectors, k products with d + q where there are fewer of them.
    """
    tasks = make_tasks(4, 7, n_features=2, seed=7)
    objective = objective_of(tasks, LogCosh(), rule)
    k = 21 if rule is RULES[1] else 7
    for dense, one in ((True, k**2 * (k / 3 + 3 + 7)), (False, 3 * k * (3 + 3))):
        cost = 4 * (one + (k + 7) * 3 * 3)
        slope_problem(objective, THETA, 0, 1.0001 * cost, dense)
        with pytest.raises(NotCovered, match="too many support rows or steps a task"):
            slope_problem(objective, THETA, 0, 0.9999 * cost, dense)


def test_branch_and_bound_stops_after_as_many_boxes_as_it_may_look_at():
    _, _, problem, anchors = problem_of(GradientSteps(2.0, 3, cap=False))
    region = Ellipsoid(problem.x, np.eye(3), 5.0)
    known = [everywhere(stack) for stack in problem.stacks]
    for most in (2, 4, 10):
        lower, count = branch_and_bound(problem, anchors, region, known, -1.0, 1e-6, most)
        assert count == most
        assert lower <= problem.value(problem.x)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_multipliers_are_positive_and_meet_condition_s(rule):
    """``m+ - m- + B'(m+ above' - m- below') = C'(b nu)``, but for what is said to be unmet."""
    _, _, problem, _ = problem_of(rule, episodes=SPLIT)
    (stack,), rng = problem.stacks, np.random.default_rng(12)
    shape = stack.y.shape
    for _ in range(20):
        top, bottom = rng.uniform(0.0, 1.0, (2, *shape))
        part = SimpleNamespace(pulled=rng.normal(size=shape), top_slope=top, bottom_slope=bottom)
        by = _multipliers(stack, part, rng.uniform(0.0, 0.1, shape))
        assert (np.minimum(by.above, by.below) >= 0).all()
        net = by.above - by.below
        if stack.B is not None:
            through = by.above * top - by.below * bottom
            net = net + np.einsum("ij,ijk->ik", through, stack.B)
        np.testing.assert_allclose(net - part.pulled, by.unmet, atol=1e-12)
        assert np.abs(by.unmet).max() < 1e-12


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_where_condition_s_is_not_met_slopes_are_charged_as_far_as_they_may_be(rule, monkeypatch):
    """Without multipliers it fails by all of ``c = C'(p b nu)``: by ``|c| max |s - s_hat|``."""

    def none(stack, part, common):
        return _Multipliers(0 * common, 0 * common, -part.pulled)

    monkeypatch.setattr("sklearn_maml.certificate.relaxation._multipliers", none)
    _, _, problem, (at,) = problem_of(rule, episodes=SPLIT)
    (stack,), x, region = problem.stacks, problem.x, Ellipsoid(problem.x, np.eye(3), 0.5)
    known = narrow(stack, everywhere(stack), region, at)
    program = relaxation(problem, [known], region)
    s = _inside(stack, program.hulls[0], x, at.s, None, None)
    iterate = program.path.begin(x, [s], 0.1)
    lower = program.bound(iterate, program.path.terms(iterate)).lower
    z = stack.Phi @ x - np.einsum("ijk,ik->ij", stack.C, s)
    slopes = 0.25 * stack.b * np.tanh(z - stack.y_query)
    c = np.einsum("ij,ijk->ik", slopes, stack.C)
    ends = np.abs(np.tanh(np.stack([known.low, known.high]) - stack.y) - s).max(axis=0)
    value = 0.25 * (stack.b * LogCosh().value(stack.y_query, z)).sum() + x @ problem.A @ x
    G = 2 * problem.A @ x + np.einsum("ij,ijk->k", slopes, stack.Phi)
    wanted = value - (np.abs(c) * ends).sum() - 0.5 * np.linalg.norm(G)
    assert lower == pytest.approx(wanted, rel=1e-9)
    assert lower <= min(problem.value(p) for p in points_of(region, np.random.default_rng(13)))


@pytest.mark.parametrize("rule", [STEP, RULES[1]], ids=repr)
def test_the_relaxation_starts_strictly_inside_its_hulls(rule):
    _, _, problem, (at,) = problem_of(rule, episodes=SPLIT)
    (stack,), region = problem.stacks, Ellipsoid(problem.x, np.eye(3), 1.0)
    known = narrow(stack, everywhere(stack), region, at)
    h = hull(stack.loss, stack.y, known.low, known.high)
    s = _inside(stack, h, problem.x, at.s, None, None)
    (top,), (bottom,) = h(stack.support_predictions(problem.x, s), order=0)
    nearest = np.minimum(top - s, s - bottom) / (top - bottom)
    # One step's slopes move no others: nothing keeps them from 0.4 of the way to the middle.
    assert (nearest > (0.1999 if rule is STEP else 0.0)).all()


def test_without_a_spectrum_the_curve_is_a_segment_of_what_psi_represents():
    """``u = psi v + rest``, and ``t v`` for v: what is left is ``(1 - t) psi v`` and the rest."""
    curve = Curve(distance=2.0, start=1.3, eigenvalues=(), squares=(), rest=0.5)
    for share in (0.0, 0.25, 0.9):
        wanted = np.sqrt((1 - share) ** 2 * (1.3**2 - 0.5**2) + 0.5**2)
        assert curve(2.0 * share) == pytest.approx(wanted, rel=1e-12)
    assert curve(2.0) == curve(9.0) == 0.5


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e3])
@pytest.mark.parametrize("rest", [0.0, 0.2])
def test_the_radius_of_theorem_1_is_the_best_there_is(size, rest):
    """``psi = root(s)``, one coordinate each: the minimum over a ball, by its multiplier.

    What psi does not represent, `rest`, is left at every radius.
    """
    rest = rest * np.sqrt(size)
    eigenvalues, squares = size * np.array([1e-3, 0.1, 1.0]), np.array([2.0, 1.0, 1.0])
    distance, start = np.sqrt(squares.sum()), np.sqrt(eigenvalues @ squares + rest**2)
    curve = Curve(distance, start, tuple(eigenvalues), tuple(squares), rest)
    epsilon, norm = 0.4 * np.sqrt(size), 1.0
    radius, error = curve.best(epsilon, norm)
    lam = size * np.geomspace(1e-8, 1e6, 100001)[:, None]
    length = np.sqrt((squares * (eigenvalues / (eigenvalues + lam)) ** 2).sum(axis=1))
    left = (squares * eigenvalues * (lam / (eigenvalues + lam)) ** 2).sum(axis=1)
    left = np.sqrt(left + rest**2)
    wanted = (epsilon * length + norm * left).min()
    assert wanted < 0.99 * min(epsilon * distance + norm * rest, norm * start)
    assert epsilon * radius + norm * error == pytest.approx(wanted, rel=1e-3)
    assert curve(radius) <= error * (1 + 1e-9)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_ellipsoid_of_theorem_2_has_the_boundary_that_its_inequality_has(rule):
    """``|Psi D - C o|^2 + 2 D'A D = (root(2 e) + |e'|)^2``, D from where the relaxation ended."""
    _, _, problem, (at,) = problem_of(rule, episodes=SPLIT)
    (stack,), rng = problem.stacks, np.random.default_rng(10)
    low, high = at.u - rng.uniform(0.2, 1, at.u.shape), at.u + rng.uniform(0.2, 1, at.u.shape)
    known = Intervals(low, high, at.z - 1.0, at.z + 1.5)
    s = at.s + rng.uniform(-0.1, 0.1, at.s.shape)
    x, excess = problem.x + np.array([0.02, -0.01, 0.03]), 0.02
    region = shrunken_ellipsoid(problem, [known], Point(0.0, x, [s]), excess)
    B = np.zeros((4, 4, 4)) if stack.B is None else stack.B
    u, z = stack.F @ x - np.einsum("ijk,ik->ij", B, s), stack.query_predictions(x, s)
    slope, level, half = strip(stack.loss, stack.y, low, high)
    C = stack.C @ np.linalg.inv(np.eye(B.shape[1]) + slope[..., None] * B)
    Psi = stack.Phi - C @ (slope[..., None] * stack.F)
    ends = np.minimum(known.z_low, z), np.maximum(known.z_high, z)
    weight = stack.row_weight * curvature_least(stack.loss, stack.y_query, z, *ends)
    moved = np.einsum("ijk,ik->ij", C, level + slope * (u - low) - s)
    noise = np.sqrt((weight * np.einsum("ijk,ik->ij", np.abs(C), half) ** 2).sum())
    t = rng.normal(size=(20, 3))
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    for D in region.centre - x + region.radius * t @ region.V.T:
        left = (weight * (Psi @ D - moved) ** 2).sum() + 2.0 * D @ problem.A @ D
        assert left == pytest.approx((np.sqrt(2.0 * excess) + noise) ** 2, rel=1e-6)


def test_the_quadratic_of_theorem_4_is_that_of_its_formula_for_one_step():
    _, _, problem, (at,) = problem_of(STEP, episodes=SPLIT)
    (stack,), loss = problem.stacks, LogCosh()
    region = Ellipsoid(problem.x + 0.1, 0.3 * np.eye(3), 2.0)
    known = narrow(stack, everywhere(stack), region, *problem.anchors(region.centre))
    Q, wanted = least_curvature(problem, [at], [known], region), 2.0 * problem.A
    known = known.with_anchor(at)
    curvature = curvature_least(loss, stack.y_query, at.z, known.z_low, known.z_high)
    r = third_range(loss, stack.y, at.u, known.low, known.high)
    for i in range(4):
        seen = stack.b[i] * curvature[i]
        c = (stack.b[i] * np.tanh(at.z[i] - stack.y_query[i])) @ at.C[i]
        rows = at.C[i].T @ (seen[:, None] * at.Psi[i])
        middle, half = rows @ np.full(3, 0.1), 0.6 * np.linalg.norm(rows, axis=1)
        corners = [(c + y) * third[i] for y in (middle - half, middle + half) for third in r]
        paid = np.maximum.reduce(corners)
        own = (at.Psi[i].T * seen) @ at.Psi[i] - (stack.F[i].T * paid) @ stack.F[i]
        wanted = wanted + 0.25 * own
    np.testing.assert_allclose(Q, wanted, rtol=1e-8, atol=1e-10)


def test_rows_that_are_flat_in_the_middle_of_a_ball_do_not_make_it_too_small():
    """``g`` is 0 up to 3.6 and rises to about 0.1 at 4: a parabola through that end is above it."""
    loss, zero = LogCosh(), np.zeros((1, 1))
    stack = SimpleNamespace(loss=loss, y_query=zero, row_weight=zero + 1.0, Phi=np.ones((1, 1, 1)))
    problem = SimpleNamespace(A=np.zeros((1, 1)))
    rows = [(stack, zero, (zero - 3.6, zero + 3.6), zero, zero)]
    least = loss.value(0.0, 0.4)  # on the sphere
    assert not _exceeds(problem, rows, np.eye(1), 4.0, least)
    assert _exceeds(problem, rows, np.eye(1), 4.0, 0.05 * least)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_barrier_function_has_the_gradient_that_differences_say(rule):
    _, _, problem, (at,) = problem_of(rule, episodes=SPLIT)
    (stack,), region = problem.stacks, Ellipsoid(problem.x, np.eye(3), 0.5)
    known, mu = narrow(stack, everywhere(stack), region, at), 0.3
    h = hull(stack.loss, stack.y, known.low, known.high)
    path = CentralPath(problem, [h], False)
    s = _inside(stack, h, problem.x, at.s, None, None)

    def barrier(both):
        total, logs = path.objective(both[:3], [both[3:].reshape(s.shape)])
        return total - mu * logs

    start = path.begin(problem.x, [s], mu)
    (terms,) = path.terms(start)
    found = np.concatenate([np.ravel(g) for g in path._barrier_gradient(stack, terms, mu)])
    found[:3] += 2.0 * problem.A @ problem.x
    both = np.concatenate([problem.x, s.ravel()])
    wanted = [(barrier(both + e) - barrier(both - e)) / 2e-6 for e in 1e-6 * np.eye(len(both))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


class Bent(Shift):
    """Far from 0 it adapts to, and what it bends by is little beside that."""

    def adapt(self, theta, risk):
        theta_i, pullback = super().adapt(theta, risk)
        return theta_i + 1e6 + 0.1 * np.sin(theta), pullback


def test_a_rule_that_bends_is_found_out_however_far_it_adapts():
    risk = stacked_risk(SquaredError())
    assert affine_error(Shift(), THETA_4, risk) < 1e-12
    assert 1e-3 < affine_error(Bent(), THETA_4, risk) < 0.2


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_no_bound(number, monkeypatch):
    """An infinite one above would be a proof that there is no minimum."""
    _, _, problem, (at,) = problem_of(STEP, episodes=SPLIT)
    (stack,), x = problem.stacks, problem.x
    known = narrow(stack, everywhere(stack), Ellipsoid(x, np.eye(3), 1.0), at)
    nowhere = SimpleNamespace(least=lambda g, x: number)
    monkeypatch.setattr("sklearn_maml.certificate.relaxation._dual_value", lambda *_: number)
    for intervals, region in ((known, nowhere), (everywhere(stack), None)):
        program = relaxation(problem, [intervals], region)
        slopes, mu = program.start(x, [at.s])
        iterate = program.path.begin(x, slopes, mu)
        assert program.bound(iterate, program.path.terms(iterate)).lower == -np.inf
        assert program.solve(x, [at.s], 1.0, 1e-6).lower == -np.inf


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_theorem_1_everywhere_is_its_statement_at_the_slopes_where_the_method_ends(rule, alpha):
    """``min l - nu z`` of log-cosh is at ``y + artanh nu``, and its slopes are within 1."""
    _, _, problem, _ = problem_of(rule, episodes=SPLIT, alpha=alpha)
    (stack,), intervals = problem.stacks, [everywhere(stack) for stack in problem.stacks]
    slopes, value = [s for _, s, _ in problem.graphs], problem.value(problem.x)
    point = relaxation(problem, intervals, None).solve(problem.x, slopes, value, 1e-6)
    (nu,), A, x1 = point.duals, problem.A, point.x
    rest = np.einsum("ij,ijk->k", 0.25 * stack.b * nu, stack.Phi) + 2.0 * A @ x1
    assert np.linalg.norm(rest) < 1e-14
    c = np.einsum("ij,ijk->ik", 0.25 * stack.b * nu, stack.C)
    best = stack.y_query + np.arctanh(nu)
    inner = LogCosh().value(stack.y_query, best) - nu * best
    wanted = (0.25 * stack.b * inner).sum() - np.abs(c).sum() - x1 @ A @ x1
    assert point.lower == pytest.approx(wanted, rel=1e-9)
    assert point.lower < value


@pytest.mark.parametrize("episodes", [None, SPLIT], ids=["all", "split"])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_steps_of_the_central_path_are_newton_steps_of_the_barrier_function(rule, flat, episodes):
    """Its Hessian in x and slopes by differences of its gradient, and that system solved whole."""
    _, _, problem, (at,) = problem_of(rule, episodes=episodes)
    (stack,), region = problem.stacks, Ellipsoid(problem.x, np.eye(3), 0.5)
    known = everywhere(stack) if flat else narrow(stack, everywhere(stack), region, at)
    h, mu = hull(stack.loss, stack.y, known.low, known.high), 0.3
    path = CentralPath(problem, [h], flat)
    s = _inside(stack, h, problem.x, at.s, 0.0 * at.s, mu)

    def gradient(both):
        here = path.begin(both[:3], [both[3:].reshape(s.shape)], mu)
        (terms,) = path.terms(here)
        in_x, in_slopes = path._barrier_gradient(stack, terms, mu)
        return np.concatenate([in_x + 2.0 * problem.A @ both[:3], in_slopes.ravel()])

    both = np.concatenate([problem.x, s.ravel()])
    eye = 1e-6 * np.eye(len(both))
    hessian = np.array([(gradient(both + e) - gradient(both - e)) / 2e-6 for e in eye])
    wanted = -np.linalg.solve(hessian, gradient(both))
    start = path.begin(problem.x, [s], mu)
    (terms,) = path.terms(start)
    move, decrease, longest = path.step(start, [terms], mu)
    np.testing.assert_allclose(move.x, wanted[:3], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(move.slopes[0].ravel(), wanted[3:], rtol=1e-4, atol=1e-6)
    assert decrease == pytest.approx(-gradient(both) @ wanted, rel=1e-5)
    # Distances to the hulls, and how fast they fall along the move.
    u = stack.support_predictions(move.x, move.slopes[0])
    falls = np.stack([move.slopes[0], -move.slopes[0]])
    falls += (
        np.zeros_like(falls) if flat else np.stack([-terms.top_slope * u, terms.bottom_slope * u])
    )
    shares = np.where(falls > 0, np.stack([terms.up, terms.down]) / np.abs(falls), np.inf)
    assert longest == pytest.approx(min(1.0, 0.99 * shares.min()), rel=1e-9)
    # The multipliers move as the conditions ``m distance = p mu`` say to first order.
    for m, moved, distance, fall in (
        (start.above[0], move.above[0], terms.up, falls[0]),
        (start.below[0], move.below[0], terms.down, falls[1]),
    ):
        np.testing.assert_allclose(m * distance, 0.25 * mu, rtol=1e-9)
        np.testing.assert_allclose(moved * distance, m * fall, rtol=1e-9, atol=1e-12)


def test_a_column_of_zeros_does_not_keep_a_foreign_rule_from_being_spot_checked():
    """Division by nothing would be a warning, and warnings are errors here."""
    tasks = [(np.column_stack([X, np.zeros(7)]), y) for X, y in make_tasks(4, 7, n_features=2)]
    certificate = certify(objective_of(tasks, SquaredError(), Shift()), np.ones(4))
    assert 0 < certificate.bound < np.inf
