"""A fit is all or nothing, reads everything once, and a model predicts as it was fitted."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from sklearn_maml import (
    GaussNewton,
    GradientSteps,
    MAMLClassifier,
    MAMLRegressor,
    MAMLRegressorCV,
    Proximal,
    PseudoHuber,
    SquaredError,
)
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml.displays import ConvergenceDisplay

RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(6, 2)), RNG.normal(size=6)) for _ in range(6)]
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
WIDE = [(np.column_stack([A, A[:, 0] ** 2]), b) for A, b in TASKS]
G = np.repeat(list("abcdef"), 6)


class Scripted(TransformerMixin, BaseEstimator):
    """Passes X on, counts its calls, and fails where it is told to."""

    calls = []

    def __init__(self, fails_in=None, error=ValueError):
        self.fails_in = fails_in
        self.error = error

    def fit(self, X, y=None):
        self._called("fit")
        self.fitted_ = True
        return self

    def transform(self, X):
        self._called("transform")
        return X

    def _called(self, method):
        self.calls.append(method)
        if self.fails_in == (method, self.calls.count(method)):
            raise self.error("scripted")


@pytest.fixture
def calls():
    Scripted.calls.clear()
    return Scripted.calls


def failing(part, method):
    """A part whose method is interrupted."""

    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    return type(f"Failing{part.__name__}", (part,), {method: interrupted})()


INTERRUPTED = {
    "the loss checks targets": {"loss": failing(SquaredError, "check_targets")},
    "the loss is evaluated": {"loss": failing(SquaredError, "gradient")},
    "the rule adapts": {"adaptation": failing(GradientSteps, "bind")},
    "the rule learns": {"adaptation": failing(Proximal, "learn")},
    "the rule is calibrated": {"adaptation": failing(GradientSteps, "calibrate")},
    "the solver minimises": {"solver": failing(GaussNewton, "minimize")},
    "the featurizer is fitted": {"featurizer": Scripted(("fit", 1), KeyboardInterrupt)},
    "the first row is featurised": {"featurizer": Scripted(("transform", 1), KeyboardInterrupt)},
    "more rows are featurised": {"featurizer": Scripted(("transform", 2), KeyboardInterrupt)},
}


def state(model):
    """What a model holds besides its parameters."""
    return {name for name in vars(model) if name not in model.get_params(deep=False)}


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("stage", INTERRUPTED)
def test_a_refit_that_is_interrupted_leaves_no_model(stage):
    model = MAMLRegressor(0.1).fit(X, Y, groups=G)
    assert "coef_" in state(model)
    changed = {"inner_lr": None} | INTERRUPTED[stage]
    with pytest.raises(KeyboardInterrupt):
        model.set_params(**changed).fit(WIDE)
    assert state(model) == state(MAMLRegressor())
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("at", [("fit", 1), ("transform", 1), ("transform", 2)])
@pytest.mark.parametrize("kind", [MAMLRegressor, MAMLClassifier, MAMLRegressorCV])
def test_a_refit_whose_featurizer_raises_midway_leaves_no_model(kind, at, calls):
    targets = (lambda b: b > 0) if kind is MAMLClassifier else (lambda b: b)
    model = kind().fit([(A, targets(b)) for A, b in TASKS])
    with pytest.raises(ValueError, match="scripted"):
        model.set_params(featurizer=Scripted(at)).fit([(A, targets(b)) for A, b in WIDE])
    assert calls
    assert state(model) == state(kind())
    for call in (model.predict, model.score, model.certify):
        with pytest.raises(NotFittedError):
            call(X)


def test_a_refit_with_data_that_are_refused_leaves_no_model():
    for model in (MAMLRegressor(), MAMLRegressorCV(cv=2)):
        model.fit(TASKS)
        with pytest.raises(ValueError, match="contains NaN"):
            model.fit([(A * np.nan, b) for A, b in WIDE])
        assert state(model) == state(type(model)())


def test_a_refit_holds_nothing_of_the_fit_before():
    model = MAMLRegressor(0.1).fit(pd.DataFrame(X, columns=["u", "v"]), Y, groups=G)
    model.set_params(inner_lr=None, adaptation=Proximal(1.0, "identity")).fit(TASKS)
    assert state(model) == state(MAMLRegressor(adaptation=Proximal(1.0, "identity")).fit(TASKS))
    assert not hasattr(model, "inner_lr_")
    assert not hasattr(model, "feature_names_in_")


def test_a_fitted_model_predicts_as_it_was_fitted_whatever_its_parameters_are_set_to():
    model = MAMLRegressor(alpha=0.1).fit(X, Y + 3.0, groups=G)
    tasks = model.adapt_tasks(TASKS)

    def answers():
        own = model.adapt(*TASKS[0])
        return [
            model.predict(X),
            model.predict(X, groups=G),
            own.predict(X),
            own.to_linear().predict(X),
            tasks[0].predict(X),
            tasks.predict(X[:2], groups=[0, 1]),
            model.score(TASKS),
            model.certify(TASKS).meta_loss,
        ]

    before = answers()
    model.set_params(fit_intercept=False, alpha=7.0, support=2, loss="log_cosh")
    for a, b in zip(before, answers(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_search_fits_its_featurizer_once(calls):
    search = MAMLRegressorCV(cv=2, n_steps=(1, 2), alphas=(0.1, 1.0), featurizer=Scripted())
    search.fit(X, Y, groups=G)
    assert calls.count("fit") == 1
    assert search.best_estimator_.featurizer_.fitted_


def test_the_best_estimator_of_a_search_is_the_fit_of_its_parameters():
    table = pd.DataFrame(X, columns=["u", "v"])
    search = MAMLRegressorCV(cv=2, random_state=0).fit(table, Y, groups=G)
    best = search.best_estimator_
    own = MAMLRegressor(**best.get_params()).fit(table, Y, groups=G)
    assert state(best) == state(own)
    np.testing.assert_array_equal(best.coef_, own.coef_)
    np.testing.assert_array_equal(best.task_coef_, own.task_coef_)
    assert best.feature_names_in_.tolist() == ["u", "v"]


@pytest.mark.parametrize("groups", [None, G])
def test_each_row_that_is_predicted_is_featurised_once(groups, calls):
    rule = Proximal(1.0, "identity", noise=1.0)
    model = MAMLRegressor(featurizer=Scripted(), adaptation=rule).fit(X, Y, groups=G)
    own, tasks = model.adapt(X[:6], Y[:6]), model.adapt_tasks(X, Y, groups=G)
    plain = MAMLRegressor(adaptation=rule).fit(X, Y, groups=G)
    for predictor, given in ((model, {"groups": groups}), (own, {}), (tasks, {"groups": G})):
        calls.clear()
        mean, std = predictor.predict(X, return_std=True, **given)
        assert calls == ["transform"]
        np.testing.assert_array_equal(mean, predictor.predict(X, **given))
        assert std.shape == mean.shape
    expected = plain.predict(X, groups=groups, return_std=True)
    np.testing.assert_array_equal(model.predict(X, groups=groups, return_std=True), expected)


# Labels of tasks, in another form than in fit

KNOWN = {
    "text": G,
    "bytes": G.astype("S1"),
    "numbers": np.repeat(np.arange(6), 6),
    "dates": np.repeat(np.arange(6), 6).astype("M8[D]"),
}
OTHER = {
    "text": [1, 2],
    "bytes": ["a", "b"],
    "numbers": ["1", "2"],
    "dates": [pd.Timestamp("1970-01-02").date()] * 2,
}


@pytest.mark.parametrize("kind", KNOWN)
def test_labels_none_of_whose_types_is_known_are_reported_with_both_types(kind):
    model = MAMLRegressor().fit(X, Y, groups=KNOWN[kind])
    tasks = model.adapt_tasks(X, Y, groups=KNOWN[kind])
    known = {"text": "str", "bytes": "bytes", "numbers": "number", "dates": "datetime64"}[kind]
    for predictor in (model, tasks):
        with pytest.warns(UserWarning, match=f"None of these .* tasks of type {known}") as seen:
            predicted = predictor.predict(X[:2], groups=OTHER[kind])
        assert seen[0].filename == __file__
        np.testing.assert_allclose(predicted, model.predict(X[:2]))
    strict = MAMLRegressor(on_unknown_task="raise").fit(X, Y, groups=KNOWN[kind])
    with pytest.raises(KeyError, match="not seen before"):
        strict.predict(X[:2], groups=OTHER[kind])


@pytest.mark.parametrize("groups", [["new", "newer"], ["new", 3], ["a", 3], np.array(["z", "y"])])
def test_new_tasks_and_labels_of_some_known_type_say_nothing(groups):
    MAMLRegressor().fit(X, Y, groups=G).predict(X[:2], groups=groups)


@pytest.mark.parametrize("types", [("f4", "f8"), ("f8", "f4"), ("f8", "f2"), ("i8", "f4")])
def test_equal_numbers_of_two_float_types_are_one_task(types):
    labels = np.repeat(np.arange(6) / (1 if "i8" in types else 10), 6)
    model = MAMLRegressor().fit(X, Y, groups=labels.astype(types[0]))
    expected = model.predict(X, groups=labels.astype(types[0]))
    np.testing.assert_array_equal(model.predict(X, groups=labels.astype(types[1])), expected)


def test_float_labels_that_a_narrower_type_cannot_tell_apart_stay_apart():
    labels = np.repeat(1.0 + np.arange(6) * 1e-12, 6)
    model = MAMLRegressor().fit(X, Y, groups=labels)
    assert len(model.task_ids_) == 6
    narrow = model.predict(X[:6], groups=labels[:6].astype("f4"))
    np.testing.assert_array_equal(narrow, model.predict(X[:6], groups=labels[:6]))  # 1.0 is exact


def test_dates_of_two_units_are_one_task():
    days = np.repeat(np.arange(6), 6).astype("M8[D]")
    model = MAMLRegressor().fit(X, Y, groups=days)
    expected = model.predict(X, groups=days)
    np.testing.assert_array_equal(model.predict(X, groups=days.astype("M8[ns]")), expected)
    np.testing.assert_array_equal(model.predict(X, groups=pd.Series(days)), expected)


# ------------------------------------------------------------------------------------------------
# Local minima


def two_clusters(seed):
    """Four tasks of one feature with slopes of two signs: the meta-loss has two valleys."""
    rng = np.random.default_rng(seed)
    slope, tasks = 3 * rng.normal(), []
    for sign in rng.choice([-1.0, 1.0], size=4):
        A = 3 * rng.normal(size=(5, 1))
        tasks.append((A, sign * slope * A[:, 0] + 0.1 * rng.normal(size=5)))
    return tasks


STEPS = {"loss": PseudoHuber(), "adaptation": GradientSteps(0.5, cap=False)}
may_diverge = pytest.mark.filterwarnings("ignore:Uncapped inner steps")


@may_diverge
@pytest.mark.parametrize("seed", [0, 2, 4])
def test_a_second_start_is_taken_where_the_first_may_have_ended_too_high(seed):
    tasks = two_clusters(seed)
    once = MAMLRegressor(**STEPS, solver="gauss_newton").fit(tasks)
    twice = MAMLRegressor(**STEPS).fit(tasks)
    assert twice.meta_loss_ < 0.7 * once.meta_loss_
    assert twice.meta_loss_ == twice.gap_certificate_.meta_loss == twice.meta_losses_[-1]
    assert twice.gap_certificate_.lower_bound <= once.meta_loss_


@may_diverge
def test_what_a_second_start_finds_is_taken_only_if_it_is_lower():
    for seed in range(20):
        tasks = two_clusters(seed)
        once = MAMLRegressor(**STEPS, solver="gauss_newton").fit(tasks)
        assert MAMLRegressor(**STEPS).fit(tasks).meta_loss_ <= once.meta_loss_


@may_diverge
def test_the_path_of_a_fit_from_a_second_start_is_drawn_from_there():
    tasks = two_clusters(2)
    model = MAMLRegressor(**STEPS).fit(tasks)
    display = ConvergenceDisplay.from_estimator(model, tasks)
    np.testing.assert_array_equal(display.values, model.meta_losses_)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("rule", [GradientSteps(0.1), Proximal(2.0, [1.0, 4.0, 1.0], noise=1.0)])
def test_the_certificate_of_rows_that_are_not_kept_takes_no_pass_of_its_own(
    rule, alpha, monkeypatch
):
    passes, fold = [], MetaObjective.fold
    monkeypatch.setattr(MetaObjective, "fold", lambda *a: (passes.append(a), fold(*a))[1])

    def fitted(certificate):
        passes.clear()
        model = MAMLRegressor(adaptation=rule, alpha=alpha, support=3, certificate=certificate)
        model.set_params(calibrate=False, random_state=0).fit(TASKS)
        return model.gap_certificate_, len(passes)

    kept, _ = fitted("fast")
    with config_context(working_memory=0):
        found, with_certificate = fitted("fast")
        _, without = fitted(None)
    assert found.bound == kept.bound
    assert found.weight_norm == kept.weight_norm
    assert found.rounding == kept.rounding
    assert with_certificate == without
