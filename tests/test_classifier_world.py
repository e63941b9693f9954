"""MAMLClassifier in scikit-learn's world: task columns, groups, pipelines, searches, scorers."""

import pickle
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import sklearn_maml
from sklearn_maml import (
    AdaptedClassifier,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    SingleTaskWarning,
    adapt,
    adapt_tasks,
    few_shot_curve,
    few_shot_scorer,
)
from sklearn_maml._objective.risk import Risk
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.displays import ConvergenceDisplay, FewShotCurveDisplay, GapCertificateDisplay
from sklearn_maml.losses import LOSSES
from sklearn_maml.model_selection.baselines import OwnRidge

matplotlib.use("Agg")
N_TASKS, N_ROWS = 12, 14
NUMBERS = make_linear_tasks(n_tasks=N_TASKS, n_samples=N_ROWS, n_features=2, random_state=0)
X = np.concatenate([X_t for X_t, _ in NUMBERS])
SCORES = np.concatenate([y_t for _, y_t in NUMBERS])
LABELS = np.repeat([f"store {i}" for i in range(N_TASKS)], N_ROWS)
FRAME = pd.DataFrame({"a": X[:, 0], "store": LABELS, "b": X[:, 1]})
CLASSES = {2: np.array(["no", "yes"]), 3: np.array(["high", "low", "mid"])}
Y = {
    k: names[np.searchsorted(np.quantile(SCORES, np.arange(1, k) / k), SCORES)]
    for k, names in CLASSES.items()
}
TASKS = {k: [(X[g == LABELS], y[g == LABELS]) for g in dict.fromkeys(LABELS)] for k, y in Y.items()}
both = pytest.mark.parametrize("k", [2, 3])


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


TABLES = {
    "frame": (FRAME, "store"),
    "categories": (FRAME.astype({"store": "category"}), "store"),
    "polars": (pl.DataFrame({name: FRAME[name].to_numpy() for name in FRAME}), "store"),
    "objects": (FRAME.to_numpy(dtype=object), 1),
    "sparse": (sp.csr_matrix(np.column_stack([X, np.repeat(np.arange(N_TASKS), N_ROWS)])), -1),
}


@both
@pytest.mark.parametrize("kind", TABLES)
def test_a_task_column_is_groups_in_a_column(kind, k):
    table, column = TABLES[kind]
    model = MAMLClassifier("auto", task_column=column).fit(table, Y[k])
    expected = MAMLClassifier("auto").fit(X, Y[k], groups=LABELS)
    np.testing.assert_allclose(model.task_coef_, expected.task_coef_, rtol=1e-6)
    for method in ("predict_proba", "decision_function"):
        np.testing.assert_allclose(
            getattr(model, method)(table), getattr(expected, method)(X, groups=LABELS), rtol=1e-6
        )
    assert (model.predict(table) == expected.predict(X, groups=LABELS)).all()
    assert model.score(table, Y[k]) == expected.score(X, Y[k], groups=LABELS)
    assert model.certify(table, Y[k]).bound == pytest.approx(model.gap_certificate_.bound, rel=1e-6)
    assert model.n_features_in_ == 3


def assert_agreement(model, rows, **given):
    """A predicted class has the largest probability and the largest score."""
    predicted = np.searchsorted(model_classes(model), model.predict(rows, **given))
    shares, scores = model.predict_proba(rows, **given), model.decision_function(rows, **given)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares[np.arange(len(shares)), predicted] == shares.max(axis=1)).all()
    by_score = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
    assert (by_score == predicted).all()


def model_classes(model):
    return model.classes_ if hasattr(model, "classes_") else model.meta.estimator.classes_


