"""How far meta-parameters can be from the global optimum: a pure function.

It rests on Theorem 1 of Wang, Cai, Yang & Wang, "On the Global Optimality of Model-Agnostic
Meta-Learning", ICML 2020, read on data (docs: theory). With w, u, psi over query rows,

    L(omega) - L(theta*) <= R epsilon + ||w|| min_{||v|| <= R} ||u - psi v||     for every R > 0,

where epsilon = ||grad L(omega)||, w = l'(h_omega), u = h_omega - h_theta* and psi = J' phi.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from sklearn_maml._objective.quadratic import quadratic
from sklearn_maml.certificate.gap_certificate import Curve, GapCertificate
from sklearn_maml.certificate.query_minima import compare_all, representation

__all__ = ["certify", "shares_inputs", "strong_convexity"]

EPS = np.finfo(float).eps


def certify(objective, theta):
    """Bound the suboptimality of theta, knowing nothing of how it was found.

    The comparator is made here, from the objective at theta alone. Where the meta-loss is quadratic
    it is the Newton step to the minimiser, whose own suboptimality is evaluated and added. For
    other losses it is each task's own query minimiser, with a slack from Fenchel duality; then
    three routes lead to a bound, and the smallest is reported:

    - "Theorem 1" with these minimisers in place of the optimum;
    - "query minima": ``L(omega) - sum_i p_i min R_i``, which Theorem 1 bounds from above. The
      theorem says why it is small; the number itself is never larger;
    - "strong convexity": ``epsilon^2 / (2 mu)``, where the penalty and the loss's third derivative
      prove L strongly convex on a ball that holds both omega and the optimum.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        The meta-parameters omega to be certified.

    Returns
    -------
    GapCertificate

    Raises
    ------
    TypeError
        For anything but an objective.
    """
    if not hasattr(objective, "value_and_gradient"):
        raise TypeError(
            f"certify takes a meta-objective; got {type(objective).__name__}. A fitted model has "
            "the certificate of its fit as gap_certificate_, and of other tasks by its own method "
            "certify(X, y)."
        )
    objective = objective.exact()
    if objective.is_quadratic:
        return _certify_quadratic(objective, theta)
    return _certify_convex(objective, theta)


def _facts(objective, theta):
    """(L, its gradient, ||w||, sum_i p_i 2 R_i^(1/2), rounding of L) at theta, in one pass."""
    squared_norm, root_risks, *magnitudes = objective.reduce_with_gradient(
        partial(_weights_and_magnitudes, theta), theta
    )
    meta_loss, gradient = objective.value_and_gradient(theta)
    penalty_weight = 4 * (objective.penalty * theta**2).sum()  # rows w_j = 2 sqrt(alpha) omega_j
    weight_norm = float(np.sqrt(squared_norm + penalty_weight))
    rounding = _rounding(abs(meta_loss), *magnitudes, objective.n_parameters)
    return meta_loss, gradient, weight_norm, float(root_risks), rounding


def _certify_quadratic(objective, theta):
    """The certificate of a quadratic meta-loss, whose minimum is known to rounding."""
    shape = quadratic(objective)
    meta_loss, gradient, weight_norm, root_risks, rounding = _facts(objective, theta)
    to_optimum = shape.newton_step(objective, theta, gradient)
    epsilon = float(np.linalg.norm(gradient))
    slack = shape.gap(gradient)  # the comparator is no worse than theta itself
    if slack > rounding:
        slack = shape.gap(objective.value_and_gradient(theta - to_optimum)[1])
    unresolved = shape.unresolved(objective, theta)
    curve = Curve(float(np.linalg.norm(to_optimum)), shape.length(to_optimum))
    if curve.distance * epsilon > slack + rounding:  # else nothing is to be gained
        curve = curve.with_spectrum(*shape.spectrum(to_optimum))
    certificate = GapCertificate(
        bound=np.nan,
        epsilon=epsilon,
        radius=np.nan,
        weight_norm=weight_norm,
        representation_error=np.nan,
        meta_loss=meta_loss,
        slack=slack,
        rounding=rounding,
        comparator=(
            "the exact minimiser of the quadratic meta-loss, by a Newton step from the certified "
            + ("point" if shape.definite else "point through a QR decomposition of the rows")
        ),
        unresolved=unresolved,
        assumptions=_assumptions(shape, unresolved),
        curve=curve,
    )
    certificate = _tightened(certificate)
    if not shares_inputs(objective) or objective.penalty.any() or objective.n_targets:
        return certificate
    corollary = _tightened(replace(certificate, weight_norm=root_risks, route="Corollary 1"))
    return replace(min(certificate, corollary, key=float), corollary=corollary)


def _certify_convex(objective, theta):
    """The certificate of any convex loss, by each task's own query minimiser."""
    meta_loss, gradient, weight_norm, _, rounding = _facts(objective, theta)
    if not (np.isfinite(meta_loss) and np.isfinite(gradient).all()):
        raise ValueError(
            f"The meta-loss at these meta-parameters is {meta_loss}; only finite ones have a "
            "certificate. Scale the features, or start the solver elsewhere."
        )
    rows, lower, slack, magnitude = compare_all(objective, theta)
    eigenvalues, squares, rest = representation(rows)
    certificate = _tightened(
        GapCertificate(
            bound=np.nan,
            epsilon=float(np.linalg.norm(gradient)),
            radius=np.nan,
            weight_norm=weight_norm,
            representation_error=np.nan,
            meta_loss=meta_loss,
            slack=slack,
            rounding=rounding + 16 * EPS * magnitude,
            comparator="each task's own query minimiser, by Newton steps; its slack is bounded by "
            "a dual feasible point",
            assumptions=CONVEX_ASSUMPTIONS,
            curve=Curve(
                distance=float(np.sqrt(squares.sum())),
                start=float(np.linalg.norm(rows[..., -1])),
                eigenvalues=tuple(eigenvalues.tolist()),
                squares=tuple(squares.tolist()),
                rest=rest,
            ),
        )
    )
    direct = float(max(meta_loss - lower, 0.0) + certificate.rounding)
    routes = [("Theorem 1", certificate.bound), ("query minima", direct)]
    modulus = strong_convexity(objective, theta, meta_loss - lower)
    if modulus > 0:
        by_modulus = certificate.epsilon**2 / (2 * modulus) + certificate.rounding
        routes.append(("strong convexity", by_modulus))
    route, bound = min(routes, key=lambda pair: pair[1])
    return replace(certificate, route=route, bound=bound, routes=tuple(routes))


