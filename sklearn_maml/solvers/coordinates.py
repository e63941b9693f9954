"""The objective in coordinates in which its Hessian can be told from rounding.

Two features that differ by little (or a feature and the intercept, where its mean is many times its
deviation) make Hessians whose smallest eigenvalues drown in the rounding of the largest: from 1e8
deviations on nothing is left of them, however good the solver. Their rows still tell: a QR
decomposition of them does not square the condition number. So, where the Hessian is nearly
singular, solvers work in coordinates y in which the features are orthonormal,

    theta = theta_0 + W y,   Phi' Phi + alpha I = R'R,   R = U S V' D,   W = D^-1 V S^-1

with columns of unit length after division by D, and without the directions in which no row varies:
theta stays what it was along them. The gradient in y is ``W' g``; the Hessian is made of rows
``psi' W``, never as ``W' H W``.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._linalg import triangle
from sklearn_maml._objective.gauss_newton_hessian import gauss_newton_hessian
from sklearn_maml.solvers.damping import is_nearly_singular

__all__ = ["Coordinates", "Point"]

# What a column of unit length must have of its own, squared, for a Hessian to be trusted: below
# that a damping of 1e-9 would decide. A mean of 20,000 deviations is a share of 2.5e-9.
SAFELY_REGULAR = 2e-9

# A smaller share of a gradient is rounding.
UNSEEN = 1e-6

EPS = np.finfo(float).eps


class Point(NamedTuple):
    """What is known of an objective at one place.

    Attributes
    ----------
    y : ndarray of shape (r,) or (n_targets, r)
        The place, in the coordinates that the solver works in.
    value : float
    gradient : ndarray of the shape of y
    hessian : ndarray of shape (..., r, r) or None
    """

    y: np.ndarray
    value: float
    gradient: np.ndarray
    hessian: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Coordinates:
    """An objective as a function of coordinates y, with ``theta = start + W y``.

    Attributes
    ----------
    objective : MetaObjective
    start : ndarray of shape (d,) or (n_targets, d)
        The theta of y = 0.
    change : ndarray of shape (d, r) or None
        W; None where y is theta itself.
    """

    objective: Any
    start: np.ndarray
    change: np.ndarray | None = None

    @classmethod
    def plain(cls, objective, theta):
        """Theta itself for coordinates, and what is known there but for the Hessian."""
        coordinates = cls(objective, theta)
        return coordinates, coordinates.look(theta)

    @classmethod
    def choose(cls, objective, theta, least=SAFELY_REGULAR):
        """Coordinates that suit an objective, and what is known at theta in them.

        Parameters
        ----------
        objective : MetaObjective
        theta : ndarray of shape (d,) or (n_targets, d)
        least : float
            Theta itself will do where each column of the Hessian, of unit length, has a larger
            squared share of its own than this.

        Returns
        -------
        Coordinates, Point
            The point has its Hessian.
        """
        plain = cls(objective, theta)
        point = plain.look(theta, hessian=True)
        regular = not is_nearly_singular(point.hessian, least)
        if regular or not np.isfinite(point.hessian).all():
            return plain, point
        change = orthonormalising(objective, point.gradient)
        if not change.shape[1]:  # all features are zero: so is the gradient
            return plain, point
        changed = cls(objective, theta, change)
        origin = np.zeros((*theta.shape[:-1], changed.change.shape[1]))
        return changed, changed.look(origin, hessian=True)

    def theta(self, y):
        """The meta-parameters at y."""
        return y if self.change is None else self.start + y @ self.change.T

    def look(self, y, hessian=False):
        """What is known at y, with the Gauss-Newton Hessian if asked for: one pass over the data.

        Returns
        -------
        Point
        """
        theta, found = self.theta(y), None
        if hessian:
            found = gauss_newton_hessian(self.objective, theta, self.change)
        value, gradient = self.objective.value_and_gradient(theta)
        return Point(y, value, gradient if self.change is None else gradient @ self.change, found)

    def rises(self, point, there):
        """Whether the value is higher than at a point, by more than rounding can explain."""
        rise, unseen = there.value - point.value, 1e-14 * abs(point.value)
        # Written so that what is not a number rises.
        return not rise <= unseen and not rise <= 2.0 * self.rounding(there.y)

    def rounding(self, y):
        """How far the rounding of predictions can move the value; 0 where that is no concern.

        ``sum_i p_i sum_j b_ij |l'_ij| eps |phi_ij|' |theta_i|``
        """
        if self.change is None:
            return 0.0
        return EPS * float(self.objective.reduce(_size_of_terms, self.theta(y))[0])


def orthonormalising(objective, gradient):
    """W of the module's docstring.

    Parameters
    ----------
    objective : MetaObjective
    gradient : ndarray of shape (..., d)
        At the start. If it has a share in directions in which no row varies, the rule sees more of
        theta than predictions of rows: then W keeps these directions, as long as the others.

    Returns
    -------
    ndarray of shape (d, r)
    """
    rows = objective.fold(partial(_feature_rows, objective), _stack)
    rows = _stack(rows, np.diag(np.sqrt(objective.penalty)))
    scale = np.sqrt(np.square(rows).sum(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    _, s, vt = np.linalg.svd(rows / scale, full_matrices=False)
    kept = s > 10.0 * EPS * len(scale) * s[0]
    s, vt = s[kept], vt[kept]
    outside = gradient / scale
    outside = outside - outside @ vt.T @ vt
    if np.linalg.norm(outside) > UNSEEN * np.linalg.norm(gradient / scale):
        null = np.linalg.qr(vt.T, mode="complete")[0][:, len(s) :].T
        s, vt = np.append(s, np.ones(len(null))), np.concatenate([vt, null])
    return vt.T / s / scale[:, None]


def _feature_rows(objective, i):
    """A triangle of a block's features, query and support, scaled by the roots of their weights."""
    support, query, weight = objective.risks(i)
    risks = (query,) if query is support else (query, support)
    rows = [
        (np.sqrt(weight[:, None] * risk.weights)[..., None] * risk.features).reshape(
            -1, risk.features.shape[-1]
        )
        for risk in risks
    ]
    return triangle(np.concatenate(rows))


def _stack(upper, lower):
    return triangle(np.concatenate([upper, lower]))


def _size_of_terms(linearization):
    """A block's part of what `Coordinates.rounding` adds up, in units of the last bit."""
    size = linearization.query.magnitude(linearization.theta_i)
    return ((linearization.row_weight * np.abs(linearization.loss_gradient) * size).sum(),)
