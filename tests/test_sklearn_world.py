"""Groups, task columns, pipelines, searches and metadata routing: scikit-learn's habits hold."""

import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

import sklearn_maml
from sklearn_maml import (
    AdaptedRegressor,
    GradientSteps,
    MAMLRegressor,
    SingleTaskWarning,
    adapt,
    adapt_tasks,
)
from sklearn_maml.datasets import make_linear_tasks

N_TASKS, N_ROWS = 24, 12
TASKS = make_linear_tasks(n_tasks=N_TASKS, n_samples=N_ROWS, n_features=2, random_state=0)
X = np.concatenate([X_t for X_t, _ in TASKS])
Y = np.concatenate([y_t for _, y_t in TASKS])
LABELS = np.repeat([f"store {i}" for i in range(N_TASKS)], N_ROWS)
FRAME = pd.DataFrame({"a": X[:, 0], "store": LABELS, "b": X[:, 1]})


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def sparse_with_labels():
    return sp.csr_matrix(np.column_stack([X, np.repeat(np.arange(N_TASKS), N_ROWS)]))


TABLES = {
    "frame": (FRAME, "store"),
    "frame, by position": (FRAME, 1),
    "categories": (FRAME.astype({"store": "category"}), "store"),
    "polars": (pl.DataFrame({name: FRAME[name].to_numpy() for name in FRAME}), "store"),
    "objects": (FRAME.to_numpy(dtype=object), 1),
    "list of lists": ([[a, s, b] for a, s, b in FRAME.itertuples(index=False)], -2),
    "floats": (np.column_stack([X[:, 0], np.repeat(np.arange(N_TASKS), N_ROWS), X[:, 1]]), 1),
    "sparse": (sparse_with_labels(), -1),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_task_column_is_groups_in_a_column(kind):
    table, column = TABLES[kind]
    model = MAMLRegressor("auto", task_column=column).fit(table, Y)
    expected = MAMLRegressor("auto").fit(X, Y, groups=LABELS)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-12)
    np.testing.assert_allclose(model.task_coef_, expected.task_coef_, rtol=1e-10)
    np.testing.assert_allclose(model.predict(table), expected.predict(X, groups=LABELS), rtol=1e-10)
    assert model.score(table, Y) == pytest.approx(expected.score(X, Y, groups=LABELS))
    assert float(model.certify(table, Y)) < 1e-9
    assert model.n_features_in_ == 3
    one_task = TABLES[kind][0][:N_ROWS] if kind != "categories" else table.iloc[:N_ROWS]
    np.testing.assert_allclose(
        model.adapt(one_task, Y[:N_ROWS]).predict(one_task), model.predict(one_task), rtol=1e-10
    )


def test_names_and_counts_are_those_of_the_x_that_was_passed():
    model = MAMLRegressor("auto", task_column="store").fit(FRAME, Y)
    assert model.feature_names_in_.tolist() == ["a", "store", "b"]
    assert model.task_ids_.tolist() == [f"store {i}" for i in range(N_TASKS)]
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(FRAME[["store", "a", "b"]])


def test_the_featurizer_does_not_see_the_task_column():
    model = MAMLRegressor(
        "auto", task_column="store", featurizer=PolynomialFeatures(2, include_bias=False)
    )
    model.fit(FRAME, Y)
    assert model.featurizer_.feature_names_in_.tolist() == ["a", "b"]
    assert model.coef_.shape == (5,)
    assert model.predict(FRAME[:3]).shape == (3,)


@pytest.mark.parametrize(
    ("column", "table", "error", "message"),
    [
        ("shop", FRAME, ValueError, r"'shop' is not a column of X, which has \['a'"),
        ("store", FRAME.to_numpy(), ValueError, "no column names; give a position"),
        (3, FRAME, ValueError, "out of range: X has 3 columns"),
        (1.0, FRAME, TypeError, "name or position; got 1.0"),
        (True, FRAME, TypeError, "name or position; got True"),
        ("store", FRAME.assign(store=None), ValueError, "must not contain None"),
        ("store", TASKS, ValueError, "expects all rows in one table"),
    ],
)
def test_a_task_column_that_cannot_be_read_is_refused(column, table, error, message):
    y = None if isinstance(table, list) else Y
    with pytest.raises(error, match=message):
        MAMLRegressor("auto", task_column=column).fit(table, y)


