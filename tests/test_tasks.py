"""Reading tasks: what `pool`, `group_rows` and `Tasks` make of lists of tuples and of labels."""

import datetime
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import DataConversionWarning

from sklearn_maml._tasks.labels import group_rows
from sklearn_maml._tasks.lists import is_task_list, looks_ragged, pool, refuse_masked
from sklearn_maml._tasks.stacks import Tasks
from sklearn_maml._tasks.tables import check_finite

TWO = [(np.arange(6.0).reshape(3, 2), np.arange(3.0)), (-np.ones((1, 2)), np.array([7.0]))]
STACKED = np.array([[0, 1], [2, 3], [4, 5], [-1, -1]])
TABLES = {
    "array": np.asarray,
    "integers": lambda X: X.astype(int),
    "list": np.ndarray.tolist,
    "csr": sp.csr_matrix,
    "csc": sp.csc_array,
    "coo": sp.coo_matrix,
    "pandas": lambda X: pd.DataFrame(X, columns=["a", "b"], index=[9] * len(X)),
    "polars": lambda X: pl.DataFrame(X, schema=["a", "b"]),
}
LABELS = st.one_of(
    st.integers(),
    st.text(max_size=3),
    st.booleans(),
    st.dates(),
    st.frozensets(st.integers(0, 2), max_size=2),
    st.tuples(st.integers(0, 1), st.text(max_size=1)),
)


def dense(X):
    return X.toarray() if sp.issparse(X) else np.asarray(X)


# What is a list of tasks


@pytest.mark.parametrize("X", [[], (), TWO, tuple(TWO), [(1, 2)], [(1.0, 2.0, 3.0)]])
def test_without_y_a_list_of_tuples_is_a_list_of_tasks(X):
    assert is_task_list(X)


@pytest.mark.parametrize(
    "X", [None, 3, "ab", {}, iter(TWO), [[1, 2]], np.ones((2, 2)), [list(TWO[0])], pd.DataFrame()]
)
def test_other_things_are_not_lists_of_tasks(X):
    assert not is_task_list(X)


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (TWO, True),
        ([([[1, 2]], [3])], True),
        ([(pd.DataFrame({"a": [1]}), [3])], True),
        ([(sp.eye(2, format="csr"), [3, 4])], True),
        ([(1.0, 2.0), (3.0, 4.0)], False),
        ([()], False),
        ([], False),
    ],
)
def test_with_y_tuples_of_numbers_are_rows(X, expected):
    assert is_task_list(X, y=[1, 2]) is expected


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        ([np.ones((2, 2)), np.ones((3, 2))], True),
        ([[[1, 2]], [[3, 4]]], True),
        ([[1, 2], [3, 4]], False),
        ([np.ones(2), np.ones(2)], False),
        (np.ones((2, 2, 2)), False),
        ([], False),
    ],
)
def test_a_list_of_tables_is_told_from_a_list_of_rows(X, expected):
    assert looks_ragged(X) is expected


# pool


@pytest.mark.parametrize("kind", TABLES)
def test_pooled_rows_stand_in_the_order_of_tasks(kind):
    pooled = pool([(TABLES[kind](X), y) for X, y in TWO])
    np.testing.assert_array_equal(dense(pooled.X), STACKED)
    np.testing.assert_array_equal(pooled.y, [0, 1, 2, 7])
    np.testing.assert_array_equal(pooled.sizes, [3, 1])
    assert pooled.row_weight is None
    assert pooled.task_weight is None


@pytest.mark.parametrize("kind", TABLES)
def test_a_single_task_is_pooled_too(kind):
    X, y = TWO[0]
    pooled = pool([(TABLES[kind](X), y)])
    np.testing.assert_array_equal(dense(pooled.X), X)
    np.testing.assert_array_equal(pooled.sizes, [3])


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_pooled_frames_keep_their_column_names(kind):
    pooled = pool([(TABLES[kind](X), y) for X, y in TWO])
    assert list(pooled.X.columns) == ["a", "b"]


def test_polars_columns_may_be_integers_in_one_task_and_floats_in_another():
    tasks = [(pl.DataFrame({"a": [1]}), [0.0]), (pl.DataFrame({"a": [0.5]}), [0.0])]
    np.testing.assert_array_equal(pool(tasks).X.to_numpy(), [[1.0], [0.5]])


@pytest.mark.parametrize(
    "y",
    [
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2], dtype=np.uint8),
        np.array([1, 2], dtype=np.float16),
        pd.Series([1, 2]),
        pd.Series([1, 2], dtype="Int64"),
        pd.array([1, 2], dtype="Float32"),
        pl.Series([1, 2]),
    ],
)
def test_targets_of_any_numeric_kind_are_taken(y):
    np.testing.assert_array_equal(pool([(np.ones((2, 1)), y)]).y, [1, 2])


