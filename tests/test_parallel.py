"""Blocks over workers: in order, to the bit, with errors where they belong, and one BLAS thread."""

import operator
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Thread, active_count, get_ident
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, parallel_config, register_parallel_backend
from joblib.parallel import ThreadingBackend
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_maml import _parallel
from sklearn_maml._parallel import (
    adding,
    fill_from_blocks,
    fold_blocks,
    one_blas_thread,
    solved_in_order,
)
from sklearn_maml._tasks.moments import over_stacks


def slowly(seconds, i):
    sleep(seconds[i % len(seconds)])
    return i


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(1, 30),
    st.lists(st.sampled_from([0.0, 0.001, 0.004]), min_size=1, max_size=7),
)
def test_threads_give_results_in_the_order_of_the_items(n_jobs, n_items, seconds):
    found = list(solved_in_order(partial(slowly, seconds), iter(range(n_items)), n_jobs))
    assert found == list(range(n_items))


def test_no_item_is_an_empty_list():
    assert list(solved_in_order(str, [], 2)) == []


def test_all_threads_take_part_and_all_are_gone_afterwards():
    before = active_count()
    found = list(solved_in_order(lambda i: (sleep(0.005), get_ident())[1], range(40), 3))
    assert len(set(found)) == 3
    assert get_ident() in found
    sleep(0.1)
    assert active_count() <= before


def test_results_that_wait_for_a_slow_one_are_few():
    """What is held is held by number: with ten thousand blocks there is no room for all."""
    taken, slow = [], Event()

    def f(i):
        taken.append(i)
        if i == 0:
            slow.wait(5)
        return i

    results = solved_in_order(f, range(100), 3)
    with ThreadPoolExecutor(1) as executor:
        whole = executor.submit(list, results)
        for _ in range(300):
            if len(taken) >= 1 + 2 * 3:  # the slow one, and six that wait
                break
            sleep(0.01)
        sleep(0.2)
        seen = len(taken)
        slow.set()
        assert whole.result() == list(range(100))
    assert 1 + 2 * 3 <= seen <= 1 + 2 * 3 + 2  # one more for each other thread


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_first_error_is_raised_where_its_result_would_have_been(n_jobs, error):
    def f(i):
        sleep(0.003 * (i == 5))  # a later error is there before
        if i >= 5:
            raise error(i)
        return i

    given = []
    with pytest.raises(error, match="5"):
        given.extend(solved_in_order(f, range(20), n_jobs))
    assert given == [0, 1, 2, 3, 4]


def test_an_error_of_the_items_is_raised_after_the_results_before_it():
    def items():
        yield from range(3)
        raise OSError("no more rows")

    results = solved_in_order(str, items(), 2)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="no more rows"):
        next(results)


def test_who_looks_no_further_leaves_no_thread_behind():
    before, seen = active_count(), []
    results = solved_in_order(lambda i: (seen.append(i), sleep(0.002)), range(1000), 2)
    next(results)
    results.close()
    n_seen = len(seen)
    sleep(0.1)
    assert active_count() <= before
    assert len(seen) == n_seen < 20


def test_threads_that_are_far_ahead_end_with_who_looks_no_further():
    """They wait for a result to be taken, and are told that none will be."""
    seen = []
    results = solved_in_order(seen.append, range(1000), 2)
    next(results)
    sleep(0.1)
    assert len(seen) < 10
    closing = Thread(target=results.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()


def test_threads_handle_floating_point_errors_as_the_one_that_asks():
    def f(i):
        sleep(0.002)
        return get_ident(), np.geterr()["over"]

    with np.errstate(over="raise"):
        found = list(solved_in_order(f, range(20), 2))
    assert len({thread for thread, _ in found}) == 2
    assert {over for _, over in found} == {"raise"}


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_a_fold_is_from_the_left(n_jobs, monkeypatch):
    monkeypatch.setattr(_parallel, "MIN_WORK_IN_PARALLEL", 0)
    found = fold_blocks(str, 12, operator.add, n_jobs, 1)
    assert found == "".join(map(str, range(12)))


def test_little_work_is_done_by_the_thread_that_asks(monkeypatch):
    monkeypatch.setattr(_parallel, "_by_threads", None)
    assert fold_blocks(str, 3, operator.add, 2, 1.0) == "012"
    assert list(solved_in_order(str, range(2), 2, 1.0)) == ["0", "1"]


def blas_threads():
    return [
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    ]


def test_blas_runs_one_thread_inside_and_as_many_as_before_afterwards():
    with threadpool_limits(2, user_api="blas"):  # whatever was left by those who ran before
        with one_blas_thread(), one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {2}


def test_a_thread_that_set_a_limit_of_its_own_keeps_no_other_from_it():
    """From threadpoolctl 3.8 on others would be ignored as long as it lives."""
    with ThreadPoolExecutor(1) as executor:
        own = executor.submit(threadpool_limits, 2, user_api="blas").result()
        with one_blas_thread():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {2}
        executor.submit(own.restore_original_limits).result()


def test_threads_that_limit_blas_at_once_leave_it_as_it_was():
    before = blas_threads()

    def limited(_):
        with one_blas_thread():
            return np.ones((50, 50)) @ np.ones((50, 50))

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(limited, range(200)))
    assert blas_threads() == before


