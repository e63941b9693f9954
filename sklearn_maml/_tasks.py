"""From what a user passes to stacks of tasks.

Rows are pooled once (`pool`, `group_rows`), never copied again as a whole: `Tasks` remembers which
rows belong to which task, `Features` computes phi for some rows at a time, and `Blocks` stacks
tasks of about equal size into arrays with a leading task axis, split into support and query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import _safe_indexing, check_array

__all__ = [
    "Block",
    "Blocks",
    "Episodes",
    "Features",
    "Rows",
    "Tasks",
    "check_phi",
    "group_rows",
    "is_task_list",
    "looks_ragged",
    "moments",
    "pool",
    "take_rows",
]

# A block's features fill about 2 MiB: large enough for BLAS, small enough for a core's cache.
BLOCK_ELEMENTS = 2**18
# Blocks are kept between passes over the data only where all of them fit into 64 MiB.
CACHED_ELEMENTS = 2**23


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


def pool(tasks):
    """Put the rows of a list of tasks under one another.

    Parameters
    ----------
    tasks : sequence of (X_t, y_t) or (X_t, y_t, weight_t)
        `X_t` of shape (m_t, n_features), `y_t` of shape (m_t,) or (m_t, n_targets), `weight_t`
        one weight a row, or a number: the weight of the task.

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
    parts = [_check_task(i, task) for i, task in enumerate(tasks)]
    tables, targets, weights = zip(*parts, strict=True)
    sizes = np.array([len(target) for target in targets])
    _check_same(tables, "columns", lambda table: table.shape[1])
    _check_same(targets, "targets", lambda target: target.shape[1:])
    X, y = _concatenate(tables), np.concatenate(targets)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    _check_finite(X, owner, "X")
    _check_finite(y, owner, "y")
    row_weight, task_weight = _read_weights(weights, sizes)
    return Pooled(X, y, row_weight, task_weight, sizes)


def _check_task(i, task):
    """One task's (table, targets, weight or None), as array-likes with a shape."""
    if not isinstance(task, tuple) or len(task) not in (2, 3):
        got = f"a tuple of length {len(task)}" if isinstance(task, tuple) else type(task).__name__
        raise ValueError(f"Task {i}: expected a tuple (X, y) or (X, y, weight); got {got}.")
    X, y, weight = (*task, None)[:3]
    X = X if (hasattr(X, "shape") and hasattr(X, "dtype")) or hasattr(X, "columns") else _array(X)
    y = _array(y)
    if len(X.shape) != 2:
        raise ValueError(f"Task {i}: X must have 2 dimensions (rows, columns); got {len(X.shape)}.")
    if y.ndim not in (1, 2):
        raise ValueError(f"Task {i}: y must have shape (rows,) or (rows, targets); got {y.shape}.")
    if len(y) != X.shape[0]:
        raise ValueError(f"Task {i}: X has {X.shape[0]} rows but y has {len(y)}.")
    if len(y) == 0:
        raise ValueError(f"Task {i} has no rows; leave it out or give it at least one row.")
    if y.dtype.kind not in "biuf":
        raise ValueError(f"Task {i}: y must be numeric; got dtype {y.dtype}.")
    return X, y, weight


def _array(values):
    """`values` as an array; ragged input becomes an array of objects, refused further on."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(len(values), dtype=object)
    return array


def _check_same(parts, what, size):
    """Raise where a task's number of columns or targets is not that of the first task."""
    expected = size(parts[0])
    for i, part in enumerate(parts):
        if size(part) != expected:
            raise ValueError(
                f"Task {i} has {size(part)} {what} but task 0 has {expected}; "
                f"all tasks must have the same {what}."
            )


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

        return pl.concat(tables)
    return np.concatenate(tables)


def _check_finite(values, owner, name):
    """Raise for a float array with NaN or infinity, naming the first task that holds one."""
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return
    # One sum is cheaper than a mask of all values, and as sure: what is not finite stays so.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        what = "NaN" if np.isnan(values[row]).any() else "infinity"
        start = int(np.argmax(owner == owner[row]))
        raise ValueError(
            f"Task {owner[row]}: {name} contains {what} (row {row - start} of that task); "
            "remove or impute such values first."
        )


