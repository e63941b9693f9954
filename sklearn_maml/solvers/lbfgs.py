"""L-BFGS in coordinates that know the Gauss-Newton Hessian."""

import numpy as np
from scipy.optimize import minimize

from sklearn_maml._component import check_int, check_number
from sklearn_maml._objective.gauss_newton_hessian import (
    damped_cholesky,
    gauss_newton_hessian,
    hessian_diagonal,
    lifted,
    triangular,
)
from sklearn_maml.solvers.descent import negligible_gap
from sklearn_maml.solvers.solver import Solver, SolverResult, refuse_first_order, warn_unconverged

__all__ = ["LBFGS"]


class LBFGS(Solver):
    """L-BFGS by scipy, in coordinates in which the Gauss-Newton Hessian is the identity.

    The coordinates are renewed every 30 iterations. An iteration costs one gradient. Up to
    `MAX_DENSE` parameters the whole Hessian is used, beyond that its diagonal. It stops when the
    estimated gap, ``||gradient||^2 / 2`` in these coordinates, is `tol` times the meta-loss, or
    less.

    Parameters
    ----------
    tol : float, default=1e-12
        Wanted gap, relative to the meta-loss.
    max_iter : int, default=1000

    References
    ----------
    Zhu, Byrd, Lu & Nocedal, "Algorithm 778: L-BFGS-B", ACM Transactions on Mathematical Software
    23(4), 1997.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> MAMLRegressor(loss="log_cosh", solver="lbfgs").fit(tasks).n_iter_ < 60
    True
    """

    MAX_DENSE = 1500

    def __init__(self, tol=1e-12, max_iter=1000):
        self.tol = tol
        self.max_iter = max_iter

    def validate(self):
        """Raise for a tolerance or a number of iterations out of range."""
        check_number("tol", self.tol)
        check_int("max_iter", self.max_iter)

    def minimize(self, objective, theta):
        """Run L-BFGS in rounds; see `Solver.minimize`."""
        refuse_first_order(self, objective)
        enough = negligible_gap(objective, self.tol)
        values, stalled = [objective.value_and_gradient(theta)[0]], 0
        gap = np.inf
        while len(values) <= self.max_iter:
            to_theta, to_slope = self._coordinates(objective, theta)
            value, gradient = objective.value_and_gradient(theta)
            gap = 0.5 * np.square(to_slope(gradient)).sum()
            if gap <= enough(value) or stalled == 2:
                break
            theta = self._run(objective, theta, to_theta, to_slope, enough(0.0), values)
            stalled = 0 if objective.value_and_gradient(theta)[0] < value else stalled + 1
        converged = gap <= max(enough(values[-1]), 1e-12 * abs(values[-1]))
        if not converged:
            warn_unconverged(self, len(values) - 1, "estimated gap", gap, enough(values[-1]))
        return SolverResult(theta, len(values) - 1, bool(converged), tuple(values))

    def _coordinates(self, objective, theta):
        """Maps from coordinates to parameters, and from gradients to slopes in coordinates."""
        if objective.n_parameters > self.MAX_DENSE:
            (diagonal,) = objective.reduce(hessian_diagonal, theta)
            root = np.sqrt(lifted(diagonal + 2 * objective.penalty))
            return (lambda x: x / root), (lambda g: g / root)
        hessian = gauss_newton_hessian(objective, theta)
        lower = damped_cholesky(hessian, 1e-9)
        return (lambda x: triangular(lower, x, "T")), (lambda g: triangular(lower, g, "N"))

    def _run(self, objective, theta, to_theta, to_slope, wanted, values):
        """One round of L-BFGS from theta; appends the meta-loss after each iteration."""
        shape, start = theta.shape, values[-1]

        def fun(x):
            at = theta + to_theta(x.reshape(shape))
            value, gradient = objective.value_and_gradient(at)
            if not np.isfinite(value) or not np.isfinite(gradient).all():
                return start + 1.0 + abs(start), np.zeros(x.size)  # the line search turns back
            fun.last = value
            if value < fun.least:  # where scipy gives up it forgets what its line search found
                fun.least, fun.best = value, at
            return value, to_slope(gradient).ravel()

        fun.least, fun.best = start, theta
        rounds = min(30, self.max_iter - len(values) + 1)
        before = len(values)
        minimize(
            fun,
            np.zeros(theta.size),
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: values.append(fun.last),
            options={
                "maxiter": rounds,
                "maxcor": 20,
                "ftol": 0.0,
                "gtol": np.sqrt(2.0 * wanted / theta.size),
            },
        )
        if len(values) == before or fun.least < values[-1]:
            values.append(fun.least)  # an aborted round counts too, so that rounds end
        return fun.best
