"""The Newton step of a quadratic meta-objective, by both of its routes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from families import ILL_POSED, WELL_POSED, make_tasks
from objectives import make_objective, smallest_loss

from sklearn_maml._objective import quadratic as quadratic_module
from sklearn_maml._objective.quadratic import (
    minimum_norm,
    quadratic,
    refuse_lost_features,
    refuse_too_wide,
)
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.stacks import Blocks, Tasks


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
    theta[0] = 0.0  # one that is zero does not make it the origin
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


def test_small_features_whose_squares_do_not_underflow_are_measured():
    units = np.array([1, 1e-60, 1e60, 1e-99, 1, 1])  # and the intercept
    tasks = make_tasks(20, 6)
    plain, small = (
        make_objective([(X * u, y) for X, y in tasks], 0.0, 0) for u in (np.ones(5), units[:5])
    )
    np.testing.assert_allclose(quadratic(small).scale, quadratic(plain).scale * units, rtol=1e-12)


def test_features_are_not_lost_where_only_what_weighs_nothing_has_them():
    """A row or a task of weight 0; stacked rows are padded by copies of a first row."""
    X, y = np.random.default_rng(0).normal(size=(14, 2)), np.ones(14)
    codes, rows = np.repeat([0, 1, 2], [5, 4, 5]), np.ones(14)
    X[:, 1] = 0.0
    X[:5, 1] = X[9, 1] = 1e-120
    rows[9] = 0.0

    def objective(rows, weights):
        tasks = Tasks.from_codes(y, codes, rows, np.array(weights))
        plain = make_objective([(X, y)], 0.01)
        return replace(plain, blocks=Blocks(tasks, plain.blocks.features, Episodes()))

    none = objective(rows, [0.0, 1.0, 1.0])
    assert len(none.blocks) == 1
    refuse_lost_features(none)
    np.testing.assert_array_equal(quadratic(none).scale[1], 1.0)
    for seen in (objective(np.ones(14), [0.0, 1.0, 1.0]), objective(rows, [1e-3, 1.0, 1.0])):
        with pytest.raises(ValueError, match=r"lost to rounding \(columns \[1\] of phi\)"):
            refuse_lost_features(seen)


@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_the_solution_of_minimum_norm_is_that_of_the_pseudoinverse_in_any_units(rank):
    """Of rows ``R diag(scale)`` with R of that rank, two targets each."""
    rng, scale = np.random.default_rng(0), np.array([0.1, 3.0, 1.0, 20.0, 0.5])
    rows = rng.normal(size=(7, rank)) @ rng.normal(size=(rank, 5))
    target = rng.normal(size=(7, 2))
    found = minimum_norm(rows, target, scale, rank)
    wanted = np.linalg.pinv(rows * scale, rcond=1e-10) @ target
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


def test_directions_that_rows_resolve_too_little_are_left_as_they_are():
    """The second column is 1e-4 of the first, beside which rows of the first are not seen in it."""
    rng = np.random.default_rng(1)
    tasks = [(rng.normal(size=(6, 1)), rng.normal(size=6)) for _ in range(5)]
    tasks = [(np.c_[X, X + 1e-4 * rng.normal(size=(6, 1))], y) for X, y in tasks]
    objective = make_objective(tasks, 0.0, 0)
    near = np.array([0.5, -0.5, 0.2])
    shape = quadratic(objective)
    design = np.vstack([np.c_[X, np.ones(6)] for X, _ in tasks]) / np.sqrt(30)
    y = np.concatenate([y for _, y in tasks]) / np.sqrt(30)
    u, s, vt = np.linalg.svd(design / shape.scale, full_matrices=False)
    residual = u.T @ (y - design @ near)
    for share, rank in ((1e-8, 3), (1e-2, 2)):
        assert (s > share * s[0]).sum() == rank
        # The shortest move with which the scaled rows fit along the first directions.
        wanted = near + np.linalg.pinv(vt[:rank] * shape.scale) @ (residual[:rank] / s[:rank])
        found = shape.resolved(objective, near, share)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("products", [True, False])
def test_dense_arrays_are_refused_above_half_a_gib(products):
    """Of ``d x d``, or of as many rows as there are where a square loss has sparse features."""
    widest = 2**13

    def blocks(d, n_query):
        features = SimpleNamespace(sparse=True, width=d, n_features=d - 1)
        return SimpleNamespace(features=features, n_query=n_query)

    refuse_too_wide(blocks(widest, 10**9), products)
    with pytest.raises(ValueError, match=r"8,192 features are too many: .*8,193 x 8,193 numbers"):
        refuse_too_wide(blocks(widest + 1, 10**9), products)
    if not products:
        refuse_too_wide(blocks(2 * widest, widest // 2), products)
        refuse_too_wide(blocks(10**9, 10**9), products, square=False)
