"""Intervals and label sets: guarantees by simulation, sums over tasks against refits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_maml import (
    GradientSteps,
    LeastSquares,
    MAMLClassifier,
    MAMLRegressor,
    PooledPrediction,
    Proximal,
    adapt,
    adapt_tasks,
)
from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml._estimators.prediction import theta_of
from sklearn_maml._intervals import scores as scores_module
from sklearn_maml._intervals.bounds import label_set, own_label_set
from sklearn_maml._intervals.calibration import (
    N_LEVELS,
    calibration_of,
    tasks_needed,
    weighted_quantiles,
)
from sklearn_maml._intervals.scores import folds_of_tasks, scores_of_tasks, standardised
from sklearn_maml._objective.task_sums import solutions_without
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.losses import LOSSES

*TASKS, (X_NEW, Y_NEW) = make_linear_tasks(
    n_tasks=41, n_samples=14, n_features=3, noise=0.5, random_state=0
)
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
G = np.repeat(np.arange(40), 14)
MODEL = MAMLRegressor(random_state=0).fit(X, Y, groups=G)
TASKS_AT = list(enumerate(TASKS))
CLASSES = [(A, np.digitize(b, [-1.0, 1.0])) for A, b in TASKS]


def skewed_tasks(n_tasks, rng, n_rows=12):
    """Tasks whose effects have heavy tails, and whose noise is skewed and of a size of its own."""
    tasks = []
    for _ in range(n_tasks):
        A = rng.normal(size=(n_rows, 2))
        slope, level = rng.standard_t(3, size=(2,)), 3.0 * rng.standard_t(3)
        noise = rng.lognormal(0, 0.7) * (rng.exponential(size=n_rows) - 1.0)
        tasks.append((A, A @ (slope + 1.0) + level + noise))
    return tasks


def inside(bounds, y):
    """Whether targets are between bounds, which may be for several coverages."""
    low, high = bounds
    y = y.reshape(*y.shape, *[1] * (low.ndim - y.ndim))
    return (low <= y) & (y <= high)


# -- the quantile ---------------------------------------------------------------------------------


def brute_force(values, mass, level):
    """``inf {s : F(s) >= level}`` by trying every s."""
    total = mass.sum()
    return min(s for s in values if mass[values <= s].sum() >= level * total * (1 - 1e-11))


def test_a_weighted_quantile_is_the_smallest_value_with_so_much_at_or_below_it():
    rng = np.random.default_rng(0)
    values, mass = rng.integers(0, 9, size=(2, 40)).astype(float), rng.random(40)
    levels = np.array([0.0, 1e-3, 0.25, 0.5, 0.9, 1.0])
    found = weighted_quantiles(values, mass, levels)
    for own, row in zip(values, found, strict=True):
        assert row.tolist() == [brute_force(own, mass, level) for level in levels]


def test_a_bound_is_the_quantile_of_pooled_scores_with_one_more_task_at_infinity():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 30, size=24)
    owner = np.repeat(np.arange(24), sizes)
    values, mass = rng.standard_t(2, size=len(owner)), (1.0 / sizes)[owner]
    calibration = calibration_of({3: (values, mass, 24)})
    with_infinity = np.append(np.abs(values), np.inf), np.append(mass, 1.0)
    above = np.append(values, np.inf), np.append(mass, 1.0)
    for coverage in (0.1, 0.5, 0.8, 0.9, 0.95):
        exact = brute_force(*with_infinity, coverage)
        (bound,) = calibration.upper(coverage, np.array([3.0]))
        assert exact <= bound <= brute_force(*with_infinity, coverage + 1.0 / N_LEVELS)
        if coverage < 0.92:
            tail = 0.5 * (1.0 + coverage)
            low, high = (calibration.quantile(q, np.array([3.0])) for q in (1.0 - tail, tail))
            assert brute_force(*above, tail) <= high <= brute_force(*above, tail + 1 / N_LEVELS)
            below = np.append(-values, np.inf), np.append(mass, 1.0)
            assert -brute_force(*below, tail + 1 / N_LEVELS) <= low <= -brute_force(*below, tail)
    assert calibration.upper(0.961, np.array([3.0])) is None
    assert calibration.quantile(0.965, np.array([3.0])) is None
    assert calibration.quantile(0.035, np.array([3.0])) is None


def test_so_many_tasks_are_needed():
    assert [tasks_needed(c) for c in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    assert [tasks_needed(c, signed=True) for c in (0.5, 0.9)] == [3, 19]
    rng = np.random.default_rng(0)
    for n in (8, 9):
        own = rng.random((1, n))[0]
        found = calibration_of({0: (own, np.ones(n), n)})
        assert (found.upper(0.9, np.zeros(1)) is None) == (n < 9)
    assert found.upper(0.9, np.zeros(1)) == own.max()


@pytest.mark.parametrize("n_tasks", [10, 15, 25])
def test_coverage_is_between_the_nominal_and_that_plus_a_share_for_the_new_task(n_tasks):
    """Scores of rows alike within their task, some tasks ten times as hard: no model at all."""
    rng, hits = np.random.default_rng(n_tasks), []
    for _ in range(4000):
        scale = np.where(rng.random(n_tasks + 1) < 0.2, 10.0, 1.0) * rng.exponential(
            size=n_tasks + 1
        )
        values = scale[:, None] * rng.exponential(size=(n_tasks + 1, 5))
        found = calibration_of({1: (values[:-1].ravel(), np.ones(5 * n_tasks), n_tasks)})
        hits.append((values[-1] <= found.upper(0.8, np.ones(1))).mean())
    error = 4.0 * np.std(hits) / np.sqrt(len(hits))
    assert 0.8 - error < np.mean(hits) < 0.8 + 1.0 / (n_tasks + 1) + 1.0 / N_LEVELS + error


# -- coverage of models ---------------------------------------------------------------------------


@pytest.mark.parametrize(("n_tasks", "n_fits"), [(10, 40), (15, 40), (25, 30), (80, 12)])
def test_intervals_hold_for_new_tasks_that_are_not_normal(n_tasks, n_fits):
    """The share of rows inside, its mean over new tasks, for each number of rows of theirs."""
    hits, rng = [], np.random.default_rng(n_tasks)
    for seed in range(n_fits):
        model = MAMLRegressor(random_state=seed, certificate=None).fit(skewed_tasks(n_tasks, rng))
        for A, b in skewed_tasks(10, rng):
            own = [inside(model.predict_interval(A, [0.5, 0.8]), b).mean(axis=0)]
            for k in (1, 4, 8):
                bounds = model.adapt(A[:k], b[:k]).predict_interval(A[k:], [0.5, 0.8])
                own.append(inside(bounds, b[k:]).mean(axis=0))
            hits.append(own)
    hits = np.array(hits).reshape(n_fits, 10, 4, 2).mean(axis=1)
    error = 4.0 * hits.std(axis=0) / np.sqrt(n_fits)
    assert (hits.mean(axis=0) > np.array([0.5, 0.8]) - error).all()
    assert (hits.mean(axis=0) < np.array([0.5, 0.8]) + 1.2 / n_tasks + 0.01 + error).all()


def test_first_rows_have_intervals_of_their_own():
    """Curves that bend: far ahead a line errs more, the fewer its rows are the more."""
    rng = np.random.default_rng(0)

    def curves(n):
        time = np.linspace(0, 1, 12)
        return [
            (time[:, None], rng.normal() * time**2 + rng.normal() + 0.1 * rng.normal(size=12))
            for _ in range(n)
        ]

    model = MAMLRegressor(split="first", random_state=0).fit(curves(150))
    hits = []
    for A, b in curves(150):
        hits.append(
            [
                inside(model.adapt(A[:k], b[:k]).predict_interval(A[k:]), b[k:]).mean()
                for k in (1, 3, 5, 10)
            ]
        )
    assert_allclose(np.mean(hits, axis=0), 0.9, atol=0.05)


def test_other_tasks_calibrate_a_model_that_knows_nothing_of_them():
    """A rule that is wrong by design: intervals hold all the same, and what was fitted stays."""
    rng = np.random.default_rng(5)
    rule = Proximal(100.0, [1.0, 1.0, 1e-3], noise=1e-4)
    model = MAMLRegressor(adaptation=rule, support=3, random_state=0).fit(skewed_tasks(10, rng))
    hits = []
    for _ in range(30):
        other = model.recalibrate(skewed_tasks(12, rng))
        assert other.coef_ is model.coef_
        assert other.calibration_ is not model.calibration_
        for A, b in skewed_tasks(20, rng):
            hits.append(
                inside(other.adapt(A[:3], b[:3]).predict_interval(A[3:], 0.8), b[3:]).mean()
            )
    assert 0.8 - 0.03 < np.mean(hits) < 0.8 + 1 / 13 + 0.03
    assert_allclose(other.calibration_.n_tasks, 12.0)


# -- theta without some tasks ---------------------------------------------------------------------


def refitted(objective, fold, k):
    """The exact minimiser on all tasks but those of a fold."""
    blocks = objective.blocks
    kept = Blocks(blocks.tasks.only(fold != k), blocks.features, blocks.episodes)
    other = objective.vary(blocks=kept)
    return LeastSquares().minimize(other, other.origin()).theta


@pytest.mark.parametrize("n_targets", [0, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("rule", [Proximal(0.7, [1.0, 0.5, 2.0, 1.0]), GradientSteps(0.1, 2)])
def test_theta_without_a_fold_is_that_of_a_fit_without_it(rule, alpha, n_targets):
    y = [np.column_stack([b, A[:, 0] - b]) if n_targets else b for A, b in TASKS]
    tasks = [(A, b) for (A, _), b in zip(TASKS, y, strict=True)]
    model = MAMLRegressor(adaptation=rule, alpha=alpha, support=[1, 4], split="first").fit(tasks)
    objective = objective_on(model, tasks, None, None, np.arange(1.0, 41.0), model._episodes)
    theta = LeastSquares().minimize(objective, objective.origin()).theta
    fold, thetas = folds_of_tasks(objective, theta)
    assert len(thetas) == 20
    for k in (0, 13):
        assert_allclose(thetas[k], refitted(objective, fold, k), rtol=1e-8, atol=1e-9)
        assert np.abs(thetas[k] - theta).max() > 1e-4


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("rank", [4, 3])
def test_of_tasks_that_are_not_scored_theta_always_learns(alpha, rank):
    tasks = [(A if rank == 4 else A[:, [0, 1, 1]], b) for A, b in TASKS]
    rule = Proximal(0.7, [1.0, 0.5, 2.0, 1.0])
    model = MAMLRegressor(adaptation=rule, alpha=alpha, support=[1, 4], split="first").fit(tasks)
    objective = objective_on(model, tasks, None, None, np.arange(1.0, 41.0), model._episodes)
    theta = LeastSquares().minimize(objective, objective.origin()).theta
    members = np.array([3, 5, 8, 20, 21, 39])
    fold, thetas = folds_of_tasks(objective, theta, members)
    assert_array_equal(np.flatnonzero(fold >= 0), members)
    assert len(thetas) == 6
    for k, task in enumerate(members):
        assert fold[task] == k
        assert_allclose(thetas[k], refitted(objective, fold, k), rtol=1e-8, atol=1e-9)
        assert np.abs(thetas[k] - theta).max() > 1e-4


def test_a_direction_that_other_tasks_leave_open_stays_as_it_is():
    """The third feature is that of one task alone; features need not be fewer than rows."""
    tasks = [(np.column_stack([A[:, :2], A[:, 2] * (t == 3)]), b) for t, (A, b) in enumerate(TASKS)]
    rule = Proximal(0.7, [1.0, 0.5, 2.0, 1.0])
    model = MAMLRegressor(adaptation=rule, support=4, split="first").fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    found = solutions_without(objective, theta_of(model), np.arange(40))[3]
    expected = refitted(objective, np.arange(40), 3)
    assert_allclose(found[[0, 1, 3]], expected[[0, 1, 3]], rtol=1e-8)
    assert found[2] == pytest.approx(theta_of(model)[2])


@pytest.mark.parametrize("loss", ["log_cosh", "poisson"])
def test_theta_without_a_fold_is_nearly_that_of_a_fit_where_the_loss_is_no_square(loss):
    tasks = TASKS if loss == "log_cosh" else [(A, np.round(np.exp(0.4 * b))) for A, b in TASKS]
    given = {"loss": loss, "adaptation": Proximal(2.0, "identity"), "support": 4, "split": "first"}
    model = MAMLRegressor(**given).fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    thetas = solutions_without(objective, theta_of(model), np.arange(40) % 10)
    kept = [task for t, task in enumerate(tasks) if t % 10]
    other = theta_of(MAMLRegressor(**given).fit(kept))
    left = np.linalg.norm(thetas[0] - other)
    assert left < 0.5 * np.linalg.norm(theta_of(model) - other)


def test_without_room_for_normal_equations_theta_is_that_of_all():
    objective = objective_on(MODEL, TASKS, None, None, None, MODEL._episodes)
    with sklearn.config_context(working_memory=1e-4):
        fold, thetas = folds_of_tasks(objective, theta_of(MODEL))
    assert_array_equal(thetas, theta_of(MODEL)[None])
    assert not fold.any()


# -- scores ---------------------------------------------------------------------------------------


def test_scores_are_those_of_models_without_the_task_adapted_to_its_first_rows():
    model = MAMLRegressor(
        adaptation=Proximal(0.7, [1.0, 0.5, 2.0, 1.0], noise=0.3, doubt=None),
        support=[2, 5],
        split="first",
    ).fit(TASKS)
    objective = objective_on(model, TASKS, None, None, None, model._episodes)
    score = standardised(model.loss_, model.adaptation_.deviation)
    fold, thetas = folds_of_tasks(objective, theta_of(model))
    found = scores_of_tasks(objective, (fold, thetas), score)
    assert sorted(found) == [0, 2, 5]
    expected = {k: [] for k in found}
    for t, (A, b) in enumerate(TASKS):
        other = clone(model).fit([TASKS[i] for i in np.flatnonzero(fold != fold[t])])
        for k in found:
            predict = other.adapt(A[:k], b[:k]).predict if k else other.predict
            mean, std = predict(A[k:], return_std=True)
            expected[k] += [(b[k:] - mean) / std]
    for k, own in expected.items():
        values, mass, n_tasks, _ = found[k]
        assert_allclose(np.sort(values), np.sort(np.concatenate(own)), rtol=1e-7)
        assert_allclose(mass, 1.0 / len(mass))
        assert n_tasks == pytest.approx(40)


def test_each_task_counts_the_same_however_many_rows_and_draws_it_has():
    tasks = [(A[:n], b[:n]) for (A, b), n in zip(TASKS, 14 * [2, 5, 14], strict=False)]
    model = MAMLRegressor(random_state=0).fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    ones = scores_of_tasks(
        objective, folds_of_tasks(objective, theta_of(model)), lambda q, z, s: 1.0 + 0.0 * z
    )
    sizes = np.array([len(b) for _, b in tasks])
    for k, (values, mass, n_tasks, _) in ones.items():
        assert (values == 1.0).all()
        assert n_tasks == pytest.approx((sizes > k).sum())
        n_draws = 1 if k == 0 else model._episodes.n_episodes
        assert mass.sum() == pytest.approx((sizes > k).sum() / len(tasks) * n_draws)
        assert len(values) == (sizes - k)[sizes > k].sum() * n_draws
    assert_allclose(model.calibration_.n_tasks, [(sizes > k).sum() for k in ones])


def test_many_tasks_are_sampled(monkeypatch):
    monkeypatch.setattr(scores_module, "MOST_TASKS", 30)
    monkeypatch.setattr(scores_module, "MOST_SCORES", 1)
    tasks = make_linear_tasks(n_tasks=150, n_samples=12, n_features=3, random_state=1)
    model = MAMLRegressor(random_state=0).fit(tasks)
    assert_allclose(model.calibration_.n_tasks, 30.0)


# -- what intervals vary with ---------------------------------------------------------------------

COVERAGES = [0.1, 0.5, 0.8, 0.9, 0.95]


@pytest.mark.parametrize("signed", [False, True])
def test_intervals_are_nested_and_finite_and_several_at_once_are_each(signed):
    for asked in (MODEL, MODEL.adapt(X_NEW[:3], Y_NEW[:3])):
        low, high = asked.predict_interval(X_NEW, COVERAGES, signed=signed)
        assert low.shape == high.shape == (len(X_NEW), len(COVERAGES))
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()
        assert (np.diff(low, axis=1) <= 0).all()
        assert (np.diff(high, axis=1) >= 0).all()
        assert (low < high).all()
        for c, *own in zip(COVERAGES, low.T, high.T, strict=True):
            assert_array_equal(asked.predict_interval(X_NEW, c, signed=signed), own)


def test_intervals_are_in_the_units_of_y():
    other = MAMLRegressor(random_state=0).fit([(A, 7.0 - 3.0 * b) for A, b in TASKS])
    adapted = MODEL.adapt(X_NEW[:4], Y_NEW[:4])
    turned = other.adapt(X_NEW[:4], 7.0 - 3.0 * Y_NEW[:4])
    for signed in (False, True):
        low, high = adapted.predict_interval(X_NEW, COVERAGES, signed=signed)
        below, above = turned.predict_interval(X_NEW, COVERAGES, signed=signed)
        # A quantile of the other side is the next of the grid, which may be further out.
        tolerance = 1e-4 if not signed else 0.1
        assert_allclose(below, 7.0 - 3.0 * high, atol=tolerance * 3.0 * (high - low).max())
        assert_allclose(above, 7.0 - 3.0 * low, atol=tolerance * 3.0 * (high - low).max())


def test_intervals_do_not_depend_on_the_order_of_tasks_or_predicted_rows():
    given = {"split": "first", "certificate": None}
    one, other = (MAMLRegressor(**given).fit(tasks) for tasks in (TASKS, TASKS[::-1]))
    # Folds differ with the order, unless each task is one of its own.
    few, turned = (MAMLRegressor(**given).fit(tasks) for tasks in (TASKS[:19], TASKS[18::-1]))
    for pair, tolerance in (((one, other), 0.05), ((few, turned), 1e-6)):
        bounds = [m.adapt(X_NEW[:3], Y_NEW[:3]).predict_interval(X_NEW, 0.8) for m in pair]
        assert_allclose(*bounds, rtol=tolerance, atol=tolerance)
    at = np.random.default_rng(0).permutation(len(X))
    low, high = MODEL.predict_interval(X, groups=G)
    assert_array_equal(MODEL.predict_interval(X[at], groups=G[at]), (low[at], high[at]))


def test_rows_of_several_tasks_have_their_own_tasks_intervals():
    sizes = [1, 2, 4, 7, 14]
    tasks = {f"t{n}": (A[:n], b[:n]) for n, (A, b) in zip(sizes, TASKS, strict=False)}
    rows, y = (np.concatenate(part) for part in zip(*tasks.values(), strict=True))
    labels = np.repeat(list(tasks), sizes)
    adapted = MODEL.adapt_tasks(rows, y, groups=labels)
    for name, (A, b) in tasks.items():
        for given in ({}, {"signed": True}, {"coverage": COVERAGES}):
            expected = MODEL.adapt(A, b).predict_interval(X_NEW, **given)
            own = np.full(len(X_NEW), name)
            found = adapted.predict_interval(X_NEW, groups=own, **given)
            assert_allclose(found, expected, rtol=1e-9)
            assert_allclose(adapted[name].predict_interval(X_NEW, **given), expected, rtol=1e-9)
    unknown = adapted.predict_interval(X_NEW, groups=np.full(len(X_NEW), "other"))
    assert_allclose(unknown, MODEL.predict_interval(X_NEW), rtol=1e-9)
    known = MODEL.predict_interval(X[:14], groups=G[:14])
    assert_allclose(known, MODEL.adapt(X[:14], Y[:14]).predict_interval(X[:14]), rtol=1e-9)
    assert not np.allclose(known, MODEL.predict_interval(X[:14]))


def test_quantiles_between_two_numbers_of_rows_are_between_theirs():
    calibration = MODEL.calibration_
    assert_array_equal(calibration.shots, [0, 1, 2, 3, 5, 10])
    q = calibration.upper(0.9, np.array([3.0, 4.0, 5.0, 10.0, 300.0]))
    assert q[1] == pytest.approx(0.5 * (q[0] + q[2]))
    assert q[3] == q[4]


def test_numbers_of_rows_that_few_tasks_have_are_left_out():
    tasks = [(A[:n], b[:n]) for (A, b), n in zip(TASKS, 5 * [14] + 35 * [6], strict=True)]
    calibration = MAMLRegressor(random_state=0).fit(tasks).calibration_
    assert_allclose(calibration.n_tasks[-2:], [40, 5])
    assert_array_equal(*calibration.upper(0.9, np.array([[5.0], [10.0]]).ravel()).reshape(2, 1))


def test_intervals_are_those_of_the_deviations_that_predict_returns():
    adapted = MODEL.adapt(X_NEW[:3], Y_NEW[:3])
    mean, std = adapted.predict(X_NEW, return_std=True)
    (q,) = MODEL.calibration_.upper(0.9, np.array([3.0]))
    assert_allclose(adapted.predict_interval(X_NEW), (mean - q * std, mean + q * std))
    assert q == pytest.approx(norm.ppf(0.95), rel=0.15)  # these tasks are normal


def test_tasks_of_weight_zero_do_not_count():
    weight = np.repeat([1.0, 0.0], [30, 10])
    given = {"split": "first", "certificate": None}
    one = MAMLRegressor(**given).fit(TASKS, sample_weight=weight)
    other = MAMLRegressor(**given).fit(TASKS[:30])
    assert_allclose(one.calibration_.absolute, other.calibration_.absolute, rtol=1e-5)
    assert_allclose(one.calibration_.n_tasks, 30.0)
    uneven = MAMLRegressor(**given).fit(TASKS, sample_weight=np.repeat([3.0, 1.0], [10, 30]))
    assert_allclose(uneven.calibration_.n_tasks, 60.0**2 / (10 * 9 + 30))


# -- few tasks, and none --------------------------------------------------------------------------


def test_too_few_tasks_for_a_coverage_are_told_and_the_interval_is_the_models_own():
    model = MAMLRegressor(random_state=0).fit(TASKS[:12])
    adapted = model.adapt(X_NEW[:3], Y_NEW[:3])
    with pytest.warns(UserWarning, match=r"^12 calibration tasks .* of 0.95, 0.99 .* takes 99\."):
        low, high = adapted.predict_interval(X_NEW, [0.9, 0.95, 0.99])
    mean, std = adapted.predict(X_NEW, return_std=True)
    assert_allclose(high[:, 1] - mean, norm.ppf(0.975) * std)
    assert_allclose(mean - low[:, 2], norm.ppf(0.995) * std)
    assert not np.allclose(high[:, 0] - mean, norm.ppf(0.95) * std)
    with pytest.warns(
        UserWarning, match=r"0.9 that holds whatever tasks look like, which takes 19"
    ):
        adapted.predict_interval(X_NEW, signed=True)


def test_without_calibration_intervals_are_the_models_own():
    model = MAMLRegressor(random_state=0, calibrate=False).fit(X, Y, groups=G)
    assert model.calibration_ is None
    mean, std = model.predict(X[:4], groups=G[:4], return_std=True)
    low, high = model.predict_interval(X[:4], groups=G[:4])  # without a warning
    half = norm.ppf(0.95) * std
    assert_allclose((low, high), (mean - half, mean + half))
    later = model.recalibrate(TASKS[:20])
    assert not np.allclose(later.predict_interval(X[:4], groups=G[:4]), (low, high))
    for name in ("coef_", "task_coef_"):
        assert_array_equal(getattr(later, name), getattr(MODEL, name))


def test_one_task_calibrates_nothing():
    model = MAMLRegressor().fit([(X_NEW, Y_NEW)])
    assert model.calibration_ is None
    with pytest.warns(UserWarning, match="^0 calibration tasks are too few"):
        model.predict_interval(X_NEW)


# -- rules, losses, features ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{"inner_lr": "auto"}, {"adaptation": GradientSteps(0.1, 2)}])
@pytest.mark.parametrize(
    ("support", "shots"),
    [
        ("all", [0, 1, 2, 3, 5, 10]),
        (0.5, [0, 1, 2, 3, 5, 10]),
        (3, [0, 3]),
        ([2, 5], [0, 2, 5]),
    ],
)
def test_rules_that_know_no_deviation_have_intervals_as_wide_for_all_rows(rule, support, shots):
    given = {**rule, "support": support, "random_state": 0}
    assert MAMLRegressor(**given).fit(TASKS).calibration_ is None
    model = MAMLRegressor(**given, calibrate=True).fit(TASKS[:30])
    assert model.calibration_.shots.tolist() == shots
    hits = []
    for A, b in TASKS[30:]:
        low, high = model.adapt(A[:3], b[:3]).predict_interval(A[3:])
        assert_allclose(high - low, (high - low)[0])
        hits.append(inside((low, high), b[3:]).mean())
    assert np.mean(hits) > 0.8
    with pytest.warns(UserWarning, match="too few for a coverage of 0.99"):
        low, high = model.adapt(A, b).predict_interval(A, 0.99)
    assert np.isfinite(high - low).all()


def targets_of(loss, y):
    """Targets that a loss takes."""
    low, high = loss.target_range
    if high == 1.0:
        return (y > 0).astype(float)
    return np.exp(0.4 * y) if low == 0.0 else y


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_has_intervals_within_the_range_of_targets(name):
    loss = LOSSES[name]()
    tasks = [(A, targets_of(loss, b)) for A, b in TASKS]
    model = MAMLRegressor(loss=name, random_state=0, certificate=None).fit(tasks[:30])
    bounds = [
        model.adapt(A[:3], b[:3]).predict_interval(A[3:], [0.5, 0.9], signed=True)
        for A, b in tasks[30:]
    ]
    low, high = np.moveaxis(bounds, 1, 0)
    y = np.array([b[3:] for _, b in tasks[30:]])
    assert (low >= loss.target_range[0]).all()
    assert (high <= loss.target_range[1]).all()
    assert inside((low, high), y)[..., 1].mean() > 0.8
    mean = loss.inverse_link(np.linspace(-800.0, 800.0, 5)[1:4])
    assert (loss.deviation(mean) > 0).all()


def test_a_mean_beyond_float64_is_an_error_without_bound_not_nan():
    loss = LOSSES["poisson"]()
    score = standardised(loss, lambda V, risk: None)
    objective = objective_on(
        MODEL, TASKS[:1], None, None, None, replace(MODEL._episodes, support=1)
    )
    query = replace(objective.risks(0)[1], loss=loss)
    z = np.full(query.targets.shape, 1000.0)
    assert (score(query, z, None) == np.inf).all()


def test_several_targets_have_intervals_of_their_own():
    both = [(A, np.column_stack([b, 10.0 * np.exp(0.5 * b)])) for A, b in TASKS]
    model = MAMLRegressor(random_state=0).fit(both[:30])
    assert model.predict_interval(X_NEW)[0].shape == (len(X_NEW), 2)
    hits = [
        inside(model.adapt(A[:3], b[:3]).predict_interval(A[3:], [0.8, 0.9]), b[3:]).mean(axis=0)
        for A, b in both[30:]
    ]
    assert np.shape(hits) == (10, 2, 2)
    assert (np.mean(hits, axis=0) > 0.7).all()
    few = MAMLRegressor(random_state=0, calibrate=False).fit(both)
    assert few.predict_interval(X_NEW)[0].shape == (len(X_NEW), 2)


def test_pooled_features_are_scored_as_they_were_made_for_training():
    model = MAMLRegressor(featurizer=PooledPrediction(), random_state=0)
    model.fit(X[:420], Y[:420], groups=G[:420])
    hits = [
        inside(model.adapt(A[:3], b[:3]).predict_interval(A[3:]), b[3:]).mean()
        for A, b in TASKS[30:]
    ]
    assert np.mean(hits) > 0.8


# -- ways to a model ------------------------------------------------------------------------------


def test_pipelines_and_searches_reach_intervals_through_adapt():
    pipe = make_pipeline(StandardScaler(), MAMLRegressor(task_column=3, random_state=0))
    table = np.column_stack([X, G])
    pipe[:-1].fit(table)
    pipe = make_pipeline("passthrough", MAMLRegressor(task_column=3, random_state=0))
    search = GridSearchCV(pipe, {"mamlregressor__alpha": [0.0]}, cv=3).fit(table, Y)
    new = np.column_stack([X_NEW, np.full(len(X_NEW), 99)])
    expected = MODEL.adapt(X_NEW[:3], Y_NEW[:3]).predict_interval(X_NEW, [0.5, 0.9])
    adapted = adapt(search, new[:3], Y_NEW[:3])
    assert_allclose(adapted.predict_interval(new, [0.5, 0.9]), expected, rtol=1e-6)
    assert_allclose(
        clone(adapted).fit(new[:3], Y_NEW[:3]).predict_interval(new, [0.5, 0.9]),
        expected,
        rtol=1e-6,
    )
    tasks = adapt_tasks(search, new[:3], Y_NEW[:3])
    found = tasks.predict_interval(new, [0.5, 0.9])
    assert_allclose(found, expected, rtol=1e-6)
    assert not hasattr(adapted, "predict_set")
    assert not hasattr(tasks, "predict_set")
    transformed = TransformedTargetRegressor(pipe, func=np.negative, inverse_func=np.negative)
    assert not hasattr(adapt(transformed.fit(table, Y), new[:3], Y_NEW[:3]), "predict_interval")


def test_a_task_column_serves_intervals_as_groups_do():
    table = np.column_stack([X, G])
    model = MAMLRegressor(task_column=3, random_state=0).fit(table, Y)
    assert_allclose(model.predict_interval(table), MODEL.predict_interval(X, groups=G), rtol=1e-9)


def test_a_calibration_is_small_and_pickled_with_the_model():
    text = pickle.dumps(MODEL.calibration_)
    assert len(text) < 64 * 1024
    again = pickle.loads(pickle.dumps(MODEL.adapt(X_NEW[:3], Y_NEW[:3])))
    expected = MODEL.adapt(X_NEW[:3], Y_NEW[:3]).predict_interval(X_NEW)
    assert_array_equal(again.predict_interval(X_NEW), expected)


def test_workers_do_not_change_a_calibration():
    other = clone(MODEL).set_params(n_jobs=2).fit(X, Y, groups=G)
    assert_array_equal(other.calibration_.absolute, MODEL.calibration_.absolute)


# -- sets of classes ------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "b", "c"]])
def test_label_sets_hold_the_class_of_new_tasks(labels):
    rng = np.random.default_rng(len(labels))

    def tasks(n):
        found = []
        for A, b in skewed_tasks(n, rng):
            found.append((A, np.array(labels)[np.digitize(b, [-1.0, 2.0][: len(labels) - 1])]))
        return found

    hits = []
    for seed in range(6):
        model = MAMLClassifier(random_state=seed, certificate=None).fit(tasks(30))
        for A, b in tasks(20):
            sets = model.adapt(A[:4], b[:4]).predict_set(A[4:], [0.7, 0.9])
            assert sets.shape == (8, len(labels), 2)
            assert sets.dtype == bool
            assert sets.any(axis=1).all()
            assert (sets[..., 0] <= sets[..., 1]).all()
            code = np.searchsorted(labels, b[4:])
            hits.append(sets[np.arange(8), code].mean(axis=0))
    error = 4.0 * np.std(hits, axis=0) / np.sqrt(len(hits))
    assert (np.mean(hits, axis=0) > [0.7 - error[0], 0.9 - error[1]]).all()


def test_sets_of_known_adapted_and_unknown_tasks_agree():
    rows, y = np.concatenate([A for A, _ in CLASSES]), np.concatenate([c for _, c in CLASSES])
    model = MAMLClassifier(random_state=0).fit(rows, y, groups=G)
    one = model.adapt(*CLASSES[0]).predict_set(X_NEW)
    assert_array_equal(model.predict_set(X_NEW, groups=np.zeros(len(X_NEW), int)), one)
    adapted = model.adapt_tasks(rows, y, groups=G)
    assert_array_equal(adapted.predict_set(X_NEW, groups=np.zeros(len(X_NEW), int)), one)
    assert not hasattr(adapted, "predict_interval")
    share = model.predict_proba(X_NEW)
    (q,) = model.calibration_.upper(0.9, np.zeros(1))
    expected = share >= 1.0 - q
    expected[np.arange(len(share)), share.argmax(axis=1)] = True
    assert_array_equal(model.predict_set(X_NEW), expected)
    pipe = adapt(make_pipeline("passthrough", model).fit(CLASSES), *CLASSES[0])
    assert pipe.predict_set(X_NEW).shape == (len(X_NEW), 3)
    assert not hasattr(pipe, "predict_interval")


def test_with_few_tasks_a_set_is_the_fewest_classes_that_add_up_to_the_coverage():
    share = np.array([[0.6, 0.35, 0.05], [0.05, 0.92, 0.03], [0.4, 0.25, 0.35]])
    expected = [[True, True, False], [False, True, False], [True, True, True]]
    assert_array_equal(own_label_set(share, 0.9), expected)
    model = MAMLClassifier(random_state=0).fit(CLASSES[:6])
    with pytest.warns(UserWarning, match="^6 calibration tasks .* as its probabilities are"):
        found = model.predict_set(X_NEW)
    assert_array_equal(found, own_label_set(model.predict_proba(X_NEW), 0.9))
    off = MAMLClassifier(random_state=0, calibrate=False).fit(CLASSES[:6])
    assert_array_equal(off.predict_set(X_NEW), own_label_set(off.predict_proba(X_NEW), 0.9))


# -- offsets --------------------------------------------------------------------------------------


def test_offsets_move_intervals_as_they_move_predictions():
    offset = np.random.default_rng(0).normal(size=len(X)) * 5.0
    given = {"split": "first", "certificate": None, "random_state": 0}  # starts go by its folds
    model = MAMLRegressor(offset_column=3, **given)
    model.fit(np.column_stack([X, offset]), Y + offset, groups=G)
    plain = MAMLRegressor(**given).fit(X, Y, groups=G)
    moved = np.column_stack([X_NEW, np.full(len(X_NEW), 7.0)])
    adapted = model.adapt(moved[:3], Y_NEW[:3] + 7.0)
    expected = plain.adapt(X_NEW[:3], Y_NEW[:3]).predict_interval(X_NEW)
    assert_allclose(adapted.predict_interval(moved), np.add(expected, 7.0), rtol=1e-6)


def test_counts_and_classes_are_scored_with_their_offsets():
    """Exposures differ a hundredfold: without them no interval would be of use."""
    rng = np.random.default_rng(1)
    exposure = np.exp(rng.uniform(0.0, np.log(100.0), size=len(X)))
    counts = rng.poisson(exposure * np.exp(0.3 * Y)).astype(float)
    table = np.column_stack([X, np.log(exposure)])
    given = {"offset_column": 3, "random_state": 0, "certificate": None}
    model = MAMLRegressor(loss="poisson", **given).fit(table[:420], counts[:420], groups=G[:420])
    low, high = model.adapt(table[420:425], counts[420:425]).predict_interval(table[425:434])
    assert inside((low, high), counts[425:434]).mean() > 0.7
    assert np.corrcoef(high - low, np.sqrt(exposure[425:434]))[0, 1] > 0.5
    scale = standardised(model.loss_, lambda V, risk: None)
    objective = objective_on(model, table, counts, G, None, model._episodes)
    query = objective.risks(0)[1]
    z = query.predict(theta_of(model))
    truth, offset = query.targets.real, query.targets.imag
    mean = np.exp(z + offset)
    assert_allclose(scale(query, z, None), (truth - mean) / np.sqrt(mean))
    labels = (Y + table[:, 3] > 1.0).astype(int)
    classifier = MAMLClassifier(**given).fit(table[:420], labels[:420], groups=G[:420])
    sets = classifier.predict_set(table[420:])
    assert sets[np.arange(140), labels[420:]].mean() > 0.8


def test_a_level_that_masses_reach_exactly_takes_the_value_that_reaches_it():
    # Ten tenths add up to less than 1, three to more than 0.3: neither may cost a value.
    levels = np.arange(1, 11) / 10
    values = np.arange(1.0, 11.0)
    assert_array_equal(weighted_quantiles(values, np.full(10, 0.1), levels), values)


def test_a_class_as_improbable_as_the_bound_allows_is_in_the_set():
    found = label_set(np.array([[0.5, 0.25, 0.25], [0.75, 0.125, 0.125]]), np.array([0.75, 0.75]))
    assert found.tolist() == [[True, True, True], [True, False, False]]


# -- quantiles ------------------------------------------------------------------------------------

QUANTILES = [0.05, 0.3, 0.5, 0.7, 0.95]


def test_quantiles_are_the_ends_of_signed_intervals_and_do_not_cross():
    many = MODEL.adapt_tasks(X, Y, groups=G)
    for each, given in (
        (MODEL, {}),
        (MODEL, {"groups": G}),
        (many, {"groups": G}),
        (MODEL.adapt(X_NEW[:3], Y_NEW[:3]), {}),
    ):
        found = each.predict_quantile(X, QUANTILES, **given)
        assert found.shape == (len(X), 5)
        assert (np.diff(found, axis=1) >= 0).all()
        for q, own in zip(QUANTILES, found.T, strict=True):
            assert_array_equal(each.predict_quantile(X, q, **given), own)
        low, high = each.predict_interval(X, [0.9, 0.4], signed=True, **given)
        assert_allclose(found[:, [0, 1, 3, 4]], np.stack([*low.T, *high.T])[[0, 1, 3, 2]].T)
        assert_array_equal(each.predict_quantile(X, **given), found[:, 2])


def test_a_median_is_that_of_scores_and_other_quantiles_are_on_the_safe_side():
    rng = np.random.default_rng(5)
    values, mass = rng.exponential(size=300), np.ones(300)
    calibration = calibration_of({2: (values, mass, 30)})
    at = np.array([2.0])
    assert_allclose(calibration.quantile(0.5, at), brute_force(values, mass, 0.5))
    one_more = 31.0 / 30.0
    above = calibration.quantile(0.8, at)[0]
    assert brute_force(values, mass, 0.8 * one_more) <= above
    assert above <= brute_force(values, mass, 0.8 * one_more + 1 / N_LEVELS)
    below = calibration.quantile(0.2, at)[0]
    assert brute_force(values, mass, 1 - 0.8 * one_more - 1 / N_LEVELS) <= below
    assert below <= brute_force(values, mass, 1 - 0.8 * one_more)
    assert calibration.quantile(0.97, at) is None
    assert calibration.quantile(0.03, at) is None


def test_quantiles_hold_for_new_tasks_with_skewed_errors():
    """Where the normal distribution's do not: errors are exponential, less their mean."""
    rng, below = np.random.default_rng(6), []
    for _ in range(8):
        model = MAMLRegressor(random_state=0).fit(skewed_tasks(80, rng))
        for A, b in skewed_tasks(150, rng):
            found = model.adapt(A[:5], b[:5]).predict_quantile(A[5:], [0.1, 0.5, 0.9])
            below.append((b[5:, None] <= found).mean(axis=0))
    share, error = np.mean(below, axis=0), np.std(below, axis=0) / np.sqrt(len(below))
    assert share[0] <= 0.1 + 4 * error[0]
    assert share[2] >= 0.9 - 4 * error[2]
    assert_allclose(share, [0.1, 0.5, 0.9], atol=0.03)


