"""Fits to sums: many calls, parts and merged models give what one fit to all rows gives."""

import io
import pickle
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from small_parts import HalfSquaredError, Shift

import sklearn_maml
from sklearn_maml import (
    SGD,
    GradientSteps,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    TaskStatistics,
    load_model,
    task_statistics,
)
from sklearn_maml._storage import pack
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.moments import moments as feature_moments
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml._tasks.statistics import joined_labels
from sklearn_maml._tasks.summaries import SummaryBlocks, summarise

RNG = np.random.default_rng(0)
N_TASKS, D = 80, 3
SIZES = RNG.integers(1, 25, size=N_TASKS)
G = np.repeat(np.arange(N_TASKS), SIZES)
X = RNG.normal([1.0, -2.0, 0.0], [1.0, 3.0, 0.1], size=(len(G), D))
OWN = RNG.normal([1.0, 0.5, 2.0, 3.0], [0.5, 0.1, 1.0, 2.0], size=(N_TASKS, D + 1))
Y = (X * OWN[G, :D]).sum(axis=1) + OWN[G, D] + 0.5 * RNG.normal(size=len(G))
TWO = np.column_stack([Y, X[:, 0] - 2.0 * Y])
WEIGHT = RNG.uniform(0.5, 2.0, size=len(G)) * (RNG.random(len(G)) < 0.9)
WEIGHT[np.unique(G, return_index=True)[1]] = 1.0  # no task is left out
# Ends of calls; a call may hold one task.
PARTS = [slice(*np.searchsorted(G, ends)) for ends in ((0, 1), (1, 30), (30, 33), (33, N_TASKS))]

# As many draws as `fit` chooses for so few tasks.
AUTO = {"n_episodes": 13, "random_state": 0}


def streamed(model, y=Y, parts=PARTS, weight=None, groups=G):
    model = clone(model)
    for part in parts:
        own = None if weight is None else weight[part]
        model.partial_fit(X[part], y[part], groups=groups[part], sample_weight=own)
    return model


def assert_same(one, other, rtol):
    for name in ("coef_", "intercept_", "task_coef_", "task_intercept_", "meta_loss_"):
        assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol)
    assert_array_equal(one.task_ids_, other.task_ids_)
    bound = one.gap_certificate_.bound
    assert bound == pytest.approx(other.gap_certificate_.bound, rel=0.5, abs=1e-9)


GIVEN = {
    "one step": (MAMLRegressor(0.05), Y, None),
    "auto steps": (
        MAMLRegressor("auto", 5, support=[2, 5, 0], n_episodes=3, random_state=1),
        Y,
        None,
    ),
    "first rows": (MAMLRegressor(0.1, 2, support=[0, 3], split="first"), Y, None),
    "draws": (MAMLRegressor(0.1, support=[0, 1, 2], n_episodes=2), Y, WEIGHT),
    "proximal": (MAMLRegressor(adaptation=Proximal(0.5, [1, 1, 2, 3.0])), Y, WEIGHT),
    "two targets": (MAMLRegressor(adaptation=Proximal(0.5, "identity"), support=[0, 4]), TWO, None),
    "penalty": (MAMLRegressor(0.1, alpha=0.3, fit_intercept=False), Y, WEIGHT),
    "pooled": (MAMLRegressor(n_steps=0), Y, WEIGHT),
}


@pytest.mark.parametrize(("model", "y", "weight"), GIVEN.values(), ids=GIVEN)
def test_calls_with_a_given_rule_are_one_fit(model, y, weight):
    model = clone(model).set_params(random_state=0)
    whole = clone(model).fit(X, y, groups=G, sample_weight=weight)
    part = streamed(model, y, weight=weight)
    assert_same(part, whole, 1e-10)
    noise = [getattr(m.adaptation_, "noise", None) for m in (part, whole)]
    if noise[0] is not None:
        assert_allclose(noise[0].variance, noise[1].variance, rtol=1e-10)
    assert getattr(part, "capped_share_", 0.0) == pytest.approx(getattr(whole, "capped_share_", 0))


LEARNED = {
    "default": (MAMLRegressor(**AUTO), Y, None),
    "weights": (MAMLRegressor(**AUTO), Y, WEIGHT),
    "two targets": (MAMLRegressor(**AUTO), TWO, None),
    "no intercept": (MAMLRegressor(fit_intercept=False, **AUTO), Y, WEIGHT),
    "all rows": (MAMLRegressor(adaptation=Proximal(metric="full"), support="all"), Y, None),
    "diagonal": (
        MAMLRegressor(adaptation=Proximal(metric="diagonal", criterion="reml"), **AUTO),
        Y,
        None,
    ),
    "query": (MAMLRegressor(adaptation=Proximal(metric="diagonal"), **AUTO), Y, None),
    "low rank": (MAMLRegressor(adaptation=Proximal(metric="low_rank"), **AUTO), Y, None),
    "first rows": (MAMLRegressor(split="first", random_state=0), Y, None),
    "lengths": (
        MAMLRegressor(adaptation=GradientSteps("learn"), support=[0, 3], random_state=0),
        Y,
        None,
    ),
}


