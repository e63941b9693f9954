"""The descent of Gauss-Newton, and gradient steps that are followed from the rows."""

import numpy as np
import pytest
from families import make_tasks
from numpy.testing import assert_allclose
from objectives import objective_of

from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses import LogLoss, Poisson, PseudoHuber, SquaredError
from sklearn_maml.solvers import GaussNewton
from sklearn_maml.solvers.coordinates import Coordinates
from sklearn_maml.solvers.descent import Descent, SecantModel, hessian_pays
from sklearn_maml.solvers.solver import Iterates

RULE = GradientSteps(0.5, 2, relative=True)


def spd(d, seed):
    root = np.random.default_rng(seed).normal(size=(d, d + 3))
    return root @ root.T


def test_the_value_alone_is_the_value():
    objective = objective_of(make_tasks(9, 5), PseudoHuber(), RULE, 0.2)
    theta = np.full(objective.n_parameters, 0.3)
    alone = objective.value(theta)
    assert objective.value_and_gradient(theta)[0] == pytest.approx(alone, rel=1e-14)
    assert objective.value(theta) == objective.value_and_gradient(theta)[0]


def test_a_model_without_secants_takes_newton_steps():
    hessian, gradient = spd(5, 0), np.arange(5.0)
    step = SecantModel.of(hessian, 0.0).newton_step(gradient)
    assert_allclose(step, np.linalg.solve(hessian, gradient), rtol=1e-10)


def test_as_many_secants_as_parameters_make_up_for_a_wrong_hessian():
    hessian, d = spd(4, 1), 4
    model, theta = SecantModel.of(np.eye(d), 0.0), np.ones(d)
    basis = np.linalg.eigh(hessian)[1].T  # conjugate moves
    for move in basis:
        model = model.with_secant(move, hessian @ move)
    assert len(model.pairs) == d
    assert_allclose(model.newton_step(hessian @ theta), theta, rtol=1e-10)


def test_the_latest_secant_holds_and_the_model_stays_positive_definite():
    rng, model = np.random.default_rng(2), SecantModel.of(spd(6, 2), 1e-3)
    for _ in range(30):
        move = rng.normal(size=6)
        change = spd(6, 3) @ move + 0.3 * rng.normal(size=6)
        if (informed := model.with_secant(move, change)) is not model:
            assert_allclose(informed.newton_step(change), move, rtol=1e-7)
        model = informed
    assert len(model.pairs) == SecantModel.MEMORY
    inverse = np.array([model.newton_step(row) for row in np.eye(6)])
    assert_allclose(inverse, inverse.T, rtol=1e-6, atol=1e-9)
    assert np.linalg.eigvalsh(inverse).min() > 0


@pytest.mark.parametrize("change", [-1.0, 0.0, 1e-3, np.nan, np.inf])
def test_a_change_that_is_no_sign_of_curvature_teaches_nothing(change):
    model = SecantModel.of(np.eye(3), 0.0)
    assert model.with_secant(np.ones(3), np.full(3, change)) is model


def test_steps_grow_where_the_loss_has_become_less_curved():
    model = SecantModel.of(np.eye(3), 0.0).with_secant(np.eye(3)[0], 0.25 * np.eye(3)[0])
    assert_allclose(model.newton_step(np.eye(3)[2]), [0, 0, 4])


def test_a_hessian_pays_where_progress_is_slow_and_much_is_left():
    assert not hessian_pays(10, [1.0], 1e-12)
    assert hessian_pays(10, [1.0, 0.5], 1e-12)
    assert hessian_pays(10, [1.0, 2.0], 1e-12)
    assert not hessian_pays(10, [1.0, 0.5], 0.3)
    assert not hessian_pays(10, [1.0, 0.01], 1e-12)
    assert not hessian_pays(1000, [1.0, 0.5], 1e-12)


def counted(monkeypatch):
    """Whether a pass over the data evaluates a Hessian, for all that adapt."""
    passes, plain = [], MetaObjective.reduce

    def reduce(self, f, theta, combine=None):
        if "at_zero" not in str(f):  # which evaluates the loss alone
            passes.append("hessian" in str(f))
        return plain(self, f, theta, combine)

    monkeypatch.setattr(MetaObjective, "reduce", reduce)
    return passes


def test_a_quadratic_takes_one_step_and_two_hessians(monkeypatch):
    objective = objective_of(make_tasks(20, 8, n_features=3, seed=1), SquaredError(), RULE, 0.01)
    passes = counted(monkeypatch)
    result = GaussNewton().minimize(objective, np.zeros(4))
    assert result.n_iter <= 2  # the second polishes
    assert passes == [True, False, True, False]


@pytest.mark.parametrize("loss", [PseudoHuber(), LogLoss(), Poisson()], ids=repr)
def test_few_hessians_are_evaluated(loss, monkeypatch):
    objective = objective_of(make_tasks(200, 6, n_features=3, seed=1), loss, RULE, 0.01)
    passes = counted(monkeypatch)
    result = GaussNewton().minimize(objective, np.zeros(4))
    assert (np.diff(result.values) < 0).all()
    assert len(passes) < 10
    assert sum(passes) <= 3


def test_a_descent_from_the_minimum_stays_there():
    objective = objective_of(make_tasks(30, 6, n_features=3, seed=1), PseudoHuber(), RULE, 0.01)
    best = GaussNewton().minimize(objective, np.zeros(4))
    again = GaussNewton().minimize(objective, best.theta)
    assert again.n_iter <= 1  # of rounding
    assert again.values[-1] == pytest.approx(best.values[-1], rel=1e-14)
    assert again.converged


def test_a_damped_step_that_promises_little_is_not_taken_for_the_minimum():
    objective = objective_of(make_tasks(20, 8, n_features=3, seed=1), PseudoHuber(), RULE, 0.01)
    best = GaussNewton().minimize(objective, np.zeros(4)).values[-1]
    descent = Descent(*Coordinates.choose(objective, np.zeros(4)), iterates := Iterates(None))
    descent.damping = 1e4
    descent._renew(descent.model.hessian)
    gap = descent.run(lambda value: 1e-5 * iterates.values[0], 500)
    assert descent.point.value - best < 2e-5 * iterates.values[0]
    assert gap == pytest.approx(descent.point.value - best, rel=0.5, abs=1e-12)


def test_a_last_step_leaves_little_of_the_gap():
    objective = objective_of(make_tasks(20, 8, n_features=3, seed=1), PseudoHuber(), RULE, 0.01)
    best = GaussNewton(tol=0.0).minimize(objective, np.zeros(4)).theta
    rough = GaussNewton(tol=1e-6).minimize(objective, np.zeros(4)).theta
    assert np.linalg.norm(rough - best) < 1e-4 * np.linalg.norm(best)


def test_rounding_does_not_carry_theta_along_directions_without_curvature():
    """With fewer rows than features the fit is exact, and other rows' predictions are no chance."""
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(15, 30)), rng.integers(0, 3, 15).astype(float)
    objective = objective_of([(X, y)], PseudoHuber(), RULE)
    theta = GaussNewton().minimize(objective, np.zeros(31)).theta
    order = rng.permutation(15)
    other = objective_of([(X[order], y[order])], PseudoHuber(), RULE)
    np.testing.assert_allclose(GaussNewton().minimize(other, np.zeros(31)).theta, theta, atol=1e-12)