CONVEX_ASSUMPTIONS = (
    ("the loss is convex and differentiable in the prediction", "holds by construction"),
    ("the pullback is the derivative of the adapted parameters", "holds by construction"),
    ("the query minimisers' own suboptimality", "bounded by duality, in the slack"),
    ("the featurizer, the rule and the episodes are fixed", "holds by construction"),
    ("the bound is about the training objective, not about new tasks", "by definition"),
)


def strong_convexity(objective, theta, excess):
    """A modulus mu with ``Hess L >= mu I`` on a ball that holds theta and every global minimiser.

    Where ``alpha ||theta'||^2 + sum_i p_i min R_i <= L(theta)`` fails, theta' is no minimiser: the
    ball has the radius ``r = sqrt(excess / alpha)`` around 0. With rho = ||theta|| + r, G_i a bound
    on the query gradients in the ball (also that by the largest slope of the loss) and kappa_i the
    Lipschitz constant of J_i,

        mu = 2 alpha - sum_i p_i kappa_i G_i,   G_i <= |grad R_i(theta_i)| + l''_max |Phi_i|^2 rho.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
    excess : float
        L(theta) less a lower bound on the data's part of the minimum.

    Returns
    -------
    float
        0 where nothing is proved, for example without a penalty on every parameter.
    """
    alpha, bend = objective.penalty.min(), objective.loss.hessian_bound
    if not (alpha > 0 and np.isfinite(bend) and np.isfinite(excess)):
        return 0.0
    reach = float(np.linalg.norm(theta) + np.sqrt(max(excess, 0.0) / alpha))
    (bending,) = objective.reduce(partial(_bending, objective.rule, reach), theta)
    modulus = 2.0 * alpha - float(np.max(bending))
    return max(modulus, 0.0)