@both
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_classes_probabilities_and_scores_agree_by_every_route(k, scale):
    model = MAMLClassifier("auto").fit(X, Y[k], groups=LABELS)
    rows = scale * X
    assert_agreement(model, rows)
    assert_agreement(model, rows, groups=LABELS)
    assert_agreement(model.adapt(X[:6], Y[k][:6]), rows)
    assert_agreement(model.adapt_tasks(X, Y[k], groups=LABELS), rows, groups=LABELS)
    pipe = make_pipeline("passthrough", model)
    assert_agreement(adapt(pipe, X[:6], Y[k][:6]), rows)


@both
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("support", ["auto", 3])
def test_predict_by_groups_is_adapt_task_by_task(k, intercept, support):
    y = Y[k]
    model = MAMLClassifier(support=support, fit_intercept=intercept, n_steps=2, random_state=0)
    shuffled = np.random.default_rng(0).permutation(len(X))
    model.fit(X[shuffled], y[shuffled], groups=LABELS[shuffled])
    shares = model.predict_proba(X, groups=LABELS)
    tasks = model.adapt_tasks(X, y, groups=LABELS)
    listed = model.adapt_tasks(TASKS[k])
    for i, label in enumerate(dict.fromkeys(LABELS)):
        rows = label == LABELS
        own = model.adapt(X[rows], y[rows])
        np.testing.assert_allclose(shares[rows], own.predict_proba(X[rows]))
        np.testing.assert_allclose(tasks[label].coef_, own.coef_)
        np.testing.assert_allclose(listed[i].coef_, own.coef_)
        given = {"groups": LABELS[rows]}
        np.testing.assert_allclose(tasks.predict_proba(X[rows], **given), shares[rows])
        assert (tasks.predict(X[rows], **given) == own.predict(X[rows])).all()
        np.testing.assert_allclose(
            tasks.decision_function(X[rows], **given), own.decision_function(X[rows])
        )
    assert model.task_coef_.shape == (N_TASKS, *model.coef_.shape)


def test_known_tasks_take_their_own_gradient_step():
    y = Y[2]
    model = MAMLClassifier(0.1).fit(X, y, groups=LABELS)
    theta = np.append(model.coef_, model.intercept_)
    for i in (0, 7):
        rows = slice(i * N_ROWS, (i + 1) * N_ROWS)
        phi = np.column_stack([X[rows], np.ones(N_ROWS)])
        residual = 1 / (1 + np.exp(-phi @ theta)) - (y[rows] == "yes")
        own = theta - 0.1 / N_ROWS * phi.T @ residual
        np.testing.assert_allclose(model.task_coef_[i], own[:-1])
        np.testing.assert_allclose(model.decision_function(X[rows], groups=LABELS[rows]), phi @ own)


@pytest.mark.parametrize(
    ("k", "adaptation"),
    [(2, "learned"), (2, Proximal(0.3, metric="identity")), (3, Proximal(0.3, metric="identity"))],
    ids=str,
)
def test_every_rule_adapts_classifiers(k, adaptation):
    tasks = [(np.tile(X_t, (2, 1)), np.tile(y_t, 2)) for X_t, y_t in TASKS[k]]
    model = MAMLClassifier(adaptation=adaptation, support=6, random_state=0).fit(tasks[:9])
    curve = few_shot_curve(model, tasks[9:], supports=[0, 20])
    assert curve.mean[1] < curve.mean[0]
    X_t, y_t = tasks[9]
    assert_agreement(model.adapt(X_t[:6], y_t[:6]), X_t)
    np.testing.assert_allclose(
        model.adapt_tasks(tasks[9:])[0].coef_, model.adapt(X_t, y_t).coef_, rtol=1e-6
    )


