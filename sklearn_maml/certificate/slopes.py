"""What is known of a loss's slope l' on an interval: scalar facts, row by row (Lemmas 3 and 4).

All of it is for losses whose ``l''`` is even about a turn and falls on both sides of it
(`Loss.slope_turn`): l' is convex below the turn and concave above. Arrays have any common shape;
ends of intervals may be infinite. Differences are taken in float64, so every bound here is made
wider by what they round away: one that is too wide costs tightness, one that is too narrow truth.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Envelope", "Hull", "curvature_least", "hull", "rho_range", "strip", "third_range"]

EPS = np.finfo(float).eps

# Envelopes are thicker by this share of the range of slopes, against rounding in the solver.
WIDEN = 1e-10

N_HALVINGS = 44

# Beyond so many units of the loss a sigmoid is as good as flat.
FAR = 60.0


def _unit(loss):
    """The distance over which l'' changes by a factor of about e."""
    return 1.0 / max(loss.third_ratios)


def _rounding(loss, y, *points):
    """By how much l' can be wrong at these predictions: slopes round, and so does ``z - y``."""
    low, high = loss.slope_range(y)
    reach = np.abs(y)
    for point in points:
        reach = np.maximum(reach, np.where(np.isfinite(point), np.abs(point), 0.0))
    return 8.0 * EPS * (np.maximum(np.abs(low), np.abs(high)) + loss.hessian_bound * reach)


class Envelope(NamedTuple):
    """One side of a hull: a line on one side of `switch`, and l' itself on the other."""

    switch: np.ndarray
    slope: np.ndarray
    value: np.ndarray
    at: np.ndarray
    sign: int

    def __call__(self, u, own, order):
        """Value and `order` derivatives at u inside the interval, where those of l' are `own`."""
        on_line = u < self.switch if self.sign > 0 else u > self.switch
        parts = (self.value + self.slope * (u - self.at), self.slope, 0.0)
        return [np.where(on_line, parts[k], own[k]) for k in range(order + 1)]


@dataclass(frozen=True, eq=False)
class Hull:
    """A concave function above l' and a convex one below it, on intervals of u.

    Attributes
    ----------
    loss : Loss
    targets, low, high : ndarray
        The rows' targets and intervals.
    ends : (ndarray, ndarray)
        l' at the ends of the intervals.
    above, below : Envelope
    shift : ndarray
        By how much both are moved outwards, against rounding.
    flat : bool
        Whether no interval has an end: envelopes are then the bounds on l'.
    """

    loss: object
    targets: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: tuple
    above: Envelope
    below: Envelope
    shift: np.ndarray
    flat: bool

    def __call__(self, u, order=2):
        """Both envelopes with `order` derivatives; beyond the interval their tangents go on.

        Returns
        -------
        above, below : list of ndarray
            ``[value, slope, curvature][:order + 1]``.
        """
        if self.flat:
            rest = [np.zeros_like(u)] * order
            return [self.ends[1] + self.shift, *rest], [self.ends[0] - self.shift, *rest]
        inside = np.clip(u, self.low, self.high)
        beyond = u - inside
        with np.errstate(over="ignore", invalid="ignore"):
            calls = (self.loss.gradient, self.loss.hessian, self.loss.third)
            own = [f(self.targets, inside) for f in calls[: max(order, 1) + 1]]
        both = []
        for envelope in (self.above, self.below):
            parts = envelope(inside, own, max(order, 1))
            parts[0] = parts[0] + parts[1] * beyond + envelope.sign * self.shift
            if order == 2:
                parts[2] = np.where(beyond == 0, parts[2], 0.0)
            both.append(parts[: order + 1])
        return both


def hull(loss, y, low, high):
    """The `Hull` of l' on ``[low, high]``.

    A line leads from the far end to where it touches l', and from there on the envelope is l'
    itself. The contact is bisected from the safe side, and the line is the tangent there, so that
    it never crosses l'.
    """
    least, most = loss.slope_range(y)
    shift = WIDEN * (most - least) + _rounding(loss, y, low, high)
    finite = np.isfinite(low), np.isfinite(high)
    at_low = np.where(finite[0], loss.gradient(y, np.where(finite[0], low, 0.0)), least)
    at_high = np.where(finite[1], loss.gradient(y, np.where(finite[1], high, 0.0)), most)
    both = finite[0] & finite[1]
    width = np.where(both, np.maximum(high - low, 1e-300), 1.0)
    chord = np.where(both, at_high - at_low, 0.0) / width
    flat = not (finite[0].any() or finite[1].any())
    above = below = None
    if not flat:
        above = _touch(loss, y, low, high, at_low, most, chord, 1)
        below = _touch(loss, y, high, low, at_high, least, chord, -1)
    return Hull(loss, y, low, high, (at_low, at_high), above, below, shift, flat)


