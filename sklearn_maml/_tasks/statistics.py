"""Statistics of tasks that add up: all that a fit with the squared loss needs of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_maml._storage import pack, unpack
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.summaries import Roots, Summaries, SummaryBlocks
from sklearn_maml._typing import Array

__all__ = ["Settings", "TaskStatistics", "joined_labels"]


@dataclass(frozen=True)
class Settings:
    """What statistics depend on beside the tasks: parts that differ in it do not add up.

    Attributes
    ----------
    support, split, n_episodes, lenient
        As in `Episodes`.
    fit_intercept : bool
    featurizer : str or None
        A hash of the fitted featurizer.
    task_column, offset_column : str, int or None
    n_features_in : int
    feature_names_in : tuple of str or None
    n_targets : int
        0 where targets have one axis.
    named : bool
        Whether tasks have labels.
    """

    support: Any
    split: str
    n_episodes: int
    lenient: bool
    fit_intercept: bool
    featurizer: str | None
    task_column: Any
    offset_column: Any
    n_features_in: int
    feature_names_in: tuple | None
    n_targets: int
    named: bool

    def check_same(self, other):
        """Raise where another part was made otherwise, naming the settings."""
        differ = [
            f"{part.name} ({getattr(self, part.name)!r} and {getattr(other, part.name)!r})"
            for part in fields(self)
            if getattr(self, part.name) != getattr(other, part.name)
        ]
        if differ:
            raise ValueError(
                f"These task statistics do not belong together: they differ in {', '.join(differ)}."
                " Make all parts with the same settings; a featurizer that is fitted goes into "
                "each as FrozenEstimator."
            )


@dataclass(frozen=True, eq=False)
class TaskStatistics:
    """What a fit with the squared loss needs of tasks, in place of their rows; it adds up.

    `task_statistics` makes them, ``a + b`` joins those of different tasks, and
    ``MAMLRegressor.from_statistics`` fits a model to them, as to the rows. They do not depend on
    the adaptation rule or the penalty: one set of statistics serves to try several.

    Of each task they hold the triangular root of the second moments of its features and targets,
    and of the support rows and the query rows of each draw: at most ``(d + t + 1)^2`` numbers each,
    with d features and t targets, however many rows the task has, and no more than the rows in it
    would take. So they grow with the number of tasks and of draws, not with that of rows.

    **Sums are not privacy.** The root of one row is that row, as is that of the support of a draw
    with one shot; roots of few rows give them away. Who may not see the rows should not see these.
    ``support="all"`` has no draws: then it takes a task of few rows to give rows away.

    Attributes
    ----------
    summaries : Summaries
        The numbers.
    task_ids : ndarray of shape (n_tasks,)
        Labels; positions, for tasks without.
    settings : Settings
        What the parts of a sum have to have in common.
    episodes : Episodes
        How the rows of a task were split.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor, task_statistics
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=60, random_state=0)
    >>> model = MAMLRegressor(random_state=0)
    >>> parts = [task_statistics(model, tasks[:20]), task_statistics(model, tasks[20:])]
    >>> total = parts[0] + parts[1]
    >>> total
    <TaskStatistics: 60 tasks, 1200 rows>
    >>> MAMLRegressor.from_statistics(total, random_state=0).n_tasks_
    60
    """

    summaries: Summaries
    task_ids: Array
    settings: Settings
    episodes: Episodes

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """The sum of several at once, which takes less time than to add one after another.

        Parameters
        ----------
        parts : sequence of TaskStatistics

        Returns
        -------
        TaskStatistics

        Raises
        ------
        ValueError
            If they were made with different settings, or have a task in common.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("joined needs at least one TaskStatistics; got none.")
        first = parts[0]
        for part in parts[1:]:
            first.settings.check_same(part.settings)
        ids = np.arange(sum(part.n_tasks for part in parts))
        if first.settings.named:
            ids = joined_labels([part.task_ids for part in parts])
        summaries = Summaries.joined([part.summaries for part in parts])
        return replace(first, summaries=summaries, task_ids=ids)

    @property
    def n_tasks(self) -> int:
        """How many tasks there are."""
        return len(self.task_ids)

    @property
    def n_rows(self) -> int:
        """How many rows they had."""
        return int(self.summaries.sizes.sum())

    @property
    def nbytes(self) -> int:
        """How many bytes the roots take."""
        sets = (self.summaries.whole, *self.summaries.support, *self.summaries.query)
        return sum(roots.rows.nbytes for roots in sets)

    @property
    def blocks(self) -> SummaryBlocks:
        """The tasks, stacked, for a meta-objective."""
        settings = self.settings
        return SummaryBlocks(
            self.summaries, self.episodes, settings.n_targets, settings.fit_intercept
        )

    def __add__(self, other: "TaskStatistics") -> "TaskStatistics":
        """The statistics of the tasks of both, which must have none in common."""
        if not isinstance(other, TaskStatistics):
            return NotImplemented
        return TaskStatistics.joined([self, other])

    def __radd__(self, other: int) -> "TaskStatistics":
        """For ``sum(parts)``, which begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __repr__(self):
        return f"<TaskStatistics: {self.n_tasks} tasks, {self.n_rows} rows>"

    def to_dict(self) -> dict[str, Array]:
        """The same as plain arrays, one of them the bytes of a JSON text; for ``numpy.savez``.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        TypeError
            If labels of tasks are neither text nor numbers.
        """
        return pack(self, PARTS)

    @classmethod
    def from_dict(cls, arrays: Mapping[str, ArrayLike]) -> Self:
        """What `to_dict` was made of; nothing in it is run.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            As from `to_dict`, or ``numpy.load(path, allow_pickle=False)``.

        Returns
        -------
        TaskStatistics

        Raises
        ------
        ValueError
            If something is missing, or is not as `to_dict` writes it.
        """
        try:
            found = unpack(arrays, PARTS)
            _check(found)
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"These are no TaskStatistics: {error}.") from None
        return found


PARTS = {cls.__name__: cls for cls in (Episodes, Roots, Settings, Summaries, TaskStatistics)}


def joined_labels(parts):
    """Labels of all parts, in order; raises where one is in several."""
    ids = _concatenated(parts)
    labels = ids.tolist()
    if len(set(labels)) < len(labels):
        seen = set()
        again = next(k for k, label in enumerate(labels) if label in seen or seen.add(label))
        label = str(ids[again]) if ids.dtype.kind == "M" else repr(labels[again])
        raise ValueError(
            f"Task {label} was seen before: the rows of a task cannot be spread over several "
            "calls or parts. Pass each task as a whole; where different tasks share a label, make "
            "labels unique, for example by a prefix."
        )
    if ids.dtype == object and len(set(map(type, labels))) > 1:
        _refuse_twins(parts)
    return ids


def _concatenated(parts):
    """The labels in one array: of objects, where another would change them."""
    kinds = {part.dtype.kind for part in parts}
    if kinds <= set("iu") or (len(kinds) == 1 and kinds <= set("USfbM")):
        ids = np.concatenate(parts)
        if ids.dtype.kind in kinds:  # int64 and uint64 would become floats
            return ids
    ids = np.empty(sum(len(part) for part in parts), dtype=object)
    # Of dates in nanoseconds `tolist` makes integers.
    ids[:] = [
        label for part in parts for label in (part if part.dtype.kind == "M" else part.tolist())
    ]
    return ids


def _refuse_twins(parts):
    """Raise where labels of two parts read the same, and are of different types: 1 and "1"."""
    seen = {}
    for part in parts:
        texts = [(str(label), label) for label in part.tolist()]
        for text, label in texts:
            if text in seen and seen[text] != label:
                raise ValueError(
                    f"Task {label!r} reads like task {seen[text]!r} of another call or part, whose "
                    "label is of another type. Make all labels text, or all numbers."
                )
        seen.update(texts)


def _check(found):
    """Raise where the parts of statistics do not fit together."""
    if not isinstance(found, TaskStatistics):
        raise ValueError(f"they hold a {type(found).__name__}")
    summaries, settings, episodes = found.summaries, found.settings, found.episodes
    episodes.check()
    n, n_draws = found.n_tasks, 0 if episodes.support == "all" else episodes.n_draws
    if not len(summaries.support) == len(summaries.query) == n_draws:
        raise ValueError(f"there must be {n_draws} draws")
    sets = (summaries.whole, *summaries.support, *summaries.query)
    width = summaries.whole.rows.shape[1]
    special = (settings.task_column is not None) + (settings.offset_column is not None)
    n_columns, n_targets = settings.n_features_in - special, settings.n_targets or 1
    known = n_columns + settings.fit_intercept + n_targets
    if n_columns < 1 or (width != known if settings.featurizer is None else width <= n_targets):
        raise ValueError(f"roots have {width} columns for {n_columns} features")
    for roots in sets:
        counts, size = np.asarray(roots.counts), np.asarray(roots.size)
        fits = counts.shape == size.shape == (n,) and counts.dtype.kind in "iu"
        fits = fits and (counts >= 0).all() and (counts <= width).all() and (size >= 0).all()
        if not fits or roots.rows.shape != (counts.sum(), width) or roots.rows.dtype != float:
            raise ValueError(f"roots do not fit {n} tasks and {width} columns")
    if not (summaries.sizes.shape == summaries.weight.shape == (n,) and n > 0):
        raise ValueError(f"sizes and weights are not of {n} tasks")
    if (summaries.sizes < 1).any() or (summaries.whole.counts < 1).any():
        raise ValueError("a task has no rows")
    if (summaries.weight < 0).any() or not summaries.weight.any():
        raise ValueError("tasks weigh nothing, or less")
