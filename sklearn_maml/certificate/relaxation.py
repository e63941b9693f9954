"""Theorem 1: the graphs s = l'(u) are relaxed to convex hulls, and the convex program is solved.

    min over x, s   sum_i p_i b_i' l(Phi x - C s) + x' A x
    subject to      below(u) <= s <= above(u),   u = F x - B s

An interior point method follows the central path; slopes are eliminated task by task, so that a
Newton step costs one small system a task and one of the size of x. What it returns need not be
trusted: the bound is the Lagrange dual at whatever point it ends.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._linalg import flat_vecmat, matvec, vecmat
from sklearn_maml.certificate.slope_problem import SlopeProblem, gram
from sklearn_maml.certificate.slopes import hull

__all__ = ["Point", "Relaxation", "relaxation"]

# The barrier starts at this share of L and falls by FALL, each time after at most so many steps.
FIRST_BARRIER, FALL, STEPS_A_BARRIER = 3e-2, 0.12, 10

# A Newton step has reached the central path if its predicted decrease is below this share of the
# barrier.
CENTRED = 0.05

SHORTEST = 1e-9

# A condition that holds but for rounding is charged as if x were so many times as long.
FAR = 100.0


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

    def _parts(self, slopes):
        return zip(self.problem.stacks, self.hulls, slopes, strict=True)

    def _where(self, stack, x, s):
        """u, at which the hulls are asked; anything of its shape where they are constants."""
        return s if self.flat else stack.support_predictions(x, s)

    def start(self, points):
        """Slopes strictly inside the hulls, near given ones.

        Parameters
        ----------
        points : list of (x, s)
            One a stack.
        """
        return [
            _inside(stack, h, *point)
            for stack, h, point in zip(self.problem.stacks, self.hulls, points, strict=True)
        ]

    def barrier(self, x, slopes, mu):
        """The program's objective with logarithms of the distances to the hulls."""
        total = x @ self.problem.A @ x
        for stack, h, s in self._parts(slopes):
            z = stack.query_predictions(x, s)
            (top,), (bottom,) = h(self._where(stack, x, s), order=0)
            room = np.where(stack.real, np.minimum(top - s, s - bottom), 1.0)
            if not (room > 0).all():
                return np.inf
            logs = np.log(np.where(stack.real, (top - s) * (s - bottom), 1.0))
            total += stack.value(z) - mu * (stack.weight[:, None] * logs).sum()
        return total if np.isfinite(total) else np.inf

    def newton(self, x, slopes, mu):
        """The Newton step in x and in the slopes, and its predicted decrease."""
        hessian, gradient = 2.0 * self.problem.A, 2.0 * self.problem.A @ x
        eliminated, decrease = [], 0.0
        for stack, h, s in self._parts(slopes):
            part = _derivatives(stack, h, x, s, self._where(stack, x, s), mu, self.flat)
            solved = _eliminate(stack, part)
            flat = part.sx.reshape(-1, len(x))
            hessian = hessian + part.xx - flat.T @ solved[..., :-1].reshape(flat.shape)
            gradient = gradient + part.x - flat.T @ solved[..., -1].ravel()
            eliminated.append(solved)
            decrease += (part.s * solved[..., -1]).sum()
        hessian = 0.5 * (hessian + hessian.T)
        ridge = 1e-14 * np.trace(hessian) / len(x)
        step = np.linalg.solve(hessian + ridge * np.eye(len(x)), gradient)
        moves = [part[..., -1] - part[..., :-1] @ step for part in eliminated]
        return step, moves, decrease + gradient @ step

    def _descend(self, x, slopes, mu):
        """Newton steps for one value of the barrier."""
        here = self.barrier(x, slopes, mu)
        for _ in range(STEPS_A_BARRIER):
            step, moves, decrease = self.newton(x, slopes, mu)
            length = 1.0
            while True:
                ahead = (
                    x - length * step,
                    [s - length * m for s, m in zip(slopes, moves, strict=True)],
                )
                value = self.barrier(*ahead, mu)
                if value <= here - 1e-4 * length * decrease + 1e-13 * (1.0 + abs(here)):
                    break
                length *= 0.5
                if length < SHORTEST:
                    return x, slopes
            (x, slopes), here = ahead, value
            if decrease < CENTRED * mu:
                break
        return x, slopes

    def solve(self, x, slopes, scale, precision=1e-6, enough=np.inf):
        """The best bound met on the central path.

        Parameters
        ----------
        x : ndarray of shape (d,)
        slopes : list of ndarray
            Strictly inside the hulls.
        scale : float
            L: the unit of barrier and precision.
        precision : float
        enough : float
            A bound with which it stops early.
        """
        best = Point(-np.inf, x, slopes)
        for mu in _barriers(scale, precision):
            try:
                x, slopes = self._descend(x, slopes, mu)
            except np.linalg.LinAlgError:
                break
            point = self.bound(x, slopes, mu)
            best = point if point.lower > best.lower else best
            if best.lower >= enough:
                break
        return best

    def bound(self, x, slopes, mu):
        """The lower bound that any point proves; that of the barrier's path is sharp."""
        return self._everywhere(x, slopes) if self.flat else self._on_region(x, slopes, mu)

    def _on_region(self, x, slopes, mu):
        """Theorem 1: value - slack + the least that the rest of the gradient can do."""
        value, G = x @ self.problem.A @ x, 2.0 * self.problem.A @ x
        for stack, h, s in self._parts(slopes):
            z = stack.query_predictions(x, s)
            above, below = h(stack.support_predictions(x, s), order=1)
            nu = stack.row_weight * stack.loss.gradient(stack.y_query, z)
            by = _multipliers(stack, stack.pulled(nu), s, above, below, mu)
            slack = by.above * np.maximum(above[0] - s, 0.0) + by.below * np.maximum(
                s - below[0], 0.0
            )
            reach = np.maximum(np.abs(h.ends[0] - s), np.abs(h.ends[1] - s))
            slack = slack + np.abs(by.unmet) * reach
            value += stack.value(z) - stack.masked(slack).sum()
            slope = stack.masked(by.above * above[1] - by.below * below[1])
            G = G + flat_vecmat(nu, stack.Phi) - flat_vecmat(slope, stack.F)
        lower = value + self.region.least(G, x)
        return Point(float(lower) if np.isfinite(lower) else -np.inf, x, slopes)

    def _everywhere(self, x, slopes):
        """Theorem 1, everywhere: a Newton step makes the condition in x exact, in the duals."""
        problem, pairs = self.problem, list(zip(self.problem.stacks, slopes, strict=True))
        G, H, parts = 2.0 * problem.A @ x, 2.0 * problem.A, []
        for stack, s in pairs:
            z = stack.query_predictions(x, s)
            nu, curvature = (f(stack.y_query, z) for f in (stack.loss.gradient, stack.loss.hessian))
            parts.append((nu, curvature))
            G = G + flat_vecmat(stack.row_weight * nu, stack.Phi)
            H = H + gram(stack.Phi, stack.row_weight * curvature)
        step = np.linalg.lstsq(H, G, rcond=1e-13)[0]
        at = x - step
        value, rest, duals = -at @ problem.A @ at, 2.0 * problem.A @ at, []
        for (stack, _), (nu, curvature) in zip(pairs, parts, strict=True):
            nu = nu - curvature * matvec(stack.Phi, step)
            value += _dual_value(stack, nu)
            rest = rest + flat_vecmat(stack.row_weight * nu, stack.Phi)
            duals.append(nu)
        # What rounding leaves of the condition, times how far away any theta of interest can be:
        # rows have a unit Gram matrix in x, so that x is measured in predictions.
        defect = np.linalg.norm(rest) * FAR * (np.linalg.norm(at) + np.linalg.norm(problem.x))
        lower = value - defect
        return Point(float(lower) if np.isfinite(lower) else -np.inf, at, slopes, duals)


