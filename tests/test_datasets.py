"""Task families against closed forms and statistics; the loader against the frame it was given."""

import builtins

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sklearn_maml.datasets import make_linear_tasks, make_sinusoid_tasks, tasks_from_frame

MAKERS = [make_linear_tasks, make_sinusoid_tasks]


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


# Both families


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_gives_the_same_tasks(make):
    first, second = make(n_tasks=3, random_state=4), make(n_tasks=3, random_state=4)
    other = make(n_tasks=3, random_state=5)
    for (X, y), (X_again, y_again), (X_other, _) in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(X, X_again)
        np.testing.assert_array_equal(y, y_again)
        assert not np.array_equal(X, X_other)


@pytest.mark.parametrize("make", MAKERS)
def test_a_random_state_goes_on_from_call_to_call(make):
    rng = np.random.RandomState(0)
    assert not np.array_equal(make(1, random_state=rng)[0][0], make(1, random_state=rng)[0][0])


@pytest.mark.parametrize("make", MAKERS)
@settings(deadline=None, max_examples=30)
@given(
    n_tasks=st.integers(1, 8),
    low=st.integers(1, 6),
    more=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_ragged_sizes_stay_in_their_range(make, n_tasks, low, more, seed):
    tasks = make(n_tasks, (low, low + more), random_state=seed)
    assert len(tasks) == n_tasks
    for X, y in tasks:
        assert low <= len(y) <= low + more
        assert X.shape[0] == len(y)
        assert np.isfinite(X).all()
        assert np.isfinite(y).all()


@pytest.mark.parametrize("make", MAKERS)
def test_ragged_sizes_reach_both_ends(make):
    assert {len(y) for _, y in make(100, (2, 4), random_state=0)} == {2, 3, 4}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_tasks": 0}, "n_tasks must be an int >= 1; got 0"),
        ({"n_tasks": 2.0}, "n_tasks must be an int >= 1; got 2.0"),
        ({"n_tasks": True}, "n_tasks must be an int >= 1; got True"),
        ({"n_samples": 0}, "n_samples must be an int >= 1; got 0"),
        ({"n_samples": "5"}, "n_samples must be an int >= 1; got '5'"),
        ({"n_samples": (1, 2, 3)}, r"n_samples must be an int or \(low, high\); got \(1, 2, 3\)"),
        ({"n_samples": (0, 3)}, r"n_samples\[0\] must be an int >= 1; got 0"),
        ({"n_samples": (5, 3)}, r"n_samples\[1\] must be an int >= 5; got 3"),
        ({"noise": -0.1}, "noise must be a finite number >= 0; got -0.1"),
        ({"noise": np.nan}, "noise must be a finite number >= 0; got nan"),
        ({"noise": "much"}, "noise must be a finite number >= 0; got 'much'"),
    ],
)
def test_a_bad_argument_is_named_with_what_was_got(make, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**arguments)


# Linear tasks


def test_linear_tasks_have_the_shapes_asked_for():
    tasks, theta, task_theta = make_linear_tasks(7, 11, 3, return_theta=True, random_state=0)
    assert [(X.shape, y.shape) for X, y in tasks] == [((11, 3), (11,))] * 7
    assert theta.shape == (4,)
    assert task_theta.shape == (7, 4)


def test_returning_theta_does_not_change_the_tasks():
    alone = make_linear_tasks(2, random_state=3)
    tasks, _, _ = make_linear_tasks(2, return_theta=True, random_state=3)
    np.testing.assert_array_equal(alone[1][1], tasks[1][1])


@settings(deadline=None, max_examples=30)
@given(
    n_features=st.integers(1, 6),
    condition=st.floats(1, 100),
    spread=st.floats(0, 10),
    seed=st.integers(0, 2**32 - 1),
)
def test_without_noise_least_squares_recovers_each_task(n_features, condition, spread, seed):
    tasks, _, task_theta = make_linear_tasks(
        3,
        4 * n_features + 10,
        n_features,
        task_spread=spread,
        noise=0.0,
        condition=condition,
        return_theta=True,
        random_state=seed,
    )
    for (X, y), expected in zip(tasks, task_theta, strict=True):
        fitted = np.linalg.lstsq(with_ones(X), y, rcond=None)[0]
        np.testing.assert_allclose(fitted, expected, atol=1e-9)


def test_without_spread_all_tasks_have_the_meta_parameters():
    _, theta, task_theta = make_linear_tasks(4, task_spread=0.0, return_theta=True, random_state=0)
    np.testing.assert_array_equal(task_theta, np.tile(theta, (4, 1)))


