"""Coordinates in which solvers work: features far from zero, collinear, or too many."""

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of, targets_for
from small_parts import Shift

from sklearn_maml import MAMLRegressor, Proximal
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses import LOSSES, PseudoHuber
from sklearn_maml.solvers import LBFGS, GaussNewton, GradientDescent
from sklearn_maml.solvers.coordinates import Coordinates

ITERATIVE = {
    "gauss_newton": GaussNewton(),
    "lbfgs": LBFGS(),
    "gradient_descent": GradientDescent(tol=1e-6),
}
EPS = np.finfo(float).eps


def rows(seed=0):
    """Features of unit size and targets of 20 tasks."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(20, 15, 2))
    theta = np.array([1.0, -0.5]) + 0.3 * rng.normal(size=(20, 2))
    return X, np.einsum("nmd,nd->nm", X, theta) + 0.5 + 0.3 * rng.normal(size=(20, 15))


def with_offset(offset, loss):
    """Tasks with a first feature of mean `offset`; and the same, removed by hand."""
    X, y = rows()
    far, near = X.copy(), X.copy()
    far[..., 0] += offset
    near[..., 0] = far[..., 0] - offset  # just what float64 has kept
    y = targets_for(loss, y)
    return list(zip(far, y, strict=True)), list(zip(near, y, strict=True))


@pytest.mark.parametrize("offset", [1e3, 1e5, 1e7, 1e9])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("solver", ITERATIVE)
def test_an_offset_changes_nothing_but_the_intercept(solver, loss, offset):
    loss = LOSSES[loss]()
    far, near = (
        MAMLRegressor(0.1, 0, loss=loss, solver=ITERATIVE[solver]).fit(tasks)
        for tasks in with_offset(offset, loss)
    )
    # The last bit of a prediction x w + b is eps times the offset.
    assert far.meta_loss_ == pytest.approx(near.meta_loss_, rel=1e-9 + 5 * EPS * offset)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-4)


@pytest.mark.parametrize("offset", [1e6, 1e8])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("solver", ["gauss_newton", "lbfgs"])
def test_neither_does_it_where_tasks_adapt_in_standardised_features(solver, loss, offset):
    loss = LOSSES[loss]()
    far, near = (
        MAMLRegressor("auto", 1, loss=loss, solver=solver).fit(tasks)
        for tasks in with_offset(offset, loss)
    )
    assert far.meta_loss_ == pytest.approx(near.meta_loss_, rel=1e-9 + 5 * EPS * offset)
    np.testing.assert_allclose(far.coef_, near.coef_, rtol=1e-4)


@pytest.mark.parametrize("solver", ["gauss_newton", "lbfgs"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("condition", [1e6, 1e8, 1e10])
@pytest.mark.parametrize("loss", ["log_cosh", "log_loss"])
@pytest.mark.filterwarnings("ignore:.*stopped after:sklearn.exceptions.ConvergenceWarning")
def test_columns_that_are_nearly_constant_are_told_apart(loss, condition, intercept, solver):
    """1 and 1 + x / condition: the loss of 1 and x, but for the rounding of predictions."""
    X, y = rows()
    column = 1 + X[..., 0] / condition
    y = (y > 0.5) * 1.0 if loss == "log_loss" else y
    kept = (column - 1) * condition
    near = MAMLRegressor(0.1, 0, loss=loss).fit(list(zip(kept[..., None], y, strict=True)))
    far = MAMLRegressor(0.1, 0, loss=loss, solver=solver, fit_intercept=intercept)
    far.fit(list(zip(np.stack([np.ones_like(column), column], axis=-1), y, strict=True)))
    assert far.meta_loss_ == pytest.approx(near.meta_loss_, rel=100 * EPS * condition)


def test_features_that_can_be_told_apart_are_left_as_they_are():
    objective = objective_of(make_tasks(20, 8), PseudoHuber(), GradientSteps(0.1))
    coordinates, point = Coordinates.choose(objective, np.ones(6))
    assert coordinates.change is None
    assert (coordinates.theta(point.y) == 1).all()
    assert coordinates.rounding(point.y) == 0.0


@pytest.mark.parametrize("n_targets", [0, 2])
def test_value_gradient_and_hessian_are_those_of_the_coordinates(n_targets):
    rng = np.random.default_rng(0)
    tasks = []
    for _ in range(6):
        X = rng.normal([0, 1e6], size=(9, 2))
        tasks.append((X, rng.normal(size=(9, 2) if n_targets else 9)))
    objective = objective_of(tasks, PseudoHuber(), Proximal(2.0, np.array([1.0, 0.0, 1.0])), 0.1)
    start = np.zeros((n_targets, 3) if n_targets else 3)
    coordinates, origin = Coordinates.choose(objective, start)
    assert origin.y.shape == origin.gradient.shape == start.shape
    y, step = rng.normal(size=start.shape), 1e-4
    here = coordinates.look(y, hessian=True)
    assert here.value == objective.value(coordinates.theta(y))
    for index in np.ndindex(y.shape):
        move = np.zeros_like(y)
        move[index] = step
        ahead, behind = coordinates.look(y + move), coordinates.look(y - move)
        slope = (ahead.value - behind.value) / (2 * step)
        assert here.gradient[index] == pytest.approx(slope, rel=1e-4, abs=1e-5)
    # With rows this close to their targets the inner loop is all but linear.
    assert (np.linalg.eigvalsh(here.hessian) > 0).all()
    assert 0 < coordinates.rounding(y) < 1e-7 * here.value


def test_directions_in_which_no_row_varies_stay_where_they_were():
    tasks = make_tasks(4, 3, n_features=30)
    objective = objective_of(tasks, PseudoHuber(), GradientSteps(0.5, relative=True))
    start = np.random.default_rng(0).normal(size=31)
    coordinates, point = Coordinates.choose(objective, start)
    assert coordinates.change.shape == (31, 12)
    assert (coordinates.theta(point.y) == start).all()
    X = np.concatenate([X for X, _ in tasks])
    unseen = np.linalg.svd(np.column_stack([X, np.ones(len(X))]))[2][12:]
    move = GaussNewton().minimize(objective, start).theta - start
    scale = np.append(np.sqrt(np.square(X).mean(axis=0)), 1.0)  # orthogonal in scaled features
    assert np.abs(unseen @ (scale**2 * move)).max() < 1e-12 * np.abs(move).max()


class Mixing(Shift):
    """A rule that adds to each parameter the one after it: it sees what no row of phi shows."""

    def adapt(self, theta, risk):
        theta_i = theta + np.roll(theta, -1, axis=-1)
        theta_i = np.broadcast_to(theta_i, np.broadcast_shapes(theta_i.shape, (len(risk.size), 1)))
        return theta_i.copy(), lambda V: V + np.roll(V, 1, axis=-1)


@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS()], ids=repr)
def test_a_rule_that_sees_more_than_the_rows_is_followed_there(solver):
    """A column of zeros, whose parameter the rule adds to that of the column before."""
    rng = np.random.default_rng(1)
    tasks = []
    for X, y in make_tasks(20, 8, n_features=3, seed=1):
        tasks.append((np.column_stack([X[:, :2], X[:, :2], 0 * y]), y + rng.normal()))
    objective = objective_of(tasks, PseudoHuber(), Mixing())
    assert Coordinates.choose(objective, np.zeros(6))[0].change.shape == (6, 6)
    result = solver.minimize(objective, np.zeros(6))
    plain = objective_of([(X[:, :2], y) for X, y in tasks], PseudoHuber(), GradientSteps(0.1, 0))
    best = solver.minimize(plain, np.zeros(3)).values[-1]
    assert result.values[-1] == pytest.approx(best, rel=1e-8)
