"""Model selection over tasks, as scikit-learn does it: lists of tasks, or rows with groups."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.kernel_approximation import RBFSampler
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    LeaveOneGroupOut,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_maml import GradientSteps, MAMLRegressor

SIZES = np.array([6, 9, 5, 8, 7, 6, 10, 5])


def make_data(seed=0):
    """Eight tasks, as a list and as shuffled rows with labels."""
    rng = np.random.default_rng(seed)
    tasks = []
    for size in SIZES:
        X = rng.normal(size=(size, 2))
        tasks.append((X, X @ rng.normal([1, -2], 1) + rng.normal() + 0.3 * rng.normal(size=size)))
    order = rng.permutation(SIZES.sum())
    X, y = (np.concatenate(part)[order] for part in zip(*tasks, strict=True))
    return tasks, X, y, np.repeat(list("abcdefgh"), SIZES)[order]


TASKS, X, Y, G = make_data()


@pytest.fixture
def routing():
    with config_context(enable_metadata_routing=True):
        yield


def scores_by_hand(model, folds):
    return [clone(model).fit(train).score(test) for train, test in folds]


def folds_of(splitter, *data):
    for train, test in splitter.split(*data):
        yield [TASKS[i] for i in train], [TASKS[i] for i in test]


# Lists of tasks


def test_cross_validation_over_a_list_leaves_out_whole_tasks():
    expected = scores_by_hand(MAMLRegressor("auto"), folds_of(KFold(4), TASKS))
    np.testing.assert_array_equal(cross_val_score(MAMLRegressor("auto"), TASKS, cv=4), expected)


def test_a_grid_search_over_a_list_chooses_and_refits_what_scores_best():
    grid = {"n_steps": [0, 1, 3], "alpha": [0.0, 0.1]}
    search = GridSearchCV(MAMLRegressor("auto"), grid, cv=4).fit(TASKS)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        expected = scores_by_hand(MAMLRegressor(**parameters), folds_of(KFold(4), TASKS))
        assert score == pytest.approx(np.mean(expected), rel=1e-12)
    # The tasks differ, so that adapting to them pays.
    assert search.best_params_["n_steps"] > 0
    refit = MAMLRegressor(**search.best_params_).fit(TASKS)
    np.testing.assert_array_equal(search.best_estimator_.coef_, refit.coef_)
    np.testing.assert_array_equal(search.predict(X), refit.predict(X))
    assert search.best_estimator_.n_tasks_ == len(TASKS)
    assert search.score(TASKS) == refit.score(TASKS)


def test_a_randomized_search_over_a_list_works():
    search = RandomizedSearchCV(
        MAMLRegressor("auto"), {"inner_lr": [0.01, 0.1, "auto"]}, n_iter=2, cv=2, random_state=0
    )
    assert search.fit(TASKS).best_estimator_.n_tasks_ == len(TASKS)


def test_a_halving_search_over_a_list_has_tasks_as_its_resource():
    search = HalvingGridSearchCV(MAMLRegressor("auto"), {"n_steps": [0, 1]}, cv=2, min_resources=4)
    search.fit(TASKS)
    assert search.n_resources_[0] == 4
    assert search.best_estimator_.n_tasks_ == len(TASKS)


def test_a_learning_curve_counts_tasks():
    sizes, train, test = learning_curve(
        MAMLRegressor("auto"), TASKS, None, train_sizes=[2, 4, 6], cv=4
    )
    np.testing.assert_array_equal(sizes, [2, 4, 6])
    assert train.shape == test.shape == (3, 4)
    for k, size in enumerate(sizes):
        folds = [(tasks[:size], test) for tasks, test in folds_of(KFold(4), TASKS)]
        np.testing.assert_array_equal(test[k], scores_by_hand(MAMLRegressor("auto"), folds))


def test_a_list_of_tasks_can_be_split_into_training_and_test_tasks():
    train, test = train_test_split(TASKS, test_size=3, random_state=0)
    assert len(train) == 5
    assert len(test) == 3
    known = {id(X) for X, _ in TASKS}
    assert {id(X) for X, _ in train} | {id(X) for X, _ in test} == known
    assert MAMLRegressor("auto").fit(train).score(test) <= 1


def test_weights_inside_the_tuples_travel_through_a_search():
    weighted = [(X, y, float(i + 1)) for i, (X, y) in enumerate(TASKS)]
    search = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1]}, cv=2).fit(weighted)
    expected = MAMLRegressor("auto").fit(weighted)
    np.testing.assert_array_equal(search.best_estimator_.coef_, expected.coef_)
    assert not np.array_equal(expected.coef_, MAMLRegressor("auto").fit(TASKS).coef_)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_in_parallel_gives_the_same_scores(n_jobs):
    search = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [0, 2]}, cv=2, n_jobs=n_jobs).fit(
        TASKS
    )
    expected = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [0, 2]}, cv=2).fit(TASKS)
    for key in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(search.cv_results_[key], expected.cv_results_[key])


# Rows with groups, by metadata routing


def scores_of_groups(model, splitter):
    return [
        clone(model).fit(X[a], Y[a], groups=G[a]).score(X[b], Y[b], groups=G[b])
        for a, b in splitter.split(X, Y, G)
    ]


@pytest.mark.parametrize("splitter", [GroupKFold(4), LeaveOneGroupOut()])
@pytest.mark.usefixtures("routing")
def test_with_routing_groups_reach_splitter_fit_and_score_unasked(splitter):
    scores = cross_val_score(MAMLRegressor("auto"), X, Y, cv=splitter, params={"groups": G})
    np.testing.assert_array_equal(scores, scores_of_groups(MAMLRegressor("auto"), splitter))


@pytest.mark.usefixtures("routing")
def test_with_routing_a_grid_search_needs_no_set_fit_request():
    search = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [0, 1, 2]}, cv=GroupKFold(4))
    search.fit(X, Y, groups=G)
    assert search.best_estimator_.n_tasks_ == len(TASKS)
    for n_steps, score in enumerate(search.cv_results_["mean_test_score"]):
        expected = scores_of_groups(MAMLRegressor(n_steps=n_steps), GroupKFold(4))
        assert score == pytest.approx(np.mean(expected), rel=1e-12)
    expected = search.best_estimator_.score(X, Y, groups=G)
    assert search.score(X, Y, groups=G) == expected


@pytest.mark.usefixtures("routing")
def test_with_routing_a_pipeline_passes_groups_on():
    pipeline = make_pipeline(StandardScaler(), MAMLRegressor("auto")).fit(X, Y, groups=G)
    assert pipeline[-1].n_tasks_ == len(TASKS)
    search = GridSearchCV(pipeline, {"mamlregressor__n_steps": [1, 2]}, cv=GroupKFold(2))
    assert search.fit(X, Y, groups=G).best_estimator_[-1].n_tasks_ == len(TASKS)


@pytest.mark.usefixtures("routing")
def test_with_routing_sample_weights_reach_fit_where_they_are_requested():
    weight = np.arange(1.0, len(Y) + 1)
    model = MAMLRegressor("auto").set_fit_request(sample_weight=True)
    model.set_score_request(sample_weight=False)
    search = GridSearchCV(model, {"n_steps": [1]}, cv=GroupKFold(2))
    search.fit(X, Y, groups=G, sample_weight=weight)
    expected = MAMLRegressor("auto").fit(X, Y, groups=G, sample_weight=weight)
    np.testing.assert_array_equal(search.best_estimator_.coef_, expected.coef_)


@pytest.mark.usefixtures("routing")
def test_with_routing_two_ways_of_passing_the_data_give_the_same_scores():
    leave_one = cross_validate(
        MAMLRegressor("auto"), X, Y, cv=LeaveOneGroupOut(), params={"groups": G}
    )["test_score"]
    tasks = [(X[g == G], Y[g == G]) for g in np.unique(G)]
    expected = cross_val_score(MAMLRegressor("auto"), tasks, cv=len(tasks))
    np.testing.assert_allclose(leave_one, expected, rtol=1e-10)


# What can be tuned


@pytest.mark.parametrize("form", ["list", "groups"])
def test_the_parameters_of_the_featurizer_can_be_tuned(form):
    featurizer = make_pipeline(StandardScaler(), RBFSampler(random_state=0))
    model = MAMLRegressor("auto", featurizer=featurizer, alpha=0.01)
    grid = {"featurizer__rbfsampler__n_components": [2, 5]}
    with config_context(enable_metadata_routing=form == "groups"):
        if form == "list":
            search = GridSearchCV(model, grid, cv=2).fit(TASKS)
        else:
            search = GridSearchCV(model, grid, cv=GroupKFold(2)).fit(X, Y, groups=G)
    (best,) = search.best_params_.values()
    assert search.best_estimator_.coef_.shape == (best,)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    assert featurizer[-1].n_components == 100, "clones were tuned"


def test_a_featurizer_can_be_chosen():
    rbf = RBFSampler(n_components=4, random_state=0)
    grid = [{"featurizer": [None]}, {"featurizer": [rbf], "featurizer__gamma": [0.1]}]
    search = GridSearchCV(MAMLRegressor("auto", alpha=0.01), grid, cv=2).fit(TASKS)
    assert len(search.cv_results_["params"]) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_the_parameters_of_an_adaptation_rule_can_be_tuned():
    rule = GradientSteps(0.05)
    grid = {"adaptation__n_steps": [0, 5], "adaptation__inner_lr": [0.05, 0.2]}
    search = GridSearchCV(MAMLRegressor(adaptation=rule), grid, cv=4).fit(TASKS)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        steps, length = parameters["adaptation__n_steps"], parameters["adaptation__inner_lr"]
        model = MAMLRegressor(length, steps)
        expected = scores_by_hand(model, folds_of(KFold(4), TASKS))
        assert score == pytest.approx(np.mean(expected), rel=1e-12)
    assert search.best_params_["adaptation__n_steps"] == 5
    assert rule.get_params()["n_steps"] == 1, "clones were tuned"


@pytest.mark.parametrize("support", [1, 0.5, [1, 3]])
def test_random_episodes_can_be_searched_and_tuned(support):
    model = MAMLRegressor("auto", support=support, random_state=0)
    search = GridSearchCV(model, {"n_episodes": [1, 4]}, cv=2).fit(TASKS)
    for n_episodes, score in zip((1, 4), search.cv_results_["mean_test_score"], strict=True):
        tuned = clone(model).set_params(n_episodes=n_episodes)
        expected = scores_by_hand(tuned, folds_of(KFold(2), TASKS))
        assert score == pytest.approx(np.mean(expected), rel=1e-12)


def test_an_adapted_regressor_can_be_cross_validated_on_the_rows_of_its_task():
    *known, (X_new, y_new) = TASKS
    adapted = MAMLRegressor("auto").fit(known).adapt(X_new[:1], y_new[:1])
    scores = cross_val_score(adapted, X_new, y_new, cv=2, scoring="neg_mean_squared_error")
    model = MAMLRegressor("auto").fit(known)
    for k, (a, b) in enumerate(KFold(2).split(X_new)):
        residual = model.adapt(X_new[a], y_new[a]).predict(X_new[b]) - y_new[b]
        assert scores[k] == pytest.approx(-np.mean(residual**2), rel=1e-12)
