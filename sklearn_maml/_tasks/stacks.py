"""Tasks in stacks: which rows belong to which task, and tasks of about equal size stacked.

`Tasks` remembers rows and weights, `Blocks` stacks them, split by `Episodes`, into arrays with a
leading task axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sklearn_maml._tasks.episodes import Episodes

__all__ = ["Block", "Blocks", "Rows", "Tasks", "moments"]


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


# A block's features fill about 2 MiB: large enough for BLAS, small enough for a core's cache.
BLOCK_ELEMENTS = 2**18

# Blocks are kept between passes over the data only where all of them fit into 64 MiB.
CACHED_ELEMENTS = 2**23


class Rows(NamedTuple):
    """Rows of a stack of tasks: features (..., m, d), targets and weights (..., m).

    The weights of a task sum to 1, or are all 0 where it has no rows; padding has weight 0. With
    several targets, `targets` has one more leading axis, (n_targets, n_stacked, m). `size` (...)
    is the number of rows that a task counts for: the sum of its weights before they were scaled.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    size: np.ndarray


class Block(NamedTuple):
    """A stack of tasks (or of episodes of tasks) with their weights p_i, shape (n_stacked,)."""

    support: Rows
    query: Rows
    weight: np.ndarray


class Blocks(Sequence):
    """All tasks, stacked: ``blocks[i]`` is a `Block`, built anew unless all blocks are small.

    The partition depends on the tasks' sizes only, so sums over blocks are the same, to the bit,
    however the blocks are spread over workers.

    Parameters
    ----------
    tasks : Tasks
    features : Features
    episodes : Episodes

    Attributes
    ----------
    cached : bool
        Whether blocks are kept.
    """

    def __init__(self, tasks, features, episodes):
        self.tasks, self.features, self.episodes = tasks, features, episodes
        self._members = _partition(tasks.sizes, features.width)
        self._cache, self._flat_cache = {}, {}
        n_draws = 1 if episodes.support == "all" else len(episodes.shots(tasks.sizes[:1]))
        self.cached = tasks.offsets[-1] * n_draws * features.width <= CACHED_ELEMENTS

    def __len__(self):
        return len(self._members)

    def __getitem__(self, i):
        if i in self._cache:
            return self._cache[i]
        if not 0 <= i < len(self):
            raise IndexError(i)
        block = self._build(i)
        if self.cached:
            self._cache[i] = block
        return block

    def __getstate__(self):
        return {**self.__dict__, "_cache": {}, "_flat_cache": {}}

    def unsplit(self):
        """The same tasks with ``support="all"``."""
        return Blocks(self.tasks, self.features, Episodes())

    def sample(self, n_tasks):
        """At most that many of the tasks that weigh something, at random, split as they are."""
        weighty = np.flatnonzero(self.tasks.weight > 0)
        if len(weighty) <= n_tasks:
            return self
        drawn = np.random.default_rng(self.episodes.seed).choice(weighty, n_tasks, replace=False)
        kept = np.zeros(len(self.tasks.weight), dtype=bool)
        kept[drawn] = True
        return Blocks(self.tasks.only(kept), self.features, self.episodes)

    def lighter(self, work):
        """Fewer draws, then fewer tasks (at least 100), so that rows * d^2 is about `work`."""
        blocks = self
        excess = self.n_query() * self.features.width**2 / work
        if excess > 1 and self.episodes.n_episodes > 1:
            n_episodes = max(1, int(self.episodes.n_episodes / excess))
            episodes = replace(self.episodes, n_episodes=n_episodes)
            blocks = Blocks(self.tasks, self.features, episodes)
            excess = blocks.n_query() * self.features.width**2 / work
        if excess > 1:
            blocks = blocks.sample(max(100, int(len(self.tasks.weight) / excess)))
        return blocks

    def n_query(self):
        """An upper bound on the number of query rows over all episodes."""
        tasks, episodes = self.tasks, self.episodes
        if episodes.support == "all":
            return int(tasks.offsets[-1])
        shots = episodes.shots(tasks.sizes)
        return int(((tasks.sizes - shots) * (shots >= 0)).sum())

    def owner(self, i):
        """The task number of each entry of block i's stack, shape (n_stacked,)."""
        draws = 1 if self.episodes.support == "all" else len(self.episodes.shots(np.ones(1, int)))
        return np.tile(self._members[i], draws)

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
        weights = self.tasks.row_weight[rows]
        flat = Rows(self.features[rows], self.tasks.y[rows].T, weights, weights.sum())
        if self.cached:
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
        offsets = self.tasks.offsets[self._members[i]]
        support, query, share = self.episodes.index(sizes, offsets)
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
            total = weights.sum(axis=1, keepdims=True)
            return Rows(
                flat.features.reshape(*shape, -1),
                flat.targets.reshape(*flat.targets.shape[:-1], *shape),
                weights / total,
                total[:, 0],
            )
        mask = position < mask[:, None]
    index = np.where(mask, start[:, None] + position, 0)
    weights = np.where(mask, flat.weights[index], 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return Rows(
        flat.features[index],
        flat.targets[..., index],
        weights / np.where(total > 0, total, 1.0),
        total[:, 0],
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
            spare = np.empty_like(phi)
        if len(spare) < len(phi):
            spare = np.empty_like(phi)
        centred = np.subtract(phi, origin, out=spare[: len(phi)])  # memory that is used again
        total = total + weight @ centred
        centred *= centred
        square = square + weight @ centred
    return origin + total, np.sqrt(np.maximum(square - total**2, 0.0))
