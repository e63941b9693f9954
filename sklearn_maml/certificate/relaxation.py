"""Theorem 1: the graphs s = l'(u) are relaxed to convex hulls, and the convex program is solved.

    min over x, s   sum_i p_i b_i' l(Phi x - C s) + x' A x
    subject to      below(u) <= s <= above(u),   u = F x - B s

`central_path` has the interior point method. What it returns need not be trusted: the bound is the
Lagrange dual at whatever point it ends.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._linalg import flat_vecmat, matvec, vecmat
from sklearn_maml.certificate.central_path import CentralPath
from sklearn_maml.certificate.coordinates import unmet
from sklearn_maml.certificate.slope_problem import SlopeProblem
from sklearn_maml.certificate.slopes import hull

__all__ = ["Point", "Relaxation", "relaxation"]

# The barrier starts at so many times what the slopes can change the program by, a row on average.
# After a step that is LONG enough it is that of a gap FALL times as wide.
FIRST_BARRIER, FALL, LONG, MAX_STEPS = 3.0, 0.3, 0.4, 60

# A barrier is no less than this share of the last. What stands for 0 where slopes change nothing.
LAST_BARRIER, TINY = 1e-3, 1e-300

# Slopes are moved towards the middle of their hulls by this share.
INWARD = 0.4


class Point(NamedTuple):
    """Where the method ended, and the lower bound on L that it proves.

    Attributes
    ----------
    lower : float
    x : ndarray of shape (d,)
    slopes : list of ndarray of shape (n, k)
    duals : list of ndarray of shape (n, m) or None
        nu of "Theorem 1, everywhere".
    """

    lower: float
    x: np.ndarray
    slopes: list
    duals: list | None = None


class _Multipliers(NamedTuple):
    """Of the two envelopes, and by how much condition (S) fails, shape (n, k)."""

    above: np.ndarray
    below: np.ndarray
    unmet: np.ndarray


@dataclass(frozen=True, eq=False)
class Relaxation:
    """The convex program on a region, or over all x: then `flat` is True and `region` None.

    Attributes
    ----------
    problem : SlopeProblem
    hulls : list of Hull
        One a stack.
    region : Ellipsoid or Box
    flat : bool
        Whether slopes are bounded by constants alone, as they are everywhere.
    """

    problem: SlopeProblem
    hulls: list
    region: Any
    flat: bool

    @property
    def path(self):
        """The program, as the interior point method sees it."""
        return CentralPath(self.problem, self.hulls, self.flat)

    def start(self, x, slopes):
        """Slopes strictly inside the hulls, near given ones, and a barrier that suits them.

        Parameters
        ----------
        x : ndarray of shape (d,)
        slopes : list of ndarray of shape (n, k)

        Returns
        -------
        slopes : list of ndarray of shape (n, k)
        mu : float
        """
        parts = list(zip(self.problem.stacks, self.hulls, slopes, strict=True))
        pulled = [_pulled(stack, x, s) for stack, _, s in parts]
        matter = sum(
            (np.abs(c) * 0.5 * (h.ends[1] - h.ends[0])).sum()
            for c, (_, h, _) in zip(pulled, parts, strict=True)
        )
        mu = FIRST_BARRIER * max(matter, TINY) / self.count
        inside = [
            _inside(*part[:2], x, part[2], c, mu) for part, c in zip(parts, pulled, strict=True)
        ]
        return inside, mu

    @property
    def count(self):
        """Envelopes, by the weight of their tasks: mu times them is the gap on the central path."""
        total = sum((s.weight[:, None] * s.real).sum() for s in self.problem.stacks)
        return max(2.0 * total, TINY)  # without steps there are no slopes

    def solve(self, x, slopes, scale, precision, share=0.0, enough=np.inf):
        """The best bound met on the way along the central path.

        Parameters
        ----------
        x : ndarray of shape (d,)
        slopes : list of ndarray
            Of the rule at x; moved inside the hulls.
        scale : float
            L: the unit of precision, and what the bound is compared with.
        precision : float
            It stops where the program's minimum is known to this share of L.
        share : float, default=0.0
            It stops where a step raised the bound by less than this share of what is left to L.
        enough : float
            A bound with which it stops early.
        """
        path, best, length = self.path, Point(-np.inf, x, slopes), 1.0
        slopes, mu = self.start(x, slopes)
        at, here = path.begin(x, slopes, mu), path.objective(x, slopes)
        for _ in range(MAX_STEPS):
            terms, known = path.terms(at), best.lower
            point = self.bound(at, terms)
            best = point if point.lower > known else best
            gap = here[0] - best.lower
            if best.lower >= enough:
                break
            if np.isfinite(known):
                small = max(precision * scale, share * (scale - best.lower))
                slow = length > LONG and best.lower - known <= small
                if gap <= small or slow:
                    break
            if length > LONG:
                mu = min(mu, max(FALL * gap / self.count, LAST_BARRIER * mu))
            try:
                step = path.step(at, terms, mu)
            except np.linalg.LinAlgError:
                break
            at, here, length = path.ahead(at, here, *step, mu)
            if at is None:
                break
        return best

    def bound(self, at, terms):
        """The lower bound that any iterate proves; that of the barrier's path is sharp."""
        return self._everywhere(at, terms) if self.flat else self._on_region(at, terms)

    def _on_region(self, at, terms):
        """Theorem 1: value - slack + the least that the rest of the gradient can do."""
        x, A = at.x, self.problem.A
        value, G = x @ A @ x, 2.0 * A @ x
        parts = zip(self.problem.stacks, self.hulls, *at[1:], terms, strict=True)
        for stack, h, s, above, below, part in parts:
            by = _multipliers(stack, part, np.minimum(above, below))
            slack = by.above * np.maximum(part.up, 0.0) + by.below * np.maximum(part.down, 0.0)
            reach = np.maximum(np.abs(h.ends[0] - s), np.abs(h.ends[1] - s))
            slack = slack + np.abs(by.unmet) * reach
            value += stack.value(stack.query_predictions(x, s)) - stack.masked(slack).sum()
            slope = stack.masked(by.above * part.top_slope - by.below * part.bottom_slope)
            G = G + part.gradient - flat_vecmat(slope, stack.F)
        lower = value + self.region.least(G, x)
        return Point(float(lower) if np.isfinite(lower) else -np.inf, x, at.slopes)

    def _everywhere(self, at, terms):
        """Theorem 1, everywhere: a Newton step makes the condition in x exact, in the duals."""
        problem, A = self.problem, self.problem.A
        G = 2.0 * A @ at.x + sum(part.gradient for part in terms)
        H = 2.0 * A + sum(part.loss_hessian for part in terms)
        step = np.linalg.lstsq(H, G, rcond=1e-13)[0]
        x = at.x - step
        value, rest, duals = -x @ A @ x, 2.0 * A @ x, []
        size = np.abs(rest)
        for stack, part in zip(problem.stacks, terms, strict=True):
            nu = part.nu - part.curvature * matvec(stack.Phi, step)
            value += _dual_value(stack, nu)
            rest = rest + flat_vecmat(stack.row_weight * nu, stack.Phi)
            size = size + flat_vecmat(stack.row_weight * np.abs(part.nu), np.abs(stack.Phi))
            duals.append(nu)
        lower = value - unmet(rest, size, x, problem.x)
        return Point(float(lower) if np.isfinite(lower) else -np.inf, x, at.slopes, duals)


