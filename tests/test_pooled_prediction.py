"""PooledPrediction: cross-fitted on the rows of fit, by itself and as a featurizer of a model."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, PredefinedSplit
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_maml import (
    MAMLClassifier,
    MAMLRegressor,
    MAMLRegressorCV,
    PooledPrediction,
    adapt,
    few_shot_scorer,
)

RNG = np.random.default_rng(0)
N_TASKS, SIZE = 12, 10
GROUPS = np.repeat(np.arange(N_TASKS), SIZE)
X = RNG.uniform(-2, 2, size=(len(GROUPS), 3))
Y = RNG.uniform(1, 2, size=N_TASKS)[GROUPS] * np.sin(2 * X[:, 0]) + 0.1 * RNG.normal(size=len(X))
TREE = DecisionTreeRegressor(max_depth=4, random_state=0)


class InSample(TransformerMixin, BaseEstimator):
    """The same feature without cross-fitting: what a stacker must not do."""

    def __init__(self, pooled):
        self.pooled = pooled

    def fit(self, X, y):
        self.pooled_ = clone(self.pooled).fit(X, y)
        return self

    def transform(self, X):
        return self.pooled_.transform(X)


# -- the transformer alone ------------------------------------------------------------------------

CROSS_FITS = dict.fromkeys(
    ("check_transformer_general", "check_transformer_data_not_an_array"),
    "fit_transform cross-fits: on the rows of fit it is not transform, as in TargetEncoder",
)
# Few trees: threads of boosting that share a core with others wait for one another.
BOOSTING = HistGradientBoostingRegressor(max_iter=3, random_state=0)
OF_BOOSTING = {"check_sample_weight_equivalence_on_dense_data": "boosting bins rows, not weights"}


def expected_failures(pooled):
    """The convention, and what scikit-learn expects of its boosting, too."""
    return CROSS_FITS | (OF_BOOSTING if hasattr(pooled.estimator, "max_bins") else {})


@parametrize_with_checks(
    [
        PooledPrediction(BOOSTING),
        PooledPrediction(Ridge(), cv=3),
        PooledPrediction(LinearRegression(), passthrough=False, n_jobs=2),
        PooledPrediction(LogisticRegression(max_iter=1000)),
        PooledPrediction(RidgeClassifier(), cv=KFold(2)),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_estimator_check(estimator, check):
    check(estimator)


def test_the_default_is_boosting_that_draws_the_same_each_time():
    pooled = PooledPrediction().fit(X, Y)
    expected = HistGradientBoostingRegressor(random_state=0)
    assert [one.get_params() for one in pooled.estimators_] == [expected.get_params()]
    assert pooled.get_params()["estimator"] is None


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_task_is_predicted_by_a_clone_that_saw_none_of_its_rows(n_jobs):
    made = PooledPrediction(TREE, cv=3, n_jobs=n_jobs).fit_transform(X, Y, groups=GROUPS)
    assert (made[:, :3] == X).all()
    for train, test in GroupKFold(3).split(X, Y, GROUPS):
        expected = clone(TREE).fit(X[train], Y[train]).predict(X[test])
        np.testing.assert_array_equal(made[test, 3], expected)


def test_rows_to_come_are_predicted_by_the_mean_of_the_estimators_of_all_folds():
    pooled = PooledPrediction(TREE, cv=3, passthrough=False)
    pooled.fit_transform(X, Y, groups=GROUPS)
    new = X[:5] + 0.1
    folds = GroupKFold(3).split(X, Y, GROUPS)
    expected = np.mean([clone(TREE).fit(X[own], Y[own]).predict(new) for own, _ in folds], axis=0)
    np.testing.assert_allclose(pooled.transform(new)[:, 0], expected)
    alone = clone(pooled).fit(X, Y).transform(new)
    np.testing.assert_array_equal(alone[:, 0], clone(TREE).fit(X, Y).predict(new))


def test_few_rows_to_come_have_features_of_the_kind_that_was_trained_on():
    # With all rows there are leaves that no fold's trees had rows enough for.
    rng, task = np.random.default_rng(0), np.repeat(np.arange(10), 5)
    x = np.tile(np.arange(5.0), 10)[:, None]
    y = np.repeat([0.0, 10.0], [2, 3])[x[:, 0].astype(int)] + rng.normal(size=50)
    tree = DecisionTreeRegressor(min_samples_leaf=20)
    pooled = PooledPrediction(tree, cv=5, passthrough=False)
    crossed = pooled.fit_transform(x, y, groups=task)
    assert np.ptp(clone(tree).fit(x, y).predict(x)) > 5
    assert np.ptp(crossed) < 1
    assert np.ptp(pooled.transform(x)) < 1


def test_labels_and_the_order_of_rows_are_of_no_consequence():
    made = PooledPrediction(Ridge()).fit_transform(X, Y, groups=GROUPS)
    names = np.array([f"task {g}" for g in GROUPS[::-1]], dtype=object)[::-1]
    other = PooledPrediction(Ridge()).fit_transform(X, Y, groups=list(names))
    np.testing.assert_array_equal(other, made)
    one_a_fold = PooledPrediction(Ridge(), cv=N_TASKS)
    mixed = np.random.default_rng(1).permutation(len(X))
    moved = one_a_fold.fit_transform(X[mixed], Y[mixed], groups=GROUPS[mixed])
    np.testing.assert_allclose(moved, one_a_fold.fit_transform(X, Y, groups=GROUPS)[mixed])


def test_fewer_tasks_than_folds_are_left_out_one_by_one():
    few = GROUPS < 3
    made = PooledPrediction(Ridge(), cv=5).fit_transform(X[few], Y[few], groups=GROUPS[few])
    expected = PooledPrediction(Ridge(), cv=3).fit_transform(X[few], Y[few], groups=GROUPS[few])
    np.testing.assert_array_equal(made, expected)


def test_without_groups_it_cross_fits_by_row():
    made = PooledPrediction(Ridge(), cv=4, passthrough=False).fit_transform(X, Y)
    for train, test in KFold(4).split(X):
        expected = Ridge().fit(X[train], Y[train]).predict(X[test])
        np.testing.assert_allclose(made[test, 0], expected)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_splitter_or_its_splits_may_be_given(as_list):
    cv = PredefinedSplit(GROUPS % 2)
    made = PooledPrediction(TREE, cv=list(cv.split()) if as_list else cv)
    made = made.fit_transform(X, Y, groups=GROUPS)
    even = GROUPS % 2 == 0
    expected = clone(TREE).fit(X[~even], Y[~even]).predict(X[even])
    np.testing.assert_array_equal(made[even, -1], expected)


def test_rows_count_by_their_weight_in_every_fold():
    weight = np.where(np.arange(len(X)) % 3, 1.0, 0.0)
    pooled, kept = PooledPrediction(LinearRegression(), cv=N_TASKS), weight > 0
    made = pooled.fit_transform(X, Y, groups=GROUPS, sample_weight=weight)
    other = clone(pooled)
    expected = other.fit_transform(X[kept], Y[kept], groups=GROUPS[kept])
    np.testing.assert_allclose(made[kept], expected)
    np.testing.assert_allclose(pooled.transform(X), other.transform(X))


def test_an_estimator_that_takes_no_weights_is_fitted_without():
    pooled = PooledPrediction(KNeighborsRegressor(2))
    made = pooled.fit_transform(X, Y, groups=GROUPS, sample_weight=1.0 + GROUPS)
    np.testing.assert_array_equal(made, pooled.fit_transform(X, Y, groups=GROUPS))


def test_several_targets_are_several_columns():
    both = np.column_stack([Y, -2 * Y])
    made = PooledPrediction(Ridge(), passthrough=False).fit_transform(X, both, groups=GROUPS)
    np.testing.assert_allclose(made[:, 1], -2 * made[:, 0])


CLASSES = np.array(["low", "mid", "top"])[np.digitize(Y, [-0.5, 0.5])]


@pytest.mark.parametrize(
    ("method", "estimator", "expected"),
    [
        ("auto", LogisticRegression(), lambda model: model.predict_proba(X)[:, 1:]),
        ("auto", RidgeClassifier(), lambda model: model.decision_function(X)),
        ("decision_function", LogisticRegression(), lambda model: model.decision_function(X)),
    ],
)
def test_of_a_classifier_scores_or_probabilities_are_taken(method, estimator, expected):
    pooled = PooledPrediction(estimator, method=method, passthrough=False)
    crossed = pooled.fit_transform(X, CLASSES, groups=GROUPS)
    whole = clone(pooled).fit(X, CLASSES)
    np.testing.assert_allclose(whole.transform(X), expected(clone(estimator).fit(X, CLASSES)))
    train, test = next(GroupKFold(5).split(X, CLASSES, GROUPS))
    part = PooledPrediction(estimator, method=method, passthrough=False)
    part.fit(X[train], CLASSES[train])
    np.testing.assert_allclose(crossed[test], part.transform(X[test]), atol=1e-5)


def test_a_class_that_a_fold_has_not_seen_has_probability_0_there_and_no_score():
    y = np.where(GROUPS == 0, "rare", np.where(Y > 0, "high", "low"))
    pooled = PooledPrediction(LogisticRegression(), cv=N_TASKS, passthrough=False)
    crossed = pooled.fit_transform(X, y, groups=GROUPS)
    assert (crossed[GROUPS == 0, 1] == 0).all()
    assert (crossed[GROUPS > 0, 1] > 0).all()
    assert pooled.transform(X).shape == (len(X), 2)
    with pytest.raises(ValueError, match="lack the class 'rare'"):
        PooledPrediction(RidgeClassifier(), cv=N_TASKS).fit_transform(X, y, groups=GROUPS)


def test_columns_have_names_and_a_frame_can_be_asked_for():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    pooled = PooledPrediction(RandomForestClassifier(5, random_state=0)).set_output(
        transform="pandas"
    )
    made = pooled.fit_transform(frame, CLASSES, groups=GROUPS)
    assert list(made) == ["a", "b", "c", "pooledprediction0", "pooledprediction1"]
    assert list(pooled.transform(frame[:2])) == list(made)
    alone = PooledPrediction(Ridge(), passthrough=False).fit(X, Y)
    assert list(alone.get_feature_names_out()) == ["pooledprediction0"]


def test_sparse_rows_stay_sparse():
    pooled = PooledPrediction(Ridge(solver="lsqr"))
    made = pooled.fit_transform(sp.csr_array(X), Y, groups=GROUPS)
    assert sp.issparse(made)
    expected = clone(pooled).fit_transform(X, Y, groups=GROUPS)
    np.testing.assert_allclose(made.toarray(), expected, atol=1e-4)


def test_a_pickled_copy_predicts_the_same():
    pooled = PooledPrediction(TREE).fit(X, Y)
    copy = pickle.loads(pickle.dumps(pooled))
    np.testing.assert_array_equal(copy.transform(X), pooled.transform(X))


@pytest.mark.parametrize(
    ("parameters", "error", "says"),
    [
        ({"estimator": Ridge}, TypeError, "estimator must be None, a regressor"),
        ({"estimator": "ridge"}, TypeError, "estimator must be None, a regressor"),
        ({"estimator": StandardScaler()}, TypeError, "must have predict_proba or decision_func"),
        ({"estimator": Ridge(), "method": "predict_proba"}, TypeError, "must have predict_proba;"),
        ({"method": "votes"}, ValueError, "method must be"),
        ({"passthrough": "yes"}, TypeError, "passthrough must be"),
        ({"n_jobs": 0}, ValueError, "n_jobs must be"),
        ({"cv": 1}, ValueError, "cv must be"),
        ({"cv": True}, TypeError, "cv must be"),
        ({"cv": "five"}, ValueError, "cv"),
        ({"cv": [([0], [1], [2])]}, ValueError, "pairs .train, test. of row numbers"),
        ({"cv": KFold(7)}, ValueError, "rows of task 1 into both train and test"),
        ({"cv": PredefinedSplit(np.where(GROUPS, GROUPS % 2, -1))}, ValueError, "each row once"),
        (
            {"estimator": RidgeClassifier(), "method": "predict"},
            ValueError,
            "could not convert string to float",
        ),
    ],
)
def test_bad_parameters_are_named(parameters, error, says):
    y = CLASSES if parameters.get("method") == "predict" else Y
    with pytest.raises(error, match=says):
        PooledPrediction(**parameters).fit_transform(X, y, groups=GROUPS)


def test_bad_rows_are_refused():
    pooled = PooledPrediction(Ridge())
    with pytest.raises(ValueError, match="requires y to be passed"):
        pooled.fit(X, None)
    with pytest.raises(ValueError, match=r"two tasks or more, .* got n_samples=1"):
        pooled.fit_transform(X, Y, groups=np.zeros(len(X)))
    with pytest.raises(ValueError, match="groups has 3 labels"):
        pooled.fit_transform(X, Y, groups=[0, 1, 2])
    with pytest.raises(ValueError, match="egative values in data passed to `sample_weight`"):
        pooled.fit_transform(X, Y, groups=GROUPS, sample_weight=-np.ones(len(X)))


# -- as a featurizer ------------------------------------------------------------------------------


def same_model(model, other):
    """Raise unless two models have the same meta-parameters and tasks."""
    for name in ("coef_", "intercept_", "task_coef_", "task_intercept_", "meta_loss_"):
        np.testing.assert_allclose(getattr(model, name), getattr(other, name), rtol=1e-6, atol=1e-9)


POOLED = PooledPrediction(TREE)
FEATURIZERS = {
    "alone": POOLED,
    "first in a pipeline": make_pipeline(POOLED, StandardScaler()),
    "last in a pipeline": make_pipeline(StandardScaler(), POOLED),
    "beside splines": make_union(PooledPrediction(TREE, passthrough=False), SplineTransformer(3)),
    "of some columns": make_column_transformer((POOLED, [0, 1]), (StandardScaler(), [2])),
    "two of them": make_union(POOLED, PooledPrediction(Ridge(), passthrough=False)),
    "nested": make_pipeline(make_union(POOLED, make_pipeline(StandardScaler(), POOLED))),
}


@pytest.mark.parametrize("kind", FEATURIZERS)
@pytest.mark.parametrize("routing", [False, True])
def test_a_model_is_fitted_on_cross_fitted_features_wherever_they_are_made(kind, routing):
    featurizer = FEATURIZERS[kind]
    with sklearn.config_context(enable_metadata_routing=routing):
        model = MAMLRegressor(featurizer=featurizer, random_state=0).fit(X, Y, groups=GROUPS)
    with sklearn.config_context(enable_metadata_routing=True):
        by_hand = clone(featurizer)
        phi = by_hand.fit_transform(X, Y, groups=GROUPS)
    expected = MAMLRegressor(random_state=0).fit(phi, Y, groups=GROUPS)
    same_model(model, expected)
    new = by_hand.transform(X + 0.1)
    assert np.abs(by_hand.transform(X) - phi).max() > 0.1
    np.testing.assert_allclose(model.predict(X + 0.1), expected.predict(new))
    np.testing.assert_allclose(
        model.adapt(X[:3], Y[:3]).predict(X + 0.1),
        expected.adapt(by_hand.transform(X[:3]), Y[:3]).predict(new),
    )


def test_all_forms_of_tasks_reach_the_featurizer():
    pd = pytest.importorskip("pandas")
    model = MAMLRegressor(featurizer=POOLED, random_state=0)
    expected = clone(model).fit(X, Y, groups=GROUPS)
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(task=[f"t{g}" for g in GROUPS])
    same_model(clone(model).set_params(task_column="task").fit(frame, Y), expected)
    tasks = [(X[g == GROUPS], Y[g == GROUPS]) for g in range(N_TASKS)]
    np.testing.assert_allclose(clone(model).fit(tasks).coef_, expected.coef_)
    order = np.argsort(np.arange(len(X)) % SIZE, kind="stable")  # tasks in turn, row by row
    mixed = clone(model).set_params(support="all").fit(X[order], Y[order], groups=GROUPS[order])
    same_model(mixed, clone(model).set_params(support="all").fit(X, Y, groups=GROUPS))


def test_group_means_that_nothing_tells_do_not_leak():
    # Targets are noise about a mean of each task, and every column is constant in a task: trees
    # learn which task a row is of, and nothing else. In sample their prediction is the answer, for
    # a new task it is worth nothing; so a model that trusts it is worse than one that has none.
    rng = np.random.default_rng(3)
    n_tasks, size = 100, 8
    groups = np.repeat(np.arange(n_tasks), size)
    told = rng.normal(size=(n_tasks, 2))[groups]
    y = 3 * rng.normal(size=n_tasks)[groups] + rng.normal(size=len(groups))
    train = groups < 60
    forest = PooledPrediction(RandomForestRegressor(30, random_state=0))
    errors = {}
    for name, featurizer in {
        "none": None,
        "crossed": forest,
        "in sample": InSample(forest),
    }.items():
        model = MAMLRegressor(featurizer=featurizer, random_state=0)
        model.fit(told[train], y[train], groups=groups[train])
        scorer = few_shot_scorer("neg_mean_squared_error", support=2)
        tasks = [(told[groups == g], y[groups == g]) for g in range(60, n_tasks)]
        errors[name] = -scorer(model, tasks)
    assert errors["crossed"] < 1.05 * errors["none"]
    assert errors["in sample"] > 1.5 * errors["none"]


def test_curves_that_differ_in_height_are_learned_from_three_rows():
    rng = np.random.default_rng(5)
    tasks = []
    for height in rng.uniform(0.5, 1.5, size=60):
        A = rng.uniform(-3, 3, size=(20, 1))
        tasks.append((A, height * np.sin(2 * A[:, 0]) + 0.05 * rng.normal(size=20)))
    scorer = few_shot_scorer(support=3)
    forest = PooledPrediction(RandomForestRegressor(30, random_state=0))
    curved = MAMLRegressor(featurizer=forest, random_state=0).fit(tasks[:40])
    assert scorer(curved, tasks[40:]) > 0.9
    assert scorer(MAMLRegressor(random_state=0).fit(tasks[:40]), tasks[40:]) < 0.2


def test_tasks_that_weigh_nothing_do_not_reach_the_regressor():
    linear = PooledPrediction(LinearRegression(), cv=3)
    tasks = [(X[g == GROUPS], Y[g == GROUPS]) for g in range(N_TASKS)]
    given = [float(g != 4) for g in range(N_TASKS)]
    some = [task for task, kept in zip(tasks, given, strict=True) if kept]
    model = MAMLRegressor("auto", featurizer=linear).fit(tasks, sample_weight=given)
    assert model.n_tasks_ == N_TASKS
    expected = MAMLRegressor("auto", featurizer=linear).fit(some)
    np.testing.assert_allclose(model.coef_, expected.coef_)


WEIGHT = np.where(np.arange(len(X)) % 4, 2.0, 0.0) * (1 + GROUPS % 2 + np.arange(len(X)) % 3)


@pytest.mark.parametrize(
    ("beside", "weighted"), [(None, True), (FunctionTransformer(), True), (StandardScaler(), False)]
)
def test_weights_of_rows_reach_the_regressor_unless_a_step_leaves_it_open(beside, weighted):
    # StandardScaler could take weights, and has not been told whether to.
    linear, kept = PooledPrediction(LinearRegression(), cv=3), WEIGHT > 0
    featurizer = linear if beside is None else make_pipeline(linear, beside)
    model = MAMLRegressor("auto", featurizer=featurizer)
    model.fit(X, Y, groups=GROUPS, sample_weight=WEIGHT)
    weight = WEIGHT[kept] if weighted else None
    phi = linear.fit_transform(X[kept], Y[kept], groups=GROUPS[kept], sample_weight=weight)
    phi = phi if beside is None else clone(beside).fit_transform(phi)
    plain = MAMLRegressor("auto")
    plain.fit(phi, Y[kept], groups=GROUPS[kept], sample_weight=WEIGHT[kept])
    same_model(model, plain)


def test_a_task_of_weight_zero_has_the_features_of_rows_to_come():
    given = [float(g != 4) for g in range(N_TASKS)]
    tasks = [(sp.csr_array(X[g == GROUPS]), Y[g == GROUPS]) for g in range(N_TASKS)]
    dense = [(A.toarray(), b) for A, b in tasks]
    model = MAMLRegressor("auto", featurizer=PooledPrediction(Ridge(solver="lsqr")))
    found = clone(model).fit(tasks, sample_weight=given)
    expected = clone(model).fit(dense, sample_weight=given)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-3)


@pytest.mark.parametrize("unlabelled", [True, False])
def test_one_task_is_cross_fitted_by_row(unlabelled):
    groups = None if unlabelled else np.zeros(len(X))
    model = MAMLRegressor("auto", featurizer=POOLED)
    found = model.fit(X, Y, groups=groups)
    phi = PooledPrediction(TREE).fit_transform(X, Y)
    np.testing.assert_allclose(found.coef_, MAMLRegressor("auto").fit(phi, Y, groups=groups).coef_)


def test_a_search_reaches_the_estimator_and_is_judged_by_held_out_tasks():
    tasks = [(X[g == GROUPS], Y[g == GROUPS]) for g in range(N_TASKS)]
    search = GridSearchCV(
        MAMLRegressor(featurizer=PooledPrediction(BOOSTING)),
        {"featurizer__estimator__max_leaf_nodes": [2, 8]},
        scoring=few_shot_scorer(support=2),
        cv=2,
        error_score="raise",
    )
    search.fit(tasks)
    best = search.best_estimator_.featurizer_.estimators_[0].max_leaf_nodes
    assert best == search.best_params_["featurizer__estimator__max_leaf_nodes"]
    assert np.isfinite(adapt(search, X[:3], Y[:3]).predict(X)).all()


def test_the_search_of_the_package_uses_cross_fitted_features_throughout():
    options = {"n_steps": (1, 2), "alphas": (0.1,), "cv": 3, "random_state": 0}
    found = MAMLRegressorCV(featurizer=POOLED, **options).fit(X, Y, groups=GROUPS)
    phi = PooledPrediction(TREE).fit_transform(X, Y, groups=GROUPS)
    expected = MAMLRegressorCV(**options).fit(phi, Y, groups=GROUPS)
    np.testing.assert_allclose(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    same_model(found.best_estimator_, expected.best_estimator_)


def test_a_classifier_has_probabilities_as_features():
    pooled = PooledPrediction(RandomForestClassifier(20, random_state=0))
    model = MAMLClassifier(featurizer=pooled, random_state=0)
    model.fit(X, CLASSES, groups=GROUPS)
    assert model.coef_.shape[-1] == 5
    assert (model.adapt(X[:5], CLASSES[:5]).predict(X) == CLASSES).mean() > 0.9


def test_text_and_missing_values_go_to_an_estimator_that_takes_them():
    pd = pytest.importorskip("pandas")
    kind = pd.Categorical(np.where(X[:, 1] > 0, "up", "down"))
    frame = pd.DataFrame(
        {"a": np.where(X[:, 0] > 1.9, np.nan, X[:, 0]), "b": X[:, 2], "kind": kind}
    )
    trees = PooledPrediction(
        clone(BOOSTING).set_params(categorical_features="from_dtype"), passthrough=False
    )
    beside = make_column_transformer((trees, ["a", "kind", "b"]), ("passthrough", ["b"]))
    model = MAMLRegressor(featurizer=beside, random_state=0).fit(frame, Y, groups=GROUPS)
    assert model.coef_.shape == (2,)
    with pytest.raises(ValueError, match="passthrough=True keeps the columns of X, which must be"):
        trees.set_params(passthrough=True).fit(frame, Y).transform(frame)


def test_the_names_of_what_is_learned_tell_the_prediction():
    model = MAMLRegressor(featurizer=PooledPrediction(Ridge()), random_state=0)
    learned = model.fit(X, Y, groups=GROUPS).learned_
    assert "pooledprediction0" in str(learned)


# -- the protocol ---------------------------------------------------------------------------------


class Counted(TransformerMixin, BaseEstimator):
    """A featurizer as users write them, that keeps which methods were called."""

    calls = ()

    def fit(self, X, y=None):
        type(self).calls = ("fit",)
        return self

    def transform(self, X):
        return X

    def fit_transform(self, X, y=None):
        raise AssertionError("nobody asked for groups")


class Shifted(TransformerMixin, BaseEstimator):
    """One that cross-fits as the page on extending says: told by asking for groups in fit."""

    __metadata_request__fit = {"groups": True}

    def fit(self, X, y=None, groups=None):
        return self

    def transform(self, X):
        return X

    def fit_transform(self, X, y=None, groups=None):
        assert len(np.unique(groups)) == N_TASKS
        return X + groups[:, None]


def test_a_featurizer_that_asks_for_no_groups_is_fitted_and_then_transforms():
    model = MAMLRegressor("auto", featurizer=Counted()).fit(X, Y, groups=GROUPS)
    same_model(model, MAMLRegressor("auto").fit(X, Y, groups=GROUPS))
    assert Counted.calls == ("fit",)


def test_any_featurizer_may_cross_fit_if_it_asks_for_groups():
    model = MAMLRegressor("auto", featurizer=Shifted()).fit(X, Y, groups=GROUPS)
    same_model(model, MAMLRegressor("auto").fit(X + GROUPS[:, None], Y, groups=GROUPS))


def test_a_frozen_featurizer_was_fitted_on_other_rows_and_only_transforms():
    fitted = PooledPrediction(TREE).fit(X, Y)
    model = MAMLRegressor("auto", featurizer=FrozenEstimator(fitted))
    phi = fitted.transform(X)
    model.fit(X, Y, groups=GROUPS)
    same_model(model, MAMLRegressor("auto").fit(phi, Y, groups=GROUPS))


def test_cross_fitted_features_must_be_one_row_a_row():
    class Short(Shifted):
        def fit_transform(self, X, y=None, groups=None):
            return X[:-1]

    with pytest.raises(ValueError, match="one row a row of X; it made 119 rows of 120"):
        MAMLRegressor("auto", featurizer=Short()).fit(X, Y, groups=GROUPS)


def test_a_request_that_scikit_learn_refuses_is_not_hidden():
    class Stubborn(Shifted):
        def fit_transform(self, X, y=None, groups=None):
            raise UnsetMetadataPassedError(message="no", unrequested_params={}, routed_params={})

    with pytest.raises(UnsetMetadataPassedError, match="no"):
        MAMLRegressor("auto", featurizer=Stubborn()).fit(X, Y, groups=GROUPS)