@pytest.mark.parametrize(("model", "y", "weight"), LEARNED.values(), ids=LEARNED)
def test_calls_learn_the_rule_of_one_fit(model, y, weight):
    whole = clone(model).fit(X, y, groups=G, sample_weight=weight)
    part = streamed(model, y, weight=weight)
    assert_same(part, whole, 1e-8)
    rules = [m.adaptation_ for m in (part, whole)]
    if isinstance(rules[0], Proximal):
        assert_allclose(rules[0].strength, rules[1].strength, rtol=1e-8)
        covariances = [rule.metric.covariance for rule in rules]
        assert_allclose(*covariances, rtol=1e-8, atol=1e-8 * covariances[0].max())
        assert_allclose(rules[0].noise.variance, rules[1].noise.variance, rtol=1e-8)
        pair = [m.predict(X, groups=G, return_std=True)[1] for m in (part, whole)]
        assert_allclose(*pair, rtol=1e-7)
        errors = [m.random_effects().standard_errors for m in (part, whole)]
        assert_allclose(*errors, rtol=1e-7, atol=1e-9)
    else:
        assert_allclose(rules[0].inner_lr, rules[1].inner_lr, rtol=1e-7)


def test_choices_from_samples_of_the_tasks_are_those_of_one_fit(monkeypatch):
    """Of tasks for the strength, for the noise, to start from; and of draws."""
    monkeypatch.setattr("sklearn_maml._learning.variable_projection.TASKS_FOR_SCALE", 60)
    monkeypatch.setattr("sklearn_maml._learning.variable_projection.ROWS_FOR_SCALE", 9000)
    monkeypatch.setattr("sklearn_maml._learning.noise.TASKS_FOR_NOISE", 50)
    monkeypatch.setattr("sklearn_maml._learning.random_effects.MANY_TASKS", 70)
    model = MAMLRegressor(**AUTO)
    whole, part = clone(model).fit(X, Y, groups=G), streamed(model)
    assert_same(part, whole, 1e-8)
    assert_allclose(part.adaptation_.strength, whole.adaptation_.strength, rtol=1e-8)
    assert_allclose(part.adaptation_.noise.variance, whole.adaptation_.noise.variance, rtol=1e-8)


def test_each_call_leaves_a_fitted_model_of_the_tasks_so_far():
    model, rows = MAMLRegressor(n_episodes=20, random_state=0), slice(0, PARTS[1].stop)
    streamed_so_far = streamed(model, parts=PARTS[:2])
    assert_same(streamed_so_far, clone(model).fit(X[rows], Y[rows], groups=G[rows]), 1e-8)
    adapted = streamed_so_far.adapt(X[-5:], Y[-5:])
    assert np.isfinite(adapted.predict(X, return_std=True)).all()
    assert np.isfinite(streamed_so_far.score(X, Y, groups=G))
    assert streamed_so_far.certify(X, Y, groups=G).bound < np.inf


def test_lists_of_tasks_are_streamed_too_and_have_no_names():
    tasks = [(X[i == G], Y[i == G]) for i in range(N_TASKS)]
    model = MAMLRegressor(**AUTO)
    whole, part = clone(model).fit(tasks), clone(model).partial_fit(tasks[:7])
    part.partial_fit(tasks[7:])
    assert_allclose(part.coef_, whole.coef_, rtol=1e-8)
    assert_array_equal(part.task_ids_, np.arange(N_TASKS))
    assert part.task_coef_ is None


def test_a_task_column_and_names_of_columns_are_streamed():
    frame = pd.DataFrame(X, columns=list("abc")).assign(store=[f"s{i}" for i in G])
    model = MAMLRegressor(task_column="store", **AUTO)
    whole, part = clone(model).fit(frame, Y), clone(model)
    for rows in PARTS:
        part.partial_fit(frame[rows], Y[rows])
    assert_same(part, whole, 1e-8)
    assert_array_equal(part.feature_names_in_, whole.feature_names_in_)
    assert part.learned_.names == ("a", "b", "c", "intercept")
    found = MAMLRegressor.from_statistics(task_statistics(model, frame, Y), **model.get_params())
    assert_same(found, whole, 1e-8)
    assert_array_equal(found.feature_names_in_, whole.feature_names_in_)
    with pytest.raises(ValueError, match="feature names should match"):
        part.partial_fit(frame[["b", "a", "c", "store"]], Y)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_offsets_are_streamed(loss):
    frame = pd.DataFrame(X, columns=list("abc")).assign(given=np.linspace(-1.0, 1.0, len(X)))
    y = Y if loss == "squared_error" else counts()
    model = MAMLRegressor(0.05, loss=loss, offset_column="given", solver=SGD(1e-3, n_epochs=1))
    model.set_params(solver="auto" if loss == "squared_error" else model.solver, random_state=0)
    whole, part = clone(model).fit(frame, y, groups=G), clone(model)
    for rows in PARTS[1:]:
        part.partial_fit(frame[rows], y[rows], groups=G[rows])
    part.partial_fit(frame[PARTS[0]], y[PARTS[0]], groups=G[PARTS[0]])
    if loss == "squared_error":
        assert_allclose(part.coef_, whole.coef_, rtol=1e-10)
    moved = frame.assign(given=frame["given"] + 1.0)
    ratio = part.predict(moved) - part.predict(frame)
    if loss == "poisson":
        ratio = np.log(part.predict(moved) / part.predict(frame))
    assert_allclose(ratio, 1.0)


