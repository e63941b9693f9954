"""The tight bounds for convex losses, cheapest first: which are tried, and what they find.

Theorem 3               one pass, for proximal rules with query rows that are support rows
Theorem 1, everywhere   one convex program
rounds                  regions by Theorems 2 and 2b, Theorem 1 on them, Theorem 4, Corollary 5
branch and bound        of the last region
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._linalg import vecmat
from sklearn_maml.certificate.branch import branch_and_bound
from sklearn_maml.certificate.convexity import least_curvature, newton_gap
from sklearn_maml.certificate.minimisers import first_ball, shrunken_ellipsoid
from sklearn_maml.certificate.regions import everywhere, narrow, width
from sklearn_maml.certificate.relaxation import relaxation
from sklearn_maml.certificate.rows import rows_bound
from sklearn_maml.certificate.slope_problem import NotCovered, slope_problem
from sklearn_maml.certificate.slopes import rho_range
from sklearn_maml.certificate.spot_checks import is_foreign

__all__ = ["EFFORTS", "Effort", "tight_bounds"]


class Effort(NamedTuple):
    """How much a certificate may cost.

    Attributes
    ----------
    rounds : int
        Of the relaxation; the first is that over all theta.
    n_nodes : int
        Of branch and bound.
    precision : float
        Of the relaxation, as a share of L.
    share : float
        Of the bound: steps of the relaxation that gain less are left out.
    max_work : float
        Multiplications that one of its Newton steps may take.
    """

    rounds: int
    n_nodes: int
    precision: float
    share: float
    max_work: float


EFFORTS = {
    "fast": Effort(1, 0, 1e-3, 0.02, 2e7),
    "full": Effort(10, 0, 1e-6, 0.005, 1e10),
    "branch": Effort(10, 4000, 1e-6, 0.005, 1e10),
}

# The meta-loss and what the slope form makes of it may differ by this share, by rounding.
SAME = 1e-7

# Another round is worth it while intervals shrink by more than this.
SHRUNK = 0.98

# Branch and bound is done with a box that is proved up to this share of L.
TOLERANCE = 5e-4

NAMES = {
    "rows": "Theorem 3",
    "everywhere": "Theorem 1, relaxed",
    "regions": "Theorem 1, relaxed on a region",
    "convexity": "Theorem 4",
    "corollary": "Corollary 5",
    "branch": "branch and bound",
}


@dataclass(eq=False)
class _Found:
    """Gaps by route, what there is to say, and L as the routes see it at some points."""

    gaps: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    values: list = field(default_factory=list)

    def add(self, route, gap):
        """Keep a gap if it is the route's smallest."""
        if np.isfinite(gap):
            name = NAMES[route]
            self.gaps[name] = min(max(float(gap), 0.0), self.gaps.get(name, np.inf))

    @property
    def smallest(self):
        return min(self.gaps.values(), default=np.inf)


def tight_bounds(objective, theta, effort, rounding):
    """Gaps ``L(theta) - min L``, at most, by route; targets add up.

    Parameters
    ----------
    objective : MetaObjective
        With its rule's true derivative.
    theta : ndarray of shape (d,) or (n_targets, d)
    effort : Effort
    rounding : float
        How far off an evaluation of L can be: regions are larger by it.

    Returns
    -------
    gaps : dict of str to float
        Routes that cover every target.
    notes : tuple of str
        What kept the others away.
    """
    found = [
        _of_target(objective, part, target, effort, rounding)
        for target, part in enumerate(np.atleast_2d(theta))
    ]
    points = _trial_points(objective, theta)
    wanted = [objective.value(at) for at in points]
    if all(f.values for f in found) and not np.allclose(
        np.sum([f.values for f in found], axis=0), wanted, rtol=SAME, atol=10.0 * rounding
    ):
        return {}, (
            f"the slope form of {type(objective.rule).__name__} does not say how it adapts: with "
            "it, the meta-loss is another",
        )
    common = [name for name in found[0].gaps if all(name in f.gaps for f in found)]
    gaps = {name: sum(f.gaps[name] for f in found) for name in common}
    if len(found) > 1 and all(f.gaps for f in found):  # each target by its own best route
        gaps["best route of each target"] = sum(f.smallest for f in found)
    return gaps, tuple(dict.fromkeys(note for f in found for note in f.notes))


def _trial_points(objective, theta):
    """Where L is compared with what the slope form makes of it: a foreign one is tried elsewhere.

    Each target moves by the same share of itself.
    """
    if not is_foreign(objective.rule, "slope_form"):
        return [theta]
    return [theta, 0.5 * theta, np.zeros_like(theta), -theta]


def _of_target(objective, theta, target, effort, rounding):
    found = _Found()
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            dense = effort.rounds > 1
            problem = slope_problem(objective, theta, target, effort.max_work, dense)
            others = [problem.inverse @ at for at in _trial_points(objective, theta)[1:]]
            found.values = [problem.value(x) for x in (problem.x, *others)]
            _search(problem, effort, rounding, found)
    except NotCovered as reason:
        found.notes.append(str(reason))
    except np.linalg.LinAlgError as error:
        found.notes.append(f"a linear system could not be solved ({error})")
    return found


