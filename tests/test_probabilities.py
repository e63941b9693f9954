"""Probabilities of classes: temperatures against integrals, simulations and other solvers."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from sklearn_maml import (
    GradientSteps,
    MAMLClassifier,
    adapt,
    few_shot_curve,
    few_shot_scorer,
    load_model,
)
from sklearn_maml._intervals.scores import TaskScores
from sklearn_maml._intervals.temperature import (
    FURTHEST,
    Temperature,
    misfits,
    misfits_of_tasks,
    odds_and_class,
    slope_and_curvature,
    temperature_of,
)
from sklearn_maml._tasks.classes import probabilities


def own_share(odds, codes, temperature=1.0):
    """Probabilities of the classes that rows have, of odds (1, n) or (n_classes, n)."""
    share = probabilities(odds.T if len(odds) > 1 else odds[0], temperature)
    return share[np.arange(len(codes)), codes]


def scores_of(odds, codes, owner):
    """`TaskScores` in which each task counts the same."""
    mass = 1.0 / np.bincount(owner)[owner]
    return TaskScores(np.vstack([odds, codes]), mass, len(np.unique(owner)), owner)


def drawn(odds, rng):
    """Classes of rows whose probabilities are those of odds (1, n) or (n_classes, n)."""
    share = probabilities(odds.T if len(odds) > 1 else odds[0])
    return (rng.random(len(share))[:, None] > share.cumsum(axis=1)).sum(axis=1)


def random_odds(rng, n_classes, n_rows):
    return 2.0 * rng.normal(size=(1 if n_classes == 2 else n_classes, n_rows))


# -- one temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_slopes_and_curvatures_are_those_of_differences(n_classes):
    rng = np.random.default_rng(n_classes)
    odds, codes = random_odds(rng, n_classes, 40), rng.integers(n_classes, size=40)

    def loss(x):
        return -np.log(own_share(odds, codes, np.exp(-x)))

    for x, step in ((-0.7, 1e-4), (0.0, 1e-4), (0.9, 1e-4)):
        slope, curvature = slope_and_curvature(odds, codes, x)
        assert_allclose(slope, (loss(x + step) - loss(x - step)) / (2 * step), atol=1e-6)
        second = (loss(x + step) - 2 * loss(x) + loss(x - step)) / step**2
        assert_allclose(curvature, second, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_scores_that_are_too_sure_by_a_factor_are_divided_by_it(n_classes, factor):
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(1000), 20)
    odds = random_odds(rng, n_classes, len(owner))
    codes = drawn(odds, rng)
    found = temperature_of({3: scores_of(factor * odds, codes, owner)})
    assert_allclose(found.at(np.array([3.0])), factor, rtol=0.04)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_temperature_is_that_of_the_smallest_log_loss_less_what_tasks_do_not_agree_on(n_classes):
    """Against another solver, and the jackknife over tasks."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(60), rng.integers(2, 40, size=60))
    odds = random_odds(rng, n_classes, len(owner))
    codes = drawn(0.7 * odds * np.exp(0.3 * rng.normal(size=60))[owner], rng)

    def best(kept):
        mass = kept / np.bincount(owner)[owner]
        loss = lambda x: -mass @ np.log(own_share(odds, codes, np.exp(-x)))  # noqa: E731
        return minimize_scalar(loss, bounds=(-1.5, 1.5), options={"xatol": 1e-8}).x

    x = best(np.ones(len(owner)))
    without = np.array([best(owner != t) for t in range(60)])
    variance = 59 / 60 * np.square(without - without.mean()).sum()
    assert variance < 0.2 * x**2
    (found,) = temperature_of({1: scores_of(odds, codes, owner)}).value
    assert_allclose(-np.log(found), x - variance / x, rtol=0.02)


def test_of_scores_of_one_size_the_temperature_is_known_in_closed_form():
    """With shares s_t of rows on the side of their score, m on average: ``1 / T = logit(m)``."""
    shares, n_rows = np.array([0.6, 0.7, 0.6, 0.6]), 10
    owner = np.repeat(np.arange(4), n_rows)
    right = np.concatenate([np.arange(n_rows) < round(n_rows * s) for s in shares])
    odds = np.where(np.arange(40) % 2, 1.0, -1.0)[None]
    codes = np.where(right, odds[0] > 0, odds[0] < 0).astype(int)
    m = shares.mean()
    x, variance = np.log(logit(m)), 4 / 3 * np.square(shares - m).sum() / 16
    deviation = np.sqrt(variance) / (logit(m) * m * (1 - m))
    (found,) = temperature_of({1: scores_of(odds, codes, owner)}).value
    assert_allclose(-np.log(found), x - deviation**2 / x, rtol=1e-7)


