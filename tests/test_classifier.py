"""MAMLClassifier: scikit-learn's checks, LogisticRegression as a limit, labels of any type."""

import pickle

import numpy as np
import pandas as pd
import pytest
from families import make_tasks
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_maml import GradientSteps, MAMLClassifier, Proximal
from sklearn_maml.solvers import GaussNewton


@parametrize_with_checks(
    [
        MAMLClassifier("auto"),
        MAMLClassifier(inner_lr=0.05, n_steps=3, alpha=0.01),
        MAMLClassifier("auto", fit_intercept=False, featurizer=StandardScaler(with_mean=False)),
        MAMLClassifier(adaptation=GradientSteps(0.1, n_steps=2), on_unknown_task="raise", n_jobs=2),
        MAMLClassifier(adaptation=Proximal(0.5, metric="identity")),
    ]
)
def test_scikit_learn_estimator_check(estimator, check):
    check(estimator)


def labelled(names=("a", "b", "c"), n_tasks=12, n_rows=15, seed=0):
    """Tasks whose classes are thirds of a noisy linear score."""
    edges = np.linspace(0, 1, len(names) + 1)[1:-1]
    tasks = make_tasks(n_tasks, n_rows, n_features=3, seed=seed)
    cuts = np.quantile(np.concatenate([y for _, y in tasks]), edges)
    return [(X, np.array(names)[np.searchsorted(cuts, y)]) for X, y in tasks]


@pytest.mark.parametrize("names", [(0, 1), ("a", "b", "c")])
def test_without_steps_it_is_logistic_regression(names):
    X, y = (np.concatenate(part) for part in zip(*labelled(names), strict=True))
    alpha = 0.05
    peer = LogisticRegression(C=1 / (2 * alpha * len(y)), tol=1e-12, solver="newton-cholesky")
    peer = OneVsRestClassifier(peer).fit(X, y)
    model = MAMLClassifier(n_steps=0, alpha=alpha).fit(X, y)
    np.testing.assert_allclose(model.decision_function(X), peer.decision_function(X), atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), atol=1e-6)
    assert (model.predict(X) == peer.predict(X)).mean() > 0.99


@pytest.mark.parametrize(
    "names",
    [(0, 1), (True, False), ("no", "yes"), (3, 7, 11), ("x", "y", "z", "w")],
    ids=str,
)
def test_adapting_helps_whatever_the_labels(names):
    names = tuple(sorted(names))
    *tasks, (X, y) = labelled(names, n_tasks=30, n_rows=40)
    model = MAMLClassifier("auto").fit(tasks)
    assert list(model.classes_) == list(names)
    assert is_classifier(model)
    adapted = model.adapt(X[:20], y[:20])
    probabilities = adapted.predict_proba(X[20:])
    assert probabilities.shape == (20, len(names))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (adapted.classes_[probabilities.argmax(axis=1)] == adapted.predict(X[20:])).all()
    assert adapted.score(X, y) > model.score(X, y)
    assert set(adapted.predict(X)) <= set(names)


def test_tasks_are_rows_with_groups():
    tasks = labelled()
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    groups = np.repeat([f"task {i}" for i in range(12)], 15)
    order = np.random.default_rng(0).permutation(len(y))
    flat = MAMLClassifier("auto").fit(X[order], y[order], groups=groups[order])
    model = MAMLClassifier("auto").fit(tasks)
    np.testing.assert_allclose(flat.coef_, model.coef_, atol=1e-7)
    assert flat.score(X, y, groups=groups) == pytest.approx(model.score(tasks))
    assert model.score(tasks) > model.score(X, y)
    assert model.certify(tasks).bound == pytest.approx(model.gap_certificate_.bound, rel=1e-9)


