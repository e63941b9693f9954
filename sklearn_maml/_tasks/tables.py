"""Rows, targets and weights as an estimator is given them: checked and read.

Every function takes the estimator whose method was called: it says which X it expects
(`n_features_in_`, `feature_names_in_`), which columns of X hold the task labels (`task_column`) and
offsets (`offset_column`), whether a featurizer reads X (`featurizer`), and whether y holds class
labels, and which (`classes_`).
"""

from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import is_classifier
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import _check_sample_weight, validate_data

from sklearn_maml._component import check_number
from sklearn_maml._tasks.classes import distinct, read_classes, targets_of
from sklearn_maml._tasks.columns import as_numbers, read_offset, refuse_dates
from sklearn_maml._tasks.features import take_rows
from sklearn_maml._tasks.labels import group_rows, one_source, split_columns
from sklearn_maml._tasks.lists import (
    as_array,
    is_task_list,
    is_unordered,
    looks_ragged,
    pool,
    refuse_lazy,
    refuse_masked,
)
from sklearn_maml._tasks.stacks import Tasks

__all__ = [
    "TaskRows",
    "check_finite",
    "check_y",
    "read_one_task",
    "read_rows",
    "read_tasks",
    "row_weights",
]


def check_finite(values, codes, names, what):
    """Raise where numbers hold NaN or infinity, naming the first row and its task.

    Parameters
    ----------
    values : ndarray of shape (n_rows,) or (n_rows, k), or CSR matrix, of floats
    codes : ndarray of shape (n_rows,)
        For each row the position of its task's name in `names`.
    names : sequence
    what : str
        What the numbers are.

    Raises
    ------
    ValueError
    """
    numbers = values.data if sp.issparse(values) else values
    # One sum is cheaper than a mask of all values, and as sure: what is not finite stays so.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(numbers.sum()) or np.isfinite(numbers).all():
            return
    place = int(np.argmin(np.isfinite(numbers)))  # in C order, rows first
    if sp.issparse(values):
        row = int(np.searchsorted(values.indptr, place, side="right")) - 1
    else:
        row = place // (numbers.size // len(numbers))
    among = int((codes[:row] == codes[row]).sum())
    kind = "NaN" if np.isnan(numbers.flat[place]) else "infinity"
    raise ValueError(
        f"Task {names[codes[row]]}: {what} contains {kind} (row {among} of that task); "
        "remove or impute such values first."
    )


# Targets beyond this are refused, like such features: squares of products would overflow float64.
LARGEST_TARGET = 1e70


class TaskRows(NamedTuple):
    """What `read_tasks` returns.

    Attributes
    ----------
    X : array, CSR matrix or frame of shape (n_rows, n_columns)
        As the featurizer, or phi itself, takes it: without task column and offset column.
    tasks : Tasks
    ids : ndarray of shape (n_tasks,)
        The tasks' labels; positions, for a list of tasks.
    codes : ndarray of shape (n_rows,)
        For each row the position of its task in `ids`.
    named : bool
        Whether labels were given.
    untold : bool
        Whether nothing was given that tells tasks apart, so that all rows count as one.
    offset : ndarray of shape (n_rows,) or None
        What is added to the predictions of rows.
    """

    X: Any
    tasks: Tasks
    ids: np.ndarray
    codes: np.ndarray
    named: bool
    untold: bool
    offset: np.ndarray | None


def read_tasks(estimator, X, y, groups, sample_weight, reset=False):
    """Read a list of tasks, or rows with labels, as `MAMLRegressor.fit` takes them.

    Parameters
    ----------
    estimator : estimator
    X, y, groups, sample_weight
        As in `MAMLRegressor.fit`.
    reset : bool, default=False
        Whether X defines what the estimator expects, or is checked against it.

    Returns
    -------
    TaskRows

    Raises
    ------
    ValueError, TypeError
        Saying what was got, what was expected and what to do.
    """
    if is_task_list(X, y):
        _refuse_with_list(estimator, y, groups)
        X, y, codes, ids, weights = _read_task_list(estimator, X, sample_weight)
        X, y, _, offset = read_rows(estimator, X, y, reset, finite=False, told=True)
        named = untold = False
    else:
        told = groups is not None
        X, y, labels, offset = _read_flat(estimator, X, y, reset, finite=False, told=told)
        labels = one_source(estimator, labels, groups)
        named, untold = labels is not None, labels is None
        ids, codes = np.arange(1), np.zeros(len(y), dtype=np.intp)
        if named:
            ids, codes = group_rows(labels, len(y))
        weights = (row_weights(sample_weight, X), None)
    check_finite(y, codes, ids, "y")
    if estimator.featurizer is None:  # else its output is checked
        check_finite(X, codes, ids, "X")
    tasks = Tasks.from_codes(y, codes, *weights, names=ids)
    return TaskRows(X, tasks, ids, codes, named, untold, offset)