def test_where_tasks_do_not_agree_or_say_nothing_scores_stay_as_they_are():
    rng = np.random.default_rng(2)
    owner = np.repeat(np.arange(8), 5)
    odds = random_odds(rng, 2, 40)
    codes = (odds[0] > 0).astype(int)
    codes[owner % 2 == 0] = 1 - codes[owner % 2 == 0]  # half of the tasks are the other way round
    flat = scores_of(np.zeros((1, 40)), codes, owner)
    alone = scores_of(odds, codes, np.zeros(40, dtype=int))
    found = temperature_of({1: scores_of(odds, codes, owner), 2: flat, 3: alone})
    assert found.shots.tolist() == [1, 2, 3]
    assert found.value[1:].tolist() == [1.0, 1.0]
    assert 0.9 < found.value[0] <= FURTHEST


def test_no_temperature_is_far_from_one():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(100), 20)
    odds = random_odds(rng, 2, 2000)
    right = (odds[0] > 0).astype(int)
    scores = {1: scores_of(odds, right, owner), 2: scores_of(odds, 1 - right, owner)}
    sure, wrong = temperature_of(scores).value
    assert 1.0 / FURTHEST <= sure < 0.4
    assert 2.5 < wrong <= FURTHEST


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("factor", [3.0, 10.0, 30.0])
def test_scores_that_are_far_too_small_have_the_bound(n_classes, factor):
    """The log loss falls up to the bound, and bends down there: all tasks agree all the same."""
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(1000), 20)
    odds = 0.1 * random_odds(rng, n_classes, len(owner))
    codes = drawn(factor * odds, rng)
    (found,) = temperature_of({0: scores_of(odds, codes, owner)}).value
    assert_allclose(found, 1.0 / min(factor, FURTHEST), rtol=0.1)


def test_temperatures_between_numbers_of_rows_are_between_and_level_outside():
    temperature = Temperature(np.array([0, 2, 10]), np.array([1.5, 1.1, 0.9]))
    assert_allclose(temperature.at(np.array([0, 1, 2, 6, 10, 99])), [1.5, 1.3, 1.1, 1.0, 0.9, 0.9])


def test_misfits_are_one_minus_the_probabilities_of_the_class():
    odds, codes = np.array([[logit(0.9), logit(0.2)]]), np.array([1, 1])
    assert_allclose(misfits(np.vstack([odds, codes])), [0.1, 0.8])
    three = np.log([[3.0, 1.0], [1.0, 1.0], [1 / 3, 1.0]])  # against the rest: 3/4, 1/2, 1/4
    assert_allclose(misfits(np.vstack([three, [0, 2]])), [0.5, 2 / 3])
    assert_allclose(misfits(np.vstack([2.0 * three, [0, 2]]), 2.0), [0.5, 2 / 3])


def test_what_is_collected_of_rows_is_their_log_odds_with_offsets_and_their_class():
    z = np.arange(6.0).reshape(2, 3)
    query = SimpleNamespace(targets=np.array([[0, 1, 1], [1, 0, 1]]) + 0.5j)
    odds, codes = odds_and_class(query, z, None)
    assert_allclose(odds, z + 0.5)
    assert_array_equal(codes, [[0, 1, 1], [1, 0, 1]])
    query = SimpleNamespace(targets=np.eye(3)[[[2, 0], [1, 1]]].transpose(2, 0, 1))
    three = np.arange(12.0).reshape(3, 2, 2)
    *odds, codes = odds_and_class(query, three, None)
    assert_allclose(odds, three)
    assert_array_equal(codes, [[2, 0], [1, 1]])


def test_label_sets_are_calibrated_at_the_temperatures_of_their_numbers_of_rows():
    rng = np.random.default_rng(4)
    owner = np.repeat(np.arange(30), 6)
    odds = random_odds(rng, 3, 180)
    scores = dict.fromkeys((1, 5), scores_of(odds, drawn(odds, rng), owner))
    temperature = Temperature(np.array([1, 5]), np.array([3.0, 0.5]))
    found = misfits_of_tasks(scores, temperature)
    plain = misfits_of_tasks(scores, None)
    for k, value in ((1, 3.0), (5, 0.5)):
        assert_array_equal(found[k].values, misfits(scores[k].values, value))
        assert_array_equal(plain[k].values, misfits(scores[k].values))
        assert found[k][1:] == scores[k][1:]


# -- models ---------------------------------------------------------------------------------------


def logistic_tasks(n_tasks, n_rows, spread, rng, n_classes=2):
    """Tasks whose log odds are 1.5 x plus a level of their own."""
    tasks = []
    for _ in range(n_tasks):
        X = rng.normal(size=(n_rows, 1))
        z = 1.5 * X[:, 0] + spread * rng.normal() + rng.logistic(size=n_rows)
        y = (z > 0) if n_classes == 2 else np.digitize(z, [-1.0, 1.0])
        tasks.append((X, np.array(["a", "b", "c"])[y.astype(int)]))
    return tasks


