"""A search over rules and features has the scores of a loop of fits, and the fit of the best."""

import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, LeaveOneGroupOut, LeaveOneOut
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, PolynomialFeatures

from sklearn_maml import GradientSteps, MAMLRegressor, MAMLRegressorCV, Proximal
from sklearn_maml._learning import problem
from sklearn_maml.datasets import make_linear_tasks

TASKS = make_linear_tasks(n_tasks=24, n_samples=8, n_features=2, noise=0.5, random_state=0)
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
GROUPS = np.repeat([f"g{i:02}" for i in range(24)], 8)
# A split by which a search of our own and one by scikit-learn judge by the same rows.
FIRST = {"support": [1, 3], "split": "first", "random_state": 0}
POLYNOMIAL = PolynomialFeatures(include_bias=False)
RULES = {
    "learned": ["learned", Proximal(metric="diagonal", criterion="reml")],
    "by the query loss": [Proximal(metric="diagonal"), Proximal(metric="intercept")],
    "strengths": [Proximal(2.0), Proximal(metric="identity"), Proximal(starts=None)],
    "effects": [Proximal(random_effects="intercept"), Proximal(random_effects=[0])],
    "given": [
        Proximal(1.0, [1.0, 2.0, 0.5]),
        GradientSteps(0.1, 2),
        GradientSteps(0.05, cap=False),
    ],
    "lengths": [GradientSteps("learn"), GradientSteps(0.1, first_order=True)],
}


def assert_same_search(fast, slow):
    for name, values in fast.cv_results_.items():
        if name.endswith("_test_score") and not name.startswith("rank"):
            expected = slow.cv_results_[name]
            np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-7, err_msg=name)
        elif name.startswith("param_"):
            np.testing.assert_array_equal(values.mask, np.ma.getmaskarray(slow.cv_results_[name]))
    assert [each.keys() for each in fast.cv_results_["params"]] == [
        each.keys() for each in slow.cv_results_["params"]
    ]
    assert str(fast.best_params_) == str(slow.best_params_)
    best, expected = fast.best_estimator_, slow.best_estimator_
    np.testing.assert_allclose(best.coef_, expected.coef_, rtol=1e-8)
    assert str(best.adaptation_) == str(expected.adaptation_)
    assert str(best.learned_) == str(expected.learned_)
    assert repr(best.calibration_) == repr(expected.calibration_)


@pytest.mark.parametrize("name", RULES)
def test_scores_and_the_best_model_are_those_of_grid_search(name):
    grid = {"adaptation": RULES[name]}
    fast = MAMLRegressorCV(param_grid=grid, alphas=[0.0, 0.1], cv=3, **FIRST).fit(TASKS)
    model = MAMLRegressor(**FIRST)
    slow = GridSearchCV(model, grid | {"alpha": [0.0, 0.1]}, cv=3).fit(TASKS)
    assert_same_search(fast, slow)


@pytest.mark.parametrize("cv", [4, LeaveOneGroupOut()])
def test_rows_with_labels_are_searched_as_grid_search_does(cv):
    """With labels, random effects by name, and the numbers of shots of support="auto"."""
    fixed = {"support": "auto", "split": "first", "random_state": 0}
    rules = [Proximal(random_effects=["b"]), Proximal(metric="full", doubt=None)]
    frame = pd.DataFrame(X[:96], columns=["a", "b"]).assign(store=GROUPS[:96])
    grid = {"adaptation": rules}
    fast = MAMLRegressorCV(param_grid=grid, alphas=[0.01], cv=cv, task_column="store", **fixed)
    fast.fit(frame, Y[:96])
    with sklearn.config_context(enable_metadata_routing=True):
        model = MAMLRegressor(task_column="store", **fixed)
        splitter = cv if isinstance(cv, LeaveOneGroupOut) else GroupKFold(cv)
        folds = list(splitter.split(frame, Y[:96], GROUPS[:96]))
        slow = GridSearchCV(model, grid | {"alpha": [0.01]}, cv=folds).fit(frame, Y[:96])
    assert_same_search(fast, slow)
    assert fast.best_estimator_.feature_names_in_.tolist() == ["a", "b", "store"]
    np.testing.assert_allclose(fast.predict(frame), slow.predict(frame), rtol=1e-8)