def _barriers(scale, precision):
    """Values of the barrier, from the first to the last."""
    mu, last = FIRST_BARRIER, min(precision, FIRST_BARRIER)
    while mu > last:
        yield mu * scale
        mu = max(FALL * mu, last)
    yield last * scale


def relaxation(problem, intervals, region):
    """The `Relaxation` of a problem where u is in these intervals."""
    hulls = [
        hull(problem.loss, stack.y, i.low, i.high)
        for stack, i in zip(problem.stacks, intervals, strict=True)
    ]
    return Relaxation(problem, hulls, region, all(h.flat for h in hulls))


def _inside(stack, h, x, s):
    """Slopes near s that are strictly inside the hulls at their own predictions.

    u depends on the slopes, so they are averaged with what their hulls ask for, until both agree;
    the further inside, the easier the start, but not every task lets them be far inside.
    """
    found, done = s.copy(), np.zeros(len(s), bool)
    for share in (0.4, 0.1, 0.03, 0.01, 1e-3, 1e-5):
        t, u = s.copy(), s if h.flat else stack.support_predictions(x, s)
        for _ in range(1 if h.flat or not stack.coupled else 50):
            (top,), (bottom,) = h(u, order=0)
            inner = (1.0 - share) * np.clip(t, bottom, top) + 0.5 * share * (top + bottom)
            t = inner if h.flat or not stack.coupled else 0.5 * (t + inner)
            u = t if h.flat else stack.support_predictions(x, t)
        (top,), (bottom,) = h(u, order=0)
        good = (((top > t) & (t > bottom)) | ~stack.real).all(axis=1) & ~done
        found[good], done = t[good], done | good
        if done.all():
            break
    return found


class _Part(NamedTuple):
    """Derivatives of a stack's part of the barrier: in x, in s, and in both.

    That in s twice is ``diag(diagonal) + P' inner P + coupling``, with P the stack's step vectors.
    """

    x: np.ndarray
    xx: np.ndarray
    s: np.ndarray
    sx: np.ndarray
    diagonal: np.ndarray
    inner: np.ndarray
    coupling: np.ndarray | None = None


