"""What a user is told on the way: progress, callbacks, warnings, and one error for all overflow."""

import logging
import sys
import warnings
from contextlib import contextmanager
from functools import wraps

import numpy as np

__all__ = [
    "CallbackSupportMixin",
    "check_overflow",
    "ended",
    "refusing_overflow",
    "report",
    "started",
    "warn_user",
    "with_callbacks",
]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # pragma: no cover (before scikit-learn 1.9)

    class CallbackSupportMixin:
        """Stands in for the mixin of scikit-learn 1.9; without effect."""

    def with_callbacks(method):
        """Stands in for the decorator of scikit-learn 1.9: one call deeper, without effect."""

        @wraps(method)
        def called(*args, **kwargs):
            return method(*args, **kwargs)

        return called


LOGGER = logging.getLogger("sklearn_maml")


def report(message, verbose):
    """Log a message to the logger "sklearn_maml": at level INFO if `verbose`, else DEBUG.

    Where nobody has configured logging, `verbose` prints it.
    """
    LOGGER.log(logging.INFO if verbose else logging.DEBUG, message)
    if verbose and not (LOGGER.isEnabledFor(logging.INFO) and LOGGER.hasHandlers()):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
        handler.emit(LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, message, (), None))


def started(estimator, X, y):
    """Tell callbacks that a fit begins; None where there are none to be told.

    Returns
    -------
    CallbackContext or None
    """
    begin = getattr(estimator, "_init_callback_context", None)
    return begin and begin().call_on_fit_task_begin(estimator=estimator, X=X, y=y)


def ended(estimator, context, X, y):
    """Tell callbacks that a fit has ended; `context` is what `started` returned."""
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator, X=X, y=y, reconstruction_attributes={})


# Frames that are no place to point a user to: this package, and the decorator of `fit` that
# scikit-learn 1.9 puts between it and its caller.
BETWEEN = ("sklearn_maml.", "sklearn.callback.")


def warn_user(message, category):
    """Warn at the first line outside of this package, however deep inside the warning arises.

    Python shows a warning once a line of code, and filters it by the module of that line: both
    would go wrong with a line of the package. (Python 3.12 has ``skip_file_prefixes`` for this.)
    """
    frame, level = sys._getframe(1), 2  # level 1 is this function itself
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(BETWEEN):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def refusing_overflow():
    """Turn what overflow leads to into one error; numpy's warnings come before that, and less."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        raise ValueError(
            f"Overflow: numbers beyond the range of float64 ({error}). Rescale X and y. Steps "
            "that are not capped grow without bound: use cap=True or a smaller inner_lr there."
        ) from error


def check_overflow(values):
    """Raise FloatingPointError unless all values are finite."""
    if not np.isfinite(values).all():
        raise FloatingPointError("infinity or NaN in the result")
