"""Gauss-Newton steps."""

from collections.abc import Callable
from typing import Any

from sklearn_maml._typing import Floats
from sklearn_maml.solvers.coordinates import Coordinates
from sklearn_maml.solvers.descent import Descent
from sklearn_maml.solvers.solver import (
    Iterates,
    Solver,
    SolverResult,
    check_stopping,
    refuse_first_order,
)
from sklearn_maml.solvers.stopping import negligible_gap

__all__ = ["GaussNewton"]


class GaussNewton(Solver):
    """Gauss-Newton steps that learn from gradients: monotone, few iterations, d x d matrices.

    Steps minimise a quadratic model with the Hessian of a linearised inner loop, ``H = sum_i p_i
    sum_j b_ij l''_ij psi_ij psi_ij' + 2 alpha I``, corrected by how the gradient changed along the
    steps since: L-BFGS that starts from H. H is evaluated anew where these corrections gain less
    than a new H would for the same work. A step that does not lower the meta-loss is learned from,
    and if that does not help, damped by ``lam * diag(H)`` (Levenberg-Marquardt). It stops when the
    model's own estimate of the gap, ``g' H^-1 g / 2`` with H from where it stops, is at most `tol`
    times the meta-loss.

    Parameters
    ----------
    tol : float, default=1e-12
        Wanted gap, relative to the meta-loss.
    max_iter : int, default=200

    References
    ----------
    Nocedal & Wright, "Numerical Optimization", 2nd edition, Springer 2006, chapters 7 and 10.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> model = MAMLRegressor(loss="pseudo_huber", solver="gauss_newton").fit(tasks)
    >>> model.n_iter_ < 30
    True
    """

    def __init__(self, tol: float = 1e-12, max_iter: int = 200) -> None:
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
        """Take steps; see `Solver.minimize`."""
        refuse_first_order(self, objective)
        coordinates, point = Coordinates.choose(objective, theta)
        iterates, enough = Iterates(self, callback), negligible_gap(objective, self.tol)
        descent = Descent(coordinates, point, iterates)
        gap = descent.run(enough, self.max_iter)
        value, theta = descent.point.value, coordinates.theta(descent.point.y)
        return iterates.judged(theta, "estimated gap", gap, enough(value), 1e-12 * abs(value))