def test_the_certificate_says_what_it_is_of_and_holds_of_the_rows():
    part = streamed(MAMLRegressor(**AUTO))
    text = str(part.gap_certificate_)
    assert f"that of the statistics of {N_TASKS} tasks" in text
    of_rows = part.certify(X, Y, groups=G)
    assert of_rows.meta_loss == pytest.approx(part.gap_certificate_.meta_loss, rel=1e-10)
    assert of_rows.bound < 1e-9 * of_rows.meta_loss
    assert streamed(MAMLRegressor(0.1, certificate=None)).gap_certificate_ is None


def test_summaries_have_the_moments_of_the_rows():
    """Of each split, against sums over the rows; and no root is longer than its columns."""
    episodes = Episodes((1, 4), n_episodes=2, seed=3, lenient=True)
    tasks = Tasks.from_codes(TWO, G, WEIGHT)
    blocks = Blocks(tasks, Features(X), episodes)
    summaries = summarise(blocks)
    found = SummaryBlocks(summaries, episodes, 2, True)
    assert summaries.whole.counts.max() == D + 1 + 2
    moments = {}
    for name, stacks in (("rows", blocks), ("roots", found)):
        for i in range(len(stacks)):
            block = stacks[i]
            for side in ("support", "query"):
                rows = getattr(block, side)
                both = np.concatenate([rows.features, np.moveaxis(rows.targets, 0, -1)], axis=-1)
                gram = np.einsum("nma,nm,nmb->nab", both, rows.weights, both)
                for k, key in enumerate(zip(block.owner, block.draw, strict=True)):
                    part = gram[k], rows.size[k], rows.weights[k].sum(), block.weight[k]
                    moments[name, side, *key] = part
    for key, (gram, size, total, weight) in moments.items():
        other = moments["roots", *key[1:]]
        if weight:  # else the task is too small for that draw
            assert_allclose(other[0], gram, atol=1e-12 * np.abs(gram).max())
            assert_allclose(other[1:], (size, total, weight), rtol=1e-12)
    assert len(moments) > 1000


def test_summarised_features_have_the_mean_and_deviation_of_the_rows():
    tasks = Tasks.from_codes(TWO, G, WEIGHT)
    blocks = Blocks(tasks, Features(X + 1e3 * np.eye(D)[0]), Episodes())
    found = feature_moments(SummaryBlocks(summarise(blocks), Episodes(), 2, True))
    assert_allclose(found[0], feature_moments(blocks)[0], rtol=1e-10, atol=1e-12)
    # The constant's variance is what its square, 1, rounds.
    assert_allclose(found[1], feature_moments(blocks)[1], rtol=1e-7, atol=1e-7)


def test_a_root_of_rows_that_are_padded_in_front_loses_none():
    """A first column of zeros would else leave a row where there is no place for it."""
    X = np.array([[0.0, 3.0], [0.0, 1.0], [0.0, 5.0], [0.0, 2.0], [1.0, 4.0], [0.0, 7.0]])
    tasks = Tasks.from_codes(np.arange(6.0), np.array([0, 0, 0, 0, 1, 1]))
    episodes = Episodes((1, 3), "first", lenient=True)
    blocks = Blocks(tasks, Features(X), episodes)
    summaries = summarise(blocks)
    for draw, shots in enumerate((1, 3)):
        rows = np.column_stack([X, np.ones(6), np.arange(6.0)])[shots:4]
        roots = summaries.query[draw]
        root = roots.rows[: roots.counts[0]]
        assert_allclose(root.T @ root, rows.T @ rows / len(rows), atol=1e-12)


def test_statistics_hold_no_row_and_are_smaller_than_long_tasks():
    rows = np.tile(X, (40, 1)) + RNG.normal(size=(40 * len(X), D))
    model = MAMLRegressor(support="all", adaptation=Proximal(metric="full"))
    found = task_statistics(model, rows, np.tile(Y, 40), groups=np.tile(G, 40))
    assert found.nbytes <= N_TASKS * (D + 2) ** 2 * 8
    assert found.nbytes < rows.nbytes / 15
    root = np.abs(task_statistics(model, X, Y, groups=G).summaries.whole.rows)
    assert not np.isin(np.abs(Y[np.isin(G, np.flatnonzero(SIZES > 1))]), root).any()


