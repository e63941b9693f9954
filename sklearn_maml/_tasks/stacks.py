"""Tasks in stacks: which rows belong to which task, and tasks of about equal size stacked.

`Tasks` remembers rows and weights, `Blocks` stacks them, split by `Episodes`, into arrays with a
leading task axis.
"""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_maml._memory import room
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.splits import Rows, padded, share_rows, split_rows
from sklearn_maml._tasks.task_blocks import Block, TaskBlocks

__all__ = ["Blocks", "Tasks", "count_rows", "partition"]


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
    first : ndarray of shape (n_tasks,)
        The position of each task's first row among the rows of all tasks that there were: by it
        rows are drawn, so that a task is split the same wherever it is looked at.
    """

    y: np.ndarray
    row_weight: np.ndarray
    rows: np.ndarray | None
    offsets: np.ndarray
    weight: np.ndarray
    count: float
    first: np.ndarray

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
        if row_weight is None:  # ones, in no memory
            row_weight = np.broadcast_to(1.0, len(codes))
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
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return cls(
            y=y,
            row_weight=row_weight,
            rows=rows,
            offsets=offsets,
            weight=task_weight / task_weight.sum(),
            count=float(task_weight.sum()),
            first=offsets[:-1],
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
            first=self.first[kept],
        )

    @property
    def sizes(self):
        """The tasks' numbers of rows, shape (n_tasks,)."""
        return np.diff(self.offsets)

    def sizes_of(self, group):
        """The numbers of rows of some tasks, without a pass over all of them."""
        return self.offsets[group + 1] - self.offsets[group]

    @property
    def n_rows(self):
        """How many rows each task counts for: the sums of their weights, shape (n_tasks,)."""
        weight = self.row_weight if self.rows is None else self.row_weight[self.rows]
        return np.add.reduceat(weight, self.offsets[:-1])

    @property
    def show_differences(self):
        """Whether it can be seen how tasks differ: two of them weigh, and some have two rows."""
        weighty = self.weight > 0
        return bool(weighty.sum() > 1 and (self.sizes[weighty] > 1).any())


# A block's features fill about 2 MiB: large enough for BLAS, small enough for a core's cache.
BLOCK_ELEMENTS = 2**18
# A group of so small a share of that is worked on for less time than it takes to call numpy.
FEW_ROWS = 16
# Where a task has this many times as many rows as shots its draws share the query rows.
FEW_SHOTS = 4


