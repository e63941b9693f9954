"""The smallest parts that a user could write: a loss, an adaptation rule and a solver."""

import numpy as np

from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.losses import Loss
from sklearn_maml.solvers import Solver, SolverResult


class HalfSquaredError(Loss):
    """``(z - y)^2 / 2``."""

    constant_hessian = True
    hessian_bound = 1.0

    def value(self, y, z):
        return 0.5 * (z - y) ** 2

    def gradient(self, y, z):
        return z - y

    def hessian(self, y, z):
        return np.ones(np.broadcast_shapes(np.shape(y), np.shape(z)))


class Shift(AdaptationRule):
    """Moves the last parameter (the intercept) by the mean residual of the support rows."""

    affine = True  # in theta, where the loss is squared: so the fit is exact and certified

    def adapt(self, theta, risk):
        residual = risk.targets - risk.predict(theta)
        shift = (risk.weights * residual).sum(axis=-1)
        theta_i = np.repeat(theta, len(shift), axis=-2) if shift.ndim else theta.copy()
        theta_i[..., -1] += shift
        mean_row = (risk.weights[..., None, :] @ risk.features)[..., 0, :]

        def pullback(V):
            return V - V[..., -1:] * mean_row[..., None, :]

        return theta_i, pullback


class SteepestDescent(Solver):
    """Exact line searches along the gradient; stops after `n_iter` of them."""

    def __init__(self, n_iter=200):
        self.n_iter = n_iter

    def minimize(self, objective, theta):
        values = []
        for _ in range(self.n_iter):
            value, gradient = objective.value_and_gradient(theta)
            _, ahead = objective.value_and_gradient(theta - gradient)
            bend = gradient.ravel() @ (gradient - ahead).ravel()
            if not bend > 0:
                break
            theta = theta - gradient * np.square(gradient).sum() / bend
            values.append(value)
        return SolverResult(theta, len(values), True, tuple(values))
