"""A loss, an adaptation rule and a solver as a user would write them, by public names only."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from sklearn_maml.adaptation import AdaptationRule, SlopeForm
from sklearn_maml.losses import Loss
from sklearn_maml.solvers import Solver, SolverResult


class SoftplusHinge(Loss):
    """The hinge of a support vector machine for labels 0 and 1, with its corner rounded.

    ``l(y, z) = y s((1 - z) / t) + (1 - y) s((1 + z) / t)`` with ``s(u) = t log(1 + e^u)``. It has
    no `dual` of its own: that of the base class finds the infimum by bisection.

    Parameters
    ----------
    smoothing : float, default=0.5
        t, how far the corner reaches; towards 0 the loss becomes the hinge itself.
    """

    gradient_bound = 1.0

    def __init__(self, smoothing=0.5):
        self.smoothing = smoothing

    @classmethod
    def examples(cls):
        return [cls(), cls(0.1)]

    def validate(self):
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be positive; got {self.smoothing!r}.")

    def check_targets(self, y):
        if not ((y >= 0) & (y <= 1)).all():
            raise ValueError(f"{self!r} needs labels from 0 to 1; got {y.min():g} to {y.max():g}.")

    # Suprema over all y and z: certificates and the cap of gradient steps rely on them.
    @property
    def hessian_bound(self):
        return 0.25 / self.smoothing

    @property
    def third_bound(self):
        return 1.0 / (6.0 * np.sqrt(3.0) * self.smoothing**2)

    def value(self, y, z):
        one, zero = (np.logaddexp(0.0, u) for u in self._margins(z))
        return self.smoothing * (y * one + (1.0 - y) * zero)

    def gradient(self, y, z):
        one, zero = (expit(u) for u in self._margins(z))
        return (1.0 - y) * zero - y * one

    def hessian(self, y, z):
        one, zero = (expit(u) * expit(-u) for u in self._margins(z))
        return (y * one + (1.0 - y) * zero) / self.smoothing

    def third(self, y, z):
        one, zero = (expit(u) * expit(-u) * (expit(-u) - expit(u)) for u in self._margins(z))
        return ((1.0 - y) * zero - y * one) / self.smoothing**2

    def _margins(self, z):
        z = np.asarray(z, float)
        return (1.0 - z) / self.smoothing, (1.0 + z) / self.smoothing


class PreconditionedStep(AdaptationRule):
    """One gradient step that a given matrix turns and stretches: ``theta - M grad R(theta)``.

    Parameters
    ----------
    matrix : array-like of shape (d, d)
        M, positive definite; the intercept last.
    """

    affine = True  # in theta, where the loss is squared: so the fit is exact and certified

    def __init__(self, matrix):
        self.matrix = matrix

    @classmethod
    def examples(cls):
        return [cls(np.diag([0.1, 0.2, 0.3])), cls([[0.3, 0.1, 0], [0.1, 0.2, 0], [0, 0, 0.5]])]

    def validate(self):
        M = np.asarray(self.matrix, float)
        symmetric = M.ndim == 2 and M.shape == M.T.shape and np.allclose(M, M.T)
        if not (symmetric and np.linalg.eigvalsh(M)[0] > 0):
            raise ValueError(f"matrix must be a positive definite matrix; got {self.matrix!r}.")

    def adapt(self, theta, risk):
        M, d = np.asarray(self.matrix, float), theta.shape[-1]
        if len(M) != d:
            raise ValueError(
                f"matrix has {len(M)} rows but there are {d} parameters, the intercept included."
            )
        theta_i = theta - risk.gradient(theta) @ M

        def pullback(V):  # V J = V - V M H, with H the Hessian of the support risk at theta
            return V - risk.hessian_dot(theta, V @ M)

        return theta_i, pullback

    def slope_form(self, risk):  # M = E E': with it certificates are tight for other losses too
        length = np.ones(len(risk.features))
        return SlopeForm(length, np.linalg.cholesky(np.asarray(self.matrix, float)))


class TrustRegion(Solver):
    """Newton's method in a trust region, by scipy: it asks for products with the Hessian only.

    Parameters
    ----------
    tol : float, default=1e-9
        It stops where the gradient is this share of what it was at the start.
    max_iter : int, default=200
    """

    def __init__(self, tol=1e-9, max_iter=200):
        self.tol = tol
        self.max_iter = max_iter

    def minimize(self, objective, theta, callback=None):
        values, shape = [], theta.shape  # scipy wants vectors, whatever the shape of theta

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
        size = np.linalg.norm(value_and_gradient(theta.ravel())[1])
        found = minimize(
            value_and_gradient,
            theta.ravel(),
            jac=True,
            hessp=hessian_dot,
            method="trust-ncg",
            callback=note,
            options={"gtol": self.tol * size, "maxiter": self.max_iter},
        )
        return SolverResult(found.x.reshape(shape), len(values) - 1, found.success, tuple(values))