def test_with_few_tasks_quantiles_are_those_of_normal_errors_and_told():
    model = MAMLRegressor(random_state=0).fit(TASKS[:8])
    mean, std = model.predict(X_NEW, return_std=True)
    with pytest.warns(UserWarning, match="^8 calibration tasks .* quantile of 0.05, 0.95 .* 19"):
        found = model.predict_quantile(X_NEW, QUANTILES)
    for at in (0, 4):
        assert_allclose(found[:, at], mean + norm.ppf(QUANTILES[at]) * std)
    steps = MAMLRegressor(0.1, calibrate=False).fit(TASKS)
    with pytest.raises(ValueError, match="knows no intervals"):
        steps.predict_quantile(X_NEW)
    for wrong, error in ((1.0, ValueError), ("half", TypeError), ([], TypeError)):
        with pytest.raises(error, match="quantile must be"):
            MODEL.predict_quantile(X_NEW, wrong)


def test_quantiles_of_counts_and_of_several_targets_and_through_pipelines():
    counts = [(A, np.random.default_rng(i).poisson(np.exp(0.3 * b))) for i, (A, b) in TASKS_AT]
    model = MAMLRegressor(loss="poisson", random_state=0).fit(counts)
    found = model.predict_quantile(X_NEW, [0.1, 0.9])
    assert (found >= 0.0).all()
    mean = model.predict(X_NEW)
    assert (found[:, 1] - mean > mean - found[:, 0]).mean() > 0.5  # further up than down
    two = MAMLRegressor(random_state=0).fit(X, np.column_stack([Y, -Y]), groups=G)
    assert two.predict_quantile(X_NEW).shape == (len(X_NEW), 2)
    assert two.predict_quantile(X_NEW, [0.2, 0.8]).shape == (len(X_NEW), 2, 2)
    pipe = make_pipeline(StandardScaler(), MAMLRegressor(random_state=0))
    with sklearn.config_context(enable_metadata_routing=True):
        pipe.fit(X, Y, groups=G)
    own = adapt(pipe, X_NEW[:4], Y_NEW[:4])
    low, high = own.predict_interval(X_NEW, 0.6, signed=True)
    assert_allclose(own.predict_quantile(X_NEW, [0.2, 0.8]), np.stack([low, high], axis=1))
