"""Second moments of each task: all that the restricted likelihood of a mixed model needs of rows.

Of a task with random effects Z, fixed effects X and targets y that is ``Z' [Z X y]``. Where the
columns of Z are the first fixed effects they are stored once, and of the symmetric Z'Z a half: with
d parameters that all differ between tasks ``d (d + 1) / 2 + d`` numbers a task, for one target.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sklearn_maml._parallel import solved_in_order

__all__ = ["Moments", "packed", "places"]

# Fixed effects of some of the tasks are shrunk by this share of a row for each row.
SHRINKAGE = 1e-6

# Tasks are worked on so many numbers at a time: enough that calls of numpy do not count.
CHUNK = 2**18

# Fewer chunks are not worth to be spread over threads.
FEW_CHUNKS = 16


@dataclass(frozen=True, eq=False)
class Moments:
    """What REML needs of n tasks with q random and r fixed effects and t targets; tasks come last.

    Attributes
    ----------
    parts : tuple of (ndarray of shape (k, n_j), ndarray of shape (n_j,))
        Some tasks at a time, their products, `packed`, and how many tasks each stands for.
    n_random : int
        q.
    first_fixed : int
        Which column of ``[Z others y]`` is the first fixed effect: q, or 0 where the columns of Z
        are the first q fixed effects, and the others the rest of them.
    total : ndarray of shape (r + t, r + t)
        [X y]'[X y], summed over tasks.
    n_rows : float
        Number of rows, summed over tasks.
    n_targets : int
        t. Targets share Sigma; each has its own residual variance and fixed effects.
    noise : float, default=None
        The residual variance, where it is known; None profiles it out.
    n_jobs : int, default=None
        Threads that work on chunks; nothing depends on it.
    """

    parts: Any
    n_random: int
    first_fixed: int
    total: np.ndarray
    n_rows: float
    n_targets: int
    noise: float | None = None
    n_jobs: int | None = None
    _held: dict = field(init=False, repr=False, default_factory=dict)

    @property
    def n_fixed(self):
        """r, the number of fixed effects."""
        return len(self.total) - self.n_targets

    @property
    def n_columns(self):
        """How many columns ``[Z others y]`` has."""
        return self.first_fixed + len(self.total)

    @property
    def n_tasks(self):
        """n, of all parts."""
        return sum(len(count) for _, count in self.parts)

    @property
    def dof(self):
        """Residual degrees of freedom, n_rows - r; 1 where rows leave none."""
        return max(self.n_rows - self.n_fixed, 1.0)

    @classmethod
    def joined(cls, several):
        """The moments of all tasks of several `Moments`."""
        return replace(
            several[0],
            parts=sum((one.parts for one in several), ()),
            total=sum(one.total for one in several),
            n_rows=sum(one.n_rows for one in several),
        )

    def shrunk(self):
        """The same with a millionth of a row added for each row, whose targets are 0.

        In fixed effects that are uncorrelated and of unit size: that keeps them determined where
        only some of the tasks are looked at, and lack a column that others have.
        """
        total = self.total.copy()
        fixed = np.arange(self.n_fixed)
        total[fixed, fixed] += SHRINKAGE * self.n_rows
        return replace(self, total=total)

    def back(self, to):
        """From ``[X y]`` to itself, if Z is taken as Z K, for K (q, q): what undoes it in X.

        Returns
        -------
        ndarray of shape (r + t, r + t)
        """
        back = np.eye(len(self.total))
        if not self.first_fixed:
            q = self.n_random
            back[:q, :q] = np.linalg.inv(to)
        return back

    @property
    def _chunk(self):
        """How many tasks are worked on at a time."""
        return max(1, CHUNK // (self.n_random * (self.n_random + self.n_columns)))

    def chunks(self):
        """``Z' [Z others y]`` of shape (q, n_columns, n), and count (n,), some tasks at a time."""
        at = places(self.n_random, self.n_columns)
        for products, count in _rebatched(self.parts, self._chunk):
            yield products[at], count

    def over(self, f, parts):
        """``f(part)`` of parts of these tasks, in order, by as many threads as there are jobs."""
        n_jobs = self.n_jobs if self.n_tasks > FEW_CHUNKS * self._chunk else 1
        return solved_in_order(f, parts, n_jobs)

    def hold(self, i, array):
        """A copy of an array of the i-th chunk, where the last one was.

        A search evaluates the likelihood many times, and memory that is new each time takes as long
        to be had as it takes to compute what is put there.
        """
        if i not in self._held:
            self._held[i] = np.empty_like(array)
        self._held[i][:] = array
        return self._held[i]


def packed(products):
    """Of ``Z' [Z others]``, (n, q, c), what is not there twice, tasks last: (k, n)."""
    n, q, c = products.shape
    kept = np.append(np.ravel_multi_index(np.tril_indices(q), (q, c)), _beside(q, c))
    return np.ascontiguousarray(products.reshape(n, q * c)[:, kept].T)


def _beside(q, c):
    """Where in (q, c), raveled, the columns from the q-th on are."""
    return np.arange(q * c).reshape(q, c)[:, q:].ravel()


def places(q, c):
    """Which of the `packed` numbers each entry of (q, c) is."""
    places = np.empty((q, c), dtype=int)
    row, column = np.tril_indices(q)
    places[row, column] = places[column, row] = np.arange(len(row))
    places[:, q:] = len(row) + np.arange(q * (c - q)).reshape(q, c - q)
    return places


def _rebatched(parts, size):
    """The same parts in batches of about so many tasks."""
    held, n_held = [], 0
    for products, count in parts:
        for start in range(0, len(count), size):
            held.append((products[:, start : start + size], count[start : start + size]))
            n_held += len(held[-1][1])
            if n_held >= size:
                yield _side_by_side(held)
                held, n_held = [], 0
    if held:
        yield _side_by_side(held)


def _side_by_side(held):
    if len(held) == 1:
        return held[0]
    products, count = zip(*held, strict=True)
    return np.concatenate(products, axis=-1), np.concatenate(count)