def relaxation(problem, intervals, region):
    """The `Relaxation` of a problem where u is in these intervals."""
    hulls = [
        hull(problem.loss, stack.y, i.low, i.high)
        for stack, i in zip(problem.stacks, intervals, strict=True)
    ]
    return Relaxation(problem, hulls, region, all(h.flat for h in hulls))


def _pulled(stack, x, s):
    """By how much the loss falls a unit of each slope, at x and s."""
    nu = stack.loss.gradient(stack.y_query, stack.query_predictions(x, s))
    return stack.masked(stack.pulled(stack.row_weight * nu))


def _inside(stack, h, x, s, pulled, mu):
    """Slopes near s that are strictly inside the hulls at their own predictions.

    u depends on the slopes, so they are averaged with what their hulls ask for, until both agree;
    the further inside, the easier the start, but not every task lets them be far inside.
    """
    if h.flat:
        return _between(stack, h, s, pulled, mu)
    found, done = s.copy(), np.zeros(len(s), bool)
    for share in (0.4, 0.1, 0.03, 0.01, 1e-3, 1e-5):
        t, u = s.copy(), stack.support_predictions(x, s)
        for _ in range(50 if stack.coupled else 1):
            (top,), (bottom,) = h(u, order=0)
            inner = (1.0 - share) * np.clip(t, bottom, top) + 0.5 * share * (top + bottom)
            t = 0.5 * (t + inner) if stack.coupled else inner
            u = stack.support_predictions(x, t)
        (top,), (bottom,) = h(u, order=0)
        good = (((top > t) & (t > bottom)) | ~stack.real).all(axis=1) & ~done
        found[good], done = t[good], done | good
        if done.all():
            break
    return found


