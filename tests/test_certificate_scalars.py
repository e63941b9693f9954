"""What certificates know of a scalar slope, against dense grids: hulls, ranges, infima, strips."""

from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_maml.certificate.minimisers import _exceeds
from sklearn_maml.certificate.slopes import curvature_least, hull, rho_range, strip, third_range
from sklearn_maml.losses import LogCosh, LogLoss, PseudoHuber, SmoothedQuantile

SIGMOIDS = (LogLoss(), PseudoHuber(0.7), LogCosh(), SmoothedQuantile(0.3, 0.2))
LOSSES = st.sampled_from(SIGMOIDS)
Z = st.floats(-12, 12)
WIDTH = st.floats(1e-6, 20)


def interval(loss, y, low, width, share):
    """A target, an interval around a point inside of it, and a grid of it: rows are (1, n)."""
    y = np.array([[float(y) if loss.least_at_target else float(y > 0)]])
    low = np.array([[low]])
    grid = low + np.linspace(0, 1, 2001)[None] * width
    return y, low, low + width, low + share * width, grid


@settings(max_examples=300, deadline=None)
@given(LOSSES, Z, Z, WIDTH)
def test_hulls_hold_the_slope_and_are_concave_and_convex(loss, y, low, width):
    y, low, high, _, grid = interval(loss, y, low, width, 0.5)
    h = hull(loss, y, low, high)
    (above, above1, _), (below, below1, _) = h(grid)
    slope = loss.gradient(y, grid)
    assert (above >= slope).all()
    assert (below <= slope).all()
    # Tangents of the envelopes hold the slope too: this is what the proof uses.
    for k in range(0, 2001, 250):
        away = grid - grid[:, k : k + 1]
        assert (above[:, k : k + 1] + above1[:, k : k + 1] * away >= slope).all()
        assert (below[:, k : k + 1] + below1[:, k : k + 1] * away <= slope).all()


@pytest.mark.parametrize("loss", SIGMOIDS, ids=repr)
@pytest.mark.parametrize("ends", [(-np.inf, 1.0), (-1.0, np.inf), (-np.inf, np.inf)])
def test_hulls_of_endless_intervals_hold_the_slope(loss, ends):
    y = np.array([[1.0]])
    grid = np.linspace(*np.clip(ends, -50, 50), 2001)[None]
    above, below = hull(loss, y, np.array([[ends[0]]]), np.array([[ends[1]]]))(grid, order=0)
    slope = loss.gradient(y, grid)
    assert (above[0] >= slope).all()
    assert (below[0] <= slope).all()
    least, most = loss.slope_range(y)
    if np.isfinite(ends[0]):  # on the side of the end that there is, the slope's range is cut
        assert (above[0] < most - 1e-3 * (most - least)).any()
    if np.isfinite(ends[1]):
        assert (below[0] > least + 1e-3 * (most - least)).any()
    assert hull(loss, y, -np.full_like(y, np.inf), np.full_like(y, np.inf)).flat


@settings(max_examples=300, deadline=None)
@given(LOSSES, Z, Z, WIDTH, st.floats(0, 1))
def test_ranges_hold_what_they_are_ranges_of(loss, y, low, width, share):
    y, low, high, u0, grid = interval(loss, y, low, width, share)
    rho = loss.gradient(y, grid) - loss.gradient(y, u0) - loss.hessian(y, u0) * (grid - u0)
    least, most = rho_range(loss, y, u0, low, high)
    assert (least <= rho).all()
    assert (rho <= most).all()
    far = np.abs(grid - u0) > 1e-2  # nearer, the difference itself is rounding
    mean = rho[far] / (0.5 * (grid - u0)[far] ** 2)
    least, most = third_range(loss, y, u0, low, high)
    assert (least - 1e-9 <= mean).all()
    assert (mean <= most + 1e-9).all()


@pytest.mark.parametrize("delta", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_ranges_of_a_mean_third_derivative_are_those_of_its_closed_form(delta, side):
    """``rho / (e^2 / 2) = -4 e / (delta^2 r (1 + r))``, ``r^2 = 1 + (e / delta)^2``, at the target.

    Near it this falls as steeply as the fourth derivative allows: nothing is left to give away.
    """
    width = delta * np.geomspace(1e-6, 0.5, 400)[None]
    y, end = np.zeros_like(width), side * width
    ends = np.minimum(end, 0.0), np.maximum(end, 0.0)
    least, most = third_range(PseudoHuber(delta), y, y, *ends)
    root = np.hypot(1.0, end / delta)
    mean = -4.0 * end / (delta**2 * root * (1.0 + root))
    assert (least <= np.minimum(mean, 0.0)).all()
    assert (np.maximum(mean, 0.0) <= most).all()
    slack = np.maximum(np.minimum(mean, 0.0) - least, most - np.maximum(mean, 0.0))
    assert (slack * delta < 0.05).all()  # of the third derivative's range, 1.7 / delta


@settings(max_examples=300, deadline=None)
@given(LOSSES, Z, Z, WIDTH, st.floats(0, 1))
def test_lemma_4_the_least_curvature_is_at_an_end(loss, y, low, width, share):
    y, low, high, z0, grid = interval(loss, y, low, width, share)
    step = grid - z0
    far = np.abs(step) > 1e-2
    excess = loss.value(y, grid) - loss.value(y, z0) - loss.gradient(y, z0) * step
    ratio = excess[far] / (0.5 * step[far] ** 2)
    least = curvature_least(loss, y, z0, low, high)
    assert least <= loss.hessian(y, z0)
    assert (least <= ratio + 1e-9).all()
    endless = np.full_like(low, np.inf)
    assert curvature_least(loss, y, z0, low, endless) == 0


@settings(max_examples=300, deadline=None)
@given(LOSSES, Z, Z, WIDTH)
def test_strips_hold_the_slope(loss, y, low, width):
    y, low, high, _, grid = interval(loss, y, low, width, 0.5)
    slope, level, half = strip(loss, y, low, high)
    away = loss.gradient(y, grid) - level - slope * (grid - low)
    assert slope >= 0
    assert (np.abs(away) <= half).all()


@pytest.mark.parametrize(("excess", "beyond"), [(8.9, True), (9.1, False)])
def test_a_ball_is_as_large_as_the_penalty_says_where_no_row_does(excess, beyond):
    problem = SimpleNamespace(A=np.diag([1.0, 2.0]))  # x' A x is at least 9 on a sphere of radius 3
    assert _exceeds(problem, [], np.eye(2), 3.0, excess) == beyond


def test_lemma_4_stays_below_the_exact_curvature_where_differences_round():
    """``D / (h^2 / 2)`` of log-cosh at short steps and far from 0, in 50 digits."""
    mpmath.mp.dps = 50
    loss, rng = LogCosh(), np.random.default_rng(0)
    z0, y = rng.uniform(0.1, 1.0, 200), np.repeat([0.0, 1e3], 100)
    z0, step = z0 + y, np.geomspace(6e-4, 1e-2, 200)[rng.permutation(200)]
    found = curvature_least(loss, y, z0, z0, z0 + step)
    for least, target, start, end in zip(found, y, z0, z0 + step, strict=True):
        a, b = (mpmath.mpf(float(z)) - mpmath.mpf(float(target)) for z in (start, end))
        fallen = mpmath.log(mpmath.cosh(b)) - mpmath.log(mpmath.cosh(a)) - mpmath.tanh(a) * (b - a)
        exact = float(2 * fallen / (b - a) ** 2)
        assert exact * (1 - 1e-2) <= least <= exact