def test_a_column_of_text_is_suggested_as_the_task_column_unless_there_is_one():
    with pytest.raises(ValueError, match=r"which task a row is of, set task_column='store'\."):
        MAMLRegressor().fit(FRAME, Y)
    twice = FRAME.assign(town=FRAME["store"])
    with pytest.raises(ValueError, match="column 'town' of X does not hold numbers") as error:
        MAMLRegressor(task_column="store").fit(twice, Y)
    assert "task_column" not in str(error.value)


def test_after_a_column_transformer_the_name_with_its_prefix_is_suggested():
    scaled = ColumnTransformer([("scaled", StandardScaler(), ["a", "b"])], remainder="passthrough")
    scaled.set_output(transform="pandas")
    with pytest.raises(ValueError, match="set task_column='remainder__store', or verbose_"):
        make_pipeline(scaled, MAMLRegressor(task_column="store")).fit(FRAME, Y)
    make_pipeline(scaled, MAMLRegressor(task_column="remainder__store")).fit(FRAME, Y)
    scaled.set_params(verbose_feature_names_out=False)
    make_pipeline(scaled, MAMLRegressor(task_column="store")).fit(FRAME, Y)


def test_labels_from_two_sources_are_refused():
    model = MAMLRegressor("auto", task_column="store")
    with pytest.raises(ValueError, match="groups must be None with task_column='store'"):
        model.fit(FRAME, Y, groups=LABELS)
    with pytest.raises(ValueError, match="groups must be None with task_column='store'"):
        model.fit(FRAME, Y).predict(FRAME, groups=LABELS)


def test_rows_of_known_tasks_are_predicted_with_their_own_gradient_step():
    model = MAMLRegressor(0.01).fit(X, Y, groups=LABELS)
    for i in (0, 7):
        rows = slice(i * N_ROWS, (i + 1) * N_ROWS)
        phi = np.column_stack([X[rows], np.ones(N_ROWS)])
        theta = np.append(model.coef_, model.intercept_)
        own = theta - 0.01 * 2 / N_ROWS * phi.T @ (phi @ theta - Y[rows])
        np.testing.assert_allclose(model.task_coef_[i], own[:-1])
        np.testing.assert_allclose(model.task_intercept_[i], own[-1])
        np.testing.assert_allclose(model.predict(X[rows], groups=LABELS[rows]), phi @ own)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("support", ["all", 3])
def test_predict_by_groups_is_adapt_task_by_task(targets, intercept, support):
    y = Y if targets == 1 else np.column_stack([Y, -2 * Y + X[:, 0]])
    model = MAMLRegressor(support=support, fit_intercept=intercept, n_steps=2, random_state=0)
    shuffled = np.random.default_rng(0).permutation(len(X))
    model.fit(X[shuffled], y[shuffled], groups=LABELS[shuffled])
    predicted = model.predict(X[shuffled], groups=LABELS[shuffled])
    tasks = model.adapt_tasks(X, y, groups=LABELS)
    for i, label in enumerate(dict.fromkeys(LABELS)):
        rows = label == LABELS
        own = model.adapt(X[rows], y[rows])
        np.testing.assert_allclose(predicted[np.argsort(shuffled)][rows], own.predict(X[rows]))
        np.testing.assert_allclose(tasks[label].coef_, own.coef_)
        np.testing.assert_allclose(tasks.coef[i], own.coef_)
        np.testing.assert_allclose(
            tasks.predict(X[rows], groups=LABELS[rows]), own.predict(X[rows])
        )
    assert model.task_coef_.shape == (N_TASKS, *model.coef_.shape)


def test_rows_of_unknown_tasks_get_the_meta_parameters_or_an_error():
    model = MAMLRegressor("auto", task_column="store").fit(FRAME, Y)
    mixed = FRAME.iloc[[0, 1, 2]].assign(store=["store 1", "new", "newer"])
    plain = MAMLRegressor("auto").fit(X, Y, groups=LABELS).predict(X[:3])
    np.testing.assert_allclose(model.predict(mixed)[1:], plain[1:])
    assert abs(model.predict(mixed)[0] - plain[0]) > 1e-3
    strict = MAMLRegressor("auto", task_column="store", on_unknown_task="raise").fit(FRAME, Y)
    with pytest.raises(KeyError, match=r"2 task\(s\) not seen before: 'new', 'newer'"):
        strict.predict(mixed)
    with pytest.raises(ValueError, match="on_unknown_task must be 'meta' or 'raise'; got 'skip'"):
        MAMLRegressor("auto", on_unknown_task="skip").fit(X, Y, groups=LABELS)