def _between(stack, h, s, pulled, mu):
    """Slopes in constant hulls: halfway between s, moved inside, and the central path's own.

    With the query slopes as they are c is known, and the barrier function in each slope is
    ``-c s - p mu (log(top - s) + log(s - bottom))``: its minimum has a closed form.
    """
    (top,), (bottom,) = h(s, order=0)
    middle, half = 0.5 * (top + bottom), 0.5 * (top - bottom)
    ratio = pulled * half / (stack.weight[:, None] * mu)
    central = ratio / (1.0 + np.sqrt(1.0 + np.square(ratio)))
    own = (1.0 - INWARD) * (np.clip(s, bottom, top) - middle) / half
    return np.where(stack.real, middle + half * 0.5 * (own + central), s)


def _multipliers(stack, part, common):
    """Non-negative multipliers with ``m+ - m- + B' (m+ above' - m- below') = c``: condition (S).

    What the iterate's own have in common is kept; the rest, which is of one sign row by row, is
    solved for.
    """
    c = part.pulled
    base = stack.masked(np.minimum(common, np.abs(c) + stack.weight[:, None]))
    if stack.B is None:
        c = stack.masked(c)
        return _Multipliers(base + np.maximum(c, 0.0), base + np.maximum(-c, 0.0), 0.0 * c)
    positive = c >= 0
    wanted = (c - vecmat(base * (part.top_slope - part.bottom_slope), stack.B))[..., None]
    for _ in range(10):
        slope = np.where(positive, part.top_slope, part.bottom_slope)
        system = np.eye(c.shape[1]) + np.swapaxes(stack.B, 1, 2) * slope[:, None, :]
        net = stack.masked(np.linalg.solve(system, wanted)[..., 0])
        flips = ((net >= 0) != positive) & stack.real
        if not flips.any():
            break
        positive = np.where(flips, net >= 0, positive)
    m_above, m_below = base + np.maximum(net, 0.0), base + np.maximum(-net, 0.0)
    m_above, m_below = stack.masked(m_above), stack.masked(m_below)
    slope = m_above * part.top_slope - m_below * part.bottom_slope
    unmet = m_above - m_below + vecmat(slope, stack.B) - c
    return _Multipliers(m_above, m_below, stack.masked(unmet))


def _dual_value(stack, nu):
    """``sum p (b inf(l - nu z) - max c s)`` over the whole range of slopes."""
    least, most = stack.loss.slope_range(stack.y)
    c = stack.masked(stack.pulled(stack.row_weight * nu))
    with np.errstate(invalid="ignore"):
        paid = np.where(c > 0, c * most, np.where(c < 0, c * least, 0.0))
        won = np.where(stack.b > 0, stack.row_weight * stack.loss.dual(stack.y_query, nu), 0.0)
    return won.sum() - paid.sum()