def test_booleans_are_zeros_and_ones():
    np.testing.assert_array_equal(pool([(np.ones((2, 1)), [True, False])]).y, [1, 0])


def test_several_targets_stay_columns():
    assert pool([(X, np.column_stack([y, y, y])) for X, y in TWO]).y.shape == (4, 3)


class Odd(np.ndarray):
    """No plain array: such a task is looked at by itself."""


def outcome(tasks, numeric):
    """All that `pool` says: the error, or what is pooled."""
    try:
        pooled = pool(tasks, numeric)
    except ValueError as error:
        return str(error)
    return [(part.dtype, np.asarray(part).tolist()) for part in (pooled.X, pooled.y, pooled.sizes)]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),  # rows
            st.sampled_from(["?", "u1", "i8", "f4", "f8", "c8", "O"]),
            st.sampled_from([(2,), (2,), (2,), (3,), ()]),
            st.sampled_from(["?", "i8", "f4", "f8", "U1", "U2", "S1", "O", "c8"]),
            st.sampled_from([(), (), (), (2,), (1, 1), None]),  # None: y is a single number
            st.sampled_from([0, 0, 0, 1]),  # rows that y has too many
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_tasks_read_in_one_sweep_and_one_by_one_give_the_same(plan, numeric):
    tasks = [
        (
            np.ones((m, *columns), kind),
            np.ones(() if targets is None else (m + more, *targets), kind_of_y),
        )
        for m, kind, columns, kind_of_y, targets, more in plan
    ]
    odd = [tuple(part.view(Odd) for part in task) for task in tasks]
    with warnings.catch_warnings(action="ignore", category=DataConversionWarning):
        assert outcome(tasks, numeric) == outcome(odd, numeric)


def test_a_number_weighs_a_task_and_an_array_its_rows():
    (A, a), (B, b) = TWO
    pooled = pool([(A, a, [1, 0, 2]), (B, b, 3), (B, b), (B, b, None), (B, b, np.float32(0.5))])
    np.testing.assert_array_equal(pooled.row_weight, [1, 0, 2, 1, 1, 1, 1])
    np.testing.assert_array_equal(pooled.task_weight, [1, 3, 1, 1, 0.5])