def _read_weights(weights, sizes):
    """Row weights and task weights from the third entries of the task tuples."""
    if all(weight is None for weight in weights):
        return None, None
    rows, tasks = [], []
    for i, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
        weight = np.asarray(1.0 if weight is None else weight, dtype=float)
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
    if hasattr(groups, "to_numpy"):
        groups = groups.to_numpy()
    if np.ndim(groups) != 1 if isinstance(groups, np.ndarray) else not hasattr(groups, "__len__"):
        raise ValueError(
            f"groups must be one-dimensional, one label a row; got {np.shape(groups)}."
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
        if label is None or type(label).__name__ in ("NAType", "NaTType") or label != label:
            raise _missing_label(row)
        try:
            codes[row] = known.setdefault(label, len(known))
        except TypeError:
            raise TypeError(
                f"groups must hold hashable labels; row {row} has {label!r} "
                f"of type {type(label).__name__}."
            ) from None
    ids = np.empty(len(known), dtype=object)
    ids[:] = list(known)
    return ids, codes


def _missing_label(row):
    return ValueError(
        f"groups must not contain None or NaN; row {row} has no label. "
        "Drop such rows or give them a label of their own."
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
    """

    y: np.ndarray
    row_weight: np.ndarray
    rows: np.ndarray | None
    offsets: np.ndarray
    weight: np.ndarray

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
            If all weights of a task are zero, or all tasks weigh zero.
        """
        n_tasks = int(codes.max()) + 1
        row_weight = np.ones(len(codes)) if row_weight is None else row_weight
        task_weight = np.ones(n_tasks) if task_weight is None else task_weight
        if not task_weight.sum() > 0:
            raise ValueError("All tasks have weight zero; at least one must weigh more.")
        rows = None if (np.diff(codes) >= 0).all() else np.argsort(codes, kind="stable")
        if not (row_weight > 0).all():
            rows = np.arange(len(codes)) if rows is None else rows
            rows = rows[row_weight[rows] > 0]
        sizes = np.bincount(codes if rows is None else codes[rows], minlength=n_tasks)
        if (sizes == 0).any():
            i = int(np.argmin(sizes))
            name = i if names is None else repr(names[i])
            raise ValueError(
                f"Task {name}: all sample weights are zero; leave the task out instead."
            )
        return cls(
            y=y,
            row_weight=row_weight,
            rows=rows,
            offsets=np.concatenate([[0], np.cumsum(sizes)]),
            weight=task_weight / task_weight.sum(),
        )

    @property
    def sizes(self):
        """The tasks' numbers of rows, shape (n_tasks,)."""
        return np.diff(self.offsets)


class Features:
    """phi of some rows at a time, as a dense array, with a column of ones for the intercept.

    Parameters
    ----------
    X : array, sparse matrix or frame of shape (n_rows, n_features_in)
    transform : callable, default=None
        The fitted featurizer's ``transform``; None uses the columns of `X` as they are.
    intercept : bool, default=True
        Whether the last column is constant 1.
    """

    def __init__(self, X, transform=None, intercept=True):
        self.X, self.transform, self.intercept = X, transform, intercept
        self.n_rows = X.shape[0]
        self.n_features = X.shape[1] if transform is None else self._phi(slice(0, 1)).shape[1]
        self.width = self.n_features + bool(intercept)

    def __getitem__(self, rows):
        phi = self._phi(rows)
        if not self.intercept:
            return phi
        out = np.empty((phi.shape[0], self.width))
        out[:, :-1] = phi
        out[:, -1] = 1.0
        return out

    def _phi(self, rows):
        phi = take_rows(self.X, rows)
        if self.transform is not None:
            phi = check_phi(self.transform(phi))
        return phi.toarray() if sp.issparse(phi) else np.asarray(phi)


def take_rows(X, rows):
    """Some rows of an array (a view, for a slice), a CSR matrix or a frame."""
    if hasattr(X, "dtype"):
        return X[rows]
    if isinstance(rows, slice):
        rows = np.arange(*rows.indices(X.shape[0]))
    return _safe_indexing(X, rows)


def check_phi(phi):
    """A featurizer's output as a float64 array or CSR matrix.

    Raises
    ------
    ValueError
        If it is not a finite table of numbers with at least one column.
    """
    return check_array(
        phi, accept_sparse=("csr", "csc"), dtype=np.float64, input_name="featurizer output"
    )


class Rows(NamedTuple):
    """Rows of a stack of tasks: features (..., m, d), targets and weights (..., m).

    The weights of a task sum to 1, or are all 0 where it has no rows; padding has weight 0. With
    several targets, `targets` has one more leading axis, (n_targets, n_stacked, m).
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


class Block(NamedTuple):
    """A stack of tasks (or of episodes of tasks) with their weights p_i, shape (n_stacked,)."""

    support: Rows
    query: Rows
    weight: np.ndarray


@dataclass(frozen=True)
class Episodes:
    """How the rows of a task are split into support and query.

    Attributes
    ----------
    support : "all", int, float or tuple of ints
    split : {"random", "first"}
    n_episodes : int
        Draws per task and number of shots.
    seed : int
        Draws depend on it and on the position of a block, so that each pass sees the same ones.
    """

    support: Any = "all"
    split: str = "random"
    n_episodes: int = 1
    seed: int = 0

    def check(self):
        """Raise for values that are out of range, or that would be ignored."""
        _check_support(self.support)
        if self.split not in ("random", "first"):
            raise ValueError(f"split must be 'random' or 'first'; got {self.split!r}.")
        if isinstance(self.n_episodes, bool) or not isinstance(self.n_episodes, Integral):
            raise TypeError(f"n_episodes must be an int; got {self.n_episodes!r}.")
        if self.n_episodes < 1:
            raise ValueError(f"n_episodes must be at least 1; got {self.n_episodes}.")
        if self.support == "all" and self.split != "random":
            raise ValueError(
                f"split={self.split!r} has no effect with support='all', which uses every row as "
                "support and as query; give support= a number of rows or a fraction."
            )
        if self.n_episodes > 1 and (self.support == "all" or self.split == "first"):
            raise ValueError(
                f"n_episodes={self.n_episodes} would repeat the same split with "
                f"support={self.support!r}, split={self.split!r}; use n_episodes=1."
            )

    def shots(self, sizes):
        """Numbers of support rows, shape (n_draws, n_tasks); -1 where a task is too small.

        Parameters
        ----------
        sizes : ndarray of shape (n_tasks,)
        """
        if isinstance(self.support, Integral | Real):
            shots = np.full((1, len(sizes)), self.support)
            if not isinstance(self.support, Integral):
                nearest = np.rint(self.support * sizes).astype(int)
                shots = np.clip(nearest, 1, np.maximum(sizes - 1, 1))[None]
        else:
            shots = np.repeat(np.array(self.support)[:, None], len(sizes), axis=1)
        return np.repeat(np.where(shots < sizes, shots, -1), self.n_episodes, axis=0)

    def check_sizes(self, sizes, names=None):
        """Raise where a task has too few rows to be split, naming it."""
        if self.support == "all":
            return
        fits = (self.shots(sizes) >= 0).any(axis=0)
        if not fits.all():
            i = int(np.argmin(fits))
            name = i if names is None else repr(names[i])
            raise ValueError(
                f"Task {name} has n_samples={sizes[i]} row(s): too few for "
                f"support={self.support!r}, which must leave at least one row to predict. "
                "Use a smaller support or leave the task out."
            )

    def index(self, sizes, rng):
        """Positions of the support and query rows within each task.

        Parameters
        ----------
        sizes : ndarray of shape (n_tasks,)
        rng : numpy.random.Generator

        Returns
        -------
        support, query : tuples of ndarrays (position, mask) of shape (n_stacked, m)
            n_stacked = n_draws * n_tasks, draws first; the mask is False where padded.
        share : ndarray of shape (n_stacked,)
            The share of its task's weight that each episode carries.
        """
        shots = self.shots(sizes)
        n_draws, width = len(shots), sizes.max()
        fits = shots >= 0
        share = (fits / fits.sum(axis=0)).ravel()
        shots = np.maximum(shots, 0).ravel()[:, None]
        sizes = np.tile(sizes, n_draws)[:, None]
        place = np.arange(width)
        order = np.broadcast_to(place, (len(sizes), width))
        if self.split == "random":
            keys = np.where(place < sizes, rng.random((len(sizes), width)), 2.0)
            order = np.argsort(keys, axis=1)
        support = order[:, : shots.max()]
        n_query = (sizes - shots).max()
        later = np.minimum(shots + np.arange(n_query), width - 1)
        query = np.take_along_axis(order, later, axis=1)
        in_support = np.arange(support.shape[1]) < shots
        in_query = shots + np.arange(n_query) < sizes
        return (support, in_support), (query, in_query), share


def _check_support(support):
    """Raise unless `support` is "all", an int, a fraction or a sequence of ints."""
    hint = (
        "support must be 'all', an int >= 0 (that many rows), a fraction in (0, 1) "
        f"or a list of ints >= 0; got {support!r}."
    )
    if isinstance(support, str):
        if support != "all":
            raise ValueError(hint)
        return
    several = isinstance(support, tuple)
    if several and len(support) == 0:
        raise ValueError(hint)
    for k in support if several else (support,):
        if (
            isinstance(k, bool)
            or not isinstance(k, Real)
            or (several and not isinstance(k, Integral))
        ):
            raise TypeError(hint)
        if k < 0 or (not isinstance(k, Integral) and not 0 < k < 1):
            raise ValueError(hint)


class Blocks(Sequence):
    """All tasks, stacked: ``blocks[i]`` is a `Block`, built anew unless all blocks are small.

    The partition depends on the tasks' sizes only, so sums over blocks are the same, to the bit,
    however the blocks are spread over workers.

    Parameters
    ----------
    tasks : Tasks
    features : Features
    episodes : Episodes
    """

    def __init__(self, tasks, features, episodes):
        self.tasks, self.features, self.episodes = tasks, features, episodes
        self._members = _partition(tasks.sizes, features.width)
        self._cache, self._flat_cache = {}, {}
        n_draws = 1 if episodes.support == "all" else len(episodes.shots(tasks.sizes[:1]))
        self._cached = tasks.offsets[-1] * n_draws * features.width <= CACHED_ELEMENTS

    def __len__(self):
        return len(self._members)

    def __getitem__(self, i):
        if i in self._cache:
            return self._cache[i]
        if not 0 <= i < len(self):
            raise IndexError(i)
        block = self._build(i)
        if self._cached:
            self._cache[i] = block
        return block

    def __getstate__(self):
        return {**self.__dict__, "_cache": {}, "_flat_cache": {}}

    def n_query(self):
        """An upper bound on the number of query rows over all episodes."""
        tasks, episodes = self.tasks, self.episodes
        if episodes.support == "all":
            return int(tasks.offsets[-1])
        shots = episodes.shots(tasks.sizes)
        return int(((tasks.sizes - shots) * (shots >= 0)).sum())

    def pooled(self, i):
        """Features (r, d) of block i's rows, unstacked, and their weights p_i b_ij (r,)."""
        flat, start, sizes = self._flat(i)
        total = np.add.reduceat(flat.weights, start)
        share = self.tasks.weight[self._members[i]] / total
        return flat.features, flat.weights * np.repeat(share, sizes)

    def _flat(self, i):
        """Rows of block i, unstacked; where each of its tasks starts among them, and the sizes."""
        if i in self._flat_cache:
            return self._flat_cache[i]
        rows, start, sizes = self._rows(i)
        flat = Rows(self.features[rows], self.tasks.y[rows].T, self.tasks.row_weight[rows])
        if self._cached:
            self._flat_cache[i] = flat, start, sizes
        return flat, start, sizes

    def _rows(self, i):
        """Row numbers of block i, where each of its tasks starts among them, and the sizes."""
        members, tasks = self._members[i], self.tasks
        sizes = tasks.sizes[members]
        start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        first, last = members[0], members[-1]
        if last - first + 1 == len(members):  # neighbours: their rows are a slice
            rows = slice(int(tasks.offsets[first]), int(tasks.offsets[last + 1]))
        else:
            shift = tasks.offsets[members] - start
            rows = np.repeat(shift, sizes) + np.arange(sizes.sum())
        return (rows if tasks.rows is None else tasks.rows[rows]), start, sizes

    def _build(self, i):
        flat, start, sizes = self._flat(i)
        weight = self.tasks.weight[self._members[i]]
        if self.episodes.support == "all":
            place = np.arange(sizes.max())
            every = _stack(flat, start, np.broadcast_to(place, (len(sizes), len(place))), sizes)
            return Block(every, every, weight)
        rng = np.random.default_rng([self.episodes.seed, i])
        support, query, share = self.episodes.index(sizes, rng)
        start = np.tile(start, len(share) // len(sizes))
        weight = np.tile(weight, len(share) // len(sizes)) * share
        return Block(
            _stack(flat, start, *support),
            _stack(flat, start, *query),
            weight,
        )


def _stack(flat, start, position, mask):
    """Rows gathered into stacks: position (n_stacked, m) within tasks that begin at `start`.

    `mask` of the same shape tells real rows from padding; given as sizes (n_stacked,), the rows
    of each stack are its first ones.
    """
    if mask.ndim == 1:
        if (mask == position.shape[1]).all():  # equal sizes: a view, no copy
            shape = position.shape
            weights = flat.weights.reshape(shape)
            return Rows(
                flat.features.reshape(*shape, -1),
                flat.targets.reshape(*flat.targets.shape[:-1], *shape),
                weights / weights.sum(axis=1, keepdims=True),
            )
        mask = position < mask[:, None]
    index = np.where(mask, start[:, None] + position, 0)
    weights = np.where(mask, flat.weights[index], 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return Rows(
        flat.features[index],
        flat.targets[..., index],
        weights / np.where(total > 0, total, 1.0),
    )


def _partition(sizes, width):
    """Tasks of about equal size, block by block: arrays of task numbers.

    A block has about BLOCK_ELEMENTS numbers, and at least d rows so that d x d sums do not
    dominate; sizes within a block differ by at most a quarter, so that padding stays small.
    """
    order = np.argsort(sizes, kind="stable")
    ordered = sizes[order]
    total = np.concatenate([[0], np.cumsum(ordered)])
    wanted = max(BLOCK_ELEMENTS // width, width)
    members, start = [], 0
    while start < len(order):
        stop = np.searchsorted(total, total[start] + wanted, side="right") - 1
        similar = np.searchsorted(ordered, max(1.25 * ordered[start], ordered[start] + 2), "right")
        stop = max(min(stop, similar), start + 1)
        members.append(np.sort(order[start:stop]))
        start = stop
    return members


def moments(blocks):
    """Mean and standard deviation of each feature over all rows, every task counting p_i.

    Parameters
    ----------
    blocks : Blocks

    Returns
    -------
    mean, deviation : ndarray of shape (d,)
    """
    origin = None
    total = square = 0.0
    for i in range(len(blocks)):
        phi, weight = blocks.pooled(i)
        if origin is None:  # near the mean, so that large offsets do not cancel
            origin = phi.mean(axis=0)
        phi = phi - origin
        total = total + weight @ phi
        square = square + weight @ np.square(phi)
    return origin + total, np.sqrt(np.maximum(square - total**2, 0.0))
