"""The checks of foreign parts: all of the package's own pass, and each broken promise is named."""

import numpy as np
import pytest
from foreign_parts import PreconditionedStep, SoftplusHinge, TrustRegion
from registered import examples
from small_parts import HalfSquaredError, Shift

from sklearn_maml.adaptation import RULES, GradientSteps
from sklearn_maml.adaptation.rule import SlopeForm
from sklearn_maml.checks import check_adaptation_rule, check_loss, check_solver
from sklearn_maml.losses import LOSSES, LogCosh, LogLoss, Poisson, PseudoHuber, SquaredError
from sklearn_maml.solvers import SOLVERS, GaussNewton, SolverResult


@pytest.mark.parametrize("loss", [*examples(LOSSES), *SoftplusHinge.examples(), HalfSquaredError()])
def test_losses_pass(loss):
    check_loss(loss)


@pytest.mark.parametrize("rule", [*examples(RULES), *PreconditionedStep.examples(), Shift()])
def test_rules_pass(rule):
    check_adaptation_rule(rule)


@pytest.mark.parametrize("solver", [*examples(SOLVERS), *TrustRegion.examples()])
def test_solvers_pass(solver):
    check_solver(solver)


def broken(parent, **changed):
    """An instance of a subclass with some attributes replaced."""
    return type("Broken" + parent.__name__, (parent,), changed)()


BROKEN_LOSSES = {
    "gradient differs from differences": broken(
        LogCosh, gradient=lambda self, y, z: 1.1 * np.tanh(z - y)
    ),
    "hessian differs from differences": broken(
        LogCosh, hessian=lambda self, y, z: 1.0 + 0 * (z - y)
    ),
    "has the shape": broken(LogCosh, value=lambda self, y, z: np.float64(1.0)),
    "changes its arguments": broken(LogCosh, value=lambda self, y, z: np.add(y, 1.0, out=y) + z),
    "is not pointwise": broken(LogCosh, value=lambda self, y, z: z - y + (y.shape[1] > 1)),
    "not convex": broken(
        LogCosh,
        value=lambda self, y, z: np.sin(z - y),
        gradient=lambda self, y, z: np.cos(z - y),
        hessian=lambda self, y, z: -np.sin(z - y),
        third=lambda self, y, z: -np.cos(z - y),
    ),
    "above gradient_bound": broken(LogCosh, gradient_bound=0.5),
    "is not hessian_bound everywhere": broken(LogCosh, constant_hessian=True),
    "the slope there is": broken(Poisson, least_at_target=True),
    "moving both matters": broken(LogLoss, of_residual=True),
    "third_ratios do not bound": broken(LogLoss, third_ratios=(0.1, 0.1)),
    "gradient leaves slope_range": broken(
        LogCosh, slope_range=lambda self, y: (-0.1 + 0 * y, y + 9)
    ),
    "is not even about slope_turn": broken(LogCosh, slope_turn=lambda self, y: y + 1.0),
    "dual is above the infimum": broken(LogCosh, dual=lambda self, y, slope: 10.0 + 0 * slope),
    "allows neither": broken(LogCosh, check_targets=lambda self, y: int("no")),
}
BROKEN_LOSSES["hessian rises away"] = broken(
    SquaredError,
    slope_turn=lambda self, y: y,
    hessian=lambda self, y, z: 2.0 + 1e-9 * np.square(z - y),
    hessian_bound=3.0,
    constant_hessian=False,
)


@pytest.mark.parametrize("text", BROKEN_LOSSES)
def test_what_a_loss_breaks_is_named(text):
    with pytest.raises(AssertionError, match=text):
        check_loss(BROKEN_LOSSES[text])


def test_targets_may_be_given():
    check_loss(PseudoHuber(), targets=[3.0, 4.0])
    with pytest.raises(ValueError, match="needs targets"):
        check_loss(LogLoss(), targets=[3.0])


def adapting(change):
    """A step whose (theta, risk, theta_i, pullback) are changed."""

    def adapt(self, theta, risk):
        return change(theta, risk, *GradientSteps.adapt(self, theta, risk))

    return broken(GradientSteps, adapt=adapt)


def meddle(theta, risk, theta_i, pullback):
    theta[...] = 0.0
    return theta_i, pullback


def spoil_rows(theta, risk, theta_i, pullback):
    risk.targets[...] = 0.0
    return theta_i, pullback


def mingle(theta, risk, theta_i, pullback):
    return theta_i + risk.targets.mean(), pullback


BROKEN_RULES = {
    "the pullback differs": adapting(lambda t, r, i, p: (i, lambda V: V)),
    "returns the shape": adapting(lambda t, r, i, p: (i[..., :1], p)),
    "theta's own memory": adapting(lambda t, r, i, p: (t + 0 * i if t.shape != i.shape else t, p)),
    "pullback returns the shape": adapting(lambda t, r, i, p: (i, lambda V: V[..., :1])),
    "arguments are changed": adapting(meddle),
    "the support rows are changed": adapting(spoil_rows),
    "depend on their neighbours": adapting(mingle),
    "rows of weight 0": adapting(lambda t, r, i, p: (i + r.features.sum(axis=-2) * 1e-3, p)),
    "does not lead to": broken(
        GradientSteps, slope_form=lambda self, risk: SlopeForm(np.ones(4), np.eye(3))
    ),
}
BROKEN_RULES["affine is True, but"] = broken(
    GradientSteps,
    adapt=lambda self, t, r: (
        np.sin(t) + 0 * GradientSteps.adapt(self, t, r)[0],
        lambda V: V * np.cos(t)[..., None, :],
    ),
)


class Fickle(GradientSteps):
    calls = 0

    def adapt(self, theta, risk):
        Fickle.calls += 1
        theta_i, pullback = super().adapt(theta, risk)
        return theta_i + Fickle.calls, pullback


class Renamed(GradientSteps):
    def __repr__(self):
        return f"Renamed({id(self)})"


BROKEN_RULES["something else the second time"] = Fickle()
BROKEN_RULES["is another when cloned"] = Renamed()


@pytest.mark.parametrize("text", BROKEN_RULES)
def test_what_a_rule_breaks_is_named(text):
    with pytest.raises(AssertionError, match=text):
        check_adaptation_rule(BROKEN_RULES[text])


def solving(change):
    def minimize(self, objective, theta, callback=None):
        return change(theta, GaussNewton.minimize(self, objective, theta))

    return broken(GaussNewton, minimize=minimize)


def with_theta(result, theta):
    return SolverResult(theta, result.n_iter, True, result.values)


BROKEN_SOLVERS = {
    "changes the theta": solving(lambda t, r: (t.__setitem__(..., 1.0), r)[1]),
    "theta has the shape": solving(lambda t, r: with_theta(r, r.theta[..., :1])),
    "does not begin with": solving(lambda t, r: SolverResult(r.theta, 1, True, (0.0,))),
    "it stops at": solving(lambda t, r: with_theta(r, t + 0.1)),
    "ends elsewhere": solving(
        lambda t, r: with_theta(r, r.theta + 1e-9 * np.random.default_rng().normal())
    ),
}


@pytest.mark.parametrize("text", BROKEN_SOLVERS)
def test_what_a_solver_breaks_is_named(text):
    with pytest.raises(AssertionError, match=text):
        check_solver(BROKEN_SOLVERS[text])
