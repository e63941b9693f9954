"""Labels that say which task a row belongs to: given apart, or in a column of X."""

from numbers import Integral, Number

import numpy as np
import scipy.sparse as sp
from sklearn.utils import _safe_indexing

from sklearn_maml._cached import cached_property
from sklearn_maml._progress import warn_user
from sklearn_maml._tasks.lists import is_missing, is_unordered, refuse_masked

__all__ = [
    "TaskIndex",
    "feature_names",
    "group_rows",
    "one_source",
    "read_labels",
    "split_columns",
]


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
    if is_unordered(groups) or not hasattr(groups, "__len__") or getattr(groups, "ndim", 1) != 1:
        got = f"shape {groups.shape}" if hasattr(groups, "shape") else type(groups).__name__
        raise ValueError(
            f"groups must be a one-dimensional array or list, one label a row; got {got}."
        )
    if len(groups) != n_rows:
        raise ValueError(f"groups has {len(groups)} labels but X has {n_rows} rows.")
    if not isinstance(groups, np.ndarray):
        return _number_labels(groups)
    groups = np.asarray(groups)  # of no subclass
    # Rows mostly come task by task; then there is next to nothing to sort or to look up.
    starts = _starts_of_runs(groups)
    ids, codes = _number_runs(groups[starts], starts)
    return ids, np.repeat(codes, np.diff(starts, append=n_rows))


def _starts_of_runs(groups):
    """Where a label is not that of the row before: the first rows of runs of equal labels."""
    try:
        changes = np.not_equal(groups[1:], groups[:-1])
    except Exception:  # labels that do not compare, such as pd.NA: their own methods decide
        return np.arange(len(groups))
    return np.flatnonzero(np.concatenate([[True], changes]))


def _number_runs(labels, rows):
    """`group_rows` for the labels of runs, which begin in these rows."""
    if labels.dtype.kind not in "biufmM":
        # A dictionary is several times as fast as to sort text; objects may have no order.
        text = labels.dtype.kind in "SU"
        ids, codes = _number_labels(labels.tolist() if text else list(labels), rows)
        return (ids.astype(labels.dtype) if text else ids), codes
    missing = labels != labels  # NaN and NaT
    if missing.any():
        raise _missing_label(rows[np.argmax(missing)])
    ids, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return ids[order], np.argsort(order)[codes]


def _number_labels(labels, rows=None):
    """`group_rows` for labels of any hashable type; `rows` says in which rows they stand."""
    rows = range(len(labels)) if rows is None else rows
    try:
        known = dict.fromkeys(labels)
    except TypeError:
        i, label = next((i, label) for i, label in enumerate(labels) if not _is_hashable(label))
        raise TypeError(
            f"groups must hold hashable labels; row {rows[i]} has {label!r} "
            f"of type {type(label).__name__}."
        ) from None
    if any(map(is_missing, known)):
        raise _missing_label(rows[next(i for i, label in enumerate(labels) if is_missing(label))])
    codes = {label: code for code, label in enumerate(known)}
    ids = np.empty(len(known), dtype=object)
    ids[:] = list(known)
    return ids, np.fromiter(map(codes.__getitem__, labels), dtype=np.intp, count=len(labels))


def _is_hashable(label):
    try:
        hash(label)
    except TypeError:
        return False
    return True


def _missing_label(row):
    return ValueError(
        f"groups must not contain None or NaN; row {row} has no label. "
        "Drop such rows or give them a label of their own."
    )


def read_labels(estimator, labels, groups, n_rows):
    """Labels of rows from the task column or from `groups`, numbered; None without either.

    Returns
    -------
    (ids, codes) or None
        As from `group_rows`.
    """
    labels = one_source(estimator, labels, groups)
    return None if labels is None else group_rows(labels, n_rows)


class TaskIndex:
    """Known tasks: where each label is among theirs.

    Parameters
    ----------
    ids : ndarray of shape (n_tasks,)
        Their labels, as from `group_rows`.

    Attributes
    ----------
    at : dict of label to int
    """

    def __init__(self, ids=()):
        self.ids = np.asarray(ids)

    @cached_property
    def at(self):
        """Of a million tasks it takes as much memory as their rows: made when it is asked for."""
        return _numbered(self.ids)

    def positions(self, ids, on_unknown):
        """Where each of the labels `ids` is; -1 for one of no known task.

        Labels of which no type is known are most probably the known ones in another form, such as
        2 and "2": they lead to a warning. Numbers of two float types are compared in the narrower.

        Parameters
        ----------
        ids : ndarray of shape (n,)
        on_unknown : {"meta", "raise"}

        Returns
        -------
        ndarray of shape (n,)

        Raises
        ------
        KeyError
            For an unknown label, if `on_unknown` is "raise".
        """
        at, asked = self.at, ids
        common = _common_type(self.ids, ids)
        if common is not None:
            at, asked = _numbered(self.ids.astype(common)), ids.astype(common)
        positions = np.array([at.get(label, -1) for label in _plain(asked)], dtype=np.intp)
        unknown = positions < 0
        if on_unknown == "raise" and unknown.any():
            labels = [label for label, is_new in zip(ids.tolist(), unknown, strict=True) if is_new]
            shown = ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")
            raise KeyError(
                f"{len(labels)} task(s) not seen before: {shown}. Adapt to some of their rows by "
                "adapt or adapt_tasks, or set on_unknown_task='meta' to predict with the "
                "meta-parameters."
            )
        if unknown.all() and not _types(ids) & _types(self.ids):
            got, known = (" or ".join(sorted(_types(labels))) for labels in (ids, self.ids))
            warn_user(
                f"None of these {len(ids)} task(s) is known: their labels are of type {got}, those "
                f"of known tasks of type {known}. The meta-parameters predict all of their rows; "
                "pass labels of the same type for each task's own.",
                UserWarning,
            )
        return positions