def _bending(rule, reach, linearization):
    """A block's part of ``sum_i p_i kappa_i G_i``, for each target."""
    query = linearization.query
    adapted, kappa = rule.lipschitz(linearization.support)
    size = np.linalg.norm(query.features, axis=-1)
    here = np.linalg.norm(query.gradient(linearization.theta_i), axis=-1)
    bend = query.loss.hessian_bound * (query.weights * size**2).sum(axis=-1)
    steepest = query.loss.gradient_bound * (query.weights * size).sum(axis=-1)
    steepest = np.minimum(steepest, here + bend * adapted * reach)
    return ((linearization.weight * np.where(kappa > 0, kappa * steepest, 0.0)).sum(axis=-1),)


def _tightened(certificate):
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


def _assumptions(shape, unresolved):
    """What the bound for a quadratic meta-objective rests on."""
    status = "checked"
    if shape.rank < len(shape.scale):
        status = (
            f"assumed (rank {shape.rank} of {len(shape.scale)}; if these directions were not zero "
            f"they could lower the loss by {unresolved:.3g})"
        )
    return (
        ("the loss is convex and differentiable in the prediction", "holds by construction"),
        ("the adapted parameters are affine in theta", "holds by construction"),
        (
            "only theta varies: the featurizer, the episodes and the adaptation rule, learned or "
            "not, are as they are",
            "holds by construction",
        ),
        ("directions below the numerical rank do not lower the loss", status),
        ("the bound is about the training objective, not about new tasks", "by definition"),
    )


def _weights_and_magnitudes(theta, linearization):
    """A block's part of ||w||^2, of sum_i p_i 2 R_i^(1/2), and of what `_rounding` needs."""
    squares = linearization.row_weight * linearization.loss_gradient**2
    risks = (linearization.query.weights * linearization.loss_gradient**2).sum(axis=-1)
    size = np.abs(theta)[..., None, :] + np.abs(linearization.theta_i)
    magnitude = linearization.query.magnitude(size)
    weighted = linearization.row_weight * np.abs(linearization.loss_gradient)
    return (
        squares.sum(),
        (linearization.weight * np.sqrt(risks)).sum(),
        (weighted * magnitude).sum(),
        (linearization.row_weight * magnitude**2).sum(),
    )


def _rounding(meta_loss, first, second, d):
    """How far off an evaluation of L can be in float64.

    A prediction adds d products up to the magnitude m = |phi|'(|theta| + |theta_i|). Errors that
    add like a random walk make it uncertain by delta = 2 (4 + sqrt(d)) eps m, and so L by
    |l'| delta to first and delta^2 to second order.
    """
    unit = 2.0 * (4.0 + np.sqrt(d)) * EPS
    return float(4.0 * EPS * meta_loss + unit * first + unit**2 * second)


def shares_inputs(objective):
    """Whether all tasks have the same support and query inputs and weights, in the same order."""
    first = objective.blocks[0]
    return all(
        _equal(block.support, first.support) and _equal(block.query, first.query)
        for block in objective.blocks
    )


def _equal(rows, reference):
    """Whether the features and weights of all tasks in a block are those of a first task."""
    pairs = ((rows.weights, reference.weights[0]), (rows.features, reference.features[0]))
    return all(a.shape[1:] == b.shape and (a == b).all() for a, b in pairs)
