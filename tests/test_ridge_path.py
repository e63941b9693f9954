"""Ridge penalties of many sizes, against the linear systems that they stand for."""

import numpy as np
import pytest

from sklearn_maml._objective.task_sums import minimiser
from sklearn_maml.model_selection.ridge_path import diagonalise, left_out, ridge_path

PENALTIES = [0.0, 1e-3, 1.0, 1e3]


def system(d, n_rows, seed=0):
    """Rows B and right-hand sides of shape (2, d)."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(3.0, 1.0, (n_rows, d)) * np.geomspace(1, 30, d)
    return rows, rng.normal(size=(2, d)), rng.normal(size=(2, d))


def penalised(d, intercept):
    return np.append(np.ones(d - 1), not intercept)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("d", [4, 7, 130])
def test_a_path_solves_the_system_of_each_penalty(d, intercept):
    rows, fixed, growing = system(d, 3 * d)
    hessian, ridge = rows.T @ rows, np.diag(penalised(d, intercept))
    for c, x in zip(
        PENALTIES, ridge_path(hessian, fixed, growing, PENALTIES, intercept), strict=True
    ):
        expected = np.linalg.solve(hessian + c * ridge, (fixed + c * growing).T).T
        np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-10 * np.abs(expected).max())
    one = ridge_path(hessian, fixed[0], growing[0], PENALTIES, intercept)
    np.testing.assert_allclose(one[-1], x[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("intercept", [True, False])
def test_a_path_leaves_out_the_penalties_under_which_digits_would_be_lost(intercept):
    rows, fixed, growing = system(9, 5)
    path = ridge_path(rows.T @ rows, fixed, growing, [0.0, 1e-9, 1.0], intercept)
    assert [x is None for x in path] == [True, True, False]
    assert ridge_path(rows.T @ rows, fixed, growing, [0.0], intercept) == [None]


def test_a_path_needs_an_intercept_that_the_data_determine_and_something_to_reduce():
    rows, fixed, growing = system(9, 50)
    rows[:, -1] *= 1e-9
    assert ridge_path(rows.T @ rows, fixed, growing, [1.0], True) == [None]
    assert ridge_path(np.eye(2), fixed[:, :2], growing[:, :2], [1.0], False) == [None]


def test_a_minimiser_does_not_depend_on_units_and_knows_its_limits():
    rows, side, _ = system(6, 30)
    units = np.geomspace(1e-12, 1e12, 6)
    x = minimiser(rows.T @ rows, side)
    np.testing.assert_allclose(
        minimiser((rows * units).T @ (rows * units), side * units) * units, x, rtol=1e-8
    )
    np.testing.assert_allclose(x, np.linalg.solve(rows.T @ rows, side.T).T, rtol=1e-8)
    assert minimiser(rows[:3].T @ rows[:3], side) is None
    assert minimiser(np.diag([1.0, 0.0]), side[:, :2]) is None


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("size", "penalties"), [(1.0, (0.5, 2.0, 1e6)), (1e-3, (1e-8, 1e-3, 1.0))])
def test_one_basis_makes_all_penalties_diagonal(intercept, size, penalties):
    """By eigenvectors as they are, or in columns of unit length where one is small."""
    rows, _, _ = system(6, 30)
    rows[:, 2] *= size
    unit = penalised(6, intercept)
    diagonal = diagonalise(rows.T @ rows, unit, penalties[0], penalties[-1])
    for c in penalties:
        matrix = rows.T @ rows + c * np.diag(unit)
        found = diagonal.basis.T @ matrix @ diagonal.basis * diagonal.inverse(c)
        np.testing.assert_allclose(found, np.eye(6), atol=1e-8)
    assert diagonalise(rows[:3].T @ rows[:3], unit, 0.0, 1.0) is None
    assert diagonalise(np.diag([1.0, 1e-9]), np.ones(2), 0.0, 1.0) is None
    assert diagonalise(np.diag([1.0, 0.0]), np.zeros(2), 1.0, 1.0) is None


@pytest.mark.parametrize("m", [3, 11])
@pytest.mark.parametrize("n_targets", [None, 2])
def test_residuals_of_rows_left_out_are_those_of_a_fit_without_them(m, n_targets):
    rng, d, n, c = np.random.default_rng(0), 6, 8, 0.7
    B = rng.normal(size=(n, m, d))
    y = rng.normal(size=(n, m) if n_targets is None else (n_targets, n, m))
    diagonal = diagonalise(np.einsum("nij,nik->jk", B, B), np.ones(d), c, c)

    def residuals(kept):
        X, t = B[kept].reshape(-1, d), y[..., kept, :]
        sides = t.reshape(*t.shape[:-2], -1) @ X
        return y - np.einsum("nmd,...d->...nm", B, sides @ np.linalg.inv(X.T @ X + c * np.eye(d)))

    inverse = diagonal.inverse(np.full(n, c))
    found = left_out(B @ diagonal.basis, inverse, residuals(np.arange(n)))
    for i in range(n):
        expected = residuals(np.arange(n) != i)[..., i, :]
        np.testing.assert_allclose(found[..., i, :], expected, rtol=1e-10)


def test_rows_on_which_a_direction_hangs_alone_are_not_left_out():
    rng = np.random.default_rng(0)
    B = rng.normal(size=(5, 4, 6))
    B[..., -1] = 0.0
    B[2, :, -1] = 1.0
    diagonal = diagonalise(np.einsum("nij,nik->jk", B, B), np.ones(6), 0.0, 0.0)
    found = left_out(B @ diagonal.basis, diagonal.inverse(np.zeros(5)), np.ones((5, 4)))
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 1, 3, 4]]).all()
