"""`pooled`: which features tasks adapt, chosen by held-out tasks."""

import pickle
from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import PolynomialFeatures, SplineTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from sklearn_maml import (
    MAMLClassifier,
    MAMLRegressor,
    PooledPrediction,
    SingleTaskWarning,
)
from sklearn_maml._estimators.feature_choice import (
    FeatureChoice,
    _curved,
    _task_losses,
    simplest_near,
)
from sklearn_maml._learning import proximal
from sklearn_maml.losses import SquaredError

RNG = np.random.default_rng(0)
N_TASKS, SIZE = 30, 12
GROUPS = np.repeat(np.arange(N_TASKS), SIZE)
X = RNG.uniform(-2, 2, size=(len(GROUPS), 2))
NOISE = 0.1 * RNG.normal(size=len(GROUPS))
OWN = RNG.normal(size=(N_TASKS, 3))[GROUPS]
TREE = DecisionTreeRegressor(min_samples_leaf=5, random_state=0)
STRAIGHT = X[:, 0] + 0.3 * OWN[:, 0] + 0.3 * OWN[:, 1] * X[:, 1] + NOISE
# All tasks have one surface, of columns that interact, at heights of their own.
SURFACE = (2 + OWN[:, 0]) * np.sign(X[:, 0] * X[:, 1]) + NOISE
# Each task has waves of its own.
WAVES = OWN[:, 0] * np.sin(2 * X[:, 0]) + OWN[:, 1] * np.cos(2 * X[:, 0]) + NOISE
# What tasks share is small beside how they differ, and not straight.
SHARED = 6 * OWN[:, 0] + 3 * OWN[:, 1] * X[:, 0] + np.sign(X[:, 0] * X[:, 1]) + NOISE
SETS = ("columns", "columns and prediction", "splines", "splines and prediction")


def fitted(y, X=X, pooled=TREE, **parameters):
    return MAMLRegressor(pooled=pooled, random_state=0, **parameters).fit(X, y, groups=GROUPS)


@cache
def usual(name):
    """The fit to one of the targets, with all else as it is."""
    targets = {"straight": STRAIGHT, "surface": SURFACE, "waves": WAVES, "shared": SHARED}
    targets["shared surface"] = STRAIGHT + 0.1 * SURFACE
    return fitted(targets[name])


def with_residual(name):
    """The name of a set with the residual beside it."""
    return name.replace(" and ", ", ") + " and residual"


class Counting(RegressorMixin, BaseEstimator):
    """Predicts the mean, and counts how often it was fitted, and to how many rows."""

    sizes = []

    def fit(self, X, y):
        self.mean_ = y.mean()
        self.sizes.append(len(y))
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("straight", "columns"),
        ("surface", "columns and prediction"),
        ("waves", "splines"),
        ("shared", "columns and residual"),
        ("shared surface", "columns, prediction and residual"),
    ],
)
def test_what_is_chosen_is_what_the_data_are_made_of(name, expected):
    choice = usual(name).feature_choice_
    assert choice.chosen == expected
    before = expected.removesuffix(" and residual").replace(", ", " and ")
    assert choice.names == (*SETS, with_residual(before))
    assert choice.task_losses.shape == (5, N_TASKS)


def test_the_simplest_set_within_two_standard_errors_of_the_best_is_taken():
    for name in ("straight", "surface", "waves", "shared", "shared surface"):
        choice = usual(name).feature_choice_
        best = choice.task_losses[np.argmin(choice.task_losses.mean(axis=1))]
        ahead = np.inf
        for name, losses in zip(choice.names, choice.task_losses, strict=True):
            apart = losses - best
            near = apart.mean() <= 2 * apart.std(ddof=1) / np.sqrt(N_TASKS)
            near, ahead = near and losses.mean() <= ahead, min(ahead, losses.mean())
            assert near or name != choice.chosen
            if near:
                assert name == choice.chosen
                break