def test_many_rows_are_predicted_in_batches():
    model = MAMLRegressor("auto").fit(X, Y, groups=LABELS)
    n = 2**20 // X.size + 1
    whole = np.tile(model.predict(X, groups=LABELS), n)
    predicted = model.predict(np.tile(X, (n, 1)), groups=np.tile(LABELS, n))
    np.testing.assert_allclose(predicted, whole, rtol=1e-12)


def test_groups_mean_nothing_to_a_model_that_knows_no_names():
    for model in (MAMLRegressor("auto").fit(TASKS), MAMLRegressor("auto").fit(X, Y)):
        assert model.task_coef_ is None
        with pytest.raises(ValueError, match="knows no task by name"):
            model.predict(X, groups=LABELS)
    named = MAMLRegressor("auto").fit(X, Y, groups=LABELS)
    assert named.fit(TASKS).task_coef_ is None


def test_naming_tasks_costs_no_pass_over_the_data_where_there_are_no_names():
    read = []

    def counted(rows):
        read.append(len(rows))
        return rows

    model = MAMLRegressor("auto", featurizer=FunctionTransformer(counted))
    with sklearn.config_context(working_memory=0):  # each pass makes the features anew
        model.fit(TASKS)
        without = sum(read)
        read.clear()
        model.fit(X, Y, groups=LABELS)
    assert sum(read) == without + len(X)


# -- adapting -------------------------------------------------------------------------------------


def test_adapt_tasks_is_a_mapping_with_the_labels_as_keys():
    model = MAMLRegressor("auto", task_column="store").fit(FRAME, Y)
    tasks = model.adapt_tasks(FRAME.iloc[: 3 * N_ROWS], Y[: 3 * N_ROWS])
    assert list(tasks) == ["store 0", "store 1", "store 2"]
    assert len(tasks) == 3
    assert "store 1" in tasks
    assert "store 5" not in tasks
    assert repr(tasks) == "<AdaptedTasks: 3 tasks>"
    with pytest.raises(KeyError):
        tasks["store 5"]
    np.testing.assert_allclose(tasks.predict(FRAME[:5]), tasks["store 0"].predict(FRAME[:5]))
    unseen = tasks.predict(FRAME[-1:])
    np.testing.assert_allclose(unseen, X[-1:] @ model.coef_ + model.intercept_)
    copied = pickle.loads(pickle.dumps(tasks))
    np.testing.assert_array_equal(copied.predict(FRAME[:5]), tasks.predict(FRAME[:5]))


def test_adapt_tasks_takes_lists_and_weights():
    model = MAMLRegressor("auto").fit(TASKS)
    weighted = [(X_t, y_t, np.arange(1.0, N_ROWS + 1)) for X_t, y_t in TASKS[:4]]
    tasks = model.adapt_tasks(weighted)
    for i, (X_t, y_t, weight) in enumerate(weighted):
        own = model.adapt(X_t, y_t, sample_weight=weight)
        np.testing.assert_allclose(tasks[i].coef_, own.coef_)


def test_adapting_without_labels_or_across_tasks_is_refused():
    model = MAMLRegressor("auto").fit(TASKS)
    with pytest.raises(ValueError, match="adapt_tasks got rows without labels"):
        model.adapt_tasks(X, Y)
    with pytest.raises(ValueError, match="groups= must say"):
        model.adapt_tasks(TASKS[:2]).predict(X)
    with pytest.raises(ValueError, match=r"rows of one task; got 24 labels.*adapt_tasks"):
        MAMLRegressor("auto", task_column="store").fit(FRAME, Y).adapt(FRAME, Y)


def test_uncapped_steps_that_diverge_are_reported_for_many_tasks_too():
    rule = GradientSteps(0.9, cap=False)
    with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="diverge"):
        model = MAMLRegressor(adaptation=rule).fit(TASKS)
    for adapting in (lambda: model.adapt_tasks(TASKS), lambda: model.adapt(*TASKS[0])):
        with pytest.warns(sklearn.exceptions.ConvergenceWarning, match="diverge") as seen:
            adapting()
        assert seen[0].filename == __file__


