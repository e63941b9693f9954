"""Parts whose fits have closed forms: half the squared error, and a shift of the intercept."""

import numpy as np

from sklearn_maml.adaptation import AdaptationRule
from sklearn_maml.losses import Loss


class HalfSquaredError(Loss):
    """``(z - y)^2 / 2``: the meta-objective stays a quadratic."""

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

    affine = True

    def adapt(self, theta, risk):
        residual = risk.targets - risk.predict(theta)
        shift = (risk.weights * residual).sum(axis=-1)
        theta_i = theta + np.zeros((*shift.shape, 1))
        theta_i[..., -1] += shift
        mean_row = (risk.weights[..., None, :] @ risk.features)[..., 0, :]

        def pullback(V):
            return V - V[..., -1:] * mean_row[..., None, :]

        return theta_i, pullback
