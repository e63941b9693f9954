"""Folds of tasks, as a search of scikit-learn would make them."""

from collections.abc import Iterable
from numbers import Integral

import numpy as np
from sklearn.model_selection import GroupKFold, check_cv

__all__ = ["LEAVE_ONE_OUT", "check_weights", "task_splits"]

LEAVE_ONE_OUT = "leave-one-task-out"


def task_splits(cv, rows):
    """Folds of tasks, as `GridSearchCV` would make them.

    Parameters
    ----------
    cv : int, "leave-one-task-out", splitter or iterable
    rows : TaskRows

    Returns
    -------
    list of (train, test)
        Boolean arrays of shape (n_tasks,).

    Raises
    ------
    ValueError
        If there are not two tasks or more, or a task is on both sides of a split.
    """
    n_tasks = len(rows.ids)
    if n_tasks < 2:
        raise ValueError(
            f"Cross-validation over tasks needs at least two of them; got {n_tasks}. Pass a list "
            "of (X, y) tuples, or all rows with groups= or task_column=."
        )
    if isinstance(cv, str):
        if cv != LEAVE_ONE_OUT:
            raise ValueError(
                f"cv must be an int, 'leave-one-task-out', a splitter or an iterable; got {cv!r}."
            )
        order = rows.ids.argsort() if rows.named else slice(None)  # that of `LeaveOneGroupOut`
        return [(~task, task) for task in np.eye(n_tasks, dtype=bool)[order]]
    codes = rows.codes if rows.named else np.arange(n_tasks)
    if rows.named and isinstance(cv, Integral):
        cv = GroupKFold(cv)
    elif isinstance(cv, Iterable) and getattr(cv, "ndim", 1):
        cv = list(cv)
        if any(not isinstance(split, tuple | list) or len(split) != 2 for split in cv):
            raise ValueError(f"cv must hold pairs (train, test) of indices; got {cv!r}.")
    splits = []
    given = {"groups": rows.ids[codes]} if rows.named else {}
    for sides in check_cv(cv).split(np.zeros((len(codes), 1)), **given):
        masks = _sides(sides, codes, n_tasks, len(splits))
        torn = masks[0] & masks[1]
        if torn.any():
            raise ValueError(
                f"cv puts rows of task {rows.ids[torn.argmax()]} into both train and test; use a "
                "splitter that keeps groups together, such as GroupKFold."
            )
        splits.append(masks)
    if not splits:
        raise ValueError(f"cv has no splits; got {cv!r}.")
    return splits


def _sides(sides, codes, n_tasks, number):
    """Which tasks are in train and which in test, of one split that cv yields: two masks."""
    masks = []
    for name, side in zip(("train", "test"), sides, strict=True):
        try:
            members = codes[np.asarray(side, dtype=None if len(side) else np.intp)]
        except (IndexError, TypeError, ValueError):
            raise ValueError(
                f"cv: the {name} indices of split {number} must be positions among the "
                f"{len(codes)} that are split; got {side!r}."
            ) from None
        if len(members) == 0:
            raise ValueError(f"cv leaves no task in {name} of split {number}; use another cv.")
        masks.append(np.bincount(members, minlength=n_tasks) > 0)
    return tuple(masks)


def check_weights(splits, weight):
    """Raise where all tasks of a side of a split weigh nothing.

    Parameters
    ----------
    splits : list of (train, test)
        Boolean arrays of shape (n_tasks,).
    weight : ndarray of shape (n_tasks,)
    """
    if weight.all():
        return
    for sides, what in zip(zip(*splits, strict=True), ("training", "test"), strict=True):
        members = np.array(sides)
        empty = np.flatnonzero(members.any(axis=1) & ~members[:, weight > 0].any(axis=1))
        if len(empty):
            raise ValueError(
                f"All {what} tasks of split {empty[0]} weigh nothing; leave tasks of weight 0 out, "
                "or pass another cv."
            )