def _touch(loss, y, far, near, at_far, limit, chord, sign):
    """The envelope whose line starts at the end `far`; `sign` is 1 for the one above l'."""
    turn = np.broadcast_to(loss.slope_turn(y), far.shape)
    endless = ~np.isfinite(far)
    start = np.where(endless, 0.0, far)

    def beyond(t):
        """How far outside of l' the tangent at t is, at the far end."""
        return sign * (loss.gradient(y, t) - loss.hessian(y, t) * (t - start) - at_far)

    left = turn.copy()
    right = np.where(np.isfinite(near), near, turn + sign * FAR * _unit(loss))
    touches = beyond(right) >= 0
    for _ in range(N_HALVINGS):
        middle = 0.5 * (left + right)
        safe = beyond(middle) >= 0
        left, right = np.where(safe, left, middle), np.where(safe, middle, right)
    # Where nothing touches, the line is the chord; without an end to lead to, it is level.
    switch = np.where(touches, right, sign * np.inf)
    slope = np.where(touches, loss.hessian(y, right), chord)
    value, at = np.where(touches, loss.gradient(y, right), at_far), np.where(touches, right, start)
    level = endless | (~touches & ~np.isfinite(near))
    slope, value = np.where(level, 0.0, slope), np.where(level, limit, value)
    # All of the interval beyond the turn: the envelope is l' itself.
    curved = ~endless & (sign * (start - turn) >= 0)
    switch = np.where(curved, -sign * np.inf, np.where(level, sign * np.inf, switch))
    return Envelope(switch, slope, value, at, sign)


def rho_range(loss, y, u0, low, high):
    """Range over ``[low, high]`` of ``rho(u) = l'(u) - l'(u0) - l''(u0) (u - u0)`` (Lemma 3).

    It is extreme at the ends, at u0, and where l'' is l''(u0) again: at u0's mirror image.
    """
    s0, h0 = loss.gradient(y, u0), loss.hessian(y, u0)

    def rho(u):
        return loss.gradient(y, u) - s0 - h0 * (u - u0)

    mirror = np.clip(2.0 * loss.slope_turn(y) - u0, low, high)
    values = np.stack([np.zeros_like(u0), rho(low), rho(high), rho(mirror)])
    wide = _rounding(loss, y, u0, low, high)
    return values.min(axis=0) - wide, values.max(axis=0) + wide


def third_range(loss, y, u0, low, high, n_points=12):
    """Range over ``[low, high]`` of ``rho(u) / ((u - u0)^2 / 2)``, a mean of l'''.

    Its slope in u is at most ``sup |l''''| / 3``, so a grid of points brackets it.
    """
    s0, h0, t0 = loss.gradient(y, u0), loss.hessian(y, u0), loss.third(y, u0)
    near = 1e-3 * _unit(loss)
    noise = _rounding(loss, y, u0, low, high)
    least, most = t0, t0
    for end in (low - u0, high - u0):
        for share in np.arange(1, n_points + 1) / n_points:
            step = share * end
            square = np.where(np.abs(step) > near, 0.5 * step * step, np.inf)
            # A step too short for the difference to be precise: l''' at u0 stands for it.
            value = (loss.gradient(y, u0 + step) - s0 - h0 * step) / square
            value = np.where(np.isinf(square), t0, value)
            least = np.minimum(least, value - noise / square)
            most = np.maximum(most, value + noise / square)
    width = np.maximum(u0 - low, high - u0)
    error = loss.fourth_bound / 3.0 * (0.5 * width / n_points + near)
    return np.maximum(least - error, -loss.third_bound), np.minimum(most + error, loss.third_bound)


def curvature_least(loss, y, z0, low, high):
    """Infimum over ``[low, high]``, which holds z0, of ``D(z, z0) / ((z - z0)^2 / 2)`` (Lemma 4).

    It is ``l''(z0)``, or at an end of the interval; 0 where an end is infinite.
    """
    v0, s0, h0 = loss.value(y, z0), loss.gradient(y, z0), loss.hessian(y, z0)
    near, least = 1e-3 * _unit(loss), h0
    for end in (low, high):
        finite = np.isfinite(end)
        step = np.where(finite, end - z0, 0.0)
        far = np.abs(step) > near
        square = np.where(far, 0.5 * step * step, 1.0)
        value = loss.value(y, z0 + step)
        noise = 8.0 * EPS * (np.abs(value) + np.abs(v0) + np.abs(s0 * step))
        noise = noise + _rounding(loss, y, z0, z0 + step) * np.abs(step)
        ratio = (value - v0 - s0 * step - noise) / square
        # So near, l'' cannot have fallen by more than the third derivative allows.
        close = h0 - loss.third_bound * np.abs(step) / 3.0
        least = np.where(finite, np.minimum(least, np.where(far, ratio, close)), 0.0)
    return np.maximum(least, 0.0)


def strip(loss, y, low, high):
    """A strip ``level + slope (u - low) +- width`` that holds l' on finite intervals.

    Its slope is the chord's; l' leaves the chord most where l'' is that slope: once at most on
    either side of the turn.
    """
    s = loss.gradient(y, low)
    span = np.maximum(high - low, 1e-12 * _unit(loss))
    slope = np.maximum((loss.gradient(y, high) - s) / span, 0.0)
    turn = np.clip(loss.slope_turn(y), low, high)
    values = [np.zeros_like(low)]
    for a, b, rising in ((low, turn, True), (turn, high, False)):
        for _ in range(N_HALVINGS):
            middle = 0.5 * (a + b)
            right = (loss.hessian(y, middle) < slope) == rising
            a, b = np.where(right, middle, a), np.where(right, b, middle)
        values += [loss.gradient(y, x) - s - slope * (x - low) for x in (a, b)]
    least, most = np.minimum.reduce(values), np.maximum.reduce(values)
    wide = _rounding(loss, y, low, high)
    return slope, s + 0.5 * (least + most), 0.5 * (most - least) * (1.0 + 1e-9) + wide
