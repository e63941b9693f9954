"""L-BFGS in coordinates that know the Gauss-Newton Hessian."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize

from sklearn_maml._objective.gauss_newton_hessian import hessian_diagonal
from sklearn_maml._typing import Floats
from sklearn_maml.solvers.coordinates import Coordinates
from sklearn_maml.solvers.damping import damped_cholesky, lifted, triangular
from sklearn_maml.solvers.descent import polish
from sklearn_maml.solvers.solver import (
    Iterates,
    Solver,
    SolverResult,
    check_stopping,
    refuse_first_order,
)
from sklearn_maml.solvers.stopping import negligible_gap

__all__ = ["LBFGS"]

# Iterations after which the coordinates are renewed.
ROUND = 30


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

    def __init__(self, tol: float = 1e-12, max_iter: int = 1000) -> None:
        self.tol = tol
        self.max_iter = max_iter

    def validate(self) -> None:
        """Raise for a tolerance or a number of iterations out of range."""
        check_stopping(self)

    def minimize(
        self,
        objective: Any,
        theta: Floats,
        callback: Callable[[Floats, float], object] | None = None,
    ) -> SolverResult:
        """Run L-BFGS in rounds; see `Solver.minimize`."""
        refuse_first_order(self, objective)
        enough, iterates = negligible_gap(objective, self.tol), Iterates(self, callback)
        dense = objective.n_parameters <= self.MAX_DENSE
        coordinates, point = (Coordinates.choose if dense else Coordinates.plain)(objective, theta)
        iterates.add(theta, point.value)
        stalled = 0
        while True:
            scaling = _scaling(coordinates, point)
            _, to_slope = scaling
            gap = 0.5 * np.square(to_slope(point.gradient)).sum()
            if gap <= enough(point.value) or stalled == 2 or iterates.n_iter >= self.max_iter:
                break
            y = self._run(_Round(coordinates, point, *scaling), enough(0.0), iterates)
            before, point = point.value, coordinates.look(y, hessian=dense)
            stalled = 0 if point.value < before else stalled + 1
        if stalled == 2 and dense:  # rounding hides from line searches what slopes still tell
            point, gap = polish(coordinates, point, enough)
        value, theta = point.value, coordinates.theta(point.y)
        return iterates.judged(theta, "estimated gap", gap, enough(value), 1e-12 * abs(value))

    def _run(self, function, wanted, iterates):
        """One round of L-BFGS by scipy, and where the objective was least in it."""
        size, before = function.point.y.size, iterates.n_iter
        minimize(
            function,
            np.zeros(size),
            jac=True,
            method="L-BFGS-B",
            callback=lambda x: iterates.add(function.theta(x), function.last),
            options={
                "maxiter": min(ROUND, self.max_iter - before),
                "maxcor": 20,
                "ftol": 0.0,
                "gtol": np.sqrt(2.0 * wanted / size),
            },
        )
        if iterates.n_iter == before or function.least < iterates.values[-1]:
            # An aborted round counts too, so that rounds end.
            iterates.add(function.coordinates.theta(function.best), function.least)
        return function.best


class _Round:
    """What scipy minimises in a round: the objective about a point, in scaled coordinates x.

    It keeps the best of all places: where scipy gives up it forgets what its line search found.
    """

    def __init__(self, coordinates, point, to_y, to_slope):
        self.coordinates, self.point, self.to_y, self.to_slope = coordinates, point, to_y, to_slope
        self.best, self.least, self.last = point.y, point.value, point.value

    def __call__(self, x):
        there = self.coordinates.look(self._y(x))
        if not np.isfinite(there.value) or not np.isfinite(there.gradient).all():
            start = self.point.value
            return start + 1.0 + abs(start), np.zeros(x.size)  # the line search turns back
        self.last = there.value
        if there.value < self.least:
            self.best, self.least = there.y, there.value
        return there.value, self.to_slope(there.gradient).ravel()

    def theta(self, x):
        """The meta-parameters at x."""
        return self.coordinates.theta(self._y(x))

    def _y(self, x):
        return self.point.y + self.to_y(x.reshape(self.point.y.shape))


def _scaling(coordinates, point):
    """Maps from moves x to moves of y, and from gradients in y to those in x."""
    if point.hessian is not None:
        lower = damped_cholesky(point.hessian, 1e-9)
        return (lambda x: triangular(lower, x, "T")), (lambda g: triangular(lower, g, "N"))
    objective = coordinates.objective
    (diagonal,) = objective.reduce(hessian_diagonal, coordinates.theta(point.y))
    root = np.sqrt(lifted(diagonal + 2 * objective.penalty))
    return (lambda x: x / root), (lambda g: g / root)
