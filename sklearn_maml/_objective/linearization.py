"""What the meta-objective looks like from one point: the chain rule, written once."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import vecmat
from sklearn_maml._objective.risk import Risk

__all__ = ["Linearization", "QueryPredictions"]


class QueryPredictions(NamedTuple):
    """Query rows of all tasks and episodes, pooled.

    Attributes
    ----------
    truth, predicted : ndarray of shape (n,) or (n_targets, n)
        Targets, and predictions before the link.
    weight : ndarray of shape (n,)
        Row weights; on average ``n_tasks p_i`` in each task, divided among its episodes.
    task : ndarray of shape (n,)
        The number of the row's task.
    """

    truth: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray
    task: np.ndarray


@dataclass(frozen=True, eq=False)
class Linearization:
    """What the meta-objective looks like from theta, for one block of n tasks.

    Everything that a gradient, a solver or a certificate needs is a sum over such blocks. What is
    of the size of the features is computed anew each time that it is asked for.

    Attributes
    ----------
    support, query : Risk
    weight : ndarray of shape (n,)
        Task weights p_i.
    theta : ndarray of shape (..., d)
        Where all tasks adapt from.
    loop : InnerLoop
        The rule, bound to these rows.
    """

    support: Risk
    query: Risk
    weight: np.ndarray
    theta: np.ndarray
    loop: Any

    @cached_property
    def _response(self):
        return self.loop.respond(self.theta[..., None, :])

    @property
    def theta_i(self):
        """Adapted parameters, shape (..., n, d)."""
        return self._response.theta_i

    @cached_property
    def row_weight(self):
        """``p_i b_ij``, shape (n, m)."""
        return self.weight[:, None] * self.query.weights

    @property
    def predictions(self):
        """Query predictions z of the adapted parameters, shape (..., n, m)."""
        return self._response.predictions

    @cached_property
    def loss_gradient(self):
        """``l'(z, y)`` of the query rows, shape (..., n, m): the w of Theorem 1."""
        return self.query.loss.gradient(self.query.targets, self.predictions)

    @property
    def design(self):
        """The adapted design ``phi_j' J_i`` of the query rows, shape (..., n, m, d)."""
        return self._response.design(None)

    def scaled_design(self, scale):
        """The rows of `design` times numbers of shape (..., n, m)."""
        return self._response.design(scale)

    @property
    def value(self):
        """The block's part of the meta-loss, summed over targets."""
        return (self.row_weight * self.query.loss.value(self.query.targets, self.predictions)).sum()

    @property
    def gradient(self):
        """The block's part of the meta-gradient, shape (..., d)."""
        return self.pull(self.row_weight * self.loss_gradient)

    def pull(self, slopes):
        """``sum_ij slopes_ij dz_ij/dtheta`` for slopes (..., n, m), shape (..., d)."""
        return self._response.gradient(slopes)

    def along(self, v):
        """``dz/dtheta v``: how fast predictions change along v (..., d), shape (..., n, m)."""
        return self._response.along(v[..., None, :])

    @property
    def adapted_gradients(self):
        """The gradients of the tasks' query risks in theta_i, shape (..., n, d)."""
        return vecmat(self.query.weights * self.loss_gradient, self.query.features)

    @property
    def task_gradients(self):
        """The gradients of the tasks' query risks in theta, shape (..., n, d)."""
        return self._response.task_gradients(self.query.weights * self.loss_gradient)
