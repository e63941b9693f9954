"""What must not change a fit: the form, order, labels, weights and partition of the data."""

import datetime
from contextlib import nullcontext

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from small_tasks import (
    MODELS,
    NEW_X,
    NEW_Y,
    TASKS,
    G,
    X,
    Y,
    assert_same_fit,
    exact_models,
    fit,
    models,
    theta,
)

from sklearn_maml import MAMLRegressor
from sklearn_maml._tasks import stacks

# The same data in another form, order or partition


@models
def test_a_list_of_tasks_equals_flat_rows_with_groups(model):
    one, other = fit(model, TASKS), fit(model, X, Y, groups=G)
    np.testing.assert_array_equal(theta(one), theta(other))
    assert one.gap_certificate_.bound == other.gap_certificate_.bound
    assert one.n_tasks_ == other.n_tasks_ == 5
    assert one.score(TASKS) == other.score(X, Y, groups=G)
    assert one.certify(TASKS).bound == other.certify(X, Y, groups=G).bound


@models
def test_the_order_of_tasks_changes_nothing(model):
    order = [3, 1, 4, 0, 2]
    assert_same_fit(fit(model, TASKS), fit(model, [TASKS[i] for i in order]))


@models
def test_interleaved_groups_equal_sorted_ones(model):
    order = np.argsort(np.random.default_rng(1).random(len(X)), kind="stable")
    if model.split == "first":  # the order within a task counts
        order = order[np.argsort(G[order], kind="stable")]
        order = np.argsort([np.flatnonzero(g == G).tolist().index(i) for i, g in enumerate(G)])
    one = fit(model, X, Y, groups=G)
    assert_same_fit(one, fit(model, X[order], Y[order], groups=G[order]))


@exact_models
def test_the_order_of_rows_within_a_task_changes_nothing(model):
    assert_same_fit(fit(model, TASKS), fit(model, [(A[::-1], b[::-1]) for A, b in TASKS]))


@models
@pytest.mark.parametrize(
    "labels",
    [
        list("edcba"),
        [(1, "a"), (1, "b"), (0, "a"), (0, "b"), (2, "")],
        [-7, 10**12, 0, 3, 2],
        [0.5, -1.5, np.inf, 0.0, 1e-300],
        [datetime.date(2020, 1, day) for day in (5, 3, 4, 1, 2)],
        [1, "1", (1,), datetime.date(2020, 1, 1), frozenset({1})],
    ],
)
def test_labels_of_groups_change_nothing_but_the_task_ids(model, labels):
    groups = [labels[g] for g in G]
    relabelled = fit(model, X, Y, groups=groups)
    np.testing.assert_array_equal(theta(relabelled), theta(fit(model, X, Y, groups=G)))
    assert list(relabelled.task_ids_) == labels
    assert list(fit(model, X, Y, groups=pd.Series(groups)).task_ids_) == labels


@pytest.mark.parametrize("elements", [1, 40, 200])
@models
def test_the_size_of_blocks_changes_nothing(model, elements, monkeypatch):
    expected = fit(model, TASKS)
    monkeypatch.setattr(stacks, "BLOCK_ELEMENTS", elements)
    with sklearn.config_context(working_memory=0):  # nothing is kept between passes
        assert_same_fit(fit(model, TASKS), expected, rtol=1e-12)


