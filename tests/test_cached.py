"""A property that is computed once, by any number of threads at the same time."""

from threading import Barrier, Thread

from sklearn_maml._cached import cached_property


def test_it_is_computed_once_for_each_instance():
    calls = []

    class Part:
        @cached_property
        def fact(self):
            """What it says."""
            calls.append(self)
            return object()

    one, other = Part(), Part()
    assert one.fact is one.fact
    assert one.fact is not other.fact
    assert calls == [one, other]
    assert Part.fact.__doc__ == "What it says."


def test_threads_do_not_wait_for_each_other():
    """With one lock for all instances the second thread would never meet the first."""
    both = Barrier(2, timeout=10.0)

    class Part:
        @cached_property
        def met(self):
            return both.wait() in (0, 1)

    parts = Part(), Part()
    threads = [Thread(target=lambda part=part: part.met) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(part.__dict__.get("met") for part in parts)
