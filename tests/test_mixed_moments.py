"""What is kept of each task for the restricted likelihood: the same in fewer numbers."""

from dataclasses import replace
from threading import get_ident
from time import sleep

import joblib
import numpy as np
import pytest
from moments import moments_of
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_maml._learning.decrement import newton_decrement
from sklearn_maml._learning.likelihood import Solved, likelihood
from sklearn_maml._learning.mixed_design import mixed_design
from sklearn_maml._learning.mixed_moments import Moments, packed
from sklearn_maml._learning.random_effects import random_effects_of
from sklearn_maml._learning.structure import Structure
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.stacks import Blocks, Tasks

ANY_SIGMA = np.array([[2.0, 0.4], [0.4, 3.0]])
NEXT_TO_NONE = np.diag([1.0, 0.0])
FACTS = ("value", "gradient", "information", "fixed", "noise")


def rows(n_targets=1):
    """X, of which the first two effects are random, Z, y and groups of several sizes."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), [2, 3, 4, 5, 6, 7, 8, 9])
    X = rng.normal(size=(len(groups), 3))
    effects = rng.normal(size=(8, 2, n_targets))[groups]
    y = X.sum(axis=1, keepdims=True) + np.einsum("nk,nkt->nt", X[:, :2], effects)
    return X, X[:, :2], y + 0.5 * rng.normal(size=y.shape), groups


def shared(n_targets=1):
    """The moments of `rows`, with the columns of Z stored once."""
    X, _, y, groups = rows(n_targets)
    whole = moments_of(*rows(n_targets))
    columns = np.column_stack([X, y])
    products = [X[groups == g, :2].T @ columns[groups == g] for g in range(8)]
    return replace(whole, parts=((packed(np.array(products)), np.ones(8)),), first_fixed=0)


@pytest.mark.parametrize("relative", [ANY_SIGMA, NEXT_TO_NONE], ids=["any", "singular"])
@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_random_effects_that_are_fixed_ones_too_may_be_stored_once(relative, n_targets, kind):
    twice, once = moments_of(*rows(n_targets)), shared(n_targets)
    assert once.n_columns == twice.n_columns - 2
    structure = Structure.full(2) if kind == "full" else Structure.diagonal([0, 1])
    relative = relative if kind == "full" else np.diag(np.diagonal(relative))
    expected, found = (likelihood(m, relative, kind) for m in (twice, once))
    for name in FACTS:
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    expected, found = (newton_decrement(m, structure, relative) for m in (twice, once))
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("of", [lambda: moments_of(*rows()), shared], ids=["twice", "once"])
@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_a_task_that_stands_for_several_is_as_so_many(kind, of):
    X, _, y, groups = rows()
    count = np.array([1, 2, 3, 1, 4, 1, 2, 5])
    row_count = count[groups]
    both = np.column_stack([X, y])
    products = of().parts[0][0]
    facts = {"total": (row_count[:, None] * both).T @ both, "n_rows": float(row_count.sum())}
    counted = replace(of(), parts=((products, count.astype(float)),), **facts)
    each = np.repeat(products, count, axis=1)
    repeated = replace(of(), parts=((each, np.ones(count.sum())),), **facts)
    structure = Structure.full(2) if kind == "full" else Structure.diagonal([0, 1])
    relative = ANY_SIGMA if kind == "full" else np.diag(np.diagonal(ANY_SIGMA))
    found, expected = (likelihood(m, relative, kind) for m in (counted, repeated))
    for name in FACTS:
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-10)
    found, expected = (newton_decrement(m, structure, relative) for m in (counted, repeated))
    assert_allclose(found, expected, rtol=1e-9)


def as_it_is(i, part):
    return part


@pytest.mark.parametrize("keeps", [True, False])
def test_what_has_no_room_is_solved_anew_to_the_same_bits(keeps, monkeypatch):
    expected = likelihood(shared(), ANY_SIGMA, "full")
    monkeypatch.setattr("sklearn_maml._learning.likelihood.room", lambda: 1e9 * keeps)
    found = likelihood(shared(), ANY_SIGMA, "full")
    for name in FACTS:
        assert_array_equal(getattr(found, name), getattr(expected, name))
    for moments in (shared(), moments_of(*rows())):  # the latter with Z apart from X
        for information in (None, "diagonal"):
            few = likelihood(moments, ANY_SIGMA, information)
            monkeypatch.setattr("sklearn_maml._learning.likelihood.room", lambda: 0.0)
            again = likelihood(moments, ANY_SIGMA, information)
            monkeypatch.setattr("sklearn_maml._learning.likelihood.room", lambda: 1e9)
            assert_array_equal(again.gradient, few.gradient)
    solved = Solved(shared(), np.eye(2), np.ones(2))
    for first, again in zip(*(solved.each(as_it_is) for _ in range(2)), strict=True):
        assert_array_equal(first.seen, again.seen)


def test_evaluations_share_the_memory_of_what_they_hold():
    moments = shared()
    one, other = moments.hold(0, np.ones((2, 3))), moments.hold(0, np.zeros((2, 3)))
    assert np.shares_memory(one, other)
    assert not one.any()
    assert not np.shares_memory(one, moments.hold(1, np.ones((2, 3))))
    expected = likelihood(shared(), ANY_SIGMA, "full")
    again = shared()
    for relative in (NEXT_TO_NONE, ANY_SIGMA):
        found = likelihood(again, relative, "full")
    for name in FACTS:
        assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_tasks_are_batched_in_any_way(chunk, monkeypatch):
    whole = moments_of(*rows())
    (products, count), expected = whole.parts[0], likelihood(whole, ANY_SIGMA, "full")
    cut = [slice(0, 1), slice(1, 2), slice(2, 8)]
    apart = replace(whole, parts=tuple((products[:, c], count[c]) for c in cut))
    monkeypatch.setattr("sklearn_maml._learning.mixed_moments.CHUNK", chunk)
    assert apart.n_tasks == 8
    assert sum(len(count) for _, count in apart.chunks()) == 8
    assert_allclose(likelihood(apart, ANY_SIGMA, "full").gradient, expected.gradient, rtol=1e-12)


def test_tasks_are_worked_on_so_many_at_a_time(monkeypatch):
    whole = moments_of(*rows())
    products = np.arange(11 * 50.0).reshape(11, 50)
    monkeypatch.setattr("sklearn_maml._learning.mixed_moments.CHUNK", 6 * 2 * (2 + whole.n_columns))
    for sizes in ([50], [1] * 50, [4, 20, 1, 1, 24], [25, 25]):
        cut = np.split(np.arange(50), np.cumsum(sizes)[:-1])
        moments = replace(whole, parts=tuple((products[:, c], c + 1.0) for c in cut))
        *others, last = batches = [count for _, count in moments.chunks()]
        assert_array_equal(np.concatenate(batches), np.arange(50) + 1.0)
        assert all(6 <= len(count) < 12 for count in others)
        assert 0 < len(last) < 12


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_the_number_of_jobs_changes_no_bit(backend, monkeypatch):
    """A thread handles floating-point errors as the one that asks; processes are sent nothing."""
    monkeypatch.setattr("sklearn_maml._learning.mixed_moments.CHUNK", 1)
    monkeypatch.setattr("sklearn_maml._learning.mixed_moments.FEW_CHUNKS", 2)
    whole, threads = shared(), set()
    relative = ANY_SIGMA * np.array([[1e200, 1e180], [1e180, 1e160]])
    solve = Solved._solve

    def slowly(*given):
        threads.add(get_ident())
        sleep(0.01)  # so that there is something left for others
        return solve(*given)

    monkeypatch.setattr(Solved, "_solve", slowly)
    expected = likelihood(whole, ANY_SIGMA, "full")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        far = list(Solved(whole, relative, np.ones(2)).each(as_it_is))
    assert threads == {get_ident()}
    with joblib.parallel_config(backend):
        several = replace(whole, n_jobs=2)
        found = likelihood(several, ANY_SIGMA, "full")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            again = list(Solved(several, relative, np.ones(2)).each(as_it_is))
    assert (len(threads) > 1) == (backend == "threading")
    for name in FACTS:
        assert_array_equal(getattr(found, name), getattr(expected, name))
    for here, there in zip(far, again, strict=True):
        assert_array_equal(here.seen, there.seen)
        assert not np.isfinite(here.log_each).all()


def test_moments_of_several_are_those_of_all_their_tasks():
    X, Z, y, groups = rows()
    parts = [moments_of(*(a[groups % 2 == k] for a in (X, Z, y, groups))) for k in (0, 1)]
    expected, joined = moments_of(X, Z, y, groups), Moments.joined(parts)
    assert (joined.n_rows, joined.n_tasks) == (expected.n_rows, expected.n_tasks)
    found = likelihood(joined, ANY_SIGMA)
    assert_allclose(found.value, likelihood(expected, ANY_SIGMA).value, rtol=1e-12)


def test_fixed_effects_are_shrunk_by_a_millionth_of_a_row_for_each_row():
    X, Z, y, groups = rows(2)
    found = moments_of(X, Z, y, groups).shrunk()
    more = np.sqrt(1e-6 * len(X)) * np.eye(3)
    both = np.column_stack([np.concatenate([X, more]), np.concatenate([y, np.zeros((3, 2))])])
    assert_allclose(found.total, both.T @ both, rtol=1e-12)
    assert found.n_rows == len(X)


def test_degrees_of_freedom_are_what_rows_leave_and_at_least_one():
    moments = moments_of(*rows())
    freedom = {5.5: 2.5, 4.25: 1.25, 3.0: 1.0, 2.0: 1.0}
    assert {n: replace(moments, n_rows=n).dof for n in freedom} == freedom


def test_half_of_a_symmetric_matrix_is_kept():
    products = np.arange(12.0).reshape(1, 2, 6)
    products[0, 0, 1] = products[0, 1, 0]
    assert packed(products).shape == (3 + 2 * 4, 1)
    moments = Moments(((packed(products), np.ones(1)),), 2, 2, np.eye(4), 1.0, 1)
    ((columns, _),) = moments.chunks()
    assert_array_equal(columns[..., 0], products[0])


@pytest.mark.parametrize("which", [[0], "intercept", None])
def test_fixed_effects_begin_with_the_random_ones_and_span_all(which):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 4))  # four features of rank three
    tasks = Tasks.from_codes(rng.normal(size=60), np.repeat(np.arange(12), 5))
    effects = random_effects_of(Blocks(tasks, Features(X), Episodes())).only(which)
    design = mixed_design(effects, "full")
    q = design.random.shape[1]
    assert design.shared
    assert_allclose(design.fixed[effects.varies, :q], design.random)
    assert design.fixed.shape == (5, 4)
    assert_allclose(design.fixed.T @ effects.gram @ design.fixed, np.eye(4), atol=1e-10)
