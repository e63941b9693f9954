"""Sums over cells of tasks against objectives of these tasks alone, and of all others."""

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of

from sklearn_maml import GradientSteps
from sklearn_maml._objective.gauss_newton_hessian import gauss_newton_hessian
from sklearn_maml._objective.task_sums import (
    Summable,
    minimiser,
    normal_equations,
    solutions_without,
)
from sklearn_maml.losses import LogLoss, SquaredError
from sklearn_maml.solvers import GaussNewton, LeastSquares

CELL = np.array([2, 0, 1, 0, 1, 1, 0, 2, 1])
FEW = np.array([-1, 0, -1, -1, 1, -1, -1, 2, 1])
STEPS = GradientSteps(0.1, 2, cap=False)


def tasks_of(loss, n_targets=0):
    """Nine tasks of unlike sizes."""
    rng, tasks = np.random.default_rng(5), []
    for i, (X, y) in enumerate(make_tasks(9, 12, n_features=2, seed=4)):
        m = 12 - 4 * (i % 3)
        y = np.column_stack([y, rng.normal(size=12)]) if n_targets else y
        tasks.append((X[:m], (y[:m] > 0) * 1.0 if isinstance(loss, LogLoss) else y[:m]))
    return tasks


def chosen(tasks, which):
    return [task for task, one in zip(tasks, which, strict=True) if one]


@pytest.mark.parametrize("n_targets", [0, 2])
@pytest.mark.parametrize("loss", [SquaredError(), LogLoss()], ids=repr)
def test_the_sums_of_a_cell_are_those_of_an_objective_of_its_tasks(loss, n_targets):
    tasks = tasks_of(loss, n_targets)
    objective = objective_of(tasks, loss, STEPS, 0.1)
    theta = np.random.default_rng(0).normal(size=objective.origin().shape)
    hessians, gradients = normal_equations(objective, theta, CELL)
    none, same = normal_equations(objective, theta, CELL, with_hessian=False)
    assert not none.any()
    np.testing.assert_array_equal(gradients, same)
    for k in range(3):
        alone = objective_of(chosen(tasks, k == CELL), loss, STEPS)
        share = (k == CELL).mean()
        wanted = share * alone.value_and_gradient(theta)[1]
        np.testing.assert_allclose(gradients[k], wanted, rtol=1e-9, atol=1e-12)
        wanted = 0.5 * share * gauss_newton_hessian(alone, theta)
        if n_targets and isinstance(loss, SquaredError):  # one matrix for all targets
            assert hessians[k].shape == (3, 3)
        np.testing.assert_allclose(hessians[k] + 0 * wanted, wanted, rtol=1e-9, atol=1e-12)


def test_a_cell_a_task_gives_sums_in_the_order_of_the_tasks():
    tasks = tasks_of(SquaredError())
    objective = objective_of(tasks, SquaredError(), STEPS)
    theta = np.array([0.3, -0.2, 0.1])
    for order in (np.arange(9), np.random.default_rng(1).permutation(9)):
        hessians, gradients = normal_equations(objective, theta, order)
        for task, k in zip(tasks, order, strict=True):
            alone = objective_of([task], SquaredError(), STEPS)
            np.testing.assert_allclose(9 * gradients[k], alone.value_and_gradient(theta)[1])
            np.testing.assert_allclose(18 * hessians[k], gauss_newton_hessian(alone, theta))


@pytest.mark.parametrize("cell", [CELL, FEW], ids=["all", "few"])
@pytest.mark.parametrize("alpha", [0.0, 0.2])
@pytest.mark.parametrize("n_targets", [0, 2])
def test_without_a_cell_a_quadratic_is_solved_by_the_fit_to_all_other_tasks(n_targets, alpha, cell):
    tasks = tasks_of(SquaredError(), n_targets)
    objective = objective_of(tasks, SquaredError(), STEPS, alpha)
    theta = LeastSquares().minimize(objective, objective.origin()).theta
    found = solutions_without(objective, theta, cell)
    for k in range(3):
        rest = objective_of(chosen(tasks, k != cell), SquaredError(), STEPS, alpha)
        wanted = LeastSquares().minimize(rest, rest.origin()).theta
        np.testing.assert_allclose(found[k], wanted, rtol=1e-8, atol=1e-10)


def test_without_a_cell_another_loss_takes_one_newton_step():
    tasks = tasks_of(LogLoss())
    objective = objective_of(tasks, LogLoss(), STEPS, 0.1)
    theta = GaussNewton().minimize(objective, objective.origin()).theta
    found = solutions_without(objective, theta, CELL)
    for k in range(3):
        rest = objective_of(chosen(tasks, k != CELL), LogLoss(), STEPS, 0.1)
        gradient = rest.value_and_gradient(theta)[1]
        wanted = theta - np.linalg.solve(gauss_newton_hessian(rest, theta), gradient)
        np.testing.assert_allclose(found[k], wanted, rtol=1e-8)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_directions_that_other_tasks_leave_open_stay_as_they_are(unit):
    """The second feature is seen by the tasks of one cell alone: without them it is not moved."""
    tasks = tasks_of(SquaredError())
    for (X, _), k in zip(tasks, CELL, strict=True):
        X[:, 1] = unit * X[:, 1] if k == 0 else 0.0
    objective = objective_of(tasks, SquaredError(), GradientSteps(0.0, 0))
    theta = LeastSquares().minimize(objective, objective.origin()).theta
    found = solutions_without(objective, theta, CELL)
    rest = objective_of(
        [(X[:, :1], y) for X, y in chosen(tasks, CELL != 0)], SquaredError(), GradientSteps(0.0, 0)
    )
    wanted = LeastSquares().minimize(rest, rest.origin()).theta
    np.testing.assert_allclose(found[0], [wanted[0], theta[1], wanted[1]], rtol=1e-8)


def test_a_direct_solution_is_given_where_it_is_determined():
    rng = np.random.default_rng(2)
    root, units = rng.normal(size=(5, 3)), np.array([1e-5, 1.0, 1e4])
    A, g = root.T @ root, rng.normal(size=(4, 3))
    wanted = np.linalg.solve(A, g.T).T / units
    found = minimiser(A * np.outer(units, units), g * units)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert minimiser(np.diag([1.0, 0.0, 1.0]), g) is None
    assert minimiser(np.ones((3, 3)), g) is None


@pytest.mark.parametrize("kept", [[], [0], [0, 2], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_sums_of_a_selection_are_taken_by_the_fewer_terms(kept):
    parts = np.random.default_rng(3).integers(0, 100, size=(5, 2, 2)).astype(float)
    mask = np.isin(np.arange(5), kept)
    np.testing.assert_array_equal(Summable(parts).where(mask), parts[mask].sum(axis=0))


def test_the_fewer_terms_leave_out_the_rounding_of_the_more():
    """Of 1e20 and four small numbers; a total is taken as it is told."""
    parts = np.array([1e20, 1.0, 2.0, 3.0, 4.0])
    assert Summable(parts).where(np.array([False, True, True, False, False])) == 3.0
    assert Summable(parts, 10.0).where(np.array([False, True, True, False, False])) == 3.0
    assert Summable(parts, 10.0).where(np.array([True, True, False, True, True])) == 8.0