def much_work():
    """Rows enough for a dozen blocks, and for more than one worker."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 100, 100))
    return list(zip(X, X.sum(axis=2) + rng.normal(size=(300, 100)), strict=True))


@pytest.mark.parametrize("support", ["all", [1, 3]])
def test_the_number_of_jobs_changes_no_bit(support):
    tasks = much_work()
    model = MAMLRegressor("auto", support=support, random_state=0)
    results = set()
    for backend, n_jobs in [
        (None, None),
        (None, 2),
        (None, -1),
        ("threading", 2),
        ("loky", 1),
        ("loky", 2),
    ]:
        with joblib.parallel_config(backend=backend) if backend else nullcontext():
            fitted = clone(model).set_params(n_jobs=n_jobs).fit(tasks)
            certificate = fitted.certify(tasks)
        results.add((theta(fitted).tobytes(), fitted.gap_certificate_, certificate))
    assert len(results) == 1


class Counting(joblib.parallel.ThreadingBackend):
    """Threads, and a note of how many workers were asked for each time."""

    started = []

    def configure(self, n_jobs=1, parallel=None, **how):
        self.started.append(n_jobs)
        return super().configure(n_jobs, parallel, **how)


def test_jobs_are_handed_to_joblib_only_where_there_is_work_for_them():
    with joblib.parallel_config(backend=Counting()):
        MAMLRegressor("auto", n_jobs=2).fit(TASKS)
        assert not Counting.started
        MAMLRegressor("auto", n_jobs=2).fit(much_work())
    assert set(Counting.started) == {2}


FORMS = {
    "fortran": np.asfortranarray,
    "list": np.ndarray.tolist,
    "pandas": pd.DataFrame,
    "nullable": lambda A: pd.DataFrame(A).astype("Float64"),
    "polars": lambda A: pl.DataFrame(A, schema=["a", "b", "c"]),
    "csr": sp.csr_array,
    "csc": sp.csc_matrix,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("groups", [None, G])
def test_every_kind_of_table_gives_the_same_fit(form, groups):
    if groups is None:
        one, other = (
            fit(MODELS["auto"], TASKS),
            fit(MODELS["auto"], [(form(A), b) for A, b in TASKS]),
        )
    else:
        one, other = (fit(MODELS["auto"], T, Y, groups=G) for T in (X, form(X)))
    np.testing.assert_array_equal(theta(one), theta(other))
    np.testing.assert_allclose(other.predict(form(X)), one.predict(X), rtol=1e-14)
    adapted, expected = other.adapt(form(NEW_X), NEW_Y), one.adapt(NEW_X, NEW_Y)
    np.testing.assert_array_equal(theta(adapted), theta(expected))


@pytest.mark.parametrize("y", [Y.tolist(), pd.Series(Y), pl.Series(Y), pd.array(Y)], ids=type)
def test_every_kind_of_column_of_targets_gives_the_same_fit(y):
    np.testing.assert_array_equal(
        theta(fit(MODELS["auto"], X, y, groups=G)), theta(fit(MODELS["auto"], X, Y, groups=G))
    )


def test_read_only_input_is_taken_and_no_input_is_changed():
    before = X.copy(), Y.copy(), G.copy()
    data = [array.copy() for array in before]
    for array in data:
        array.flags.writeable = False
    model = fit(MODELS["five steps"], data[0], data[1], groups=data[2])
    model.adapt(data[0], data[1], sample_weight=data[2] + 1.0)
    for array, copied in zip(data, before, strict=True):
        np.testing.assert_array_equal(array, copied)


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 1e-5), (np.float16, 1e-2)])
def test_short_floats_are_computed_in_double_precision(dtype, digits):
    short = [(A.astype(dtype), b.astype(dtype)) for A, b in TASKS]
    model = fit(MODELS["auto"], short)
    assert model.coef_.dtype == np.float64
    exact = fit(MODELS["auto"], [(A.astype(float), b.astype(float)) for A, b in short])
    np.testing.assert_array_equal(theta(model), theta(exact))
    np.testing.assert_allclose(theta(model), theta(fit(MODELS["auto"], TASKS)), rtol=10 * digits)


# Weights


@models
def test_a_task_doubled_is_its_weight_doubled(model):
    doubled = fit(model, [TASKS[0], *TASKS])
    weighted = fit(model, [(*TASKS[0], 2.0), *TASKS[1:]])
    assert_same_fit(doubled, weighted)
    assert_same_fit(doubled, fit(model, TASKS, sample_weight=[2, 1, 1, 1, 1]))
    assert_same_fit(doubled, fit(model, TASKS, sample_weight=[14, 7, 7, 7, 7]))
    halves = [(A, b, 0.5) for A, b in TASKS[1:]]
    both = fit(model, [(*TASKS[0], 3), *halves], sample_weight=[2, 6, 6, 6, 6])
    assert_same_fit(doubled, both)


@models
def test_a_task_of_weight_zero_is_absent(model):
    weighted = fit(model, [(*TASKS[0], 0), *TASKS[1:]])
    assert_same_fit(weighted, fit(model, TASKS[1:]))


@exact_models
@pytest.mark.parametrize("weight", [np.arange(38) % 3 + 1, np.arange(38) % 4], ids=["123", "0123"])
def test_integer_weights_are_repeated_rows_and_zero_is_an_absent_row(model, weight):
    weighted = fit(model, X, Y, groups=G, sample_weight=weight)
    repeated = [np.repeat(array, weight, axis=0) for array in (X, Y, G)]
    assert_same_fit(weighted, fit(model, *repeated[:2], groups=repeated[2]))
    parts = [(A, b, weight[g == G]) for g, (A, b) in enumerate(TASKS)]
    assert_same_fit(weighted, fit(model, parts))


@exact_models
def test_only_ratios_of_weights_within_a_task_matter(model):
    weight = np.random.default_rng(1).uniform(0.5, 2, 38)
    one = fit(model, X, Y, groups=G, sample_weight=weight)
    if model.featurizer is None:  # which is fitted on rows, not on tasks
        assert_same_fit(one, fit(model, X, Y, groups=G, sample_weight=weight * (G + 1)))
    assert_same_fit(one, fit(model, X, Y, groups=G, sample_weight=weight * 12.5))


def test_weights_in_adapt_are_repeated_rows():
    model = fit(MODELS["auto"], TASKS)
    weight = np.array([1, 2, 0, 1, 3, 1, 0, 1])
    one = model.adapt(NEW_X, NEW_Y, sample_weight=weight)
    other = model.adapt(np.repeat(NEW_X, weight, axis=0), np.repeat(NEW_Y, weight))
    np.testing.assert_allclose(theta(one), theta(other), rtol=1e-12)
