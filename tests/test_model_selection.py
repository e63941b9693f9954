"""Few-shot scores and curves, and cross-validation over tasks at the cost of a fit."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import (
    make_scorer,
    max_error,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    ShuffleSplit,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import get_tags

from sklearn_maml import (
    GradientSteps,
    MAMLRegressor,
    MAMLRegressorCV,
    adapt,
    few_shot_curve,
    few_shot_scorer,
)
from sklearn_maml._estimators.objectives import query_predictions
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.model_selection.leave_tasks_out import Folds

TASKS = make_linear_tasks(n_tasks=21, n_samples=(8, 14), n_features=3, random_state=1)
X = np.concatenate([X_t for X_t, _ in TASKS])
Y = np.concatenate([y_t for _, y_t in TASKS])
GROUPS = np.repeat([f"g{8 * i % 21}" for i in range(21)], [len(y_t) for _, y_t in TASKS])
FRAME = pd.DataFrame(X, columns=["a", "b", "c"]).assign(store=GROUPS)


# -- few_shot_scorer ------------------------------------------------------------------------------


def one_by_one(model, tasks, support, metric):
    """The score of the first `support` rows, by adapting to one task after the other."""
    pairs = [
        (y_t[support:], model.adapt(X_t[:support], y_t[:support]).predict(X_t[support:]))
        for X_t, y_t in tasks
    ]
    return metric(*(np.concatenate(side) for side in zip(*pairs, strict=True)))


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("r2", r2_score),
        ("neg_mean_absolute_error", lambda y, z: -mean_absolute_error(y, z)),
        (
            make_scorer(mean_squared_error, greater_is_better=False),
            lambda y, z: -((y - z) ** 2).mean(),
        ),
    ],
)
def test_a_draw_of_equal_rows_scores_as_adapting_task_by_task(name, metric):
    # All rows of a task are the same: whichever are drawn, the result is known.
    rng = np.random.default_rng(0)
    tasks = [(np.tile(rng.normal(size=3), (6, 1)), np.full(6, rng.normal())) for _ in range(8)]
    model = MAMLRegressor(0.05).fit(TASKS)
    score = few_shot_scorer(name, support=2, n_draws=3)(model, tasks)
    assert score == pytest.approx(one_by_one(model, tasks, 2, metric))


def test_the_score_is_that_of_the_model_with_the_same_draws():
    judge = few_shot_scorer(support=3, random_state=7)
    model = MAMLRegressor("auto", support=3, n_episodes=5, random_state=7).fit(TASKS)
    plain = MAMLRegressor(adaptation=model.adaptation_).fit(TASKS)
    plain.coef_, plain.intercept_ = model.coef_, model.intercept_
    assert judge(plain, TASKS) == pytest.approx(model.score(TASKS))
    assert judge(plain, X, Y, groups=GROUPS) == pytest.approx(judge(plain, TASKS))


def test_weights_of_rows_count():
    weighted = [(X_t, y_t, np.where(np.arange(len(y_t)) < 4, 1.0, 1e-12)) for X_t, y_t in TASKS]
    model = MAMLRegressor("auto").fit(TASKS)
    judge = few_shot_scorer("neg_mean_absolute_error", support=2)
    assert judge(model, weighted) != pytest.approx(judge(model, TASKS), rel=1e-3)


def test_the_same_scores_for_lists_columns_and_routed_groups():
    judge = {"r2": few_shot_scorer(support=3), "mae": few_shot_scorer("neg_mean_absolute_error", 3)}
    flat = X, Y, GROUPS
    cv = list(GroupKFold(3).split(*flat))
    with_column = cross_validate(
        MAMLRegressor("auto", task_column="store"), FRAME, Y, groups=GROUPS, cv=cv, scoring=judge
    )
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(
            MAMLRegressor("auto"), X, Y, cv=cv, scoring=judge, params={"groups": GROUPS}
        )
    of_task = [np.unique(GROUPS[test]) for _, test in cv]
    labels = np.array([GROUPS[i] for i in np.cumsum([0] + [len(y_t) for _, y_t in TASKS])[:-1]])
    by_task = [
        (np.flatnonzero(~np.isin(labels, own)), np.flatnonzero(np.isin(labels, own)))
        for own in of_task
    ]
    listed = cross_validate(MAMLRegressor("auto"), TASKS, cv=by_task, scoring=judge)
    for name in ("test_r2", "test_mae"):
        np.testing.assert_allclose(with_column[name], routed[name])
        np.testing.assert_allclose(with_column[name], listed[name])


@pytest.mark.parametrize("routing", [False, True])
def test_searches_take_the_scorer(routing):
    judge = few_shot_scorer("neg_mean_squared_error", support=3)
    with sklearn.config_context(enable_metadata_routing=routing):
        if routing:
            pipe = make_pipeline(StandardScaler(), MAMLRegressor("auto"))
            search = GridSearchCV(
                pipe, {"mamlregressor__n_steps": [0, 5]}, scoring=judge, cv=GroupKFold(3)
            )
            search.fit(X, Y, groups=GROUPS)
            assert search.score(X, Y, groups=GROUPS) > search.cv_results_["mean_test_score"].min()
        else:
            search = GridSearchCV(
                MAMLRegressor("auto"),
                {"n_steps": [0, 5]},
                scoring={"mse": judge},
                refit="mse",
                cv=3,
            ).fit(TASKS)
    assert next(iter(search.best_params_.values())) == 5


def test_a_pipeline_is_judged_on_a_list_of_tasks():
    pipe = make_pipeline(StandardScaler(), MAMLRegressor(0.05)).fit(
        X, Y, mamlregressor__groups=GROUPS
    )
    scaled = [(pipe[0].transform(X_t), y_t) for X_t, y_t in TASKS]
    judge = few_shot_scorer(support=2, n_draws=20)
    assert judge(pipe, TASKS) == pytest.approx(judge(pipe[-1], scaled))


def test_metrics_that_take_no_weights_need_none():
    worst = make_scorer(max_error, greater_is_better=False)
    model = MAMLRegressor("auto").fit(TASKS)
    assert few_shot_scorer(worst, support=3)(model, TASKS) < 0


def test_the_scorer_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match="leaves no rows to judge by"):
        few_shot_scorer(support="all")
    with pytest.raises(ValueError, match="r3"):
        few_shot_scorer("r3")
    with pytest.raises(ValueError, match="n_episodes must be at least 1; got 0"):
        few_shot_scorer(n_draws=0)
    model = MAMLRegressor("auto").fit(TASKS)
    with pytest.raises(ValueError, match="few_shot_scorer got rows without task labels"):
        few_shot_scorer()(model, X, Y)
    with pytest.raises(ValueError, match="too few rows for support=99"):
        few_shot_scorer(support=99)(model, TASKS)


def test_the_scorer_can_be_cloned_and_shown():
    judge = clone(few_shot_scorer("neg_median_absolute_error", support=[1, 3]))
    assert repr(judge) == "FewShotScorer(metric='neg_median_absolute_error', support=[1, 3])"
    assert judge(MAMLRegressor("auto").fit(TASKS), TASKS) < 0


def test_a_task_too_small_for_an_episode_does_not_count_in_it():
    small, large = (TASKS[0][0][:3], TASKS[0][1][:3]), TASKS[1]
    model = MAMLRegressor("auto", support=[1, 5], random_state=0).fit(TASKS)
    *_, task = query_predictions(model, [small, large], None, None, None, model._episodes)
    n = len(large[1])
    assert np.bincount(task).tolist() == [2, (n - 1) + (n - 5)]


# -- few_shot_curve -------------------------------------------------------------------------------


def test_the_curve_starts_at_the_meta_parameters():
    model = MAMLRegressor("auto", support=3, random_state=0).fit(TASKS)
    curve = few_shot_curve(model, TASKS, supports=[0, 3])
    errors = np.array([np.mean((model.predict(X_t) - y_t) ** 2) for X_t, y_t in TASKS])
    np.testing.assert_allclose(curve.task_errors[0], errors)
    assert curve.mean[0] == pytest.approx(errors.mean())
    assert curve.standard_error[0] == pytest.approx(errors.std(ddof=1) / np.sqrt(len(TASKS)))
    assert curve.mean[1] < curve.mean[0]


def test_the_curve_is_adapting_task_by_task():
    # Rows of a task are the same, so that the draw does not matter.
    rng = np.random.default_rng(0)
    tasks = [(np.tile(rng.normal(size=3), (6, 1)), np.full(6, rng.normal())) for _ in range(4)]
    model = MAMLRegressor(0.05, n_steps=2).fit(TASKS)
    curve = few_shot_curve(model, tasks, supports=[2], metric="mean_absolute_error", n_draws=2)
    expected = [
        np.abs(model.adapt(X_t[:2], y_t[:2]).predict(X_t) - y_t).mean() for X_t, y_t in tasks
    ]
    np.testing.assert_allclose(curve.task_errors[0], expected)


def test_the_curve_takes_every_form_of_tasks_and_models():
    model = MAMLRegressor("auto").fit(TASKS)
    shots = {"supports": (0, 1, 3, 5)}
    expected = few_shot_curve(model, TASKS, **shots).mean
    search = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1]}, cv=2).fit(TASKS)
    np.testing.assert_allclose(few_shot_curve(search, TASKS, **shots).mean, expected)
    np.testing.assert_allclose(few_shot_curve(model, X, Y, groups=GROUPS, **shots).mean, expected)
    with_column = MAMLRegressor("auto", task_column="store").fit(FRAME, Y)
    by_column = few_shot_curve(with_column, FRAME, Y, **shots)
    np.testing.assert_allclose(by_column.mean, expected, rtol=1e-6)
    assert np.isnan(few_shot_curve(model, TASKS[:1], supports=[1]).standard_error).all()


def test_draws_of_the_curve_are_nested():
    # The target numbers the rows: what is missing from the query is the support.
    tasks = [(np.ones((9, 1)), 100.0 * i + np.arange(9.0)) for i in range(3)]
    model = MAMLRegressor("auto").fit(tasks)
    unused = []
    for shots in (2, 5):
        judge = few_shot_scorer(support=shots, n_draws=1, random_state=3)
        truth, *_ = query_predictions(model, tasks, None, None, None, judge.episodes())
        unused.append(set(truth))
    assert unused[1] < unused[0]


def test_the_curve_of_another_rule():
    model = MAMLRegressor(0.05).fit(TASKS)
    still = few_shot_curve(model, TASKS, supports=[0, 5], adaptation=GradientSteps(n_steps=0))
    moved = few_shot_curve(model, TASKS, supports=[0, 5])
    assert still.mean[0] == pytest.approx(moved.mean[0])
    assert still.mean[1] > moved.mean[1]


def test_the_curve_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"metric must be one of.*got 'r2'"):
        few_shot_curve(MAMLRegressor("auto").fit(TASKS), TASKS, metric="r2")
    with pytest.raises(TypeError, match="supports must be a list of numbers of rows; got 5"):
        few_shot_curve(MAMLRegressor("auto").fit(TASKS), TASKS, supports=5)
    with pytest.raises(ValueError, match="adaptation='steps' is not known"):
        few_shot_curve(MAMLRegressor("auto").fit(TASKS), TASKS, adaptation="steps")
    with pytest.raises(ValueError, match="not learned yet"):
        few_shot_curve(MAMLRegressor("auto").fit(TASKS), TASKS, adaptation="learned")


# -- MAMLRegressorCV ------------------------------------------------------------------------------

GRID = {"inner_lr": [0.02, 0.2], "n_steps": [1, 4], "alpha": [0.0, 0.01, 1.0]}
# A split by which a search of our own and one by scikit-learn judge by the same rows.
FIRST = {"support": 3, "split": "first"}
CANDIDATES = {"inner_lrs": [0.02, 0.2], "n_steps": [1, 4], "alphas": [0.0, 0.01, 1.0]}


def assert_same_search(fast, search):
    slow = search.cv_results_
    for name, values in fast.cv_results_.items():
        if name.endswith("_test_score") and not name.startswith("rank"):
            np.testing.assert_allclose(values, slow[name], rtol=1e-8, atol=1e-8, err_msg=name)
    assert fast.cv_results_["params"] == slow["params"]
    assert fast.best_params_ == search.best_params_
    assert fast.best_index_ == search.best_index_
    # Beside targets of 1e6 a coefficient of 1e-8 is known to eight digits, not to their rounding.
    coef = search.best_estimator_.coef_
    np.testing.assert_allclose(fast.coef_, coef, rtol=1e-8, atol=1e-15 * np.abs(coef).max())


def test_with_all_rows_as_support_candidates_are_judged_on_rows_held_out():
    """Steps that fit a task's rows exactly look best on these rows, and predict worst."""
    tasks = make_linear_tasks(n_tasks=40, noise=3.0, random_state=0)
    lengths = [0.01, 1e6]
    fast = MAMLRegressorCV(lengths, [50], [0.0], support="all", random_state=0).fit(tasks)
    assert fast.best_params_["inner_lr"] == 0.01
    by_hand = [
        np.mean(cross_val_score(MAMLRegressor(x, 50, random_state=0), tasks, cv=5)) for x in lengths
    ]
    # Other rows are drawn: the scores agree as far as these matter.
    np.testing.assert_allclose(fast.cv_results_["mean_test_score"], by_hand, rtol=0.1)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(
    ("support", "cv"),
    [
        (3, 4),
        (0.5, 3),
        ([1, 4], KFold(3, shuffle=True, random_state=0)),
        (3, "leave-one-task-out"),
    ],
)
def test_choice_and_scores_are_those_of_grid_search(support, cv, intercept):
    fixed = {"support": support, "split": "first", "fit_intercept": intercept}
    fast = MAMLRegressorCV(**CANDIDATES, cv=cv, **fixed).fit(TASKS)
    cv = LeaveOneOut() if isinstance(cv, str) else cv
    assert_same_search(fast, GridSearchCV(MAMLRegressor(**fixed), GRID, cv=cv).fit(TASKS))


