"""Other engines: joblib on dask, to the bit, and frames that are too large for one machine."""

import os
import warnings
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
from dask import dataframe as dd
from distributed import Client, LocalCluster
from joblib.parallel import get_active_backend
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_maml import MAMLRegressor, Proximal, TaskStatistics, task_statistics
from sklearn_maml import _parallel as parallel

RNG = np.random.default_rng(0)
SIZES = RNG.integers(2, 12, size=300)
STORE = np.repeat([f"store {i}" for i in range(300)], SIZES)
X = RNG.normal(size=(len(STORE), 3))
OWN = np.repeat(RNG.normal(size=(300, 3)), SIZES, axis=0)
Y = (X * (1.0 + 0.5 * OWN)).sum(axis=1) + OWN[:, 0] + 0.3 * RNG.normal(size=len(STORE))
FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(store=STORE, sales=Y)
MODEL = MAMLRegressor(task_column="store", split="first", random_state=0)


@pytest.fixture(scope="module")
def client():
    with (
        warnings.catch_warnings(),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        warnings.simplefilter("ignore")  # those of dask's own
        yield client


@pytest.mark.parametrize("metric", ["full", "diagonal"])
def test_a_fit_on_two_dask_processes_has_the_same_bits(client, monkeypatch, metric):
    monkeypatch.setattr(parallel, "MIN_WORK_IN_PARALLEL", 0)
    monkeypatch.setattr("sklearn_maml._tasks.stacks.BLOCK_ELEMENTS", 2**10)  # several blocks
    sent, in_parallel = [], parallel._by_processes

    def watched(f, numbers, n_jobs):
        sent.append(type(get_active_backend()[0]).__name__)
        return in_parallel(f, numbers, n_jobs)

    monkeypatch.setattr(parallel, "_by_processes", watched)
    rule = Proximal(metric=metric, criterion="reml")
    alone = MAMLRegressor(adaptation=rule, random_state=0).fit(X, Y, groups=STORE)
    assert not sent
    with joblib.parallel_config(backend="dask"):
        workers = joblib.Parallel(2)(joblib.delayed(os.getpid)() for _ in range(20))
        together = MAMLRegressor(adaptation=rule, n_jobs=2, random_state=0)
        together.fit(X, Y, groups=STORE)
    assert len({*workers} - {os.getpid()}) == 2
    assert set(sent) == {"DaskDistributedBackend"}
    assert_array_equal(together.adaptation_.noise.variance, alone.adaptation_.noise.variance)
    for name in ("coef_", "intercept_", "task_coef_", "meta_loss_"):
        assert_array_equal(getattr(together, name), getattr(alone, name))


def statistics_of(part, model):
    """The statistics of a partition, as a frame of one cell: the recipe of docs/scaling.md."""
    if part.empty:
        return pd.DataFrame({"statistics": []}, dtype=object)
    found = task_statistics(model, part.drop(columns="sales"), part["sales"])
    return pd.DataFrame({"statistics": [found]})


def test_a_dask_frame_is_fitted_partition_by_partition(client):
    frame = dd.from_pandas(FRAME, npartitions=7)  # which cuts through tasks
    meta = pd.DataFrame({"statistics": pd.Series(dtype=object)})
    shuffled = frame.shuffle("store", npartitions=5)
    parts = shuffled.map_partitions(partial(statistics_of, model=MODEL), meta=meta).compute()
    model = MODEL.get_params(deep=False)
    found = MAMLRegressor.from_statistics(TaskStatistics.joined(parts["statistics"]), **model)
    whole = MAMLRegressor(**model).fit(FRAME.drop(columns="sales"), Y)
    assert len(parts) == 5
    assert found.n_tasks_ == 300
    assert_allclose(found.coef_, whole.coef_, rtol=1e-8)
    assert_allclose(found.adaptation_.strength, whole.adaptation_.strength, rtol=1e-8)
    rows = FRAME.drop(columns="sales")
    assert_allclose(found.predict(rows), whole.predict(rows), rtol=1e-7, atol=1e-8)
