"""The geometry of gradient steps, seen from the parameters and from the rows."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from sklearn_maml._linalg import matvec

__all__ = ["Geometry", "Stride", "follow"]


class Stride(NamedTuple):
    """One inner step of a stack of tasks.

    Attributes
    ----------
    start : ndarray of shape (..., d)
        The parameters that it leaves.
    predictions : ndarray of shape (..., m)
        Those of the support rows by them.
    step : ndarray of shape (...)
        Its length.
    move : ndarray of shape (..., d)
        What it subtracts from them.
    shortening : ndarray of shape (..., d) or None
        Minus the gradient of log(step) in `start`, where steps are damped.
    """

    start: np.ndarray
    predictions: np.ndarray
    step: np.ndarray
    move: np.ndarray
    shortening: np.ndarray | None


class Geometry:
    """Support rows in the coordinates in which steps are taken, and their inner products.

    What is asked for is computed once; it lives as long as one block's linearization.

    Parameters
    ----------
    risk : Risk
    coordinates : Standardization or None
    ratios : ndarray of shape (d,), default=None
        Of the step lengths, in these coordinates; None where they are all the same.
    """

    def __init__(self, risk, coordinates, ratios=None):
        self.risk, self.coordinates, self.ratios = risk, coordinates, ratios
        self.tall = risk.features.shape[-2] > risk.features.shape[-1]

    def standardise(self, V):
        """``V L`` for rows V (..., k, d), times the roots of the ratios."""
        V = V if self.coordinates is None else self.coordinates.rows(V)
        return V if self.ratios is None else V * np.sqrt(self.ratios)

    @cached_property
    def rows(self):
        """``F = Phi L``, shape (..., m, d)."""
        return self.standardise(self.risk.features)

    @cached_property
    def products(self):
        """``F F'``, shape (..., m, m); kept where it is no larger than features that are kept."""
        kept = self.risk.kept if not self.tall and self.risk.kept is not None else {}
        if "products" not in kept:
            kept["products"] = np.matmul(self.rows, np.swapaxes(self.rows, -1, -2))
        return kept["products"]

    def gram(self, weights):
        """``F' W F`` or ``W^1/2 F F' W^1/2``, whichever is smaller: they share eigenvalues."""
        if self.tall:
            return np.matmul(np.swapaxes(self.rows, -1, -2), weights[..., None] * self.rows)
        root = np.sqrt(weights)
        gram = self.products * root[..., :, None]
        gram *= root[..., None, :]
        return gram


def follow(theta, support, query, geometry, step, n_steps):
    """Predictions of the query rows after gradient steps, and how they depend on the support's.

    Parameters
    ----------
    theta : ndarray of shape (..., 1, d) or (..., n, d)
    support, query : Risk
        Of n tasks, with m_s and m_q rows. The features of `support` are kept, and their products
        are kept with them.
    geometry : Geometry
        Of the support rows.
    step : ndarray of shape (n,)
        Lengths that do not depend on theta.
    n_steps : int

    Returns
    -------
    predictions : ndarray of shape (..., n, m_q)
    pull : callable
        Maps rows V (..., n, k, m_q) to the (..., n, k, m_s) with which ``V dz/dtheta = V Phi -
        pull(V) F``, for predictions z.
    """
    inner, kept = geometry.products, support.kept
    if query is not support and "outer" not in kept:
        rows = geometry.standardise(query.features)
        kept["outer"] = np.matmul(rows, np.swapaxes(geometry.rows, -1, -2))
    outer = inner if query is support else kept["outer"]
    z, path, moved = support.predict(theta), [], 0.0
    predictions = z if query is support else query.predict(theta)
    for _ in range(n_steps):
        path.append(z)
        force = step[:, None] * support.residual_at(z)
        moved = moved + force
        z = z - matvec(inner, force)
    predictions = z if query is support else predictions - matvec(outer, moved)

    def pull(V):
        direct, total = np.matmul(V, outer), None
        for z in reversed(path):
            bend = (step[:, None] * support.curvature_at(z))[..., None, :]
            if total is None:
                total = direct * bend
                continue
            # Into the same memory: more of it would cost as much as the products.
            back = np.matmul(total, inner)
            np.subtract(direct, back, out=back)
            back *= bend
            back += total
            total = back
        return total

    return predictions, pull
