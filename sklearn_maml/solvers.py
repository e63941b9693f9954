"""Outer solvers: they minimise a meta-objective over the meta-parameters.

To add one, write a subclass of `Solver` and a line in `SOLVERS`.
"""

import warnings
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from sklearn_maml._component import Component, check_int, check_number
from sklearn_maml._descent import Descent, negligible_gap
from sklearn_maml._gauss_newton import (
    damped_cholesky,
    gauss_newton_hessian,
    hessian_diagonal,
    inverse_curvature,
    lifted,
    triangular,
)
from sklearn_maml._quadratic import quadratic

__all__ = [
    "LBFGS",
    "SGD",
    "SOLVERS",
    "GaussNewton",
    "GradientDescent",
    "LeastSquares",
    "Solver",
    "SolverResult",
]


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

    def minimize(self, objective, theta):
        """Take Newton steps; see `Solver.minimize`."""
        _refuse_first_order(self, objective)
        if not objective.is_quadratic:
            loss, rule = type(objective.loss).__name__, type(objective.rule).__name__
            raise ValueError(
                f"The solver {type(self).__name__} needs a quadratic meta-objective, but that of "
                f"the loss {loss} with the rule {rule} is not quadratic; choose solver='auto'."
            )
        shape = quadratic(objective)
        value, gradient = objective.value_and_gradient(theta)
        values, size = [value], np.linalg.norm(gradient / shape.scale)
        negligible = 1e-13 * size
        while len(values) <= self.MAX_ITER and size > negligible:
            candidate = theta - shape.newton_step(objective, theta, gradient)
            value, slope = objective.value_and_gradient(candidate)
            # A first step is taken even where rounding hides the gradient's fall.
            if len(values) > 1 and not np.linalg.norm(slope / shape.scale) < 0.5 * size:
                break
            theta, gradient = candidate, slope
            size = np.linalg.norm(gradient / shape.scale)
            values.append(value)
        return SolverResult(theta, len(values) - 1, True, tuple(values))


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

    def __init__(self, tol=1e-12, max_iter=200):
        self.tol = tol
        self.max_iter = max_iter

    def validate(self):
        """Raise for a tolerance or a number of iterations out of range."""
        check_number("tol", self.tol)
        check_int("max_iter", self.max_iter)

    def minimize(self, objective, theta):
        """Take steps; see `Solver.minimize`."""
        _refuse_first_order(self, objective)
        descent, enough = Descent(objective, theta), negligible_gap(objective, self.tol)
        gap = descent.run(enough, self.max_iter)
        values = tuple(descent.values)
        converged = gap <= max(enough(values[-1]), 1e-12 * abs(values[-1]))
        if not converged:
            _warn(self, len(values) - 1, "estimated gap", gap, enough(values[-1]))
        return SolverResult(descent.theta, len(values) - 1, bool(converged), values)


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
        _refuse_first_order(self, objective)
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
            _warn(self, len(values) - 1, "estimated gap", gap, enough(values[-1]))
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
            _warn(self, len(values) - 1, "gradient norm", size, wanted)
        return SolverResult(theta, len(values) - 1, converged, tuple(values))

    def _rate(self, iteration):
        """The given step length at an iteration."""
        return self.learning_rate(iteration) if callable(self.learning_rate) else self.learning_rate


class SGD(Solver):
    """Stochastic gradient descent over random batches of tasks: Algorithm 1 of Finn et al.

    In each epoch the blocks of tasks (of about equal size) come in random order, and so do the
    batches of tasks in a block. A batch's gradient is scaled so that its mean over an epoch is the
    gradient of the meta-loss. It runs for `n_epochs`, whatever it reaches: the certificate says how
    good that is.

    Parameters
    ----------
    learning_rate : float, default=0.01
    batch_size : int, default=16
        Tasks (episodes) a step.
    n_epochs : int, default=100
        Passes over all tasks.
    method : {"momentum", "adam"}, default="momentum"
    momentum : float, default=0.9
        In [0, 1): of the velocity, or of Adam's mean; 0 is plain descent.
    random_state : int, RandomState or None, default=None

    References
    ----------
    Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    ICML 2017. Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> from sklearn_maml import SGD, MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> model = MAMLRegressor(solver=SGD(n_epochs=50, random_state=0)).fit(tasks)
    >>> model.gap_certificate_.bound < 0.1
    True
    """

    def __init__(
        self,
        learning_rate=0.01,
        batch_size=16,
        n_epochs=100,
        *,
        method="momentum",
        momentum=0.9,
        random_state=None,
    ):
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.method = method
        self.momentum = momentum
        self.random_state = random_state

    def validate(self):
        """Raise for a hyperparameter out of range."""
        check_number("learning_rate", self.learning_rate, above=True)
        check_number("momentum", self.momentum)
        if not self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}.")
        check_int("batch_size", self.batch_size)
        check_int("n_epochs", self.n_epochs)
        if self.method not in ("momentum", "adam"):
            raise ValueError(f"method must be 'momentum' or 'adam'; got {self.method!r}.")

    def minimize(self, objective, theta):
        """Run all epochs; see `Solver.minimize`."""
        random = check_random_state(self.random_state)
        values = [objective.value_and_gradient(theta)[0]]
        velocity, square, step = np.zeros_like(theta), np.zeros_like(theta), 0
        for _ in range(self.n_epochs):
            for part in objective.batches(self.batch_size, random):
                gradient = part(theta)
                step += 1
                velocity = self.momentum * velocity + (1 - self._share()) * gradient
                square = 0.999 * square + 0.001 * gradient**2
                theta = theta - self.learning_rate * self._direction(velocity, square, step)
            values.append(objective.value_and_gradient(theta)[0])
            if not np.isfinite(values[-1]):
                raise FloatingPointError(
                    f"{self!r} diverged in epoch {len(values) - 1}: the meta-loss is "
                    f"{values[-1]}. Use a smaller learning_rate, or standardise the features."
                )
        return SolverResult(theta, self.n_epochs, True, tuple(values))

    def _share(self):
        return self.momentum if self.method == "adam" else 0.0

    def _direction(self, velocity, square, step):
        """The velocity; for Adam corrected for its start at 0 and divided by the root square."""
        if self.method == "momentum":
            return velocity
        root = np.sqrt(square / (1 - 0.999**step))
        return velocity / (1 - self.momentum**step) / (root + 1e-8)


def _refuse_first_order(solver, objective):
    """Raise for a rule whose gradient is not that of the meta-loss."""
    if objective.rule.first_order:
        raise ValueError(
            f"The solver {type(solver).__name__} compares gradients with the meta-loss, but the "
            f"rule {type(objective.rule).__name__} has first_order=True: its gradient leaves "
            "terms out. Choose solver='gradient_descent' or solver='sgd', or first_order=False."
        )


def _warn(solver, n_iter, what, got, wanted):
    """Say that a solver stopped before its criterion was met."""
    warnings.warn(
        f"{type(solver).__name__} stopped after {n_iter} iterations: {what} {got:.3g}, wanted "
        f"at most {wanted:.3g}. Raise max_iter={solver.max_iter} or tol={solver.tol:g}, scale the "
        "features, add a penalty alpha, or choose another solver; the certificate bounds what is "
        "still to be gained.",
        ConvergenceWarning,
        stacklevel=4,
    )


SOLVERS = {
    "gauss_newton": GaussNewton,
    "gradient_descent": GradientDescent,
    "lbfgs": LBFGS,
    "least_squares": LeastSquares,
    "sgd": SGD,
}