class Blocks(TaskBlocks):
    """The rows of all tasks, stacked: ``blocks[i]`` is a `Block`.

    Rows are gathered once and kept where they take at most a quarter of scikit-learn's
    ``working_memory``; else anew in each pass over the data. The partition depends on the tasks'
    sizes and splits only, so sums over blocks are the same, to the bit, however they are spread
    over workers.

    Parameters
    ----------
    tasks : Tasks
    features : Features
    episodes : Episodes
    """

    def __init__(self, tasks, features, episodes, groups=None):
        self.tasks, self.features, self.episodes = tasks, features, episodes
        self.n_query, most_shots, fits = count_rows(tasks, episodes)
        # Large tasks with few shots, each a group by itself: their draws share the query rows.
        few = (FEW_SHOTS * most_shots <= tasks.sizes) & (episodes.split == "random")
        large = few & (episodes.n_draws * tasks.sizes * features.width >= BLOCK_ELEMENTS)
        self._groups = partition(tasks.sizes, features.width, large) if groups is None else groups
        self._arrange(fits, tasks.sizes * features.width)
        self._stacks = {}
        self._shares = np.zeros(len(tasks.sizes), dtype=bool)
        self._shares[[group[0] for group in self._groups if len(group) == 1]] = True
        self._shares &= few
        n_rows, n_targets = int(tasks.offsets[-1]), tasks.y[0].size
        self._keeps_stacks = n_rows * features.width <= room()
        copied = n_rows - int(tasks.sizes[self._shares].sum())
        held = episodes.n_draws * (copied * features.width + n_rows * (n_targets + 1))
        self._keeps_blocks = held <= room()
        # A row has a response to its support rows, and a prediction, slope and weight a target.
        beside = min(int(most_shots.max()), features.width) + 3 * n_targets
        self.kept = held + episodes.n_draws * n_rows * beside <= room()

    def __getstate__(self):
        return {**self.__dict__, "_stacks": {}, "_blocks": {}}

    def only(self, kept):
        """See `TaskBlocks.only`."""
        return Blocks(self.tasks.only(kept), self.features, self.episodes)

    def split(self, episodes):
        """See `TaskBlocks.split`."""
        return Blocks(self.tasks, self.features, episodes)

    def unsplit(self):
        """See `TaskBlocks.unsplit`."""
        other = Blocks(self.tasks, self.features, Episodes(), self._groups)
        other._stacks = self._stacks
        return other

    def stacks(self):
        """See `TaskBlocks.stacks`."""
        for g, group in enumerate(self._groups):
            rows, _ = self._stack(g)
            yield rows, self.tasks.weight[group], np.broadcast_to(1.0, rows.weights.shape)

    def _stack(self, g):
        """All rows of a group of tasks, (n, m, d), as `Rows`; and their weights as given."""
        if g in self._stacks:
            return self._stacks[g]
        rows, sizes = self._rows(self._groups[g])
        parts = self.features[rows], self.tasks.y[rows].T, self.tasks.row_weight[rows]
        features, targets, weights = padded(*parts, sizes)
        size = weights.sum(axis=1)
        stack = Rows(features, targets, weights / size[:, None], size), weights
        if self._keeps_stacks:
            self._stacks[g] = stack
        return stack

    def _rows(self, group):
        """Row numbers of a group of tasks, task after task, and the tasks' sizes."""
        tasks = self.tasks
        sizes = tasks.sizes_of(group)
        first, last = group[0], group[-1]
        if last - first + 1 == len(group):  # neighbours: their rows are a slice
            rows = slice(int(tasks.offsets[first]), int(tasks.offsets[last + 1]))
        else:
            shift = tasks.offsets[group] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
            rows = np.repeat(shift, sizes) + np.arange(sizes.sum())
        return (rows if tasks.rows is None else tasks.rows[rows]), sizes

    def _block(self, i):
        g, draws = self._parts[i]
        group, (stack, weights) = self._groups[g], self._stack(g)
        weight = self.tasks.weight[group]
        if self.episodes.support == "all":
            return Block(stack, stack, weight, group, np.zeros(len(group), dtype=int))
        sizes = self.tasks.sizes_of(group)
        order, shots, share = self.episodes.order(sizes, self.tasks.first[group], draws)
        which = np.tile(np.arange(len(group)), len(draws))
        rows = stack.features, stack.targets, weights
        if self._shares[group[0]]:
            support, query = share_rows(*rows, order, shots)
        else:
            support, query = split_rows(*rows, which, order, shots, sizes[which])
        return Block(support, query, weight[which] * share, group[which], self.draw(i))


def count_rows(tasks, episodes):
    """The number of query rows over all episodes, each task's most support rows, which fit."""
    if episodes.support == "all":
        return int(tasks.offsets[-1]), tasks.sizes, np.ones((1, len(tasks.sizes)), dtype=bool)
    shots = episodes.shots(tasks.sizes)
    fits = shots >= 0
    return int(((tasks.sizes - shots) * fits).sum()), shots.max(axis=0), fits


def partition(sizes, width, alone):
    """Tasks of about equal size, group by group: arrays of task numbers.

    A group has about BLOCK_ELEMENTS numbers, and at least d rows so that d x d sums do not
    dominate; sizes within a group differ by at most a quarter, so that padding stays small, or
    up to twofold where rows are few. Those that are to be `alone`, a mask, are groups of one.
    """
    order = np.argsort(sizes, kind="stable")
    single, order = order[alone[order]], order[~alone[order]]
    ordered = sizes[order]
    total = np.concatenate([[0], np.cumsum(ordered)])
    wanted = max(BLOCK_ELEMENTS // width, width)
    groups, start = [], 0
    while start < len(order):
        stop = np.searchsorted(total, total[start] + wanted, side="right") - 1
        near = int(max(1.25 * ordered[start], ordered[start] + 2))  # else all are made floats first
        similar = np.searchsorted(ordered, near, "right")
        few = np.searchsorted(total, total[start] + wanted // FEW_ROWS, side="right") - 1
        alike = np.searchsorted(ordered, 2 * ordered[start], "right")
        stop = max(min(stop, max(similar, min(few, alike))), start + 1)
        groups.append(np.sort(order[start:stop]))
        start = stop
    return groups + [np.array([i]) for i in single]