def test_features_and_their_parameters_are_searched():
    grids = [
        {"featurizer__degree": [1, 2], "adaptation": [Proximal(metric="diagonal")]},
        {"featurizer": [None], "adaptation": [Proximal(), Proximal(1.0, np.eye(3))]},
        {"featurizer__degree": [2], "adaptation": [Proximal()], "adaptation__metric": ["full"]},
        {},
    ]
    fast = MAMLRegressorCV([0.1], [1, 2], [0.1], param_grid=grids, featurizer=POLYNOMIAL, cv=3)
    fast.set_params(**FIRST).fit(TASKS)
    steps = {"inner_lr": [0.1], "n_steps": [1, 2]}
    grids = [{"alpha": [0.1]} | (grid if grid else steps) for grid in grids]
    slow = GridSearchCV(MAMLRegressor(featurizer=POLYNOMIAL, **FIRST), grids, cv=3).fit(TASKS)
    assert_same_search(fast, slow)
    assert POLYNOMIAL.degree == 2
    assert not hasattr(POLYNOMIAL, "n_output_features_"), "a clone was fitted"


def test_several_targets_and_weights_of_rows_and_tasks_count():
    rng = np.random.default_rng(0)
    weighted = [
        (X_t, np.column_stack([y_t, X_t[:, 0] - 2 * y_t]), rng.uniform(0.5, 2.0, len(y_t)))
        for X_t, y_t in TASKS
    ]
    grid = {"adaptation": [Proximal(), Proximal(metric="identity")]}
    fast = MAMLRegressorCV(param_grid=grid, alphas=[0.0], cv=3, **FIRST).fit(weighted)
    model = MAMLRegressor(**FIRST)
    assert_same_search(fast, GridSearchCV(model, grid | {"alpha": [0.0]}, cv=3).fit(weighted))


@pytest.mark.parametrize(("support", "n_episodes"), [("auto", 1), ("all", 1), (3, 10)])
def test_all_rules_are_judged_by_the_same_random_rows(support, n_episodes):
    """Those that `score` draws; tasks that weigh nothing keep the places that rows are drawn by."""
    grids = [{"adaptation": ["learned", Proximal(1.0, np.eye(3)), "gradient_steps"]}, {}]
    drawn = {"support": support, "n_episodes": n_episodes, "random_state": 0}
    search = MAMLRegressorCV(["auto"], [0], [0.1], param_grid=grids, cv=3, **drawn).fit(TASKS)
    for s, sides in enumerate(KFold(3).split(TASKS)):
        train, test = (np.isin(np.arange(24), side).astype(float) for side in sides)
        for c, params in enumerate(search.cv_results_["params"]):
            model = MAMLRegressor(**params, **drawn).fit(TASKS, sample_weight=train)
            expected = model.score(TASKS, sample_weight=test)
            assert search.cv_results_[f"split{s}_test_score"][c] == pytest.approx(
                expected, rel=1e-9
            )


def test_what_does_not_depend_on_the_candidate_is_made_once(monkeypatch):
    covariances, features = [], []
    learn = problem.learn_covariance

    def counted(problem, effects, kind, *rest):
        covariances.append((problem.n_tasks, kind))
        return learn(problem, effects, kind, *rest)

    def squares(X):
        features.append(len(X))
        return np.hstack([X, X**2])

    monkeypatch.setattr(problem, "learn_covariance", counted)
    grid = {
        "adaptation": [
            Proximal(metric="full"),
            Proximal(0.5, metric="full"),
            Proximal(1.0, np.eye(5)),
        ]
    }
    model = MAMLRegressorCV(
        param_grid=grid, alphas=[0.0, 0.1, 1.0], cv=3, featurizer=FunctionTransformer(squares)
    )
    model.set_params(**FIRST | {"support": 4}).fit(TASKS)
    # One for each fold, whatever the penalty and the strength, and one for the fit of the best.
    assert covariances[:3] == [(16, "full")] * 3
    assert len(covariances) == 3 + (model.best_params_["adaptation"].learnable)
    assert sorted(features) == [1, len(X)], "a row to see how many they are, and all rows"


def test_columns_of_text_are_for_candidates_with_a_featurizer_that_takes_them():
    frame = pd.DataFrame({"u": X[:, 0], "kind": np.where(X[:, 1] > 0, "p", "q")})
    grid = {"featurizer": [OneHotEncoder(min_frequency=2)], "adaptation": ["learned"]}
    model = MAMLRegressorCV(param_grid=grid, alphas=[0.1], cv=3, support=3, random_state=0)
    frame["u"] = frame["u"].round()
    assert model.fit(frame, Y, groups=GROUPS).best_estimator_.n_tasks_ == 24
    model.set_params(param_grid=[grid, {}])
    with pytest.raises(ValueError, match="p"):
        model.fit(frame, Y, groups=GROUPS)


