"""What an outer solver is, what it is given, and what it returns."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._component import Component, check_int, check_number
from sklearn_maml._progress import warn_user
from sklearn_maml._typing import Floats

__all__ = ["Iterates", "Solver", "SolverResult", "check_stopping", "refuse_first_order"]


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

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.solvers import SolverResult
    >>> SolverResult(np.zeros(3), n_iter=1, converged=True, values=(4.0, 2.5)).values[-1]
    2.5
    """

    theta: Floats
    n_iter: int
    converged: bool
    values: tuple[float, ...]


class Solver(Component):
    """Base class of the outer solvers.

    What `minimize` is given, the objective, is a function of the meta-parameters theta, an array of
    shape (d,), or (n_targets, d) where targets have two axes: then it is a sum of independent
    functions, one a row of theta. It is safe to call from several threads. Of it a solver may use

    ``value_and_gradient(theta)``
        The meta-loss, a float, and its gradient, of the shape of theta. Far from the data the
        meta-loss may be infinite or not a number; a solver turns back there.
    ``value(theta)``
        The meta-loss alone, for about half the price.
    ``hessian_dot(theta, v)``
        The Gauss-Newton Hessian times v, of the shape of theta: the Hessian of the meta-loss where
        the inner loop is replaced by its linearisation. It is positive semi-definite, and exact
        where `is_quadratic`.
    ``n_parameters``
        d.
    ``origin()``
        Zeros of the shape of theta.
    ``is_quadratic``
        Whether the meta-loss is a quadratic in theta.
    ``rule.first_order``
        Whether the gradient leaves terms out: then it is not that of the meta-loss, and a line
        search that compares the two is misled. `refuse_first_order` raises for it.
    ``penalty``
        The penalty's alpha for each parameter, shape (d,); it is part of all of the above.
    ``batches(size, random)``
        For stochastic solvers: an iterator over random batches of at most `size` tasks, each a
        function from theta to an unbiased estimate of the gradient.
    ``report(message)``
        Logs a message, where the user asked for it.

    Attributes
    ----------
    stochastic : bool
        Whether it takes steps over batches of tasks, so that it can go on with tasks to come.

    Examples
    --------
    One Newton step, which is enough where the meta-loss is a quadratic:

    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.solvers import Solver, SolverResult
    >>> class OneStep(Solver):
    ...     def minimize(self, objective, theta, callback=None):
    ...         value, gradient = objective.value_and_gradient(theta)
    ...         rows = np.eye(objective.n_parameters)
    ...         hessian = np.array([objective.hessian_dot(theta, row) for row in rows])
    ...         theta = theta - np.linalg.solve(hessian, gradient)
    ...         return SolverResult(theta, 1, True, (value, objective.value(theta)))
    >>> tasks = make_linear_tasks(random_state=0)
    >>> model = MAMLRegressor(inner_lr=0.1, solver=OneStep()).fit(tasks)
    >>> model.gap_certificate_.bound < 1e-9
    True
    """

    stochastic = False

    @abstractmethod
    def minimize(
        self,
        objective: Any,
        theta: Floats,
        callback: Callable[[Floats, float], object] | None = None,
    ) -> SolverResult:
        """Minimise ``objective`` from `theta`.

        Parameters
        ----------
        objective : object
            As the class describes it.
        theta : ndarray of shape (d,) or (n_targets, d)
            Where to start; not changed.
        callback : callable, default=None
            Called with each iterate and its meta-loss, ``callback(theta, value)``, the start
            included; it must not change theta. `Iterates` does so. A solver that has no such
            parameter works too: `ConvergenceDisplay` then certifies its start and its end only.

        Returns
        -------
        SolverResult

        Raises
        ------
        ValueError
            If the solver cannot minimise an objective of this kind, naming both.
        """


class Iterates:
    """A solver's iterates so far: their meta-losses are kept, and a callback is told of them.

    Parameters
    ----------
    solver : Solver
        Whose iterates they are; the warning names it.
    callback : callable, default=None
        Called with (theta, value) of each iterate.

    Attributes
    ----------
    values : list of float
        The meta-loss at the start and after each iteration.
    """

    def __init__(self, solver, callback=None):
        self.solver, self.callback, self.values = solver, callback, []

    @property
    def n_iter(self):
        """How many iterations there were, the start not counted."""
        return len(self.values) - 1

    def add(self, theta, value):
        """Note an iterate."""
        self.values.append(float(value))
        if self.callback is not None:
            self.callback(theta, float(value))

    def result(self, theta, converged=True):
        """What the solver returns if it stops at theta."""
        return SolverResult(theta, self.n_iter, bool(converged), tuple(self.values))

    def judged(self, theta, what, got, wanted, tolerated=0.0):
        """The result at theta, converged if `got` is at most `wanted`; else warn, naming `what`.

        Below `tolerated` rounding is all that is left, whatever was wanted.
        """
        converged = got <= max(wanted, tolerated)
        solver = self.solver
        if not np.isfinite(got):
            warn_user(
                f"{type(solver).__name__} stopped after {self.n_iter} iterations: predictions "
                f"overflow there, and {what} is {got:.3g}. Scale the features, or take shorter "
                "inner steps: a smaller inner_lr, or cap=True.",
                ConvergenceWarning,
            )
        elif not converged:
            warn_user(
                f"{type(solver).__name__} stopped after {self.n_iter} iterations: {what} "
                f"{got:.3g}, wanted at most {wanted:.3g}. Raise max_iter={solver.max_iter} or "
                f"tol={solver.tol:g}, scale the features, add a penalty alpha, or choose another "
                "solver; the certificate bounds what is still to be gained.",
                ConvergenceWarning,
            )
        return self.result(theta, converged)


def check_stopping(solver):
    """Raise for a tolerance `tol` or a number of iterations `max_iter` out of range."""
    check_number("tol", solver.tol)
    check_int("max_iter", solver.max_iter)


def refuse_first_order(solver, objective):
    """Raise for a rule whose gradient is not that of the meta-loss."""
    if objective.rule.first_order:
        raise ValueError(
            f"The solver {type(solver).__name__} compares gradients with the meta-loss, but the "
            f"rule {type(objective.rule).__name__} has first_order=True: its gradient leaves "
            "terms out. Choose solver='gradient_descent' or solver='sgd', or first_order=False."
        )
