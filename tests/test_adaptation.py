"""Adaptation rules against the steps taken one by one, and against differences."""

from types import SimpleNamespace

import numpy as np
import pytest
from objectives import targets_for
from reference import gradient_steps
from sklearn.base import clone

from sklearn_maml._objective.risk import Risk
from sklearn_maml.adaptation import AdaptationRule, GradientSteps, Standardization
from sklearn_maml.adaptation.step_geometry import Geometry, StepMetric
from sklearn_maml.adaptation.structure import chosen_structure
from sklearn_maml.losses import LOSSES, SquaredError

STEPS = [0, 1, 2, 5, 50]
SHAPES = [(3, 7), (7, 3), (4, 4), (1, 5), (6, 1)]


def stacked_risk(m, d, n_tasks=4, loss=None, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, size=(n_tasks, m))
    loss = SquaredError() if loss is None else loss
    return Risk(
        loss,
        rng.normal(size=(n_tasks, m, d)),
        targets_for(loss, rng.normal(size=(n_tasks, m))),
        weights / weights.sum(axis=1, keepdims=True),
    )


def unweighted(risk, i):
    """One task's rows, scaled so that their plain mean is the risk's weighted one."""
    root = np.sqrt(risk.weights[i] * risk.weights.shape[1])
    return risk.features[i] * root[:, None], risk.targets[i] * root


def steps_of(rule, risk):
    """Each task's step length, from how far one step moves it along its gradient."""
    coordinates = rule.coordinates
    theta = np.zeros(risk.features.shape[-1])
    once = clone(rule).set_params(n_steps=1)
    moved = theta - once.adapt(theta, risk)[0]
    gradient = risk.gradient(theta)
    if coordinates is not None:
        gradient = coordinates.lift(coordinates.rows(gradient))
    return (moved * gradient).sum(axis=-1) / np.square(gradient).sum(axis=-1)


@pytest.mark.parametrize("m", [3, 5, 8])
@pytest.mark.parametrize("coordinates", [None, Standardization(np.zeros(5), np.arange(1, 6.0))])
def test_the_gram_matrix_is_the_smaller_one_and_keeps_the_eigenvalues(m, coordinates):
    risk = stacked_risk(m, 5)
    geometry = Geometry(risk, StepMetric(coordinates))
    weights = np.random.default_rng(0).uniform(size=(4, m))
    gram, r = geometry.gram(weights), min(m, 5)
    assert gram.shape == (4, r, r)
    hessian = np.einsum("nm,nmd,nme->nde", weights, geometry.rows, geometry.rows)
    top = np.linalg.eigvalsh(hessian)[:, -r:]
    assert np.linalg.eigvalsh(gram) == pytest.approx(top)


