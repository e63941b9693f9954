"""Regions that hold every theta with ``L <= L(omega)``, and intervals over them (Lemma 3)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sklearn_maml._linalg import matvec
from sklearn_maml.certificate.slopes import rho_range

__all__ = ["Box", "Ellipsoid", "Intervals", "everywhere", "extremes", "narrow", "width"]

# Intervals are wider by this share, against rounding of the linear forms.
WIDER = 1e-12

# Intervals of implicit rules and of several steps feed on one another: so often is worth it.
SWEEPS = 3


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """``{centre + V t : |t| <= radius}``.

    Attributes
    ----------
    centre : ndarray of shape (d,)
    V : ndarray of shape (d, d)
    radius : float
    """

    centre: np.ndarray
    V: np.ndarray
    radius: float

    def forms(self, W, x):
        """The interval of ``W (x' - x)`` over all x' in the region, for rows W (..., d)."""
        return _around(matvec(W, self.centre - x), self.radius * _lengths(W @ self.V))

    def least(self, g, x):
        """The minimum of ``g' (x' - x)``."""
        return self.forms(g[None], x)[0][0]


@dataclass(frozen=True, eq=False)
class Box:
    """``{centre + V t : |t_k| <= half_k}``, as far as it lies inside an ellipsoid."""

    centre: np.ndarray
    V: np.ndarray
    half: np.ndarray
    inside: Ellipsoid

    def forms(self, W, x):
        """See `Ellipsoid.forms`."""
        low, high = _around(matvec(W, self.centre - x), np.abs(W @ self.V) @ self.half)
        outer_low, outer_high = self.inside.forms(W, x)
        return np.maximum(low, outer_low), np.minimum(high, outer_high)

    def least(self, g, x):
        """See `Ellipsoid.least`."""
        return self.forms(g[None], x)[0][0]


def _lengths(rows):
    return np.sqrt(np.square(rows).sum(axis=-1))


def _around(middle, half):
    half = half * (1.0 + WIDER) + WIDER * np.abs(middle)
    return middle - half, middle + half


class Intervals(NamedTuple):
    """Where the u and z of a stack can be, shapes (n, k) and (n, m)."""

    low: np.ndarray
    high: np.ndarray
    z_low: np.ndarray
    z_high: np.ndarray

    def with_anchor(self, at):
        """The same, widened to hold an anchor's own u and z, from which rho and D are seen."""
        return Intervals(
            np.minimum(self.low, at.u),
            np.maximum(self.high, at.u),
            np.minimum(self.z_low, at.z),
            np.maximum(self.z_high, at.z),
        )


def everywhere(stack):
    """No region: u and z may be anything."""
    u, z = np.full(stack.y.shape, np.inf), np.full(stack.y_query.shape, np.inf)
    return Intervals(-u, u, -z, z)


def extremes(matrix, low, high):
    """The interval of ``matrix @ e`` for e between low and high: (n, m, k) and (n, k) to (n, m)."""
    plus, minus = np.maximum(matrix, 0.0), np.minimum(matrix, 0.0)
    with np.errstate(invalid="ignore"):  # 0 times an infinite end
        bottom, top = (
            matvec(plus, low) + matvec(minus, high),
            matvec(plus, high) + matvec(minus, low),
        )
    bottom, top = np.where(np.isnan(bottom), -np.inf, bottom), np.where(np.isnan(top), np.inf, top)
    return _around(bottom, 0.0)[0], _around(top, 0.0)[1]


def narrow(stack, known, region, at, sweeps=SWEEPS):
    """Intervals over a region, intersected with those that are known (Lemma 3).

    Parameters
    ----------
    stack : Stack
    known : Intervals
    region : Ellipsoid or Box
    at : Anchor
        Of the stack, at the region's centre: Lemma 2 is used around it, Lemma 1 from it.
    """
    low, high = known.low, known.high
    linearised, straight = region.forms(at.F, at.x), region.forms(stack.F, at.x)
    for _ in range(sweeps if stack.B is not None else 1):
        if stack.B is None:  # u is linear
            low, high = (
                np.maximum(low, at.u + linearised[0]),
                np.minimum(high, at.u + linearised[1]),
            )
            continue
        e = extremes(stack.B, *_slope_moves(stack, low, high, at))
        low, high = (
            np.maximum(low, at.u + straight[0] - e[1]),
            np.minimum(high, at.u + straight[1] - e[0]),
        )
        if _finite(stack, low, high):
            e = extremes(at.B, *_rho(stack, low, high, at))
            low, high = (
                np.maximum(low, at.u + linearised[0] - e[1]),
                np.minimum(high, at.u + linearised[1] - e[0]),
            )
    low, high = np.where(stack.real, low, -1.0), np.where(stack.real, high, 1.0)
    pairs = [
        (region.forms(stack.Phi, at.x), extremes(stack.C, *_slope_moves(stack, low, high, at)))
    ]
    if _finite(stack, low, high):
        pairs.append((region.forms(at.Psi, at.x), extremes(at.C, *_rho(stack, low, high, at))))
    z_low, z_high = known.z_low, known.z_high
    for (bottom, top), e in pairs:
        z_low, z_high = (
            np.maximum(z_low, at.z + bottom - e[1]),
            np.minimum(z_high, at.z + top - e[0]),
        )
    return Intervals(low, high, z_low, z_high)


def _finite(stack, low, high):
    return np.isfinite(low[stack.real]).all() and np.isfinite(high[stack.real]).all()


def _slope_moves(stack, low, high, at):
    """The interval of ``l'(u) - l'(u0)``: slopes are monotone."""
    limits = stack.loss.slope_range(stack.y)
    ends = []
    for end, limit in zip((low, high), limits, strict=True):
        finite = np.isfinite(end)
        slope = stack.loss.gradient(stack.y, np.where(finite, end, 0.0))
        ends.append(stack.masked(np.where(finite, slope, limit) - at.s))
    return ends


def _rho(stack, low, high, at):
    """The interval of rho around an anchor."""
    low, high = np.minimum(low, at.u), np.maximum(high, at.u)
    return [stack.masked(end) for end in rho_range(stack.loss, stack.y, at.u, low, high)]


def width(stacks, intervals):
    """The mean width of the intervals of u: whether another round is worth it."""
    pairs = list(zip(stacks, intervals, strict=True))
    total = sum(stack.masked(np.minimum(i.high - i.low, 1e3)).sum() for stack, i in pairs)
    return total / max(1, sum(stack.real.sum() for stack in stacks))
