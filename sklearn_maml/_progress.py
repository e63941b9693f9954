"""What a user is told on the way: progress, callbacks, warnings, and one error for all overflow."""

import logging
import sys
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import numpy as np

__all__ = [
    "CallbackSupportMixin",
    "check_overflow",
    "refusing_overflow",
    "report",
    "stage",
    "telling",
    "warn_user",
    "with_callbacks",
]

if TYPE_CHECKING:
    Method = TypeVar("Method")

    class CallbackSupportMixin:
        """As that of scikit-learn, which has no types."""

    def with_callbacks(method: Method) -> Method:
        """As that of scikit-learn, which has no types: a method stays what it is."""

else:
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


# The fit that runs in this thread. What is told of it concerns no result, so that none of the parts
# of a fit is handed a listener; worker threads have no such context, and tell nothing.
_RUNNING = ContextVar("fit", default=None)


class Running:
    """A fit on its way: its stage, and what callbacks are told of it.

    Parameters
    ----------
    estimator : estimator
    context : CallbackContext or None
        Of the whole fit; None where nobody listens.
    """

    def __init__(self, estimator, context):
        self.estimator, self.context = estimator, context
        self.stage, self.n_iter, self.of_stage = None, 0, None
        self.start = self.stage_start = perf_counter()

    def begin(self, name):
        """A stage begins; it takes a number of iterations that nobody knows."""
        self.stage, self.n_iter, self.stage_start = name, 0, perf_counter()
        if self.context is not None:
            self.of_stage = self.context.subcontext(name, max_subtasks=None)
            self.of_stage.call_on_fit_task_begin(estimator=self.estimator)

    def iterate(self, message):
        """An iteration has ended: the message, with stage, number and seconds since the start."""
        self.n_iter += 1
        if self.of_stage is not None:
            iteration = self.of_stage.subcontext("iteration")
            iteration.call_on_fit_task_begin(estimator=self.estimator)
            iteration.call_on_fit_task_end(estimator=self.estimator)
        return f"{self.stage} {self.n_iter}, {perf_counter() - self.start:.2f} s: {message}"

    def end(self):
        """The stage has ended."""
        if self.of_stage is not None:
            self.of_stage.call_on_fit_task_end(estimator=self.estimator)
        steps = f"{self.n_iter} iterations, " if self.n_iter else ""
        took = perf_counter() - self.stage_start
        _log(f"{self.stage} done: {steps}{took:.2f} s", self.estimator.verbose)
        self.stage = self.of_stage = None


@contextmanager
def telling(estimator, X, y, n_stages):
    """A context in which an estimator is fitted, and callbacks hear of it: see `stage`.

    Parameters
    ----------
    estimator : estimator
        With a parameter `verbose`.
    X, y : objects
        As they were given.
    n_stages : int
        At most.
    """
    begin, context = getattr(estimator, "_init_callback_context", None), None
    if begin is not None:
        context = begin(max_subtasks=n_stages)
        context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
    heard = bool(getattr(estimator, "_skl_callbacks", ()))
    token = _RUNNING.set(Running(estimator, context if heard else None))
    try:
        yield
    finally:
        _RUNNING.reset(token)
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator, X=X, y=y, reconstruction_attributes={})


@contextmanager
def stage(name):
    """A stage of the fit that runs, if one does: "reading", "metric", "strength", "theta", ...

    A stage within another is part of it. One that fails is not ended, as little as the fit is.
    """
    running = _RUNNING.get()
    if running is None or running.stage is not None:
        yield
        return
    running.begin(name)
    yield
    running.end()


def report(message, verbose=None):
    """Log a message to the logger "sklearn_maml": at level INFO if `verbose`, else DEBUG.

    Where nobody has configured logging, `verbose` prints it. In a stage of a fit the message is
    that of an iteration, and says which, and how many seconds the fit has taken.

    Parameters
    ----------
    message : str
    verbose : int, default=None
        None is that of the fit that runs; without one, 0.
    """
    running = _RUNNING.get()
    if running is not None and running.stage is not None:
        message = running.iterate(message)
        verbose = running.estimator.verbose if verbose is None else verbose
    _log(message, verbose)


def _log(message, verbose):
    LOGGER.log(logging.INFO if verbose else logging.DEBUG, message)
    if verbose and not (LOGGER.isEnabledFor(logging.INFO) and LOGGER.hasHandlers()):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
        handler.emit(LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, message, (), None))


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
            f"Overflow: numbers beyond the range of float64, or lost to rounding ({error}). "
            "Rescale X and y, and leave out columns that are nearly the same as others. Steps that "
            "are not capped grow without bound: use cap=True or a smaller inner_lr there."
        ) from error


def check_overflow(values):
    """Raise FloatingPointError unless all values are finite."""
    if not np.isfinite(values).all():
        raise FloatingPointError("infinity or NaN in the result")