def read_one_task(estimator, X, y, sample_weight):
    """Read the rows of one task; labels, in a task column, must be the same everywhere.

    Returns
    -------
    X : array, CSR matrix or frame of shape (m, n_columns)
    y : ndarray of shape (m,) or (m, n_targets)
    row_weight : ndarray of shape (m,)
        Positive: rows of weight 0 are left out.
    offset : ndarray of shape (m,) or None
    """
    X, y, labels, offset = _read_flat(estimator, X, y, reset=False)
    if labels is not None:
        ids, _ = group_rows(labels, len(y))
        if len(ids) > 1:
            raise ValueError(
                f"adapt takes the rows of one task; got {len(ids)} labels in the task column "
                f"{estimator.task_column!r} ({ids[0]!r}, {ids[1]!r}, ...). Use adapt_tasks."
            )
    if sample_weight is None:
        return X, y, np.ones(len(y)), offset
    codes = np.zeros(len(y), dtype=np.intp)
    tasks = Tasks.from_codes(y, codes, row_weights(sample_weight, X))
    rows = slice(None) if tasks.rows is None else tasks.rows
    offset = None if offset is None else offset[rows]
    return take_rows(X, rows), y[rows], tasks.row_weight[rows], offset


def read_rows(estimator, X, y=None, reset=False, finite=True, told=False):
    """Read rows: X as phi takes it, y as float64, and the columns that are no features.

    Classes become targets of 0 and 1, as `targets_of` says; with `reset` they are kept first, as
    the estimator's `classes_`.

    Parameters
    ----------
    estimator : estimator
    X : array-like of shape (n_rows, n_columns)
    y : array-like of shape (n_rows,) or (n_rows, n_targets), default=None
    reset : bool, default=False
        Whether X defines what the estimator expects, or is checked against it.
    finite : bool, default=True
        Whether to check for NaN and infinity; False leaves that to a check by task.
    told : bool, default=False
        Whether rows come with labels of tasks other than in the task column.

    Returns
    -------
    X : array, CSR matrix or frame of shape (n_rows, n_columns)
    y : ndarray of shape (n_rows,) or (n_rows, n_targets), or None
    labels : array of shape (n_rows,) or None
    offset : ndarray of shape (n_rows,) or None
    """
    least = _least_columns(estimator, told, reset)
    _check_table(X, least)
    check = partial(check_array, accept_sparse=("csr", "csc"), estimator=estimator, input_name="X")
    check = partial(check, ensure_min_features=least)
    if not (hasattr(X, "columns") or _is_ready(X, 2)):
        X = check(X, dtype=None, ensure_all_finite=False)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    n_rows = X.shape[0]
    X, labels, offset = split_columns(estimator, X, least)
    offset = read_offset(offset, estimator.offset_column)
    if X.shape[1] == 0:  # of frames without a column some forget their rows, and no check takes any
        X = np.empty((n_rows, 0))
    elif estimator.featurizer is None:
        if not _is_ready(X, 2):
            refuse_dates(X)
            check = partial(check, dtype=np.float64, ensure_all_finite=finite)
            X = as_numbers(X, check, estimator.task_column is None)
        elif finite:
            assert_all_finite(X, estimator_name=type(estimator).__name__, input_name="X")
    X = X.tocsr() if sp.issparse(X) else X
    if y is not None:
        y = _read_y(estimator, y, reset, finite)
        if len(y) != X.shape[0]:
            raise ValueError(f"X has {X.shape[0]} rows but y has {len(y)}; give one target a row.")
    return X, y, labels, offset


def row_weights(sample_weight, X):
    """Weights of rows as float64, or None."""
    if sample_weight is None:
        return None
    refuse_masked(sample_weight, "sample_weight")
    if isinstance(sample_weight, Real):
        check_number("sample_weight", sample_weight)
    elif is_unordered(sample_weight):
        raise TypeError(
            "sample_weight must be a one-dimensional array or list, or a number; got "
            f"{type(sample_weight).__name__}."
        )
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def _refuse_with_list(estimator, y, groups):
    """Raise for whatever a list of tasks makes meaningless."""
    for name, value in (("y", y), ("groups", groups)):
        if value is not None:
            raise ValueError(
                f"{name} must be None when X is a list of (X, y) tuples, which say it all; "
                f"got {type(value).__name__}."
            )
    if estimator.task_column is not None:
        raise ValueError(
            f"task_column={estimator.task_column!r} expects all rows in one table X, with y; got a "
            "list of (X, y) tuples. Pass the table, or set task_column=None."
        )


