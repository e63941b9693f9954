"""The smallest parts that a user could write: a loss, an adaptation rule and a solver."""

import numpy as np
from scipy.optimize import minimize

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
        theta_i = theta + np.zeros((*shift.shape, 1))
        theta_i[..., -1] += shift
        mean_row = (risk.weights[..., None, :] @ risk.features)[..., 0, :]

        def pullback(V):
            return V - V[..., -1:] * mean_row[..., None, :]

        return theta_i, pullback


class TrustRegion(Solver):
    """Newton's method in a trust region, by scipy: it asks for products with the Hessian only."""

    def __init__(self, tol=1e-9, max_iter=200):
        self.tol = tol
        self.max_iter = max_iter

    def minimize(self, objective, theta, callback=None):
        values, shape = [], theta.shape

        def value_and_gradient(x):
            value, gradient = objective.value_and_gradient(x.reshape(shape))
            return value, gradient.ravel()

        def hessian_dot(x, v):
            return objective.hessian_dot(x.reshape(shape), v.reshape(shape)).ravel()

        def note(x):
            values.append(objective.value(x.reshape(shape)))
            if callback is not None:
                callback(x.reshape(shape).copy(), values[-1])

        note(theta.ravel())
        found = minimize(
            value_and_gradient,
            theta.ravel(),
            jac=True,
            hessp=hessian_dot,
            method="trust-ncg",
            callback=note,
            options={
                "gtol": self.tol * np.linalg.norm(value_and_gradient(theta.ravel())[1]),
                "maxiter": self.max_iter,
            },
        )
        return SolverResult(found.x.reshape(shape), len(values) - 1, found.success, tuple(values))