X, y = TWO[0]
MASKED = np.ma.masked_array(y, mask=[0, 1, 0])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ([X, y], r"expected a tuple \(X, y\) or \(X, y, weight\); got list"),
        ((X,), "got a tuple of length 1"),
        ((X, y, 1, 1), "got a tuple of length 4"),
        ((y, y), r"X must have 2 dimensions \(rows, columns\); got 1"),
        ((1.0, 2.0), "got 0"),
        ((np.ones((3, 2, 1)), y), "got 3"),
        (([[1, 2], [3]], [1, 2]), "got 1"),
        ((X, y[:, None, None]), r"y must have shape \(rows,\) or \(rows, targets\)"),
        ((X, 1.0), r"got \(\)"),
        ((X, y[:2]), "X has 3 rows but y has 2"),
        ((X[:0], y[:0]), "has no rows; leave it out or give it at least one row"),
        ((X, y + 0j), "y must be numeric; got dtype complex128"),
        ((X, ["1", "2", "3"]), "y must be numeric; got dtype <U1"),
        ((X, y.astype(object)), "y must be numeric; got dtype object"),
        ((X, [None, 1, 2]), "y must be numeric; got dtype object"),
        ((X, y.astype("M8[s]")), "y must be numeric; got dtype datetime64"),
        ((X, [[1], [2, 3], [4]]), "y must be numeric; got dtype object"),
        ((np.ma.masked_array(X, mask=X > 3), y), "X is a masked array with masked entries"),
        ((X, MASKED), "y is a masked array with masked entries"),
        ((X, y, MASKED), "weight is a masked array with masked entries"),
        ((X, y, [1, 2]), r"shape \(3,\), one weight a row; got shape \(2,\)"),
        ((X, y, y[:, None]), r"got shape \(3, 1\)"),
        ((X, y, -1.0), "weights must be finite and not negative; got -1"),
        ((X, y, np.nan), "weights must be finite and not negative; got nan"),
        ((X, y, [1, 2, np.inf]), "weights must be finite and not negative"),
        ((X, y, "2"), "weight must be a number or one number a row; got dtype <U1"),
        ((X, y, [1, None, 2]), "got dtype object"),
        ((X, y, [[1], [1, 2]]), "got dtype object"),
        ((X, y, 1j), "got dtype complex128"),
        ((X[:, :1], y), "has 1 columns but task 0 has 2 columns"),
        ((X, y[:, None]), r"has y of shape \(rows, 1\) but task 0 has y of shape \(rows\)"),
        ((sp.csr_array(X), y), "has a sparse matrix but task 0 has an array"),
        ((pd.DataFrame(X), y), "has a pandas DataFrame but task 0 has an array"),
        ((pl.DataFrame(X), y), "has a polars DataFrame but task 0 has an array"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_with_its_number(task, message):
    with pytest.raises(ValueError, match=f"Task 1.*{message}"):
        pool([TWO[0], task])


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("names", ["ac", "ba"])
def test_frames_with_other_columns_or_another_order_are_refused(frame, names):
    tasks = [(frame({c: [1.0, 2.0] for c in columns}), [0, 1]) for columns in ("ab", names)]
    with pytest.raises(ValueError, match=r"Task 1 has the columns .* in the same order"):
        pool(tasks)


@pytest.mark.parametrize("tasks", [[], ()])
def test_no_tasks_are_refused(tasks):
    with pytest.raises(ValueError, match="empty list of tasks; at least one"):
        pool(tasks)


# check_finite and refuse_masked


@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("form", [np.array, np.asfortranarray, sp.csr_array])
def test_the_first_row_that_is_not_finite_is_named_within_its_task(bad, word, form):
    values = np.eye(4)
    values[2, 1] = values[3, 0] = bad
    message = rf"Task b: X contains {word} \(row 1 of that task\); remove or impute"
    with pytest.raises(ValueError, match=message):
        check_finite(form(values), np.array([0, 1, 1, 0]), ["a", "b"], "X")


@pytest.mark.parametrize(
    "values", [np.full(4, 1e308), np.full((4, 2), -1e308), sp.csr_array((4, 2)), np.zeros(4)]
)
def test_large_numbers_and_empty_rows_are_finite(values):
    check_finite(values, np.zeros(4, dtype=int), ["a"], "X")


def test_a_masked_array_that_hides_nothing_is_taken():
    refuse_masked(np.ma.masked_array([1.0, 2.0], mask=[0, 0]), "X")
    refuse_masked(pd.array([1, None], dtype="Int64"), "X")


# group_rows


@settings(deadline=None, max_examples=40)
@given(st.lists(LABELS, min_size=1, max_size=30))
def test_tasks_are_numbered_in_the_order_in_which_labels_first_appear(labels):
    ids, codes = group_rows(labels, len(labels))
    assert list(ids) == list(dict.fromkeys(labels))
    assert [ids[code] for code in codes] == labels


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_arrays_and_lists_of_labels_are_numbered_alike(labels):
    ids, codes = group_rows(labels, len(labels))
    frame = pd.DataFrame({"g": labels})
    for form in (np.array, pd.Series, pl.Series, pd.Categorical, tuple, pd.Index):
        other_ids, other_codes = group_rows(form(labels), len(labels))
        assert list(other_ids) == list(ids)
        np.testing.assert_array_equal(other_codes, codes)
    np.testing.assert_array_equal(group_rows(frame["g"], len(labels))[1], codes)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text("ab\u00e9", max_size=2), min_size=1, max_size=30))
def test_text_is_numbered_alike_as_array_objects_and_list(labels):
    ids, codes = group_rows(labels, len(labels))
    for form in (np.array, pd.Series, pl.Series, lambda g: np.array(g, dtype=object)):
        other_ids, other_codes = group_rows(form(labels), len(labels))
        assert other_ids.tolist() == ids.tolist()
        np.testing.assert_array_equal(other_codes, codes)
    assert group_rows(np.array(labels), len(labels))[0].dtype == np.array(labels).dtype


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["b", "a", "b"]),
        np.array([2.5, -1.0, 2.5]),
        np.array([True, False, True]),
        np.array(["2021", "2020", "2021"], dtype="M8[D]"),
        pd.Series(pd.to_datetime(["2021", "2020", "2021"]).tz_localize("UTC")),
        pd.MultiIndex.from_tuples([(1, "b"), (1, "a"), (1, "b")]),
        [datetime.date(2021, 1, 1), "a", datetime.date(2021, 1, 1)],
        range(3),
    ],
)
def test_labels_of_many_types_are_taken(labels):
    ids, codes = group_rows(labels, 3)
    assert [ids[code] for code in codes] == list(labels)
    assert codes[0] == 0


MISSING = [None, float("nan"), np.nan, pd.NA, pd.NaT, np.datetime64("NaT"), ("a", None), (np.nan,)]


@pytest.mark.parametrize("missing", MISSING, ids=repr)
def test_a_missing_label_in_a_list_is_refused_with_its_row(missing):
    with pytest.raises(ValueError, match=r"None or NaN; row 2 has no label. Drop such rows"):
        group_rows(["a", "b", missing], 3)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1.0, np.nan]),
        np.array(["2020", "NaT"], dtype="M8[D]"),
        np.array(["a", None], dtype=object),
        np.array(["a", pd.NA], dtype=object),
        pd.Series(["a", None]),
        pd.Series(["a", None], dtype="category"),
        pd.array([1, None], dtype="Int64"),
        pl.Series([1, None]),
        pl.Series(["a", None]),
    ],
)
def test_a_missing_label_in_a_column_is_refused_with_its_row(labels):
    with pytest.raises(ValueError, match="row 1 has no label"):
        group_rows(labels, 2)


