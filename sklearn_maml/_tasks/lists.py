"""A list of tasks, ``[(X_t, y_t), ...]``, read: its rows one under the other."""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import column_or_1d

__all__ = [
    "Pooled",
    "as_array",
    "is_missing",
    "is_table",
    "is_task_list",
    "is_unordered",
    "looks_ragged",
    "pool",
    "refuse_lazy",
    "refuse_masked",
    "refuse_mixed",
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


def is_unordered(values):
    """Whether `values` can be no array: text, a mapping, a set, an iterator, a number."""
    if isinstance(values, str | bytes | Mapping | Set) or getattr(values, "ndim", 1) == 0:
        return True
    return not (hasattr(values, "__len__") or hasattr(values, "__array__"))


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
    pooled = _pool_arrays(tasks, numeric)
    return _pool_checked(tasks, numeric) if pooled is None else pooled


def _pool_arrays(tasks, numeric):
    """`pool` for what is common: pairs of numpy arrays that fit together; None for all else.

    Some comprehensions over all tasks take a tenth of the time that looking at each task in turn
    does, which would be as long as a fit. They accept or say nothing: what is wrong with a task
    is found, and said, by `_pool_checked`.
    """
    if set(map(type, tasks)) != {tuple} or set(map(len, tasks)) != {2}:
        return None
    tables, targets = zip(*tasks, strict=True)
    if {*map(type, tables), *map(type, targets)} != {np.ndarray}:  # no subclass: masked, matrix
        return None
    axes = {y.ndim for y in targets}
    if {X.ndim for X in tables} != {2} or axes not in (({1}, {2}) if numeric else ({1},)):
        return None
    if len({X.shape[1] for X in tables}) > 1 or len({y.shape[1:] for y in targets}) > 1:
        return None
    sizes = list(map(len, tables))
    if not all(sizes) or sizes != list(map(len, targets)):
        return None
    kinds = {y.dtype.kind for y in targets}
    if not (kinds <= set("biuf") or (not numeric and kinds in ({"U"}, {"O"}))):
        return None
    return Pooled(_concatenate(tables), np.concatenate(targets), None, None, np.array(sizes))


def _pool_checked(tasks, numeric):
    """`pool` for whatever a list of tasks may hold, task by task."""
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
    refuse_lazy(X, f"Task {i}: X")
    X = X if (hasattr(X, "shape") and hasattr(X, "dtype")) or hasattr(X, "columns") else as_array(X)
    for name, values in (("X", X), ("y", y), ("weight", weight)):
        refuse_masked(values, f"Task {i}: {name}")
    y = as_array(y) if numeric else _labels(i, y)
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
        refuse_mixed(y)
        return column_or_1d(y, warn=True)
    except ValueError as error:
        raise ValueError(f"Task {i}: {error}") from None


def refuse_lazy(X, name):
    """Raise for a table that holds a plan of rows rather than rows, such as a LazyFrame."""
    if hasattr(X, "collect") and not hasattr(X, "__len__"):
        raise TypeError(
            f"{name} is a {type(X).__name__}, which holds no rows yet; pass what its collect() "
            "returns."
        )


def is_missing(label):
    """Whether a label is None, NaN, NaT or pd.NA, or a tuple that holds one."""
    if isinstance(label, tuple):
        return any(map(is_missing, label))
    return label is None or type(label).__name__ in ("NAType", "NaTType") or label != label


def refuse_mixed(labels):
    """Raise for class labels some of which are text: numpy would make text of the others too."""
    objects = isinstance(labels, list | tuple) or getattr(labels, "dtype", None) == np.dtype(object)
    if not objects or is_unordered(labels) or len(set(map(type, labels))) == 1:
        return
    kinds = {
        next((text for text in (str, bytes) if isinstance(label, text)), type(label))
        for label in labels
    }
    if kinds & {str, bytes} and len(kinds) > 1:
        if any(map(is_missing, labels)):
            raise ValueError("y contains None or NaN; every row needs a class.")
        names = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"y mixes labels of types {names}; use labels of one type.")


def as_array(values):
    """`values` as an array; ragged input becomes an array of objects, refused further on."""
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    dtype = None
    column = kind is not None and hasattr(values, "__array__")  # of pandas; not sparse
    if column and not isinstance(values, np.ndarray):
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


def _read_weights(weights, sizes):
    """Row weights and task weights from the third entries of the task tuples."""
    if all(weight is None for weight in weights):
        return None, None
    rows, tasks = [], []
    for i, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
        weight = as_array(1.0 if weight is None else weight)
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
