"""Gradient descent over all tasks: the meta-SL algorithm."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from sklearn_maml._component import check_number
from sklearn_maml._typing import Floats
from sklearn_maml.solvers.coordinates import Coordinates
from sklearn_maml.solvers.solver import Iterates, Solver, SolverResult, check_stopping

__all__ = ["GradientDescent"]

# Of a column of unit length, squared: the inverse is about how many iterations it would take.
NEARLY_COLLINEAR = 1e-4


class GradientDescent(Solver):
    """Full-batch gradient descent, ``theta <- theta - alpha_l grad L(theta)``: meta-SL.

    It stops when the gradient's norm is at most `tol` times that at the start.

    Parameters
    ----------
    learning_rate : "auto", float or callable, default="auto"
        A number; a schedule, called with the iteration l = 0, 1, ...; or "auto": 1 / the largest
        eigenvalue of the Gauss-Newton Hessian, halved whenever the meta-loss does not fall. Where
        features are nearly collinear (one with a mean of 100 deviations nearly is a multiple of
        the intercept's), "auto" descends in coordinates in which they are orthonormal.
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

    def __init__(
        self,
        learning_rate: float | Literal["auto"] | Callable[[int], float] = "auto",
        tol: float = 1e-6,
        max_iter: int = 10_000,
    ) -> None:
        self.learning_rate = learning_rate
        self.tol = tol
        self.max_iter = max_iter

    @classmethod
    def examples(cls) -> list[Any]:
        """One that goes on until it is as near as the others; see `Component.examples`."""
        return [cls(tol=1e-7)]

    def validate(self) -> None:
        """Raise for a step length, a tolerance or a number of iterations out of range."""
        named = isinstance(self.learning_rate, str) and self.learning_rate == "auto"
        if not (named or callable(self.learning_rate)):
            check_number("learning_rate", self.learning_rate, above=True)
        check_stopping(self)

    def minimize(
        self,
        objective: Any,
        theta: Floats,
        callback: Callable[[Floats, float], object] | None = None,
    ) -> SolverResult:
        """Descend; see `Solver.minimize`."""
        auto = isinstance(self.learning_rate, str)
        if auto:
            coordinates, point = Coordinates.choose(objective, theta, least=NEARLY_COLLINEAR)
            rate = _inverse_curvature(point.hessian)
        else:
            coordinates, point = Coordinates.plain(objective, theta)
        iterates, size = Iterates(self, callback), float(np.linalg.norm(point.gradient))
        iterates.add(theta, point.value)
        wanted = self.tol * size
        while iterates.n_iter < self.max_iter and size > wanted:
            if not auto:
                rate = self._rate(iterates.n_iter)
            there = coordinates.look(point.y - rate * point.gradient)
            rises = not objective.rule.first_order and coordinates.rises(point, there)
            if auto and (rises or not np.isfinite(there.value)) and rate * size > 1e-300:
                rate *= 0.5
                continue
            if not there.value < 1e20 * (1.0 + abs(iterates.values[0])):  # diverging
                break
            point, size = there, float(np.linalg.norm(there.gradient))
            iterates.add(coordinates.theta(point.y), point.value)
        return iterates.judged(coordinates.theta(point.y), "gradient norm", size, wanted)

    def _rate(self, iteration):
        """The given step length at an iteration."""
        if not callable(self.learning_rate):
            return self.learning_rate
        rate = self.learning_rate(iteration)
        check_number(f"learning_rate({iteration})", rate)
        return rate


def _inverse_curvature(hessian):
    """1 / the largest eigenvalue of a Hessian, or of several; 1 where that is not positive."""
    largest = np.linalg.eigvalsh(hessian).max()
    return 1.0 / largest if largest > 0 else 1.0