def test_a_task_may_hold_only_some_classes():
    tasks = labelled()
    X, y = tasks[0]
    tasks[0] = (X[y != "b"], y[y != "b"])
    model = MAMLClassifier("auto", support=4, random_state=0).fit(tasks)
    adapted = model.adapt(X[:2], ["a", "a"])
    assert adapted.predict_proba(X).shape == (15, 3)
    assert (adapted.predict(X) == "a").mean() > (model.predict(X) == "a").mean()


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_fit_is_stationary_and_certified(n_steps):
    tasks = labelled()
    solver = GaussNewton(tol=1e-14)
    model = MAMLClassifier(0.5, n_steps, alpha=0.01, solver=solver).fit(tasks)
    certificate = model.gap_certificate_
    assert certificate.epsilon < 1e-5
    assert 0 <= certificate.lower_bound <= model.meta_loss_
    worse = MAMLClassifier(0.5, n_steps, alpha=0.3).fit(tasks)
    assert certificate.lower_bound <= worse.meta_loss_


def test_cloning_pickling_and_refitting_keep_their_promises():
    tasks = labelled()
    model = MAMLClassifier(adaptation=GradientSteps(0.3, 2)).fit(tasks)
    X, y = tasks[0]
    before = model.predict_proba(X)
    adapted = model.adapt(X, y)
    assert (model.predict_proba(X) == before).all()
    assert (pickle.loads(pickle.dumps(adapted)).predict(X) == adapted.predict(X)).all()
    assert (clone(adapted).fit(X, y).coef_ == adapted.coef_).all()
    assert not hasattr(clone(model), "coef_")
    frame = pd.DataFrame(X, columns=["u", "v", "w"])
    assert list(MAMLClassifier("auto").fit(frame, y).feature_names_in_) == ["u", "v", "w"]


def test_model_selection_over_lists_of_tasks():
    tasks = labelled(n_tasks=20)
    search = GridSearchCV(MAMLClassifier("auto"), {"n_steps": [0, 1]}, cv=3).fit(tasks)
    assert search.best_params_["n_steps"] == 1
    assert (
        cross_val_score(MAMLClassifier("auto", support=5, random_state=0), tasks, cv=3).mean() > 0.5
    )


def test_probabilities_survive_extreme_scores():
    tasks = [(1e4 * X, y) for X, y in labelled()]
    model = MAMLClassifier(alpha=0.0, n_steps=0).fit(tasks)
    probabilities = model.predict_proba(1e6 * tasks[0][0])
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (
            lambda: MAMLClassifier("auto").fit(np.ones((4, 2)), [1, 1, 1, 1]),
            "at least 2 classes; got 1",
        ),
        (lambda: MAMLClassifier("auto").fit([]), "empty list of tasks"),
        (lambda: MAMLClassifier("auto").fit([(np.ones((2, 1)),)] * 2), "Task 0: expected a tuple"),
        (lambda: MAMLClassifier("auto").fit(np.ones((4, 2))), "requires y to be passed"),
        (lambda: MAMLClassifier("auto").fit(np.ones((2, 2)), np.array(["a", None])), "None or NaN"),
        (lambda: MAMLClassifier("auto").fit(np.ones((3, 2)), [0.1, 0.2, 0.3]), "continuous"),
        (
            lambda: MAMLClassifier("auto", solver="least_squares").fit(labelled()),
            "is not quadratic",
        ),
        (
            lambda: MAMLClassifier("auto").fit(labelled()).adapt(np.ones((2, 3)), ["a", "q"]),
            r"labels \['q'\] that fit has not seen; known are \['a' 'b' 'c'\]",
        ),
        (
            lambda: MAMLClassifier("auto").fit(labelled()).adapt(np.ones((2, 3)), [0, 1]),
            r"labels such as .*0.* but the classes that fit has seen are \['a' 'b' 'c'\] \(str_\)",
        ),
        (
            lambda: MAMLClassifier("auto").fit(labelled()).score(np.ones((2, 3)), [True, False]),
            r"labels such as .*True.* but the classes",
        ),
    ],
)
def test_bad_input_gets_a_clear_error(fit, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit()
