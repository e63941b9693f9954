"""From tasks to stacks: features computed some rows at a time, split into support and query.

`Features` computes phi, `Episodes` splits the rows of a task, and `Blocks` stacks tasks of about
equal size into arrays with a leading task axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import _safe_indexing, check_array, check_random_state

__all__ = [
    "Block",
    "Blocks",
    "Episodes",
    "Features",
    "Rows",
    "check_phi",
    "moments",
    "read_episodes",
    "take_rows",
]

# A block's features fill about 2 MiB: large enough for BLAS, small enough for a core's cache.
BLOCK_ELEMENTS = 2**18
# Blocks are kept between passes over the data only where all of them fit into 64 MiB.
CACHED_ELEMENTS = 2**23
# Features beyond this are refused: the squares of their products would overflow float64.
LARGEST_FEATURE = 1e70


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
        if not np.vdot(phi, phi) < LARGEST_FEATURE**2:  # cheaper than to look for the largest
            raise ValueError(
                f"Features must be at most {LARGEST_FEATURE:g} in size; got "
                f"{np.abs(phi).max():g}. Rescale the columns of X."
            )
        if not self.intercept:
            return phi
        out = np.empty((phi.shape[0], self.width))
        out[:, :-1] = phi
        out[:, -1] = 1.0
        return out

    def _phi(self, rows):
        phi = take_rows(self.X, rows)
        if self.transform is not None:
            n_rows = phi.shape[0]
            phi = check_phi(self.transform(phi))
            if phi.shape[0] != n_rows:
                raise ValueError(
                    f"The featurizer must return one row a row of X; it made {phi.shape[0]} rows "
                    f"of {n_rows}."
                )
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
    """

    support: Any = "all"
    split: str = "random"
    n_episodes: int = 1
    seed: int = 0
    lenient: bool = False

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

    def adjusted(self, n_splits, n_tasks):
        """As many draws per task, up to 20, as make up `n_splits`; and no task is too small.

        Parameters
        ----------
        n_splits : int
            Wanted for each number of shots, over all tasks.
        n_tasks : int

        Returns
        -------
        Episodes
        """
        n_draws = 1 if self.split == "first" else min(20, -(-n_splits // n_tasks))
        return replace(self, n_episodes=max(self.n_episodes, n_draws), lenient=True)

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

    def index(self, sizes, offsets):
        """Positions of the support and query rows within each task.

        Parameters
        ----------
        sizes : ndarray of shape (n_tasks,)
        offsets : ndarray of shape (n_tasks,)
            The position of each task's first row among the rows of all tasks.

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
            draws = np.repeat(np.arange(n_draws), len(offsets))[:, None]
            keys = random_keys(self.seed, draws, np.tile(offsets, n_draws)[:, None] + place)
            order = np.argsort(np.where(place < sizes, keys, np.inf), axis=1)
        support = order[:, : shots.max()]
        n_query = (sizes - shots).max()
        later = np.minimum(shots + np.arange(n_query), width - 1)
        query = np.take_along_axis(order, later, axis=1)
        in_support = np.arange(support.shape[1]) < shots
        in_query = shots + np.arange(n_query) < sizes
        return (support, in_support), (query, in_query), share


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
        f">= 0 or, for an estimator that is no search, 'auto'; got {support!r}."
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
