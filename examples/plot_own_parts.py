"""
A loss, a rule and a solver of your own
=======================================

The three kinds of parts know nothing of one another, and a part of yours is as good as one of the
package's: the gradient, the fit and the certificate follow from what its class says. Here is one of
each, as short as may be. Do they work together?
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

from sklearn_maml import MAMLRegressor
from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.checks import check_adaptation_rule, check_loss, check_solver
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.losses import Loss
from sklearn_maml.solvers import Solver, SolverResult

# %%
# A loss gives its value and two derivatives in the prediction z. "Fair" grows like ``|e|`` for
# large errors, more slowly than the pseudo-Huber loss does. Bounds on its derivatives are for the
# certificate and the cap of gradient steps.


class Fair(Loss):
    """``|e| - log(1 + |e|)`` with e = z - y."""

    gradient_bound = hessian_bound = 1.0

    def value(self, y, z):
        """The loss."""
        return np.abs(z - y) - np.log1p(np.abs(z - y))

    def gradient(self, y, z):
        """Its derivative in z."""
        return (z - y) / (1.0 + np.abs(z - y))

    def hessian(self, y, z):
        """Its second derivative in z."""
        return 1.0 / (1.0 + np.abs(z - y)) ** 2


# %%
# A rule returns the adapted parameters and a pullback, which multiplies rows by their derivative in
# theta. This one takes a step along the intercept alone, by hand.


class LevelStep(AdaptationRule):
    """One gradient step that moves nothing but the last parameter."""

    def __init__(self, length=1.5):
        self.length = length

    def adapt(self, theta, risk):
        """``theta - length * (0, ..., 0, 1) * gradient``."""
        only_last = np.eye(theta.shape[-1])[-1]

        def pullback(V):
            return V - self.length * risk.hessian_dot(theta, V * only_last)

        return theta - self.length * risk.gradient(theta) * only_last, pullback


# %%
# A solver is handed an objective with ``value_and_gradient``; here scipy's conjugate gradients do
# the rest.


class ConjugateGradients(Solver):
    """scipy's nonlinear conjugate gradients."""

    def minimize(self, objective, theta, callback=None):
        """From theta; see `Solver`."""
        values = [objective.value(theta)]

        def fun(x):
            value, gradient = objective.value_and_gradient(x.reshape(theta.shape))
            return value, gradient.ravel()

        def note(x):
            values.append(objective.value(x.reshape(theta.shape)))
            if callback is not None:
                callback(x.reshape(theta.shape).copy(), values[-1])

        found = minimize(fun, theta.ravel(), jac=True, method="CG", callback=note)
        return SolverResult(
            found.x.reshape(theta.shape), len(values) - 1, found.success, tuple(values)
        )


# %%
# The package tries each by itself: derivatives against differences, bounds, shapes. Silence is
# good.

check_loss(Fair())
check_adaptation_rule(LevelStep())
check_solver(ConjugateGradients())

# %%
# And all of them together, on tasks whose levels differ.

rng = np.random.default_rng(0)
tasks = [
    (X, y + 3 * rng.normal() + 20 * (rng.random(len(y)) < 0.05))
    for X, y in make_linear_tasks(80, 30, 3, task_spread=0.1, noise=0.5, random_state=0)
]
model = MAMLRegressor(
    loss=Fair(), adaptation=LevelStep(), solver=ConjugateGradients(), support=10, random_state=0
).fit(tasks[:60])
print(model.gap_certificate_)

# %%
# Left: the loss beside the squared one. Middle: the solver's meta-loss. Right: new tasks before and
# after the level step, by the deviation of their rows.

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
errors = np.linspace(-4, 4, 200)
axes[0].plot(errors, Fair().value(0.0, errors), label="Fair")
axes[0].plot(errors, errors**2 / 2, "--", label="half the square")
axes[0].set(xlabel="prediction - target", ylabel="loss", ylim=(0, 4))
axes[0].legend(frameon=False)
axes[1].plot(model.meta_losses_, "o-")
axes[1].axhline(model.gap_certificate_.lower_bound, ls=":", color="0.5", label="lower bound")
axes[1].set(xlabel="iteration", ylabel="meta-loss", ylim=(0, None))
axes[1].legend(frameon=False)
before = [np.median(y[10:] - model.predict(X[10:])) for X, y in tasks[60:]]
after = [np.median(y[10:] - model.adapt(X[:10], y[:10]).predict(X[10:])) for X, y in tasks[60:]]
axes[2].plot(before, after, "o")
axes[2].axline((0, 0), slope=1, ls="--", color="0.6", label="had it not moved")
axes[2].set(xlabel="median error before adapting", ylabel="after ten rows")
axes[2].legend(frameon=False)
plt.show()

# %%
# How to read it: on the right, dots on the dashed line have gained nothing, dots at zero all. One
# step of a length that nobody tuned goes part of the way. The certificate's bound, in the middle,
# is wide: nothing is known of a foreign rule but its derivative, so that only the query minima
# apply. A rule that tells its `slope_form` gets tight ones.
