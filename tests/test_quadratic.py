"""The Newton step of a quadratic meta-objective, by both of its routes."""

import numpy as np
import pytest
from families import ILL_POSED, WELL_POSED, make_tasks
from objectives import make_objective, smallest_loss

from sklearn_maml._objective import quadratic as quadratic_module
from sklearn_maml._objective.quadratic import quadratic


@pytest.fixture(params=["cholesky where safe", "triangle always"])
def route(request, monkeypatch):
    if request.param == "triangle always":
        monkeypatch.setattr(quadratic_module, "SAFELY_POSITIVE", np.inf)
    return request.param


@pytest.mark.parametrize("name", [*WELL_POSED, "duplicated columns", "constant columns"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_one_step_from_anywhere_reaches_the_minimum(name, alpha, route):
    objective = make_objective({**WELL_POSED, **ILL_POSED}[name](), 0.01, 2, alpha=alpha)
    theta = np.random.default_rng(0).normal(size=objective.n_parameters)
    value, gradient = objective.value_and_gradient(theta)
    shape = quadratic(objective)
    v = shape.newton_step(objective, theta, gradient)
    best = smallest_loss(objective)
    assert objective.value_and_gradient(theta - v)[0] == pytest.approx(best, rel=1e-11)
    assert shape.gap(gradient) == pytest.approx(value - best, rel=1e-8)
    assert shape.length(v) ** 2 == pytest.approx(value - best, rel=1e-8)


def test_both_routes_agree_and_take_several_targets(monkeypatch):
    X = [X for X, _ in make_tasks(20, 6)]
    rng = np.random.default_rng(0)
    objective_of = lambda: make_objective([(x, y) for x, y in zip(X, Y, strict=True)])  # noqa: E731
    Y = rng.normal(size=(20, 6, 3))
    theta, steps = rng.normal(size=(3, 6)), []
    for threshold in (quadratic_module.SAFELY_POSITIVE, np.inf):
        monkeypatch.setattr(quadratic_module, "SAFELY_POSITIVE", threshold)
        objective = objective_of()
        _, gradient = objective.value_and_gradient(theta)
        steps.append(quadratic(objective).newton_step(objective, theta, gradient))
        assert quadratic(objective).definite == (threshold < np.inf)
    np.testing.assert_allclose(*steps, rtol=1e-10)


def test_the_spectrum_is_that_of_the_hessian():
    objective = make_objective(make_tasks(20, 6))
    shape, v = quadratic(objective), np.random.default_rng(0).normal(size=6)
    eigenvalues, squares = shape.spectrum(v)
    assert squares.sum() == pytest.approx(v @ v)
    assert (eigenvalues * squares).sum() == pytest.approx(shape.length(v) ** 2)
    # v' A v is what the objective rises by along v from its minimum.
    zero = np.zeros(6)
    best = zero - shape.newton_step(objective, zero, objective.value_and_gradient(zero)[1])
    rise = objective.value_and_gradient(best + v)[0] - objective.value_and_gradient(best)[0]
    assert shape.length(v) ** 2 == pytest.approx(rise, rel=1e-10)


def test_the_rank_is_numerical():
    objective = make_objective(ILL_POSED["duplicated columns"]())
    shape = quadratic(objective)
    assert not shape.definite
    assert shape.rank == objective.n_parameters - 2


def test_the_hessian_is_factorised_once():
    objective = make_objective(make_tasks(5, 6))
    assert quadratic(objective) is quadratic(objective)


@pytest.mark.parametrize("size", [1e-120, 1e-160, 1e-200])
def test_features_that_would_underflow_are_refused(size):
    tasks = [(X * [1, size, 1, 1, 1], y) for X, y in make_tasks(20, 6)]
    with pytest.raises(ValueError, match=r"lost to rounding \(columns \[1\] of phi\); rescale"):
        quadratic(make_objective(tasks, 0.01))
