"""The Gauss-Newton Hessian of a meta-objective.

``H = sum_i p_i sum_j b_ij l''_ij psi_ij psi_ij' + 2 alpha I`` with the adapted design psi: the
Hessian of the meta-loss where the inner loop is replaced by its linearisation. With several
targets there is one H for each, on a leading axis.
"""

from functools import partial

import numpy as np

__all__ = [
    "gauss_newton_hessian",
    "hessian_diagonal",
    "hessian_product",
]

# Far from the target a loss may be a straight line. A step must not be so long as if it stayed one
# for ever: l'' is at least this share of the curvature of the parabola about the target that is as
# steep there (iteratively reweighted least squares).
LEAST_CURVED = 0.1


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


def _hessian_part(change, linearization):
    """A block's part of the Gauss-Newton Hessian, shape (..., d, d)."""
    rows = _curved_design(linearization)
    if change is not None:
        rows = np.matmul(rows, change)
    return (np.matmul(np.swapaxes(rows, -1, -2), rows),)


def hessian_diagonal(linearization):
    """A block's part of the Gauss-Newton Hessian's diagonal, shape (..., d)."""
    return (np.square(_curved_design(linearization)).sum(axis=-2),)


def hessian_product(v, linearization):
    """A block's part of the Gauss-Newton Hessian times v, without forming either."""
    return (linearization.pull(_hessian_weights(linearization) * linearization.along(v)),)


def gauss_newton_hessian(objective, theta, change=None):
    """``sum p b l'' psi psi' + 2 alpha I``, shape (..., d, d); value and gradient are kept.

    With a matrix `change` W, of shape (d, d), the Hessian in y of ``theta = theta_0 + W y``, made
    of rows ``psi' W``: exact where ``W' H W`` would be lost to rounding.
    """
    (hessian,) = objective.reduce_with_gradient(partial(_hessian_part, change), theta)
    penalty = np.diag(objective.penalty)
    return hessian + 2.0 * (penalty if change is None else change.T @ penalty @ change)