@pytest.mark.parametrize("cv", [3, "leave-one-task-out"])
def test_a_fold_whose_tasks_weigh_nothing_is_named(cv):
    tasks = [(X, y, float(i > 0)) for i, (X, y) in enumerate(TASKS[:3])]
    with pytest.raises(ValueError, match="All test tasks of split 0 weigh nothing"):
        MAMLRegressorCV(cv=cv).fit(tasks)


def test_candidates_may_be_given_twice():
    fixed = {"alphas": [0.0, 0.1], "cv": 3, "random_state": 0}
    once = MAMLRegressorCV([0.02], [1], **fixed).fit(TASKS).cv_results_["mean_test_score"]
    twice = MAMLRegressorCV([0.02, 0.02], [1, 1], **fixed).fit(TASKS).cv_results_
    np.testing.assert_array_equal(twice["mean_test_score"], np.repeat(once, 4))
    assert [c["alpha"] for c in twice["params"]] == [0.0] * 4 + [0.1] * 4


def test_an_integer_of_numpy_is_a_number_of_folds():
    X, y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
    groups = np.repeat(np.arange(len(TASKS)), len(y) // len(TASKS))
    one, other = (MAMLRegressorCV(cv=cv, random_state=0) for cv in (3, np.int64(3)))
    assert one.fit(X, y, groups=groups).best_score_ == other.fit(X, y, groups=groups).best_score_


def test_tasks_may_be_tested_several_times_or_never():
    cv = ShuffleSplit(7, test_size=0.3, random_state=0)
    fast = MAMLRegressorCV(**CANDIDATES, cv=cv, **FIRST).fit(TASKS)
    assert_same_search(fast, GridSearchCV(MAMLRegressor("auto", **FIRST), GRID, cv=cv).fit(TASKS))


@pytest.mark.parametrize(
    "cv", [4, "leave-one-task-out", GroupShuffleSplit(5, test_size=0.3, random_state=0)]
)
def test_rows_with_labels_are_split_as_grid_search_splits_them(cv):
    fixed = {"support": 3, "split": "first"}
    fast = MAMLRegressorCV(**CANDIDATES, cv=cv, **fixed).fit(X, Y, groups=GROUPS)
    splitter = {4: GroupKFold(4), "leave-one-task-out": LeaveOneGroupOut()}.get(cv, cv)
    with sklearn.config_context(enable_metadata_routing=True):
        slow = GridSearchCV(MAMLRegressor(**fixed), GRID, cv=splitter).fit(X, Y, groups=GROUPS)
    assert_same_search(fast, slow)
    by_column = MAMLRegressorCV(**CANDIDATES, cv=cv, task_column="store", **fixed).fit(FRAME, Y)
    np.testing.assert_allclose(
        by_column.cv_results_["mean_test_score"], fast.cv_results_["mean_test_score"]
    )
    assert by_column.predict(FRAME).shape == Y.shape
    assert adapt(by_column, FRAME[:3], Y[:3]).predict(FRAME[:2]).shape == (2,)


def test_weights_and_several_targets():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 2.0, len(TASKS))
    tasks = [
        (X_t, np.column_stack([y_t, 1e3 - 5 * y_t + X_t[:, 0]]), rng.uniform(0.1, 1, len(y_t)))
        for X_t, y_t in TASKS
    ]
    fast = MAMLRegressorCV(**CANDIDATES, cv=3, **FIRST).fit(tasks)
    assert_same_search(fast, GridSearchCV(MAMLRegressor("auto", **FIRST), GRID, cv=3).fit(tasks))
    numbers = [(X_t, y_t, w) for (X_t, y_t), w in zip(TASKS, weights, strict=True)]
    fast = MAMLRegressorCV(**CANDIDATES, cv=3, **FIRST).fit(numbers)
    assert_same_search(fast, GridSearchCV(MAMLRegressor("auto", **FIRST), GRID, cv=3).fit(numbers))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_ill_conditioned_folds_are_fitted_exactly(offset):
    tasks = [
        (np.column_stack([X_t, X_t[:, 0], 1e-8 * X_t[:, 1]]), offset + y_t) for X_t, y_t in TASKS
    ]
    fast = MAMLRegressorCV(**CANDIDATES, cv=3, **FIRST).fit(tasks)
    assert_same_search(fast, GridSearchCV(MAMLRegressor("auto", **FIRST), GRID, cv=3).fit(tasks))


