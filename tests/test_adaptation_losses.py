"""Gradient steps with every loss: damped steps, one length a feature, first order."""

from dataclasses import replace

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of, stacked_risk
from registered import examples

from sklearn_maml import Proximal
from sklearn_maml._linalg import curvature_norm
from sklearn_maml.adaptation import RULES, GradientSteps, Standardization
from sklearn_maml.losses import LOSSES, LogLoss, Poisson, PseudoHuber, SquaredError, Tweedie

UNITS = Standardization(np.array([0.5, -0.2, 0.1, 0.0]), np.array([1.0, 2.0, 0.5, 0.25]))
SINGULAR = np.diag([1.0, 0.0, 4.0, 0.5])
SINGULAR[0, 2] = SINGULAR[2, 0] = 1.0
each_rule = pytest.mark.parametrize("rule", examples(RULES))


@pytest.mark.parametrize("m", [2, 6])
@each_rule
@pytest.mark.parametrize("loss", LOSSES)
def test_pullback_is_the_derivative_of_adapt(loss, rule, m):
    risk, rng = stacked_risk(LOSSES[loss](), m, d=3), np.random.default_rng(1)
    theta, V = rng.normal(size=3), rng.normal(size=(5, 3, 3))
    rule = rule.exact()
    pulled = rule.adapt(theta, risk)[1](V)
    assert pulled.shape == V.shape
    h = 1e-3
    for direction in np.eye(3):
        at = [rule.adapt(theta + k * h * direction, risk)[0] for k in (-2, -1, 1, 2)]
        slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        expected = np.einsum("nkd,nd->nk", V, slope)
        scale = 1 + np.abs(expected).max()
        np.testing.assert_allclose(pulled @ direction / scale, expected / scale, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@each_rule
def test_several_targets_adapt_each_by_itself(loss, rule):
    risk = stacked_risk(LOSSES[loss](), d=3, n_targets=2)
    theta, V = np.random.default_rng(2).normal(size=(2, 3)), np.eye(3)[None].repeat(5, axis=0)
    theta_i, pullback = rule.adapt(theta[:, None, :], risk)
    for k in range(2):
        one = replace(risk, targets=risk.targets[k])
        expected, pull = rule.adapt(theta[k], one)
        np.testing.assert_allclose(theta_i[k], expected, rtol=1e-10, atol=1e-12)
        pulled = np.broadcast_to(pullback(V), (2, 5, 3, 3))[k]
        np.testing.assert_allclose(pulled, pull(V), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("m", [2, 6])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_proximal_step_is_the_minimum_of_its_objective(loss, m):
    """The support risk plus what it costs to leave theta, counted in rows, does not fall."""
    risk, rng = stacked_risk(LOSSES[loss](), m), np.random.default_rng(2)
    rule, theta = Proximal(0.7, SINGULAR + 0.1 * np.eye(4)), rng.normal(size=4)
    theta_i, _ = rule.adapt(theta, risk)
    inverse = np.linalg.inv(rule.metric)
    risk = risk.take(np.arange(5))

    def cost(at):
        away = at - theta
        return risk.n_rows * risk.value(at) + 0.7 * ((away @ inverse) * away).sum(axis=-1)

    for direction in np.vstack([np.eye(4), -np.eye(4)]):
        assert (cost(theta_i) <= cost(theta_i + 1e-4 * direction)).all()


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("coordinates", [None, UNITS])
@pytest.mark.parametrize("loss", LOSSES)
def test_slope_in_the_lengths_is_the_derivative_of_the_meta_loss(loss, coordinates, n_steps):
    loss, lengths = LOSSES[loss](), np.array([0.1, 0.02, 0.05, 0.2])
    damped = not np.isfinite(loss.hessian_bound)

    def at(lengths):
        rule = GradientSteps(lengths, n_steps, cap=damped, coordinates=coordinates)
        episodes = {"support": (1, 3), "n_episodes": 2}
        return objective_of(make_tasks(5, 8, n_features=3), loss, rule, episodes=episodes)

    check_slope(at, lengths, np.diag(lengths), lambda slope, step: slope @ step)


@pytest.mark.parametrize("loss", LOSSES)
def test_slope_in_the_metric_is_the_derivative_of_the_meta_loss(loss):
    def at(covariance):
        rule = Proximal(0.5, covariance)
        episodes = {"support": (1, 3), "n_episodes": 2}
        tasks = make_tasks(5, 8, n_features=3)
        return objective_of(tasks, LOSSES[loss](), rule, episodes=episodes)

    pairs = [np.outer(a, b) + np.outer(b, a) for a in np.eye(4)[:2] for b in np.eye(4)[1:]]
    metric = SINGULAR + 0.1 * np.eye(4)
    check_slope(at, metric, pairs, lambda slope, step: (slope * step).sum())


def check_slope(objective_at, point, steps, product):
    """The rule's slope along each step against central differences of the meta-loss."""
    theta, objective = np.array([0.3, -0.2, 0.5, 0.1]), objective_at(point)
    (slope,) = objective.reduce(lambda part: (objective.rule.slope(theta, part),), theta)
    h = 1e-4
    for step in steps:
        values = [objective_at(point + k * h * step) for k in (-2, -1, 1, 2)]
        low, below, above, high = [value.value_and_gradient(theta)[0] for value in values]
        expected = (low - 8 * below + 8 * above - high) / (12 * h)
        assert product(slope, step) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("loss", [LogLoss(), PseudoHuber(0.5)], ids=repr)
@each_rule
def test_the_slope_form_says_how_a_rule_adapts(rule, loss):
    risk = stacked_risk(loss, d=3)
    form, theta = rule.slope_form(risk), np.array([0.3, -0.2, 0.5])
    turned = np.swapaxes(risk.features, 1, 2) * risk.weights[:, None, :]
    move = form.length[:, None, None] * (form.factor @ form.factor.T @ turned)
    expected, _ = rule.adapt(theta, risk)
    theta_i = np.repeat(theta[None], len(risk.features), axis=0)
    for _ in range(form.n_steps):
        at = expected if form.implicit else theta_i
        slopes = loss.gradient(risk.targets, risk.predict(at))
        theta_i = theta_i - (move @ slopes[..., None])[..., 0]
    np.testing.assert_allclose(theta_i, expected, rtol=1e-9, atol=1e-9)


def test_steps_whose_length_depends_on_theta_have_no_slope_form():
    assert GradientSteps(0.5).slope_form(stacked_risk(Poisson())) is None
    assert GradientSteps(0.5, cap=False).slope_form(stacked_risk(Poisson())) is not None


@pytest.mark.parametrize("loss", [Poisson(), Tweedie(1.5), Tweedie(2.0)], ids=repr)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_damped_steps_never_overshoot_and_stay_finite(loss, size):
    risk = stacked_risk(loss, m=6, n_tasks=50)
    theta = size * np.random.default_rng(3).normal(size=4)
    rule = GradientSteps(1e3, 20)
    loop = rule.bind(risk)
    step, _ = loop.step.damped(loop.geometry, theta)
    H = np.einsum(
        "nm,nmd,nme->nde", risk.curvatures(risk.predict(theta)), risk.features, risk.features
    )
    assert (step * np.linalg.eigvalsh(H)[:, -1] <= 1 + 1e-12).all()
    theta_i, _ = rule.adapt(theta, risk)
    assert (risk.value(theta_i) < risk.value(theta)).all()


def test_a_damped_step_much_shorter_than_the_cap_is_inner_lr():
    risk = stacked_risk(Poisson())
    loop = GradientSteps(1e-6).bind(risk)
    step, shortening = loop.step.damped(loop.geometry, np.zeros(4))
    np.testing.assert_allclose(step, 1e-6, rtol=1e-9)
    assert np.abs(shortening).max() < 1e-9


def test_relative_steps_do_not_depend_on_the_units_of_features():
    risk, scale = stacked_risk(Poisson()), np.array([1.0, 1e3, 1e-4, 1.0])
    other = replace(risk, features=risk.features * scale)
    theta = np.array([0.1, -0.2, 0.3, 0.0])
    one = GradientSteps(0.5, 2, relative=True, coordinates=Standardization(np.zeros(4), scale**0))
    two = GradientSteps(0.5, 2, relative=True, coordinates=Standardization(np.zeros(4), scale))
    np.testing.assert_allclose(
        two.adapt(theta / scale, other)[0] * scale, one.adapt(theta, risk)[0], rtol=1e-9
    )


@pytest.mark.parametrize("loss", [SquaredError(), PseudoHuber(), Poisson()], ids=repr)
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("coordinates", [None, UNITS])
def test_equal_lengths_are_one_length(loss, relative, coordinates):
    risk, theta, V = stacked_risk(loss), np.ones(4), np.eye(4)[None].repeat(5, axis=0)
    settings = {"n_steps": 3, "relative": relative, "coordinates": coordinates}
    one, pull_one = GradientSteps(0.4, **settings).adapt(theta, risk)
    each, pull_each = GradientSteps([0.4] * 4, **settings).adapt(theta, risk)
    np.testing.assert_allclose(each, one, rtol=1e-10)
    np.testing.assert_allclose(pull_each(V), pull_one(V), atol=1e-10)


def test_lengths_are_those_of_meta_sgd_where_nothing_is_capped():
    risk, theta = stacked_risk(PseudoHuber()), np.ones(4)
    lengths = np.array([0.01, 0.02, 0.0, 0.03])
    expected = theta - lengths * risk.gradient(theta)
    np.testing.assert_allclose(GradientSteps(lengths).adapt(theta, risk)[0], expected)


def test_first_order_adapts_alike_and_pulls_back_nothing():
    risk, V = stacked_risk(PseudoHuber()), np.ones((5, 2, 4))
    rule = GradientSteps(0.1, 2, first_order=True)
    theta_i, pullback = rule.adapt(np.zeros(4), risk)
    expected, true_pullback = rule.exact().adapt(np.zeros(4), risk)
    assert (theta_i == expected).all()
    assert (pullback(V) == V).all()
    assert not np.allclose(true_pullback(V), V)
    assert rule.exact().exact().first_order is False


def test_a_task_without_curvature_keeps_its_step():
    risk = stacked_risk(Poisson())
    risk.weights[1] = 0.0
    for rule in (GradientSteps(0.1, 2), GradientSteps(0.1, 2, relative=True)):
        theta_i, pullback = rule.adapt(np.ones(4), risk)
        assert (theta_i[1] == 1).all()
        assert np.isfinite(pullback(np.ones((5, 1, 4)))).all()
    assert GradientSteps(0.1).bind(risk).relative_step[1] == 0


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_curvature_norm_bounds_the_largest_eigenvalue_and_knows_its_derivative(shape):
    rng = np.random.default_rng(4)
    F, w = rng.normal(size=(6, *shape)), rng.uniform(0.1, 2, size=(6, shape[0]))
    norm, shares = curvature_norm(F, w)
    largest = np.linalg.eigvalsh(np.einsum("nm,nmd,nme->nde", w, F, F))[:, -1]
    assert (norm >= largest * (1 - 1e-12)).all()
    assert (norm <= largest * min(shape) ** (1 / 16) * (1 + 1e-12)).all()
    np.testing.assert_allclose(shares.sum(axis=-1), 1)
    for j in range(shape[0]):
        up, down = w.copy(), w.copy()
        up[:, j] *= np.exp(1e-5)
        down[:, j] *= np.exp(-1e-5)
        slope = np.log(curvature_norm(F, up)[0] / curvature_norm(F, down)[0]) / 2e-5
        np.testing.assert_allclose(shares[:, j], slope, atol=1e-8)


@pytest.mark.parametrize(
    ("inner_lr", "error"),
    [
        ([0.1, -0.1], ValueError),
        ([0.0, 0.0], ValueError),
        ([0.1, np.nan], ValueError),
        (np.ones((2, 2)), TypeError),
        (["a", "b"], TypeError),
    ],
)
def test_bad_step_lengths_are_refused(inner_lr, error):
    with pytest.raises(error, match="inner_lr must be"):
        GradientSteps(inner_lr).validate()


def test_as_many_lengths_as_parameters_are_required():
    GradientSteps([0.1, 0.2]).validate()
    with pytest.raises(ValueError, match=r"inner_lr has 2 step lengths but there are 4"):
        GradientSteps([0.1, 0.2]).adapt(np.zeros(4), stacked_risk(PseudoHuber()))
