"""Theorem 4 in parts: what squares of moves cost, the quadratic, and what it says of a gap."""

from types import SimpleNamespace

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of
from scipy.optimize import minimize

from sklearn_maml import Proximal
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.certificate.convexity import (
    SHARES,
    _grown,
    least_curvature,
    newton_gap,
    second_order,
)
from sklearn_maml.certificate.regions import Box, Ellipsoid, Intervals, everywhere, narrow
from sklearn_maml.certificate.slope_problem import slope_problem
from sklearn_maml.certificate.slopes import curvature_least, third_range
from sklearn_maml.losses import LogCosh

THETA = np.array([0.4, -0.3, 0.2])
COUPLED = [GradientSteps(0.3, 3, cap=False), Proximal(3.0, np.array([0.5, 1.0, 2.0]))]


def problem_of(rule):
    """Four tasks of log-cosh, four support rows and three query rows each, seen from THETA."""
    tasks = make_tasks(4, 7, n_features=2, seed=7)
    objective = objective_of(tasks, LogCosh(), rule, 0.05, {"support": 4, "split": "first"})
    problem = slope_problem(objective, THETA, 0, 1e10, True)
    return problem, problem.stacks[0], problem.anchors(problem.x)


def grown(B, third, h, curvature, reach=0.5):
    """`_grown` of tasks (n, k, k) whose u are within `reach` of where they are seen from.

    With these thirds and curvatures a slope moves by no more than ``0.5 third reach`` a unit.
    """
    stack = SimpleNamespace(loss=LogCosh(), masked=lambda a: a)
    zero = np.zeros(h.shape)
    at = SimpleNamespace(u=zero, B=B, curvature=zero + curvature)
    return _grown(stack, at, Intervals(zero - reach, zero + reach, None, None), zero + third, h)


def most_that_squares_can_be(M, h):
    """The matrix H with ``max h' xi = w' H w``: rows move as far as they may, all one way.

    ``u - u0 = r = w - v`` and ``|v| <= M |r|``: the most is at ``v = -M r``, ``r = (I - M)^-1 w``.
    """
    inverse = np.linalg.inv(np.eye(len(h)) - M)
    return inverse.T @ np.diag(h) @ inverse


@pytest.mark.parametrize("size", [1e-4, 1e-3, 0.01, 0.05, 0.1, 0.3])
def test_squares_of_steps_that_move_one_another_are_not_larger_than_is_paid(size):
    """For all w ``h' xi <= paid' w^2``, where the worst xi has a closed form; and nearly so."""
    rng = np.random.default_rng(0)
    B, h = rng.uniform(-1, 1, (6, 4, 4)), rng.uniform(0.5, 1, (6, 4))
    third = size / np.abs(B).sum(axis=-1).max() / 0.25
    paid = grown(B, third, h, 0.5)
    for own, weights, most in zip(B, h, paid, strict=True):
        M = np.abs(own) * 0.25 * third
        worst = np.linalg.eigvalsh(np.diag(most) - most_that_squares_can_be(M, weights))[0]
        assert worst >= 0
        assert most.sum() <= weights.sum() * (1.02 + 4.0 * size)


@pytest.mark.parametrize("curvature", [0.2, 0.7])
def test_a_slope_moves_by_no_more_than_its_loss_allows_however_wide_the_interval(curvature):
    """``rho / (u - u0)`` is a mean of l'' less l''(u0), both between 0 and 1."""
    rng = np.random.default_rng(1)
    B, h = rng.uniform(-0.1, 0.1, (1, 4, 4)), np.ones((1, 4))
    M = np.abs(B[0]) * max(curvature, 1.0 - curvature)
    for third, reach in ((0.5, 1e3), (1e3, 0.5)):
        paid = grown(B, third, h, curvature, reach)[0]
        assert np.linalg.eigvalsh(np.diag(paid) - most_that_squares_can_be(M, h[0]))[0] >= 0
        assert paid.max() < 2.0


def test_rows_whose_moves_are_half_as_large_as_what_moves_them_are_paid_for():
    """``N`` has rows of sum 0.63^2, and twice that is below 1: the largest share will do."""
    B, h = np.full((1, 3, 3), 0.21), np.ones((1, 3))
    paid = grown(B, 8.0, h, 0.0)[0]  # a slope moves by 1 a unit
    assert np.linalg.eigvalsh(np.diag(paid) - most_that_squares_can_be(B[0], h[0]))[0] >= 0