def flat(tasks):
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    return X, y, np.repeat(np.arange(len(tasks)), [len(part) for _, part in tasks])


def fitted(n_classes=2, spread=2.0, **given):
    tasks = logistic_tasks(120, 14, spread, np.random.default_rng(0), n_classes)
    X, y, groups = flat(tasks)
    return MAMLClassifier(random_state=0, **given).fit(X, y, groups=groups)


MODEL, THREE = fitted(), fitted(3)
NEW = logistic_tasks(60, 14, 2.0, np.random.default_rng(1))
NEW_THREE = logistic_tasks(60, 14, 2.0, np.random.default_rng(1), 3)


def test_probabilities_of_an_unknown_group_are_nearly_the_integral_over_groups():
    """Of expit(1.5 x + 2 u) over normal u, by Gauss-Hermite; scores alone are too sure."""
    tasks = logistic_tasks(800, 14, 2.0, np.random.default_rng(2))
    model = MAMLClassifier(random_state=0).fit(tasks)
    X = np.linspace(-3, 3, 61)[:, None]
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    exact = expit(1.5 * X + 2.0 * nodes) @ weight / weight.sum()
    found, plain = model.predict_proba(X)[:, 1], expit(model.decision_function(X))
    assert np.abs(plain - exact).max() > 0.04
    assert np.abs(found - exact).max() < 0.035
    assert np.abs(found - exact).mean() < 0.6 * np.abs(plain - exact).mean()


def test_where_tasks_are_alike_or_have_many_rows_probabilities_are_those_of_the_scores():
    alike = MAMLClassifier(random_state=0).fit(
        logistic_tasks(400, 14, 0.0, np.random.default_rng(3))
    )
    assert_allclose(alike.calibration_.temperature.value, 1.0, atol=0.06)
    many = MAMLClassifier(support=200, random_state=0)
    many.fit(logistic_tasks(150, 260, 2.0, np.random.default_rng(4)))
    unknown, known = many.calibration_.temperature.value
    assert unknown > 1.2
    assert_allclose(known, 1.0, atol=0.03)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_held_out_tasks_are_predicted_better(n_classes):
    model = MODEL if n_classes == 2 else THREE
    X, y, _ = flat(logistic_tasks(600, 14, 2.0, np.random.default_rng(9), n_classes))
    plain = probabilities(model.decision_function(X))
    found = model.predict_proba(X)
    assert log_loss(y, found) < log_loss(y, plain) - 0.001


@pytest.mark.parametrize(("model", "tasks"), [(MODEL, NEW), (THREE, NEW_THREE)])
def test_known_adapted_and_unknown_groups_have_the_temperatures_of_their_rows(model, tasks):
    at = model.calibration_.temperature.at
    X, y, groups = flat(tasks)
    adapted = model.adapt_tasks(X, y, groups=groups)
    expected = probabilities(adapted.decision_function(X, groups=groups), at(14.0))
    assert_allclose(adapted.predict_proba(X, groups=groups), expected, rtol=1e-12)
    labels = np.full(len(X), 999)
    unknown = probabilities(model.decision_function(X), at(0.0))
    assert at(0.0) != 1.0
    assert_allclose(model.predict_proba(X), unknown, rtol=1e-12)
    assert_allclose(model.predict_proba(X, groups=labels), unknown, rtol=1e-12)
    assert_allclose(adapted.predict_proba(X, groups=labels), unknown, rtol=1e-12)
    own = model.decision_function(X, groups=groups)
    assert_allclose(model.predict_proba(X, groups=groups), probabilities(own, at(14.0)))
    for k in (1, 4):
        one = model.adapt(X[:k], y[:k])
        share = probabilities(one.decision_function(X), at(float(k)))
        assert_allclose(one.predict_proba(X), share, rtol=1e-12)
        assert_allclose(one.to_linear().predict_proba(X), share, rtol=1e-10)
        many = model.adapt_tasks([(X[:k], y[:k]), (X[14 : 14 + k], y[14 : 14 + k])])
        assert_allclose(many[0].predict_proba(X), share, rtol=1e-12)
        assert_allclose(many.predict_proba(X, groups=np.zeros(len(X), int)), share, rtol=1e-12)
    uneven = model.adapt_tasks([(X[:1], y[:1]), (X[14:19], y[14:19])])
    which = np.resize([1, 0, 999], len(X))
    found = uneven.predict_proba(X, groups=which)
    for label, one in ((0, uneven[0]), (1, uneven[1]), (999, model)):
        rows = which == label
        assert_allclose(found[rows], one.predict_proba(X[rows]), rtol=1e-12)


