"""MAMLRegressor: special cases with another name, featurizers, adapting, scoring, copying."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler
from small_tasks import (
    MODELS,
    NEW_X,
    NEW_Y,
    SIZES,
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

from sklearn_maml import GradientSteps, MAMLRegressor

# Special cases with another name


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_without_steps_it_is_pooled_least_squares_with_an_unpenalised_intercept(alpha):
    share = 1 / (5 * np.repeat(SIZES, SIZES))
    model = MAMLRegressor(n_steps=0, alpha=alpha).fit(X, Y, groups=G)
    pooled = Ridge(alpha=alpha) if alpha else LinearRegression()
    pooled.fit(X, Y, sample_weight=share)
    np.testing.assert_allclose(theta(model), theta(pooled), rtol=1e-10)
    residual = Y - pooled.predict(X)
    loss = share @ residual**2 + alpha * (pooled.coef_**2).sum()
    assert model.meta_loss_ == pytest.approx(loss, rel=1e-12)
    root = np.sqrt(share)
    no_intercept = MAMLRegressor(n_steps=0, fit_intercept=False).fit(X, Y, groups=G)
    expected = np.linalg.lstsq(root[:, None] * X, root * Y, rcond=None)[0]
    np.testing.assert_allclose(no_intercept.coef_, expected, rtol=1e-10)
    assert no_intercept.intercept_ == 0


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
def test_a_shift_of_the_targets_moves_the_intercept_alone_whatever_alpha(alpha):
    one, other = (MAMLRegressor("auto", alpha=alpha).fit(X, y, groups=G) for y in (Y, Y + 1000))
    np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-9, atol=1e-12)
    assert other.intercept_ == pytest.approx(one.intercept_ + 1000, rel=1e-12)


@models
def test_several_targets_are_separate_fits(model):
    T = np.column_stack([Y, X[:, 0] ** 2, -Y])
    together = fit(model, X, T, groups=G)
    alone = [fit(model, X, t, groups=G) for t in T.T]
    n_phi = X.shape[1]
    assert together.coef_.shape == (3, n_phi)
    assert np.shape(together.intercept_) == (3,)
    np.testing.assert_allclose(together.coef_, [m.coef_ for m in alone], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(together.intercept_, [m.intercept_ for m in alone], atol=1e-10)
    assert together.meta_loss_ == pytest.approx(sum(m.meta_loss_ for m in alone), rel=1e-12)
    adapted = together.adapt(NEW_X, np.column_stack([NEW_Y] * 3)).predict(NEW_X)
    for k, one in enumerate(alone):
        expected = one.adapt(NEW_X, NEW_Y).predict(NEW_X)
        np.testing.assert_allclose(adapted[:, k], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_automatic_steps_do_not_depend_on_units_or_origins(n_steps):
    factor, shift, unit = np.array([1e-6, 1.0, 1e6]), np.array([0.0, 50.0, -1e5]), 1e3
    one = MAMLRegressor(n_steps=n_steps).fit(TASKS)
    other = MAMLRegressor(n_steps=n_steps).fit(
        [(A * factor + shift, b * unit - 7) for A, b in TASKS]
    )
    rescaled = NEW_X * factor + shift
    # A shift of 1e5 deviations leaves 11 digits of a column.
    for first, second in (
        (one, other),
        (one.adapt(NEW_X, NEW_Y), other.adapt(rescaled, NEW_Y * unit - 7)),
    ):
        np.testing.assert_allclose(
            second.predict(rescaled), first.predict(NEW_X) * unit - 7, rtol=1e-7, atol=1e-5
        )


# Featurizers

FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=np.array(["u", "v", "w"])[G % 3])
FRAMES = [FRAME[g == G] for g in range(5)]
NEW_FRAME = pd.DataFrame(NEW_X, columns=["a", "b", "c"]).assign(kind="v")
COLUMNS = ColumnTransformer(
    [("spline", SplineTransformer(4), ["a", "b"]), ("kind", OneHotEncoder(), ["kind"])],
    remainder="passthrough",
)


@pytest.mark.parametrize(
    "featurizer",
    [
        StandardScaler(),
        RBFSampler(n_components=12, random_state=0),
        SplineTransformer(4),
        make_pipeline(StandardScaler(), RBFSampler(n_components=8, random_state=0)),
        make_pipeline(StandardScaler(), SplineTransformer(4, sparse_output=True)),
    ],
    ids=lambda featurizer: type(featurizer).__name__,
)
def test_a_featurizer_is_fitted_on_all_rows_and_applied_before_the_model(featurizer):
    alpha = 1e-4
    model = MAMLRegressor("auto", featurizer=featurizer, alpha=alpha).fit(TASKS)
    phi = clone(featurizer).fit(X)
    by_hand = [(phi.transform(A), b) for A, b in TASKS]
    direct = MAMLRegressor("auto", alpha=alpha).fit(by_hand)
    # Splines add up to a constant, which alpha alone tells from the intercept.
    assert_same_fit(model, direct, rtol=1e-8)
    assert model.n_features_in_ == 3
    adapted, expected = model.adapt(NEW_X, NEW_Y), direct.adapt(phi.transform(NEW_X), NEW_Y)
    np.testing.assert_allclose(
        adapted.predict(NEW_X), expected.predict(phi.transform(NEW_X)), rtol=1e-8, atol=1e-8
    )
    assert model.score(TASKS) == pytest.approx(direct.score(by_hand), rel=1e-8)
    assert not hasattr(featurizer, "n_features_in_"), "a clone was fitted"


def test_a_column_transformer_works_on_a_frame_and_on_a_list_of_frames():
    flat = MAMLRegressor("auto", featurizer=COLUMNS, alpha=1e-3).fit(FRAME, Y, groups=G)
    tasks = [(frame, b) for frame, (_, b) in zip(FRAMES, TASKS, strict=True)]
    listed = MAMLRegressor("auto", featurizer=COLUMNS, alpha=1e-3).fit(tasks)
    np.testing.assert_array_equal(theta(flat), theta(listed))
    assert list(flat.feature_names_in_) == list(listed.feature_names_in_) == [*"abc", "kind"]
    phi = clone(COLUMNS).fit(FRAME)
    adapted = flat.adapt(NEW_FRAME, NEW_Y)
    expected = phi.transform(NEW_FRAME) @ adapted.coef_ + adapted.intercept_
    np.testing.assert_allclose(adapted.predict(NEW_FRAME), expected, rtol=1e-12)
    assert flat.score(tasks) == listed.score(FRAME, Y, groups=G)


def test_a_frozen_featurizer_stays_as_it_was_fitted():
    scaler = StandardScaler().fit(X * 10 + 1)
    mean = scaler.mean_.copy()
    model = MAMLRegressor(0.01, featurizer=FrozenEstimator(scaler)).fit(TASKS)
    np.testing.assert_array_equal(scaler.mean_, mean)
    assert_same_fit(model, MAMLRegressor(0.01).fit([(scaler.transform(A), b) for A, b in TASKS]))


# Adapting and scoring


@models
def test_adapting_leaves_the_model_as_it_is_and_does_not_compound(model):
    model = fit(model, TASKS)
    before = pickle.dumps(copy.deepcopy(vars(model)))
    first = model.adapt(NEW_X, NEW_Y)
    assert pickle.dumps(copy.deepcopy(vars(model))) == before
    model.adapt(X, Y)
    np.testing.assert_array_equal(theta(model.adapt(NEW_X, NEW_Y)), theta(first))
    again = copy.deepcopy(first).fit(X, Y).fit(NEW_X, NEW_Y)
    np.testing.assert_array_equal(theta(again), theta(first))


def test_fitting_the_model_anew_leaves_its_adapted_regressors_as_they_are():
    model = MAMLRegressor("auto", featurizer=RBFSampler(n_components=5), alpha=0.1).fit(TASKS)
    adapted = model.adapt(NEW_X, NEW_Y)
    expected = adapted.predict(NEW_X)
    model.set_params(featurizer=None, fit_intercept=False).fit(TASKS)
    np.testing.assert_array_equal(adapted.predict(NEW_X), expected)


@pytest.mark.parametrize("capped", [True, False])
def test_adapting_takes_the_steps_of_the_papers(capped):
    rule = GradientSteps(0.01, n_steps=3, cap=capped)
    model = MAMLRegressor(adaptation=rule).fit(TASKS)
    design, at = np.column_stack([NEW_X, np.ones(8)]), theta(model)
    assert 0.01 * np.linalg.eigvalsh(2 / 8 * design.T @ design).max() < 1
    for _ in range(3):
        at = at - 0.01 * 2 / 8 * design.T @ (design @ at - NEW_Y)
    np.testing.assert_allclose(theta(model.adapt(NEW_X, NEW_Y)), at, rtol=1e-12)


@pytest.mark.parametrize("share", [2, 0.5])
def test_the_score_of_tasks_is_the_r2_of_query_rows_after_adapting(share):
    model = MAMLRegressor("auto", support=share, split="first").fit(TASKS)
    truth, predicted, weight = [], [], []
    for A, b in TASKS:
        k = share if share == 2 else round(len(b) * share)
        truth.append(b[k:])
        predicted.append(model.adapt(A[:k], b[:k]).predict(A[k:]))
    expected = r2_score(np.concatenate(truth), np.concatenate(predicted))
    assert model.score(TASKS) == pytest.approx(expected, rel=1e-12)
    assert model.score(X, Y, groups=G) == pytest.approx(expected, rel=1e-12)
    assert len(weight) == 0


@models
def test_without_groups_the_score_is_the_r2_of_the_meta_parameters(model):
    model, weight = fit(model, TASKS), np.arange(38.0)
    assert model.score(X, Y) == r2_score(Y, model.predict(X))
    assert model.score(X, Y, sample_weight=weight) == r2_score(
        Y, model.predict(X), sample_weight=weight
    )


@exact_models
def test_a_certificate_on_other_tasks_bounds_what_a_fit_on_them_gains(model):
    model = fit(model, TASKS[:3])
    certificate = model.certify(TASKS[3:])
    if model.featurizer is None and not isinstance(model.inner_lr, str):
        best = clone(model).fit(TASKS[3:])
        gap = certificate.meta_loss - best.meta_loss_
        assert 0 < gap <= certificate.bound
    assert model.certify(TASKS[:3]).meta_loss == pytest.approx(model.meta_loss_, rel=1e-14)
    assert certificate.lower_bound <= certificate.meta_loss


@pytest.mark.parametrize("n_targets", [0, 1, 3])
def test_predictions_have_the_shape_of_the_targets(n_targets):
    def targets(y):
        return y if n_targets == 0 else np.column_stack([y] * n_targets)

    model = MAMLRegressor("auto").fit(X, targets(Y), groups=G)
    for fitted in (model, model.adapt(NEW_X, targets(NEW_Y))):
        assert fitted.predict(NEW_X).shape == targets(NEW_Y).shape
        assert fitted.coef_.shape == (*targets(NEW_Y).shape[1:], 3)
    assert isinstance(model.score(X, targets(Y), groups=G), float)


# A good citizen


@models
@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copied_or_pickled_model_predicts_and_adapts_alike(model, again):
    model = fit(model, TASKS)
    copied = again(model)
    np.testing.assert_array_equal(copied.predict(NEW_X), model.predict(NEW_X))
    np.testing.assert_array_equal(
        again(model.adapt(NEW_X, NEW_Y)).predict(X), copied.adapt(NEW_X, NEW_Y).predict(X)
    )
    assert copied.score(TASKS) == model.score(TASKS)
    assert copied.gap_certificate_ == model.gap_certificate_


def test_a_model_dumped_by_joblib_can_be_mapped_into_memory(tmp_path):
    model = fit(MODELS["scaled"], TASKS)
    joblib.dump(model, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    np.testing.assert_array_equal(
        mapped.adapt(NEW_X, NEW_Y).predict(X), model.adapt(NEW_X, NEW_Y).predict(X)
    )


@models
def test_a_clone_has_the_parameters_and_nothing_that_was_fitted(model):
    fitted = clone(model)
    before = {name: repr(value) for name, value in fitted.get_params().items()}
    fitted.fit(TASKS)
    copied = clone(fitted)
    assert {name: repr(value) for name, value in copied.get_params().items()} == before
    assert not [name for name in vars(copied) if name.endswith("_")]


def test_uncapped_steps_that_overshoot_are_taken_with_a_warning_to_the_caller():
    model = MAMLRegressor(adaptation=GradientSteps(5.0, cap=False))
    with pytest.warns(ConvergenceWarning, match=r"inner_lr=5\) diverge on 100%.*cap=True") as seen:
        model.fit(TASKS)
    assert seen[0].filename == __file__
    with pytest.warns(ConvergenceWarning, match="diverge on 100%"):
        model.adapt(NEW_X, NEW_Y)
    capped = MAMLRegressor(adaptation=GradientSteps(5.0)).fit(TASKS)
    assert capped.capped_share_ == 1
    assert capped.meta_loss_ < model.meta_loss_


@pytest.mark.parametrize("support", [[1, 3], (1, 3), np.array([1, 3])])
def test_a_list_of_shots_may_be_any_sequence(support):
    expected = MAMLRegressor("auto", support=(1, 3), random_state=0).fit(TASKS)
    model = MAMLRegressor("auto", support=support, random_state=0).fit(TASKS)
    np.testing.assert_array_equal(theta(model), theta(expected))


@pytest.mark.parametrize("support", [2, [1, 3], 0.4])
def test_a_seed_makes_random_splits_repeatable(support):
    one, same, other = (
        MAMLRegressor("auto", support=support, n_episodes=2, random_state=s).fit(TASKS)
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(theta(one), theta(same))
    assert not np.array_equal(theta(one), theta(other))
    assert one.score(TASKS) == one.score(TASKS)


def test_only_verbose_fits_print(capsys):
    model = MAMLRegressor("auto").fit(TASKS)
    model.adapt(NEW_X, NEW_Y).predict(NEW_X)
    model.score(TASKS)
    assert capsys.readouterr() == ("", "")
    MAMLRegressor("auto", verbose=1).fit(TASKS)
    assert f"meta-loss {model.meta_loss_:.8g}" in capsys.readouterr().out
