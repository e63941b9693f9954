"""Blocks of tasks over joblib's workers, with one BLAS thread each, so that no bit changes."""

from contextlib import contextmanager
from functools import cache, reduce
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from threadpoolctl import OpenBLASController, ThreadpoolController

__all__ = [
    "add_parts",
    "adding",
    "fill_from_blocks",
    "fold_blocks",
    "one_blas_thread",
    "solved_in_order",
]

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
        return reduce(combine, _each_by_workers(f, range(n_blocks), n_jobs, work))


def add_parts(total, part):
    """Two blocks' results, tuples, entry by entry."""
    return tuple(a + b for a, b in zip(total, part, strict=True))


def adding():
    """`add_parts` for one sum over blocks: only the first addition takes new memory.

    A block's own arrays may be kept by it. Their first sum is nobody else's, so that further d x d
    arrays are added where it is.
    """
    totals = []

    def add_to(total, part):
        if not totals:
            totals.extend(add_parts(total, part))
        else:
            for k, term in enumerate(part):
                totals[k] += term
        return tuple(totals)

    return add_to


def solved_in_order(f, items, n_jobs, work=np.inf):
    """``f(item)`` for each item, in order; by threads, unless joblib's workers are processes.

    To these all items would have to be sent, as often as they are asked for. Little work is done
    by this thread; see `fold_blocks`.
    """
    if _threads_work():
        return _each_by_workers(f, items, n_jobs, work)
    return map(f, items)


def _each_by_workers(f, items, n_jobs, work):
    """``f(item)`` for each item, in order, by whatever workers joblib has."""
    if work < MIN_WORK_IN_PARALLEL or effective_n_jobs(n_jobs) == 1:
        return map(f, items)
    return (_by_threads if _threads_work() else _by_processes)(f, items, n_jobs)


def _threads_work():
    """Whether joblib's workers are threads of this process, which go on while this one does."""
    backend, _ = get_active_backend(prefer="threads")
    lazy = getattr(backend, "supports_return_generator", False)
    return lazy and getattr(backend, "uses_threads", False)


def _by_processes(f, numbers, n_jobs):
    """``f(i)`` for each number, in order, by workers that get a copy of f with each call."""
    backend, _ = get_active_backend(prefer="threads")
    size = -(-len(numbers) // (4 * effective_n_jobs(n_jobs)))  # few calls
    chunks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    lazily = "generator" if getattr(backend, "supports_return_generator", False) else "list"
    parallel = Parallel(n_jobs, prefer="threads", return_as=lazily)
    return chain.from_iterable(parallel(delayed(_each)(f, chunk) for chunk in chunks))


def _each(f, numbers):
    with one_blas_thread():  # worker processes have a BLAS of their own
        return [f(i) for i in numbers]


def _by_threads(f, items, n_jobs):
    """``f(item)`` for each item, in order: this thread and some of joblib's take turns.

    joblib is asked for threads and not for results: each of these it hands on through three threads
    of its own, and looks every 10 ms whether it is there.
    """
    n_threads = effective_n_jobs(n_jobs)
    turns = _Turns(f, items, ahead=3 * n_threads)
    parallel = Parallel(n_jobs, prefer="threads", return_as="generator")
    others = ()
    try:
        others = parallel(delayed(turns.work)() for _ in range(n_threads - 1))
        yield from turns.results()
    finally:
        turns.end(n_threads)
        for _ in others:
            pass


class _Turns:
    """Items that threads take in turn, and what f makes of them, in the order of the items.

    Threads hand on what they find by queues: an interrupt that comes when a condition has just
    been entered would leave it locked, and all others waiting.

    Parameters
    ----------
    f : callable
    items : iterable
    ahead : int
        How many items, at most, are taken before the result of the first of them is asked for.
    """

    def __init__(self, f, items, ahead):
        self.f, self.items = f, iter(items)
        self._taking, self._n_taken, self._over = Lock(), 0, False
        self._free, self._found = SimpleQueue(), SimpleQueue()
        for _ in range(ahead):
            self._free.put(None)
        self._errors = np.geterr()  # a new thread has numpy's defaults

    def work(self):
        """Take items until there are none; run by the other threads."""
        with np.errstate(**self._errors), one_blas_thread():
            while self._work_on_one():
                pass

    def results(self):
        """Yield what f made of the items; this thread takes some, too, until the next is there."""
        done, n_given = {}, 0  # by number: what was found, and the error if there was one
        while True:
            while not self._found.empty():
                done.update(self._found.get())
            if n_given in done:
                found, error = done.pop(n_given)
                n_given += 1
                self._free.put(None)
                if error is not None:
                    raise error
                yield found
            elif not self._work_on_one(wait=False):
                if self._over and n_given == self._n_taken:
                    return
                done.update(self._found.get())

    def end(self, n_threads):
        """Take no more items; so many threads may wait for one."""
        self._over = True
        for _ in range(n_threads):
            self._free.put(None)

    def _work_on_one(self, wait=True):
        """Whether there was an item to be taken.

        An error is raised where its result is asked for: it is the same one for every `n_jobs`.
        """
        found, error = None, None
        try:
            self._free.get(wait)
        except Empty:
            return False
        with self._taking:  # in the order of the items
            if self._over:
                return False
            number = self._n_taken
            try:
                item = next(self.items)
            except StopIteration:
                self._over = True
                self._found.put({})  # nothing: who waits for results is to look again
                return False
            except BaseException as raised:
                error = raised
            self._n_taken += 1
        if error is None:
            try:
                found = self.f(item)
            except BaseException as raised:
                error = raised
        self._found.put({number: (found, error)})
        return True


def fill_from_blocks(f, n_blocks, n_tasks, n_jobs, work):
    """Arrays of all tasks, which blocks fill in as they come: they are never held twice.

    Parameters
    ----------
    f : callable
        From a block's number to ``(owner, *values)``: the numbers of its tasks (n,), and for each
        array what belongs there (n, ...), or None for all blocks.
    n_blocks, n_tasks : int
    n_jobs, work
        As in `fold_blocks`.

    Returns
    -------
    tuple of ndarray of shape (n_tasks, ...), or None
    """
    arrays, first = [], Lock()

    def put(part):
        owner, *values = part
        with first:
            if not arrays:
                arrays.extend(
                    None if one is None else np.empty((n_tasks, *one.shape[1:]), one.dtype)
                    for one in values
                )
        for array, one in zip(arrays, values, strict=True):
            if array is not None:
                array[owner] = one

    with one_blas_thread():
        if _threads_work():  # which write what they have found themselves
            for _ in solved_in_order(lambda i: put(f(i)), range(n_blocks), n_jobs, work):
                pass
        else:
            for part in _each_by_workers(f, range(n_blocks), n_jobs, work):
                put(part)
    return tuple(arrays)
