"""Stacks of tasks against the definitions: features, episodes, blocks and moments."""

import pickle
import tracemalloc
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sklearn_maml import MAMLRegressor
from sklearn_maml._tasks import stacks
from sklearn_maml._tasks.episodes import Episodes, random_keys
from sklearn_maml._tasks.features import Features, check_phi, take_rows
from sklearn_maml._tasks.moments import moments
from sklearn_maml._tasks.stacks import Blocks, Tasks

X = np.arange(12.0).reshape(6, 2)
TABLES = {
    "array": np.asarray,
    "csr": sp.csr_array,
    "pandas": lambda X: pd.DataFrame(X, columns=["a", "b"]),
    "polars": lambda X: pl.DataFrame(X, schema=["a", "b"]),
}
SIZES = st.lists(st.integers(2, 9), min_size=1, max_size=8).map(np.array)
SUPPORTS = st.one_of(
    st.integers(0, 1),
    st.floats(0.01, 0.99),
    st.lists(st.integers(0, 8), min_size=1, max_size=3).map(lambda ks: (1, *ks)),
)


def make_tasks(sizes, seed=0):
    """Shuffled rows of tasks of given sizes; y is the row's number, weights are random."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    weights = rng.uniform(0.5, 2.0, len(codes)), rng.uniform(0.5, 2.0, len(sizes))
    return codes, Tasks.from_codes(np.arange(float(len(codes))), codes, *weights)


def make_blocks(sizes, episodes, seed=0):
    codes, tasks = make_tasks(sizes, seed)
    return codes, Blocks(tasks, Features(np.arange(float(len(codes)))[:, None]), episodes)


def real_rows(rows, k):
    """Numbers of the rows that stack k holds, checked against their features."""
    real = rows.weights[k] > 0
    numbers = rows.targets[k][real]
    np.testing.assert_array_equal(rows.features[k][real], np.c_[numbers, np.ones(len(numbers))])
    return numbers.astype(int)


# Features


@pytest.mark.parametrize("rows", [slice(1, 4), np.array([3, 0, 3]), slice(None)])
@pytest.mark.parametrize("kind", TABLES)
def test_rows_of_any_table_can_be_taken(kind, rows):
    taken = take_rows(TABLES[kind](X), rows)
    np.testing.assert_array_equal(taken.toarray() if sp.issparse(taken) else taken, X[rows])


def test_a_slice_of_an_array_is_a_view():
    assert np.shares_memory(take_rows(X, slice(1, 3)), X)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("transform", [None, lambda X: sp.csr_array(X) * 2, lambda X: 2 * X])
def test_features_are_the_transformed_columns_and_a_constant(intercept, transform):
    table = sp.csr_array(X) if transform is None else X
    features = Features(table, transform, intercept)
    expected = X if transform is None else 2 * X
    if intercept:
        expected = np.column_stack([expected, np.ones(6)])
    assert (features.n_rows, features.n_features) == (6, 2)
    assert features.width == expected.shape[1]
    np.testing.assert_array_equal(features[np.array([5, 0])], expected[[5, 0]])


@pytest.mark.parametrize("change", [lambda X: X[:0], lambda X: X[:1], lambda X: np.r_[X, X]])
def test_a_featurizer_that_changes_the_number_of_rows_is_refused(change):
    with pytest.raises(ValueError, match=r"one row a row of X|0 sample"):
        Features(X, change)[np.array([0, 1])]


@pytest.mark.parametrize("size", [1e71, 1e160, 1e308, -1e308])
def test_features_whose_squares_would_overflow_are_refused(size):
    features = Features(np.array([[1.0], [size]]))
    with pytest.raises(ValueError, match=r"at most 1e\+70 in size; got 1e\+\d+. Rescale"):
        features[slice(None)]


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        (np.array([[1.0, np.nan]]), "featurizer output contains NaN"),
        (sp.csr_array([[np.nan]]), "featurizer output contains NaN"),
        (np.array([[np.inf]]), "featurizer output contains infinity"),
        (np.ones(3), "Expected 2D array"),
        (np.ones((2, 2, 2)), "dim 3"),
        (np.ones((2, 0)), "0 feature"),
        (np.array([["a"]]), "could not convert"),
        (np.array([[1j]]), "Complex data not supported"),
    ],
)
def test_features_that_are_not_a_finite_table_are_refused(phi, message):
    with pytest.raises(ValueError, match=message):
        check_phi(phi)


@pytest.mark.parametrize("form", [np.float32, np.int8, bool])
def test_features_become_float64(form):
    assert check_phi(np.eye(2, dtype=form)).dtype == np.float64


# Episodes: parameters


@pytest.mark.parametrize("support", ["all", 0, 3, np.int64(2), 0.5, np.float32(0.5), (1,), (0, 5)])
def test_valid_supports_pass(support):
    Episodes(support).check()


@pytest.mark.parametrize("support", ["some", "", -1, 1.0, 0.0, 1.5, -0.5, np.nan, (), (1, -1)])
def test_supports_out_of_range_are_refused(support):
    with pytest.raises(ValueError, match=r"support must be 'all', an int >= 0 .* a fraction in"):
        Episodes(support).check()


@pytest.mark.parametrize("support", [None, True, [1], {1}, (True,), (0.5,), ("1",), 1j])
def test_supports_of_another_type_are_refused(support):
    with pytest.raises(TypeError, match="support must be 'all'"):
        Episodes(support).check()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"split": "last"}, ValueError, "split must be 'random' or 'first'; got 'last'"),
        ({"split": None}, ValueError, "got None"),
        ({"n_episodes": 0}, ValueError, "n_episodes must be at least 1; got 0"),
        ({"n_episodes": 2.0}, TypeError, "n_episodes must be an int; got 2.0"),
        ({"n_episodes": True}, TypeError, "n_episodes must be an int; got True"),
        ({"n_episodes": "2"}, TypeError, "n_episodes must be an int; got '2'"),
        ({"support": "all", "split": "first"}, ValueError, "split='first' has no effect"),
        ({"support": "all", "n_episodes": 2}, ValueError, "n_episodes=2 would repeat"),
        ({"split": "first", "n_episodes": 2}, ValueError, "n_episodes=2 would repeat"),
    ],
)
def test_split_and_episodes_that_are_wrong_or_ignored_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        Episodes(**{"support": 2, **parameters}).check()


# Episodes: numbers of shots


@pytest.mark.parametrize(
    ("support", "sizes", "expected"),
    [
        (2, [1, 2, 3, 9], [[-1, -1, 2, 2]]),
        (0, [1, 2], [[0, 0]]),
        (0.25, [1, 2, 8, 100], [[-1, 1, 2, 25]]),
        (0.9, [2, 3, 10], [[1, 2, 9]]),
        ((1, 3), [2, 4], [[1, 1], [-1, 3]]),
    ],
)
def test_shots_leave_a_row_to_predict_or_are_minus_one(support, sizes, expected):
    np.testing.assert_array_equal(Episodes(support).shots(np.array(sizes)), expected)


@settings(deadline=None, max_examples=40)
@given(SIZES, st.floats(0.01, 0.99))
def test_a_fraction_is_as_near_as_a_number_of_rows_can_be(sizes, fraction):
    (shots,) = Episodes(fraction).shots(sizes)
    for m, k in zip(sizes.tolist(), shots.tolist(), strict=True):
        target = Fraction(fraction) * m
        # Within a rounding error: the product may round to a half.
        distances = [abs(target - other) for other in range(1, m)]
        assert 1 <= k <= m - 1
        assert abs(target - k) <= min(distances) + Fraction(1, 10**12)


@pytest.mark.parametrize("n_episodes", [1, 3])
def test_each_number_of_shots_is_drawn_n_episodes_times(n_episodes):
    shots = Episodes((1, 2), n_episodes=n_episodes).shots(np.array([4, 4]))
    assert sorted(shots[:, 0].tolist()) == sorted([1, 2] * n_episodes)


@pytest.mark.parametrize("support", [2, 5, 0.5, (2, 3)])
def test_a_task_too_small_for_every_draw_is_named(support):
    sizes = np.array([9, 1])
    for names, name in ((None, 1), (["a", "b"], "b")):
        with pytest.raises(ValueError, match=rf"Task {name} has n_samples=1: .*smaller support"):
            Episodes(support).check_sizes(sizes, names)


@pytest.mark.parametrize("support", ["all", 0])
def test_one_row_is_enough_where_nothing_is_split_off(support):
    Episodes(support).check_sizes(np.array([1]))


def test_a_task_may_be_too_small_for_some_of_the_draws():
    Episodes((1, 8)).check_sizes(np.array([3]))


# Blocks: what a stack holds


@settings(deadline=None, max_examples=40)
@given(SIZES, SUPPORTS, st.sampled_from(["random", "first"]), st.integers(1, 3), st.integers(0, 99))
def test_support_and_query_are_disjoint_and_make_up_the_task(sizes, support, split, n, seed):
    episodes = Episodes(support, split, 1 if split == "first" else n, seed)
    codes, blocks = make_blocks(sizes, episodes)
    carried = np.zeros(len(sizes))
    wanted = episodes.shots(sizes)
    seen = [[] for _ in sizes]
    for block in blocks:
        for k, weight in enumerate(block.weight):
            if weight == 0:  # a draw that does not fit the task
                continue
            inside, outside = real_rows(block.support, k), real_rows(block.query, k)
            (i,) = np.unique(codes[np.r_[inside, outside]])
            task = np.flatnonzero(codes == i)
            np.testing.assert_array_equal(np.sort(np.r_[inside, outside]), task)
            if split == "first":
                np.testing.assert_array_equal(np.r_[inside, outside], task)
            assert len(outside) >= 1
            seen[i].append(len(inside))
            carried[i] += weight
    for i, drawn in enumerate(seen):
        assert sorted(drawn) == sorted(k for k in wanted[:, i] if k >= 0)
    # Sums of at most 9 shares, each rounded.
    np.testing.assert_allclose(carried, blocks.tasks.weight, rtol=1e-15 * 16)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([1, 8, 2**18]))
def test_with_all_rows_as_support_each_row_of_each_task_appears_once(sizes, elements):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "BLOCK_ELEMENTS", elements)
        codes, blocks = make_blocks(sizes, Episodes())
        seen = []
        for block in blocks:
            assert block.query is block.support
            # One feature and the intercept: a block is to have at least two rows.
            n_rows = (block.support.weights > 0).sum()
            assert len(block.weight) == 1 or n_rows <= max(elements / 2, 2)
            for k in range(len(block.weight)):
                rows = real_rows(block.support, k)
                (i,) = np.unique(codes[rows])
                np.testing.assert_array_equal(rows, np.flatnonzero(codes == i))
                assert block.weight[k] == blocks.tasks.weight[i]
                seen.append(i)
        assert sorted(seen) == list(range(len(sizes)))


@settings(deadline=None, max_examples=40)
@given(SIZES, st.one_of(st.just("all"), SUPPORTS))
def test_row_weights_sum_to_one_and_keep_their_ratios(sizes, support):
    _, blocks = make_blocks(sizes, Episodes(support))
    for block in blocks:
        for rows in (block.support, block.query):
            for k in range(len(block.weight)):
                numbers = real_rows(rows, k)
                if len(numbers) == 0:
                    assert not rows.weights[k].any()
                    continue
                raw = blocks.tasks.row_weight[numbers]
                real = rows.weights[k] > 0
                np.testing.assert_allclose(rows.weights[k][real], raw / raw.sum(), rtol=1e-14)


@pytest.mark.parametrize("support", ["all", 2, (1, 2)])
def test_draws_are_the_same_in_each_pass_and_after_pickling(support):
    with sklearn.config_context(working_memory=0):
        _, blocks = make_blocks([3, 5, 4, 3], Episodes(support, seed=7))
    for first, again, copied in zip(
        blocks, blocks, pickle.loads(pickle.dumps(blocks)), strict=True
    ):
        assert first is not again
        for other in (again, copied):
            np.testing.assert_array_equal(first.query.targets, other.query.targets)
            np.testing.assert_array_equal(first.support.weights, other.support.weights)


def test_small_blocks_are_kept_and_not_pickled():
    _, blocks = make_blocks([3, 3], Episodes())
    assert blocks[0] is blocks[0]
    copied = pickle.loads(pickle.dumps(blocks))
    np.testing.assert_array_equal(copied[0].support.features, blocks[0].support.features)
    assert len(pickle.dumps(blocks)) == len(pickle.dumps(copied))


def test_random_splits_depend_on_the_seed_and_differ_between_tasks():
    sizes = [12] * 8
    draws = []
    for seed in (0, 0, 1):
        _, blocks = make_blocks(sizes, Episodes(6, seed=seed))
        draws.append(blocks[0].support.features[..., 0])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_every_row_is_as_likely_to_be_support():
    _, blocks = make_blocks([5], Episodes(2, n_episodes=4000))
    rows, counts = np.unique(blocks[0].support.features[..., 0], return_counts=True)
    assert len(rows) == 5
    # 4000 draws with p = 2/5: a standard deviation of 31; five of them.
    np.testing.assert_allclose(counts, 1600, atol=155)


@settings(deadline=None, max_examples=40)
@given(SIZES, st.one_of(st.just("all"), SUPPORTS), st.integers(1, 3))
def test_the_number_of_query_rows_is_counted(sizes, support, n):
    _, blocks = make_blocks(sizes, Episodes(support, n_episodes=n))
    real = sum((block.query.weights * (block.weight > 0)[:, None] > 0).sum() for block in blocks)
    assert blocks.n_query == real


def test_several_targets_have_a_leading_axis():
    y = np.arange(8.0).reshape(4, 2)
    tasks = Tasks.from_codes(y, np.array([0, 1, 0, 1]))
    (block,) = Blocks(tasks, Features(y), Episodes())
    assert block.query.targets.shape == (2, 2, 2)
    np.testing.assert_array_equal(np.moveaxis(block.query.targets, 0, -1), y[[[0, 2], [1, 3]]])


@pytest.mark.parametrize("i", [-1, 1])
def test_there_are_no_blocks_beyond_the_last(i):
    _, blocks = make_blocks([3], Episodes())
    with pytest.raises(IndexError):
        blocks[i]


def test_blocks_hold_tasks_of_similar_size():
    _, blocks = make_blocks([100, 3, 100, 3, 40], Episodes())
    sizes = [sorted((block.support.weights > 0).sum(axis=1)) for block in blocks]
    assert sizes == [[3, 3], [40], [100, 100]]
    _, few = make_blocks([10, 19, 11, 21, 13], Episodes())  # few rows: up to twice as large
    assert [sorted((block.support.weights > 0).sum(axis=1)) for block in few] == [
        [10, 11, 13, 19],
        [21],
    ]
    _, many = make_blocks([5000, 9000, 6000, 7000], Episodes())
    sizes = [sorted((block.support.weights > 0).sum(axis=1)) for block in many]
    assert sizes == [[5000, 6000], [7000], [9000]]


# Moments and pooled rows


@pytest.mark.parametrize("elements", [1, 2**18])
def test_moments_are_those_of_all_rows_with_equal_weight_for_equal_tasks(elements, monkeypatch):
    monkeypatch.setattr(stacks, "BLOCK_ELEMENTS", elements)
    rng = np.random.default_rng(0)
    codes, tasks = make_tasks([4, 7, 2, 9])
    X = rng.normal([0, 1e6], [1, 1e-2], (len(codes), 2))
    share = tasks.row_weight / np.bincount(codes, tasks.row_weight)[codes] * tasks.weight[codes]
    mean, deviation = moments(Blocks(tasks, Features(X), Episodes()))
    expected = share @ X
    spread = np.sqrt(share @ (X - expected) ** 2)
    # The large column's numbers themselves are known to 1e-10 of their deviation.
    np.testing.assert_allclose(mean, [*expected, 1], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(deviation, [*spread, 0], rtol=1e-8, atol=1e-15)


def test_pooled_rows_weigh_together_what_the_tasks_do():
    codes, blocks = make_blocks([4, 1, 3], Episodes())
    for stack, weight, _ in blocks.stacks():
        shares = weight[:, None] * stack.weights
        totals = np.bincount(codes[stack.features[..., 0].astype(int)].ravel(), shares.ravel())
        np.testing.assert_allclose(np.sort(totals[totals > 0]), np.sort(weight), rtol=1e-14)


def test_random_keys_belong_to_seed_draw_and_position():
    positions = np.arange(20_000)
    keys = random_keys(3, np.zeros(1, dtype=int), positions)
    assert (random_keys(3, np.zeros(1, dtype=int), positions[7:9]) == keys[7:9]).all()
    for other in (
        random_keys(4, np.zeros(1, dtype=int), positions),
        random_keys(3, np.ones(1, dtype=int), positions),
    ):
        assert abs(np.corrcoef(keys, other)[0, 1]) < 0.03
    uniform = keys / 2**53
    assert np.histogram(uniform, bins=20, range=(0, 1))[0] == pytest.approx(1000, rel=0.15)
    assert abs(np.corrcoef(uniform[1:], uniform[:-1])[0, 1]) < 0.03


# Memory


def peak_elements(call):
    """The most float64 numbers that a call holds at once, beyond what there was before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("model", [MAMLRegressor(0.02, support=5), MAMLRegressor(support=5)])