def test_task_parameters_scatter_about_theta_with_the_spread_given():
    _, theta, task_theta = make_linear_tasks(
        5000, 1, 3, task_spread=0.7, return_theta=True, random_state=0
    )
    # five standard errors of a mean and of a standard deviation
    np.testing.assert_allclose(task_theta.mean(axis=0), theta, atol=5 * 0.7 / np.sqrt(5000))
    np.testing.assert_allclose(task_theta.std(axis=0), 0.7, atol=5 * 0.7 / np.sqrt(10000))


def test_the_noise_has_the_standard_deviation_given():
    tasks, _, task_theta = make_linear_tasks(1, 20000, 2, noise=0.3, return_theta=True)
    X, y = tasks[0]
    residual = y - with_ones(X) @ task_theta[0]
    assert residual.std() == pytest.approx(0.3, abs=5 * 0.3 / np.sqrt(40000))
    assert residual.mean() == pytest.approx(0, abs=5 * 0.3 / np.sqrt(20000))


@pytest.mark.parametrize("condition", [1.0, 25.0])
def test_all_tasks_share_a_feature_covariance_of_the_condition_given(condition):
    tasks = make_linear_tasks(2, 50000, 3, condition=condition, random_state=0)
    for X, _ in tasks:
        eigenvalues = np.linalg.eigvalsh(np.cov(X.T))
        expected = np.geomspace(1 / condition, 1, 3)
        np.testing.assert_allclose(eigenvalues, expected, rtol=5 * np.sqrt(2 / 50000) + 0.02)
    covariances = [np.cov(X.T) for X, _ in tasks]
    np.testing.assert_allclose(*covariances, atol=0.05)


def test_theta_minimises_the_expected_meta_objective_of_a_gradient_step():
    """Solve the least squares of one step from its definition: the answer nears theta."""
    n, d, step = 4000, 3, 0.1
    tasks, theta, _ = make_linear_tasks(n, 10, d - 1, return_theta=True, random_state=0)
    gram, moment = np.zeros((d, d)), np.zeros(d)
    for X, y in tasks:
        X = with_ones(X)
        adapted = X @ (np.eye(d) - 2 * step * X.T @ X / len(X))
        target = y - X @ (2 * step * X.T @ y / len(X))
        gram += adapted.T @ adapted
        moment += adapted.T @ target
    # the parameters of a task scatter by 0.5; their mean's standard error is 0.5 / sqrt(n)
    np.testing.assert_allclose(np.linalg.solve(gram, moment), theta, atol=8 * 0.5 / np.sqrt(n))


def test_a_given_theta_is_used_and_left_alone():
    given_theta = np.array([1.0, -2.0, 3.0])
    _, theta, _ = make_linear_tasks(1, 5, 2, theta=given_theta, return_theta=True)
    np.testing.assert_array_equal(theta, given_theta)
    assert theta is not given_theta


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_features": 0}, "n_features must be an int >= 1; got 0"),
        ({"task_spread": -1}, "task_spread must be a finite number >= 0; got -1"),
        ({"task_spread": np.inf}, "task_spread must be a finite number >= 0; got inf"),
        ({"condition": 0.5}, "condition must be a finite number >= 1; got 0.5"),
        ({"n_features": 2, "theta": [1, 2]}, "theta must be 3 finite numbers, one for each of"),
        ({"n_features": 1, "theta": [1, np.nan]}, "theta must be 2 finite numbers"),
    ],
)
def test_a_bad_argument_of_linear_tasks_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_linear_tasks(**arguments)


# Sinusoids


def test_without_noise_a_sinusoid_task_is_its_formula():
    tasks, parameters = make_sinusoid_tasks(5, 12, return_parameters=True, random_state=0)
    for (X, y), (amplitude, phase) in zip(tasks, parameters, strict=True):
        assert X.shape == (12, 1)
        np.testing.assert_array_equal(y, amplitude * np.sin(X[:, 0] - phase))


def test_the_defaults_are_the_intervals_of_the_paper():
    tasks, parameters = make_sinusoid_tasks(4000, 5, return_parameters=True, random_state=0)
    x = np.concatenate([X[:, 0] for X, _ in tasks])
    for values, (low, high) in (
        (parameters[:, 0], (0.1, 5.0)),
        (parameters[:, 1], (0.0, np.pi)),
        (x, (-5.0, 5.0)),
    ):
        assert low <= values.min()
        assert values.max() <= high
        error = 5 * (high - low) / np.sqrt(12 * len(values))
        assert values.mean() == pytest.approx((low + high) / 2, abs=error)
        assert values.max() - values.min() > 0.99 * (high - low)


