"""A model without any feature, of intercepts alone. With a column of zeros there is a twin."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal, few_shot_curve

RNG = np.random.default_rng(0)
SIZES = RNG.integers(3, 15, size=25)
GROUPS = np.repeat([f"g{i}" for i in range(25)], SIZES)
Y = 5.0 + np.repeat(RNG.normal(size=25), SIZES) + RNG.normal(size=len(GROUPS))
NONE, ZEROS = np.empty((len(Y), 0)), np.zeros((len(Y), 1))
CLASSES = np.digitize(Y, [4.5, 5.5])


def twins(make, y=Y):
    """The model without features, and that with one that is always zero."""
    return [make().fit(X, y, groups=GROUPS) for X in (NONE, ZEROS)]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"adaptation": Proximal(metric="diagonal")},
        {"adaptation": Proximal(0.5, random_effects="intercept")},
        {"inner_lr": 0.1, "n_steps": 2},
        {"inner_lr": "auto"},
        {"support": 2, "alpha": 1.0},
        {"split": "first"},
        {"solver": "lbfgs"},
        {"loss": "log_cosh"},
        {"loss": "poisson", "certificate": "full"},
    ],
    ids=str,
)
def test_it_is_the_model_with_a_feature_that_is_always_zero(parameters):
    ours, twin = twins(lambda: MAMLRegressor(random_state=0, **parameters))
    assert ours.coef_.shape == (0,)
    assert ours.n_features_in_ == 0
    assert_allclose(ours.intercept_, twin.intercept_, rtol=1e-5)
    assert_allclose(ours.meta_loss_, twin.meta_loss_, rtol=1e-6)
    told, expected = ours.predict(NONE, groups=GROUPS), twin.predict(ZEROS, groups=GROUPS)
    assert_allclose(told, expected, rtol=1e-5)
    assert len(np.unique(told)) == 25
    adapted = ours.adapt(NONE[:4], Y[:4]).predict(NONE[:2])
    assert_allclose(adapted, twin.adapt(ZEROS[:4], Y[:4]).predict(ZEROS[:2]), rtol=1e-5)
    score = ours.score(NONE, Y, groups=GROUPS)
    assert_allclose(score, twin.score(ZEROS, Y, groups=GROUPS), rtol=1e-4, atol=1e-6)
    bounds = [model.gap_certificate_.bound for model in (ours, twin)]
    assert_allclose(*bounds, rtol=0.02, atol=1e-9 * ours.meta_loss_)  # of the same kind
    assert ours.certify(NONE, Y, groups=GROUPS).meta_loss == pytest.approx(ours.meta_loss_)


def test_classes_have_intercepts_too():
    for labels in (CLASSES, CLASSES == 1):
        ours, twin = twins(lambda: MAMLClassifier(random_state=0), labels)
        told = ours.predict_proba(NONE, groups=GROUPS)
        assert_allclose(told, twin.predict_proba(ZEROS, groups=GROUPS), rtol=1e-4)
        errors = ours.random_effects().standard_errors
        assert_allclose(errors, twin.random_effects().standard_errors, rtol=1e-3)


def test_intervals_and_random_effects_are_those_of_intercepts():
    model = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS)
    found, effects = model.learned_, model.random_effects()
    assert effects.features == ("intercept",)
    between = found.covariance[0, 0] / found.strength
    shrunk = between / (between + found.residual_variance / SIZES)
    means = np.array([Y[f"g{i}" == GROUPS].mean() for i in range(25)])
    assert_allclose(effects.deviations[:, 0], shrunk * (means - model.intercept_))
    errors = np.sqrt(between * (1.0 - shrunk))
    assert_allclose(effects.standard_errors[:, 0], errors)
    _, std = model.adapt(NONE[:4], Y[:4]).predict(NONE[:2], return_std=True)
    assert (std > 0).all()


def frame_of(library):
    return pytest.importorskip(library).DataFrame({"group": GROUPS})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_may_hold_the_labels_and_nothing_else(library):
    frame = frame_of(library)
    model = MAMLRegressor(task_column="group", random_state=0).fit(frame, Y)
    expected = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS)
    assert_allclose(model.predict(frame), expected.predict(NONE, groups=GROUPS))
    assert_allclose(model.score(frame, Y), expected.score(NONE, Y, groups=GROUPS))
    adapted = model.adapt_tasks(frame[:10], Y[:10])
    assert adapted.predict(frame[:10]).shape == (10,)
    scores = cross_val_score(model, frame, Y, cv=GroupKFold(3), groups=GROUPS)
    assert np.isfinite(scores).all()
    assert few_shot_curve(model, frame, Y, supports=[0, 1, 2]).mean[2] < 1.6 * Y.var()


@pytest.mark.parametrize("X", [sp.csr_matrix(NONE.shape), pd.DataFrame(index=range(len(Y)))])
def test_sparse_matrices_and_frames_without_a_column_will_do(X):
    model = MAMLRegressor(random_state=0).fit(X, Y, groups=GROUPS)
    expected = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS)
    assert_allclose(model.predict(X, groups=GROUPS), expected.predict(NONE, groups=GROUPS))


def test_a_list_of_tasks_without_features():
    tasks = [(NONE[f"g{i}" == GROUPS], Y[f"g{i}" == GROUPS]) for i in range(25)]
    model = MAMLRegressor(random_state=0).fit(tasks)
    expected = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS)
    assert_allclose(model.intercept_, expected.intercept_)
    assert model.adapt_tasks(tasks[:3]).coef.shape == (3, 0)


def test_where_there_is_no_intercept_or_no_task_a_feature_is_wanted():
    for model, given in [
        (MAMLRegressor(), {}),
        (MAMLRegressor(fit_intercept=False), {"groups": GROUPS}),
        (MAMLRegressor(featurizer=StandardScaler()), {"groups": GROUPS}),
    ]:
        with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(\d+, 0\)\) while"):
            model.fit(NONE, Y, **given)
    with pytest.raises(ValueError, match="no column but the task column 'group'"):
        MAMLRegressor(task_column="group", fit_intercept=False).fit(frame_of("pandas"), Y)
    with pytest.raises(ValueError, match="at least one row and one column"):
        MAMLRegressor().fit(pd.DataFrame(index=range(len(Y))), Y)


def test_later_rows_must_have_no_feature_either():
    model = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS)
    with pytest.raises(ValueError, match="X has 1 features, but MAMLRegressor is expecting 0"):
        model.predict(ZEROS)
    wide = MAMLRegressor(random_state=0).fit(ZEROS, Y, groups=GROUPS)
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        wide.predict(NONE)


def test_export_needs_a_feature():
    adapted = MAMLRegressor(random_state=0).fit(NONE, Y, groups=GROUPS).adapt(NONE[:3], Y[:3])
    with pytest.raises(ValueError, match="to_linear needs a feature"):
        adapted.to_linear()
