"""Episodes: how the rows of a task are split into support and query."""

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["Episodes", "random_keys", "read_episodes"]


# More draws of each task than these are a mistake.
MOST_EPISODES = 10**6


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
        Draws depend on it and on a row's position alone: each pass over the data sees the same
        ones, however tasks are stacked.
    lenient : bool
        Whether a task that is too small to be split is predicted without support rows.
    drawn : int or None
        How many draws there were before some were left out: those that stay are drawn as they were.
    """

    support: Any = "all"
    split: str = "random"
    n_episodes: int = 1
    seed: int = 0
    lenient: bool = False
    drawn: int | None = None

    def check(self):
        """Raise for values that are out of range, or that would be ignored."""
        _check_support(self.support)
        if self.split not in ("random", "first"):
            raise ValueError(f"split must be 'random' or 'first'; got {self.split!r}.")
        if isinstance(self.n_episodes, bool) or not isinstance(self.n_episodes, Integral):
            raise TypeError(f"n_episodes must be an int; got {self.n_episodes!r}.")
        if self.n_episodes < 1:
            raise ValueError(f"n_episodes must be at least 1; got {self.n_episodes}.")
        if self.n_episodes > MOST_EPISODES:
            raise ValueError(
                f"n_episodes must be at most {MOST_EPISODES:,}; got {self.n_episodes}."
            )
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

    def adjusted(self, n_splits, n_rows, n_tasks, n_rows_read):
        """As many draws per task, up to 20, as make up `n_splits`; and no task is too small.

        Parameters
        ----------
        n_splits : int
            Wanted for each number of shots, over all tasks.
        n_rows : int
            Read for each number of shots, over all draws: no further draws beyond it, so that
            the cost of tasks with many rows is linear in them.
        n_tasks, n_rows_read : int
            How many there are.

        Returns
        -------
        Episodes
        """
        n_draws = 1
        if self.split == "random":
            n_draws = max(1, min(20, -(-n_splits // n_tasks), n_rows // n_rows_read))
        return replace(self, n_episodes=max(self.n_episodes, n_draws), lenient=True)

    def fewer(self, n_episodes):
        """The first draws of each number of shots, as they were."""
        return replace(self, n_episodes=n_episodes, drawn=self.drawn or self.n_episodes)

    def stream(self, draws):
        """The streams of random numbers that draws take, by their numbers."""
        if self.drawn is None:
            return draws
        return draws // self.n_episodes * self.drawn + draws % self.n_episodes

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
        shots = np.where(shots < sizes, shots, -1)
        if self.lenient:
            shots[0, (shots < 0).all(axis=0)] = 0
        return np.repeat(shots, self.n_episodes, axis=0)

    def check_sizes(self, sizes, names=None):
        """Raise where a task has too few rows to be split, naming it."""
        if self.support == "all":
            return
        fits = (self.shots(sizes) >= 0).any(axis=0)
        if not fits.all():
            i = int(np.argmin(fits))
            name = i if names is None else names[i]
            raise ValueError(
                f"Task {name} has n_samples={sizes[i]}: too few rows for "
                f"support={self.support!r}, which must leave at least one row to predict. "
                "Use a smaller support or leave the task out."
            )

    @property
    def n_shots(self):
        """How many numbers of shots a task is split at."""
        return len(self.support) if isinstance(self.support, tuple) else 1

    @property
    def n_draws(self):
        """How often a task is split: `n_episodes` for each number of shots, one after another."""
        return self.n_shots * self.n_episodes

    def order(self, sizes, first, draws):
        """The order in which each draw takes the rows of each task: support rows come first.

        Parameters
        ----------
        sizes : ndarray of shape (n_tasks,)
        first : ndarray of shape (n_tasks,)
            The position of each task's first row among the rows of all tasks.
        draws : ndarray of int
            Which of the `n_draws`.

        Returns
        -------
        order : ndarray of shape (n_stacked, max(sizes)) or None
            Positions within the task, draws first: n_stacked = len(draws) * n_tasks. Those from
            the task's size on are padding. None where all draws take the rows as they come.
        shots : ndarray of shape (n_stacked,)
            How many of them are support rows; the others are query rows.
        share : ndarray of shape (n_stacked,)
            The share of its task's weight that each episode carries; 0 for a task too small for it.
        """
        shots = self.shots(sizes)
        fits = shots >= 0
        share = (fits / fits.sum(axis=0))[draws].ravel()
        shots = np.maximum(shots[draws], 0).ravel()
        if self.split == "first":
            return None, shots, share
        place, n_draws = np.arange(sizes.max()), len(draws)
        draw = np.repeat(self.stream(draws), len(first))[:, None]
        keys = random_keys(self.seed, draw, np.tile(first, n_draws)[:, None] + place)
        keys[place >= np.tile(sizes, n_draws)[:, None]] = np.inf
        return np.argsort(keys, axis=1), shots, share


def random_keys(seed, draws, positions):
    """Random numbers that belong to a seed, a draw and a position, whatever else is drawn.

    Counter-based: the output function of SplitMix64 (Steele, Lea & Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), applied to a stream for each draw.

    Parameters
    ----------
    seed : int
    draws, positions : ndarrays of int that broadcast

    Returns
    -------
    ndarray of float
        Uniform over 2^53 values.
    """
    streams = np.random.SeedSequence(seed).generate_state(int(draws.max()) + 1, np.uint64)
    z = streams[draws] + np.uint64(0x9E3779B97F4A7C15) * positions.astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(float)


def read_episodes(support, split, n_episodes, random_state):
    """The `Episodes` that an estimator's parameters stand for, checked."""
    if isinstance(support, np.ndarray):
        support = support.tolist()
    if isinstance(support, list | range):
        support = tuple(support)
    seed = check_random_state(random_state).randint(2**31 - 1)
    episodes = Episodes(support, split, n_episodes, seed)
    episodes.check()
    return episodes


def _check_support(support):
    """Raise unless `support` is "all", an int, a fraction or a sequence of ints."""
    hint = (
        "support must be 'all', an int >= 0 (that many rows), a fraction in (0, 1), a list of ints "
        f">= 0 or, for an estimator, 'auto'; got {support!r}."
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
