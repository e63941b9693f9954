"""Blocks of tasks over joblib's workers, with one BLAS thread each, so that no bit changes."""

from contextlib import contextmanager
from functools import cache, partial, reduce
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from threadpoolctl import OpenBLASController, ThreadpoolController

__all__ = ["Filled", "fold_blocks", "one_blas_thread", "solved_in_order"]

# Less work than this, rows * d^2, takes about as long as it takes to start workers.
MIN_WORK_IN_PARALLEL = 2**28

_LOCK = Lock()
_LIMITS: list[Any] = []


@cache
def _libraries():
    """The process's BLAS libraries, found once, for that takes milliseconds.

    First those with one limit for the process, then those with one for each thread (by OpenMP).
    """
    blas = ThreadpoolController().select(user_api="blas")
    of_threads = blas.select(threading_layer="openmp")
    paths = {library.filepath for library in blas.lib_controllers}
    paths -= {library.filepath for library in of_threads.lib_controllers}
    return blas.select(filepath=sorted(paths)), of_threads


def _take_control():
    """Let this thread, and then any, set the limit of the process.

    From threadpoolctl 3.8 on the first thread that sets one is the only one that can, as long as it
    lives; what others ask for is silently not done.
    """
    release = getattr(OpenBLASController, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)


@contextmanager
def one_blas_thread():
    """A context in which BLAS runs one thread, so that no bit depends on the number of cores.

    It may be entered by several threads at once: the first sets the limit for all, and the last
    to leave lifts it. Where limits are a thread's own, each sets and lifts its own.
    """
    of_process, of_threads = _libraries()
    with of_threads.limit(limits=1, user_api="blas"):
        with _LOCK:
            if not _LIMITS:
                _take_control()
            _LIMITS.append(None if _LIMITS else of_process.limit(limits=1, user_api="blas"))
        try:
            yield
        finally:
            with _LOCK:
                first = _LIMITS[0]
                _LIMITS.pop()
                if not _LIMITS:
                    _take_control()
                    first.restore_original_limits()
                    _take_control()


def fold_blocks(f, n_blocks, combine, n_jobs, work):
    """Left fold of ``f(i)`` over block numbers: the same bits for every `n_jobs`.

    Parameters
    ----------
    f : callable
        Takes a block's number.
    n_blocks : int
    combine : callable
        How two results become one.
    n_jobs : int or None
        As in joblib.
    work : float
        About rows * d^2; little work is not worth to be spread.
    """
    # One BLAS thread: workers are the parallelism, and sums do not depend on their number.
    with one_blas_thread():
        if work < MIN_WORK_IN_PARALLEL or effective_n_jobs(n_jobs) == 1:
            return reduce(combine, map(f, range(n_blocks)))
        return reduce(combine, _in_parallel(f, range(n_blocks), n_jobs))


def _in_parallel(f, numbers, n_jobs):
    """``f(i)`` for each number, in order, by joblib's workers."""
    backend, _ = get_active_backend(prefer="threads")
    # Threads share the objective. Processes get a copy with each call: so make few calls.
    size = 1
    if not getattr(backend, "uses_threads", False):
        size = -(-len(numbers) // (4 * effective_n_jobs(n_jobs)))
    chunks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    lazily = "generator" if getattr(backend, "supports_return_generator", False) else "list"
    parallel = Parallel(n_jobs, prefer="threads", return_as=lazily)
    return chain.from_iterable(parallel(delayed(_each)(f, chunk) for chunk in chunks))


def solved_in_order(f, items, n_jobs):
    """``f(item)`` for each item, in order; by threads, unless joblib's workers are processes.

    To these all items would have to be sent, as often as they are asked for.
    """
    backend, _ = get_active_backend(prefer="threads")
    if effective_n_jobs(n_jobs) == 1 or not getattr(backend, "uses_threads", False):
        return map(f, items)
    f = partial(_as_here, f, np.geterr())
    parallel = Parallel(n_jobs, prefer="threads", return_as="generator")
    return chain.from_iterable(parallel(delayed(_each)(f, [item]) for item in items))


def _as_here(f, errors, item):
    """f with numpy's handling of floating-point errors: a thread's own is the default."""
    with np.errstate(**errors):
        return f(item)


def _each(f, numbers):
    with one_blas_thread():  # worker processes have a BLAS of their own
        return [f(i) for i in numbers]


class Filled:
    """Arrays of all tasks, which blocks fill in as they come: they are never held twice."""

    def __init__(self, n_tasks):
        self.n_tasks, self.arrays = n_tasks, []

    def put(self, part):
        """Fill in a block's (owner, *arrays or None)."""
        owner, *values = part
        if not self.arrays:
            self.arrays = [
                None if one is None else np.empty((self.n_tasks, *one.shape[1:]), one.dtype)
                for one in values
            ]
        for array, one in zip(self.arrays, values, strict=True):
            if array is not None:
                array[owner] = one

    def take(self, total, part):
        """How two results become one: both are filled in, and nothing is left."""
        for one in (total, part):
            if one is not None:
                self.put(one)
