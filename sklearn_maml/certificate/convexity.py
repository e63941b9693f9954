"""Theorem 4: L seen from a point lies above a quadratic, on a region."""

import numpy as np

from sklearn_maml._linalg import vecmat
from sklearn_maml.certificate.slope_problem import gram
from sklearn_maml.certificate.slopes import curvature_least, third_range

__all__ = ["least_curvature", "newton_gap", "second_order"]

# Shares by which the squares of several steps, or of an implicit one, may grow (Theorem 4, end).
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)

# Of the Hessian at the certified point: curvature below this share is rounding.
POSITIVE = 1e-9


def least_curvature(problem, anchors, intervals, region):
    """Q with ``L(x) >= L + g' D + D' Q D / 2``, ``D = x - anchor``, for admissible x in the region.

    Returns
    -------
    ndarray of shape (d, d) or None
        None where nothing is proved.
    """
    total = 2.0 * problem.A
    for stack, at, known in zip(problem.stacks, anchors, intervals, strict=True):
        known = known.with_anchor(at)
        curvature = curvature_least(stack.loss, stack.y_query, at.z, known.z_low, known.z_high)
        curvature = np.where(stack.b > 0, stack.b * curvature, 0.0)
        paid = _paid(stack, at, known, curvature, region)
        if paid is None:
            return None
        weight = stack.weight[:, None]
        total = total + gram(at.Psi, weight * curvature) - gram(at.F, weight * paid)
    return total


def _paid(stack, at, known, curvature, region):
    """The q of Theorem 4: what the curvature of the slopes' graphs can cost, row by row."""
    c = vecmat(stack.b * stack.loss.gradient(stack.y_query, at.z), at.C)
    low, high = third_range(stack.loss, stack.y, at.u, known.low, known.high)
    low, high = stack.masked(low), stack.masked(high)
    forms = np.matmul(np.swapaxes(at.C, 1, 2), curvature[..., None] * at.Psi)
    if at.B is not None:
        kept = np.maximum(0.0, -np.maximum(c * low, c * high))
        forms = forms + np.matmul(np.swapaxes(at.B, 1, 2), kept[..., None] * at.F)
    ends = region.forms(forms, at.x)
    q = np.maximum.reduce([(c + end) * third for end in ends for third in (low, high)])
    if at.B is None:
        return q if np.isfinite(q).all() else None
    grown = _grown(
        stack, at, known, np.maximum(np.abs(low), np.abs(high)), np.maximum(q + kept, 0.0)
    )
    return None if grown is None else grown - kept


def _grown(stack, at, known, third, h):
    """``h' xi`` in terms of ``w^2``, where xi are squares of steps that move one another.

    ``h' xi <= (1 + delta) h' (I - (1 + 1 / delta) N)^-1 w^2`` for every delta with which the
    spectral radius is below 1; task by task the best of several.
    """
    reach = stack.masked(np.maximum(known.high - at.u, at.u - known.low))
    eta = np.minimum(
        0.5 * third * reach, np.maximum(at.curvature, stack.loss.hessian_bound - at.curvature)
    )
    N = np.abs(at.B) * stack.masked(eta)[:, None, :]
    N = N.sum(axis=-1)[..., None] * N
    best = np.where(h.max(axis=-1, keepdims=True) > 0, np.full(h.shape, np.inf), 0.0)
    for delta in SHARES:
        matrix = (1.0 + 1.0 / delta) * N
        fine = (matrix.sum(axis=-1).max(axis=-1) < 1.0) & np.isfinite(h).all(axis=-1)
        if not fine.any():
            continue
        system = np.eye(h.shape[1]) - np.swapaxes(matrix[fine], 1, 2)
        paid = np.full(h.shape, np.inf)
        paid[fine] = (1.0 + delta) * np.linalg.solve(system, h[fine][..., None])[..., 0]
        better = paid.sum(axis=-1) < best.sum(axis=-1)
        best = np.where(better[:, None], paid, best)
    return best if np.isfinite(best).all() else None


def newton_gap(Q, gradient, hessian):
    """``g' Q^-1 g / 2``, the most that a quadratic with this Q can fall; infinite unless Q > 0.

    Q counts as positive definite in the norm of the Hessian at the point.
    """
    if Q is None:
        return np.inf
    values, vectors = np.linalg.eigh(hessian)
    V = vectors / np.sqrt(np.maximum(values, POSITIVE * values[-1]))
    inner = V.T @ Q @ V
    if not np.linalg.eigvalsh(inner)[0] > POSITIVE:
        return np.inf
    slope = V.T @ gradient
    return float(0.5 * slope @ np.linalg.solve(inner, slope))


def second_order(problem, box, anchors, intervals):
    """Theorem 4 anchored at the centre of a box: a lower bound on L there."""
    value, gradient, _ = problem.derivatives(anchors)
    Q = least_curvature(problem, anchors, intervals, box)
    if Q is None:
        return -np.inf
    inner = box.V.T @ Q @ box.V * np.outer(box.half, box.half)
    slope = box.V.T @ gradient * box.half
    # Made convex on the unit box, where a shift costs half of it a coordinate, then its tangents.
    shift = max(0.0, -np.linalg.eigvalsh(inner)[0])
    inner = inner + shift * np.eye(len(slope))
    t, best, steep = np.zeros(len(slope)), -np.inf, max(np.linalg.eigvalsh(inner)[-1], 1e-300)
    for _ in range(60):
        tangent = slope + inner @ t
        best = max(best, slope @ t + 0.5 * t @ inner @ t - tangent @ t - np.abs(tangent).sum())
        t = np.clip(t - tangent / steep, -1.0, 1.0)
    return value + best - 0.5 * shift * len(slope)