def test_a_set_is_not_near_because_its_losses_are_wild():
    rng = np.random.default_rng(0)
    best = 1.0 + 0.01 * rng.normal(size=20)
    wild = best + np.r_[30.0, np.zeros(19)]  # 1.5 behind, give or take 1.5
    losses = np.array([best + 0.5, wild, best])
    assert simplest_near(FeatureChoice("", ("a", "b", "c"), losses)) == 2
    assert simplest_near(FeatureChoice("", ("a", "b"), losses[:2])) == 0
    assert simplest_near(FeatureChoice("", ("b", "c"), losses[1:])) == 0


def test_held_out_losses_are_those_of_models_that_saw_none_of_the_task():
    parameters = {"n_steps": 1, "split": "first", "support": 3, "random_state": 0}
    model = MAMLRegressor(pooled=TREE, **parameters)
    choice = model.fit(X, STRAIGHT, groups=GROUPS).feature_choice_
    losses = np.full(N_TASKS, np.nan)
    fold = np.empty(N_TASKS, dtype=int)  # the folds as documented: dealt at random
    seed = np.random.RandomState(0).randint(2**31 - 1)
    fold[np.random.default_rng(seed).permutation(N_TASKS)] = np.arange(N_TASKS) % 3
    tasks = [(X[g == GROUPS], STRAIGHT[g == GROUPS]) for g in range(N_TASKS)]
    for k in range(3):
        train = [task for task, own in zip(tasks, fold, strict=True) if own != k]
        model = MAMLRegressor(**parameters).fit(train)
        for i in np.flatnonzero(fold == k):
            rows, y = tasks[i]
            told = model.adapt(rows[:3], y[:3]).predict(rows[3:])
            losses[i] = np.mean((y[3:] - told) ** 2)
    assert_allclose(np.sort(choice.task_losses[0]), np.sort(losses), rtol=1e-6)


def test_the_model_is_that_of_the_features_that_were_chosen():
    straight = MAMLRegressor(random_state=0).fit(X, STRAIGHT, groups=GROUPS)
    assert_allclose(usual("straight").coef_, straight.coef_)
    pooled, cross = usual("surface"), PooledPrediction(TREE)
    expected = MAMLRegressor(featurizer=cross, random_state=0).fit(X, SURFACE, groups=GROUPS)
    assert_allclose(pooled.coef_, expected.coef_)
    assert_allclose(pooled.gap_certificate_.bound, expected.gap_certificate_.bound)
    new = [model.adapt(X[:5], SURFACE[:5]).predict(X[5:9]) for model in (pooled, expected)]
    assert_allclose(*new)
    assert_allclose(pooled.predict(X, groups=GROUPS), expected.predict(X, groups=GROUPS))
    _, std = pooled.predict(X[:3], return_std=True)
    assert (std > 0).all()
    bent = SplineTransformer(4, knots="quantile", extrapolation="linear")
    waves = MAMLRegressor(featurizer=bent, random_state=0).fit(X, WAVES, groups=GROUPS)
    assert_allclose(usual("waves").coef_, waves.coef_)