@pytest.mark.parametrize(
    ("groups", "got"),
    [
        ("ab", "str"),
        (b"ab", "bytes"),
        ({1, 2}, "set"),
        ({1: 0, 2: 0}, "dict"),
        ((i for i in "ab"), "generator"),
        (3, "int"),
        (np.array(3), r"shape \(\)"),
        (np.ones((2, 1)), r"shape \(2, 1\)"),
        (pd.DataFrame({"g": [1, 2]}), r"shape \(2, 1\)"),
        (pl.DataFrame({"g": [1, 2]}), r"shape \(2, 1\)"),
    ],
)
def test_groups_that_are_not_one_label_a_row_are_refused(groups, got):
    with pytest.raises(ValueError, match=f"one-dimensional .*, one label a row; got {got}"):
        group_rows(groups, 2)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="groups has 2 labels but X has 3 rows"):
        group_rows([1, 2], 3)


def test_masked_labels_are_refused():
    with pytest.raises(ValueError, match="groups is a masked array"):
        group_rows(np.ma.masked_array([1, 2], mask=[0, 1]), 2)


@pytest.mark.parametrize("label", [[1], {}, np.ones(2), np.ones(1), {1}, ([1],)])
@pytest.mark.parametrize("form", [list, lambda g: np.fromiter(g, dtype=object)])
def test_labels_that_cannot_be_hashed_are_refused_with_row_and_type(form, label):
    with pytest.raises(TypeError, match=f"hashable labels; row 3 has .*{type(label).__name__}"):
        group_rows(form(["a", "a", "b", label]), 4)


# Tasks

CODES = st.lists(st.integers(0, 3), min_size=1, max_size=20).map(
    lambda labels: group_rows(labels, len(labels))[1]
)


@settings(deadline=None, max_examples=40)
@given(CODES, st.data())
def test_each_task_has_its_rows_of_positive_weight_in_their_order(codes, data):
    n = len(codes)
    weight = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=n, max_size=n)))
    weight[np.unique(codes, return_index=True)[1]] = 1.0
    tasks = Tasks.from_codes(np.arange(float(n)), codes, weight)
    rows = np.arange(n) if tasks.rows is None else tasks.rows
    for i in range(codes.max() + 1):
        mine = rows[tasks.offsets[i] : tasks.offsets[i + 1]]
        np.testing.assert_array_equal(mine, np.flatnonzero((codes == i) & (weight > 0)))
        assert tasks.sizes[i] == len(mine)
    assert tasks.offsets[-1] == (weight > 0).sum()


@settings(deadline=None, max_examples=40)
@given(CODES, st.floats(1e-6, 1e6))
def test_task_weights_sum_to_one_and_keep_their_ratios(codes, factor):
    given_weight = np.arange(1.0, codes.max() + 2) * factor
    tasks = Tasks.from_codes(np.ones(len(codes)), codes, task_weight=given_weight)
    assert tasks.weight.sum() == pytest.approx(1, abs=1e-15 * len(given_weight))
    np.testing.assert_allclose(tasks.weight / tasks.weight[0], given_weight / factor, rtol=1e-14)


def test_rows_that_are_sorted_by_task_are_not_indexed():
    assert Tasks.from_codes(np.ones(3), np.array([0, 0, 1])).rows is None


@pytest.mark.parametrize(("names", "name"), [(None, "1"), (["a", "b"], "b")])
def test_a_task_whose_rows_all_weigh_nothing_is_refused_by_name(names, name):
    with pytest.raises(ValueError, match=f"Task {name}: all sample weights are zero; leave"):
        Tasks.from_codes(np.ones(3), np.array([0, 1, 1]), np.array([1.0, 0, 0]), names=names)


def test_tasks_that_all_weigh_nothing_are_refused():
    with pytest.raises(ValueError, match="All tasks have weight zero; at least one"):
        Tasks.from_codes(np.ones(2), np.array([0, 1]), task_weight=np.zeros(2))


@pytest.mark.parametrize("size", [1e308, 5e-324])
@pytest.mark.parametrize("kind", ["row_weight", "task_weight"])
def test_weights_whose_sums_would_overflow_are_refused(size, kind):
    with pytest.raises(ValueError, match=r"between 1e-100 and 1e100; got .*Only their ratios"):
        Tasks.from_codes(np.ones(2), np.array([0, 1]), **{kind: np.array([1.0, size])})
