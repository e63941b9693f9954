"""Stacked linear algebra against numpy, matrix by matrix."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_maml._linalg import (
    chain,
    geometric_sum,
    inverse,
    largest_eigenvalue,
    matmul,
    matvec,
    row_products,
    self_products,
    vecmat,
)


def spd(r, seed, n=3):
    rows = np.random.default_rng(seed).normal(size=(n, r, r + 1))
    return rows @ rows.swapaxes(1, 2)


@pytest.mark.parametrize(("r", "n"), [(1, 3), (1, 900), (2, 40_000), (6, 2_000), (9, 10)])
def test_inverses_are_those_of_each_matrix_however_many_there_are(r, n):
    matrices = spd(r, 0, n) * np.geomspace(1e-8, 1e8, n)[:, None, None] ** 0.5
    before = matrices.copy()
    found = inverse(matrices)
    np.testing.assert_allclose(found @ matrices, np.broadcast_to(np.eye(r), found.shape), atol=1e-6)
    each = np.stack([np.linalg.inv(matrix) for matrix in matrices[:: n // 3]])
    np.testing.assert_allclose(found[:: n // 3], each, rtol=1e-7)
    np.testing.assert_array_equal(matrices, before)
    assert inverse(matrices[None]).shape == (1, n, r, r)
    assert inverse(np.zeros((n, 0, 0))).shape == (n, 0, 0)


def test_products_of_matrices_and_vectors():
    rng = np.random.default_rng(0)
    M, v, u = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 2)), rng.normal(size=(4, 3))
    assert matvec(M, v) == pytest.approx(np.einsum("nij,nj->ni", M, v))
    assert vecmat(u, M) == pytest.approx(np.einsum("nij,ni->nj", M, u))


@pytest.mark.parametrize(("k", "m", "d"), [(1, 5, 3), (5, 5, 3), (5, 2, 7), (1, 2, 7), (9, 9, 2)])
def test_row_products_do_not_depend_on_the_order_of_multiplication(k, m, d):
    rng = np.random.default_rng(0)
    V, left, right = (
        rng.normal(size=(4, k, d)),
        rng.normal(size=(4, m, d)),
        rng.normal(size=(4, m, d)),
    )
    weights = rng.uniform(size=(4, m))
    expected = V @ left.swapaxes(1, 2) @ (weights[..., None] * right)
    assert row_products(V, left, weights, right) == pytest.approx(expected)


@pytest.mark.parametrize(("k", "m"), [(1, 1), (1, 20), (20, 1)])
def test_row_products_of_few_rows_build_nothing_of_features_by_features(k, m):
    d = 1_000
    V, left, right = np.ones((1, k, d)), np.ones((1, m, d)), np.ones((1, m, d))
    tracemalloc.start()
    assert (row_products(V, left, np.ones((1, m)), right) == d * m).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < d * d * 8 / 10


@pytest.mark.parametrize("n", [1, 499, 500, 3_000])
@pytest.mark.parametrize(("i", "j", "k"), [(4, 5, 5), (4, 5, 6), (1, 4, 4), (4, 4, 1), (3, 0, 3)])
def test_products_of_stacks_are_those_of_each_pair_however_small_and_many(i, j, k, n):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(n, j, i)).swapaxes(1, 2), rng.normal(size=(n, j, k))
    expected = np.array([one @ other for one, other in zip(left, right, strict=True)])
    for a, b, wanted in [
        (left, right, expected),
        (left[None], right[None], expected[None]),
        (left, right[:1], left @ right[0]),  # no pairs
        (left[0], right, left[0] @ right),
    ]:
        found = matmul(a, b)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)
        assert found.flags.c_contiguous or n == 1


@pytest.mark.parametrize("shape", [(500, 1, 9), (500, 5, 9), (2, 300, 4, 4), (600, 10, 10)])
def test_self_products_of_many_small_stacks(shape):
    rows = np.random.default_rng(0).normal(size=shape)
    expected = np.einsum("...id,...jd->...ij", rows, rows)
    np.testing.assert_allclose(self_products(rows), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2, 7])
def test_self_products_are_all_inner_products_also_of_a_slice(m):
    rows = np.random.default_rng(0).normal(size=(2, 4, m + 1, 5))[:, :, 1:]
    assert self_products(rows) == pytest.approx(np.einsum("...id,...jd->...ij", rows, rows))


@given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 10))
def test_geometric_sum_adds_up_the_powers(n_steps, r, seed):
    gram = spd(r, seed)
    step = 0.9 / np.linalg.eigvalsh(gram)[:, -1]
    total, power = np.zeros_like(gram), np.broadcast_to(np.eye(r), gram.shape)
    for _ in range(n_steps):
        total = total + step[:, None, None] * power
        power = power @ (np.eye(r) - step[:, None, None] * gram)
    np.testing.assert_allclose(geometric_sum(gram, step, n_steps), total, rtol=1e-11, atol=1e-12)


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 100), st.floats(-280, 280))
def test_the_bound_on_the_largest_eigenvalue_is_tight_and_never_below_it(r, seed, exponent):
    gram = spd(r, seed) * 10.0**exponent
    ratio = largest_eigenvalue(gram) / np.linalg.eigvalsh(gram)[:, -1]
    assert (ratio > 1 - 1e-12).all()
    assert (ratio <= 1.05 + 1e-12).all()


def test_matrices_that_need_more_doublings_do_not_disturb_the_others():
    gram = np.stack([np.eye(40), np.diag([1.0, *39 * [1e-3]]), spd(40, 0, n=1)[0]])
    together = largest_eigenvalue(gram)
    for i in range(3):
        assert largest_eigenvalue(gram[i : i + 1])[0] == together[i]


def test_a_bound_that_is_small_enough_is_the_first_one():
    gram = spd(5, 0) / np.linalg.eigvalsh(spd(5, 0))[:, -1:, None] * [[[1.0]], [[2.0]], [[4.0]]]
    first = np.linalg.norm(gram, axis=(1, 2))
    assert (first > [1.01, 2.02, 4.04]).all()
    assert (first < 3.0).tolist() == [True, True, False]
    found = largest_eigenvalue(gram, tolerance=1e-3, enough=3.0)
    np.testing.assert_allclose(found[:2], first[:2], rtol=1e-14)
    assert found[2] == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(("k", "r", "m", "d"), [(4, 2, 3, 9), (40, 2, 30, 3), (1, 5, 1, 5)])
def test_a_chain_of_products_is_the_same_in_either_order(k, r, m, d):
    rng = np.random.default_rng(0)
    V, gain, rows = (rng.normal(size=(2, *shape)) for shape in ((k, r), (r, m), (m, d)))
    np.testing.assert_allclose(chain(V, gain, rows), V @ gain @ rows, rtol=1e-12, atol=1e-12)


def test_a_chain_of_products_builds_nothing_of_rows_by_rows():
    n = 20_000
    V, gain, rows = np.ones((1, n, 2)), np.ones((1, 2, n)), np.ones((1, n, 3))
    tracemalloc.start()
    assert (chain(V, gain, rows) == 2 * n).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * rows.nbytes
