"""The structure of a covariance: which entries of a factor L of Sigma = L L' there are.

All of a lower triangle, a diagonal, a diagonal of which some entries are one and the same, or a
diagonal beside k columns (factor analysis): L is linear in its free entries x, so that a derivative
G in Sigma becomes one in x by the entries of ``2 G L``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FLOOR", "Structure"]

# Standard deviations, in units of the residual's, of random effects of features of unit size. Below
# this one a variance is no scale for steps.
FLOOR = 1e-2

# A step changes no standard deviation by more than this, in units of itself (or of FLOOR).
LONGEST = 2.0

# A value is convex where its curvature, each coordinate in its own unit, is nowhere below this.
CONVEX = 1e-8


@dataclass(frozen=True, eq=False)
class Structure:
    """Covariances ``Sigma = L L'`` of q effects; build them by a class method.

    Attributes
    ----------
    shape : tuple (q, p)
        Of L.
    entries : tuple of ndarray (row, column)
        Of L that are not zero, each of shape (m,).
    which : ndarray of shape (m,)
        Which of the k coordinates x each of them is.
    information : {"full", "diagonal"} or None
        What of Fisher's information a scoring step needs; None where none can be taken: the
        squares of such matrices must have the structure too.
    """

    shape: tuple
    entries: Any
    which: np.ndarray
    information: str | None

    @classmethod
    def full(cls, q):
        """All symmetric positive semi-definite matrices (q, q)."""
        entries = np.tril_indices(q)
        return cls((q, q), entries, np.arange(len(entries[0])), "full")

    @classmethod
    def diagonal(cls, which):
        """Diagonal ones: effect j has the standard deviation ``x[which[j]]``."""
        q = len(which)
        return cls((q, q), np.diag_indices(q), np.asarray(which), "diagonal")

    @classmethod
    def low_rank(cls, q, k):
        """A diagonal and k factors: ``diag(x[:q]^2) + F F'``, F of shape (q, k)."""
        row, column = np.indices((q, k)).reshape(2, -1)
        row, column = np.append(np.arange(q), row), np.append(np.arange(q), q + column)
        return cls((q, q + k), (row, column), np.arange(len(row)), None)

    @property
    def size(self):
        """q, the number of effects."""
        return self.shape[0]

    def factor(self, x):
        """L of coordinates x."""
        factor = np.zeros(self.shape)
        factor[self.entries] = x[self.which]
        return factor

    def contract(self, slope):
        """The derivative in x from that in L."""
        return np.bincount(self.which, slope[self.entries])

    def coordinates(self, relative):
        """x of a Sigma, in which no direction is without variance: such a one could not grow."""
        values, vectors = np.linalg.eigh(relative)
        relative = (vectors * np.maximum(values, FLOOR**2)) @ vectors.T
        root = np.linalg.cholesky(relative)
        x = np.zeros(self.which.max(initial=-1) + 1)
        x[self.which] = root[self.entries]
        return x

    def closest(self, slope):
        """What of a derivative in Sigma (q, q) is left within the structure."""
        if self.information == "full":
            return slope
        sums = np.bincount(self.which, np.diagonal(slope))
        return np.diag((sums / np.bincount(self.which))[self.which])

    def scoring_step(self, at, damping):
        """Fisher's step D in a root of S: ``Sigma = K (R + D)(R + D)' K'``; see `Likelihood`.

        Parameters
        ----------
        at : Likelihood
            With its information.
        damping : float

        Returns
        -------
        step : ndarray of shape (q, q)
        change : float
            By how much it should lower the value.
        """
        # The gradient's own part of the Hessian by its absolute value: the step always descends.
        gradient = at.gradient if self.information == "full" else np.diag(np.diagonal(at.gradient))
        values, vectors = np.linalg.eigh(gradient)
        curvature = (vectors * np.abs(values)) @ vectors.T
        slope, hessian, basis = self._in_root(at, at.information, curvature)
        size = np.diagonal(hessian)
        ridge = damping * size + 1e-13 * size.max(initial=0.0) + np.finfo(float).tiny
        x = np.linalg.solve(hessian + np.diag(ridge), -slope)
        return _limited(basis @ x, at), -0.5 * float(slope @ x)

    def newton_step(self, at, second):
        """`scoring_step` by the second derivative itself; None where the value is not convex.

        Parameters
        ----------
        at : Likelihood
        second : ndarray
            As of `root_derivatives`.
        """
        slope, hessian, basis = self._in_root(at, second, at.gradient)
        unit = np.sqrt(np.maximum(np.diagonal(hessian), 0.0))
        if not unit.all():
            return None
        values, vectors = np.linalg.eigh(hessian / np.outer(unit, unit))
        if values.min(initial=1.0) < CONVEX:
            return None
        x = -(vectors @ (vectors.T @ (slope / unit) / values)) / unit
        return _limited(basis @ x, at), -0.5 * float(slope @ x)

    def root_derivatives(self, at, second):
        """The gradient and the Hessian of the value in the root of S, within the structure.

        Parameters
        ----------
        at : Likelihood
        second : ndarray
            The value's second derivative in S, of the shape of its information.

        Returns
        -------
        slope : ndarray of shape (k,)
        hessian : ndarray of shape (k, k)
        """
        return self._in_root(at, second, at.gradient)[:2]

    def _in_root(self, at, second, curvature):
        """Gradient and Hessian in D, a change of the root of S, and the basis of such D."""
        if self.information == "full":
            return _in_all_entries(at, second, curvature)
        q = self.size
        ties = np.zeros((q, self.which.max(initial=-1) + 1))
        ties[np.arange(q), self.which] = 1.0
        bent = np.diag(2.0 * np.diagonal(curvature))
        hessian = 4.0 * np.outer(at.root, at.root) * second + bent
        slope = 2.0 * at.root * np.diagonal(at.gradient)
        basis = np.zeros((q * q, ties.shape[1]))
        basis[:: q + 1] = ties
        return ties.T @ slope, ties.T @ hessian @ ties, basis


def _limited(step, at):
    """A step, in which no axis is changed by much more than it is long, or the one it moves along.

    What a short axis takes of a long one turns that by as little as the short one is short.
    """
    length = np.linalg.norm(at.to, axis=0)
    most = LONGEST * np.maximum(1.0, length / length[:, None])
    return np.clip(step.reshape(most.shape), -most, most)


def _in_all_entries(at, second, curvature):
    """Gradient and Hessian in a triangular D, and the basis of such D.

    ``d S = D R + R D' + D D'``: to first order the entry of axes a and b is ``r_b D_ab``, and the
    gradient G, here `curvature`, bends by ``2 tr(G D D')``. Each axis is moved along those that
    are longer; were D symmetric, the longer ones would be moved as far, in units of their length.
    """
    q = len(at.root)
    order = np.lexsort((at.root, np.linalg.norm(at.to, axis=0)))[::-1]
    row, column = order[np.array(np.tril_indices(q))]
    basis = np.zeros((q, q, len(row)))
    basis[row, column, np.arange(len(row))] = 1.0
    moved = basis * at.root[:, None]
    moved = (moved + np.swapaxes(moved, 0, 1)).reshape(q * q, -1)
    basis = basis.reshape(q * q, -1)
    bent = 2.0 * basis.T @ np.kron(curvature, np.eye(q)) @ basis
    return moved.T @ at.gradient.ravel(), moved.T @ second @ moved + bent, basis
