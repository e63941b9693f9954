"""The exact solver, for quadratic meta-losses."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sklearn_maml._objective.quadratic import quadratic
from sklearn_maml._typing import Floats
from sklearn_maml.solvers.solver import Iterates, Solver, SolverResult, refuse_first_order

__all__ = ["LeastSquares"]


class LeastSquares(Solver):
    """The exact solver: MAML with the squared loss is a least-squares problem.

    ``L(theta) = sum_i p_i sum_j b_ij (psi_ij' theta - yt_ij)^2 + alpha ||theta||^2`` in the adapted
    design psi and target yt. One Newton step reaches the global minimum; further ones, with the
    gradient computed anew from the data, remove what rounding left, until it stops falling. Where
    the minimiser is not unique the one of smallest norm is returned (from a start at 0).

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> model = MAMLRegressor(solver="least_squares").fit(tasks)
    >>> model.gap_certificate_.bound < 1e-12 * model.meta_loss_
    True
    """

    MAX_ITER = 10

    def minimize(
        self,
        objective: Any,
        theta: Floats,
        callback: Callable[[Floats, float], object] | None = None,
    ) -> SolverResult:
        """Take Newton steps; see `Solver.minimize`."""
        refuse_first_order(self, objective)
        if not objective.is_quadratic:
            loss, rule = type(objective.loss).__name__, type(objective.rule).__name__
            raise ValueError(
                f"The solver {type(self).__name__} needs a quadratic meta-objective, but that of "
                f"the loss {loss} with the rule {rule} is not quadratic; choose solver='auto'."
            )
        shape = quadratic(objective)
        value, gradient = objective.value_and_gradient(theta)
        iterates, size = Iterates(self, callback), np.linalg.norm(gradient / shape.scale)
        iterates.add(theta, value)
        negligible = 1e-13 * size
        while iterates.n_iter < self.MAX_ITER and size > negligible:
            candidate = theta - shape.newton_step(objective, theta, gradient)
            value, slope = objective.value_and_gradient(candidate)
            # A first step is taken even where rounding hides the gradient's fall.
            if iterates.n_iter and not np.linalg.norm(slope / shape.scale) < 0.5 * size:
                break
            theta, gradient = candidate, slope
            size = np.linalg.norm(gradient / shape.scale)
            iterates.add(theta, value)
        return iterates.result(theta)
