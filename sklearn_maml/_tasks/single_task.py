"""All rows as one task: meant, or by mistake, since groups got lost on the way to `fit`."""

import sys

from sklearn_maml._progress import warn_user

__all__ = ["SingleTaskWarning", "in_cross_validation", "warn_of_single_task"]


class SingleTaskWarning(UserWarning):
    """All rows count as one task where several were probably meant.

    Raised by ``fit`` inside scikit-learn's cross-validation, which keeps `groups` to itself unless
    metadata routing is switched on, and by ``adapt`` of a model that was fitted without task
    labels; of `MAMLRegressor` and `MAMLClassifier`. Give the labels by ``task_column=``, pass a
    list of tasks, or switch metadata routing on. To fit one task on purpose, say so by
    ``groups=np.zeros(n_rows)``, or silence the warning:

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


def in_cross_validation():
    """Whether scikit-learn's cross-validation or search is among the callers.

    It is what drops `groups` silently, and only the stack tells: unless metadata routing is on, it
    passes the same X and y as a user who means one task, sets no flag, and a fit cannot know what
    was passed to its callers. The walk up the stack takes some microseconds, and is done only for
    a fit without any task labels.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("sklearn.model_selection.", "sklearn.feature_selection.")):
            return True
        frame = frame.f_back
    return False