@both
def test_rows_of_unknown_tasks_get_the_meta_parameters_or_an_error(k):
    model = MAMLClassifier("auto", task_column="store").fit(FRAME, Y[k])
    mixed = FRAME.iloc[[0, 1, 2]].assign(store=["store 1", "new", "newer"])
    plain = MAMLClassifier("auto").fit(X, Y[k], groups=LABELS).predict_proba(X[:3])
    np.testing.assert_allclose(model.predict_proba(mixed)[1:], plain[1:], rtol=1e-6)
    assert abs(model.predict_proba(mixed)[0] - plain[0]).max() > 1e-4
    strict = MAMLClassifier("auto", task_column="store", on_unknown_task="raise").fit(FRAME, Y[k])
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(KeyError, match=r"2 task\(s\) not seen before: 'new', 'newer'"):
            getattr(strict, method)(mixed)
    with pytest.raises(ValueError, match="on_unknown_task must be 'meta' or 'raise'; got 'skip'"):
        MAMLClassifier("auto", on_unknown_task="skip").fit(X, Y[k], groups=LABELS)


def test_groups_mean_nothing_to_a_model_that_knows_no_names():
    for model in (MAMLClassifier("auto").fit(TASKS[2]), MAMLClassifier("auto").fit(X, Y[2])):
        assert model.task_coef_ is None
        with pytest.raises(ValueError, match="knows no task by name"):
            model.predict_proba(X, groups=LABELS)
    with pytest.raises(ValueError, match="groups must be None with task_column='store'"):
        MAMLClassifier("auto", task_column="store").fit(FRAME, Y[2], groups=LABELS)


def test_adapted_tasks_are_a_mapping_that_survives_pickling():
    model = MAMLClassifier("auto", task_column="store").fit(FRAME, Y[3])
    tasks = model.adapt_tasks(FRAME[: 3 * N_ROWS], Y[3][: 3 * N_ROWS])
    assert list(tasks) == ["store 0", "store 1", "store 2"]
    assert isinstance(tasks["store 1"], AdaptedClassifier)
    assert tasks["store 1"].feature_names_in_.tolist() == ["a", "store", "b"]
    np.testing.assert_allclose(
        tasks.predict_proba(FRAME[:5]), tasks["store 0"].predict_proba(FRAME[:5])
    )
    copied = pickle.loads(pickle.dumps(tasks))
    assert (copied.predict(FRAME[:5]) == tasks.predict(FRAME[:5])).all()
    with pytest.raises(ValueError, match="adapt_tasks got rows without labels"):
        MAMLClassifier("auto").fit(TASKS[3]).adapt_tasks(X, Y[3])


def test_tasks_of_numbers_have_no_probabilities():
    tasks = MAMLRegressor("auto").fit(NUMBERS).adapt_tasks(NUMBERS)
    assert hasattr(tasks, "predict")
    assert not hasattr(tasks, "predict_proba")
    assert not hasattr(tasks, "decision_function")


def test_an_adapted_classifier_is_an_estimator():
    model = MAMLClassifier("auto", task_column="store").fit(FRAME, Y[2])
    own = model.adapt(FRAME[:8], Y[2][:8])
    again = clone(make_pipeline("passthrough", own))
    with pytest.raises(NotFittedError):
        again[-1].predict_proba(FRAME)
    again.fit(FRAME[:8], Y[2][:8])
    np.testing.assert_allclose(again.predict_proba(FRAME), own.predict_proba(FRAME))
    assert own.score(FRAME[:8], Y[2][:8]) == accuracy_score(Y[2][:8], own.predict(FRAME[:8]))
    assert own.meta.estimator.task_ids_ is None
    model.coef_ += 1.0
    np.testing.assert_array_equal(clone(own).fit(FRAME[:8], Y[2][:8]).coef_, own.coef_)


