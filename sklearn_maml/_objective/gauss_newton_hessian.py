"""The Gauss-Newton Hessian of a meta-objective, and linear algebra with it.

``H = sum_i p_i sum_j b_ij l''_ij psi_ij psi_ij' + 2 alpha I`` with the adapted design psi: the
Hessian of the meta-loss where the inner loop is replaced by its linearisation. With several
targets there is one H for each, on a leading axis.
"""

import numpy as np
from scipy.linalg import lapack

__all__ = [
    "damped_cholesky",
    "damped_step",
    "gauss_newton_hessian",
    "hessian_diagonal",
    "hessian_product",
    "inverse_curvature",
    "lifted",
    "triangular",
]

# Far from the target a loss may be a straight line. A step must not be so long as if it stayed one
# for ever: l'' is at least this share of the curvature of the parabola about the target that is as
# steep there (iteratively reweighted least squares).
LEAST_CURVED = 0.1

# Of a matrix of unit diagonal: an eigenvalue below NULL * d is rounding. A pivot of less than
# NEARLY_NULL dampings is a sign of one.
NULL, NEARLY_NULL = 1e-15, 2.0


def _hessian_weights(linearization):
    """``p_i b_ij l''_ij``, shape (..., n, m)."""
    query, z = linearization.query, linearization.predictions
    loss = query.loss
    hessian = loss.hessian(query.targets, z)
    if loss.least_at_target and not loss.constant_hessian:
        distance = np.abs(z - query.targets)
        least = LEAST_CURVED * np.abs(linearization.loss_gradient)
        least = np.minimum(least, loss.hessian_bound * distance)
        hessian = np.maximum(hessian, np.divide(least, distance, where=distance > 0, out=0 * least))
    return linearization.row_weight * hessian


def _curved_design(linearization):
    """Adapted design rows times the roots of ``p_i b_ij l''_ij``, shape (..., rows, d)."""
    rows = linearization.scaled_design(np.sqrt(_hessian_weights(linearization)))
    return rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])


def _hessian_part(linearization):
    """A block's part of the Gauss-Newton Hessian, shape (..., d, d)."""
    rows = _curved_design(linearization)
    return (np.matmul(np.swapaxes(rows, -1, -2), rows),)


def hessian_diagonal(linearization):
    """A block's part of the Gauss-Newton Hessian's diagonal, shape (..., d)."""
    return (np.square(_curved_design(linearization)).sum(axis=-2),)


def hessian_product(v, linearization):
    """A block's part of the Gauss-Newton Hessian times v, without forming either."""
    return (linearization.pull(_hessian_weights(linearization) * linearization.along(v)),)


def gauss_newton_hessian(objective, theta):
    """``sum p b l'' psi psi' + 2 alpha I``, shape (..., d, d); value and gradient are kept."""
    (hessian,) = objective.reduce_with_gradient(_hessian_part, theta)
    return hessian + 2.0 * np.diag(objective.penalty)


def lifted(diagonal):
    """A diagonal without zeros, by which parameters of any unit can be compared."""
    top = diagonal.max(axis=-1, keepdims=True)
    return np.maximum(diagonal, np.where(top > 0, 1e-12 * top, 1.0))


def damped_cholesky(hessian, damping):
    """Lower factors of ``H + damping * diag(H)``; the damping grows where rounding asks for it.

    Directions in which H is zero but for rounding count as curved like ``diag(H)``. A damping of
    1e-9 alone would let the rounding of a gradient, times 1e9, carry theta along them.
    """
    scale = np.sqrt(lifted(np.diagonal(hessian, axis1=-2, axis2=-1)))
    unit = hessian / (scale[..., :, None] * scale[..., None, :])
    diagonal = np.einsum("...ii->...i", unit)  # a view
    undamped = diagonal.copy()
    while True:
        diagonal[...] = undamped + damping
        try:
            lower = np.linalg.cholesky(unit)
            if np.square(np.einsum("...ii->...i", lower)).min(initial=1.0) < NEARLY_NULL * damping:
                lower = np.linalg.cholesky(_without_null(unit, damping))
            return scale[..., None] * lower
        except np.linalg.LinAlgError:
            damping = max(10.0 * damping, 1e-14)


def _without_null(unit, damping):
    """Matrices plus a damping, with 1 for each eigenvalue that is nothing but the damping."""
    values, vectors = np.linalg.eigh(unit)
    null = values < damping + NULL * values.shape[-1]
    return np.matmul(vectors * np.where(null, 1.0, values)[..., None, :], vectors.swapaxes(-1, -2))


def triangular(lower, v, trans):
    """``lower^-1 v`` or its transpose, for v of shape (..., d)."""
    if v.ndim == 1:  # a tenth of the time that scipy.linalg.solve_triangular takes to check
        return lapack.dtrtrs(lower.T, v, lower=0, trans=int(trans == "N"))[0]
    return np.stack([triangular(one, x, trans) for one, x in zip(lower, v, strict=True)])


def damped_step(hessian, gradient, damping):
    """``(H + damping diag(H))^-1 g``."""
    lower = damped_cholesky(hessian, damping)
    return triangular(lower, triangular(lower, gradient, "N"), "T")


def inverse_curvature(objective, theta):
    """1 / the largest eigenvalue of the Gauss-Newton Hessian."""
    largest = np.linalg.eigvalsh(gauss_newton_hessian(objective, theta)).max()
    return 1.0 / largest if largest > 0 else 1.0
