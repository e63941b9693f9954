"""Tasks without their rows: what the squared loss needs of them, and stacks that stand for rows.

For a square all that counts of rows F with targets y and weights W is ``[F y 1]' W [F y 1]``. Its
triangular root R, by a QR decomposition of the rows, is as good as they are: ``R'R`` is that
matrix, and no digit is lost to squares. R has at most d + t + 1 rows, however many the task has.
Its rows, as if they were rows of data, give the same risks, gradients and adapted parameters, to
rounding, with every rule that depends on support rows by their second moments alone.

A split is a fact of its rows. So for each draw the support rows and the query rows are summarised
apart, beside all rows of the task.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sklearn_maml._memory import room
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.splits import Rows
from sklearn_maml._tasks.stacks import Tasks, count_rows, partition
from sklearn_maml._tasks.task_blocks import Block, TaskBlocks

__all__ = ["Roots", "Summaries", "SummaryBlocks", "summarise"]


class Columns(NamedTuple):
    """How many columns phi has, and whether the last of them is that of the intercept.

    As of `Features`, but that nothing is sparse any more.
    """

    width: int
    intercept: bool
    sparse: bool = False


@dataclass(frozen=True, eq=False)
class Roots:
    """Triangular roots of the moments of n sets of rows, one for each task.

    Attributes
    ----------
    rows : ndarray of shape (n_roots, d + t + 1)
        Task after task; ``R'R`` is [F y 1]'[F y 1], every row weighing its share of the set's.
        Without the last column where the intercept's has the ones.
    counts : ndarray of shape (n,)
        How many of them each task has.
    size : ndarray of shape (n,)
        The number of rows that each set counts for.
    """

    rows: np.ndarray
    counts: np.ndarray
    size: np.ndarray

    @classmethod
    def joined(cls, parts):
        """The sets of several `Roots`, one after another."""
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("rows", "counts", "size")
            )
        )

    def only(self, kept):
        """Some of the sets; `kept` is a boolean array of shape (n,)."""
        return Roots(self.rows[np.repeat(kept, self.counts)], self.counts[kept], self.size[kept])

    def stacked(self, group, n_rows):
        """Roots of some sets as (n, n_rows, c), padded with zeros, and which rows are real."""
        place = np.arange(n_rows)
        real = place < self.counts[group][:, None]
        start = (np.cumsum(self.counts) - self.counts)[group]
        index = np.where(real, start[:, None] + place, 0)
        if not len(self.rows):
            return np.zeros((*index.shape, self.rows.shape[1])), real
        return np.where(real[..., None], self.rows[index], 0.0), real


@dataclass(frozen=True, eq=False)
class Summaries:
    """What the squared loss needs of n tasks, split by `Episodes`: numbers, and no row.

    Attributes
    ----------
    whole : Roots
        Of all rows of each task.
    support, query : tuple of Roots
        Of each draw; of size 0 for a task that is too small for it. Empty with ``support="all"``.
    sizes : ndarray of shape (n,)
        Numbers of rows.
    weight : ndarray of shape (n,)
        Of tasks, as given.
    """

    whole: Roots
    support: tuple
    query: tuple
    sizes: np.ndarray
    weight: np.ndarray

    @classmethod
    def joined(cls, parts):
        """The tasks of several `Summaries` with the same episodes, one after another."""

        def of_draws(name):
            draws = zip(*(getattr(part, name) for part in parts), strict=True)
            return tuple(Roots.joined(draw) for draw in draws)

        return cls(
            whole=Roots.joined([part.whole for part in parts]),
            support=of_draws("support"),
            query=of_draws("query"),
            sizes=np.concatenate([part.sizes for part in parts]),
            weight=np.concatenate([part.weight for part in parts]),
        )

    def only(self, kept):
        """Some of the tasks; `kept` is a boolean array of shape (n,)."""
        return Summaries(
            self.whole.only(kept),
            tuple(roots.only(kept) for roots in self.support),
            tuple(roots.only(kept) for roots in self.query),
            self.sizes[kept],
            self.weight[kept],
        )

    def draws(self, numbers):
        """The same tasks with some of the draws."""
        support, query = ([side[i] for i in numbers] for side in (self.support, self.query))
        return replace(self, support=tuple(support), query=tuple(query))


def summarise(blocks):
    """The `Summaries` of tasks whose rows are at hand, in one pass over them.

    Parameters
    ----------
    blocks : Blocks

    Returns
    -------
    Summaries
    """
    tasks, intercept, whole = blocks.tasks, blocks.features.intercept, blocks.unsplit()
    n_draws = 0 if blocks.episodes.support == "all" else blocks.episodes.n_draws
    sides = {"support": [[] for _ in range(n_draws)], "query": [[] for _ in range(n_draws)]}
    for i in range(len(blocks) if n_draws else 0):
        block = blocks[i]
        for name, found in sides.items():
            roots, counts, size = _roots(getattr(block, name), intercept, block.weight > 0)
            for draw in np.unique(block.draw):
                of = block.draw == draw
                found[draw].append((block.owner[of], roots[of], counts[of], size[of]))
    all_rows = [(whole.owner(i), *_roots(whole[i].support, intercept)) for i in range(len(whole))]
    width = blocks.features.width + tasks.y[0].size + (not intercept)
    ordered = [
        tuple(_in_order(parts, len(tasks.sizes), width) for parts in found)
        for found in ([all_rows], sides["support"], sides["query"])
    ]
    return Summaries(ordered[0][0], *ordered[1:], tasks.sizes, tasks.weight * tasks.count)


def _roots(rows, intercept, real=True):
    """Roots (n, k, c) of a stack of sets of rows, how many of each are no padding, and sizes."""
    weights = rows.weights * np.reshape(real, (-1, 1))
    targets = rows.targets if rows.targets.ndim == 3 else rows.targets[None]
    targets = np.moveaxis(targets, 0, -1)
    columns = [rows.features, targets]
    columns += [] if intercept else [np.ones((*weights.shape, 1))]
    both = np.sqrt(weights)[..., None] * np.concatenate(columns, axis=-1)
    n_rows = (weights > 0).sum(axis=1)
    if (np.diff(weights > 0, axis=1) & (weights[:, 1:] > 0)).any():  # padding comes last
        order = np.argsort(weights == 0, axis=1, kind="stable")
        both = np.take_along_axis(both, order[..., None], axis=1)
    roots = np.linalg.qr(both, mode="r") if both.shape[1] else both
    return roots, np.minimum(n_rows, roots.shape[1]), rows.size * (n_rows > 0)


def _in_order(parts, n_tasks, width):
    """`Roots` of all tasks, in their order, from (owner, roots, counts, size) of some at a time."""
    counts, size = np.zeros(n_tasks, dtype=np.intp), np.zeros(n_tasks)
    for owner, _, own, its_size in parts:
        counts[owner], size[owner] = own, its_size
    start, rows = np.cumsum(counts) - counts, np.empty((counts.sum(), width))
    for owner, roots, own, _ in parts:
        real = np.arange(roots.shape[1]) < own[:, None]
        place = start[owner][:, None] + np.arange(roots.shape[1])
        rows[place[real]] = roots[real]
    return Roots(rows, counts, size)


class SummaryBlocks(TaskBlocks):
    """Summaries of tasks, stacked: a `TaskBlocks` in which roots stand for rows.

    Parameters
    ----------
    summaries : Summaries
    episodes : Episodes
        By which the tasks were split.
    n_targets : int
        0 where targets have one axis.
    intercept : bool
        Whether the last feature is the intercept's.
    """

    def __init__(self, summaries, episodes, n_targets, intercept):
        n_columns = summaries.whole.rows.shape[1] - (n_targets or 1) - (not intercept)
        self.summaries, self.episodes = summaries, episodes
        self.n_targets, self.features = n_targets, Columns(n_columns, intercept)
        self.tasks = _tasks_of(summaries, n_targets)
        self.n_query, _, fits = count_rows(self.tasks, episodes)
        counts = summaries.whole.counts
        alone = np.zeros(len(counts), dtype=bool)
        self._groups = partition(counts, n_columns, alone)
        self._arrange(fits, counts * n_columns)
        # Roots have slopes, weights and a response as rows do; see `Blocks`.
        held = 2 * episodes.n_draws * counts.sum() * (2 * n_columns + 3 * max(n_targets, 1))
        self._keeps_blocks = self.kept = bool(held <= room())

    def __getstate__(self):
        return {**self.__dict__, "_blocks": {}}

    @property
    def n_rows(self):
        """See `TaskBlocks.n_rows`."""
        return self.summaries.whole.size

    def only(self, kept):
        """See `TaskBlocks.only`."""
        return self._with(self.summaries.only(kept), self.episodes)

    def split(self, episodes):
        """See `TaskBlocks.split`: by fewer draws, which those that are left out do not change."""
        drawn = np.arange(episodes.n_draws)
        place = drawn // episodes.n_episodes * self.episodes.n_episodes
        return self._with(self.summaries.draws(place + drawn % episodes.n_episodes), episodes)

    def unsplit(self):
        """See `TaskBlocks.unsplit`."""
        return self._with(replace(self.summaries, support=(), query=()), Episodes())

    def stacks(self):
        """See `TaskBlocks.stacks`."""
        for group in self._groups:
            rows, ones = self._rows([self.summaries.whole], group)
            yield rows, self.tasks.weight[group], ones

    def _with(self, summaries, episodes):
        return SummaryBlocks(summaries, episodes, self.n_targets, self.features.intercept)

    def _block(self, i):
        g, draws = self._parts[i]
        group, owner, draw = self._groups[g], self.owner(i), self.draw(i)
        weight = self.tasks.weight[owner]
        if self.episodes.support == "all":
            rows, _ = self._rows([self.summaries.whole], group)
            return Block(rows, rows, weight, owner, draw)
        fits = self.episodes.shots(self.tasks.sizes_of(group)) >= 0
        share = (fits / fits.sum(axis=0))[draws].ravel()
        support, query = (
            self._rows([side[k] for k in draws], group)[0]
            for side in (self.summaries.support, self.summaries.query)
        )
        return Block(support, query, weight * share, owner, draw)

    def _rows(self, sets, group):
        """Roots of a group of tasks as `Rows`, of several draws one after another; and the ones."""
        n_rows = max(int(roots.counts[group].max()) for roots in sets)
        stacks = [roots.stacked(group, n_rows) for roots in sets]
        rows, real = (np.concatenate(part) for part in zip(*stacks, strict=True))
        count = np.maximum(real.sum(axis=1), 1.0)[:, None]
        rows *= np.sqrt(count)[..., None]  # so that each has the same weight, and all weigh 1
        d, t = self.features.width, self.n_targets or 1
        targets = np.moveaxis(rows[..., d : d + t], -1, 0)
        targets = np.ascontiguousarray(targets if self.n_targets else targets[0])
        size = np.concatenate([roots.size[group] for roots in sets])
        ones = rows[..., -1] if not self.features.intercept else rows[..., d - 1]
        return Rows(np.ascontiguousarray(rows[..., :d]), targets, real / count, size), ones


def _tasks_of(summaries, n_targets):
    """`Tasks` without rows."""
    offsets = np.concatenate([[0], np.cumsum(summaries.sizes)])
    weight, nothing = summaries.weight, np.zeros((0, n_targets) if n_targets else 0)
    share, count = weight / weight.sum(), float(weight.sum())
    return Tasks(nothing, nothing, None, offsets, share, count, offsets[:-1])