def test_moves_that_feed_on_themselves_prove_nothing_but_where_nothing_is_to_be_paid():
    B = np.full((2, 3, 3), [[[0.1]], [[10.0]]])
    h = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    paid = grown(B, 1.0, h, 0.5)
    assert (paid[0] >= h[0]).all()
    assert (paid[1] == 0).all()
    h[1, 1] = 1.0
    assert grown(B, 1.0, h, 0.5) is None
    h[1, 1] = np.inf
    assert grown(0.1 * B, 1.0, h, 0.5) is None


@pytest.mark.parametrize("radius", [0.01, 0.3])
@pytest.mark.parametrize("rule", COUPLED, ids=repr)
def test_the_quadratic_of_theorem_4_is_that_of_its_formula_where_steps_move_one_another(
    rule, radius
):
    """The statement's last paragraph, task by task and row by row."""
    problem, stack, (at,) = problem_of(rule)
    loss, region = LogCosh(), Ellipsoid(problem.x + 0.1 * radius, np.diag([0.3, 1, 0.5]), radius)
    known = narrow(stack, everywhere(stack), region, *problem.anchors(region.centre))
    Q, wanted, kept = least_curvature(problem, [at], [known], region), 2.0 * problem.A, 0.0
    known = known.with_anchor(at)
    curvature = curvature_least(loss, stack.y_query, at.z, known.z_low, known.z_high)
    low, high = third_range(loss, stack.y, at.u, known.low, known.high)
    for i in range(4):
        F, B, C, Psi = at.F[i], at.B[i], at.C[i], at.Psi[i]
        seen, k = stack.b[i] * curvature[i], len(F)
        c = (stack.b[i] * np.tanh(at.z[i] - stack.y_query[i])) @ C
        n = np.array([max(0.0, -max(c[j] * low[i, j], c[j] * high[i, j])) for j in range(k)])
        rows = C.T @ np.diag(seen) @ Psi + B.T @ np.diag(n) @ F
        middle = rows @ (region.centre - problem.x)
        half = radius * np.linalg.norm(rows @ region.V, axis=1)
        ends = [(c + y) * r for y in (middle - half, middle + half) for r in (low[i], high[i])]
        h = np.maximum(np.max(ends, axis=0) + n, 0.0)
        reach = np.maximum(known.high[i] - at.u[i], at.u[i] - known.low[i])
        steepest = np.maximum(np.abs(low[i]), np.abs(high[i]))
        k0 = 1.0 / np.cosh(at.u[i] - stack.y[i]) ** 2
        eta = np.minimum(0.5 * steepest * reach, np.maximum(k0, 1.0 - k0))
        u = np.linspace(known.low[i], known.high[i], 1001)
        rho = np.tanh(u - stack.y[i]) - np.tanh(at.u[i] - stack.y[i]) - k0 * (u - at.u[i])
        assert (np.abs(rho) <= eta * np.abs(u - at.u[i]) + 1e-12).all()
        M = np.abs(B) * eta
        N = M.sum(axis=1)[:, None] * M
        options = []
        for share in SHARES:
            matrix = (1.0 + 1.0 / share) * N
            if matrix.sum(axis=1).max() < 1.0:
                options.append((1.0 + share) * h @ np.linalg.inv(np.eye(k) - matrix))
        paid = min(options, key=sum) - n
        wanted = wanted + 0.25 * (Psi.T @ np.diag(seen) @ Psi - F.T @ np.diag(paid) @ F)
        kept += n.sum()
    assert kept > 0
    np.testing.assert_allclose(Q, wanted, rtol=1e-8, atol=1e-10)


