"""Where the meta-loss is a quadratic: Theorem 1 with the exact minimiser, and Corollary 1."""

from dataclasses import replace
from functools import partial

import numpy as np

from sklearn_maml._objective.quadratic import quadratic
from sklearn_maml.certificate.coordinates import row_coordinates
from sklearn_maml.certificate.gap_certificate import Curve, GapCertificate
from sklearn_maml.certificate.point import certified_point, tightened
from sklearn_maml.certificate.query_minima import compare_all
from sklearn_maml.certificate.spot_checks import asserted

__all__ = ["certify_quadratic", "shares_design"]

EPS = np.finfo(float).eps

# Designs that differ by so many roundings are the same: stacks of other sizes round otherwise.
ROUNDED = 64

# A direction that adapting shrinks to less than this share of the others has too few digits left.
KEPT = 1e-7


def certify_quadratic(objective, theta):
    """The certificate of a quadratic meta-loss, whose minimum is known to rounding."""
    shape = quadratic(objective)
    point = certified_point(objective, theta)
    to_optimum = shape.newton_step(objective, theta, point.gradient)
    epsilon = float(np.linalg.norm(point.gradient))
    slack = shape.gap(point.gradient)  # the comparator is no worse than theta itself
    if slack > point.rounding:
        slack = shape.gap(objective.value_and_gradient(theta - to_optimum)[1])
    unresolved = shape.unresolved(objective, theta)
    curve = Curve(float(np.linalg.norm(to_optimum)), shape.length(to_optimum))
    if curve.distance * epsilon > slack + point.rounding:  # else nothing is to be gained
        curve = curve.with_spectrum(*shape.spectrum(to_optimum))
    certificate = GapCertificate(
        bound=np.nan,
        epsilon=epsilon,
        radius=np.nan,
        weight_norm=point.weight_norm,
        representation_error=np.nan,
        meta_loss=point.meta_loss,
        slack=slack,
        rounding=point.rounding,
        comparator=(
            "the exact minimiser of the quadratic meta-loss, by a Newton step from the certified "
            + ("point" if shape.definite else "point through a QR decomposition of the rows")
        ),
        unresolved=unresolved,
        assumptions=_assumptions(objective, shape, unresolved),
        curve=curve,
    )
    certificate = tightened(certificate)
    n_erased = 0 if shape.definite else _erased(objective, shape)
    if n_erased:
        return _without_assumption(certificate, objective, theta, n_erased)
    if objective.penalty.any() or objective.n_targets or not shares_design(objective, theta):
        return certificate
    corollary = tightened(replace(certificate, weight_norm=point.root_risks, route="Corollary 1"))
    return replace(min(certificate, corollary, key=float), corollary=corollary)


def _erased(objective, shape):
    """How many directions that rows see are lost to rounding in the adapted design.

    Many uncapped steps can shrink a direction by more than float64 holds. Then a theta that is far
    along it may lower the loss, and nothing that is computed from the design knows. A rule that has
    no slope form is taken to erase what it erases altogether: 0.
    """
    if objective.rule.slope_form(objective.risks(0)[0]) is None:
        return 0
    basis, _ = row_coordinates(objective)
    s = np.linalg.svd(shape.triangle @ (shape.scale[:, None] * basis), compute_uv=False)
    n_rows = sum(_n_rows(*objective.risks(i)[1:]) for i in range(len(objective.blocks)))
    kept = int((s > KEPT * s.max(initial=0.0)).sum())
    return max(
        0, min(basis.shape[1], n_rows + int(objective.penalty.any()) * basis.shape[1]) - kept
    )


def _n_rows(query, weight):
    return int(((query.weights > 0) & (weight > 0)[:, None]).sum())


def _without_assumption(certificate, objective, theta, n_erased):
    """The bound by query minima, which asks nothing of the design."""
    _, lower, _, magnitude = compare_all(objective, theta)
    rounding = certificate.rounding + 16 * EPS * magnitude
    direct = float(max(certificate.meta_loss - lower, 0.0) + rounding)
    status = (
        f"not assumed: adapting shrinks {n_erased} direction(s) by more than float64 holds; were "
        f"they zero, the bound would be {certificate.bound:.3g}"
    )
    assumptions = tuple(
        (what, status if "numerical rank" in what else held)
        for what, held in certificate.assumptions
    )
    return replace(
        certificate,
        bound=direct,
        rounding=rounding,
        route="query minima",
        unresolved=max(certificate.unresolved, direct),
        assumptions=assumptions,
        notes=("fewer or shorter steps, or capped ones, would keep all directions",),
    )


def _assumptions(objective, shape, unresolved):
    """What the bound for a quadratic meta-objective rests on."""
    status = "checked"
    if shape.rank < len(shape.scale):
        status = (
            f"assumed (rank {shape.rank} of {len(shape.scale)}; if these directions were not zero "
            f"they could lower the loss by {unresolved:.3g})"
        )
    return (
        ("the loss is convex and differentiable in the prediction", asserted(objective.loss)),
        ("the adapted parameters are affine in theta", asserted(objective.rule)),
        (
            "only theta varies: the featurizer, the episodes and the adaptation rule, learned or "
            "not, are as they are",
            "holds by construction",
        ),
        ("directions below the numerical rank do not lower the loss", status),
        ("the bound is about the training objective, not about new tasks", "by definition"),
    )


def shares_design(objective, theta):
    """Whether the adapted design is the same in all tasks: what Corollary 1 asks of the rule.

    Compared is ``J_i' phi`` itself, not what it might depend on: a rule may look at inputs,
    weights, their sums, or at anything else.
    """
    first = objective.linearize(0, theta)
    design, query = first.design[0], first.query
    size = np.abs(query.features[0]).sum(axis=-1, keepdims=True)
    tolerance = ROUNDED * EPS * np.maximum(size, np.abs(design))
    reference = (query.weights[0], query.features[0], design, tolerance)
    if not _same_rows(reference, first)[0]:
        return False
    return bool(objective.reduce(partial(_same_rows, reference), theta, combine=_both)[0])


def _same_rows(reference, linearization):
    """Whether all tasks of a block have a first task's query weights and adapted design."""
    weights, features, design, tolerance = reference
    query = linearization.query
    if query.weights.shape[1:] != weights.shape or (query.weights != weights).any():
        return (False,)
    if (query.features != features).any():  # cheaper to see than in the design
        return (False,)
    return (bool((np.abs(linearization.design - design) <= tolerance).all()),)


def _both(total, part):
    return (total[0] and part[0],)
