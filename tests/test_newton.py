"""Newton's method on stacks of small problems against scipy, and where floats end."""

import numpy as np
import pytest
from objectives import targets_for
from scipy.optimize import minimize

from sklearn_maml._task_newton import RidgeProblem, line_search, ridge_minimum
from sklearn_maml.losses import LOSSES, LogCosh, Loss, PseudoHuber, SmoothedQuantile

CONVEX = [name for name in LOSSES if not LOSSES[name].constant_hessian]


def make_problem(loss, m=6, r=4, size=1.0, n_targets=None, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, size=(5, m))
    weights[0, -1] = 0.0  # padding
    shape = (5, m) if n_targets is None else (n_targets, 5, m)
    return RidgeProblem(
        loss,
        targets_for(loss, 2 * rng.normal(size=shape)),
        weights / weights.sum(axis=1, keepdims=True),
        size * rng.normal(size=shape),
        rng.normal(size=(5, m, r)),
        rng.uniform(0.1, 1.0, size=5),
    )


def alone(problem, i):
    """Problem i of a stack, as a function of b for scipy."""
    one = problem.take(np.arange(5) == i)
    return lambda b: one.value(b[None])[0]


@pytest.mark.parametrize(("m", "r"), [(6, 4), (2, 4), (4, 4), (3, 1)])
@pytest.mark.parametrize("loss", CONVEX)
def test_minima_are_those_of_scipy(loss, m, r):
    problem = make_problem(LOSSES[loss](), m, r)
    b = ridge_minimum(problem)
    for i in range(5):
        value = alone(problem, i)
        found = minimize(value, np.zeros(r), tol=1e-10)
        assert value(b[i]) <= found.fun + 1e-14
        np.testing.assert_allclose(b[i], found.x, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 30.0, 150.0, 700.0])
@pytest.mark.parametrize("loss", CONVEX)
def test_the_gradient_is_zero_at_the_minimum_however_far_the_start(loss, size):
    problem = make_problem(LOSSES[loss](), size=size)
    b = ridge_minimum(problem)
    solved = np.isfinite(b).all(axis=-1)
    assert solved.all() or size == 700  # there an exponential needs hundreds of steps
    problem, b = problem.take(solved), b[solved]
    slope = problem.weights * problem.loss.gradient(problem.targets, problem.predict(b))
    pulls = slope[..., None] * problem.rows
    gradient = pulls.sum(axis=1) + 2 * problem.strength[:, None] * b
    assert (np.abs(gradient) <= 1e-9 * (1 + np.abs(pulls).sum(axis=1))).all()


def test_rows_in_an_orthonormal_basis_give_the_same_minimum():
    problem = make_problem(PseudoHuber(), m=3, r=3)
    wider = problem._replace(rows=np.concatenate([problem.rows, np.zeros((5, 3, 4))], axis=-1))
    b = ridge_minimum(wider)
    np.testing.assert_allclose(b[..., :3], ridge_minimum(problem), atol=1e-12)
    np.testing.assert_allclose(b[..., 3:], 0, atol=1e-12)


def test_several_targets_are_solved_each_by_itself():
    problem = make_problem(LOSSES["poisson"](), n_targets=3)
    b = ridge_minimum(problem)
    for k in range(3):
        one = problem._replace(targets=problem.targets[k], start=problem.start[k])
        np.testing.assert_allclose(b[k], ridge_minimum(one), rtol=1e-9, atol=1e-12)


def test_no_columns_leave_nothing_to_find():
    assert ridge_minimum(make_problem(PseudoHuber(), r=0)).shape == (5, 0)


@pytest.mark.parametrize("loss", [LOSSES[name] for name in CONVEX])
def test_a_task_that_fits_already_stays(loss):
    problem = make_problem(loss())
    problem = problem._replace(weights=0 * problem.weights)
    assert (ridge_minimum(problem) == 0).all()