@pytest.mark.parametrize(("model", "tasks"), [(MODEL, NEW), (THREE, NEW_THREE)])
def test_classes_are_the_most_probable_and_what_scores_say(model, tasks):
    X, y, _ = flat(tasks)
    for each in (model, model.adapt(X[:3], y[:3])):
        assert_array_equal(each.predict(X), each.classes_[each.predict_proba(X).argmax(axis=1)])
        scores = each.decision_function(X)
        best = scores.argmax(axis=1) if scores.ndim == 2 else (scores > 0).astype(int)
        assert_array_equal(each.predict(X), each.classes_[best])
        assert_allclose(each.predict_proba(X).sum(axis=1), 1.0)


@pytest.mark.parametrize(("model", "tasks"), [(MODEL, NEW), (THREE, NEW_THREE)])
def test_label_sets_are_those_of_the_probabilities(model, tasks):
    X, y, _ = flat(tasks)
    for k in (0, 2, 5):
        each = model.adapt(X[:k], y[:k]) if k else model
        (bound,) = model.calibration_.upper(0.8, np.array([float(k)]))
        share = each.predict_proba(X)
        expected = share >= 1.0 - bound
        expected[np.arange(len(X)), share.argmax(axis=1)] = True
        assert_array_equal(each.predict_set(X, 0.8), expected)


def test_without_calibration_probabilities_are_those_of_the_scores():
    X, y, _ = flat(NEW)
    for model in (fitted(calibrate=False), fitted(adaptation=GradientSteps(0.5), support=3)):
        assert model.calibration_ is None
        for each in (model, model.adapt(X[:5], y[:5])):
            assert_allclose(each.predict_proba(X)[:, 1], expit(each.decision_function(X)))
    steps = fitted(adaptation=GradientSteps(0.5), support=3, calibrate=True)
    assert steps.calibration_.temperature.shots.tolist() == [0, 3]


def test_recalibrating_leaves_probabilities_as_they_are():
    X, _, _ = flat(NEW)
    exact = MODEL.recalibrate(NEW)
    assert exact.calibration_.temperature is MODEL.calibration_.temperature
    assert_array_equal(exact.predict_proba(X), MODEL.predict_proba(X))
    assert fitted(calibrate=False).recalibrate(NEW).calibration_.temperature is None


def test_more_tasks_by_partial_fit_leave_no_temperature():
    X, y, groups = flat(NEW)
    model = fitted().partial_fit(X, y, groups=groups + 1000)
    assert model.calibration_ is None
    assert_allclose(model.predict_proba(X)[:, 1], expit(model.decision_function(X)))


def test_a_saved_model_has_the_same_probabilities(tmp_path):
    X, y, _ = flat(NEW)
    MODEL.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert_array_equal(loaded.predict_proba(X), MODEL.predict_proba(X))
    assert_array_equal(
        loaded.adapt(X[:3], y[:3]).predict_proba(X), MODEL.adapt(X[:3], y[:3]).predict_proba(X)
    )


@pytest.mark.parametrize(("model", "tasks"), [(MODEL, NEW), (THREE, NEW_THREE)])
def test_scorers_and_curves_judge_the_probabilities_that_a_user_gets(model, tasks):
    tasks = [(X, y) for X, y in tasks]
    for k in (0, 1, 5):
        curve = few_shot_curve(model, tasks, supports=[k], n_draws=1, random_state=0)
        with_plain = few_shot_curve(
            model, tasks, supports=[k], n_draws=1, random_state=0, adaptation=model.adaptation_
        )
        assert (curve.mean != with_plain.mean).all() == (
            model.calibration_.temperature.at(float(k)) != 1.0
        )
    first = few_shot_scorer("neg_log_loss", support=[1, 4], split="first")(model, tasks)
    truth, share = [], []
    for k in (1, 4):
        for X, y in tasks:
            share.append(adapt(model, X[:k], y[:k]).predict_proba(X[k:]))
            truth.append(y[k:])
    expected = log_loss(np.concatenate(truth), np.concatenate(share))
    assert_allclose(first, -expected, rtol=1e-10)
    none = few_shot_curve(model, tasks, supports=[0])
    shares = [model.predict_proba(X) for X, _ in tasks]
    expected = [
        log_loss(y, share, labels=model.classes_)
        for (_, y), share in zip(tasks, shares, strict=True)
    ]
    assert_allclose(none.task_errors[0], expected, rtol=1e-10)


def test_offsets_are_part_of_the_scores():
    X, y, groups = flat(NEW)
    X = np.column_stack([X, np.linspace(-1, 1, len(X))])
    model = MAMLClassifier(offset_column=1, random_state=0).fit(X, y, groups=groups)
    z = X[:, 0] * model.coef_[0] + model.intercept_ + X[:, 1]
    known = model.calibration_.temperature.at(0.0)
    assert known != 1.0
    assert_allclose(model.predict_proba(X)[:, 1], expit(z / known))