def _numbered(ids):
    return {label: i for i, label in enumerate(_plain(ids))}


def _plain(ids):
    """Labels as Python's own objects, which are hashed fast; dates stay as they are."""
    return ids.tolist() if ids.dtype.kind in "biufSU" else ids


def _common_type(known, asked):
    """The type in which labels of two types are to be compared; None if as they are."""
    kinds = {known.dtype.kind, asked.dtype.kind}
    if known.dtype == asked.dtype or len(kinds) > 1:
        return None
    if kinds == {"f"}:
        narrow = min(known.dtype, asked.dtype, key=lambda dtype: dtype.itemsize)
        return narrow if len(np.unique(known.astype(narrow))) == len(known) else None
    return np.promote_types(known.dtype, asked.dtype) if kinds <= {"m", "M"} else None


def _types(ids):
    """Names of the labels' types; numbers, which may be equal whatever their types, are one."""
    numbers = Number | np.bool_
    kinds = {numbers if isinstance(label, numbers) else type(label) for label in ids}
    return {"number" if kind is numbers else kind.__name__.rstrip("_") for kind in kinds}


def feature_names(estimator):
    """The column names of the fit of an estimator, without the columns that are no features."""
    names = estimator.feature_names_in_
    return np.delete(names, list(_special_columns(estimator, names, len(names)).values()))


def one_source(estimator, labels, groups):
    """The labels, from the task column or from `groups` but not from both."""
    if labels is not None and groups is not None:
        raise ValueError(
            f"groups must be None with task_column={estimator.task_column!r}, which holds the "
            f"labels already; got {type(groups).__name__}."
        )
    return groups if labels is None else labels


# Parameters that name a column of X which is no feature.
SPECIAL = ("task_column", "offset_column")


def split_columns(estimator, X, least):
    """X without its columns that are no features, and these columns.

    Parameters
    ----------
    estimator : estimator
    X : array, sparse matrix or frame of shape (n_rows, n_columns)
    least : int
        How many features there must be at least.

    Returns
    -------
    X : array, sparse matrix or frame of shape (n_rows, n_features)
    labels, offset : array of shape (n_rows,) or None
        The task column and the offset column, as they are.
    """
    if estimator.task_column is None and estimator.offset_column is None:
        return X, None, None
    special = _special_columns(estimator, getattr(X, "columns", None), X.shape[1])
    if X.shape[1] - len(special) < least:
        given = " and ".join(
            f"the {name.replace('_', ' ')} {getattr(estimator, name)!r}" for name in special
        )
        raise ValueError(f"X has no column but {given}; add a feature.")
    X = X.tocsc() if sp.issparse(X) else X
    columns = [_column(X, special[name]) if name in special else None for name in SPECIAL]
    others = [at for at in range(X.shape[1]) if at not in special.values()]
    return _safe_indexing(X, others, axis=1), *columns


def _column(X, at):
    """One column of a table."""
    if sp.issparse(X):
        return X[:, [at]].toarray().ravel()
    return _safe_indexing(X, at, axis=1) if hasattr(X, "columns") else X[:, at]


def _special_columns(estimator, names, n_columns):
    """The positions of the columns that are no features, by parameter."""
    given = [name for name in SPECIAL if getattr(estimator, name) is not None]
    at = {name: _position(estimator, name, names, n_columns) for name in given}
    if len(set(at.values())) < len(at):
        raise ValueError(
            f"task_column={estimator.task_column!r} and offset_column="
            f"{estimator.offset_column!r} are the same column of X; labels are no offsets."
        )
    return at


def _renamed(parameter, column, names):
    """Advice where a ColumnTransformer has put a prefix before a column's name."""
    for name in names:
        if str(name).endswith(f"__{column}"):
            return (
                f" A ColumnTransformer puts prefixes before names: set {parameter}={name!r}, or "
                "verbose_feature_names_out=False there."
            )
    return ""


def _position(estimator, parameter, names, n_columns):
    """The position of a column, by its name or position, among those of X, which may have names."""
    column = getattr(estimator, parameter)
    if isinstance(column, str):
        names = list(getattr(estimator, "feature_names_in_", ()) if names is None else names)
        if column in names:
            return names.index(column)
        has = f"which has {names}." if names else "which has no column names; give a position."
        raise ValueError(
            f"{parameter}={column!r} is not a column of X, "
            f"{has}{_renamed(parameter, column, names)}"
        )
    if isinstance(column, bool) or not isinstance(column, Integral):
        raise TypeError(f"{parameter} must be a column's name or position; got {column!r}.")
    if not -n_columns <= column < n_columns:
        raise ValueError(f"{parameter}={column} is out of range: X has {n_columns} columns.")
    return int(column) % n_columns