@pytest.mark.parametrize("cv", [4, "leave-one-task-out"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["few rows", "units", "alone", "targets"])
def test_hard_folds_are_scored_as_by_grid_search(kind, intercept, cv):
    rng = np.random.default_rng(0)
    d, n_targets = (30, 1) if kind == "few rows" else (5, 2 if kind == "targets" else 1)
    coef, tasks = rng.normal(size=(d, n_targets)), []
    for i in range(9):
        X_t = rng.normal(size=(5 + i % 3, d))
        y_t = X_t @ (coef + 0.3 * rng.normal(size=coef.shape)) + rng.normal(size=(len(X_t), 1))
        X_t = X_t * np.geomspace(1e-5, 1e5, d) if kind == "units" else X_t
        if kind == "alone":  # a direction that hangs on one task
            X_t[:, 0] *= i == 4
        tasks.append((X_t, y_t if n_targets > 1 else y_t[:, 0]))
    shared = {"support": [1, 3], "split": "first", "fit_intercept": intercept}
    alphas = [10.0, 0.0, 1e-8, 0.1]
    fast = MAMLRegressorCV([0.05], [1, 3], alphas, cv=cv, **shared).fit(tasks)
    grid = {"inner_lr": [0.05], "n_steps": [1, 3], "alpha": alphas}
    cv = LeaveOneOut() if isinstance(cv, str) else cv
    slow = GridSearchCV(MAMLRegressor(**shared), grid, cv=cv).fit(tasks)
    assert_same_search(fast, slow)


def test_folds_whose_normal_equations_cannot_all_be_kept_take_more_passes():
    model = MAMLRegressorCV(**CANDIDATES, cv=6, support="all").fit(TASKS)
    with sklearn.config_context(working_memory=0):
        in_parts = MAMLRegressorCV(**CANDIDATES, cv=6, support="all").fit(TASKS)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(in_parts.cv_results_[name], model.cv_results_[name], rtol=1e-12)


@pytest.mark.parametrize("cv", [3, "leave-one-task-out"])
def test_the_size_of_blocks_changes_no_score_of_a_search(cv, monkeypatch):
    whole = MAMLRegressorCV(**CANDIDATES, cv=cv, **FIRST).fit(TASKS).cv_results_
    monkeypatch.setattr("sklearn_maml._tasks.stacks.BLOCK_ELEMENTS", 40)
    parts = MAMLRegressorCV(**CANDIDATES, cv=cv, **FIRST).fit(TASKS).cv_results_
    np.testing.assert_allclose(parts["mean_test_score"], whole["mean_test_score"], rtol=1e-10)


def test_leaving_out_one_of_many_tasks_needs_no_normal_equations_of_its_own():
    d, n_tasks = 60, 200
    tasks = make_linear_tasks(n_tasks=n_tasks, n_samples=5, n_features=d, random_state=0)
    model = MAMLRegressorCV(n_steps=[1], alphas=[0.1, 1.0], cv="leave-one-task-out", support=2)
    tracemalloc.start()
    model.fit(tasks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.8 * 8 * n_tasks * d**2
    assert len([name for name in model.cv_results_ if name.startswith("split")]) == n_tasks


@pytest.mark.parametrize("cv", [3, "leave-one-task-out"])
@pytest.mark.parametrize("inner_lr", ["auto", 0.1])
def test_scores_and_the_best_model_are_those_of_a_loop_of_fits(inner_lr, cv):
    alphas, n_steps = [1e-3, 0.1, 1.0], [1, 4]
    search = MAMLRegressorCV([inner_lr], n_steps, alphas, cv=cv, **FIRST).fit(TASKS)
    n_folds = 3 if cv == 3 else len(TASKS)
    folds = np.array_split(np.arange(len(TASKS)), n_folds)
    for c, candidate in enumerate(search.cv_results_["params"]):
        # Automatic steps use the coordinates of all tasks.
        steps = MAMLRegressor(inner_lr, candidate["n_steps"]).fit(TASKS).adaptation_
        for s, fold in enumerate(folds):
            kept = [TASKS[i] for i in range(len(TASKS)) if i not in fold]
            plain = MAMLRegressor(adaptation=steps, alpha=candidate["alpha"], **FIRST).fit(kept)
            expected = plain.score([TASKS[i] for i in fold])
            found = search.cv_results_[f"split{s}_test_score"][c]
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    best, plain = search.best_estimator_, MAMLRegressor(**search.best_params_, **FIRST).fit(TASKS)
    for name in ("coef_", "intercept_", "meta_loss_", "inner_lr_", "capped_share_"):
        np.testing.assert_allclose(getattr(best, name), getattr(plain, name), rtol=1e-10)
    np.testing.assert_allclose(best.meta_losses_, plain.meta_losses_, rtol=1e-10)
    assert best.gap_certificate_.bound < 1e-12 * best.meta_loss_
    assert best.get_params() == plain.get_params()


def test_the_best_model_is_fitted_from_what_the_search_knows(monkeypatch):
    """No rows are bound to the rule of the leading inner loop twice, nor their products taken."""
    bound, bind = [], GradientSteps.bind
    monkeypatch.setattr(
        GradientSteps, "bind", lambda rule, *risks: bound.append(rule.n_steps) or bind(rule, *risks)
    )
    monkeypatch.setattr("sklearn_maml._objective.quadratic._normal_equations", None)
    tasks = make_linear_tasks(n_tasks=20, random_state=0)  # of one size: in one stack
    search = MAMLRegressorCV([0.1], [1, 4], [0.1, 1.0], cv=3, **FIRST).fit(tasks)
    assert bound == [1, 4]
    assert search.best_estimator_.gap_certificate_.bound < 1e-12


def test_of_equal_candidates_the_first_is_fitted_whichever_inner_loop_was_scored_first():
    same = [0.1, np.float64(0.1)]  # two inner loops to the search, and no number between them
    for lengths in (same, same[::-1]):
        search = MAMLRegressorCV(lengths, [1], [1.0, 0.1], cv=3, **FIRST).fit(TASKS)
        assert type(search.best_params_["inner_lr"]) is type(lengths[0])
        assert search.best_estimator_.alpha == search.best_params_["alpha"]
        assert search.cv_results_["rank_test_score"].tolist() == [3, 3, 1, 1]


def test_a_feature_that_is_always_zero_has_the_coefficient_zero():
    tasks = [(np.column_stack([X_t, 0 * X_t[:, 0]]), y_t) for X_t, y_t in TASKS]
    fast = MAMLRegressorCV(**CANDIDATES, cv=3, **FIRST).fit(tasks)
    assert_same_search(fast, GridSearchCV(MAMLRegressor("auto", **FIRST), GRID, cv=3).fit(tasks))
    assert fast.coef_[-1] == 0


def test_automatic_steps_use_the_coordinates_of_all_tasks():
    rules = [MAMLRegressor(n_steps=k).fit(TASKS).adaptation_ for k in (1, 5)]
    fast = MAMLRegressorCV(n_steps=(1, 5), alphas=(0.1,), cv=3, **FIRST).fit(TASKS)
    for k, rule in enumerate(rules):
        slow = cross_val_score(MAMLRegressor(adaptation=rule, alpha=0.1, **FIRST), TASKS, cv=3)
        ours = [fast.cv_results_[f"split{s}_test_score"][k] for s in range(3)]
        np.testing.assert_allclose(ours, slow, rtol=1e-8)


def test_a_constant_target_scores_as_in_scikit_learn():
    tasks = [(X_t, np.full(len(y_t), 2.0)) for X_t, y_t in TASKS]
    fast = MAMLRegressorCV([0.1], [1], [0.0], cv=3, support="all").fit(tasks)
    assert {*np.ravel([fast.cv_results_[f"split{s}_test_score"] for s in range(3)])} <= {0.0, 1.0}


@pytest.mark.parametrize("n_folds", [2, 20, "leave-one-task-out"])
@pytest.mark.parametrize("n_alphas", [1, 30])
def test_the_cost_does_not_depend_on_folds_and_penalties(n_folds, n_alphas):
    read = []

    def counted(X):
        read.append(len(X))
        return X

    alphas = np.geomspace(1e-3, 1, n_alphas)
    counting = FunctionTransformer(counted)
    search = MAMLRegressorCV(
        [0.02, 0.2], [1], alphas, featurizer=counting, cv=n_folds, support="all"
    )
    # Room for the normal equations of all folds, but not for the rows.
    with sklearn.config_context(working_memory=0.022):
        search.fit(TASKS)
        of_the_search = sum(read)
        read.clear()
        search.best_estimator_.fit(TASKS)
    # Two inner loops, and the fit of the best.
    assert of_the_search <= 3 * sum(read)


def test_the_best_model_answers():
    model = MAMLRegressorCV(support=3, random_state=0).fit(X, Y, groups=GROUPS)
    best = model.best_estimator_
    np.testing.assert_array_equal(model.predict(X, groups=GROUPS), best.predict(X, groups=GROUPS))
    assert model.score(TASKS) == best.score(TASKS)
    assert model.certify(TASKS) == best.certify(TASKS)
    assert len(model.adapt_tasks(TASKS)) == len(TASKS)
    np.testing.assert_array_equal(model.adapt(*TASKS[0]).coef_, best.adapt(*TASKS[0]).coef_)
    assert model.n_splits_ == 5
    assert get_tags(model).input_tags.sparse
    assert get_tags(model).estimator_type == "regressor"
    assert model.best_score_ == model.cv_results_["mean_test_score"].max()
    assert few_shot_curve(model, TASKS, supports=[1]).mean.shape == (1,)


@pytest.mark.parametrize(
    ("parameters", "data", "message"),
    [
        ({"cv": "loo"}, (TASKS,), "'leave-one-task-out', a splitter or an iterable; got 'loo'"),
        ({}, (X, Y), "at least two of them; got 1"),
        ({"alphas": 0.1}, (TASKS,), "alpha needs a sequence of candidates.*got 0.1"),
        ({"inner_lrs": "auto"}, (TASKS,), "inner_lr needs a sequence of candidates.*got 'auto'"),
        ({"alphas": [-1.0]}, (TASKS,), "each of alphas must be a finite number >= 0; got -1.0"),
        ({"support": 99}, (TASKS,), "too few rows for support=99"),
    ],
)
def test_what_cannot_be_searched_is_refused(parameters, data, message):
    with pytest.raises(ValueError, match=message):
        MAMLRegressorCV(**parameters).fit(*data)


def test_a_split_through_a_task_is_refused():
    cv = [(np.arange(0, len(X), 2), np.arange(1, len(X), 2))]
    with pytest.raises(ValueError, match=r"cv puts rows of task g0 .*GroupKFold"):
        MAMLRegressorCV(cv=cv).fit(X, Y, groups=GROUPS)


def test_what_is_held_for_folds_is_what_there_is_room_for():
    d, n_folds = 150, 6
    tasks = make_linear_tasks(n_tasks=60, n_samples=4, n_features=d - 1, random_state=0)
    model = MAMLRegressorCV([0.02], [1], [0.1, 1.0], cv=n_folds, support=2, random_state=0)
    peaks, passes = [], []
    several = Folds._several

    def traced(folds, objective, splits, alphas):
        passes.append(len(splits))
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = several(folds, objective, splits, alphas)
        peaks.append((tracemalloc.get_traced_memory()[1] - before) / (8 * d**2))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folds, "_several", traced)
        patch.setattr("sklearn_maml.model_selection.leave_tasks_out.room", lambda: 11 * d**2)
        tracemalloc.start()
        model.fit(tasks)
        tracemalloc.stop()
    assert sum(passes) == n_folds
    assert max(passes) == 2
    assert max(peaks) <= 11
