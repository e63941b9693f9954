"""Branch and bound: a region is halved until every box is proved, for few parameters."""

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_maml._linalg import flat_vecmat, vecmat
from sklearn_maml.certificate.convexity import least_curvature, newton_gap, second_order
from sklearn_maml.certificate.regions import Box, Ellipsoid, narrow
from sklearn_maml.certificate.relaxation import relaxation

__all__ = ["branch_and_bound"]

# A box's relaxation needs no more precision than this share of L.
PRECISION = 3e-5

# Intervals that miss one another by so little may do so by rounding.
EMPTY = 1e-9


@dataclass(frozen=True, eq=False)
class _Search:
    """What does not change between boxes."""

    problem: Any
    anchors: list
    region: Ellipsoid
    intervals: list
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    goal: float
    V: np.ndarray
    effect: np.ndarray

    def box(self, low, high):
        """The box between two corners in the coordinates V, around omega."""
        centre = self.problem.x + self.V @ (0.5 * (low + high))
        return Box(centre, self.V, 0.5 * (high - low), self.region)

    def bound(self, low, high, known):
        """A lower bound on L in a box, and whether the box is done with.

        Tried are, in this order: that the box is empty; Theorem 4 from omega; Theorem 4 from its
        centre; Theorem 1.
        """
        box = self.box(low, high)
        around = self.problem.anchors(box.centre)
        intervals = [
            narrow(stack, i, box, at, sweeps=2)
            for stack, i, at in zip(self.problem.stacks, self.intervals, around, strict=True)
        ]
        if any(_empty(stack, i) for stack, i in zip(self.problem.stacks, intervals, strict=True)):
            return np.inf, True
        Q = least_curvature(self.problem, self.anchors, intervals, box)
        gap = newton_gap(Q, self.gradient, self.hessian)
        if np.isfinite(gap):
            return self.value - gap, True
        best = max(known, second_order(self.problem, box, around, intervals))
        if best < self.goal:
            best = max(best, self._relaxed(box, around, intervals))
        return best, best >= self.goal

    def _relaxed(self, box, around, intervals):
        relaxed = relaxation(self.problem, intervals, box)
        slopes = [at.s for at in around]
        return relaxed.solve(box.centre, slopes, self.value, PRECISION, enough=self.goal).lower


def _empty(stack, known):
    """Whether no x of the region gives u in its intervals."""
    gap = known.low - known.high
    return (gap > EMPTY * (1.0 + np.abs(known.low) + np.abs(known.high)))[stack.real].any()


def branch_and_bound(problem, anchors, region, intervals, known, tolerance, max_nodes):
    """A lower bound on L over a region that holds every minimiser.

    Parameters
    ----------
    problem : SlopeProblem
    anchors : list of Anchor
        At omega.
    region : Ellipsoid
    intervals : list of Intervals
        Over the region.
    known : float
        A lower bound on the region.
    tolerance : float
        Boxes are done with where their bound is within this share of L.
    max_nodes : int

    Returns
    -------
    lower : float
    n_nodes : int
    """
    value, gradient, hessian = problem.derivatives(anchors)
    values, vectors = np.linalg.eigh(hessian)
    V = vectors / np.sqrt(np.maximum(np.abs(values), 1e-9 * np.abs(values).max()))
    search = _Search(
        problem,
        anchors,
        region,
        intervals,
        value,
        gradient,
        hessian,
        value - tolerance * abs(value),
        V,
        _effect(problem, anchors, V),
    )
    middle = np.linalg.solve(V, region.centre - problem.x)
    extent = region.radius * np.sqrt(np.square(np.linalg.solve(V, region.V)).sum(axis=1))
    heap, done, count = [(known, 0, middle - extent, middle + extent)], value, 0
    while heap and count < max_nodes:
        lower, _, low, high = heapq.heappop(heap)
        k = int(np.argmax((high - low) * search.effect))
        for half in (0, 1):
            corners = [low.copy(), high.copy()]
            corners[1 - half][k] = 0.5 * (low[k] + high[k])
            count += 1
            bound, finished = search.bound(*corners, lower)
            if finished:
                done = min(done, bound)
            else:
                heapq.heappush(heap, (bound, count, *corners))
    return float(min([done, *(entry[0] for entry in heap)])), count


def _effect(problem, anchors, V):
    """How much each direction matters: ``sum p |c| |f' V_k|``."""
    total = np.zeros(V.shape[1])
    for stack, at in zip(problem.stacks, anchors, strict=True):
        c = vecmat(stack.b * problem.loss.gradient(stack.y_query, at.z), at.C)
        total += flat_vecmat(stack.weight[:, None] * np.abs(stack.masked(c)), np.abs(at.F @ V))
    return total