def _read_task_list(estimator, tasks, sample_weight):
    """Pooled rows and targets, task numbers, labels, and weights of rows and of tasks."""
    pooled = pool(tasks, numeric=not is_classifier(estimator))
    ids = np.arange(len(tasks))
    task_weight = pooled.task_weight
    if sample_weight is not None:
        given = _task_weights(sample_weight, ids)
        task_weight = given if task_weight is None else task_weight * given
    codes = np.repeat(ids, pooled.sizes)
    return pooled.X, pooled.y, codes, ids, (pooled.row_weight, task_weight)


def _task_weights(sample_weight, ids):
    """Weights of tasks as float64."""
    sized = hasattr(sample_weight, "__len__") and not is_unordered(sample_weight)
    if sized and len(sample_weight) != len(ids):
        raise ValueError(
            f"With a list of tasks, sample_weight has one number a task: {len(ids)}; got "
            f"{len(sample_weight)}. Weights of rows go into the tuples, (X, y, weight)."
        )
    return row_weights(sample_weight, ids)


def _read_flat(estimator, X, y, reset, finite=True, told=False):
    """`read_rows` with targets; errors point to the list of tasks."""
    hint = "pass a list of (X, y) tuples, one a task, or all rows with y= and groups=."
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None; {hint}"
        )
    if looks_ragged(X):
        raise ValueError(f"X is a list of tables, one a task, and y is given apart; {hint}")
    return read_rows(estimator, X, y, reset, finite, told)


def _is_ready(values, n_axes):
    """Whether `check_array` would return the values as they are, if they are finite.

    Asked first because `check_array` takes longer than to adapt to a few rows and predict others.
    """
    ready = type(values) is np.ndarray and values.dtype == np.float64
    return ready and values.ndim == n_axes and values.size > 0


def _least_columns(estimator, told, reset):
    """How many features there must be: none where intercepts that differ between tasks will do.

    Rows that all count as one task need a feature; scikit-learn's own checks expect that error.
    """
    column = estimator.task_column is not None
    if not reset:
        return min(1, estimator.n_features_in_ - column - (estimator.offset_column is not None))
    alone = estimator.fit_intercept and estimator.featurizer is None
    return 0 if alone and (told or column) else 1


def _check_table(X, least):
    """Raise for what is no table of rows: a list of tasks, masked entries, nothing."""
    if looks_ragged(X) or is_task_list(X, y=()):
        raise ValueError(
            "X must be one table of rows; got a list of tables or of tasks. A list of (X, y) "
            "tuples goes to fit, score or certify as it is, with y=None."
        )
    refuse_masked(X, "X")
    refuse_lazy(X, "X")
    if hasattr(X, "columns") and (X.shape[0] == 0 or X.shape[1] < least):
        raise ValueError(f"X must have at least one row and one column; got shape {X.shape}.")


def _read_y(estimator, y, reset, finite):
    """Targets as float64: numbers, or 0 and 1 for classes."""
    if not is_classifier(estimator):
        return check_y(y, estimator, finite)
    y = read_classes(y)
    if reset:
        estimator.classes_ = distinct(y, type(estimator).__name__)
    return targets_of(y, estimator.classes_)


def check_y(y, estimator, finite=True):
    """Targets as float64, of one or two axes; numbers in an array of objects are refused."""
    refuse_masked(y, "y")
    if not hasattr(getattr(y, "dtype", None), "kind"):
        y = as_array(y)
    if y.dtype.kind not in "biufc":
        raise ValueError(
            f"Unknown label type: y must be numeric, got dtype {y.dtype}. Convert it first, for "
            "example with np.asarray(y, dtype=float)."
        )
    if not _is_ready(y, 1):
        y = check_array(
            y,
            ensure_2d=False,
            dtype=np.float64,
            ensure_all_finite=finite,
            input_name="y",
            estimator=estimator,
        )
    elif finite:
        assert_all_finite(y, estimator_name=type(estimator).__name__, input_name="y")
    largest = np.abs(y).max(where=np.isfinite(y), initial=0.0)
    if largest > LARGEST_TARGET or 0 < largest < 1 / LARGEST_TARGET:
        raise ValueError(
            f"Targets must be zero or between {1 / LARGEST_TARGET:g} and {LARGEST_TARGET:g} in "
            f"size; the largest is {largest:g}. Rescale y."
        )
    return y