def test_workers_are_sent_summaries_and_not_the_stacks_that_are_kept():
    blocks = statistics(MAMLRegressor(random_state=0), [slice(None)])[0].blocks
    assert blocks[0] is blocks[0]
    other = pickle.loads(pickle.dumps(blocks))
    assert not other._blocks
    assert_array_equal(other[0].query.features, blocks[0].query.features)


# -- parts that are put together ------------------------------------------------------------------


def statistics(model, parts=PARTS):
    return [task_statistics(model, X[part], Y[part], groups=G[part]) for part in parts]


@pytest.mark.parametrize("parameters", [{"support": "all"}, {"split": "first"}, {}])
def test_parts_are_merged_into_the_model_of_all_rows(parameters):
    """To rounding where the split is not random; else other rows are drawn."""
    model = MAMLRegressor(adaptation=Proximal(metric="full"), random_state=0, **parameters)
    whole = clone(model).fit(X, Y, groups=G)
    parts = statistics(model)
    found = MAMLRegressor.from_statistics(sum(parts), **model.get_params(deep=False))
    models = [clone(model).partial_fit(X[part], Y[part], groups=G[part]) for part in PARTS]
    joined = models[1].merge(models[0], models[2], models[3])
    for other in (found, joined):
        assert other.n_tasks_ == N_TASKS
        assert other.get_params().keys() == whole.get_params().keys()
        assert_allclose(other.coef_, whole.coef_, rtol=1e-8 if parameters else 0.05)
        assert_allclose(sorted(other.task_ids_), whole.task_ids_)
    if parameters:
        assert_allclose(found.task_coef_, whole.task_coef_, rtol=1e-7, atol=1e-8)
    assert models[1].n_tasks_ == 29  # it stays as it was
    assert_allclose(joined.predict(X, groups=G), found.predict(X, groups=G), rtol=0.05, atol=0.05)


def test_one_set_of_statistics_serves_several_rules_and_penalties():
    split = {"support": [0, 3], "random_state": 0}
    total = sum(statistics(MAMLRegressor(**split), [slice(None)]))
    for parameters in ({"alpha": 0.2}, {"adaptation": Proximal(2.0, "identity"), "alpha": 0.1}):
        model = MAMLRegressor(**split, **parameters)
        found = MAMLRegressor.from_statistics(total, **split, **parameters)
        assert_same(found, model.fit(X, Y, groups=G), 1e-8)


def test_partial_fit_goes_on_from_statistics_and_from_merged_models():
    model = MAMLRegressor(**AUTO)
    whole = clone(model).fit(X, Y, groups=G)
    first, second = statistics(model, [slice(0, PARTS[2].stop)])[0], PARTS[3]
    found = MAMLRegressor.from_statistics(first, **AUTO)
    assert_same(found.partial_fit(X[second], Y[second], groups=G[second]), whole, 1e-8)
    fresh = clone(model).partial_fit(X[PARTS[0]], Y[PARTS[0]], groups=G[PARTS[0]])
    merged = fresh.merge(*statistics(model, PARTS[1:3]))
    merged.partial_fit(X[second], Y[second], groups=G[second])
    assert merged.n_tasks_ == N_TASKS


def test_statistics_go_through_files_of_plain_arrays():
    found = statistics(MAMLRegressor(**AUTO), [slice(None)])[0]
    with io.BytesIO() as file:
        np.savez(file, **found.to_dict())
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            again = TaskStatistics.from_dict(archive)
    assert repr(again) == repr(found) == f"<TaskStatistics: {N_TASKS} tasks, {len(G)} rows>"
    assert again.settings == found.settings
    models = [MAMLRegressor.from_statistics(part, **AUTO) for part in (found, again)]
    assert_array_equal(models[0].task_coef_, models[1].task_coef_)


@pytest.mark.parametrize("ids", [[1, 2], ["a", 2], [1.5, "b"], ["a", "b"], [True, "x"]])
def test_labels_of_all_kinds_stay_what_they_are(ids):
    model, rows = MAMLRegressor(n_steps=1), slice(0, 6)
    for label in ids:
        model.partial_fit(X[rows], Y[rows], groups=[label] * 6)
    assert model.task_ids_.tolist() == ids
    assert_array_equal(
        model.predict(X[:2], groups=[ids[0]] * 2),
        X[:2] @ model.task_coef_[0] + model.task_intercept_[0],
    )