def test_the_gap_of_a_quadratic_is_what_its_minimum_says():
    rng, scale = np.random.default_rng(3), np.array([1e-2, 1.0, 1e2])
    root = rng.normal(size=(3, 3))
    Q, g = root @ root.T * np.outer(scale, scale), rng.normal(size=3) * scale
    hessian = (root @ root.T + np.eye(3)) * np.outer(scale, scale)
    fall = minimize(
        lambda t: g / scale @ t + 0.5 * np.square(root.T @ t).sum(), np.zeros(3), tol=1e-12
    )
    assert newton_gap(Q, g, hessian) == pytest.approx(-fall.fun, rel=1e-6)
    # The norm of a Hessian that hardly curves along some directions is no reason to doubt them.
    steep = np.array([1e-8, 1e-4, 1.0])
    for size in (1e-3, 1e3):
        same = newton_gap(0.5 * size * np.diag(steep), steep, size * np.diag(steep))
        assert same == pytest.approx(steep.sum() / size)
        for share, norm in ((1e-12, 1.0), (1e-19, 1e-12)):  # what is left of curvature is rounding
            Q, H = (size * np.diag([e, e, 1.0]) for e in (share, norm))
            assert newton_gap(Q, steep, H) == np.inf
    flat = root[:, :2] @ root[:, :2].T
    for other in (None, flat, flat - 1e-3 * np.eye(3)):
        assert newton_gap(other, g, hessian) == np.inf


@pytest.mark.parametrize("share", [0.8, -0.8])
def test_theorem_4_finds_the_minimum_inside_of_a_box_where_it_is_convex(share):
    """L-BFGS-B of the same quadratic: long and short directions, on either side of the centre."""
    problem, stack, _ = problem_of(COUPLED[1])
    best = minimize(problem.value, problem.x, tol=1e-12).x
    V, half = np.eye(3)[:, [2, 0, 1]], np.array([0.02, 0.1, 0.01])
    centre = best + V @ (share * half)
    box = Box(centre, V, half, Ellipsoid(centre, V, 1.0))
    around = problem.anchors(centre)
    known = [narrow(stack, everywhere(stack), box, *around)]
    value, gradient, _ = problem.derivatives(around)
    Q = least_curvature(problem, around, known, box)
    assert np.linalg.eigvalsh(Q)[0] > 0
    found = minimize(
        lambda t: gradient @ V @ t + 0.5 * (V @ t) @ Q @ (V @ t),
        np.zeros(3),
        bounds=list(zip(-half, half, strict=True)),
        tol=1e-15,
    )
    lower = second_order(problem, box, around, known)
    assert lower == pytest.approx(value + found.fun, abs=2e-2 * abs(found.fun))
    assert lower <= problem.value(best)


@pytest.mark.parametrize("radius", [0.05, 1.5])
@pytest.mark.parametrize("rule", [GradientSteps(0.7, cap=False), *COUPLED], ids=repr)
def test_in_a_box_the_loss_is_above_what_theorem_4_says_from_its_centre(rule, radius):
    problem, stack, _ = problem_of(rule)
    rng = np.random.default_rng(4)
    V, half = np.linalg.qr(rng.normal(size=(3, 3)))[0], radius * np.array([1.0, 0.3, 0.6])
    box = Box(problem.x + 0.5, V, half, Ellipsoid(problem.x + 0.5, V, 10.0 * radius))
    around = problem.anchors(box.centre)
    known = [narrow(stack, everywhere(stack), box, *around)]
    lower = second_order(problem, box, around, known)
    value, gradient, _ = problem.derivatives(around)
    Q = least_curvature(problem, around, known, box)
    if Q is None:
        assert stack.coupled
        assert radius > 1.0
        assert lower == -np.inf
        return
    assert lower > -np.inf
    t = np.concatenate([rng.uniform(-1, 1, (300, 3)), np.sign(rng.normal(size=(300, 3)))]) * half
    D = t @ V.T
    least = min(problem.value(box.centre + d) for d in D)
    quadratic = value + D @ gradient + 0.5 * np.einsum("ij,jk,ik->i", D, Q, D)
    assert lower <= quadratic.min() + 1e-12
    assert quadratic.min() <= least + 1e-12
    inner = V.T @ Q @ V * np.outer(half, half)
    shift = max(0.0, -np.linalg.eigvalsh(inner)[0])
    best = minimize(
        lambda t: gradient @ V * half @ t + 0.5 * t @ (inner + shift * np.eye(3)) @ t,
        np.zeros(3),
        bounds=[(-1, 1)] * 3,
        tol=1e-14,
    )
    assert lower <= value + best.fun - 1.5 * shift + 1e-9
    assert lower >= value + best.fun - 1.5 * shift - 1e-2 * abs(best.fun)
