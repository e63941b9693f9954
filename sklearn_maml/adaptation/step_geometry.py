"""The geometry in which a rule moves: support rows in a metric, and their inner products."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import matmul, self_products

__all__ = ["Geometry", "StepMetric"]


@dataclass(frozen=True, eq=False)
class StepMetric:
    """The metric ``M = L L'`` of gradient steps: coordinates, and a ratio for each parameter.

    Attributes
    ----------
    coordinates : Standardization or None
        None steps on the parameters themselves.
    ratios : ndarray of shape (d,) or None
        Of the lengths of steps, in these coordinates; None where they are all the same.
    """

    coordinates: Any = None
    ratios: Any = None

    @cached_property
    def _roots(self):
        return None if self.ratios is None else np.sqrt(self.ratios)

    def rows(self, V):
        """``V L`` for rows V (..., d); V itself where L is the identity."""
        V = V if self.coordinates is None else self.coordinates.rows(V)
        return V if self.ratios is None else V * self._roots

    def lift(self, U):
        """``U L'`` for rows U (..., d): back to the parameters' own coordinates."""
        U = U if self.ratios is None else U * self._roots
        return U if self.coordinates is None else self.coordinates.lift(U)

    def apply(self, V):
        """``V M`` for rows V (..., d)."""
        return self.lift(self.rows(V))


class Geometry:
    """The support rows F of n tasks in a metric ``M = L L'``, and their inner products.

    What is asked for is computed once.

    Parameters
    ----------
    risk : Risk
    metric : object
        With ``rows(V) = V L`` and ``lift(U) = U L'``; L has r columns.
    """

    def __init__(self, risk, metric):
        self.risk, self.metric = risk, metric

    @property
    def tall(self):
        """Whether rows outnumber the metric's directions, so that r x r matrices are smaller."""
        return self.rows.shape[-2] > self.rows.shape[-1]

    @cached_property
    def rows(self):
        """``X = F L``, shape (..., m, r)."""
        return self.metric.rows(self.risk.features)

    @cached_property
    def products(self):
        """``X X'``, shape (..., m, m)."""
        return self_products(self.rows)

    def products_with(self, V):
        """``V M F'`` for rows V (..., k, d), shape (..., k, m)."""
        return matmul(self.metric.rows(V), np.swapaxes(self.rows, -1, -2))

    def trace(self, weights):
        """The trace of `gram`: no eigenvalue is larger, shape (...)."""
        squares = np.einsum("...md,...md->...m", self.rows, self.rows)  # without an array of them
        return (weights * squares).sum(axis=-1)

    def gram(self, weights):
        """``X' W X`` or ``W^1/2 X X' W^1/2``, whichever is smaller: they share eigenvalues."""
        if self.tall:
            return matmul(np.swapaxes(self.rows, -1, -2), weights[..., None] * self.rows)
        root = np.sqrt(weights)
        gram = self.products * root[..., :, None]
        gram *= root[..., None, :]
        return gram
