"""Stacked linear algebra against numpy, matrix by matrix."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_maml._linalg import (
    chain,
    geometric_sum,
    inverse,
    largest_eigenvalue,
    matvec,
    row_products,
    self_products,
    vecmat,
)
from sklearn_maml._objective.parallel import fold_blocks, one_blas_thread


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


def blas_threads():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_blas_runs_one_thread_inside_and_as_many_as_before_afterwards():
    with threadpool_limits(2, user_api="blas"):  # whatever was left by those who ran before
        with one_blas_thread(), one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {2}


def test_a_thread_that_set_a_limit_of_its_own_keeps_no_other_from_it():
    """From threadpoolctl 3.8 on others would be ignored as long as it lives."""
    with ThreadPoolExecutor(1) as executor:
        own = executor.submit(threadpool_limits, 2, user_api="blas").result()
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {2}
        executor.submit(own.restore_original_limits).result()


def test_threads_that_limit_blas_at_once_leave_it_as_it_was():
    before = blas_threads()

    def limited(_):
        with one_blas_thread():
            return np.ones((50, 50)) @ np.ones((50, 50))

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(limited, range(200)))
    assert blas_threads() == before


def test_blas_runs_one_thread_in_every_thread_until_the_last_has_left():
    """From threadpoolctl 3.8 on the thread that limits BLAS first would be the only one to."""
    before, left = blas_threads(), Event()

    def first():
        with one_blas_thread():
            entered.set()
            left.wait(5)

    for _ in range(2):
        with one_blas_thread():
            pass
        entered, left = Event(), Event()
        with ThreadPoolExecutor(1) as executor:
            executor.submit(first)
            entered.wait(5)
            assert set(blas_threads()) == {1}
            with one_blas_thread():
                left.set()
                executor.submit(int).result()  # the first thread has left, and lives
                assert set(blas_threads()) == {1}
            assert blas_threads() == before
            assert set(executor.submit(blas_threads_limited).result()) == {1}
            assert blas_threads() == before


def test_processes_are_sent_chunks_of_blocks_whose_results_come_in_order():
    with parallel_config(backend="loky"):
        found = fold_blocks(partial(np.full, 1), 19, np.append, 2, np.inf)
    assert found.tolist() == list(range(19))


def blas_threads_limited():
    with one_blas_thread():
        return blas_threads()


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
