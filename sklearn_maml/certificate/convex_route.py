"""Where the meta-loss is no quadratic: query minima, and the tight bounds for convex losses."""

from dataclasses import replace

import numpy as np

from sklearn_maml.certificate.gap_certificate import Curve, GapCertificate
from sklearn_maml.certificate.point import certified_point, far_rounding, tightened
from sklearn_maml.certificate.query_minima import compare_all, representation
from sklearn_maml.certificate.spot_checks import asserted
from sklearn_maml.certificate.tight import EFFORTS, tight_bounds

__all__ = ["certify_convex"]

EPS = np.finfo(float).eps


def certify_convex(objective, theta, effort):
    """The certificate of any convex loss: the smallest of all bounds that apply."""
    with np.errstate(over="ignore", invalid="ignore"):
        point = certified_point(objective, theta)
    epsilon = float(np.hypot.reduce(point.gradient, axis=None))  # no square overflows
    if not np.isfinite(point.meta_loss):
        raise ValueError(
            f"The meta-loss at these meta-parameters is {point.meta_loss}; only finite ones have a "
            "certificate. Scale the features, or start the solver elsewhere."
        )
    if not np.isfinite([epsilon, point.weight_norm, point.rounding]).all():
        return _unknown(objective, point, epsilon, effort)
    rows, lower, slack, magnitude = compare_all(objective, theta)
    eigenvalues, squares, rest = representation(rows)
    start = float(np.linalg.norm(rows[..., -1]))
    far = far_rounding(objective, theta, rows[..., :-1], start)
    certificate = tightened(
        GapCertificate(
            bound=np.nan,
            epsilon=epsilon,
            radius=np.nan,
            weight_norm=point.weight_norm,
            representation_error=np.nan,
            meta_loss=point.meta_loss,
            slack=slack,
            rounding=point.rounding + far + 16 * EPS * magnitude,
            comparator="each task's own query minimiser, by Newton steps; its slack is bounded by "
            "a dual feasible point",
            assumptions=_assumptions(objective),
            curve=Curve(
                distance=float(np.sqrt(squares.sum())),
                start=start,
                eigenvalues=tuple(eigenvalues.tolist()),
                squares=tuple(squares.tolist()),
                rest=rest,
            ),
            effort=effort,
        )
    )
    gaps, notes = tight_bounds(objective, theta, EFFORTS[effort], certificate.rounding)
    gaps = {"query minima": max(point.meta_loss - lower, 0.0), **gaps}
    routes = [("Theorem 1", certificate.bound)]
    routes += [(name, float(gap + certificate.rounding)) for name, gap in gaps.items()]
    route, bound = min(routes, key=lambda pair: pair[1])
    return replace(certificate, route=route, bound=bound, routes=tuple(routes), notes=notes)


def _unknown(objective, point, epsilon, effort):
    """The certificate where slopes overflow though the meta-loss does not: there is no bound."""
    return GapCertificate(
        bound=np.inf,
        epsilon=epsilon,
        radius=0.0,
        weight_norm=point.weight_norm,
        representation_error=np.inf,
        meta_loss=point.meta_loss,
        slack=0.0,
        rounding=point.rounding,
        comparator="none: no bound is known",
        assumptions=_assumptions(objective),
        curve=Curve(distance=0.0, start=np.inf, eigenvalues=(), squares=(), rest=np.inf),
        notes=(
            "derivatives of the meta-loss at these meta-parameters are beyond the range of "
            "float64: no bound is known; scale the features, or raise the strength of the rule",
        ),
        effort=effort,
    )


def _assumptions(objective):
    """What the bound for a convex loss rests on."""
    return (
        ("the loss is convex and differentiable in the prediction", asserted(objective.loss)),
        ("the pullback is the derivative of the adapted parameters", asserted(objective.rule)),
        ("the query minimisers' own suboptimality", "bounded by duality, in the slack"),
        ("the featurizer, the rule and the episodes are fixed", "holds by construction"),
        ("the bound is about the training objective, not about new tasks", "by definition"),
    )