def test_a_featurizer_is_fitted_in_the_first_call_or_given():
    scaler = StandardScaler().fit(X)
    frozen = MAMLRegressor(0.1, featurizer=FrozenEstimator(scaler))
    whole = clone(frozen).fit(X, Y, groups=G)
    assert_same(streamed(frozen), whole, 1e-10)
    parts = statistics(frozen)
    found = MAMLRegressor.from_statistics(sum(parts), **frozen.get_params(deep=False))
    assert_same(found, whole, 1e-10)
    own = streamed(MAMLRegressor(0.1, featurizer=StandardScaler()))
    assert_allclose(own.featurizer_.mean_, X[PARTS[0]].mean(axis=0))
    with pytest.raises(ValueError, match=r"needs? a featurizer that is fitted"):
        statistics(MAMLRegressor(0.1, featurizer=StandardScaler()))
    with pytest.raises(ValueError, match=r"needs? a featurizer that is fitted"):
        MAMLRegressor.from_statistics(parts[0], featurizer=StandardScaler())
    other = clone(frozen).set_params(featurizer=FrozenEstimator(StandardScaler().fit(X[:9])))
    with pytest.raises(ValueError, match=r"differ in featurizer .*goes into each as FrozenEst"):
        parts[0] + statistics(other)[1]


def test_a_saved_model_leaves_statistics_out(tmp_path):
    model = streamed(MAMLRegressor(**AUTO))
    model.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert not hasattr(loaded, "statistics_")
    assert_array_equal(loaded.predict(X, groups=G), model.predict(X, groups=G))
    assert (tmp_path / "model.npz").stat().st_size < 30_000


# -- what is refused ------------------------------------------------------------------------------


def test_a_task_that_was_seen_before_is_refused_and_the_model_stays():
    model = streamed(MAMLRegressor(**AUTO), parts=PARTS[:2])
    before = {name: getattr(model, name) for name in vars(model)}
    with pytest.raises(ValueError, match="Task 29 was seen before: the rows of a task cannot be"):
        model.partial_fit(X, Y, groups=np.where(G == 40, 29, G + 100))
    with pytest.raises(ValueError, match="Task 5: y contains NaN"):
        model.partial_fit(X[:3], [1.0, np.nan, 2.0], groups=[5, 5, 5])
    assert vars(model).keys() == before.keys()
    assert all(getattr(model, name) is before[name] for name in before)


def test_calls_that_do_not_go_together_are_refused():
    model = streamed(MAMLRegressor(**AUTO), parts=PARTS[:2])
    rows = PARTS[3]
    with pytest.raises(ValueError, match=r"differ in named \(True and False\)"):
        model.partial_fit(X[rows], Y[rows])
    with pytest.raises(ValueError, match="X has 2 features, but MAMLRegressor is expecting 3"):
        model.partial_fit(X[rows, :2], Y[rows], groups=G[rows])
    with pytest.raises(ValueError, match=r"differ in n_targets \(0 and 2\)"):
        model.partial_fit(X[rows], TWO[rows], groups=G[rows])
    with pytest.raises(ValueError, match=r"differ in split \('random' and 'first'\)"):
        statistics(model)[0] + statistics(MAMLRegressor(split="first"))[1]
    model.set_params(fit_intercept=False)
    with pytest.raises(ValueError, match="fit_intercept=False was set since the first call"):
        model.partial_fit(X[rows], Y[rows], groups=G[rows])


def test_features_that_are_chosen_by_all_rows_are_refused():
    model = MAMLRegressor(pooled=Ridge())
    for call in (model.partial_fit, partial(task_statistics, model)):
        with pytest.raises(ValueError, match=r"pooled=Ridge\(\) chooses features by all rows"):
            call(X, Y, groups=G)
    with pytest.raises(ValueError, match="chooses features by all rows"):
        MAMLRegressor.from_statistics(statistics(MAMLRegressor())[1], pooled=Ridge())


def test_fit_keeps_no_statistics_to_go_on_from():
    model = MAMLRegressor(**AUTO).fit(X, Y, groups=G)
    stays = clone(model).fit(X, Y, groups=G)
    with pytest.warns(UserWarning, match="partial_fit begins anew: fit, by which the model was"):
        model.partial_fit(X[PARTS[1]], Y[PARTS[1]], groups=G[PARTS[1]])
    assert model.n_tasks_ == 29
    model = stays
    with pytest.raises(ValueError, match="merge takes models that keep statistics"):
        streamed(MAMLRegressor(**AUTO), parts=PARTS[:2]).merge(model)
    assert not hasattr(streamed(MAMLRegressor(**AUTO)).fit(X, Y, groups=G), "statistics_")
    with pytest.raises(NotFittedError):
        MAMLRegressor().merge()


