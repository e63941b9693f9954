"""What every certificate needs to know of the point that is certified, in one pass."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

__all__ = ["CertifiedPoint", "certified_point", "far_rounding", "foresee", "tightened"]

EPS = np.finfo(float).eps


class CertifiedPoint(NamedTuple):
    """The meta-loss seen from omega.

    Attributes
    ----------
    meta_loss : float
        L(omega).
    gradient : ndarray of the shape of omega
    weight_norm : float
        ||w||, with the rows of the penalty.
    root_risks : float
        ``sum_i p_i 2 R_i^(1/2)``, the factor of Corollary 1 where the loss is the squared one.
    rounding : float
        How far off L(omega) can be in float64.
    """

    meta_loss: float
    gradient: np.ndarray
    weight_norm: float
    root_risks: float
    rounding: float


def certified_point(objective, theta):
    """The `CertifiedPoint` of meta-parameters theta, shape (d,) or (n_targets, d)."""
    sums = objective.reduce_with_gradient(_sums, theta)
    squared_norm, root_risks, cancelled, first, second = sums
    meta_loss, gradient = objective.value_and_gradient(theta)
    penalty_weight = 4 * (objective.penalty * theta**2).sum()  # rows w_j = 2 sqrt(alpha) omega_j
    return CertifiedPoint(
        meta_loss,
        gradient,
        float(np.sqrt(squared_norm + penalty_weight)),
        float(root_risks),
        _rounding(abs(meta_loss) + cancelled, first, second, objective.n_parameters),
    )


def foresee(objective):
    """Let the solver's last pass over the data be that of `certified_point`, too.

    Where blocks are made anew in each pass, and a pass takes as long as a Newton step. What is
    certified of a first-order rule is another objective.
    """
    if objective.is_quadratic and not (objective.blocks.kept or objective.rule.first_order):
        objective.take_along(_sums)


def _sums(linearization):
    """A block's part of ||w||^2, of sum_i p_i 2 R_i^(1/2), and of what rounding depends on."""
    query, row_weight = linearization.query, linearization.row_weight
    squares = row_weight * linearization.loss_gradient**2
    risks = (query.weights * linearization.loss_gradient**2).sum(axis=-1)
    size = np.abs(linearization.theta)[..., None, :] + np.abs(linearization.theta_i)
    magnitude = query.magnitude(size) + linearization.loop.amplified(linearization.theta_i)
    return (
        squares.sum(),
        (linearization.weight * np.sqrt(risks)).sum(),
        _cancelled(linearization),
        (row_weight * np.abs(linearization.loss_gradient) * magnitude).sum(),
        (row_weight * magnitude**2).sum(),
    )


def _cancelled(linearization):
    """The size of terms that cancel in a block's losses, where these are no squares.

    A deviance such as ``exp(z) - y z + y log(y) - y`` is least where its terms are not: there they
    are of the size of ``l'' (1 + |z|)``.
    """
    query, z = linearization.query, linearization.predictions
    if query.loss.constant_hessian:
        return 0.0
    terms = query.loss.hessian(query.targets, z) * (1.0 + np.abs(z))
    return (linearization.row_weight * terms).sum()


def _rounding(meta_loss, first, second, d):
    """How far off an evaluation of L can be in float64.

    `meta_loss` is the size of the terms that make L, which itself may be their difference.
    A prediction adds d products up to the magnitude m = |phi|'(|theta| + |theta_i|). Errors that
    add like a random walk make it uncertain by delta = 2 (4 + sqrt(d)) eps m, and so L by
    |l'| delta to first and delta^2 to second order.
    """
    unit = _unit(d)
    return float(4.0 * EPS * meta_loss + unit * first + unit**2 * second)


def far_rounding(objective, theta, rows, reach):
    """How far off L can be at other meta-parameters that predict about as well.

    Where columns are nearly collinear these may be huge, and what their predictions round away
    goes into every comparison with them.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        The certified point.
    rows : ndarray of shape (..., k, d)
        psi, the adapted design times roots of the row weights, of each target.
    reach : float
        How far their predictions may be from those at the certified point, root mean square.

    Returns
    -------
    float
    """
    d = rows.shape[-1]
    scale = np.sqrt(np.square(rows).sum(axis=-2, keepdims=True))
    scale = np.where(scale > 0, scale, 1.0)
    _, s, vt = np.linalg.svd(rows / scale, full_matrices=False)
    seen = s > EPS * max(10, d) * s.max(axis=-1, initial=0.0, keepdims=True)
    inverse = np.divide(1.0, s, where=seen, out=np.zeros_like(s))
    extent = reach * np.sqrt(np.square(vt * inverse[..., None]).sum(axis=-2)) / scale[..., 0, :]
    steepness, squares = objective.reduce(_costs, theta)
    unit = _unit(d)
    first, second = (steepness * extent).sum(), np.square((np.sqrt(squares) * extent).sum())
    return float(unit * first + unit**2 * second)


def _costs(linearization):
    """A block's part of what errors of the parameters cost, each of shape (d,).

    To first order that is at most ``sum p b |l'| |phi|``; to second order mean squares of phi say.
    """
    features = linearization.query.features.reshape(-1, linearization.query.features.shape[-1])
    row_weight = linearization.row_weight
    weighted = row_weight * np.abs(linearization.loss_gradient)
    total = weighted.sum(axis=tuple(range(weighted.ndim - 2)))
    return total.ravel() @ np.abs(features), row_weight.ravel() @ np.square(features)


def _unit(d):
    return 2.0 * (4.0 + np.sqrt(d)) * EPS


def tightened(certificate):
    """The certificate at the radius where its bound is smallest."""
    radius, error = certificate.curve.best(certificate.epsilon, certificate.weight_norm)
    return replace(
        certificate,
        radius=float(radius),
        representation_error=float(error),
        bound=float(
            radius * certificate.epsilon
            + certificate.weight_norm * error
            + certificate.slack
            + certificate.rounding
        ),
    )
