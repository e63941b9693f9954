"""Blocks of tasks over joblib's workers, with one BLAS thread each, so that no bit changes."""

from contextlib import contextmanager
from functools import cache
from threading import Lock

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread"]

_LOCK, _LIMITS = Lock(), []


@cache
def _controller():
    """The process's BLAS libraries; finding them takes milliseconds, so it is done once."""
    return ThreadpoolController()


@contextmanager
def one_blas_thread():
    """A context in which BLAS runs one thread, so that no bit depends on the number of cores.

    It may be entered by several threads at once: the first sets the limit for all, and the last
    to leave lifts it.
    """
    with _LOCK:
        limit = None if _LIMITS else _controller().limit(limits=1, user_api="blas")
        _LIMITS.append(limit)
    try:
        yield
    finally:
        with _LOCK:
            first = _LIMITS[0]
            _LIMITS.pop()
            if not _LIMITS:
                first.restore_original_limits()
