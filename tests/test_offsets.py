"""Offsets: what is added to predictions before the link, by GLMs, by constants and by hand."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
from numpy.testing import assert_allclose, assert_array_equal
from registered import examples
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from test_losses import targets

from sklearn_maml import MAMLClassifier, MAMLRegressor, adapt, few_shot_curve, few_shot_scorer
from sklearn_maml.adaptation import GradientSteps, Proximal
from sklearn_maml.losses import LOSSES
from sklearn_maml.losses.offset import OffsetLoss, with_offset

RNG = np.random.default_rng(0)
N_TASKS, SIZE = 40, 9
GROUPS = np.repeat(np.arange(N_TASKS), SIZE)
U = RNG.normal(size=(len(GROUPS), 2))
OFFSET = RNG.normal(size=len(GROUPS))
Z = U @ [0.5, -0.5] + np.repeat(0.5 * RNG.normal(size=N_TASKS), SIZE) + OFFSET
NUMBERS = Z + RNG.normal(size=len(Z))
COUNTS = RNG.poisson(np.exp(Z)).astype(float)
AMOUNTS = np.exp(Z) * RNG.gamma(2.0, 0.5, size=len(Z))
CLASSES = np.where(RNG.random(len(Z)) < 1.0 / (1.0 + np.exp(-Z)), "yes", "no")
X = np.column_stack([U, OFFSET])

# Losses before which nothing can be subtracted from the target.
LINKED = examples(LOSSES, lambda loss: not loss.of_residual)


def fitted(y, X=X, *, loss="squared_error", offset_column=2, **parameters):
    """A model with offsets in the last column, or without any."""
    if y.dtype.kind == "U":
        model = MAMLClassifier(random_state=0, offset_column=offset_column, **parameters)
    else:
        given = {"loss": loss, "random_state": 0, "offset_column": offset_column}
        model = MAMLRegressor(**given, **parameters)
    return model.fit(X, y, groups=GROUPS)


@pytest.mark.parametrize("loss", LINKED)
def test_a_loss_with_an_offset_is_the_loss_where_the_prediction_is_moved(loss):
    rng = np.random.default_rng(1)
    y, z, offset = targets(loss, 50, rng), rng.normal(size=50), rng.normal(size=50)
    moved, both = OffsetLoss(loss), with_offset(loss, y, offset)
    for name in ("value", "gradient", "hessian", "third"):
        assert_array_equal(getattr(moved, name)(both, z), getattr(loss, name)(y, z + offset))
    for name in ("saturated_hessian", "slope_range"):
        assert_array_equal(getattr(moved, name)(both), getattr(loss, name)(y))
    facts = ("constant_hessian", "dispersion", "gradient_bound", "hessian_bound", "third_bound")
    for name in (*facts, "fourth_bound", "third_ratios", "least_at_target"):
        assert getattr(moved, name) == getattr(loss, name), name
    for own, given in zip(moved.guesses(both), loss.guesses(y), strict=True):
        assert_allclose(own + offset, given)
    if loss.slope_turn(y) is not None:
        assert_allclose(moved.slope_turn(both) + offset, loss.slope_turn(y))
    # Fenchel: the dual at a slope that the loss has is attained where it has it.
    slope = moved.gradient(both, z)
    assert_allclose(moved.dual(both, slope), moved.value(both, z) - slope * z, atol=1e-8)


@pytest.mark.parametrize("loss", examples(LOSSES, lambda loss: loss.of_residual))
def test_losses_of_the_residual_are_functions_of_the_residual(loss):
    y, z, offset = np.random.default_rng(2).normal(size=(3, 50))
    assert_allclose(loss.value(y, z + offset), loss.value(with_offset(loss, y, offset), z))


FAMILIES = {
    "poisson": (COUNTS, sm.families.Poisson()),
    "gamma": (AMOUNTS, sm.families.Gamma(sm.families.links.Log())),
    "log_loss": (CLASSES, sm.families.Binomial()),
    "squared_error": (NUMBERS, sm.families.Gaussian()),
}


@pytest.mark.parametrize("loss", FAMILIES)
def test_a_model_that_does_not_adapt_is_the_glm_with_that_offset(loss):
    y, family = FAMILIES[loss]
    ours = fitted(y, loss=loss, n_steps=0, alpha=0.0)
    numbers = (y == "yes").astype(float) if loss == "log_loss" else y
    glm = sm.GLM(numbers, sm.add_constant(U), family=family, offset=OFFSET).fit(tol=1e-12)
    assert_allclose([ours.intercept_, *ours.coef_], glm.params, rtol=1e-5)
    told = ours.predict_proba(X)[:, 1] if loss == "log_loss" else ours.predict(X)
    assert_allclose(told, glm.predict(sm.add_constant(U), offset=OFFSET), rtol=1e-5)


RULES = [{}, {"n_steps": 2}, {"adaptation": Proximal(0.5), "support": 3}]


@pytest.mark.parametrize("parameters", RULES, ids=str)
@pytest.mark.parametrize("loss", FAMILIES)
def test_a_constant_offset_moves_the_intercept_alone(loss, parameters):
    y, _ = FAMILIES[loss]
    at_zero, moved = (
        fitted(y, np.column_stack([U, np.full(len(U), c)]), loss=loss, **parameters)
        for c in (0.0, 0.7)
    )
    assert_allclose(moved.coef_, at_zero.coef_, rtol=1e-3, atol=1e-4)
    assert_allclose(moved.intercept_, at_zero.intercept_ - 0.7, rtol=1e-3, atol=1e-4)
    assert_allclose(moved.meta_loss_, at_zero.meta_loss_, rtol=1e-5)
    bounds = [model.gap_certificate_.bound for model in (moved, at_zero)]
    assert_allclose(*bounds, rtol=0.02, atol=1e-9)


@pytest.mark.parametrize("parameters", RULES, ids=str)
@pytest.mark.parametrize("loss", ["poisson", "log_loss"])
def test_an_offset_of_zero_changes_nothing(loss, parameters):
    y, _ = FAMILIES[loss]
    with_zeros = fitted(y, np.column_stack([U, np.zeros(len(U))]), loss=loss, **parameters)
    without = fitted(y, U, loss=loss, offset_column=None, **parameters)
    assert_allclose(with_zeros.coef_, without.coef_, rtol=1e-10)
    assert_allclose(with_zeros.gap_certificate_.bound, without.gap_certificate_.bound, rtol=1e-6)
    rows = np.column_stack([U, np.zeros(len(U))])[:5]
    new = with_zeros.adapt(rows, y[:5])
    assert_allclose(new.coef_, without.adapt(U[:5], y[:5]).coef_, rtol=1e-9)


def test_for_the_squared_error_an_offset_is_subtracted_and_added_again():
    ours, plain = fitted(NUMBERS), fitted(NUMBERS - OFFSET, U, offset_column=None)
    assert_array_equal(ours.coef_, plain.coef_)
    assert_array_equal(ours.task_coef_, plain.task_coef_)
    expected = plain.predict(U, groups=GROUPS) + OFFSET
    assert_allclose(ours.predict(X, groups=GROUPS), expected, rtol=1e-12)
    mean, std = ours.adapt(X[:4], NUMBERS[:4]).predict(X[4:9], return_std=True)
    plain_new = plain.adapt(U[:4], (NUMBERS - OFFSET)[:4])
    expected_mean, expected_std = plain_new.predict(U[4:9], return_std=True)
    assert_allclose(mean, expected_mean + OFFSET[4:9])
    assert_array_equal(std, expected_std)
    both = np.column_stack([NUMBERS, -NUMBERS])
    two = fitted(both)
    assert_allclose(two.predict(X) - OFFSET[:, None], U @ two.coef_.T + two.intercept_)


@pytest.mark.parametrize("loss", FAMILIES)
def test_adapted_tasks_and_known_groups_add_the_offset_of_each_row(loss):
    y, _ = FAMILIES[loss]
    model = fitted(y, loss=loss)
    name = "decision_function" if loss == "log_loss" else "predict"
    link = np.log if loss in ("poisson", "gamma") else np.asarray
    new, many = model.adapt(X[:9], y[:9]), model.adapt_tasks(X, y, groups=GROUPS)
    by_hand = U[:9] @ new.coef_ + new.intercept_ + OFFSET[:9]
    assert_allclose(link(getattr(new, name)(X[:9])), by_hand)
    assert_allclose(link(getattr(many, name)(X, groups=GROUPS))[:9], by_hand, rtol=1e-6)
    assert_allclose(link(getattr(model, name)(X, groups=GROUPS))[:9], by_hand, rtol=1e-6)
    weights = np.r_[np.ones(5), np.zeros(4)]
    half = model.adapt(X[:9], y[:9], sample_weight=weights)
    assert_allclose(half.coef_, model.adapt(X[:5], y[:5]).coef_)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "pseudo_huber"])
def test_scores_are_of_the_targets_as_they_are(loss):
    y, _ = FAMILIES.get(loss, FAMILIES["squared_error"])
    model = fitted(y, loss=loss, support=3, split="first")
    own = [model.adapt(X[a : a + 3], y[a : a + 3]) for a in range(0, len(y), SIZE)]
    rest = np.tile(np.arange(SIZE) >= 3, N_TASKS)
    told = np.concatenate([new.predict(X[g == GROUPS][3:]) for g, new in enumerate(own)])
    assert_allclose(model.score(X, y, groups=GROUPS), r2_score(y[rest], told))
    scorer = few_shot_scorer("neg_mean_squared_error", support=3, split="first")
    error = np.mean((y[rest] - told) ** 2)
    assert_allclose(scorer(model, X, y, groups=GROUPS), -error)
    curve = few_shot_curve(model, X, y, groups=GROUPS, supports=[0], random_state=0)
    assert_allclose(curve.mean, np.mean((y - model.predict(X)) ** 2))


@pytest.mark.parametrize("loss", ["poisson", "log_loss"])
def test_no_parameters_beat_the_lower_bound(loss):
    y, _ = FAMILIES[loss]
    for rule in (Proximal(0.5), GradientSteps(0.5)):
        model = fitted(y, loss=loss, adaptation=rule, certificate="full")
        lower = model.gap_certificate_.lower_bound
        model.set_params(certificate="fast")
        best, rng = np.r_[model.coef_, model.intercept_], np.random.default_rng(3)
        for size in (1e-3, 0.1, 1.0):
            for step in size * rng.normal(size=(10, 3)):
                model.coef_, model.intercept_ = (best + step)[:2], (best + step)[2]
                assert model.certify(X, y, groups=GROUPS).meta_loss >= lower


def test_columns_are_found_by_name_and_left_out_of_the_features():
    frame = pd.DataFrame(U, columns=["u", "v"]).assign(log_days=OFFSET, person=GROUPS.astype(str))
    frame = frame[["u", "log_days", "person", "v"]]
    model = MAMLRegressor(loss="poisson", task_column="person", offset_column="log_days")
    model.set_params(random_state=0).fit(frame, COUNTS)
    assert_allclose(model.coef_, fitted(COUNTS, loss="poisson").coef_)
    assert model.learned_.names[:2] == ("u", "v")
    assert model.n_features_in_ == 4
    told = model.adapt(frame[:5], COUNTS[:5]).predict(frame[5:9])
    told_polars = MAMLRegressor(
        loss="poisson", task_column="person", offset_column="log_days", random_state=0
    ).fit(pl.DataFrame(frame.to_dict("list")), COUNTS)
    assert_allclose(told_polars.coef_, model.coef_)
    pipe = make_pipeline("passthrough", model).fit(frame, COUNTS)
    assert_allclose(adapt(pipe, frame[:5], COUNTS[:5]).predict(frame[5:9]), told)
    scores = cross_val_score(model, frame, COUNTS, groups=frame["person"], cv=GroupKFold(3))
    assert (scores > 0.2).all()


def test_lists_sparse_matrices_and_featurizers_take_offsets():
    dense = fitted(COUNTS, loss="poisson")
    sparse = fitted(COUNTS, sp.csr_matrix(X), loss="poisson")
    assert_allclose(sparse.coef_, dense.coef_)
    tasks = [(X[g == GROUPS], COUNTS[g == GROUPS]) for g in range(N_TASKS)]
    listed = MAMLRegressor(loss="poisson", offset_column=-1, random_state=0).fit(tasks)
    assert_array_equal(listed.coef_, dense.coef_)
    curved = fitted(COUNTS, loss="poisson", featurizer=PolynomialFeatures(include_bias=False))
    assert curved.coef_.shape == (5,)
    assert curved.featurizer_.n_features_in_ == 2
    alone = fitted(COUNTS, OFFSET[:, None], loss="poisson", offset_column=0)
    assert alone.coef_.shape == (0,)
    assert_allclose(np.log(alone.predict(OFFSET[:3, None])), alone.intercept_ + OFFSET[:3])


def test_what_is_no_offset_is_refused():
    text = pd.DataFrame(U, columns=["u", "v"]).assign(o="a")
    missing = X.copy()
    missing[3, 2] = np.nan
    days = text.assign(o=pd.Timestamp("2020-01-01"))
    for table, column, words in (
        (X, 5, "offset_column=5 is out of range: X has 3 columns"),
        (text, "days", "offset_column='days' is not a column of X"),
        (text, "o", "offset_column='o' does not hold numbers"),
        (days, "o", "dates or durations"),
        (missing, 2, "Input offset_column=2 contains NaN"),
        (1e3 * X, 2, "For exposures pass their logarithms"),
    ):
        with pytest.raises(ValueError, match=words):
            fitted(COUNTS, table, loss="poisson", offset_column=column)
    with pytest.raises(TypeError, match="offset_column must be a column's name or position"):
        fitted(COUNTS, offset_column=1.5)
    with pytest.raises(ValueError, match="are the same column of X"):
        MAMLRegressor(task_column=2, offset_column=-1).fit(X, COUNTS)
    with pytest.raises(ValueError, match="task column 0 and the offset column 1; add a feature"):
        MAMLRegressor(task_column=0, offset_column=1, fit_intercept=False).fit(X[:, :2], COUNTS)
    with pytest.raises(ValueError, match=r"two classes, .* got 3 classes"):
        fitted(np.array(["a", "b", "c"])[np.arange(len(X)) % 3])
    with pytest.raises(ValueError, match="no place for offset_column=2"):
        fitted(NUMBERS).adapt(X[:3], NUMBERS[:3]).to_linear()


def test_the_largest_offset_may_have_either_sign_and_be_reached():
    y = np.ones(3)
    reached = with_offset(LOSSES["poisson"](), y, np.array([100.0, -100.0, 0.0]))
    assert_array_equal(reached.imag, [100.0, -100.0, 0.0])
    with pytest.raises(ValueError, match=r"the largest is 100\.5, beyond 100"):
        with_offset(LOSSES["poisson"](), y, np.array([0.0, -100.5, 0.0]))


@pytest.mark.parametrize("name", ["squared_error", "poisson"])
def test_several_targets_share_the_offset_of_a_row(name):
    y, offset = np.arange(6.0).reshape(3, 2), np.array([1.0, 2.0, 4.0])
    found = with_offset(LOSSES[name](), y, offset)
    if name == "squared_error":
        assert_array_equal(found, [[-1, 0], [0, 1], [0, 1]])
    else:
        assert_array_equal(found, y + 1j * np.array([[1, 1], [2, 2], [4, 4]]))