def test_what_was_adapted_outlives_another_fit_of_the_model():
    model = MAMLRegressor("auto", featurizer=StandardScaler()).fit(TASKS)
    adapted = model.adapt(*TASKS[0])
    before = adapted.predict(X)
    model.set_params(featurizer=PolynomialFeatures(3)).fit(TASKS)
    np.testing.assert_array_equal(adapted.predict(X), before)


def test_an_adapted_regressor_is_an_estimator_in_a_pipeline():
    model = MAMLRegressor("auto", task_column="store").fit(FRAME, Y)
    own = model.adapt(FRAME[:6], Y[:6])
    assert own.n_features_in_ == 3
    assert own.feature_names_in_.tolist() == ["a", "store", "b"]
    pipe = clone(make_pipeline("passthrough", own))
    with pytest.raises(NotFittedError):
        pipe[-1].predict(FRAME)
    np.testing.assert_allclose(pipe.fit(FRAME[:6], Y[:6]).predict(FRAME), own.predict(FRAME))


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("featurizer", [None, PolynomialFeatures(2, include_bias=False)])
@pytest.mark.parametrize("column", [None, "store"])
def test_to_linear_predicts_the_same(targets, featurizer, column):
    y = Y if targets == 1 else np.column_stack([Y, -Y])
    table = FRAME if column else FRAME[["a", "b"]]
    model = MAMLRegressor("auto", featurizer=featurizer, task_column=column)
    model.fit(table, y, groups=None if column else LABELS)
    own = model.adapt(table[:N_ROWS], y[:N_ROWS])
    linear = own.to_linear()
    np.testing.assert_allclose(linear.predict(FRAME[["a", "b"]]), own.predict(table), rtol=1e-12)
    assert list(linear.feature_names_in_) == ["a", "b"]


def test_to_linear_works_without_names_and_intercept():
    own = MAMLRegressor("auto", fit_intercept=False).fit(TASKS).adapt(*TASKS[0])
    np.testing.assert_allclose(own.to_linear().predict(X), own.predict(X))


if find_spec("skl2onnx") and find_spec("onnxruntime"):

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("featurizer", [None, StandardScaler()])
    def test_an_adapted_task_can_be_exported_to_onnx(featurizer):
        from onnxruntime import InferenceSession
        from skl2onnx import to_onnx

        own = MAMLRegressor("auto", featurizer=featurizer).fit(TASKS).adapt(*TASKS[0])
        linear = own.to_linear()
        exported = to_onnx(linear, X[:1].astype(np.float32))
        session = InferenceSession(exported.SerializeToString())
        (predicted,) = session.run(None, {session.get_inputs()[0].name: X.astype(np.float32)})
        np.testing.assert_allclose(predicted.ravel(), own.predict(X), rtol=1e-4, atol=1e-4)


def test_a_response_behind_a_link_is_not_linear():
    counts = [(X_t, np.rint(y_t**2)) for X_t, y_t in TASKS]
    own = MAMLRegressor("auto", loss="poisson").fit(counts).adapt(*counts[0])
    with pytest.raises(ValueError, match="has a link"):
        own.to_linear()


