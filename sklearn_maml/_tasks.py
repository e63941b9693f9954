"""What a user passes, read: a list of (X, y), or rows with group labels.

Rows are pooled once and never copied again as a whole: `Tasks` remembers which rows belong to
which task and what they weigh.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import column_or_1d

__all__ = [
    "Tasks",
    "check_finite",
    "group_rows",
    "is_task_list",
    "looks_ragged",
    "pool",
    "refuse_masked",
]


def is_task_list(X, y=None):
    """Whether `X` has the form of a list of tasks, ``[(X_t, y_t), ...]``, rather than of rows."""
    if not isinstance(X, list | tuple):
        return False
    if len(X) == 0:
        return y is None
    return isinstance(X[0], tuple) and (y is None or (len(X[0]) > 0 and is_table(X[0][0])))


def is_table(values):
    """Whether `values` has rows and columns, as an array, matrix, frame or list of lists."""
    nested = isinstance(values, list | tuple) and len(values) > 0
    nested = nested and isinstance(values[0], list | tuple | np.ndarray)
    return nested or getattr(values, "ndim", 1) == 2 or hasattr(values, "columns")


def looks_ragged(X):
    """Whether `X` is a list of tables: the first of two parallel lists of tasks."""
    return isinstance(X, list | tuple) and len(X) > 0 and is_table(X[0])


class Pooled(NamedTuple):
    """The rows of a list of tasks, one under the other."""

    X: Any
    y: np.ndarray
    row_weight: np.ndarray | None
    task_weight: np.ndarray | None
    sizes: np.ndarray


def pool(tasks, numeric=True):
    """Put the rows of a list of tasks under one another.

    Parameters
    ----------
    tasks : sequence of (X_t, y_t) or (X_t, y_t, weight_t)
        `X_t` of shape (m_t, n_features), `y_t` of shape (m_t,) or (m_t, n_targets), `weight_t`
        one weight a row, or a number: the weight of the task.
    numeric : bool, default=True
        Whether targets must be numbers, which class labels need not be.

    Returns
    -------
    Pooled

    Raises
    ------
    ValueError
        Naming the task, what was got and what was expected.
    """
    if len(tasks) == 0:
        raise ValueError("Got an empty list of tasks; at least one (X, y) tuple is required.")
    parts = [_check_task(i, task, numeric) for i, task in enumerate(tasks)]
    tables, targets, weights = zip(*parts, strict=True)
    sizes = np.array([len(target) for target in targets])
    _check_same(tables, "columns", lambda table: f"{table.shape[1]} columns")
    _check_same(tables, "kind of X", _kind)
    _check_same(tables, "columns in the same order", _column_names)
    _check_same(targets, "targets", lambda y: f"y of shape ({', '.join(_shape_of_y(y))})")
    # Else numpy would make text of numbers, or the other way round.
    _check_same(targets, "kind of y", _kind_of_y)
    X, y = _concatenate(tables), np.concatenate(targets)
    row_weight, task_weight = _read_weights(weights, sizes)
    return Pooled(X, y, row_weight, task_weight, sizes)


def _check_task(i, task, numeric):
    """One task's (table, targets, weight or None), as array-likes with a shape."""
    if not isinstance(task, tuple) or len(task) not in (2, 3):
        got = f"a tuple of length {len(task)}" if isinstance(task, tuple) else type(task).__name__
        raise ValueError(f"Task {i}: expected a tuple (X, y) or (X, y, weight); got {got}.")
    X, y, weight = (*task, None)[:3]
    X = X if (hasattr(X, "shape") and hasattr(X, "dtype")) or hasattr(X, "columns") else _array(X)
    for name, values in (("X", X), ("y", y), ("weight", weight)):
        refuse_masked(values, f"Task {i}: {name}")
    y = _array(y) if numeric else _labels(i, y)
    if len(X.shape) != 2:
        raise ValueError(f"Task {i}: X must have 2 dimensions (rows, columns); got {len(X.shape)}.")
    if y.ndim not in (1, 2):
        raise ValueError(f"Task {i}: y must have shape (rows,) or (rows, targets); got {y.shape}.")
    if len(y) != X.shape[0]:
        raise ValueError(f"Task {i}: X has {X.shape[0]} rows but y has {len(y)}.")
    if len(y) == 0:
        raise ValueError(f"Task {i} has no rows; leave it out or give it at least one row.")
    if numeric and y.dtype.kind not in "biuf":
        raise ValueError(f"Task {i}: y must be numeric; got dtype {y.dtype}.")
    return X, y, weight


def _labels(i, y):
    """Class labels of task i as a one-dimensional array."""
    try:
        return column_or_1d(y, warn=True)
    except ValueError as error:
        raise ValueError(f"Task {i}: {error}") from None


