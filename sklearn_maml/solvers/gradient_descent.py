"""Gradient descent over all tasks: the meta-SL algorithm."""

import numpy as np

from sklearn_maml._component import check_int, check_number
from sklearn_maml._objective.gauss_newton_hessian import inverse_curvature
from sklearn_maml.solvers.solver import Solver, SolverResult, warn_unconverged

__all__ = ["GradientDescent"]


class GradientDescent(Solver):
    """Full-batch gradient descent, ``theta <- theta - alpha_l grad L(theta)``: meta-SL.

    It stops when the gradient's norm is at most `tol` times that at the start.

    Parameters
    ----------
    learning_rate : "auto", float or callable, default="auto"
        A number; a schedule, called with the iteration l = 0, 1, ...; or "auto": 1 / the largest
        eigenvalue of the Gauss-Newton Hessian, halved whenever the meta-loss does not fall.
    tol : float, default=1e-6
    max_iter : int, default=10000

    References
    ----------
    Wang, Cai, Yang & Wang, "On the Global Optimality of Model-Agnostic Meta-Learning", ICML 2020.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> model = MAMLRegressor(solver="gradient_descent").fit(tasks)
    >>> model.gap_certificate_.bound < 1e-6
    True
    """

    def __init__(self, learning_rate="auto", tol=1e-6, max_iter=10_000):
        self.learning_rate = learning_rate
        self.tol = tol
        self.max_iter = max_iter

    def validate(self):
        """Raise for a step length, a tolerance or a number of iterations out of range."""
        if not callable(self.learning_rate) and self.learning_rate != "auto":
            check_number("learning_rate", self.learning_rate, above=True)
        check_number("tol", self.tol)
        check_int("max_iter", self.max_iter)

    def minimize(self, objective, theta):
        """Descend; see `Solver.minimize`."""
        value, gradient = objective.value_and_gradient(theta)
        values, size = [value], float(np.linalg.norm(gradient))
        wanted, auto = self.tol * size, isinstance(self.learning_rate, str)
        rate = inverse_curvature(objective, theta) if auto else None
        while len(values) <= self.max_iter and size > wanted:
            if not auto:
                rate = self._rate(len(values) - 1)
            trial, slope = objective.value_and_gradient(theta - rate * gradient)
            # What float64 cannot tell apart does not count as a rise.
            rises = not trial <= value + 1e-14 * abs(value) and not objective.rule.first_order
            if auto and (rises or not np.isfinite(trial)) and rate * size > 1e-300:
                rate *= 0.5
                continue
            if not trial < 1e20 * (1.0 + abs(values[0])):  # diverging
                break
            theta, value, gradient = theta - rate * gradient, trial, slope
            size = float(np.linalg.norm(gradient))
            values.append(value)
        converged = size <= wanted
        if not converged:
            warn_unconverged(self, len(values) - 1, "gradient norm", size, wanted)
        return SolverResult(theta, len(values) - 1, converged, tuple(values))

    def _rate(self, iteration):
        """The given step length at an iteration."""
        return self.learning_rate(iteration) if callable(self.learning_rate) else self.learning_rate
