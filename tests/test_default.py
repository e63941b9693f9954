"""What a newcomer gets: a learned rule, judged on rows held out; and gradient steps when asked."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_tasks import TASKS, G, X, Y

from sklearn_maml import (
    GradientSteps,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    SingleTaskWarning,
    few_shot_scorer,
)
from sklearn_maml.datasets import make_linear_tasks

ALL = make_linear_tasks(n_tasks=49, random_state=0)
MANY = ALL[:40]
CLASSES = [(X, np.where(y > y.mean(), "high", "low")) for X, y in MANY]
# Tasks beside which the numbers of rows to adapt to are all possible.
JUDGES = [(X[:12], y[:12]) for X, y in ALL[40:]]


@parametrize_with_checks([MAMLRegressor(), MAMLClassifier()])
def test_the_default_passes_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("model", "tasks"), [(MAMLRegressor(), MANY), (MAMLClassifier(), CLASSES)])
def test_the_default_learns_how_tasks_differ(model, tasks):
    model.set_params(random_state=0).fit(tasks)
    assert isinstance(model.adaptation_, Proximal)
    assert model.learned_ is not None
    assert not hasattr(model, "inner_lr_")


@pytest.mark.parametrize("given", [{"inner_lr": "auto"}, {"inner_lr": 0.01}, {"n_steps": 1}])
def test_whoever_gives_a_length_or_a_number_of_steps_gets_gradient_steps(given):
    model = MAMLRegressor(**given).fit(TASKS)
    assert isinstance(model.adaptation_, GradientSteps)
    assert model.adaptation_.n_steps == 1
    assert model._episodes.support == "all"


def test_a_number_of_steps_alone_is_taken_at_the_automatic_length():
    one, other = (MAMLRegressor(*given, n_steps=3).fit(TASKS) for given in ([], ["auto"]))
    np.testing.assert_array_equal(one.coef_, other.coef_)


@pytest.mark.parametrize("given", [{"inner_lr": "auto"}, {"n_steps": 1}])
def test_what_would_be_ignored_is_an_error(given):
    with pytest.raises(ValueError, match="have no effect with adaptation="):
        MAMLRegressor(**given, adaptation="learned").fit(TASKS)


def test_one_task_is_fitted_on_all_its_rows_exactly_in_the_weights():
    weight = np.arange(len(X)) % 4
    model = MAMLRegressor().fit(X, Y, groups=np.zeros(len(X)), sample_weight=weight)
    expected = LinearRegression().fit(X, Y, sample_weight=weight)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-9)
    repeated = MAMLRegressor().fit([(np.repeat(X, weight, axis=0), np.repeat(Y, weight))])
    np.testing.assert_allclose(model.coef_, repeated.coef_, rtol=1e-9)
    moved = model.adapt(X[:4], Y[:4] + 100.0)
    np.testing.assert_allclose(moved.predict(X), model.predict(X))


@pytest.mark.parametrize("model", [MAMLRegressor(), MAMLClassifier()])
def test_rows_without_labels_are_one_task_which_is_said_with_the_remedies(model):
    y = Y if isinstance(model, MAMLRegressor) else Y > 5
    with pytest.warns(SingleTaskWarning, match=r"does not show how tasks differ.* task_column="):
        model.fit(X, y)


def test_tasks_of_one_row_show_no_differences_which_is_said():
    with pytest.warns(SingleTaskWarning, match=r"38 tasks of one row each.*groups="):
        model = MAMLRegressor().fit(X, Y, groups=np.arange(len(X)))
    expected = LinearRegression().fit(X, Y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-9)
    assert "tasks of one row" in str(model.learned_)


def test_one_task_that_is_meant_is_fitted_silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MAMLRegressor().fit(X, Y, groups=np.zeros(len(X)))
        MAMLRegressor().fit(TASKS[:1])


@pytest.mark.parametrize("given", [{}, {"inner_lr": "auto"}, {"inner_lr": 0.01, "support": "all"}])
@pytest.mark.parametrize("split", ["random", "first"])
def test_a_score_is_that_of_rows_held_out_at_1_2_3_5_and_10_shots(given, split):
    if given and split == "first":
        given = {**given, "support": [1, 2, 3, 5, 10]}
    model = MAMLRegressor(**given, split=split, random_state=3).fit(MANY)
    shots = given.get("support", "auto")
    shots = "auto" if shots == "all" else shots
    scorer = few_shot_scorer(support=shots, random_state=3, split=split)
    assert model.score(JUDGES) == pytest.approx(scorer(model, JUDGES), rel=1e-12)
    assert model.score(JUDGES) == model.score(JUDGES)


@pytest.mark.parametrize("support", [2, 0.5, [1, 4]])
def test_a_score_uses_the_shots_of_the_fit(support):
    model = MAMLRegressor(support=support, random_state=5).fit(MANY)
    expected = few_shot_scorer(support=support, random_state=5)(model, JUDGES)
    assert model.score(JUDGES) == pytest.approx(expected, rel=1e-12)


def test_a_classifier_is_scored_on_rows_held_out():
    judges = [(X, np.where(y > y.mean(), "high", "low")) for X, y in JUDGES]
    model = MAMLClassifier("auto", random_state=1).fit(CLASSES)
    scorer = few_shot_scorer(support="auto", random_state=1)
    assert model.score(judges) == pytest.approx(scorer(model, judges), rel=1e-12)


def test_a_search_does_not_prefer_the_rule_that_fits_the_rows_it_adapts_to():
    tasks = make_linear_tasks(n_tasks=40, noise=3.0, random_state=0)
    overfitting = GradientSteps(1e6, 50)
    steps, learned = (MAMLRegressor(adaptation=a).fit(tasks) for a in (overfitting, "learned"))
    errors = [
        np.mean([(y - model.adapt(X, y).predict(X)) ** 2 for X, y in tasks])
        for model in (steps, learned)
    ]
    assert errors[0] < errors[1]
    grid = {"adaptation": [overfitting, "learned"]}
    search = GridSearchCV(MAMLRegressor(random_state=0), grid, cv=4).fit(tasks)
    assert search.best_params_ == {"adaptation": "learned"}


def test_tasks_too_small_for_some_shots_are_scored_at_the_others():
    model = MAMLRegressor(random_state=0).fit(MANY)
    small = [(X[:n], y[:n]) for (X, y), n in zip(JUDGES, [1, 2, 3, 4, 5, 6, 7, 8, 12], strict=True)]
    assert np.isfinite(model.score(small))


def test_the_default_predicts_new_tasks_better_than_one_gradient_step():
    learned, steps = MAMLRegressor(random_state=0).fit(MANY), MAMLRegressor("auto").fit(MANY)
    assert learned.score(JUDGES) > steps.score(JUDGES)
    assert learned.gap_certificate_.bound < 1e-9 * learned.meta_loss_


def test_rows_of_known_tasks_are_predicted_by_their_own_parameters():
    model = MAMLRegressor(random_state=0).fit(X, Y, groups=G)
    own = np.concatenate([model.adapt(*task).predict(task[0]) for task in TASKS])
    np.testing.assert_allclose(model.predict(X, groups=G), own, rtol=1e-10)