@pytest.mark.parametrize("loss", ["squared_error", "log_cosh"])
def test_memory_is_linear_in_the_query_rows_of_a_task(model, loss):
    """Twice 20,000 query rows: one matrix of query rows by query rows would hold 4e8 numbers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40_010, 5))
    y, groups = X.sum(axis=1) + rng.normal(size=len(X)), np.arange(len(X)) % 2
    model = clone(model).set_params(loss=loss, random_state=0)
    # A row is its features, response, prediction, slope and weights, and temporary copies of them.
    assert peak_elements(lambda: model.fit(X, y, groups=groups)) < 25 * X.size


def test_draws_of_a_large_task_share_its_query_rows():
    """Seen through weights, they are the rows that a copy for each draw would hold."""
    codes, blocks = make_blocks([70_000, 8, 69_000], Episodes((2, 5), n_episodes=2, seed=1))
    drawn = []
    for block in blocks:
        shared = block.query.features.strides[0] == 0
        assert shared == (block.owner[0] != 1)
        for k, i in enumerate(block.owner):
            inside, outside = real_rows(block.support, k), real_rows(block.query, k)
            np.testing.assert_array_equal(
                np.sort(np.r_[inside, outside]), np.flatnonzero(codes == i)
            )
            for rows, numbers in ((block.support, inside), (block.query, outside)):
                raw = blocks.tasks.row_weight[numbers]
                np.testing.assert_allclose(rows.size[k], raw.sum(), rtol=1e-12)
                real = rows.weights[k] > 0
                np.testing.assert_allclose(rows.weights[k][real], raw / raw.sum(), rtol=1e-12)
            drawn.append((i, len(inside)))
    assert sorted(drawn) == [(i, k) for i in range(3) for k in (2, 2, 5, 5)]


def test_tasks_that_are_large_with_all_their_draws_share_rows_too():
    """However many there are of about that size; unsplit they are still stacked as they were."""
    codes, blocks = make_blocks([3000, 3000, 3001, 8], Episodes((2, 5), n_episodes=30, seed=1))
    assert [block.owner[0] for block in blocks] == [3, 0, 1, 2]
    assert [block.query.features.strides[0] == 0 for block in blocks] == [False, True, True, True]
    whole = blocks.unsplit()
    for i, block in enumerate(whole):
        numbers = real_rows(block.query, 0)
        np.testing.assert_array_equal(numbers, np.flatnonzero(codes == whole.owner(i)[0]))


def test_draws_that_no_task_of_a_block_has_rows_for_are_not_stacked():
    shots = (1, 10, 2, 3, 5)
    _, blocks = make_blocks([4] * 50, Episodes(shots, n_episodes=2))
    (block,) = blocks
    assert (block.weight > 0).all()
    assert np.unique(block.draw).tolist() == [0, 1, 4, 5, 6, 7]  # those of 1, 2 and 3 rows
    np.testing.assert_array_equal(blocks.draw(0), block.draw)
    np.testing.assert_array_equal(blocks.owner(0), block.owner)
    np.testing.assert_allclose(np.bincount(block.owner, block.weight), blocks.tasks.weight)


def test_draws_of_a_large_task_share_several_targets():
    y = np.arange(140_000.0)
    tasks = Tasks.from_codes(np.column_stack([y, -y]), np.zeros(len(y), dtype=int))
    for block in Blocks(tasks, Features(y[:, None]), Episodes(3, n_episodes=4)):
        for rows in (block.support, block.query):
            np.testing.assert_array_equal(rows.targets[0], rows.features[..., 0])
            np.testing.assert_array_equal(rows.targets[1], -rows.features[..., 0])


def drawn(blocks):
    """The targets of the support rows of each (task, draw)."""
    found = {}
    for i in range(len(blocks)):
        block = blocks[i]
        for k, key in enumerate(zip(block.owner, block.draw, strict=True)):
            rows = block.support.targets[k][block.support.weights[k] > 0]
            found[tuple(map(int, key))] = sorted(rows.tolist())
    return found


def test_fewer_draws_and_fewer_tasks_are_split_as_all_of_them_are():
    codes = np.repeat(np.arange(40), 9)
    tasks = Tasks.from_codes(np.arange(360.0), codes)
    blocks = Blocks(tasks, Features(np.ones((360, 1))), Episodes((1, 3), n_episodes=6, seed=5))
    whole = drawn(blocks)
    fewer = drawn(blocks.split(blocks.episodes.fewer(4)))
    assert len(fewer) == 40 * 2 * 4
    for (task, draw), rows in fewer.items():
        assert rows == whole[task, draw // 4 * 6 + draw % 4]
    again = drawn(blocks.split(blocks.episodes.fewer(4).fewer(2)))
    assert all(
        rows == whole[task, draw // 2 * 6 + draw % 2] for (task, draw), rows in again.items()
    )
    kept = np.arange(40) % 3 == 1
    some = drawn(blocks.only(kept))
    assert all(rows == whole[np.flatnonzero(kept)[i], draw] for (i, draw), rows in some.items())