def _search(problem, effort, rounding, found):
    """Try the routes, cheapest first, until one is exact or the effort is spent."""
    by_rows = problem.shared and problem.implicit and np.isfinite(problem.loss.third_ratios).all()
    bounded = _has_bounded_slopes(problem)
    if not (by_rows or bounded):
        raise NotCovered(
            f"slopes of {problem.loss!r} have no known bound; only proximal rules whose query rows "
            "are support rows have another route, for losses with third_ratios"
        )
    intervals = [everywhere(stack) for stack in problem.stacks]
    if not by_rows and effort.rounds == 1:  # no more than the slopes at omega is needed
        _relax(problem, intervals, effort, found)
        return
    anchors = problem.anchors(problem.x)
    state = _State(problem, anchors, *problem.derivatives(anchors), rounding)
    if by_rows:
        lower, convex = rows_bound(problem, anchors, intervals, state.gradient)
        found.add("rows", state.value - lower)
        if np.isfinite(lower) or not bounded:
            return
        found.notes.append(
            f"Theorem 3: {1 - convex:.2g} of the rows, by weight, move too far for their "
            "convexity; a larger strength would help"
        )
    region = _rounds(state, intervals, effort, found)
    if region is not None and effort.n_nodes and not _is_exact(state, found):
        known = state.value - found.smallest
        lower, n_nodes = branch_and_bound(
            problem, anchors, *region, known, TOLERANCE, effort.n_nodes
        )
        found.add("branch", state.value - lower)
        if n_nodes >= effort.n_nodes:
            found.notes.append(f"branch and bound stopped after {n_nodes} boxes")


class _State(NamedTuple):
    """The certified point: anchors, L, its gradient and its Hessian in x."""

    problem: Any
    anchors: list
    value: float
    gradient: np.ndarray
    hessian: np.ndarray
    rounding: float

    def parts(self, *more):
        """Stacks, their anchors, and whatever else there is one a stack of."""
        return zip(self.problem.stacks, self.anchors, *more, strict=True)


def _has_bounded_slopes(problem):
    """Whether l' is bounded for all targets, and its derivatives are known well enough."""
    loss = problem.loss
    ends = [end for stack in problem.stacks for end in loss.slope_range(stack.y)]
    return np.isfinite(loss.third_bound) and all(np.isfinite(end).all() for end in ends)


def _relax(problem, intervals, effort, found, region=None):
    """Theorem 1 on a region, or everywhere: the point where it ends."""
    whole = region is None
    value = problem.value(problem.x)
    relaxed = relaxation(problem, intervals, region)
    slopes = [s for _, s, _ in problem.graphs]
    point = relaxed.solve(problem.x, slopes, value, effort.precision, effort.share)
    found.add("everywhere" if whole else "regions", value - point.lower)
    return point


def _rounds(state, intervals, effort, found):
    """Relax, find the region that is left, look at its convexity, and again."""
    problem, last, region = state.problem, None, None
    for r in range(effort.rounds):
        point = _relax(problem, intervals, effort, found, region)
        excess = state.value - point.lower + 2.0 * state.rounding
        if r + 1 == effort.rounds or not np.isfinite(excess):
            break
        if not _has_turn(problem):
            found.notes.append(f"regions: {problem.loss!r} does not say where its slope turns")
            return None
        if r:
            region = shrunken_ellipsoid(problem, intervals, point, excess)
        else:
            region = first_ball(problem, point, excess)
        if region is None:
            found.notes.append(
                "regions: no ball holds all minimisers; some direction is hardly seen by the query "
                "rows. A penalty or fewer features would help"
            )
            break
        before = width(problem.stacks, intervals)
        centred = problem.anchors(region.centre)
        intervals = [narrow(*part) for part in _with_region(problem, intervals, region, centred)]
        last = region, intervals
        _look(state, region, intervals, found)
        if _is_exact(state, found):
            break
        if width(problem.stacks, intervals) > SHRUNK * before:
            found.notes.append(
                "rounds: the region stopped shrinking; shorter steps, a stronger pull towards the "
                "meta-parameters, a penalty or fewer features would help"
            )
            break
    return last


def _with_region(problem, intervals, region, anchors):
    return (
        (stack, known, region, at)
        for stack, known, at in zip(problem.stacks, intervals, anchors, strict=True)
    )


def _has_turn(problem):
    return problem.loss.slope_turn(problem.stacks[0].y[:1, :1]) is not None


def _look(state, region, intervals, found):
    """Theorem 4, Corollary 5 and Theorem 3 on a region."""
    problem = state.problem
    Q = least_curvature(problem, state.anchors, intervals, region)
    found.add("convexity", newton_gap(Q, state.gradient, state.hessian))
    found.add("corollary", _corollary(state, region, intervals))
    if problem.shared and problem.implicit:
        lower, _ = rows_bound(problem, state.anchors, intervals, state.gradient)
        found.add("rows", state.value - lower)


def _corollary(state, region, intervals):
    """Corollary 5: ``R epsilon + sum_i p_i sum_j max c rho``, with the region's radius as R."""
    away = np.linalg.norm(region.centre - state.problem.x)
    reach = away + region.radius * np.linalg.norm(region.V, 2)
    total = reach * np.linalg.norm(state.gradient)
    for stack, at, known in state.parts(intervals):
        c = vecmat(stack.b * stack.loss.gradient(stack.y_query, at.z), at.C)
        known = known.with_anchor(at)
        low, high = rho_range(stack.loss, stack.y, at.u, known.low, known.high)
        total += (stack.weight[:, None] * stack.masked(np.maximum(c * low, c * high))).sum()
    return total


def _is_exact(state, found):
    """Whether there is nothing left to gain."""
    return found.smallest <= state.rounding + 1e-12 * abs(state.value)