def scaled_pipeline(**parameters):
    keep = ColumnTransformer(
        [("scale", StandardScaler(), ["a", "b"]), ("keep", "passthrough", ["store"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    return Pipeline([("columns", keep), ("maml", MAMLRegressor(task_column="store", **parameters))])


SEARCHES = {
    "grid": lambda model, grid, cv: GridSearchCV(model, grid, cv=cv),
    "random": lambda model, grid, cv: RandomizedSearchCV(
        model, grid, cv=cv, n_iter=2, random_state=0
    ),
    "halving": lambda model, grid, cv: HalvingGridSearchCV(
        model, grid, cv=cv, min_resources=150, random_state=0
    ),
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_searches_over_a_pipeline_work_with_routing_off(kind):
    search = SEARCHES[kind](scaled_pipeline(), {"maml__n_steps": [1, 5]}, GroupKFold(3))
    search.fit(FRAME, Y, groups=LABELS)
    assert search.best_estimator_[-1].n_tasks_ == N_TASKS
    np.testing.assert_array_equal(search.predict(FRAME), search.best_estimator_.predict(FRAME))
    new = FRAME[:5].assign(store="new")
    adapted = adapt(search, new, Y[:5])
    scaled = search.best_estimator_[0].transform(new)
    expected = search.best_estimator_[-1].adapt(scaled, Y[:5]).predict(scaled)
    np.testing.assert_allclose(adapted.predict(new), expected)
    np.testing.assert_allclose(clone(adapted).fit(new, Y[:5]).predict(new), expected)
    tasks = adapt_tasks(search, new, Y[:5])
    np.testing.assert_allclose(tasks.predict(new), expected)
    np.testing.assert_allclose(tasks["new"].predict(new), expected)


def test_cross_validation_with_a_task_column_sees_the_tasks():
    model = scaled_pipeline(support=4, split="first")
    scores = cross_val_score(model, FRAME, Y, groups=LABELS, cv=GroupKFold(3))
    for score, (train, test) in zip(scores, GroupKFold(3).split(X, Y, LABELS), strict=True):
        own = clone(model).fit(FRAME.iloc[train], Y[train])
        assert score == pytest.approx(own.score(FRAME.iloc[test], Y[test]))
    # Rows of known tasks are predicted with their own parameters: KFold by rows makes sense.
    cv = KFold(3, shuffle=True, random_state=0)
    predicted = cross_val_predict(scaled_pipeline(random_state=0), FRAME, Y, cv=cv)
    for train, test in cv.split(X):
        own = scaled_pipeline(random_state=0).fit(FRAME.iloc[train], Y[train])
        np.testing.assert_allclose(predicted[test], own.predict(FRAME.iloc[test]))
        assert not np.allclose(predicted[test], own.predict(FRAME.iloc[test].assign(store="new")))
    sizes, _, test = learning_curve(
        model, FRAME, Y, groups=LABELS, cv=GroupKFold(3), train_sizes=[0.5, 1.0], shuffle=False
    )
    assert len(sizes) == 2
    assert np.isfinite(test).all()


def test_nested_cross_validation_works_with_a_task_column():
    inner = GridSearchCV(scaled_pipeline(), {"maml__n_steps": [1, 5]}, cv=2)
    ordered = FRAME.assign(store=np.tile(np.arange(12), len(FRAME) // 12))
    scores = cross_val_score(inner, ordered, Y, groups=ordered["store"], cv=GroupKFold(3))
    assert np.isfinite(scores).all()


def test_transformed_target_with_a_task_column():
    model = TransformedTargetRegressor(
        MAMLRegressor("auto", task_column="store"), func=np.exp, inverse_func=np.log
    )
    y = np.log(1.0 + Y**2)
    fitted = model.fit(FRAME, y)
    inner = MAMLRegressor("auto", task_column="store").fit(FRAME, np.exp(y)).predict(FRAME)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(fitted.predict(FRAME), np.log(inner))


POSITIVE = np.exp(0.3 * Y)
NEW_X, NEW_Y = X[:5], 1.0 + np.arange(5.0)
AROUND = {
    "alone": lambda model: model,
    "of a pipeline": lambda model: model.set_params(
        regressor=make_pipeline(StandardScaler(), model.regressor)
    ),
    "of a search": lambda model: model.set_params(
        regressor=GridSearchCV(model.regressor, {"n_steps": [1]}, cv=2)
    ),
    "in a pipeline": lambda model: make_pipeline(StandardScaler(), model),
    "in a search": lambda model: GridSearchCV(model, {"regressor__n_steps": [1]}, cv=2),
}


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")
def test_a_task_is_learned_through_a_transformed_target(around, routed):
    weight = np.arange(1.0, 6.0)
    with sklearn.config_context(enable_metadata_routing=routed):
        fitted = AROUND[around](
            TransformedTargetRegressor(MAMLRegressor("auto"), func=np.log, inverse_func=np.exp)
        ).fit(X, POSITIVE)
        adapted = adapt(fitted, NEW_X, NEW_Y, sample_weight=weight)
        again = clone(adapted).fit(X[5:9], NEW_Y[:4])
    plain = MAMLRegressor("auto")
    if "pipeline" in around:
        plain = make_pipeline(StandardScaler(), plain)
    plain.fit(X, np.log(POSITIVE))
    expected = adapt(plain, NEW_X, np.log(NEW_Y), sample_weight=weight)
    np.testing.assert_allclose(adapted.predict(X), np.exp(expected.predict(X)), rtol=1e-8)
    expected = adapt(plain, X[5:9], np.log(NEW_Y[:4]))
    np.testing.assert_allclose(again.predict(X), np.exp(expected.predict(X)), rtol=1e-8)
    before = fitted.predict(X)
    np.testing.assert_allclose(before, np.exp(plain.predict(X)), rtol=1e-8)  # is as it was


def test_several_transformed_targets_and_names():
    both = np.column_stack([Y, 100.0 + 3.0 * Y**2])
    table = FRAME[["a", "b"]]
    scale = make_pipeline(StandardScaler())
    model = TransformedTargetRegressor(MAMLRegressor("auto"), transformer=scale)
    adapted = adapt(model.fit(table, both, groups=LABELS), table[:4], both[:4])
    adapted = pickle.loads(pickle.dumps(adapted))
    scaler = StandardScaler().fit(both)
    plain = MAMLRegressor("auto").fit(table, scaler.transform(both), groups=LABELS)
    expected = plain.adapt(table[:4], scaler.transform(both[:4])).predict(table)
    np.testing.assert_allclose(adapted.predict(table), scaler.inverse_transform(expected))
    assert adapted.feature_names_in_.tolist() == ["a", "b"]
    assert adapted.regressor_.coef_.shape == (2, 2)
    again = clone(adapted).fit(table[:4], both[:4])
    np.testing.assert_array_equal(again.predict(table), adapted.predict(table))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        adapt(model, table[:1], [[np.nan, 1.0]])


def test_many_tasks_are_not_learned_through_a_transformed_target():
    model = TransformedTargetRegressor(MAMLRegressor("auto")).fit(X, Y, groups=LABELS)
    with pytest.raises(TypeError, match=r"one adapted regressor at a time: use sklearn_maml.adapt"):
        adapt_tasks(model, X, Y, groups=LABELS)


# -- metadata routing -----------------------------------------------------------------------------


@pytest.mark.usefixtures("routing")
class TestWithRouting:
    def test_pipelines_pass_groups_to_fit_predict_and_score(self):
        pipe = make_pipeline(StandardScaler(), MAMLRegressor("auto")).fit(X, Y, groups=LABELS)
        assert pipe[-1].n_tasks_ == N_TASKS
        scaled = pipe[0].transform(X)
        expected = pipe[-1].predict(scaled, groups=LABELS)
        np.testing.assert_array_equal(pipe.predict(X, groups=LABELS), expected)
        assert pipe.score(X, Y, groups=LABELS) == pipe[-1].score(scaled, Y, groups=LABELS)
        tasks = adapt_tasks(pipe, X, Y, groups=LABELS)
        np.testing.assert_allclose(tasks.predict(X, groups=LABELS), expected)
        by_list = adapt_tasks(pipe, TASKS[:3])
        np.testing.assert_allclose(by_list[2].predict(X), tasks["store 2"].predict(X))

    @pytest.mark.parametrize("kind", SEARCHES)
    def test_searches_pass_groups_on(self, kind):
        search = SEARCHES[kind](
            MAMLRegressor("auto", support=3, random_state=0), {"n_steps": [1, 5]}, GroupKFold(3)
        )
        search.fit(X, Y, groups=LABELS)
        assert search.best_estimator_.n_tasks_ == N_TASKS

    def test_the_scores_are_those_of_each_fold_with_its_groups(self):
        model = MAMLRegressor("auto", support=4, split="first")
        scores = cross_val_score(model, X, Y, cv=GroupKFold(3), params={"groups": LABELS})
        for score, (train, test) in zip(scores, GroupKFold(3).split(X, Y, LABELS), strict=True):
            own = clone(model).fit(X[train], Y[train], groups=LABELS[train])
            assert score == pytest.approx(own.score(X[test], Y[test], groups=LABELS[test]))

    def test_nested_cross_validation_passes_groups_through(self):
        inner = GridSearchCV(
            MAMLRegressor("auto", support=3, random_state=0), {"n_steps": [1, 5]}, cv=GroupKFold(2)
        )
        scores = cross_validate(
            inner, X, Y, cv=GroupKFold(3), params={"groups": LABELS}, return_estimator=True
        )
        assert [fit.best_estimator_.n_tasks_ for fit in scores["estimator"]] == [16, 16, 16]

    def test_transformed_targets_pass_groups_on(self):
        model = TransformedTargetRegressor(MAMLRegressor("auto"), transformer=StandardScaler())
        model.fit(X, Y, groups=LABELS)
        assert model.regressor_.n_tasks_ == N_TASKS
        own = MAMLRegressor("auto").fit(X, Y, groups=LABELS)
        np.testing.assert_allclose(
            model.predict(X, groups=LABELS), own.predict(X, groups=LABELS), rtol=1e-8
        )


def test_without_routing_an_outer_fit_parameter_still_reaches_the_regressor():
    model = TransformedTargetRegressor(MAMLRegressor("auto"), transformer=StandardScaler())
    assert model.fit(X, Y, groups=LABELS).regressor_.n_tasks_ == N_TASKS
    pipe = make_pipeline(StandardScaler(), MAMLRegressor("auto"))
    assert pipe.fit(X, Y, mamlregressor__groups=LABELS)[-1].n_tasks_ == N_TASKS


# -- one task by mistake --------------------------------------------------------------------------

LOSES_GROUPS = {
    "GridSearchCV": lambda: GridSearchCV(
        MAMLRegressor("auto"), {"n_steps": [1]}, cv=GroupKFold(2)
    ).fit(X, Y, groups=LABELS),
    "in a pipeline": lambda: cross_val_score(
        make_pipeline(StandardScaler(), MAMLRegressor("auto")),
        X,
        Y,
        groups=LABELS,
        cv=GroupKFold(2),
    ),
    "cross_validate": lambda: cross_validate(
        MAMLRegressor("auto"), X, Y, groups=LABELS, cv=GroupKFold(2)
    ),
    "cross_val_predict": lambda: cross_val_predict(
        MAMLRegressor("auto"), X, Y, groups=LABELS, cv=GroupKFold(2)
    ),
    "adapt": lambda: MAMLRegressor("auto").fit(X, Y).adapt(X, Y),
}


@pytest.mark.parametrize("kind", LOSES_GROUPS)
def test_one_task_by_mistake_is_reported_with_three_remedies(kind):
    with pytest.warns(SingleTaskWarning) as caught:
        LOSES_GROUPS[kind]()
    package = Path(sklearn_maml.__file__).parent
    assert all(package not in Path(w.filename).parents for w in caught)  # but in the caller's line
    message = str(next(w.message for w in caught if w.category is SingleTaskWarning))
    assert "task_column=" in message
    assert "list of (X, y) tuples" in message
    assert "enable_metadata_routing=True" in message


def test_the_warning_about_one_task_can_be_silenced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SingleTaskWarning)
        LOSES_GROUPS["GridSearchCV"]()


def test_a_fit_that_means_one_task_says_nothing():
    # pytest makes every warning an error
    MAMLRegressor("auto").fit(X, Y).predict(X)
    MAMLRegressor("auto").fit(X, Y, groups=np.zeros(len(X))).adapt(X, Y)
    MAMLRegressor("auto").fit(TASKS[:1]).adapt(*TASKS[1])
    own = MAMLRegressor("auto").fit(TASKS).adapt(*TASKS[0])
    assert isinstance(own, AdaptedRegressor)
    cross_val_score(own, X[:12], Y[:12], cv=3)
    GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1]}, cv=2).fit(TASKS)


# -- reaching the model ---------------------------------------------------------------------------


def test_what_holds_no_maml_regressor_cannot_adapt():
    from sklearn.linear_model import Ridge

    with pytest.raises(TypeError, match=r"ends in one.*got Ridge"):
        adapt(Ridge().fit(X, Y), X, Y)
    with pytest.raises(TypeError, match=r"ends in one.*got Ridge"):
        adapt(make_pipeline(StandardScaler(), Ridge()).fit(X, Y), X, Y)
    with pytest.raises(TypeError, match="refit=True; got GridSearchCV"):
        adapt(
            GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1]}, cv=2, refit=False).fit(TASKS),
            X,
            Y,
        )
    with pytest.raises(TypeError, match="got int"):
        adapt(3, X, Y)
    for unfitted in (MAMLRegressor("auto"), GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1]})):
        with pytest.raises(NotFittedError):
            adapt(unfitted, X, Y)


def test_an_adapted_model_names_no_training_task_and_does_not_change_with_its_meta_model():
    rng = np.random.default_rng(0)
    X, y, groups = rng.normal(size=(60, 2)), rng.normal(size=60), np.repeat(list("abcdef"), 10)
    model = MAMLRegressor("auto").fit(X, y, groups=groups)
    adapted = model.adapt(X[:4], y[:4])
    before = adapted.coef_.copy()
    assert adapted.meta.estimator.task_ids_ is None
    assert adapted.meta.estimator.task_coef_ is None
    model.coef_ += 1.0
    np.testing.assert_array_equal(clone(adapted).fit(X[:4], y[:4]).coef_, before)
    assert model.task_ids_ is not None
