"""What a regressor has that is fitted in parts: to streams, and to sums of others' tasks."""

from typing import Any, Self

from sklearn.utils.validation import check_is_fitted

from sklearn_maml._estimators.streaming import from_statistics, go_on, merged
from sklearn_maml._tasks.statistics import TaskStatistics
from sklearn_maml._typing import PerRow, Tasks

__all__ = ["FittedInParts"]


class FittedInParts:
    """The methods of `MAMLRegressor` by which tasks need not be at hand at the same time."""

    def partial_fit(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Self:
        """Fit to more tasks; those of earlier calls stay in, without their rows.

        With the squared loss, any number of calls gives the model that one `fit` on all tasks
        gives, to rounding, whether the rule is learned or not: each call adds to `statistics_`,
        and fits to all of them. Where many calls follow one another, it takes less time to add up
        what `task_statistics` gives, and to fit once by `from_statistics`. ``support="auto"`` is
        1, 2, 3, 5 and 10 shots, each drawn `n_episodes` times: the number that `fit` chooses from
        the number of tasks cannot be known before all are there (it is 1 for 1,000 or more).

        With another loss, the first call is a `fit`, and later ones take stochastic steps over the
        tasks that they are given, an epoch or what ``solver=SGD(...)`` says, by the rule that the
        first one learned; parameters of known tasks stay as they were when these were seen.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`. Each task as a whole: its rows cannot be spread over several calls.
            Rows without labels are one task.

        Returns
        -------
        self : MAMLRegressor

        Raises
        ------
        ValueError
            If the data are not as described, or not as those of the first call, a task was seen
            in an earlier one, or a parameter was set that the first call settled: `loss`, how tasks
            are read and split, and for steps the rule. The model is then as it was before the call.

        Notes
        -----
        The featurizer is fitted in the first call, and stays as it is; pass a fitted one as
        ``FrozenEstimator``. What grows is `statistics_`: numbers for each task, however many its
        rows. With the squared loss `fit` keeps none: after it, `partial_fit` warns and begins anew.
        """
        go_on(self, X, y, groups, sample_weight)
        return self

    @classmethod
    def from_statistics(cls, statistics: TaskStatistics, **parameters: Any) -> Self:
        """A model fitted to statistics of tasks, without their rows.

        Parameters
        ----------
        statistics : TaskStatistics
            What `task_statistics` gave, or a sum of such.
        **parameters
            Those of the model: any rule, penalty and solver; how tasks are read and split must be
            as in the statistics. A featurizer has to be fitted, as ``FrozenEstimator``.

        Returns
        -------
        MAMLRegressor
            Fitted; `partial_fit` goes on from there.

        Raises
        ------
        ValueError
            Naming the settings in which model and statistics differ.
        """
        return from_statistics(cls(**parameters), statistics)

    def merge(self, *others: Self | TaskStatistics) -> Self:
        """One model of the tasks of several, as if it had been fitted to all of them.

        Parameters
        ----------
        *others : MAMLRegressor or TaskStatistics
            Models by `partial_fit`, `from_statistics` or `merge`, or statistics. No task may be in
            two of them; tasks without labels are taken for different ones.

        Returns
        -------
        MAMLRegressor
            A new one, with the parameters of this model, which stays as it is.

        Raises
        ------
        ValueError
            If one keeps no statistics, was made with other settings, or shares a task.
        """
        check_is_fitted(self)
        return merged(self, others)
