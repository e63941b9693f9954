"""A user's script with types, which mypy checks and tests/test_types.py runs."""

import tempfile
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from sklearn_maml import (
    AdaptedClassifier,
    AdaptedRegressor,
    AdaptedTasks,
    GapCertificate,
    MAMLClassifier,
    MAMLRegressor,
    MAMLRegressorCV,
    TaskStatistics,
    few_shot_curve,
    few_shot_scorer,
    load_model,
    task_statistics,
)
from sklearn_maml.adaptation import GradientSteps, Proximal
from sklearn_maml.datasets import make_linear_tasks, make_sinusoid_tasks
from sklearn_maml.displays import FewShotCurveDisplay
from sklearn_maml.losses import Loss, PseudoHuber
from sklearn_maml.model_selection import FewShotCurve, FewShotScorer
from sklearn_maml.ntk import NTKFeatures
from sklearn_maml.solvers import LBFGS

Floats = NDArray[np.float64]


class Fair(Loss):
    """A loss of one's own."""

    hessian_bound = gradient_bound = 1.0

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def value(self, y: Any, z: Any) -> Floats:
        size = np.abs(z - y)
        return np.asarray(size - np.log1p(size))

    def gradient(self, y: Any, z: Any) -> Floats:
        return np.asarray((z - y) / (1.0 + np.abs(z - y)))

    def hessian(self, y: Any, z: Any) -> Floats:
        return np.asarray((1.0 + np.abs(z - y)) ** -2.0)


def regress() -> None:
    *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=41, n_samples=12, random_state=0)
    assert_type(X_new, Floats)
    model = MAMLRegressor(random_state=0).fit(tasks)
    assert_type(model, MAMLRegressor)
    assert_type(model.predict(X_new), Floats)
    assert_type(model.predict(X_new, return_std=True), tuple[Floats, Floats])
    assert_type(model.score(tasks), float)
    assert_type(model.certify(tasks), GapCertificate | None)

    adapted = model.adapt(X_new[:5], y_new[:5])
    assert_type(adapted, AdaptedRegressor)
    mean, deviation = adapted.predict(X_new[5:], return_std=True)
    assert_type(deviation, Floats)
    low, high = adapted.predict_interval(X_new[5:], 0.8, signed=False)
    assert_type(low, Floats)
    assert low.shape == high.shape == mean.shape == deviation.shape

    many = model.adapt_tasks([(X[:5], y[:5]) for X, y in tasks[:3]])
    assert_type(many, AdaptedTasks[AdaptedRegressor])
    assert_type(many[0], AdaptedRegressor)
    assert_type(many.predict_interval(X_new, groups=np.zeros(12, int)), tuple[Floats, Floats])
    assert_type(adapted.predict_quantile(X_new, [0.1, 0.9]), Floats)
    assert_type(many.predict_quantile(X_new, groups=np.zeros(12, int)), Floats)
    assert_type(many.random_effects().deviations, Floats)

    curve = few_shot_curve(model, tasks, supports=(0, 2), n_draws=2)
    assert_type(curve, FewShotCurve)
    assert_type(curve.mean, Floats)
    FewShotCurveDisplay(curve, prior=1.0)
    judge = few_shot_scorer("neg_mean_absolute_error", support=3, n_draws=2)
    assert_type(judge, FewShotScorer)
    assert_type(judge(model, tasks), float)


def save_and_stream() -> None:
    tasks = make_linear_tasks(n_tasks=40, n_samples=12, random_state=0)
    model = MAMLRegressor(inner_lr=0.1, n_steps=2, support=0.5, random_state=0)
    assert_type(model.partial_fit(tasks[:20]).partial_fit(tasks[20:]), MAMLRegressor)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.npz"
        model.save(file)
        assert_type(load_model(file), MAMLRegressor | MAMLClassifier)
    statistics = task_statistics(model, tasks)
    assert_type(statistics, TaskStatistics)
    assert_type(statistics.n_rows, int)
    assert_type(statistics + task_statistics(model, tasks), TaskStatistics)
    assert_type(MAMLRegressor.from_statistics(statistics, support=0.5), MAMLRegressor)


def classify() -> None:
    tasks, theta, _ = make_linear_tasks(n_tasks=20, return_theta=True, random_state=0)
    assert_type(theta, Floats)
    X, y = np.concatenate([X for X, _ in tasks]), np.concatenate([y > 0 for _, y in tasks])
    labels = np.repeat([f"task {i}" for i in range(20)], 20)
    classifier = MAMLClassifier(random_state=0).fit(X, y, groups=labels)
    assert_type(classifier.adapt(X[:5], [1, 0, 1, 0, 1]), AdaptedClassifier)
    assert_type(classifier.predict_proba(X, groups=labels), Floats)
    assert_type(classifier.predict_set(X), NDArray[np.bool_])


def choose_parts() -> None:
    tasks = make_sinusoid_tasks(n_tasks=10, random_state=0)
    assert_type(NTKFeatures(20, activation="tanh").fit(tasks[0][0]), NTKFeatures)
    rules = [GradientSteps(0.05, 2), Proximal(1.0, metric="diagonal")]
    for rule in rules:
        MAMLRegressor(
            loss=PseudoHuber(2.0), adaptation=rule, solver=LBFGS(tol=1e-8), certificate=None
        ).fit(tasks)
    MAMLRegressor(loss=Fair(), inner_lr="auto", certificate="fast").fit(tasks)
    search = MAMLRegressorCV(n_steps=(1,), alphas=[0.0, 0.1], cv=2, random_state=0).fit(tasks)
    assert_type(search, MAMLRegressorCV)
    assert_type(search.adapt(*tasks[0]), AdaptedRegressor)
    MAMLRegressorCV(param_grid={"adaptation": ["learned", rules[1]]}, cv=2).fit(tasks)
    MAMLRegressorCV(param_grid=[{"adaptation": rules}, {"featurizer": [None]}], cv=2).fit(tasks)


def main() -> None:
    regress()
    save_and_stream()
    classify()
    choose_parts()


if __name__ == "__main__":
    main()
