"""Penalised quasi-likelihood: the covariance of random effects for losses that are no squares."""

import re
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from objectives import objective_of, targets_for
from scipy.special import expit

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal
from sklearn_maml._estimators.fitting import start_of
from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml._learning.problem import LearningProblem
from sklearn_maml._learning.quasi_likelihood import LONGEST, fit_quasi_likelihood, working
from sklearn_maml._learning.random_effects import fit_covariance
from sklearn_maml.displays import ConvergenceDisplay
from sklearn_maml.losses import LOSSES, SmoothedQuantile, SquaredError
from sklearn_maml.solvers import GaussNewton

matplotlib.use("Agg")

DEVIATIONS = np.array([0.6, 0.3, 0.9])
THETA = np.array([0.5, -0.5, 0.2])


def make_rows(n_tasks=150, m=40, seed=0):
    """Features of n tasks, and predictions before the link, with known covariance."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, m, 2))
    theta_i = THETA + DEVIATIONS * rng.normal(size=(n_tasks, 3))
    return X, np.einsum("nmd,nd->nm", X, theta_i[:, :2]) + theta_i[:, 2:], rng


def rule(metric):
    return Proximal(1.0, metric)


def fitted(loss, X, y, kind="full"):
    tasks = list(zip(X, y, strict=True))
    objective = objective_of(tasks, loss, rule(np.ones(3)))
    effects = LearningProblem(objective, GaussNewton()).random_effects(None)
    return fit_quasi_likelihood(objective, effects, kind, rule), objective, effects


@pytest.mark.parametrize("loss", LOSSES)
def test_the_working_square_has_the_slope_of_the_loss(loss):
    loss, rng = LOSSES[loss](), np.random.default_rng(0)
    y, z = targets_for(loss, rng.normal(size=200)), 3 * rng.normal(size=200)
    weight, response = working(loss, y, z)
    assert (weight >= 0.5 * loss.hessian(y, z) * (1 - 1e-12)).all()
    np.testing.assert_allclose(2 * weight * (z - response), loss.gradient(y, z), atol=1e-10)
    if not loss.least_at_target:
        assert (np.abs(z - response) <= LONGEST * (1 + 1e-12)).all()


def test_far_from_its_target_a_straight_loss_works_on_the_target():
    y, z = np.zeros(3), np.array([10.0, 1e3, 1e6])
    weight, response = working(LOSSES["pseudo_huber"](), y, z)
    np.testing.assert_allclose(response, 0.0, atol=1e-8 * 1e6)
    np.testing.assert_allclose(weight * z, 1.0, rtol=1e-2)  # half the slope


@pytest.mark.parametrize("loss", ["pseudo_huber", "log_cosh"])
def test_near_its_target_a_row_is_as_curved_as_its_chord(loss):
    """Which is more than its loss is, and makes the target the response."""
    loss, y, z = LOSSES[loss](), np.ones(5), 1.0 + np.array([-0.9, -0.1, 0.01, 0.4, 0.95])
    weight, response = working(loss, y, z)
    np.testing.assert_allclose(response, y, rtol=1e-12)
    np.testing.assert_allclose(weight, 0.5 * loss.gradient(y, z) / (z - y), rtol=1e-12)
    assert (weight > 0.5 * loss.hessian(y, z)).all()


def test_at_its_target_a_row_is_as_curved_as_its_loss():
    """Of a smoothed median, ``1 / (4 smoothing)``."""
    y = np.array([-1.0, 0.0, 3.0])
    weight, response = working(SmoothedQuantile(0.5, 2.0), y, y)
    np.testing.assert_allclose(weight, 0.5 / 8, rtol=1e-12)
    np.testing.assert_array_equal(response, y)


def test_a_row_that_says_nothing_has_no_weight():
    weight, response = working(LOSSES["log_loss"](), np.ones(1), np.full(1, 800.0))
    assert weight == 0
    assert response == 800


@pytest.mark.parametrize("kind", ["full", "diagonal", "intercept"])
def test_with_squares_it_is_reml(kind):
    X, z, rng = make_rows(n_tasks=40, m=10)
    y = z + 0.5 * rng.normal(size=z.shape)
    (metric, models, theta, _), objective, effects = fitted(SquaredError(), X, y, kind)
    expected, model = fit_covariance(objective, effects, kind)
    np.testing.assert_allclose(metric.covariance, expected.covariance, rtol=0.05, atol=1e-3)
    np.testing.assert_allclose(theta, model.fixed[0], rtol=1e-2)
    assert models[0].noise[0] == pytest.approx(model.noise[0], rel=1e-2)


@pytest.mark.parametrize("loss", ["poisson", "log_loss", "gamma"])
def test_the_covariance_is_that_of_the_task_parameters(loss):
    X, z, rng = make_rows()
    z = np.clip(z, -4, 4)
    y = {
        "poisson": lambda: rng.poisson(np.exp(z)),
        "log_loss": lambda: rng.random(z.shape) < expit(z),
        "gamma": lambda: np.exp(z) * rng.gamma(2.0, 0.5, size=z.shape),
    }[loss]().astype(float)
    (metric, models, theta, _), *_ = fitted(LOSSES[loss](), X, y)
    found = np.sqrt(np.diagonal(metric.covariance) * models[0].noise[0])
    assert found == pytest.approx(DEVIATIONS, rel=0.2)  # 150 tasks tell a deviation to 6 percent
    assert theta == pytest.approx(THETA, abs=0.2)
    if loss != "gamma":  # whose l'' depends on y: there it is only about the variance of y / mu
        assert models[0].noise[0] == pytest.approx(1.0 if loss == "poisson" else 0.5, rel=0.1)


def test_several_targets_share_the_mean_covariance():
    X, z, rng = make_rows(n_tasks=60, m=15)
    y = rng.poisson(np.exp(np.clip(np.stack([z, -z], axis=-1), -3, 3))).astype(float)
    (both, models, theta, _), *_ = fitted(LOSSES["poisson"](), X, y)
    assert theta.shape == (2, 3)
    assert len(models) == 2
    alone = [fitted(LOSSES["poisson"](), X, y[..., k])[0] for k in range(2)]
    mean = np.mean([one[0].covariance for one in alone], axis=0)
    np.testing.assert_allclose(both.covariance, mean, rtol=0.1, atol=0.02)


def test_a_classifier_learns_it_and_tells_so():
    X, z, rng = make_rows(n_tasks=60, m=12)
    y = (rng.random(z.shape) < expit(z)).astype(int)
    model = MAMLClassifier(adaptation="learned", random_state=0).fit(list(zip(X, y, strict=True)))
    found = model.learned_
    assert (found.metric, found.criterion) == ("full", "reml")
    assert "working responses" in str(found)
    assert found.fixed_effects == pytest.approx(THETA, abs=0.4)
    assert 0.2 < found.strength < 5


def test_as_many_rounds_are_counted_as_are_told_of(caplog):
    caplog.set_level("INFO", logger="sklearn_maml")
    X, z, rng = make_rows(60, 12)
    y = z + rng.normal(size=z.shape)
    model = MAMLRegressor(adaptation=Proximal(1.0, "full"), loss="log_cosh", verbose=1)
    model.fit(list(zip(X, y, strict=True)))
    changes = [float(change) for change in re.findall(r"changed by (\S+)", caplog.text)]
    assert model.learned_.n_iter == len(changes) > 1
    assert changes[0] == max(changes)
    size = np.linalg.norm(model.learned_.covariance)
    assert changes[-1] < 0.1 * min(changes[0], size), (changes, size)


def test_few_tasks_have_a_diagonal_covariance():
    X, z, rng = make_rows(n_tasks=11, m=12)
    y = rng.poisson(np.exp(z)).astype(float)
    model = MAMLRegressor(loss="poisson", adaptation="learned", random_state=0)
    found = model.fit(list(zip(X, y, strict=True))).learned_
    assert found.metric == "diagonal"
    assert "11 tasks are few for the 6 entries" in found.reason


def test_tasks_of_two_counts_a_group_are_fitted():
    """A start at 0 would be exp(20) off: here candidates of the query loss used to overflow."""
    rng = np.random.default_rng(0)
    tasks = []
    for _ in range(60):
        X = np.column_stack([[1961.0, 1962.0], rng.random(2) < 0.4])
        level = 3.0 + 0.3 * rng.normal()
        tasks.append((X, rng.poisson(np.exp(level - 0.3 * X[:, 1])).astype(float)))
    model = MAMLRegressor(loss="poisson", adaptation="learned", random_state=0).fit(tasks)
    assert np.isfinite(model.meta_loss_)
    assert model.meta_loss_ < 2.5  # that of one level for all is about 3.5


def test_theta_is_sought_from_the_fixed_effects():
    """That is nearer than zero, whatever the loss; the picture of the way starts there too."""
    X, z, rng = make_rows(60, 12)
    tasks = list(zip(X, rng.poisson(np.exp(0.5 * z)).astype(float), strict=True))
    model = MAMLRegressor(loss="poisson", random_state=0).fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    found, theta = model.learned_.fixed_effects, np.append(model.coef_, model.intercept_)
    np.testing.assert_array_equal(start_of(objective, model.learned_), found)
    assert model.meta_losses_[0] == pytest.approx(objective.value(found), rel=1e-12)
    lost = model.meta_losses_[0] - model.meta_loss_
    assert 0 < lost < 0.1 * (objective.value(objective.origin()) - model.meta_loss_)
    elsewhere = GaussNewton().minimize(objective, objective.origin()).theta
    np.testing.assert_allclose(theta, elsewhere, atol=1e-5)
    drawn = ConvergenceDisplay.from_estimator(model, tasks).values
    np.testing.assert_allclose(drawn, model.meta_losses_, rtol=1e-10)


def test_fixed_effects_from_which_predictions_overflow_are_no_start(monkeypatch):
    X, z, rng = make_rows(20, 8)
    tasks = list(zip(X, rng.poisson(np.exp(0.5 * z)).astype(float), strict=True))
    model = MAMLRegressor(loss="poisson", random_state=0, certificate=None).fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    far = replace(model.learned_, fixed_effects=np.full(3, 1e4))
    np.testing.assert_array_equal(start_of(objective, far), objective.origin())
    np.testing.assert_array_equal(start_of(objective, None), objective.origin())

    def singular(*_):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(type(objective), "value_and_gradient", singular)
    np.testing.assert_array_equal(start_of(objective, far), objective.origin())


def test_the_covariance_is_in_units_of_the_first_targets_noise():
    X, z, rng = make_rows(60, 12)
    y = np.stack([z + 0.5 * rng.normal(size=z.shape), z + 2.0 * rng.normal(size=z.shape)], axis=-1)
    model = MAMLRegressor(adaptation=Proximal(1.0, "full"), loss="pseudo_huber", random_state=0)
    found = model.fit(list(zip(X, y, strict=True)))
    noise = found.learned_.residual_variance
    assert noise[1] > 4 * noise[0]
    covariance = found.adaptation_.metric.covariance * noise[0]
    np.testing.assert_allclose(found.learned_.covariance, covariance, rtol=1e-12)
