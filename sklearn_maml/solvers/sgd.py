"""Stochastic gradient descent over batches of tasks: Algorithm 1 of Finn et al."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from sklearn_maml._component import check_int, check_number, check_option, random_of
from sklearn_maml._typing import Floats, Random
from sklearn_maml.solvers.solver import Iterates, Solver, SolverResult

__all__ = ["SGD"]


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

    stochastic = True

    def __init__(
        self,
        learning_rate: float = 0.01,
        batch_size: int = 16,
        n_epochs: int = 100,
        *,
        method: Literal["momentum", "adam"] = "momentum",
        momentum: float = 0.9,
        random_state: Random | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.method = method
        self.momentum = momentum
        self.random_state = random_state

    @classmethod
    def examples(cls) -> list[Any]:
        """Both methods, with enough epochs; see `Component.examples`."""
        return [
            cls(0.1, n_epochs=300, random_state=0),
            cls(0.02, n_epochs=300, method="adam", random_state=0),
        ]

    def validate(self) -> None:
        """Raise for a hyperparameter out of range."""
        check_number("learning_rate", self.learning_rate, above=True)
        check_number("momentum", self.momentum)
        if not self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}.")
        check_int("batch_size", self.batch_size)
        check_int("n_epochs", self.n_epochs)
        check_option("method", self.method, ("momentum", "adam"))

    def minimize(
        self,
        objective: Any,
        theta: Floats,
        callback: Callable[[Floats, float], object] | None = None,
    ) -> SolverResult:
        """Run all epochs; see `Solver.minimize`."""
        random = random_of(self.random_state)
        iterates = Iterates(self, callback)
        iterates.add(theta, objective.value(theta))
        velocity, square, step = np.zeros_like(theta), np.zeros_like(theta), 0
        for _ in range(self.n_epochs):
            for part in objective.batches(self.batch_size, random):
                gradient = part(theta)
                step += 1
                velocity = self.momentum * velocity + (1 - self._share()) * gradient
                square = 0.999 * square + 0.001 * gradient**2
                theta = theta - self.learning_rate * self._direction(velocity, square, step)
            value = objective.value(theta)
            iterates.add(theta, value)
            objective.report(f"epoch {iterates.n_iter}: meta-loss {value:.8g}")
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"{self!r} diverged in epoch {iterates.n_iter}: the meta-loss is "
                    f"{value}. Use a smaller learning_rate, or standardise the features."
                )
        return iterates.result(theta)

    def _share(self):
        return self.momentum if self.method == "adam" else 0.0

    def _direction(self, velocity, square, step):
        """The velocity; for Adam corrected for its start at 0 and divided by the root square."""
        if self.method == "momentum":
            return velocity
        root = np.sqrt(square / (1 - 0.999**step))
        return velocity / (1 - self.momentum**step) / (root + 1e-8)
