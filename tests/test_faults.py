"""What goes wrong around a fit: interrupts, dying workers, a full disk; and many threads at once.

A fit that does not end leaves no model, and nothing that hinders the next.
"""

import logging
import os
import pickle
import resource
import signal
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from threading import Barrier

import joblib
import numpy as np
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_info, threadpool_limits

import sklearn_maml
from sklearn_maml import MAMLClassifier, MAMLRegressor, MAMLRegressorCV, Proximal
from sklearn_maml.losses import SquaredError

HOUSE = Path(sklearn_maml.__file__).parent
RNG = np.random.default_rng(0)
G = np.repeat([f"task {i}" for i in range(10)], 7)
X = RNG.normal([3.0, -1.0], [1.0, 2.0], (70, 2))
Y = X @ [1.0, -0.5] + np.repeat(RNG.normal(size=10), 7) * X[:, 0] + 0.3 * RNG.normal(size=70)
MODELS = {
    "learned": MAMLRegressor(random_state=0, featurizer=StandardScaler()),
    "steps": MAMLRegressor("auto", 3, featurizer=StandardScaler()),
    "robust": MAMLRegressor(loss="pseudo_huber", adaptation=Proximal(1.0, "identity")),
    "classes": MAMLClassifier(random_state=0),
    "search": MAMLRegressorCV(cv=3, alphas=(0.1, 1.0), random_state=0),
}
models = pytest.mark.parametrize("name", MODELS)


def refit(model, name):
    return model.fit(X, np.where(Y > 0, "yes", "no") if name == "classes" else Y, groups=G)


def fit(name):
    return refit(clone(MODELS[name]), name)


def answers(model):
    """What a fitted model says, to the bit."""
    parts = [model.predict(X), model.predict(X, groups=G)]
    best = getattr(model, "best_estimator_", model)
    parts += [
        best.coef_,
        np.ravel(best.intercept_),
        [best.meta_loss_, float(best.gap_certificate_)],
    ]
    return [np.asarray(part).tobytes() for part in parts]


def assert_unfitted(model):
    own = {name for name in vars(model) if name not in model.get_params(deep=False)}
    assert own == {name for name in vars(clone(model)) if name not in model.get_params(deep=False)}
    with pytest.raises(NotFittedError):
        model.predict(X)


def is_fitted(model):
    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def blas_threads():
    return [part["num_threads"] for part in threadpool_info() if part["user_api"] == "blas"]


# -- Ctrl-C ---------------------------------------------------------------------------------------

# Where a fit goes: each of these is interrupted at its first call, midway, and at its last.
STAGES = {
    "learned": ["_tasks", "featurizer", "_objective", "adaptation", "_learning", "solvers"],
    "steps": ["adaptation", "certificate", "_estimators"],
    "robust": ["losses", "_task_newton", "solvers", "certificate"],
    "classes": ["_tasks", "losses", "_learning", "solvers", "certificate"],
    "search": ["model_selection", "_objective", "_estimators"],
}


def stage_of(path):
    """The folder of the package, or "featurizer", to which a file belongs."""
    if path.endswith(f"preprocessing{os.sep}_data.py"):
        return "featurizer"
    inside = path.startswith(f"{HOUSE}{os.sep}")
    return Path(path).relative_to(HOUSE).parts[0].removesuffix(".py") if inside else None


def while_listening(action, heard):
    """Run an action; ``heard(stage)`` is called at each call of a function of the package."""
    stages = {}

    def profile(frame, event, _):
        if event == "call":
            path = frame.f_code.co_filename
            if path not in stages:
                stages[path] = stage_of(path)
            if stages[path] is not None:
                heard(stages[path])

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)


@cache
def calls(name):
    """How many calls of functions each stage of a refit takes."""
    model, count = fit(name), Counter()
    while_listening(lambda: refit(model, name), lambda stage: count.update([stage]))
    return count


@pytest.mark.parametrize(("name", "stage"), [(n, s) for n in STAGES for s in STAGES[n]])
def test_ctrl_c_at_any_stage_leaves_no_model_and_nothing_that_hinders_the_next_fit(name, stage):
    model = fit(name)
    expected, threads = answers(model), blas_threads()
    n_calls = calls(name)[stage]
    assert n_calls > 1
    for at in (1, 1 + n_calls // 2, n_calls):
        seen = Counter()

        def interrupt(where, seen=seen, at=at):
            seen[where] += 1
            if where == stage and seen[stage] == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            while_listening(lambda: refit(model, name), interrupt)
        assert blas_threads() == threads
        if is_fitted(model):  # nothing was forgotten yet, or all was stored: a whole model
            assert at in (1, n_calls)
            assert answers(model) == expected
        else:
            assert_unfitted(model)
        assert answers(refit(model, name)) == expected


class Interrupting(logging.Handler):
    """Presses Ctrl-C at the first message of a stage."""

    def __init__(self, stage):
        super().__init__(logging.DEBUG)
        self.stage = stage

    def emit(self, record):
        if record.getMessage().startswith(self.stage):
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["reading", "metric", "strength", "theta", "certificate"])
@pytest.mark.parametrize("name", ["learned", "classes"])
def test_ctrl_c_in_each_stage_that_is_told_leaves_no_model(name, stage, caplog):
    model, logger, handler = fit(name), logging.getLogger("sklearn_maml"), Interrupting(stage)
    logger.addHandler(handler)
    try:
        with caplog.at_level("DEBUG", logger.name), pytest.raises(KeyboardInterrupt):
            refit(model, name)
    finally:
        logger.removeHandler(handler)
    assert_unfitted(model)


