"""A data frame with a column of labels, turned into a list of tasks."""

from collections.abc import Collection, Hashable
from typing import Any

import numpy as np

from sklearn_maml._typing import Array

__all__ = ["tasks_from_frame"]


def tasks_from_frame(
    frame: Any, target: Hashable, group: Hashable, features: Collection[Hashable] | None = None
) -> tuple[list[tuple[Any, Array]], list[Any]]:
    """Turn a DataFrame with a column of group labels into one task a group.

    X stays a DataFrame, so that a featurizer can pick columns by name and encode text.

    Parameters
    ----------
    frame : pandas or polars DataFrame
        The rows of all groups, in any order.
    target : column name
        The column that becomes y.
    group : column name
        The column of group labels, of any hashable type. It is not a feature.
    features : list of column names, default=None
        The columns that become X, in this order. None takes every other column, in the frame's
        order.

    Returns
    -------
    tasks : list of tuples (X, y)
        One for each group, in order of first appearance; the rows of a group keep their order. X is
        a DataFrame of the kind given, of shape (rows, features), y an ndarray of shape (rows,).
    ids : list
        The group labels, in the same order.

    Raises
    ------
    TypeError
        If ``frame`` is not a DataFrame, or ``features`` is one name instead of a list.
    ValueError
        If a column does not exist or is used twice, the frame has no rows, no column is left for X,
        or a group label is missing (NaN, None, NA or NaT).

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_maml.datasets import tasks_from_frame
    >>> frame = pd.DataFrame(
    ...     {"who": ["ann", "bob", "ann"], "day": [0, 0, 1], "time": [3.1, 2.7, 3.4]}
    ... )
    >>> tasks, ids = tasks_from_frame(frame, target="time", group="who")
    >>> ids
    ['ann', 'bob']
    >>> X, y = tasks[0]
    >>> list(X.columns), y.tolist()
    (['day'], [3.1, 3.4])
    """
    features = _frame_features(frame, target, group, features)
    labels = _labels(frame[group], group)
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    X, y = frame[features], np.asarray(frame[target])
    take = X.iloc if hasattr(X, "iloc") else X
    return [(take[members], y[members]) for members in rows.values()], list(rows)


def _frame_features(frame, target, group, features):
    """List the feature columns, after checking that every column exists and has one use."""
    # a Series has no columns, a lazy frame no length
    if not (hasattr(type(frame), "columns") and hasattr(frame, "__len__")):
        raise TypeError(
            f"frame must be a pandas or polars DataFrame; got {type(frame).__name__}. For arrays, "
            "pass X, y and groups to fit instead."
        )
    columns = list(frame.columns)
    for name, column in (("target", target), ("group", group)):
        if not isinstance(column, Hashable):
            raise TypeError(f"{name} must be the name of a column; got {column!r}.")
    if isinstance(features, str):
        raise TypeError(
            f"features must be a list of column names; got {features!r}, write [{features!r}]."
        )
    if not (features is None or isinstance(features, Collection)):
        raise TypeError(f"features must be a list of column names; got {features!r}.")
    if features is None:
        features = [column for column in columns if column not in (target, group)]
    used = [target, group, *features]
    _check_columns(columns, used)
    if not features:
        raise ValueError(f"No column is left for X: the frame has only {columns}; add a feature.")
    if not len(frame):
        raise ValueError("The frame has no rows, so there are no tasks; got 0 rows.")
    return list(features)


def _check_columns(columns, used):
    """Raise ValueError unless each used column is in the frame once and used once."""
    for column in used:
        if columns.count(column) != 1:
            raise ValueError(
                f"Expected one column named {column!r} in the frame, found "
                f"{columns.count(column)}; its columns are {columns}."
            )
        if used.count(column) != 1:
            raise ValueError(
                f"Column {column!r} is used {used.count(column)} times; target, group and each of "
                "the features must be different columns."
            )


def _labels(column, name):
    """Group labels as a list; raise ValueError if one is missing."""
    labels = column.to_list()
    # a null of polars is None, a missing value of pandas is unequal to itself or None or NA
    missing = column.isna() if hasattr(column, "isna") else [x is None or x != x for x in labels]
    rows = np.flatnonzero(np.asarray(missing))
    if rows.size:
        raise ValueError(
            f"Column {name!r} has no group label in {rows.size} row(s), the first at position "
            f"{rows[0]}; remove those rows or give them a group."
        )
    return labels