def test_the_regressor_is_fitted_once_a_fold_for_all_sets_and_once_for_what_they_leave_over():
    Counting.sizes.clear()
    fitted(STRAIGHT, pooled=Counting())
    assert Counting.sizes == [len(X) * 4 // 5] * 10


def test_many_splines_are_compared_by_one_structure_of_sigma(monkeypatch):
    tried, choose_structure = [], proximal.choose_structure

    def counted(objective, *args):
        tried.append(np.count_nonzero(objective.blocks.tasks.weight))
        return choose_structure(objective, *args)

    monkeypatch.setattr(proximal, "choose_structure", counted)
    wide = np.hstack([X, X[::-1]])
    assert fitted(STRAIGHT, wide).feature_choice_.names[:4] == SETS
    assert tried == []
    bent = SplineTransformer(4, knots="quantile", extrapolation="linear")
    fitted(STRAIGHT, wide, pooled=None, featurizer=bent)
    assert tried == [N_TASKS]


def test_with_a_featurizer_its_columns_are_tried_and_no_splines():
    model = fitted(X[:, 0] * X[:, 1] + NOISE, featurizer=PolynomialFeatures(include_bias=False))
    assert model.feature_choice_.names == (*SETS[:2], "columns and residual")
    assert model.feature_choice_.chosen == "columns"
    assert model.coef_.shape == (5,)
    beside = fitted(SURFACE, featurizer=StandardScaler())
    assert beside.feature_choice_.chosen == "columns and prediction"
    assert beside.coef_.shape == (3,)


def test_columns_with_few_values_have_no_splines_and_sparse_ones_neither():
    coded = np.column_stack([X[:, 0], X[:, 1] > 0])
    model = fitted(OWN[:, 0] * np.sin(2 * coded[:, 0]) + coded[:, 1] + NOISE, coded)
    assert model.feature_choice_.chosen == "splines"
    assert model.coef_.shape == (6 + 1,)
    assert model.learned_.names[0] == "x0_sp_0"
    flat = (*SETS[:2], "columns and residual")
    assert fitted(STRAIGHT, coded > 0).feature_choice_.names == flat
    sparse = fitted(SURFACE, sp.csr_matrix(X))
    assert sparse.feature_choice_.names == (*SETS[:2], "columns, prediction and residual")
    assert_allclose(sparse.coef_, usual("surface").coef_)


def test_columns_keep_their_names():
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(g=GROUPS.astype(str))
    model = MAMLRegressor(pooled=TREE, task_column="g", random_state=0).fit(frame, SURFACE)
    assert model.learned_.names == ("u", "v", "pooledprediction0", "intercept")
    assert model.random_effects().features == model.learned_.names
    assert model.predict(frame[:3]).shape == (3,)


def test_classes_and_counts_choose_too():
    labels = np.where(SURFACE > 0, "up", "down")
    boosting = HistGradientBoostingClassifier(max_iter=20, random_state=0)
    model = MAMLClassifier(pooled=boosting, random_state=0).fit(X, labels, groups=GROUPS)
    assert model.feature_choice_.chosen == "columns and prediction"
    assert "residual" not in "".join(model.feature_choice_.names)
    assert model.adapt(X[:3], labels[:3]).score(X[3:12], labels[3:12]) == 1.0
    counts = np.random.default_rng(2).poisson(np.exp(np.sign(X[:, 0] * X[:, 1]) + 0.3 * OWN[:, 0]))
    forest = fitted(counts, loss="poisson")
    assert forest.feature_choice_.chosen == "columns and prediction"
    assert "residual" not in "".join(forest.feature_choice_.names)
    assert (forest.predict(X) > 0).all()


def test_rows_of_one_task_have_no_task_to_be_held_out():
    with pytest.warns(SingleTaskWarning):
        model = MAMLRegressor(pooled=TREE).fit(X, STRAIGHT)
    assert model.feature_choice_.chosen == "columns"
    assert model.feature_choice_.task_losses.shape == (1, 0)
    assert repr(model.feature_choice_) == "<FeatureChoice: columns>"
    assert_allclose(model.coef_, LinearRegression().fit(X, STRAIGHT).coef_)


def test_few_tasks_tell_nothing_of_others():
    few = GROUPS < 5
    Counting.sizes.clear()
    model = MAMLRegressor(pooled=Counting(), random_state=0)
    model.fit(X[few], SURFACE[few], groups=GROUPS[few])
    assert model.feature_choice_.names == ("columns",)
    assert Counting.sizes == []


def test_tasks_that_weigh_nothing_are_not_asked():
    tasks = [(X[g == GROUPS], SURFACE[g == GROUPS]) for g in range(N_TASKS)]
    weight = np.r_[0.0, np.ones(N_TASKS - 1)]
    model = MAMLRegressor(pooled=TREE, random_state=0).fit(tasks, sample_weight=weight)
    assert model.feature_choice_.task_losses.shape == (5, N_TASKS - 1)


@pytest.mark.parametrize("parameters", [{"n_steps": 1}, {"inner_lr": 0.1, "support": 4}])
def test_gradient_steps_are_judged_by_rows_held_out_as_well(parameters):
    assert "prediction" in fitted(SURFACE, **parameters).feature_choice_.chosen


def test_searches_clones_and_pickles_keep_it():
    grid = {"pooled__min_samples_leaf": [3, 100]}
    model = MAMLRegressor(pooled=TREE, random_state=0)
    tasks = [(X[g == GROUPS], SURFACE[g == GROUPS]) for g in range(N_TASKS)]
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(tasks)
    assert search.best_params_ == {"pooled__min_samples_leaf": 3}
    best = search.best_estimator_
    loaded = pickle.loads(pickle.dumps(best))
    assert_array_equal(loaded.predict(X), best.predict(X))
    assert not hasattr(clone(best), "feature_choice_")
    best.set_params(pooled=None).fit(tasks)
    assert not hasattr(best, "feature_choice_")


def test_it_predicts_new_tasks_better_than_boosting_alone():
    boosting = HistGradientBoostingRegressor(max_iter=50, random_state=0)
    train, test = next(GroupKFold(3).split(X, SURFACE, GROUPS))
    model = MAMLRegressor(pooled=boosting, random_state=0)
    model.fit(X[train], SURFACE[train], groups=GROUPS[train])
    alone = clone(boosting).fit(X[train], SURFACE[train])
    ours = model.score(X[test], SURFACE[test], groups=GROUPS[test])
    assert ours > r2_score(SURFACE[test], alone.predict(X[test])) + 0.1


def test_what_was_tried_can_be_read():
    choice = usual("surface").feature_choice_
    lines = repr(choice).splitlines()
    assert lines[0] == "FeatureChoice: columns and prediction"
    assert [line.endswith("<- chosen") for line in lines[2:]] == [False, True, False, False, False]
    assert choice._repr_html_().count("<tr>") == 6
    alone = FeatureChoice("columns", ("columns",), np.empty((1, 0)))
    assert alone._repr_html_() == "<p>&lt;FeatureChoice: columns&gt;</p>"


def test_the_stage_is_told(caplog):
    caplog.set_level("INFO", logger="sklearn_maml")
    fitted(STRAIGHT, verbose=1)
    said = [message for message in caplog.messages if message.startswith("features")]
    assert "columns and prediction: held-out loss" in "".join(said)
    assert said[-1].startswith("features done: ")


@pytest.mark.parametrize("pooled", [DecisionTreeRegressor, StandardScaler(), "boosting", 3])
def test_what_is_no_regressor_is_refused(pooled):
    with pytest.raises(TypeError, match="pooled must be None, or a regressor or classifier"):
        MAMLRegressor(pooled=pooled).fit(X, STRAIGHT, groups=GROUPS)


def test_six_tasks_are_asked_and_five_values_make_a_curve():
    few = GROUPS < 6
    model = MAMLRegressor(pooled=TREE, random_state=0).fit(X[few], SURFACE[few], groups=GROUPS[few])
    assert model.feature_choice_.task_losses.shape == (5, 6)
    assert _curved(np.arange(20.0)[:, None] % [4, 5]) == [1]


def test_a_mean_loss_is_of_a_tasks_own_rows_by_their_weight():
    class Told:
        loss = SquaredError()

        def query_predictions(self, theta):
            task, weight = np.array([0, 0, 2, 2]), np.array([1.0, 3.0, 0.5, 0.5])
            return np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 2.0, 1.0, 4.0]), weight, task

    # (1 + 3 * 4) / 4 and (0 + 9) / 2; the task in between has no query rows.
    assert_allclose(_task_losses(Told(), None), [13 / 4, 9 / 2])
