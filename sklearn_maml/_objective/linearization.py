"""What the meta-objective looks like from one point: the chain rule, written once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_maml._linalg import flat_vecmat, vecmat
from sklearn_maml._objective.risk import Risk

__all__ = ["Linearization"]


@dataclass(frozen=True, eq=False)
class Linearization:
    """What the meta-objective looks like from theta, for one block of n tasks.

    Everything that a gradient, a solver or a certificate needs is a sum over such blocks.

    Attributes
    ----------
    support, query : Risk
    weight : ndarray of shape (n,)
        Task weights p_i.
    theta : ndarray of shape (..., d)
        Where all tasks adapt from.
    rule : AdaptationRule
    """

    support: Risk
    query: Risk
    weight: np.ndarray
    theta: np.ndarray
    rule: Any

    @cached_property
    def _adapted(self):
        return self.rule.adapt(self.theta[..., None, :], self.support)

    @cached_property
    def _followed(self):
        return self.rule.follow(self.theta[..., None, :], self.support, self.query)

    @property
    def theta_i(self):
        """Adapted parameters, shape (..., n, d)."""
        return self._adapted[0]

    @property
    def pullback(self):
        """``pullback(V) = V J_i`` for rows V (..., n, k, d), with J_i = d theta_i / d theta."""
        return self._adapted[1]

    @cached_property
    def row_weight(self):
        """``p_i b_ij``, shape (n, m)."""
        return self.weight[:, None] * self.query.weights

    @cached_property
    def predictions(self):
        """Query predictions z of the adapted parameters, shape (..., n, m)."""
        return self.query.predict(self.theta_i) if self._followed is None else self._followed[0]

    @cached_property
    def loss_gradient(self):
        """``l'(z, y)`` of the query rows, shape (..., n, m): the w of Theorem 1."""
        return self.query.loss.gradient(self.query.targets, self.predictions)

    @cached_property
    def design(self):
        """The adapted design ``phi_j' J_i`` of the query rows, shape (..., n, m, d)."""
        if self._followed is None:
            return self.pullback(self.query.features)
        return self._combine(np.eye(self.query.features.shape[-2]))

    def scaled_design(self, scale):
        """The rows of `design` times numbers of shape (..., n, m)."""
        if self._followed is None:
            return scale[..., None] * self.design
        return self._combine(scale[..., None] * np.eye(scale.shape[-1]))

    def _combine(self, V):
        """``V design`` for rows V (..., n, k, m), or (k, m), seen from the rows."""
        pulled = self._followed[1](V)
        if self.query is self.support:
            return np.matmul(V - pulled, self.query.features)
        return np.matmul(V, self.query.features) - np.matmul(pulled, self.support.features)

    @property
    def value(self):
        """The block's part of the meta-loss, summed over targets."""
        return (self.row_weight * self.query.loss.value(self.query.targets, self.predictions)).sum()

    @property
    def gradient(self):
        """The block's part of the meta-gradient, shape (..., d)."""
        weighted = self.row_weight * self.loss_gradient
        if "design" in self.__dict__:
            return flat_vecmat(weighted, self.design)
        if self._followed is None:
            return np.tensordot(self.task_gradients, self.weight, axes=([-2], [0]))
        pulled = self._followed[1](weighted[..., None, :])[..., 0, :]
        if self.query is self.support:
            return flat_vecmat(weighted - pulled, self.query.features)
        direct = flat_vecmat(weighted, self.query.features)
        return direct - flat_vecmat(pulled, self.support.features)

    @property
    def adapted_gradients(self):
        """The gradients of the tasks' query risks in theta_i, shape (..., n, d)."""
        return vecmat(self.query.weights * self.loss_gradient, self.query.features)

    @property
    def task_gradients(self):
        """The gradients of the tasks' query risks in theta, shape (..., n, d)."""
        return self.pullback(self.adapted_gradients[..., None, :])[..., 0, :]