def test_residuals_too_small_for_the_loss_to_see_are_still_fitted():
    problem = make_problem(PseudoHuber())
    start = problem.targets + 1e-10 * problem.start
    b = ridge_minimum(problem._replace(start=start))
    squared = ridge_minimum(problem._replace(loss=Square(), start=start))
    assert np.isfinite(b).all()
    np.testing.assert_allclose(b, squared, rtol=1e-4, atol=1e-16)


@pytest.mark.parametrize("loss", [LogCosh(), PseudoHuber()], ids=["log_cosh", "pseudo_huber"])
def test_rows_that_are_met_but_for_rounding_are_solved(loss):
    """A step of 1e-17 changes no prediction, so that no value falls; a fit was not a number."""
    problem = RidgeProblem(
        loss,
        targets=np.array([[0.6340480082453735, -0.06917420109858651]]),
        weights=np.full((1, 2), 0.5),
        start=np.array([[0.6340480082453729, -0.06917420109858707]]),
        rows=np.array([[[-0.057195249109449744, 0.0], [-0.046280655750774, 0.01592737820693894]]]),
        strength=np.array([0.5]),
    )
    b = ridge_minimum(problem)
    assert (np.abs(b) < 1e-15).all()


class Square(Loss):
    def value(self, y, z):
        return (z - y) ** 2

    def gradient(self, y, z):
        return 2 * (z - y)

    def hessian(self, y, z):
        return np.full(np.shape(z), 2.0)


@pytest.mark.parametrize("outlier", [1e5, 1e8])
@pytest.mark.parametrize(
    "loss", [SmoothedQuantile(smoothing=0.01), PseudoHuber(), LogCosh()], ids=repr
)
def test_an_outlier_hides_no_other_row(loss, outlier):
    """Its share of the value is so large that what the others gain is lost in rounding."""
    problem = make_problem(loss, m=6, r=2)
    targets = problem.targets.copy()
    targets[:, 0] = outlier
    problem = problem._replace(targets=targets)
    gradient = problem.gradient(ridge_minimum(problem))
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


class Broken(Square):
    hessian_bound = 2.0

    def gradient(self, y, z):
        return np.full(np.shape(z), np.nan)


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie"])
def test_a_deviance_that_is_less_than_its_rounding_is_still_minimised(loss):
    # A row that is all but predicted: its deviance is the small difference of large terms.
    far = np.geomspace(1e-9, 1e-2, 200)
    n = len(far)
    rows = np.broadcast_to([-0.9, 0.4, 5.9], (n, 1, 3))
    ones, zeros = np.ones((n, 1)), np.zeros((n, 1))
    problem = RidgeProblem(LOSSES[loss](), np.exp(far)[:, None], ones, zeros, rows, np.ones(n))
    b = ridge_minimum(problem)
    # To first order a ridge regression on y - 1, of a loss whose second derivative is 2.
    expected = far / (rows[0, 0] @ rows[0, 0] + 1.0)
    np.testing.assert_allclose(b, expected[:, None] * rows[:, 0], rtol=2e-2, atol=1e-16)


def test_what_cannot_be_solved_is_not_a_number():
    assert np.isnan(ridge_minimum(make_problem(Broken()))).all()
    problem = make_problem(LOSSES["log_loss"]())
    assert np.isnan(ridge_minimum(problem, max_iter=1)).all()


class Squares:
    """The squares of numbers, a task each."""

    def value(self, a):
        return a[..., 0] ** 2

    def take(self, chosen):
        return self


def test_a_line_search_halves_each_step_until_it_lowers_the_value():
    a = np.array([[1.0], [1.0], [0.0], [2.0]])
    step = np.array([[1.0], [8.5], [np.nan], [-1.0]])  # right; far too long; none; uphill
    value = Squares().value(a)
    b, value = line_search(Squares(), a, value, step, np.array([2.0, 17.0, np.nan, 4.0]))
    np.testing.assert_allclose(b[:, 0], [0.0, 1 - 8.5 / 8, 0.0, 2.0])
    np.testing.assert_allclose(value, b[:, 0] ** 2)