def test_statistics_of_other_settings_are_refused():
    total = sum(statistics(MAMLRegressor(**AUTO)))
    with pytest.raises(ValueError, match=r"differ in n_episodes \(13 and 1\)"):
        MAMLRegressor.from_statistics(total)
    with pytest.raises(ValueError, match=r"support .*, lenient \(True and False\)"):
        MAMLRegressor.from_statistics(total, adaptation=GradientSteps(0.1))
    with pytest.raises(TypeError, match=r"must be a TaskStatistics, .* got list"):
        MAMLRegressor.from_statistics([total])
    with pytest.raises(ValueError, match="at least one TaskStatistics; got none"):
        TaskStatistics.joined([])
    with pytest.raises(TypeError, match="unsupported operand"):
        total + 1


@pytest.mark.parametrize(
    "model",
    [
        MAMLRegressor(loss="poisson"),
        MAMLRegressor(loss=HalfSquaredError()),
        MAMLRegressor(adaptation=Shift()),
    ],
    ids=["poisson", "of one's own", "a rule of one's own"],
)
def test_losses_and_rules_that_need_rows_have_no_statistics(model):
    with pytest.raises(ValueError, match="no more than second moments of the rows"):
        task_statistics(model, X, np.abs(Y), groups=G)


class SubtleSteps(GradientSteps):
    def adapt(self, theta, risk):
        return super().adapt(theta, risk)


def test_a_subclass_that_adapts_otherwise_does_not_inherit_that_moments_are_enough():
    assert GradientSteps.of_moments
    assert not SubtleSteps.of_moments


def changed(**arrays_or_fields):
    """Statistics whose JSON or arrays were changed, as arrays."""
    return {
        **statistics(MAMLRegressor(random_state=0), [slice(None)])[0].to_dict(),
        **arrays_or_fields,
    }


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("json", lambda a: None, "json' is missing"),
        ("array_0", lambda a: a[:-1], "roots do not fit 80 tasks"),
        ("array_0", lambda a: a[:, :1], "roots have 1 columns for"),
        ("array_0", np.ravel, "tuple index out of range"),
        ("array_0", lambda a: a * np.nan, "holds NaN"),
        ("array_1", lambda a: a - 1, "roots do not fit"),
        ("array_2", lambda a: -a, "roots do not fit"),
        ("array_1", lambda a: a.astype(float), "roots do not fit"),
    ],
)
def test_changed_statistics_are_refused(key, change, message):
    arrays = statistics(MAMLRegressor(random_state=0), [slice(None)])[0].to_dict()
    new = change(arrays[key])
    arrays = {**arrays, key: new} if new is not None else {k: arrays[k] for k in arrays if k != key}
    with pytest.raises(ValueError, match=f"These are no TaskStatistics: .*{message}"):
        TaskStatistics.from_dict(arrays)


@pytest.mark.parametrize("setting", [{"n_features_in": -1}, {"fit_intercept": False}])
def test_settings_of_other_columns_are_refused(setting):
    found = statistics(MAMLRegressor(random_state=0), [slice(None)])[0]
    with pytest.raises(ValueError, match=r"roots have \d columns for -?\d features"):
        TaskStatistics.from_dict(
            replace(found, settings=replace(found.settings, **setting)).to_dict()
        )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sizes", lambda a: a[:-1], "sizes and weights are not of 80 tasks"),
        ("sizes", lambda a: 0 * a, "a task has no rows"),
        ("weight", lambda a: 0 * a, "tasks weigh nothing"),
        ("weight", lambda a: -a, "tasks weigh nothing"),
        ("support", lambda a: a[:-1], "there must be 5 draws"),
    ],
)
def test_statistics_whose_parts_do_not_fit_are_refused(name, change, message):
    found = statistics(MAMLRegressor(random_state=0), [slice(None)])[0]
    new = replace(found.summaries, **{name: change(getattr(found.summaries, name))})
    with pytest.raises(ValueError, match=f"These are no TaskStatistics: .*{message}"):
        TaskStatistics.from_dict(replace(found, summaries=new).to_dict())


def test_other_things_are_no_statistics():
    with pytest.raises(ValueError, match="they hold a int"):
        TaskStatistics.from_dict(pack(3, {}))


# -- losses that have no sums ---------------------------------------------------------------------

