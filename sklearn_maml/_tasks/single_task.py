"""Tasks that show no differences: meant, or since groups got lost on the way to `fit`."""

import sys

from sklearn_maml._progress import warn_user

__all__ = ["SingleTaskWarning", "warn_of_lost_tasks", "warn_of_single_task"]


class SingleTaskWarning(UserWarning):
    """All rows count as one task where several were probably meant.

    Raised by ``fit`` of `MAMLRegressor` and `MAMLClassifier` where the rule is to be learned from
    rows without task labels, or from tasks of one row each; by any ``fit`` without labels inside
    scikit-learn's cross-validation, which keeps `groups` to itself unless metadata routing is
    switched on; and by ``adapt`` of a model that was fitted without labels. Give the labels by
    ``task_column=``, pass a list of tasks, or switch metadata routing on. To fit one task on
    purpose, say so by ``groups=np.zeros(n_rows)``, or silence the warning.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_maml import SingleTaskWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore", category=SingleTaskWarning)
    """


def warn_of_single_task(what):
    """Issue a `SingleTaskWarning` that names the three remedies."""
    warn_user(
        f"{what} Tell tasks apart in one of three ways: (1) keep the labels in a column of X and "
        "set task_column=; (2) pass a list of (X, y) tuples, one a task; (3) pass groups= to fit, "
        "and around scikit-learn's cross-validation, searches and pipelines switch metadata "
        "routing on (sklearn.config_context(enable_metadata_routing=True)). "
        "If one task is meant, pass groups=np.zeros(n_rows).",
        SingleTaskWarning,
    )


def warn_of_lost_tasks(name, rows, learns):
    """Warn where rows came without labels, or do not show how tasks differ.

    Parameters
    ----------
    name : str
        Of the estimator's class.
    rows : TaskRows
    learns : bool
        Whether the rule is to be learned from the differences of tasks.
    """
    n_rows = len(rows.tasks.y)
    if rows.untold and _called_from("sklearn.model_selection.", "sklearn.feature_selection."):
        warn_of_single_task(
            f"{name} sees all {n_rows} rows as one task: cross-validation passed no groups on to "
            "it."
        )
    elif not learns or rows.tasks.show_differences or _called_from("sklearn.utils.estimator_"):
        return
    elif rows.untold:
        warn_of_single_task(
            f"{name} sees all {n_rows} rows as one task, which does not show how tasks differ: one "
            "model is fitted to them, and adapting it changes nothing."
        )
    elif len(rows.ids) > 1:
        warn_user(
            f"{name} got {len(rows.ids)} tasks of one row each, which do not show how tasks "
            "differ: one model is fitted to all, and adapting it changes nothing. If these rows "
            "are of fewer tasks, pass labels that they share in groups= or task_column=, or a list "
            "of (X, y) tuples.",
            SingleTaskWarning,
        )


def _called_from(*modules):
    """Whether a module whose name begins like one of these is among the callers.

    Cross-validation drops `groups` silently, and only the stack tells: unless metadata routing is
    on, it passes the same X and y as a user who means one task, sets no flag, and a fit cannot know
    what was passed to its callers. Scikit-learn's own checks mean one task. The walk up the stack
    takes some microseconds, and is done only for a fit without any task labels.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(modules):
            return True
        frame = frame.f_back
    return False