def test_blas_runs_one_thread_in_every_thread_until_the_last_has_left():
    """From threadpoolctl 3.8 on the thread that limits BLAS first would be the only one to."""
    before, left = blas_threads(), Event()

    def first():
        with one_blas_thread():
            entered.set()
            left.wait(5)

    for _ in range(2):
        with one_blas_thread():
            pass
        entered, left = Event(), Event()
        with ThreadPoolExecutor(1) as executor:
            executor.submit(first)
            entered.wait(5)
            assert set(blas_threads()) == {1}
            with one_blas_thread():
                left.set()
                executor.submit(int).result()  # the first thread has left, and lives
                assert set(blas_threads()) == {1}
            assert blas_threads() == before
            assert set(executor.submit(blas_threads_limited).result()) == {1}
            assert blas_threads() == before


def test_processes_are_sent_chunks_of_blocks_whose_results_come_in_order():
    with parallel_config(backend="loky"):
        found = fold_blocks(partial(np.full, 1), 19, np.append, 2, np.inf)
    assert found.tolist() == list(range(19))


def block_of_squares(i):
    owner = np.arange(i, 20, 4)[::-1]
    return owner, np.square(owner), None, 0.5 * owner[:, None] + [0.0, 1.0]


@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("work", [1.0, np.inf])
def test_arrays_of_all_tasks_are_filled_by_blocks(backend, work):
    with parallel_config(backend=backend):
        squares, none, halves = fill_from_blocks(block_of_squares, 4, 20, 2, work)
    assert squares.tolist() == [k * k for k in range(20)]
    assert squares.dtype.kind == "i"
    assert none is None
    np.testing.assert_array_equal(halves, [[0.5 * k, 0.5 * k + 1.0] for k in range(20)])


def test_further_blocks_are_added_where_the_first_sum_is():
    """What a block returns is left as it is."""
    parts = [(np.full(3, float(i)), 10 * i) for i in range(4)]
    add_to = adding()
    first, _ = total = add_to(parts[0], parts[1])
    for part in parts[2:]:
        total = add_to(total, part)
        assert total[0] is first
    assert total[0].tolist() == [6.0, 6.0, 6.0]
    assert total[1] == 60
    assert [part[0][0] for part in parts] == [0.0, 1.0, 2.0, 3.0]


class Eager(ThreadingBackend):
    """One that gives nothing before all is there."""

    supports_return_generator = False


def test_workers_that_give_all_at_once_are_sent_chunks_too():
    register_parallel_backend("eager", Eager)
    threads = set()

    def f(i):
        threads.add(get_ident())
        sleep(0.002)
        return [i]

    with parallel_config(backend="eager"):
        assert fold_blocks(f, 19, operator.add, 2, np.inf) == list(range(19))
        assert get_ident() not in threads
        threads.clear()
        assert list(solved_in_order(f, range(9), 2)) == [[i] for i in range(9)]
        assert threads == {get_ident()}


def blas_threads_limited():
    with one_blas_thread():
        return blas_threads()


def test_an_interrupt_leaves_no_thread_that_waits_for_the_one_that_was_interrupted():
    """Interrupts are looked for after calls: that of a condition's lock has left it locked."""

    def interrupted(n_events):
        seen = []

        def profile(frame, event, _):
            where = [at.f_code.co_qualname for at in (frame, frame.f_back) if at]
            inside = any(at.startswith("_Turns.") for at in where) and "_Turns.end" not in where
            if inside and event != "c_call":
                seen.append(event)
                if len(seen) == n_events:
                    sys.setprofile(None)
                    raise KeyboardInterrupt

        results = solved_in_order(lambda i: sleep(0.001), range(4), 2)
        sys.setprofile(profile)
        try:
            outcomes.append(len(list(results)))
        except KeyboardInterrupt:
            outcomes.append(None)
        finally:
            sys.setprofile(None)

    before, outcomes = active_count(), []
    while not outcomes or outcomes[-1] is None:
        thread = Thread(target=interrupted, args=[len(outcomes) + 1], daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    assert len(outcomes) > 20
    assert outcomes[-1] == 4
    sleep(0.1)
    assert active_count() <= before


def test_an_interrupt_while_threads_are_started_ends_those_that_were(monkeypatch):
    class Interrupted(Parallel):
        def __call__(self, jobs):
            started.append(super().__call__(jobs))
            sleep(0.05)
            raise KeyboardInterrupt

    monkeypatch.setattr(_parallel, "Parallel", Interrupted)
    started, before = [], blas_threads()
    with pytest.raises(KeyboardInterrupt):
        list(solved_in_order(lambda i: sleep(0.001), range(1000), 2))
    sleep(0.1)
    assert not _parallel._LIMITS
    assert blas_threads() == before
    list(started[0])


def test_sums_over_stacks_are_by_one_blas_thread_whoever_asks():
    """A search asks for them before any fit; with two threads other digits are rounded."""
    stacks = [(np.ones(1), None, None)] * 3
    blocks = SimpleNamespace(
        tasks=SimpleNamespace(offsets=[0, 3]),
        features=SimpleNamespace(width=1),
        stacks=lambda: iter(stacks),
    )
    with threadpool_limits(2, user_api="blas"):
        found = over_stacks(lambda rows, weight, ones: (np.array(blas_threads()),), blocks)
    assert set(found[0]) == {3}