LABELS = np.where(Y > 4, "high", np.where(Y < 0, "low", "middle"))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_classifier_goes_on_by_stochastic_steps():
    X = StandardScaler().fit_transform(globals()["X"])
    first, rest = slice(0, np.searchsorted(G, 10)), slice(np.searchsorted(G, 30), None)
    model = MAMLClassifier(support=[3, 0], random_state=0)
    model.partial_fit(X[first], LABELS[first], groups=G[first])
    once = clone(model).fit(X[first], LABELS[first], groups=G[first])
    assert_array_equal(model.coef_, once.coef_)
    before = model.certify(X[rest], LABELS[rest], groups=G[rest]).meta_loss
    rule = model.adaptation_
    for k in range(1, 8):
        model.partial_fit(X[rest], LABELS[rest], groups=G[rest] + 1000 * k)
    assert model.adaptation_ is rule
    assert model.meta_loss_ < before
    assert model.n_tasks_ == 10 + 7 * 50 == len(model.task_coef_)
    assert_array_equal(model.task_coef_[:10], once.task_coef_)
    assert "that of the tasks of the last call: by definition" in str(model.gap_certificate_)
    assert model.predict_proba(X[:4], groups=[3, 1040, 2040, 9]).shape == (4, 3)
    assert np.isfinite(model.random_effects().standard_errors).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_classes_that_come_later_are_told_in_the_first_call():
    rows = np.flatnonzero((LABELS != "low") & (G < 30))
    model = MAMLClassifier(n_steps=1).partial_fit(
        X[rows], LABELS[rows], groups=G[rows], classes=["low", "middle", "high"]
    )
    assert model.classes_.tolist() == ["high", "low", "middle"]
    other = slice(PARTS[2].start, None)
    model.partial_fit(X[other], LABELS[other], groups=G[other])
    assert model.coef_.shape == (3, D)
    with pytest.raises(ValueError, match="lowest"):
        model.partial_fit(X[:1], ["lowest"], groups=["new"])
    assert model.n_tasks_ == len(np.unique(G[rows])) + 50


def counts():
    return np.random.default_rng(1).poisson(np.exp(0.3 * X[:, 0] + 0.2 * OWN[G, 0]))


def test_counts_go_on_by_the_steps_that_were_asked_for():
    y, first = counts(), slice(0, PARTS[1].stop)
    solver = SGD(0.01, n_epochs=3, random_state=0)
    model = MAMLRegressor(0.1, loss="poisson", solver=solver, certificate=None)
    tasks = [(X[i == G], y[i == G]) for i in range(N_TASKS)]
    model.partial_fit(tasks[:30])
    model.partial_fit(tasks[30:])
    assert model.n_iter_ == 3
    assert model.gap_certificate_ is None
    assert_array_equal(model.task_ids_, np.arange(N_TASKS))
    assert model.task_coef_ is None
    assert not hasattr(model, "statistics_")
    with pytest.raises(ValueError, match="labels in each call of partial_fit, or in none"):
        model.partial_fit(X[first], y[first], groups=G[first])
    with pytest.raises(ValueError, match="Task -1: y contains NaN"):
        model.partial_fit(X[:2], [1.0, np.nan], groups=[-1, -1])
    model.set_params(solver="lbfgs")
    with pytest.raises(ValueError, match=r"stochastic steps, which LBFGS.* does not take"):
        model.partial_fit(tasks[30:])


def test_a_repeated_task_is_refused_by_other_losses_too():
    y, rows = counts(), slice(0, PARTS[1].stop)
    model = MAMLRegressor(0.1, loss="poisson").partial_fit(X[rows], y[rows], groups=G[rows])
    coef = model.coef_
    with pytest.raises(ValueError, match="Task 0 was seen before"):
        model.partial_fit(X[rows], y[rows], groups=G[rows])
    assert model.coef_ is coef


def test_what_is_public_is_reached_from_the_top():
    assert {"TaskStatistics", "task_statistics", "load_model"} <= set(sklearn_maml.__all__)


# -- calls that change their mind -----------------------------------------------------------------


def first_call(model, n_tasks=30):
    rows = n_tasks > G
    return model.partial_fit(X[rows], counts()[rows], groups=G[rows])


@pytest.mark.parametrize(
    ("loss", "changed"),
    [
        ("squared_error", {"loss": "poisson"}),
        ("squared_error", {"featurizer": StandardScaler()}),
        ("squared_error", {"support": 2}),
        ("poisson", {"loss": "squared_error"}),
        ("poisson", {"adaptation": GradientSteps(0.1)}),
        ("poisson", {"n_steps": 3}),
        ("poisson", {"fit_intercept": False}),
        ("poisson", {"support": 2, "n_episodes": 3}),
    ],
)
def test_what_the_first_call_settled_is_not_changed_by_later_ones(loss, changed):
    model = first_call(MAMLRegressor(loss=loss, random_state=0))
    coef, later = model.coef_, G >= 30
    model.set_params(**changed)
    with pytest.raises(ValueError, match=f"{next(iter(changed))}=.* was set since the first call"):
        model.partial_fit(X[later], counts()[later], groups=G[later])
    assert model.coef_ is coef
    model.set_params(**MAMLRegressor(loss=loss, random_state=0).get_params())
    assert model.partial_fit(X[later], counts()[later], groups=G[later]).n_tasks_ == N_TASKS


def test_a_model_of_fit_goes_on_with_its_own_loss_and_intercept():
    later = G >= 30
    model = MAMLRegressor(0.1, loss="poisson").fit(X[~later], counts()[~later], groups=G[~later])
    for changed in ({"loss": "pseudo_huber"}, {"fit_intercept": False}):
        other = copy(model).set_params(**changed)
        with pytest.raises(ValueError, match=f"{next(iter(changed))}=.* or fit, which settled it"):
            other.partial_fit(X[later], counts()[later], groups=G[later])
    assert model.partial_fit(X[later], counts()[later], groups=G[later]).n_tasks_ == N_TASKS