@both
@pytest.mark.parametrize("featurizer", [None, PolynomialFeatures(2, include_bias=False)])
@pytest.mark.parametrize("column", [None, "store"])
@pytest.mark.parametrize("intercept", [True, False])
def test_to_linear_predicts_the_same(k, featurizer, column, intercept):
    table = FRAME if column else FRAME[["a", "b"]]
    model = MAMLClassifier(
        "auto", featurizer=featurizer, task_column=column, fit_intercept=intercept
    )
    model.fit(table, Y[k], groups=None if column else LABELS)
    own = model.adapt(table[:N_ROWS], Y[k][:N_ROWS])
    linear, rows = own.to_linear(), FRAME[["a", "b"]]
    np.testing.assert_allclose(linear.predict_proba(rows), own.predict_proba(table), rtol=1e-9)
    assert (linear.predict(rows) == own.predict(table)).all()
    assert list(linear.feature_names_in_) == ["a", "b"]


# -- class labels ---------------------------------------------------------------------------------

KINDS = {
    "text": lambda y: y,
    "objects": lambda y: y.astype(object),
    "bool": lambda y: y == "yes",
    "int": lambda y: np.where(y == "yes", 7, 3),
    "float": lambda y: np.where(y == "yes", 1.0, -1.0),
    "Series": pd.Series,
    "categorical": lambda y: pd.Series(y).astype("category"),
    "Int64": lambda y: pd.Series(np.where(y == "yes", 7, 3), dtype="Int64"),
    "boolean": lambda y: pd.Series(y == "yes", dtype="boolean"),
    "polars": lambda y: pl.Series(np.where(y == "yes", 7, 3)),
    "list": lambda y: y.tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_are_the_same_in_tables_and_in_lists(kind):
    y = KINDS[kind](Y[2])
    expected = MAMLClassifier("auto").fit(X, Y[2], groups=LABELS)
    flat = MAMLClassifier("auto").fit(X, y, groups=LABELS)
    listed = MAMLClassifier("auto").fit([(X_t, KINDS[kind](y_t)) for X_t, y_t in TASKS[2]])
    as_array = np.asarray(y.tolist() if hasattr(y, "tolist") else y)
    for model in (flat, listed):
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
        assert model.classes_.tolist() == np.unique(as_array).tolist()
        assert model.score(X, as_array) == expected.score(X, Y[2])
    own = listed.adapt(X[:5], KINDS[kind](Y[2][:5]))
    assert set(own.predict(X).tolist()) <= set(as_array.tolist())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([(X[:2], ["a", "b"]), (X[:2], [0, 1])], "Task 1 has numbers in y but task 0 has labels"),
        ([(X[:2], ["a", "b"]), (X[:2], [["a", "b"]] * 2)], "Task 1: y should be a 1d array"),
        ([(X[:2], ["a", "b"]), (X[:2], ["a"])], "Task 1: X has 2 rows but y has 1"),
        ([(X[:2], np.array(["a", None]))], "None or NaN"),
        ([(X[:2], [0.0, np.nan])], "y contains NaN"),
        ([(X[:2], ["a", "a"])], r"MAMLClassifier needs at least 2 classes; got 1 class: \['a'\]"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        MAMLClassifier("auto").fit(tasks)


def test_a_column_of_labels_is_flattened_with_scikit_learns_warning():
    with pytest.warns(DataConversionWarning):
        model = MAMLClassifier("auto").fit(X, Y[2][:, None], groups=LABELS)
    assert model.coef_.shape == (2,)


@both
def test_a_featurizer_is_told_the_classes(k):
    told = []

    def spy(X, y):
        told.append(y)
        return np.arange(X.shape[1], dtype=float)

    MAMLClassifier("auto", featurizer=SelectKBest(spy, k=1)).fit(TASKS[k])
    assert (told[0] == Y[k]).all()


# -- pipelines, searches, routing -----------------------------------------------------------------


def scaled_pipeline(**parameters):
    keep = ColumnTransformer(
        [("scale", StandardScaler(), ["a", "b"]), ("keep", "passthrough", ["store"])],
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    return Pipeline(
        [("columns", keep), ("maml", MAMLClassifier(task_column="store", **parameters))]
    )


@both
def test_searches_over_a_pipeline_work_with_routing_off(k):
    search = GridSearchCV(scaled_pipeline(), {"maml__n_steps": [0, 2]}, cv=GroupKFold(3))
    search.fit(FRAME, Y[k], groups=LABELS)
    assert search.best_estimator_[-1].n_tasks_ == N_TASKS
    new = FRAME[:6].assign(store="new")
    adapted = adapt(search, new, Y[k][:6])
    assert [name for name, _ in adapted.steps] == ["columns", "classifier"]
    scaled = search.best_estimator_[0].transform(new)
    expected = search.best_estimator_[-1].adapt(scaled, Y[k][:6]).predict_proba(scaled)
    np.testing.assert_allclose(adapted.predict_proba(new), expected)
    np.testing.assert_allclose(clone(adapted).fit(new, Y[k][:6]).predict_proba(new), expected)
    tasks = adapt_tasks(search, new, Y[k][:6])
    np.testing.assert_allclose(tasks.predict_proba(new), expected)
    assert (tasks["new"].predict(new) == tasks.predict(new)).all()


def test_cross_validated_probabilities_are_those_of_each_fold():
    cv = KFold(3, shuffle=True, random_state=0)
    model = scaled_pipeline(random_state=0)
    shares = cross_val_predict(model, FRAME, Y[2], cv=cv, method="predict_proba")
    for train, test in cv.split(X):
        own = clone(model).fit(FRAME.iloc[train], Y[2][train])
        np.testing.assert_allclose(shares[test], own.predict_proba(FRAME.iloc[test]))


@pytest.mark.usefixtures("routing")
def test_with_routing_pipelines_pass_groups_to_every_method():
    y = Y[3]
    pipe = make_pipeline(StandardScaler(), MAMLClassifier("auto")).fit(X, y, groups=LABELS)
    scaled = pipe[0].transform(X)
    for method in ("predict", "predict_proba", "decision_function"):
        routed = getattr(pipe, method)(X, groups=LABELS)
        np.testing.assert_array_equal(routed, getattr(pipe[-1], method)(scaled, groups=LABELS))
    assert pipe.score(X, y, groups=LABELS) == pipe[-1].score(scaled, y, groups=LABELS)
    tasks = adapt_tasks(pipe, X, y, groups=LABELS)
    shares = pipe.predict_proba(X, groups=LABELS)
    np.testing.assert_allclose(tasks.predict_proba(X, groups=LABELS), shares)
    by_list = adapt_tasks(pipe, TASKS[3][:3])
    np.testing.assert_allclose(by_list[2].predict_proba(X), tasks["store 2"].predict_proba(X))
    judge = few_shot_scorer("neg_log_loss", support=4)
    search = GridSearchCV(
        MAMLClassifier("auto"), {"n_steps": [0, 2]}, scoring=judge, cv=GroupKFold(3)
    )
    search.fit(X, y, groups=LABELS)
    assert search.best_estimator_.n_tasks_ == N_TASKS
    scores = cross_val_score(
        MAMLClassifier("auto"), X, y, cv=GroupKFold(3), params={"groups": LABELS}
    )
    for score, (train, test) in zip(scores, GroupKFold(3).split(X, y, LABELS), strict=True):
        own = MAMLClassifier("auto").fit(X[train], y[train], groups=LABELS[train])
        assert score == own.score(X[test], y[test], groups=LABELS[test])


LOSES_GROUPS = {
    "GridSearchCV": lambda: GridSearchCV(
        MAMLClassifier("auto"), {"n_steps": [1]}, cv=GroupKFold(2)
    ).fit(X, Y[2], groups=LABELS),
    "cross_val_score": lambda: cross_val_score(
        MAMLClassifier("auto"), X, Y[2], groups=LABELS, cv=GroupKFold(2)
    ),
    "adapt": lambda: MAMLClassifier("auto").fit(X, Y[2]).adapt(X, Y[2]),
}


@pytest.mark.parametrize("kind", LOSES_GROUPS)
def test_one_task_by_mistake_is_reported_in_the_callers_line(kind):
    with pytest.warns(SingleTaskWarning, match="task_column=") as caught:
        LOSES_GROUPS[kind]()
    package = Path(sklearn_maml.__file__).parent
    assert all(package not in Path(w.filename).parents for w in caught)


def test_a_fit_that_means_one_task_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MAMLClassifier("auto").fit(X, Y[2]).predict(X)
        MAMLClassifier("auto").fit(X, Y[2], groups=np.zeros(len(X))).adapt(X, Y[2])
        GridSearchCV(MAMLClassifier("auto"), {"n_steps": [1]}, cv=2).fit(TASKS[2])


# -- judging --------------------------------------------------------------------------------------


def alike(k):
    """Tasks whose rows are all the same or one of two, so that draws do not matter."""
    rng = np.random.default_rng(1)
    return [
        (np.tile(rng.normal(size=2), (8, 1)), np.repeat(CLASSES[k][i % k], 8)) for i in range(9)
    ]


METRICS = {
    None: lambda y, classes, shares: accuracy_score(y, classes[shares.argmax(axis=1)]),
    "accuracy": lambda y, classes, shares: accuracy_score(y, classes[shares.argmax(axis=1)]),
    "neg_log_loss": lambda y, classes, shares: -log_loss(y, shares, labels=classes),
    "roc_auc": lambda y, classes, shares: roc_auc_score(y, shares[:, 1]),
    "roc_auc_ovr": lambda y, classes, shares: roc_auc_score(y, shares, multi_class="ovr"),
}


@pytest.mark.parametrize(
    ("k", "metric"),
    [
        (2, None),
        (3, "accuracy"),
        (2, "neg_log_loss"),
        (3, "neg_log_loss"),
        (2, "roc_auc"),
        (3, "roc_auc_ovr"),
    ],
)
def test_the_scorer_is_the_metric_of_rows_that_were_not_adapted_to(k, metric):
    model = MAMLClassifier("auto").fit(TASKS[k])
    tasks = alike(k)
    shares = [model.adapt(X_t[:2], y_t[:2]).predict_proba(X_t[2:]) for X_t, y_t in tasks]
    truth = np.concatenate([y_t[2:] for _, y_t in tasks])
    expected = METRICS[metric](truth, model.classes_, np.concatenate(shares))
    score = few_shot_scorer(metric, support=2, n_draws=3)(model, tasks)
    assert score == pytest.approx(expected)


def test_the_scorer_takes_metrics_of_classes_and_positive_labels():
    model = MAMLClassifier("auto", task_column="store").fit(FRAME, Y[2])
    for response in ("predict", "decision_function", "predict_proba"):
        measure = accuracy_score if response == "predict" else roc_auc_score
        scorer = make_scorer(measure, response_method=response)
        assert 0.5 < few_shot_scorer(scorer, support=5)(model, FRAME, Y[2]) <= 1
    with pytest.raises(ValueError, match="task_column= on the MAMLClassifier"):
        few_shot_scorer()(MAMLClassifier("auto").fit(TASKS[2]), X, Y[2])


def test_the_scorer_is_the_score_of_the_same_draws():
    model = MAMLClassifier("auto", support=3, n_episodes=4, random_state=7).fit(TASKS[3])
    judge = few_shot_scorer(support=3, random_state=7)
    assert judge(model, TASKS[3]) == pytest.approx(model.score(TASKS[3]))
    pipe = make_pipeline("passthrough", model)
    assert judge(pipe, TASKS[3]) == pytest.approx(model.score(TASKS[3]))


@both
@pytest.mark.parametrize("metric", ["log_loss", "zero_one_loss"])
def test_the_curve_is_the_error_of_adapting_task_by_task(k, metric):
    model = MAMLClassifier("auto").fit(TASKS[k])
    curve = few_shot_curve(model, alike(k), supports=[0, 2], n_draws=2, metric=metric)
    for shots, errors in zip((0, 2), curve.task_errors, strict=True):
        for (X_t, y_t), error in zip(alike(k), errors, strict=True):
            own = model.adapt(X_t[:shots], y_t[:shots]) if shots else model
            if metric == "log_loss":
                expected = log_loss(y_t, own.predict_proba(X_t), labels=model.classes_)
            else:
                expected = (own.predict(X_t) != y_t).mean()
            assert error == pytest.approx(expected)


def test_the_curve_chooses_its_error_by_the_model():
    model = MAMLClassifier("auto").fit(TASKS[2])
    assert few_shot_curve(model, TASKS[2], supports=[1]).metric == "log_loss"
    known = r"\['log_loss', 'miscoverage', 'zero_one_loss'\] for MAMLClassifier"
    with pytest.raises(ValueError, match=known):
        few_shot_curve(model, TASKS[2], metric="mean_squared_error")
    numbers = MAMLRegressor("auto").fit(NUMBERS)
    assert few_shot_curve(numbers, NUMBERS, supports=[1]).metric == "mean_squared_error"
    with pytest.raises(ValueError, match="for MAMLRegressor; got 'log_loss'"):
        few_shot_curve(numbers, NUMBERS, metric="log_loss")


@both
@pytest.mark.parametrize("metric", ["log_loss", "zero_one_loss"])
def test_the_pictures_of_a_classifier_show_its_numbers(k, metric):
    model = MAMLClassifier("auto").fit(TASKS[k][:8])
    pooled = LogisticRegression().fit(X, Y[k])
    display = FewShotCurveDisplay.from_estimator(
        model, TASKS[k][8:], supports=[0, 2, 5], pooled=pooled, metric=metric
    )
    share = [
        log_loss(y_t, pooled.predict_proba(X_t), labels=model.classes_)
        if metric == "log_loss"
        else (pooled.predict(X_t) != y_t).mean()
        for X_t, y_t in TASKS[k][8:]
    ]
    assert display.pooled == pytest.approx(np.mean(share))
    assert display.prior == display.curve.mean[0]
    assert display.own.supports.tolist() == [2, 5]
    assert GapCertificateDisplay.from_estimator(model).certificate is model.gap_certificate_
    assert ConvergenceDisplay.from_estimator(model).values[-1] == pytest.approx(model.meta_loss_)
    matplotlib.pyplot.close("all")


def test_the_fit_on_the_rows_alone_is_that_of_logistic_regression():
    rows, y = np.column_stack([X, np.ones(len(X))])[:40], (Y[2] == "yes")[:40].astype(float)
    weights = np.full((1, 40), 1 / 40)
    theta, pullback = OwnRidge().adapt(
        None, Risk(LOSSES["log_loss"](), rows[None], y[None], weights)
    )
    peer = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-12).fit(rows, y)
    np.testing.assert_allclose(theta, peer.coef_, atol=1e-6)
    assert not pullback(rows[None]).any()


@pytest.mark.parametrize("loss", ["poisson", "log_loss", "pseudo_huber"])
def test_the_fit_on_the_rows_alone_is_stationary_however_large_the_targets(loss):
    targets = {"poisson": 1e4, "log_loss": 1.0, "pseudo_huber": 1e4}[loss] * (SCORES > 0)
    rows = np.column_stack([X, np.ones(len(X))]).reshape(N_TASKS, N_ROWS, 3)
    weights = np.full((N_TASKS, N_ROWS), 1 / N_ROWS)
    risk = Risk(LOSSES[loss](), rows, targets.reshape(N_TASKS, N_ROWS), weights)
    theta, _ = OwnRidge().adapt(None, risk)
    slope = N_ROWS * risk.gradient(theta) + 2 * theta
    assert np.abs(slope).max() < 1e-6 * max(1.0, targets.max())
