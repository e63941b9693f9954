"""How often intervals and label sets miss, by number of rows: against one task at a time."""

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LinearRegression

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal, few_shot_curve
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.displays import FewShotCurveDisplay
from sklearn_maml.model_selection.errors import errors_of_rows

matplotlib.use("Agg")
TASKS = make_linear_tasks(n_tasks=70, n_samples=14, n_features=3, random_state=0)


def with_targets(change):
    return [(X, change(y)) for X, y in TASKS]


# A model, and what the targets of its tasks are.
KINDS = {
    "learned": (MAMLRegressor(random_state=0), np.array),
    "first rows": (MAMLRegressor(split="first", random_state=0), np.array),
    "task noise": (
        MAMLRegressor(adaptation=Proximal(task_noise=4.0), random_state=0),
        np.array,
    ),
    "two targets": (MAMLRegressor(random_state=0), lambda y: np.column_stack([y, y**2])),
    "gradient steps": (MAMLRegressor(0.1, calibrate=True, random_state=0), np.array),
    "counts": (
        MAMLRegressor(loss="poisson", calibrate=True, random_state=0),
        lambda y: np.round(np.abs(y)),
    ),
    "classes": (MAMLClassifier(random_state=0), lambda y: np.digitize(y, [-1.0, 1.0])),
}


def missed(model, X, y):
    """The share of a task's rows outside, by what a user would call."""
    if hasattr(model, "classes_"):
        return 1 - model.predict_set(X)[np.arange(len(y)), y].mean()
    low, high = model.predict_interval(X)
    return 1 - np.mean((low <= y) & (y <= high))


@pytest.mark.parametrize(("model", "change"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("k", [0, 1, 7])
def test_it_is_the_share_of_rows_outside_task_by_task(model, change, k):
    *known, new = with_targets(change)[:50], with_targets(change)[50:]
    model.fit(*known)
    episodes = Episodes(support=k, split="first")
    rows, weight, task = errors_of_rows("miscoverage", model, new, None, None, None, episodes)
    found = np.bincount(task, weight * rows) / np.bincount(task, weight)
    one = [missed(model.adapt(X[:k], y[:k]) if k else model, X[k:], y[k:]) for X, y in new]
    assert_allclose(found, one, atol=1e-14)
    assert 0.0 < np.mean(found) < 0.5


def test_the_curve_is_its_mean_by_number_of_rows_and_is_drawn_alone():
    model = MAMLRegressor(random_state=0).fit(TASKS[:50])
    curve = few_shot_curve(model, TASKS[50:], supports=[0, 4], metric="miscoverage")
    assert curve.metric == "miscoverage"
    assert_allclose(curve.task_errors[0], [missed(model, X, y) for X, y in TASKS[50:]])
    assert np.all(np.abs(curve.mean - 0.1) < 5 * curve.standard_error)
    display = FewShotCurveDisplay.from_estimator(
        model, TASKS[50:], supports=[0, 4], metric="miscoverage"
    )
    assert display.own is None
    assert_array_equal(display.curve.mean, curve.mean)


def test_another_coverage_is_missed_as_often_as_it_says():
    model = MAMLRegressor(random_state=0).fit(TASKS[:50])
    given = {"supports": [4], "metric": "miscoverage", "n_draws": 1}
    curve = few_shot_curve(model, TASKS[50:], coverage=0.5, **given)
    assert abs(curve.mean[0] - 0.5) < 5 * curve.standard_error[0]
    half, nine = (few_shot_curve(model, TASKS[50:], coverage=c, **given) for c in (0.5, 0.9))
    assert (half.task_errors >= nine.task_errors).all()
    assert half.mean[0] > nine.mean[0] + 0.2
    display = FewShotCurveDisplay.from_estimator(model, TASKS[50:], coverage=0.5, **given)
    assert_array_equal(display.curve.mean, half.mean)
    for value in (0.0, 1.0, "most", [0.5, 0.9]):
        with pytest.raises(ValueError, match="coverage must be a number between 0 and 1"):
            few_shot_curve(model, TASKS[50:], coverage=value, **given)
    with pytest.raises(ValueError, match=r"coverage=0\.5 has no effect with metric='mean_sq"):
        few_shot_curve(model, TASKS[50:], coverage=0.5)


def test_what_has_no_intervals_is_refused():
    model, new = MAMLRegressor(random_state=0).fit(TASKS[:50]), TASKS[50:]
    with pytest.raises(ValueError, match="adaptation must be None, got GradientSteps"):
        few_shot_curve(model, new, metric="miscoverage", adaptation="gradient_steps")
    pooled = LinearRegression().fit(*(np.concatenate(part) for part in zip(*TASKS, strict=True)))
    with pytest.raises(ValueError, match=r"pooled=LinearRegression\(\) has none"):
        FewShotCurveDisplay.from_estimator(model, new, pooled=pooled, metric="miscoverage")
    steps = MAMLRegressor(0.1, calibrate=False).fit(TASKS[:50])
    with pytest.raises(ValueError, match="knows no intervals"):
        few_shot_curve(steps, new, metric="miscoverage")


def test_with_few_tasks_it_is_told_that_intervals_are_the_models_own():
    model = MAMLRegressor(random_state=0).fit(TASKS[:6])
    with pytest.warns(UserWarning, match="^6 calibration tasks are too few"):
        few_shot_curve(model, TASKS[50:], supports=[2], metric="miscoverage")
