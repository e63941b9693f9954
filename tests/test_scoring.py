"""The steps by which a covariance is learned, against dense matrices and differences."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from moments import moments_of
from numpy.testing import assert_allclose

from sklearn_maml._learning.likelihood import likelihood
from sklearn_maml._learning.reml import STALLED, _scoring
from sklearn_maml._learning.structure import LONGEST, Structure

STRUCTURES = {
    "full": Structure.full(3),
    "diagonal": Structure.diagonal([0, 1, 2]),
    "tied": Structure.diagonal([0, 1, 0]),
    "all tied": Structure.diagonal([0, 0, 0]),
}


def rows(n_targets=1):
    """X, Z, y and groups of ten groups, most of whose effects are those of X."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), [3, 4, 5, 6, 7, 3, 4, 5, 6, 7])
    X = rng.normal(size=(50, 4))
    effects = rng.normal(size=(10, 3, n_targets))[groups]
    y = X.sum(axis=1, keepdims=True) + np.einsum("nk,nkt->nt", X[:, 1:], effects)
    return X, X[:, 1:], y + 0.5 * rng.normal(size=y.shape), groups


def sigma(kind):
    """A covariance of a structure, without a scale that all axes share."""
    if "tied" in kind:
        return np.diag([0.3, 2.0 if kind == "tied" else 0.3, 0.3])
    root = np.array([[1.5, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.2, 0.1, 0.3]])
    return root @ root.T if kind == "full" else np.diag([2.0, 0.5, 0.1])


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_information_is_that_of_dense_covariances(kind, n_targets):
    """``sum_i tr(P_i D P_i D)`` for ``P_i = K' Z_i' V_i^-1 Z_i K``, less what the noise takes."""
    X, Z, y, groups = rows(n_targets)
    form = STRUCTURES[kind].information
    at = likelihood(moments_of(X, Z, y, groups), sigma(kind), form)
    root = at.to * at.root
    assert_allclose(root @ root.T, sigma(kind), rtol=1e-12, atol=1e-12)
    each = []
    for g in range(10):
        own = Z[groups == g]
        covariance = np.eye(len(own)) + own @ sigma(kind) @ own.T
        each.append(at.to.T @ own.T @ np.linalg.solve(covariance, own @ at.to))
    each = np.array(each)
    D = np.random.default_rng(1).normal(size=(3, 3))
    D = D + D.T if form == "full" else np.diag(np.diagonal(D))
    along = np.einsum("nab,bc,ncd,da->", each, D, each, D)
    expected = n_targets * (along - np.einsum("nab,ba->", each, D) ** 2 / len(y))
    flat = D.ravel() if form == "full" else np.diagonal(D)
    assert_allclose(flat @ at.information @ flat, expected, rtol=1e-10)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_step_lowers_the_value_by_half_of_its_slope(kind):
    """That is what a quadratic function would do at its minimum along the step."""
    moments, structure, relative = moments_of(*rows()), STRUCTURES[kind], sigma(kind)
    at = likelihood(moments, relative, structure.information)
    step, change = structure.scoring_step(at, 1.0)

    def value(h):
        root = at.to @ (np.diag(at.root) + h * step)
        return likelihood(moments, root @ root.T).value

    assert change > 0.01
    assert_allclose((value(-1e-5) - value(1e-5)) / 4e-5, change, rtol=1e-5)
    if "tied" in kind:
        assert step[0, 0] == pytest.approx(step[2, 2], rel=1e-12)
    if kind != "full":
        assert np.count_nonzero(step - np.diag(np.diagonal(step))) == 0


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_step_is_that_of_information_and_of_the_gradients_absolute_value(kind):
    """It is stationary: the model is ``<G, S'> + S' F S' / 2 + <|G|, D D'>``, S' = D R + R D'."""
    structure, relative = STRUCTURES[kind], sigma(kind)
    at = likelihood(moments_of(*rows()), relative, structure.information)
    step, _ = structure.scoring_step(at, 0.0)
    assert np.linalg.norm(step, 2) < 2.0  # not cut
    R, G = np.diag(at.root), at.gradient if kind == "full" else np.diag(np.diagonal(at.gradient))
    values, vectors = np.linalg.eigh(G)
    absolute = vectors * np.abs(values) @ vectors.T

    def model(D):
        first = D @ R + R @ D.T
        flat = first.ravel() if kind == "full" else np.diagonal(first)
        return np.sum(G * first) + 0.5 * flat @ at.information @ flat + np.sum(absolute * (D @ D.T))

    least = model(step)
    rng = np.random.default_rng(2)
    for _ in range(20):
        if kind == "full":
            other = step * rng.normal(size=(3, 3))  # of the same entries that are not zero
        else:
            other = np.diag(rng.normal(size=3)[structure.which])
        assert least < 0
        ahead, behind = model(step + 1e-3 * other), model(step - 1e-3 * other)
        assert ahead > least < behind
        assert_allclose(ahead - least, behind - least, rtol=1e-5)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_steps_are_damped_in_units_of_the_curvature(kind):
    structure = STRUCTURES[kind]
    at = likelihood(moments_of(*rows()), sigma(kind), structure.information)
    other = replace(at, gradient=7 * at.gradient, information=7 * at.information)
    free, (step, change) = (structure.scoring_step(at, damping) for damping in (0.0, 0.5))
    same, more = structure.scoring_step(other, 0.5)
    assert_allclose(same, step, rtol=1e-10, atol=1e-14)
    assert_allclose(more, 7 * change, rtol=1e-10)
    assert change < 0.9 * free[1]
    far, _ = structure.scoring_step(at, 1e9)
    farther, _ = structure.scoring_step(at, 2e9)
    assert_allclose(far, 2 * farther, rtol=1e-6, atol=1e-20)
    assert np.linalg.norm(far) > 0