# -- workers --------------------------------------------------------------------------------------


class Deadly(SquaredError):
    """The squared error; in any other process than its home it kills, or raises an error."""

    def __init__(self, home=None, kill=True):
        self.home = home
        self.kill = kill

    def value(self, y, z):
        self._act()
        return super().value(y, z)

    def gradient(self, y, z):
        self._act()
        return super().gradient(y, z)

    def _act(self):
        if os.getpid() != self.home:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("scripted, in a worker")


@cache
def much_work():
    """Rows enough for more than one worker."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(300, 100, 100))
    return list(zip(tables, tables.sum(axis=2) + rng.normal(size=(300, 100)), strict=True))


def fit_in_processes(model, **how):
    with joblib.parallel_config(backend="loky", **how):
        return model.fit(much_work())


@pytest.fixture(scope="module")
def by_one_worker():
    return MAMLRegressor("auto").fit(much_work())


def assert_fits_as_by_one_worker(model, by_one_worker):
    """In processes again: a pool of workers that broke is no hindrance."""
    fit_in_processes(model)
    assert model.coef_.tobytes() == by_one_worker.coef_.tobytes()
    assert model.meta_loss_ == by_one_worker.meta_loss_


@pytest.mark.slow
def test_a_worker_that_is_killed_is_reported_and_the_next_fit_works(by_one_worker):
    model = MAMLRegressor("auto", loss=Deadly(os.getpid()), n_jobs=2)
    with pytest.raises(TerminatedWorkerError, match=r"worker process .* unexpectedly terminated"):
        fit_in_processes(model)
    assert_unfitted(model)
    assert_fits_as_by_one_worker(model.set_params(loss="squared_error"), by_one_worker)


@pytest.mark.slow
def test_an_error_in_a_worker_is_that_of_the_fit(by_one_worker):
    model = MAMLRegressor("auto", loss=Deadly(os.getpid(), kill=False), n_jobs=2)
    with pytest.raises(ValueError, match="scripted, in a worker"):
        fit_in_processes(model)
    assert_unfitted(model)
    assert_fits_as_by_one_worker(model.set_params(loss="squared_error"), by_one_worker)


@pytest.mark.slow
def test_a_disk_without_room_for_memory_maps_is_an_error_and_the_next_fit_works(by_one_worker):
    """A limit on the size of files stands for the full disk: the write fails midway."""
    model = MAMLRegressor("auto", n_jobs=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(pickle.PicklingError, match="Could not pickle the task") as failed:
            fit_in_processes(model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in str(failed.value.__cause__)
    assert_unfitted(model)
    assert_fits_as_by_one_worker(model, by_one_worker)


# -- threads --------------------------------------------------------------------------------------

N_THREADS = 8


def in_threads(calls):
    """What functions return that are called by eight threads at once."""
    start = Barrier(N_THREADS)

    def run(i):
        start.wait()
        return [call() for call in calls[i::N_THREADS]]

    with ThreadPoolExecutor(N_THREADS) as pool:
        parts = list(pool.map(run, range(N_THREADS)))
    return [parts[i % N_THREADS][i // N_THREADS] for i in range(len(calls))]


def uses_of(model, name):
    """Functions that adapt and predict, each of it a little differently, to bytes."""

    def use(i):
        rows = np.arange(i % 5, 5 + i % 11)
        y = np.where(Y[rows] > 0, "yes", "no") if name == "classes" else Y[rows]
        adapted, tasks = model.adapt(X[rows], y), model.adapt_tasks([(X[rows], y)] * 3)
        parts = [adapted.predict(X), model.predict(X[: 1 + i], groups=G[: 1 + i])]
        parts.append(tasks.predict(X[:3], groups=[0, 1, 2]))
        if name == "learned":
            parts += model.predict(X[:9], groups=G[:9], return_std=True)
            parts += adapted.predict(X[:9], return_std=True)
        return [np.asarray(part).tobytes() for part in parts]

    return [partial(use, i) for i in range(64)]


@models
def test_eight_threads_on_one_model_get_what_one_gets(name):
    uses = uses_of(fit(name), name)
    # Several threads of an older OpenBLAS split one product in another way when others are busy.
    with threadpool_limits(limits=1, user_api="blas"):
        assert in_threads(uses) == [use() for use in uses]


def test_fits_in_eight_threads_are_those_of_one_to_the_bit():
    fits = [partial(fit, name) for name in MODELS for _ in range(5)]
    threads = blas_threads()
    found = [answers(model) for model in in_threads(fits)]
    assert blas_threads() == threads
    assert found == [answers(fit()) for fit in fits]


def test_threads_may_fit_with_workers_of_their_own(by_one_worker):
    fits = [partial(MAMLRegressor("auto", n_jobs=2).fit, much_work()) for _ in range(N_THREADS)]
    assert {model.coef_.tobytes() for model in in_threads(fits)} == {by_one_worker.coef_.tobytes()}
