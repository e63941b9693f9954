"""Outer solvers: they minimise a meta-objective over the meta-parameters.

To add one, write a subclass of `Solver` in a file of this folder, and its line in `SOLVERS`.
"""

from sklearn_maml.solvers.gauss_newton import GaussNewton
from sklearn_maml.solvers.gradient_descent import GradientDescent
from sklearn_maml.solvers.lbfgs import LBFGS
from sklearn_maml.solvers.least_squares import LeastSquares
from sklearn_maml.solvers.sgd import SGD
from sklearn_maml.solvers.solver import Solver, SolverResult

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

SOLVERS = {
    "gauss_newton": GaussNewton,
    "gradient_descent": GradientDescent,
    "lbfgs": LBFGS,
    "least_squares": LeastSquares,
    "sgd": SGD,
}