@pytest.mark.parametrize("n_steps", STEPS)
@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_steps_and_pullback_are_those_of_the_papers(m, d, n_steps):
    risk, rng = stacked_risk(m, d), np.random.default_rng(1)
    theta, V = rng.normal(size=d), rng.normal(size=(4, 6, d))
    rule = GradientSteps(inner_lr=1e-2, n_steps=n_steps)
    theta_i, pullback = rule.adapt(theta, risk)
    for i in range(4):
        expected, J = gradient_steps(theta, *unweighted(risk, i), 1e-2, n_steps)
        np.testing.assert_allclose(theta_i[i], expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(pullback(V)[i], V[i] @ J, rtol=1e-12, atol=1e-13)
        # A single row takes the other road through the pullback.
        np.testing.assert_allclose(pullback(V[:, :1])[i], V[i, :1] @ J, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n_steps", STEPS)
@pytest.mark.parametrize(("m", "d"), SHAPES)
def test_standardised_steps_are_preconditioned_steps(m, d, n_steps):
    risk, rng = stacked_risk(m, d), np.random.default_rng(1)
    risk.features[..., -1] = 1.0
    mean = np.append(rng.normal(size=d - 1), 0.0)
    scale = rng.uniform(0.5, 2, size=d)
    coordinates = Standardization(mean, scale)
    L = coordinates.rows(np.eye(d))
    assert np.allclose(coordinates.lift(np.eye(d)), L.T, atol=1e-14)
    theta, V = rng.normal(size=d), rng.normal(size=(4, 6, d))
    rule = GradientSteps(0.3, n_steps, relative=True, coordinates=coordinates)
    steps = steps_of(rule, risk)
    theta_i, pullback = rule.adapt(theta, risk)
    for i in range(4):
        Phi, y = unweighted(risk, i)
        H = 2 * L.T @ Phi.T @ Phi @ L / m
        step = steps[i]
        assert 0.3 / 1.07 < step * np.linalg.eigvalsh(H)[-1] < 0.3
        expected, J = gradient_steps(theta, Phi, y, step, n_steps, metric=L @ L.T)
        np.testing.assert_allclose(theta_i[i], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(pullback(V)[i], V[i] @ J, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_steps", STEPS)
@pytest.mark.parametrize("coordinates", [None, Standardization(np.zeros(4), np.arange(1, 5.0))])
@pytest.mark.parametrize("loss", LOSSES)
def test_pullback_is_the_derivative_of_adapt(loss, coordinates, n_steps):
    risk, rng = stacked_risk(3, 4, loss=LOSSES[loss]()), np.random.default_rng(1)
    theta, V, h = rng.normal(size=4), rng.normal(size=(4, 2, 4)), 1e-5
    rule = GradientSteps(0.05, n_steps, coordinates=coordinates)
    _, pullback = rule.adapt(theta, risk)
    for direction in np.eye(4):
        up, down = (rule.adapt(theta + s * h * direction, risk)[0] for s in (1, -1))
        slope = np.einsum("nkd,nd->nk", V, (up - down) / (2 * h))
        np.testing.assert_allclose(pullback(V) @ direction, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("coordinates", [None, Standardization(np.zeros(5), np.full(5, 0.2))])
@pytest.mark.parametrize(("inner_lr", "relative"), [(0.03, False), (1e6, False), (7.0, True)])
def test_capped_steps_never_overshoot_in_any_direction(inner_lr, relative, coordinates):
    risk = stacked_risk(8, 5, n_tasks=200)
    rule = GradientSteps(inner_lr, relative=relative, coordinates=coordinates)
    F = risk.features if coordinates is None else coordinates.rows(risk.features)
    largest = np.linalg.eigvalsh(2 * np.einsum("nm,nmd,nme->nde", risk.weights, F, F))[:, -1]
    steps = steps_of(rule, risk)
    assert (steps * largest <= 1 + 1e-12).all()
    # A capped step stays within 6 percent of the longest one that is allowed.
    assert (steps * largest)[rule.bind(risk).relative_step > 1].min(initial=1) > 0.94


def test_a_step_below_the_cap_is_taken_as_it_is():
    risk = stacked_risk(8, 5)
    largest = np.linalg.eigvalsh(
        2 * np.einsum("nm,nmd,nme->nde", risk.weights, risk.features, risk.features)
    )[:, -1]
    inner_lr = 0.97 / largest.max()
    assert steps_of(GradientSteps(inner_lr), risk) == pytest.approx(np.full(4, inner_lr), rel=1e-15)


def test_uncapped_steps_are_exactly_inner_lr():
    assert steps_of(GradientSteps(1e3, cap=False), stacked_risk(8, 5)) == pytest.approx(1e3)
    relative = GradientSteps(5.0, cap=False, relative=True)
    capped = GradientSteps(1.0, cap=False, relative=True)
    risk = stacked_risk(8, 5)
    assert steps_of(relative, risk) == pytest.approx(5 * steps_of(capped, risk), rel=1e-15)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_a_task_without_support_rows_keeps_the_meta_parameters(n_steps, relative):
    risk = stacked_risk(3, 4)
    risk.weights[1] = 0.0
    theta = np.arange(4.0)
    theta_i, pullback = GradientSteps(0.1, n_steps, relative=relative).adapt(theta, risk)
    assert (theta_i[1] == theta).all()
    assert (pullback(np.eye(4)[None])[1] == np.eye(4)).all()


def test_padding_changes_nothing():
    risk = stacked_risk(3, 4)
    padded = Risk(
        risk.loss,
        np.concatenate([risk.features, np.full((4, 2, 4), 1e6)], axis=1),
        np.concatenate([risk.targets, np.full((4, 2), -1e6)], axis=1),
        np.concatenate([risk.weights, np.zeros((4, 2))], axis=1),
    )
    for n_steps in (1, 5):
        rule = GradientSteps(0.1, n_steps)
        expected = rule.adapt(np.ones(4), risk)[0]
        np.testing.assert_allclose(rule.adapt(np.ones(4), padded)[0], expected, rtol=1e-12)


def test_several_targets_adapt_each_by_itself():
    risk, rng = stacked_risk(3, 4), np.random.default_rng(2)
    targets, theta = rng.normal(size=(5, 4, 3)), rng.normal(size=(5, 4))
    several = Risk(risk.loss, risk.features, targets, risk.weights)
    rule = GradientSteps(0.1, 3)
    together = rule.adapt(theta[:, None, :], several)[0]
    for k in range(5):
        one = Risk(risk.loss, risk.features, targets[k], risk.weights)
        np.testing.assert_allclose(together[k], rule.adapt(theta[k], one)[0], rtol=1e-13)


def test_standardization_of_a_constant_column_leaves_its_scale_alone():
    at = Standardization.from_moments(
        np.array([3.0, 2000.0, 1.0]), np.array([2.0, 1e-10, 0.0]), True, 4.0
    )
    assert at.mean.tolist() == [3.0, 2000.0, 0.0]
    assert at.scale.tolist() == [2.0, 1.0, 0.5]
    bare = Standardization.from_moments(np.array([3.0, 0.0]), np.array([4.0, 0.0]), False, 4.0)
    assert bare.mean.tolist() == [0.0, 0.0]
    assert bare.scale.tolist() == [5.0, 1.0]


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"inner_lr": 0}, ValueError),
        ({"inner_lr": -1.0}, ValueError),
        ({"inner_lr": np.nan}, ValueError),
        ({"inner_lr": np.inf}, ValueError),
        ({"inner_lr": True}, TypeError),
        ({"inner_lr": "0.1"}, TypeError),
        ({"n_steps": -1}, ValueError),
        ({"n_steps": 1.0}, TypeError),
        ({"n_steps": True}, TypeError),
        ({"cap": 0.5}, TypeError),
        ({"relative": None}, TypeError),
    ],
)
def test_bad_hyperparameters_are_named(parameters, error):
    (name,) = parameters
    with pytest.raises(error, match=rf"^{name} must be"):
        GradientSteps(**parameters).validate()


@pytest.mark.parametrize("relative", [False, True])
def test_without_a_step_none_is_too_long(relative):
    rule = GradientSteps(1e6, n_steps=0, relative=relative)
    assert (rule.bind(stacked_risk(3, 4)).relative_step == 0).all()


def test_a_subclass_that_adapts_otherwise_takes_no_shorter_way_of_its_base():
    class Same(GradientSteps):
        """Adapts as its base does."""

    class Other(GradientSteps):
        def adapt(self, theta, risk):
            return super().adapt(2 * theta, risk)

    class Told(Other):
        of_moments = True

        def adapt(self, theta, risk):
            return super().adapt(theta, risk)

    assert Same.of_moments
    assert Same.bind is GradientSteps.bind
    assert not Other.of_moments
    assert Other.bind is AdaptationRule.bind
    assert Told.of_moments


@pytest.mark.parametrize(
    ("n_effects", "square", "coarse", "n_tasks", "structure", "criterion"),
    [
        (15, True, False, 2, "full", "reml"),
        (16, True, False, 2, "auto", "reml"),
        (100, True, False, 2, "auto", "reml"),
        (100, True, True, 2, "intercept", "reml"),
        (101, True, False, 2, "intercept", "query"),
        (3, False, False, 12, "full", "reml"),
        (3, False, False, 11, "diagonal", "reml"),
        (16, False, True, 9999, "diagonal", "reml"),
        (101, False, False, 9999, "intercept", "query"),
    ],
)
def test_what_can_be_learned_of_how_tasks_differ_depends_on_how_many_effects_do(
    n_effects, square, coarse, n_tasks, structure, criterion
):
    """A full covariance of up to 15 effects, of other losses if there are two tasks an entry."""
    loss = SimpleNamespace(constant_hessian=square)
    problem = SimpleNamespace(loss=loss, n_tasks=n_tasks, coarse=coarse)
    auto = SimpleNamespace(metric="auto", criterion="auto")
    assert chosen_structure(auto, problem, n_effects)[:2] == (structure, criterion)
