"""Descent with a Gauss-Newton model that secants keep up to date."""

import numpy as np

from sklearn_maml._gauss_newton import SecantModel, damped_step, gauss_newton_hessian

__all__ = ["Descent"]

# The damping of a model that is trusted: it only makes up for the rounding of a singular Hessian.
LEAST_DAMPING = 1e-9
# The first damping of one that misled, and the last.
FIRST_DAMPING, LAST_DAMPING = 1e-3, 1e12


class Descent:
    """Steps that lower an objective, and what they have learned of it.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        Where it starts.
    model : SecantModel, default=None
        What is known of the objective near there; None evaluates the Hessian.

    Attributes
    ----------
    values : list of float
        The meta-loss at the start and after each step.
    """

    def __init__(self, objective, theta, model=None):
        self.objective, self.theta, self.model = objective, theta, model
        self.damping, self.rejected = LEAST_DAMPING, 0  # steps from theta that were rejected
        self.fresh = False  # whether the model's Hessian is that of theta
        if model is None:
            self._renew(gauss_newton_hessian(objective, theta))
        self.value, self.gradient = objective.value_and_gradient(theta)
        self.values = [self.value]
        # A Hessian costs about so many gradients and gains two digits; secants must gain as much.
        self.patience = 0.01 ** (1.0 / (2.0 + theta.shape[-1] / 25.0))

    def run(self, wanted, max_iter, surely=True):
        """Step until the estimated gap is at most `wanted`, or nothing helps; the estimate.

        Parameters
        ----------
        wanted : float
        max_iter : int
        surely : bool, default=True
            Whether the estimate that ends it must be that of a Hessian from there.
        """
        before = np.inf
        while True:
            if self.model is None:
                self._renew(gauss_newton_hessian(self.objective, self.theta))
            step = self.model.newton_step(self.gradient)
            promised = 0.5 * (self.gradient * step).sum()
            resolved = promised <= max(wanted, 1e-15 * abs(self.value))
            if resolved and surely and not self.fresh:
                self.model = None
                continue
            if resolved or len(self.values) > max_iter or self.damping > LAST_DAMPING:
                return self._gap()
            slow = self.damping > LEAST_DAMPING or promised > self.patience * before
            self._try(step, promised, slow)
            before = promised

    def _renew(self, hessian):
        self.model, self.fresh = SecantModel.of(hessian, self.damping), True

    def _gap(self):
        """``g' H^-1 g / 2``, free of damping and secants."""
        alone = self.model.damping == LEAST_DAMPING and not self.model.pairs
        step = (
            self.model.newton_step(self.gradient)
            if alone
            else damped_step(self.model.hessian, self.gradient, LEAST_DAMPING)
        )
        return 0.5 * (self.gradient * step).sum()

    def _try(self, step, promised, renew):
        """Take the step if it lowers the objective, and learn from it in any case."""
        there = self.theta - step
        hessian = gauss_newton_hessian(self.objective, there) if renew else None
        value, gradient = self.objective.value_and_gradient(there)
        informed = self.model.with_secant(-step, gradient - self.gradient)
        if not (np.isfinite(value) and self.value - value > 1e-4 * promised):
            self._turn_back(informed if value - self.value < 10.0 * promised else self.model)
            return
        gain = (self.value - value) / promised
        self.theta, self.value, self.gradient = there, value, gradient
        self.values.append(value)
        self.model, self.fresh, self.rejected = informed, False, 0
        if gain > 0.7:
            self.damping = self.damping / 8 if self.damping > FIRST_DAMPING else LEAST_DAMPING
        if renew:
            self._renew(hessian)

    def _turn_back(self, informed):
        """Before the next step from the same place: learn, else doubt the model, else dampen it."""
        self.rejected += 1
        if self.rejected == 1 and informed is not self.model:
            self.model = informed
        elif not self.fresh:
            self.model = None
        else:
            self.damping = max(6.0 * self.damping, FIRST_DAMPING)
            self._renew(self.model.hessian)