def test_a_random_state_that_moves_on_draws_the_same_rows_for_all_candidates():
    grid = {
        "adaptation": ["learned", "learned", Proximal(1.0, np.eye(3)), Proximal(1.0, np.eye(3))]
    }
    model = MAMLRegressorCV(param_grid=grid, alphas=[0.1], cv=3, support=3)
    found = model.set_params(random_state=np.random.RandomState(0)).fit(TASKS).cv_results_
    first, again, third, fourth = found["mean_test_score"]
    assert first == again
    assert third == fourth
    assert len(set(found["mean_test_score"])) == 2


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"param_grid": 3}, TypeError, "param_grid must be a dict from names.*got 3"),
        ({"param_grid": "adaptation"}, TypeError, "param_grid must be a dict.*got 'adaptation'"),
        ({"param_grid": []}, TypeError, r"one or more; got \[\]"),
        ({"param_grid": [{}, 3]}, TypeError, r"list of such dicts.*got \[{}, 3\]"),
        ({"param_grid": {"adaptation": []}}, ValueError, r"adaptation needs a seq.*got \[\]"),
        ({"param_grid": {"adaptation": "learned"}}, ValueError, "adaptation needs .* 'learned'"),
        ({"param_grid": {"adaptation": Proximal()}}, ValueError, "adaptation needs .*Proximal"),
        ({"param_grid": {"featurizer": np.eye(2)}}, ValueError, "featurizer needs a sequence"),
        ({"param_grid": {"adaption": ["learned"]}}, ValueError, "'adaption', which this search"),
        ({"param_grid": {"support": [1, 2]}}, ValueError, "'support', which.*GridSearchCV"),
        ({"param_grid": {3: [1, 2]}}, ValueError, "names 3, which this search does not try"),
        ({"param_grid": {"alpha": [0.1]}}, ValueError, "'alpha', whose candidates .* alphas="),
        ({"param_grid": {"inner_lr": [0.1]}}, ValueError, "'inner_lr', whose .* inner_lrs="),
        ({"param_grid": {"adaptation": ["none such"]}}, ValueError, "'none such' is not known"),
        ({"param_grid": {"adaptation": [3]}}, TypeError, "adaptation must be a name.*got 3"),
        (
            {"param_grid": {"adaptation": ["learned"], "adaptation__metric": ["full"]}},
            ValueError,
            "'adaptation__metric', but adaptation is 'learned', which has no parameters",
        ),
        (
            {"param_grid": {"adaptation__metric": ["full"]}},
            ValueError,
            "'adaptation__metric', but adaptation is None",
        ),
        (
            {"param_grid": {"adaptation": [Proximal()], "adaptation__none": [1]}},
            ValueError,
            "Invalid parameter 'none' for estimator Proximal",
        ),
        (
            {"param_grid": {"adaptation": [Proximal()], "adaptation__criterion": ["reml"]}},
            ValueError,
            "criterion='reml' needs a metric to learn",
        ),
        (
            {"param_grid": {"featurizer__degree": [1]}},
            ValueError,
            "featurizer is None.*featurizer=",
        ),
        ({"param_grid": {"featurizer": ["none such"]}}, TypeError, "featurizer must be None or"),
        (
            {"param_grid": {"adaptation": ["learned"]}, "inner_lrs": [0.1]},
            ValueError,
            r"inner_lrs=\[0.1\] has no effect, as every dict of param_grid names 'adaptation'",
        ),
        (
            {"param_grid": {"adaptation": ["learned"]}, "n_steps": [1]},
            ValueError,
            r"n_steps=\[1\] has no effect",
        ),
        (
            {"param_grid": {"featurizer": [None]}, "featurizer": POLYNOMIAL},
            ValueError,
            "featurizer=.* has no effect, as every dict of param_grid names 'featurizer'",
        ),
        (
            {"param_grid": {"adaptation": ["learned"]}, "cv": "leave-one-task-out"},
            ValueError,
            r"Proximal\(\) would be fitted anew for each task.*LeaveOneOut\(\)",
        ),
        (
            {"param_grid": [{}, {"adaptation": [Proximal(metric="diagonal")]}], "support": "all"},
            ValueError,
            "support='all' leaves no query rows",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        MAMLRegressorCV(**parameters).fit(TASKS)
    assert not hasattr(MAMLRegressorCV(**parameters), "best_params_")


def test_a_rule_that_is_given_may_leave_one_task_out_and_one_that_is_learned_by_a_splitter():
    rule = Proximal(1.0, [1.0, 1.0, 2.0])
    shared = {"alphas": [0.1, 1.0], **FIRST}
    grid = {"adaptation": [rule]}
    fast = MAMLRegressorCV(param_grid=grid, cv="leave-one-task-out", **shared).fit(TASKS)
    model = MAMLRegressor(**FIRST)
    slow = GridSearchCV(model, grid | {"alpha": [0.1, 1.0]}, cv=LeaveOneOut()).fit(TASKS)
    assert_same_search(fast, slow)
    learned = MAMLRegressorCV(param_grid={"adaptation": [Proximal()]}, cv=LeaveOneOut(), **shared)
    assert learned.fit(TASKS[:5]).n_splits_ == 5


def test_a_search_can_be_cloned_and_fitted_again():
    grid = {"adaptation": ["learned", Proximal(metric="identity")]}
    model = MAMLRegressorCV(param_grid=grid, alphas=[0.0], cv=3, **FIRST).fit(TASKS)
    again = clone(model).fit(TASKS)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    assert model.best_estimator_.get_params()["support"] == [1, 3]
    assert model.set_params(param_grid=None).fit(TASKS).best_params_.keys() == {
        "alpha",
        "inner_lr",
        "n_steps",
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_structure_is_chosen_by_the_loss_of_held_out_tasks_whatever_the_penalty(seed):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(2, 5))
    tasks = []
    for _ in range(24):
        X_t, own = rng.normal(size=(8, 5)), rng.normal(size=2) @ loadings
        tasks.append((X_t, X_t @ (1.0 + own) + 0.5 * rng.normal(size=8)))
    model = MAMLRegressor(adaptation=Proximal(metric="low_rank"), support=3, random_state=0)
    first, second = (clone(model).set_params(alpha=a).fit(tasks).learned_ for a in (0.0, 1e3))
    assert first.n_factors == second.n_factors
    np.testing.assert_array_equal(first.covariance, second.covariance)


def test_a_random_state_that_moves_on_judges_all_features_by_the_same_rows():
    copies = [FunctionTransformer(), FunctionTransformer()]
    grid = {"featurizer": [None, *copies], "adaptation": ["learned"]}
    model = MAMLRegressorCV(param_grid=grid, alphas=[0.1], cv=3, support="auto")
    found = model.set_params(random_state=np.random.RandomState(0)).fit(TASKS).cv_results_
    np.testing.assert_allclose(found["mean_test_score"], found["mean_test_score"][0], rtol=1e-10)


def test_tasks_of_one_row_are_predicted_without_support_as_in_a_fit():
    tasks = [TASKS[0], (TASKS[1][0][:1], TASKS[1][1][:1]), *TASKS[2:]]
    grid = {"adaptation": ["learned"]}
    shared = {"support": "auto", "split": "first", "random_state": 0}
    fast = MAMLRegressorCV(param_grid=grid, alphas=[0.0], cv=3, **shared).fit(tasks)
    slow = GridSearchCV(MAMLRegressor(**shared), grid | {"alpha": [0.0]}, cv=3).fit(tasks)
    assert_same_search(fast, slow)


def test_a_candidate_that_overflows_is_refused_as_by_a_fit():
    rule = GradientSteps(1e9, 40, cap=False)
    search = MAMLRegressorCV(param_grid={"adaptation": [rule]}, alphas=[0.1], cv=3, **FIRST)
    for model in (search, MAMLRegressor(adaptation=rule, alpha=0.1, **FIRST)):
        with pytest.raises(ValueError, match="Overflow: numbers beyond the range of float64"):
            model.fit(TASKS)


def test_a_search_tells_of_each_fold_of_a_rule_that_is_learned(capfd):
    grid = {"adaptation": [Proximal(metric="identity"), Proximal(1.0, np.eye(3))]}
    MAMLRegressorCV(param_grid=grid, alphas=[0.1], cv=2, verbose=1, **FIRST).fit(TASKS[:6])
    out = capfd.readouterr().out
    assert re.search(
        r"search \d+, .* s: adaptation=Proximal\(metric='identity'\), alpha=0.1, ", out
    )
    assert re.search(r"alpha=0.1, split 1: R2 -?[\d.]+\n", out)
    assert re.search(r"adaptation=Proximal\(metric=array.* strength=1.0\): R2 -?[\d.]+\n", out)