def test_rules_and_penalties_may_change_where_statistics_serve_all():
    model, later = first_call(MAMLRegressor(random_state=0)), G >= 30
    model.set_params(alpha=0.1, adaptation=Proximal(metric="identity"), random_state=7)
    model.partial_fit(X[later], counts()[later], groups=G[later])
    expected = MAMLRegressor.from_statistics(model.statistics_, **model.get_params(deep=False))
    assert_array_equal(model.coef_, expected.coef_)
    assert model.learned_.metric == "identity"


def test_what_cannot_be_pickled_is_refused_as_a_featurizer_of_statistics_alone():
    square = FunctionTransformer(lambda X: X**2)
    with pytest.raises(ValueError, match=r"Statistics of tasks say by which featurizer.*pickled"):
        first_call(MAMLRegressor(featurizer=square))
    model, later = first_call(MAMLRegressor(0.1, featurizer=square, loss="poisson")), G >= 30
    model.partial_fit(X[later], counts()[later], groups=G[later])
    model.set_params(featurizer=FunctionTransformer(lambda X: X**3))
    with pytest.raises(ValueError, match=r"featurizer=FunctionTransformer.* was set since"):
        model.partial_fit(X[later], counts()[later], groups=G[later] + 1000)


def test_calls_after_a_pickle_are_those_without_it():
    scaled = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False))
    model, later = first_call(MAMLRegressor(featurizer=scaled, random_state=0)), G >= 30
    other = pickle.loads(pickle.dumps(model))
    for each in (model, other):
        each.partial_fit(X[later], counts()[later], groups=G[later])
    assert_array_equal(model.coef_, other.coef_)
    assert not hasattr(clone(other), "statistics_")


def test_one_task_alone_is_fitted_as_by_fit():
    rows = G == 3
    one = MAMLRegressor(random_state=0).fit(X[rows], Y[rows], groups=G[rows])
    streamed_one = MAMLRegressor(random_state=0).partial_fit(X[rows], Y[rows], groups=G[rows])
    assert_allclose(streamed_one.coef_, one.coef_, rtol=1e-10)
    assert_allclose(streamed_one.meta_loss_, one.meta_loss_, rtol=1e-10)
    others = MAMLRegressor(random_state=0, n_episodes=20).partial_fit(
        X[rows], Y[rows], groups=G[rows]
    )
    others.partial_fit(X[~rows], Y[~rows], groups=G[~rows])
    assert others.learned_.criterion == "reml"
    assert others.learned_.covariance is not None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], ["1", "3"], "Task '1' reads like task 1 of another call or part, whose label is"),
        ([1, 2], [2.0, 3.5], "Task 2.0 was seen before"),
        (
            np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
            np.array(["2020-01-02", "2020-01-03"], "M8[ns]"),
            "Task 2020-01-02T00:00:00.000000000 was seen before",
        ),
    ],
)
def test_a_task_that_was_seen_by_a_label_of_another_type_is_refused(first, second, message):
    labels = [np.repeat(part, 3) for part in (first, second)]
    model = MAMLRegressor(n_steps=1).partial_fit(X[:6], Y[:6], groups=labels[0])
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X[6:12], Y[6:12], groups=labels[1])


@pytest.mark.parametrize(
    "parts",
    [
        [np.array([1, 2]), np.array([2**63 + 1, 2**63 + 2], dtype=np.uint64)],
        [np.array(["2020-01-01"], "M8[ns]"), np.array([5])],
        [np.array([3], dtype=np.int8), np.array([300])],
    ],
)
def test_labels_of_several_types_stay_what_they_are_in_one_array(parts):
    joined = joined_labels(parts)
    assert [str(label) for label in joined] == [str(label) for part in parts for label in part]


def test_a_classifier_refuses_other_classes_in_later_calls():
    rows, later = G < 30, G >= 30
    model = MAMLClassifier(n_steps=1).partial_fit(
        X[rows], LABELS[rows], groups=G[rows], classes=["low", "middle", "high"]
    )
    with pytest.raises(ValueError, match=r"must be those of the first call, \['high', 'low', 'mi"):
        model.partial_fit(X[later], LABELS[later], groups=G[later], classes=["low", "high"])
    model.partial_fit(X[later], LABELS[later], groups=G[later], classes=["high", "middle", "low"])
    assert model.n_tasks_ == N_TASKS


def test_intervals_that_were_asked_for_are_not_dropped_in_silence():
    model = first_call(MAMLRegressor(0.1, loss="poisson", calibrate=True))
    later = G >= 30
    with pytest.raises(ValueError, match="calibrate=True asks for the errors of all tasks"):
        model.partial_fit(X[later], counts()[later], groups=G[later])
    assert model.calibration_ is not None