def test_a_sinusoid_task_lies_in_the_span_of_sine_and_cosine():
    for X, y in make_sinusoid_tasks(3, 30, random_state=1):
        basis = np.column_stack([np.sin(X[:, 0]), np.cos(X[:, 0])])
        residual = y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]
        np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_noise_is_added_to_the_targets_only():
    clean = make_sinusoid_tasks(1, 20000, random_state=2)[0]
    noisy = make_sinusoid_tasks(1, 20000, noise=0.4, random_state=2)[0]
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert (noisy[1] - clean[1]).std() == pytest.approx(0.4, abs=5 * 0.4 / np.sqrt(40000))


def test_an_interval_of_one_point_fixes_a_parameter():
    _, parameters = make_sinusoid_tasks(
        6, amplitude=(2, 2), phase=(1, 1), return_parameters=True, random_state=0
    )
    np.testing.assert_array_equal(parameters, np.tile([2.0, 1.0], (6, 1)))


@pytest.mark.parametrize("name", ["amplitude", "phase", "x_range"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3.0, r"must be two numbers \(low, high\); got 3.0"),
        ((1, 2, 3), r"must be two numbers \(low, high\); got \(1, 2, 3\)"),
        (("a", "b"), r"must be two numbers \(low, high\); got"),
        ((2, 1), r"must be finite, with low <= high; got \(2, 1\)"),
        ((0, np.inf), r"must be finite, with low <= high; got \(0, inf\)"),
        ((np.nan, 1), r"must be finite, with low <= high; got \(nan, 1\)"),
    ],
)
def test_a_bad_interval_is_named(name, value, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        make_sinusoid_tasks(**{name: value})


# DataFrames

COLUMNS = {
    "who": ["b", "a", "b", "c", "a"],
    "day": [0, 1, 2, 3, 4],
    "kind": ["x", "y", "x", "y", "x"],
    "time": [0.0, 10.0, 20.0, 30.0, 40.0],
}
FRAMES = [pd.DataFrame, pl.DataFrame]


@pytest.mark.parametrize("frame_type", FRAMES)
def test_groups_come_in_order_of_appearance_and_rows_in_their_own(frame_type):
    tasks, ids = tasks_from_frame(frame_type(COLUMNS), target="time", group="who")
    assert ids == ["b", "a", "c"]
    assert [y.tolist() for _, y in tasks] == [[0.0, 20.0], [10.0, 40.0], [30.0]]
    assert [list(X["day"]) for X, _ in tasks] == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize("frame_type", FRAMES)
def test_x_is_a_frame_of_the_same_kind_with_all_other_columns(frame_type):
    tasks, _ = tasks_from_frame(frame_type(COLUMNS), "time", "who")
    for X, y in tasks:
        assert isinstance(X, frame_type)
        assert isinstance(y, np.ndarray)
        assert list(X.columns) == ["day", "kind"]


@pytest.mark.parametrize("frame_type", FRAMES)
def test_features_choose_the_columns_and_their_order(frame_type):
    tasks, _ = tasks_from_frame(frame_type(COLUMNS), "time", "who", features=("kind", "day"))
    assert list(tasks[0][0].columns) == ["kind", "day"]


def test_the_frame_is_not_changed():
    frame = pd.DataFrame(COLUMNS)
    tasks, _ = tasks_from_frame(frame, "time", "who")
    tasks[0][1][0] = 99.0
    pd.testing.assert_frame_equal(frame, pd.DataFrame(COLUMNS))


def test_the_index_of_a_pandas_frame_is_not_taken_for_positions():
    frame = pd.DataFrame(COLUMNS, index=[7, 7, 3, 1, 0])
    tasks, _ = tasks_from_frame(frame, "time", "who")
    assert [y.tolist() for _, y in tasks] == [[0.0, 20.0], [10.0, 40.0], [30.0]]
    assert list(tasks[0][0].index) == [7, 3]


@settings(deadline=None, max_examples=50)
@given(labels=st.lists(st.integers(-3, 3), min_size=1, max_size=30), as_polars=st.booleans())
def test_every_row_is_in_the_task_of_its_label_once(labels, as_polars):
    frame = (pl if as_polars else pd).DataFrame(
        {"label": labels, "row": range(len(labels)), "y": np.arange(len(labels), dtype=float)}
    )
    tasks, ids = tasks_from_frame(frame, "y", "label")
    assert ids == list(dict.fromkeys(labels))
    for (X, y), label in zip(tasks, ids, strict=True):
        expected = [row for row, other in enumerate(labels) if other == label]
        assert list(X["row"]) == expected
        assert y.tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [
        pd.Categorical(["u", "v", "u"], categories=["unused", "v", "u"]),
        pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-02"]),
        [True, False, True],
        [(1, 2), (3, 4), (1, 2)],
    ],
)
def test_labels_may_be_of_any_hashable_type(labels):
    frame = pd.DataFrame({"x": [1, 2, 3], "y": [1.0, 2.0, 3.0]})
    frame["label"] = pd.Series(labels, dtype=getattr(labels, "dtype", None))
    tasks, ids = tasks_from_frame(frame, "y", "label")
    assert ids == [labels[0], labels[1]]
    assert [y.tolist() for _, y in tasks] == [[1.0, 3.0], [2.0]]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"g": [1.0, np.nan, np.nan], "x": 0, "y": 0.0}),
        pd.DataFrame({"g": ["a", None, None], "x": 0, "y": 0.0}),
        pd.DataFrame({"g": pd.array([1, None, None], dtype="Int64"), "x": 0, "y": 0.0}),
        pd.DataFrame({"g": pd.to_datetime(["2020-01-01", None, None]), "x": 0, "y": 0.0}),
        pl.DataFrame({"g": [1.0, None, float("nan")], "x": [0] * 3, "y": [0.0] * 3}),
        pl.DataFrame({"g": ["a", None, None], "x": [0] * 3, "y": [0.0] * 3}),
    ],
)
def test_a_missing_group_label_is_an_error_that_says_where(frame):
    message = r"'g' has no group label in 2 row\(s\), the first at position 1; remove those rows"
    with pytest.raises(ValueError, match=message):
        tasks_from_frame(frame, "y", "g")