def _eliminate(stack, part):
    """The second derivative in s, inverted, times ``[sx, s]``: shape (n, k, d + 1).

    Through the step vectors where these are fewer than slopes: ``(D + P'SP)^-1 = D^-1 - D^-1 P'
    (I + S P D^-1 P')^-1 S P D^-1``.
    """
    right = np.concatenate([part.sx, part.s[..., None]], axis=2)
    P, S, D = stack.steps, part.inner, part.diagonal
    turned = np.swapaxes(P, 1, 2)
    if part.coupling is None and P.shape[1] < P.shape[2]:
        right = right / D[..., None]
        shared = turned / D[..., None]
        system = np.eye(P.shape[1]) + np.matmul(S, np.matmul(P, shared))
        return right - np.matmul(shared, np.linalg.solve(system, np.matmul(S, P @ right)))
    matrix = np.matmul(turned, np.matmul(S, P))
    if part.coupling is not None:
        matrix += part.coupling
    index = np.arange(D.shape[1])
    matrix[:, index, index] += D
    return np.linalg.solve(matrix, right)


def _derivatives(stack, h, x, s, u, mu, flat):
    """First and second derivatives of the barrier function of one stack."""
    z = stack.query_predictions(x, s)
    (top, top1, top2), (bottom, bottom1, bottom2) = h(u)
    real, p = stack.real, stack.weight[:, None]
    up, down = np.where(real, top - s, 1.0), np.where(real, s - bottom, 1.0)
    by_top, by_bottom = np.where(real, p * mu / up, 0.0), np.where(real, p * mu / down, 0.0)
    w_top, w_bottom = by_top / up, by_bottom / down
    nu = stack.row_weight * stack.loss.gradient(stack.y_query, z)
    curvature = stack.row_weight * stack.loss.hessian(stack.y_query, z)
    curved = curvature[..., None] * stack.moved_query
    g_x, g_s = flat_vecmat(nu, stack.Phi), by_top - by_bottom - stack.pulled(nu)
    h_xx, inner = (
        gram(stack.Phi, curvature),
        np.matmul(np.swapaxes(curved, 1, 2), stack.moved_query),
    )
    cross_rows = np.matmul(np.swapaxes(curved, 1, 2), stack.Phi)
    h_sx = -np.matmul(np.swapaxes(stack.steps, 1, 2), cross_rows)
    diagonal = np.where(real, w_top + w_bottom, 1.0)
    if flat:
        return _Part(g_x, h_xx, g_s, h_sx, diagonal, inner)
    # u moves with x, and with the slopes where B is not zero: the chain rule through the hulls.
    pull = -(by_top * top1 - by_bottom * bottom1)
    own = w_top * top1 * top1 + w_bottom * bottom1 * bottom1 - by_top * top2 + by_bottom * bottom2
    own, cross = np.where(real, own, 0.0), np.where(real, -w_top * top1 - w_bottom * bottom1, 0.0)
    g_x, h_xx = g_x + flat_vecmat(pull, stack.F), h_xx + gram(stack.F, own)
    h_sx += cross[..., None] * stack.F
    if not stack.coupled:
        return _Part(g_x, h_xx, g_s, h_sx, diagonal, inner)
    back, mixed = np.swapaxes(stack.B, 1, 2), cross[..., None] * stack.B
    coupling = np.matmul(back, own[..., None] * stack.B) - mixed - np.swapaxes(mixed, 1, 2)
    h_sx -= np.matmul(back, own[..., None] * stack.F)
    return _Part(g_x, h_xx, g_s - vecmat(pull, stack.B), h_sx, diagonal, inner, coupling)


def _multipliers(stack, c, s, above, below, mu):
    """Non-negative multipliers with ``m+ - m- + B' (m+ above' - m- below') = c``: condition (S).

    The barrier's own, ``p mu / distance``, are kept as far as both have them in common; the rest,
    which is of one sign row by row, is solved for.
    """
    p, tiny = stack.weight[:, None], 1e-300
    up, down = (np.maximum(d, tiny) for d in (above[0] - s, s - below[0]))
    base = stack.masked(np.minimum(p * mu / np.maximum(up, down), np.abs(c) + p))
    if stack.B is None:
        c = stack.masked(c)
        return _Multipliers(base + np.maximum(c, 0.0), base + np.maximum(-c, 0.0), 0.0 * c)
    positive = c >= 0
    wanted = (c - vecmat(base * (above[1] - below[1]), stack.B))[..., None]
    for _ in range(10):
        slope = np.where(positive, above[1], below[1])
        system = np.eye(c.shape[1]) + np.swapaxes(stack.B, 1, 2) * slope[:, None, :]
        net = stack.masked(np.linalg.solve(system, wanted)[..., 0])
        flips = ((net >= 0) != positive) & stack.real
        if not flips.any():
            break
        positive = np.where(flips, net >= 0, positive)
    m_above, m_below = base + np.maximum(net, 0.0), base + np.maximum(-net, 0.0)
    m_above, m_below = stack.masked(m_above), stack.masked(m_below)
    slope = m_above * above[1] - m_below * below[1]
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
