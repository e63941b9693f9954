"""What an outer solver is, and what it returns."""

import warnings
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._component import Component

__all__ = ["Solver", "SolverResult", "refuse_first_order", "warn_unconverged"]


@dataclass(frozen=True, eq=False)
class SolverResult:
    """Where a solver stopped.

    Attributes
    ----------
    theta : ndarray of shape (d,) or (n_targets, d)
        Meta-parameters, the intercept last.
    n_iter : int
        Number of iterations.
    converged : bool
        Whether the solver's own criterion was met.
    values : tuple of float
        The meta-loss at the start and after each iteration.
    """

    theta: np.ndarray
    n_iter: int
    converged: bool
    values: tuple


class Solver(Component):
    """Base class of the outer solvers."""

    @abstractmethod
    def minimize(self, objective, theta):
        """Minimise ``objective`` from `theta`.

        Parameters
        ----------
        objective : MetaObjective
        theta : ndarray of shape (d,) or (n_targets, d)
            Where to start; not changed.

        Returns
        -------
        SolverResult

        Raises
        ------
        ValueError
            If the solver cannot minimise an objective of this kind, naming both.
        """


def refuse_first_order(solver, objective):
    """Raise for a rule whose gradient is not that of the meta-loss."""
    if objective.rule.first_order:
        raise ValueError(
            f"The solver {type(solver).__name__} compares gradients with the meta-loss, but the "
            f"rule {type(objective.rule).__name__} has first_order=True: its gradient leaves "
            "terms out. Choose solver='gradient_descent' or solver='sgd', or first_order=False."
        )


def warn_unconverged(solver, n_iter, what, got, wanted):
    """Say that a solver stopped before its criterion was met."""
    warnings.warn(
        f"{type(solver).__name__} stopped after {n_iter} iterations: {what} {got:.3g}, wanted "
        f"at most {wanted:.3g}. Raise max_iter={solver.max_iter} or tol={solver.tol:g}, scale the "
        "features, add a penalty alpha, or choose another solver; the certificate bounds what is "
        "still to be gained.",
        ConvergenceWarning,
        stacklevel=4,
    )
