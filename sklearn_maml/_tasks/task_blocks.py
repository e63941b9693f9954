"""What stacks of tasks have in common, whatever they are made of: rows, or summaries of rows."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sklearn_maml._tasks.splits import Rows

__all__ = ["Block", "TaskBlocks", "draws_in_ranges"]

# Draws of the same tasks are spread over several blocks beyond this many numbers.
LARGEST_BLOCK = 2**21


class Block(NamedTuple):
    """A stack of tasks, or of episodes of tasks.

    Attributes
    ----------
    support, query : Rows
        One and the same object where every row is both.
    weight : ndarray of shape (n_stacked,)
        p_i; the episodes of a task share its weight.
    owner : ndarray of shape (n_stacked,)
        The number of each entry's task.
    draw : ndarray of shape (n_stacked,)
        The number of each entry's draw.
    """

    support: Rows
    query: Rows
    weight: np.ndarray
    owner: np.ndarray
    draw: np.ndarray


class TaskBlocks(Sequence, metaclass=ABCMeta):
    """All tasks, stacked: ``blocks[i]`` is a `Block`.

    A subclass sets `tasks`, `features` (their width, and whether the last is the intercept's),
    `episodes`, and `_groups`, the numbers of the tasks that are stacked together.

    Attributes
    ----------
    n_query : int
        An upper bound on the number of query rows over all episodes.
    kept : bool
        Whether there is room to keep blocks and what is computed of them, for each row as much as
        an inner loop and a linearisation hold.
    draws_apart : bool
        Whether some task has draws in several blocks.
    """

    def _arrange(self, fits, elements):
        """Set which tasks and draws are in which block; a task has so many numbers."""
        # Many draws of many rows make several blocks of one group of tasks.
        self._parts = [
            (g, draws)
            for g, group in enumerate(self._groups)
            for draws in draws_in_ranges(fits[:, group], elements[group].sum())
        ]
        self.draws_apart = len(self._parts) > len(self._groups)
        self._blocks = {}

    def __len__(self):
        return len(self._parts)

    def __getitem__(self, i):
        if i in self._blocks:
            return self._blocks[i]
        if not 0 <= i < len(self):
            raise IndexError(i)
        block = self._block(i)
        if self._keeps_blocks:
            self._blocks[i] = block
        return block

    def owner(self, i):
        """The numbers of the tasks in block i, without a look at its rows: see `Block.owner`."""
        g, draws = self._parts[i]
        return np.tile(self._groups[g], len(draws))

    def draw(self, i):
        """The numbers of the draws in block i, without a look at its rows: see `Block.draw`."""
        g, draws = self._parts[i]
        return np.repeat(draws, len(self._groups[g]))

    def sample(self, n_tasks, keeps=True):
        """At most that many of the tasks that weigh something, at random, split as they are.

        Nothing of a sample is kept that, with ``keeps=False``, is passed over only once.
        """
        weighty = np.flatnonzero(self.tasks.weight > 0)
        if len(weighty) <= n_tasks:
            return self
        drawn = np.random.default_rng(self.episodes.seed).choice(weighty, n_tasks, replace=False)
        kept = np.zeros(len(self.tasks.weight), dtype=bool)
        kept[drawn] = True
        few = self.only(kept)
        if not keeps:
            few._keeps_stacks = few._keeps_blocks = few.kept = False
        return few

    def lighter(self, work):
        """Fewer draws, then fewer tasks (at least 100), so that rows * d^2 is about `work`."""
        blocks = self
        excess = self.n_query * self.features.width**2 / work
        if excess > 1 and self.episodes.n_episodes > 1:
            n_episodes = max(1, int(self.episodes.n_episodes / excess))
            blocks = self.split(self.episodes.fewer(n_episodes))
            excess = blocks.n_query * self.features.width**2 / work
        if excess > 1:
            blocks = blocks.sample(max(100, int(len(self.tasks.weight) / excess)))
        return blocks

    @property
    def n_rows(self):
        """How many rows each task counts for, shape (n_tasks,)."""
        return self.tasks.n_rows

    @abstractmethod
    def _block(self, i):
        """Block i, made anew."""

    @abstractmethod
    def only(self, kept):
        """Some of the tasks, split as they are; `kept` is a boolean array of shape (n_tasks,)."""

    @abstractmethod
    def split(self, episodes):
        """The same tasks, split otherwise."""

    @abstractmethod
    def unsplit(self):
        """The same tasks with ``support="all"``; they share the rows that are kept."""

    @abstractmethod
    def stacks(self):
        """All rows of the tasks, unsplit, stack by stack.

        Yields
        ------
        rows : Rows
        weight : ndarray of shape (n,)
            Task weights.
        ones : ndarray of shape (n, m)
            What the constant 1 is for these rows.
        """


def draws_in_ranges(fits, n_elements):
    """The draws of a group of tasks in ranges, so that a block of them is not much too large.

    Of the (n_draws, n_tasks) that fit, those that no task has rows enough for are left out.
    """
    draws, step = np.flatnonzero(fits.any(axis=1)), max(1, int(LARGEST_BLOCK // n_elements))
    return [draws[start : start + step] for start in range(0, len(draws), step)]