def test_without_effects_there_is_nothing_to_step():
    structure = Structure.diagonal(np.arange(0))
    none = np.zeros((0, 0))
    at = SimpleNamespace(gradient=none, information=none, to=none, root=np.zeros(0))
    step, change = structure.scoring_step(at, 0.0)
    assert (step.shape, change) == ((0, 0), 0.0)
    slope, hessian = structure.root_derivatives(at, none)
    assert (slope.shape, hessian.shape) == ((0,), (0, 0))
    assert structure.coordinates(none).shape == (0,)


def test_where_all_is_flat_there_is_no_step():
    flat = np.zeros((2, 2))
    at = SimpleNamespace(gradient=flat, information=np.zeros((4, 4)), to=np.eye(2), root=np.ones(2))
    step, change = Structure.full(2).scoring_step(at, 0.0)
    assert_allclose(step, flat, rtol=0)
    assert change == 0.0


def test_no_step_is_longer_than_the_longest(monkeypatch):
    """Next to no curvature along one axis, and an information that couples it to the other."""
    structure, pair = Structure.full(2), np.outer([2.0, -1.0], [2.0, -1.0]).ravel()
    at = SimpleNamespace(
        gradient=np.diag([-1.0, 1e-5]),
        information=np.outer(pair, pair),
        to=np.diag([1.0, 2.0]),
        root=np.array([1.0, 0.01]),
    )
    cut, _ = structure.scoring_step(at, 0.0)
    monkeypatch.setattr("sklearn_maml._learning.structure.LONGEST", np.inf)
    whole, _ = structure.scoring_step(at, 0.0)
    assert np.abs(whole).max() > 10 * LONGEST
    # The shorter axis may be moved along the longer one by twice the length of that.
    most = LONGEST * np.array([[1.0, 2.0], [1.0, 1.0]])
    assert_allclose(cut, np.clip(whole, -most, most), rtol=1e-9, atol=1e-9)


def test_a_search_that_stalls_is_given_up(monkeypatch):
    monkeypatch.setattr("sklearn_maml._learning.reml._attempt", lambda *_: None)
    relative = sigma("full")
    stays, at, n_iter, converged = _scoring(
        moments_of(*rows()), STRUCTURES["full"], relative, 10 * STALLED, 1e-9
    )
    assert stays is relative
    assert at.value == likelihood(moments_of(*rows()), relative, "full").value
    assert (n_iter, converged) == (STALLED, False)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_derivatives_are_of_as_many_coordinates_as_a_structure_has(kind):
    structure = STRUCTURES[kind]
    at = likelihood(moments_of(*rows()), sigma(kind), structure.information)
    slope, hessian = structure.root_derivatives(at, at.information)
    size = {"full": 6, "diagonal": 3, "tied": 2, "all tied": 1}[kind]
    assert slope.shape == (size,)
    assert hessian.shape == (size, size)
    x = structure.coordinates(sigma(kind))
    assert x.shape == (size,)
    factor = structure.factor(x)
    assert_allclose(factor @ factor.T, sigma(kind), rtol=1e-10, atol=1e-12)


def test_what_is_left_of_a_derivative_is_its_projection():
    slope = np.array([[1.0, 5.0, 2.0], [5.0, 4.0, 3.0], [2.0, 3.0, 9.0]])
    for kind, expected in {"diagonal": [1.0, 4.0, 9.0], "tied": [5.0, 4.0, 5.0]}.items():
        assert_allclose(STRUCTURES[kind].closest(slope), np.diag(expected), rtol=1e-14)
    assert STRUCTURES["full"].closest(slope) is slope


def test_a_factor_of_low_rank_has_a_diagonal_beside_its_columns():
    structure = Structure.low_rank(3, 2)
    assert structure.size == 3
    factor = structure.factor(np.arange(1.0, 10.0))
    expected = [[1, 0, 0, 4, 5], [0, 2, 0, 6, 7], [0, 0, 3, 8, 9]]
    assert_allclose(factor, expected, rtol=0)
    slope = np.arange(15.0).reshape(3, 5)
    assert_allclose(structure.contract(slope), [0, 6, 12, 3, 4, 8, 9, 13, 14], rtol=0)
