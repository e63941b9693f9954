"""Theorem 3: a proximal rule whose query rows are its support rows has a dual, row by row.

    min L >= sum_i p_i sum_j inf_v [b l(v) - c l'(v) - kappa v] - x1' A x1,

for any kappa with ``sum_i p_i F_i' kappa_i + 2 A x1 = 0`` and ``c_i = B_i' kappa_i``. With a kappa
that makes every row stationary at omega it is exact where every row is convex (Corollary 3).
"""

import numpy as np

from sklearn_maml._linalg import flat_vecmat, matvec, vecmat
from sklearn_maml.certificate.coordinates import unmet
from sklearn_maml.certificate.slope_problem import gram

__all__ = ["rows_bound"]

# Bracketing of a row's minimiser, in units of the loss.
NEWTON_STEPS, LONGEST_STEP, BRACKET, DOUBLINGS = 6, 0.1, 1e-7, 40

# A row that is not convex is searched on so many points, and again so many cells around the best.
GRID, AROUND = 257, 4


def rows_bound(problem, anchors, intervals, gradient):
    """Theorem 3: a lower bound on L, and the share of rows, by weight, that are convex.

    Parameters
    ----------
    problem : SlopeProblem
        Of a proximal rule, with query rows that are the support rows.
    anchors : list of Anchor
        At omega.
    intervals : list of Intervals
        Where u can be: rows that are not convex are bounded on them.
    gradient : ndarray of shape (d,)
        Of L at omega, in x.

    Returns
    -------
    lower, convex : float
    """
    x, parts, hessian = problem.x, [], 2.0 * problem.A
    for stack, at in zip(problem.stacks, anchors, strict=True):
        nu = stack.b * problem.loss.gradient(stack.y_query, at.z)
        c = vecmat(nu, at.C)
        curvature = stack.masked(stack.b * at.curvature - c * problem.loss.third(stack.y, at.u))
        parts.append((stack, at, stack.masked(nu - at.curvature * c), np.maximum(curvature, 0.0)))
        hessian = hessian + gram(stack.F, stack.weight[:, None] * parts[-1][-1])
    # One Newton step on kappa makes its condition exact, at the price of |gradient|^2.
    step = np.linalg.lstsq(hessian, gradient, rcond=1e-13)[0]
    point = x - step
    total, rest, convex = -point @ problem.A @ point, 2.0 * problem.A @ point, 0.0
    size = np.abs(rest)
    for (stack, at, kappa, curvature), known in zip(parts, intervals, strict=True):
        move = matvec(stack.F, step)
        size = size + flat_vecmat(stack.weight[:, None] * np.abs(kappa), np.abs(stack.F))
        kappa = kappa - curvature * move
        c = vecmat(kappa, stack.B)
        least, fine = _row_minima(stack, known, at.u - move, c, kappa)
        total += (stack.weight[:, None] * stack.masked(least)).sum()
        convex += (stack.row_weight * fine).sum()
        rest = rest + flat_vecmat(stack.weight[:, None] * kappa, stack.F)
    lower = float(total - unmet(rest, size, point, x))
    return (lower if np.isfinite(lower) else -np.inf), float(convex)


def _row_minima(stack, known, v, c, kappa):
    """``inf over v of b l(v) - c l'(v) - kappa v``, from below, and whether the row is convex."""
    up, down = stack.loss.third_ratios
    with np.errstate(invalid="ignore"):
        need = np.where(c > 0, c * up, np.where(c < 0, -c * down, 0.0))
    convex = (need <= stack.b) & stack.real
    row = _Row(stack.loss, stack.y, stack.b, c, kappa)
    least = np.full(v.shape, -np.inf)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        least[convex] = row.take(convex).convex_minimum(v[convex])
        rest = stack.real & ~convex & np.isfinite(known.low) & np.isfinite(known.high)
        if rest.any():
            least[rest] = row.take(rest).minimum_between(known.low[rest], known.high[rest])
    return least, convex


class _Row:
    """The scalar functions ``b l(v) - c l'(v) - kappa v``."""

    def __init__(self, loss, y, b, c, kappa):
        self.loss, self.arrays = loss, (y, b, c, kappa)

    def take(self, chosen):
        return _Row(self.loss, *(a[chosen] for a in self.arrays))

    def value(self, v):
        y, b, c, kappa = self.arrays
        return b * self.loss.value(y, v) - c * self.loss.gradient(y, v) - kappa * v

    def slope(self, v):
        y, b, c, kappa = self.arrays
        return b * self.loss.gradient(y, v) - c * self.loss.hessian(y, v) - kappa

    def curvature(self, v):
        y, b, c, _ = self.arrays
        return b * self.loss.hessian(y, v) - c * self.loss.third(y, v)

    def convex_minimum(self, v):
        """Newton steps, then a bracket, on which the tangent at its left end is a bound."""
        unit = 1.0 / max(self.loss.third_ratios)
        for _ in range(NEWTON_STEPS):
            curvature = self.curvature(v)
            step = np.where(
                curvature > 0, self.slope(v) / np.where(curvature > 0, curvature, 1.0), 0.0
            )
            v = v - np.clip(step, -LONGEST_STEP * unit, LONGEST_STEP * unit)
        half = np.full(v.shape, BRACKET * unit)
        for _ in range(DOUBLINGS):
            open_ends = (self.slope(v - half) > 0) | (self.slope(v + half) < 0)
            if not open_ends.any():
                break
            half = np.where(open_ends, 2.0 * half, half)
        left = v - half
        bound = self.value(left) + 2.0 * half * np.minimum(self.slope(left), 0.0)
        return np.where((self.slope(left) > 0) | (self.slope(v + half) < 0), -np.inf, bound)

    def minimum_between(self, low, high):
        """The least value on a grid, less what the curvature allows in between.

        A second grid, around the best point of the first, makes that loss small where it counts.
        """
        coarse, values = self._on_grid(low, high)
        best, last = values.argmin(axis=1), GRID - 1
        near = np.clip(best - AROUND, 0, last), np.clip(best + AROUND, 0, last)
        cells = np.arange(last)
        outside = (cells < near[0][:, None]) | (cells >= near[1][:, None])
        rest = np.where(outside, np.minimum(values[:, :-1], values[:, 1:]), np.inf).min(axis=1)
        ends = [np.take_along_axis(coarse, n[:, None], axis=1)[:, 0] for n in near]
        fine = self._on_grid(*ends)[1].min(axis=1)
        return np.minimum(rest - self._sag(high - low), fine - self._sag(ends[1] - ends[0]))

    def _on_grid(self, low, high):
        """Points of an interval, and the values there, shape (n, GRID)."""
        points = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, GRID)
        row = _Row(self.loss, *(a[:, None] for a in self.arrays))
        return points, row.value(points)

    def _sag(self, width):
        """How far the function can fall below its values at the ends of a grid's cells."""
        _, b, c, _ = self.arrays
        curvature = self.loss.hessian_bound * b + self.loss.third_bound * np.abs(c)
        return (width / (GRID - 1)) ** 2 / 8.0 * curvature