def _array(values):
    """`values` as an array; ragged input becomes an array of objects, refused further on."""
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    dtype = None
    if kind is not None and not isinstance(values, np.ndarray):  # a column of pandas
        dtype = float if kind in "biuf" else object
    try:
        return np.asarray(values, dtype=dtype)
    except ValueError:
        return np.empty(len(values), dtype=object)


def refuse_masked(values, name):
    """Raise for a numpy masked array that hides entries: they would be used as they are."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(
            f"{name} is a masked array with masked entries; fill them in or leave their rows out."
        )


def _check_same(parts, what, describe):
    """Raise where a description of a task's part is not that of the first task's."""
    expected = describe(parts[0])
    for i, part in enumerate(parts):
        got = describe(part)
        if got != expected:
            raise ValueError(
                f"Task {i} has {got} but task 0 has {expected}; "
                f"all tasks must have the same {what}."
            )


def _kind(table):
    """What has to be stacked in one way: an array, a sparse matrix, or a frame of one library."""
    if sp.issparse(table):
        return "a sparse matrix"
    if not hasattr(table, "columns"):
        return "an array"
    return "a pandas DataFrame" if hasattr(table, "iloc") else "a polars DataFrame"


def _column_names(table):
    return f"the columns {list(table.columns)}" if hasattr(table, "columns") else "no names"


def _kind_of_y(y):
    return "numbers in y" if y.dtype.kind in "biuf" else "labels in y that are no numbers"


def _shape_of_y(y):
    return ("rows", *map(str, y.shape[1:]))


def _concatenate(tables):
    """Tables of one kind (arrays, sparse matrices, pandas or polars frames), stacked."""
    if len(tables) == 1:
        return tables[0]
    if sp.issparse(tables[0]):
        return sp.vstack(tables, format="csr")
    if hasattr(tables[0], "columns"):
        if hasattr(tables[0], "iloc"):
            import pandas as pd

            return pd.concat(tables, ignore_index=True)
        import polars as pl

        return pl.concat(tables, how="vertical_relaxed")
    return np.concatenate(tables)


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


def _read_weights(weights, sizes):
    """Row weights and task weights from the third entries of the task tuples."""
    if all(weight is None for weight in weights):
        return None, None
    rows, tasks = [], []
    for i, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
        weight = _array(1.0 if weight is None else weight)
        if weight.dtype.kind not in "biuf":
            raise ValueError(
                f"Task {i}: weight must be a number or one number a row; got dtype {weight.dtype}."
            )
        if weight.ndim > 1 or (weight.ndim == 1 and len(weight) != size):
            raise ValueError(
                f"Task {i}: weight must be a number (the task's weight) or have shape ({size},), "
                f"one weight a row; got shape {weight.shape}."
            )
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError(f"Task {i}: weights must be finite and not negative; got {weight}.")
        rows.append(np.broadcast_to(weight if weight.ndim else 1.0, size))
        tasks.append(1.0 if weight.ndim else float(weight))
    return np.concatenate(rows), np.array(tasks)


def group_rows(groups, n_rows):
    """Number the tasks that row labels name, in the order in which they first appear.

    Parameters
    ----------
    groups : array-like of shape (n_rows,)
        One hashable label a row, in any order.
    n_rows : int

    Returns
    -------
    ids : ndarray of shape (n_tasks,)
        The labels; of dtype object unless they came as a plain array.
    codes : ndarray of shape (n_rows,)
        For each row the position of its label in `ids`.

    Raises
    ------
    ValueError
        If there is not one label a row, or a label is missing (None, NaN, NaT).
    TypeError
        If a label is not hashable.
    """
    refuse_masked(groups, "groups")
    if hasattr(groups, "to_numpy"):
        groups = groups.to_numpy()
    unordered = isinstance(groups, str | bytes | Mapping | Set) or not hasattr(groups, "__len__")
    if unordered or getattr(groups, "ndim", 1) != 1:
        got = f"shape {groups.shape}" if hasattr(groups, "shape") else type(groups).__name__
        raise ValueError(
            f"groups must be a one-dimensional array or list, one label a row; got {got}."
        )
    if len(groups) != n_rows:
        raise ValueError(f"groups has {len(groups)} labels but X has {n_rows} rows.")
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "biufSUmM":
        missing = np.isnat(groups) if groups.dtype.kind in "mM" else groups != groups
        if missing.any():
            raise _missing_label(int(np.argmax(missing)))
        labels, first, codes = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return labels[order], np.argsort(order)[codes]
    return _number_labels(groups)


def _number_labels(groups):
    """`group_rows` for labels of any hashable type."""
    known, codes = {}, np.empty(len(groups), dtype=np.intp)
    for row, label in enumerate(groups):
        try:
            code = known.get(label)
        except TypeError:
            raise TypeError(
                f"groups must hold hashable labels; row {row} has {label!r} "
                f"of type {type(label).__name__}."
            ) from None
        if code is None:
            if _is_missing(label):
                raise _missing_label(row)
            code = known[label] = len(known)
        codes[row] = code
    ids = np.empty(len(known), dtype=object)
    ids[:] = list(known)
    return ids, codes


def _is_missing(label):
    """Whether a label is None, NaN, NaT or pd.NA, or a tuple that holds one."""
    if isinstance(label, tuple):
        return any(map(_is_missing, label))
    return label is None or type(label).__name__ in ("NAType", "NaTType") or label != label


def _missing_label(row):
    return ValueError(
        f"groups must not contain None or NaN; row {row} has no label. "
        "Drop such rows or give them a label of their own."
    )


def _check_range(weight):
    """Raise for weights whose sums or quotients would leave the range of float64."""
    low, high = weight.min(where=weight > 0, initial=1.0), weight.max(initial=1.0)
    if low < 1e-100 or high > 1e100:
        raise ValueError(
            f"Weights must be zero or between 1e-100 and 1e100; got {low if low < 1e-100 else high}"
            ". Only their ratios matter: divide all of them by the same number."
        )


@dataclass(frozen=True, eq=False)
class Tasks:
    """Which rows belong to which task, and what rows and tasks weigh.

    Attributes
    ----------
    y : ndarray of shape (n_rows,) or (n_rows, n_targets)
    row_weight : ndarray of shape (n_rows,)
        Non-negative; only ratios within a task matter.
    rows : ndarray of shape (n_rows,) or None
        Row numbers sorted by task; None where the rows are sorted as they are.
    offsets : ndarray of shape (n_tasks + 1,)
        Task i has the rows ``rows[offsets[i]:offsets[i + 1]]``.
    weight : ndarray of shape (n_tasks,)
        Task weights p_i; they sum to 1.
    count : float
        How many tasks they count for: the sum of their weights before they were scaled.
    """

    y: np.ndarray
    row_weight: np.ndarray
    rows: np.ndarray | None
    offsets: np.ndarray
    weight: np.ndarray
    count: float

    @classmethod
    def from_codes(cls, y, codes, row_weight=None, task_weight=None, names=None):
        """Build from one task number a row; rows of weight 0 are left out.

        Parameters
        ----------
        y : ndarray of shape (n_rows,) or (n_rows, n_targets)
        codes : ndarray of shape (n_rows,)
            Task numbers 0, ..., n_tasks - 1.
        row_weight : ndarray of shape (n_rows,), default=None
            None is a weight of 1 a row.
        task_weight : ndarray of shape (n_tasks,), default=None
            None is a weight of 1 a task.
        names : sequence, default=None
            What errors call the tasks; their numbers by default.

        Raises
        ------
        ValueError
            If all weights of a task are zero, all tasks weigh zero, or sums of weights would
            over- or underflow.
        """
        n_tasks = int(codes.max()) + 1
        row_weight = np.ones(len(codes)) if row_weight is None else row_weight
        task_weight = np.ones(n_tasks) if task_weight is None else task_weight
        for weight in (row_weight, task_weight):
            _check_range(weight)
        if not task_weight.any():
            raise ValueError("All tasks have weight zero; at least one must weigh more.")
        rows = None if (np.diff(codes) >= 0).all() else np.argsort(codes, kind="stable")
        if not (row_weight > 0).all():
            rows = np.arange(len(codes)) if rows is None else rows
            rows = rows[row_weight[rows] > 0]
        sizes = np.bincount(codes if rows is None else codes[rows], minlength=n_tasks)
        if (sizes == 0).any():
            i = int(np.argmin(sizes))
            name = i if names is None else names[i]
            raise ValueError(
                f"Task {name}: all sample weights are zero; leave the task out instead."
            )
        return cls(
            y=y,
            row_weight=row_weight,
            rows=rows,
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            weight=task_weight / task_weight.sum(),
            count=float(task_weight.sum()),
        )

    def only(self, kept):
        """Some of the tasks; `kept` is a boolean array of shape (n_tasks,)."""
        sizes, weight = self.sizes[kept], self.weight[kept]
        rows = np.arange(self.offsets[-1]) if self.rows is None else self.rows
        return replace(
            self,
            rows=rows[np.repeat(kept, self.sizes)],
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            weight=weight / weight.sum(),
            count=self.count * weight.sum(),
        )

    @property
    def sizes(self):
        """The tasks' numbers of rows, shape (n_tasks,)."""
        return np.diff(self.offsets)