@pytest.mark.parametrize(
    "frame",
    [
        [[1]],
        np.zeros((2, 2)),
        {"a": [1]},
        pd.Series([1.0]),
        pl.Series([1.0]),
        pl.LazyFrame(COLUMNS),
    ],
)
def test_anything_but_a_frame_is_an_error_that_names_its_type(frame):
    message = f"frame must be a pandas or polars DataFrame; got {type(frame).__name__}"
    with pytest.raises(TypeError, match=message):
        tasks_from_frame(frame, "y", "g")


@pytest.mark.parametrize("frame_type", FRAMES)
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("speed", "who"), ValueError, "one column named 'speed' in the frame, found 0; its col"),
        (("time", "group"), ValueError, "one column named 'group' in the frame, found 0"),
        (("time", "who", ["hour"]), ValueError, "one column named 'hour' in the frame, found 0"),
        (("time", "time"), ValueError, "'time' is used 2 times; target, group and each of"),
        (("time", "who", ["day", "who"]), ValueError, "'who' is used 2 times"),
        (("time", "who", ["day", "day"]), ValueError, "'day' is used 2 times"),
        (("time", "who", "day"), TypeError, r"a list of column names; got 'day', write \['day'\]"),
        (("time", "who", []), ValueError, "No column is left for X: the frame has only"),
    ],
)
def test_a_bad_choice_of_columns_is_an_error(frame_type, arguments, error, message):
    with pytest.raises(error, match=message):
        tasks_from_frame(frame_type(COLUMNS), *arguments)


def test_a_column_name_found_twice_is_an_error():
    frame = pd.DataFrame([[1, 2, 3, 4.0]], columns=["g", "x", "x", "y"])
    with pytest.raises(ValueError, match="one column named 'x' in the frame, found 2"):
        tasks_from_frame(frame, "y", "g")


@pytest.mark.parametrize("frame_type", FRAMES)
def test_a_frame_without_rows_is_an_error(frame_type):
    with pytest.raises(ValueError, match="has no rows, so there are no tasks"):
        tasks_from_frame(frame_type(COLUMNS)[:0], "time", "who")


def test_a_polars_frame_needs_no_pandas(monkeypatch):
    real_import = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        assert name.partition(".")[0] != "pandas"
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    tasks, _ = tasks_from_frame(pl.DataFrame(COLUMNS), "time", "who")
    assert len(tasks) == 3
