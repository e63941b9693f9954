"""Inner loops: seen from the rows they are what adapting says, and what is kept stays true."""

import pickle

import numpy as np
import pytest
import sklearn
from families import make_tasks
from numpy.testing import assert_allclose
from objectives import objective_of

from sklearn_maml._objective.gauss_newton_hessian import gauss_newton_hessian
from sklearn_maml.adaptation import AdaptationRule, GradientSteps, Standardization
from sklearn_maml.losses import LogLoss, PseudoHuber, SquaredError

RULE = GradientSteps(0.5, 2, relative=True)
MEAN, DEVIATION = np.append(np.linspace(-1, 1, 8), 1.0), np.append(np.linspace(1, 2, 8), 0.0)
COORDINATES = Standardization.from_moments(MEAN, DEVIATION, True, 4.0)
RULES = {
    "relative": RULE,
    "plain": GradientSteps(0.05, 1, cap=False),
    "lengths": GradientSteps(np.linspace(0.01, 0.1, 9), 3),
    "standardised": GradientSteps(0.5, 3, relative=True, coordinates=COORDINATES),
    "many steps": GradientSteps(0.3, 12, relative=True),
}


class ByParameters(AdaptationRule):
    """The same rule, as a user would write it: by nothing but `adapt`."""

    def __init__(self, rule):
        self.rule = rule

    def adapt(self, theta, risk):
        return self.rule.adapt(theta, risk)


@pytest.mark.parametrize("n_targets", [0, 2])
@pytest.mark.parametrize("episodes", [{}, {"support": 3, "split": "first"}], ids=["all", "3 shots"])
@pytest.mark.parametrize("loss", [SquaredError(), PseudoHuber(), LogLoss()], ids=repr)
@pytest.mark.parametrize("rule", RULES)
def test_steps_seen_from_the_rows_are_the_steps(rule, loss, episodes, n_targets):
    tasks = [(X, np.tanh(y) ** 2) for X, y in make_tasks(6, 7, n_features=8, seed=3)]
    if n_targets:
        tasks = [(X, np.column_stack([y, 1 - y])) for X, y in tasks]
    objective = objective_of(tasks, loss, RULES[rule], 0.1, episodes=episodes)
    plain = objective_of(tasks, loss, ByParameters(RULES[rule]), 0.1, episodes=episodes)
    theta = 0.3 * np.random.default_rng(0).normal(size=(n_targets, 9) if n_targets else 9)
    followed, along = objective.linearize(0, theta), plain.linearize(0, theta)
    for ours, expected in zip(
        (*objective.value_and_gradient(theta), gauss_newton_hessian(objective, theta)),
        (*plain.value_and_gradient(theta), gauss_newton_hessian(plain, theta)),
        strict=True,
    ):
        assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    v = np.random.default_rng(1).normal(size=theta.shape)
    for name, *given in (("theta_i",), ("design",), ("task_gradients",), ("along", v)):
        ours, expected = (getattr(at, name) for at in (followed, along))
        if given:
            ours, expected = ours(*given), expected(*given)
        assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    dot = gauss_newton_hessian(plain, theta) @ v[..., None]
    assert_allclose(objective.hessian_dot(theta, v), dot[..., 0], rtol=1e-10, atol=1e-12)


def test_what_a_block_needs_is_computed_once_and_not_sent_to_workers():
    objective = objective_of(make_tasks(4, 3, n_features=8, seed=0), PseudoHuber(), RULE)
    loops = [objective.linearize(0, np.full(9, x)).loop for x in (0.0, 1.0)]
    assert loops[0] is loops[1]
    assert len(pickle.dumps(objective)) == len(pickle.dumps(pickle.loads(pickle.dumps(objective))))
    with sklearn.config_context(working_memory=0):
        objective = objective_of(make_tasks(4, 3, n_features=8, seed=0), PseudoHuber(), RULE)
    loops = [objective.linearize(0, np.full(9, x)).loop for x in (0.0, 1.0)]
    assert loops[0] is not loops[1]


@pytest.mark.parametrize("working_memory", [0, 1024])
@pytest.mark.parametrize("loss", [SquaredError(), PseudoHuber()], ids=repr)
def test_a_rule_that_changes_later_changes_no_objective(loss, working_memory):
    """Neither where what was computed of the rule is kept, nor where the rule is asked again."""
    with sklearn.config_context(working_memory=working_memory):
        check_that_no_value_is_stale(loss)


def check_that_no_value_is_stale(loss):
    rule, tasks, theta = GradientSteps(0.01, 2), make_tasks(4, 3, n_features=8), np.ones(9)
    objective = objective_of(tasks, loss, rule)
    value = objective.value(theta)
    rule.set_params(inner_lr=0.5, n_steps=1)
    assert objective.value(2 * theta) == objective_of(tasks, loss, GradientSteps(0.01, 2)).value(
        2 * theta
    )
    assert objective.value(theta) == value
    other = objective.vary(rule=rule)
    assert other.value(theta) == objective_of(tasks, loss, rule).value(theta)
    assert other.value(theta) != value


@pytest.mark.parametrize("loss", [SquaredError(), PseudoHuber()], ids=repr)
def test_what_was_asked_before_changes_no_bit_of_the_gradient(loss):
    tasks, theta = make_tasks(4, 3, n_features=8), np.ones(9)
    first, second = (objective_of(tasks, loss, GradientSteps(0.01, 2)) for _ in range(2))
    asked = first.linearize(0, theta)
    assert asked.design.shape == (4, 3, 9)
    np.testing.assert_array_equal(asked.gradient, second.linearize(0, theta).gradient)


def test_a_subclass_that_adapts_in_another_way_is_fitted_in_that_way():
    class Half(GradientSteps):
        def adapt(self, theta, risk):
            theta_i, pullback = super().adapt(theta, risk)
            return 0.5 * (theta + theta_i), lambda V: 0.5 * (V + pullback(V))

    tasks, theta = make_tasks(4, 3, n_features=8), np.ones(9)
    whole = objective_of(tasks, SquaredError(), GradientSteps(0.02))
    half = objective_of(tasks, SquaredError(), Half(0.04))
    assert half.value(theta) == pytest.approx(whole.value(theta), rel=1e-12)


def test_a_theta_that_changes_in_place_is_another_theta():
    objective = objective_of(make_tasks(4, 3), SquaredError(), RULE)
    theta = np.zeros(6)
    start = objective.linearize(0, theta).value
    theta += 1.0
    assert objective.linearize(0, theta).value != start
