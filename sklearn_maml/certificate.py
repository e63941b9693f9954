"""The gap certificate: how far meta-parameters can be from the global optimum.

It rests on Theorem 1 of Wang, Cai, Yang & Wang, "On the Global Optimality of Model-Agnostic
Meta-Learning", ICML 2020, read on data (docs: theory). With w, u, psi over query rows,

    L(omega) - L(theta*) <= R epsilon + ||w|| min_{||v|| <= R} ||u - psi v||     for every R > 0,

where epsilon = ||grad L(omega)||, w = l'(h_omega), u = h_omega - h_theta* and psi = J' phi.
"""

from dataclasses import dataclass, replace
from functools import partial
from html import escape
from numbers import Real

import numpy as np

from sklearn_maml._quadratic import quadratic
from sklearn_maml._query_minima import compare_all, representation

__all__ = ["GapCertificate", "certify"]

EPS = np.finfo(float).eps
TITLE = "Gap certificate (Wang, Cai, Yang & Wang, ICML 2020)"


@dataclass(frozen=True)
class Curve:
    """``min ||psi (v* - v)||`` over ``||v|| <= R`` as a function of R.

    Attributes
    ----------
    distance : float
        ||v*||, from where on the minimum is `rest`.
    start : float
        The minimum at R = 0, ``||psi v*||``.
    eigenvalues, squares : tuple of float
        Spectrum of psi' psi, and the squared coordinates of v* in it. Empty where they were not
        needed, or lost to rounding: then v is sought on the segment from 0 to v*, which is valid
        and no sharper.
    rest : float
        What no v represents: the minimum is ``min ||psi (v* - v)||``, squares added to its square.
    """

    distance: float
    start: float
    eigenvalues: tuple = ()
    squares: tuple = ()
    rest: float = 0.0

    def with_spectrum(self, eigenvalues, squares):
        """The curve with a spectrum, if the spectrum still knows v* and psi v*."""
        whole = np.array([self.distance**2, self.start**2])
        known = np.array([squares.sum(), (eigenvalues * squares).sum()])
        if not (np.abs(known - whole) <= 1e-8 * whole).all():
            return self
        return replace(
            self, eigenvalues=tuple(eigenvalues.tolist()), squares=tuple(squares.tolist())
        )

    def __call__(self, radius):
        """The representation error at a radius."""
        if radius >= self.distance:
            return self.rest
        inside = np.sqrt(max(self.start**2 - self.rest**2, 0.0))
        segment = float(np.hypot(self.rest, inside * (1.0 - radius / self.distance)))
        if not self.eigenvalues or radius == 0:
            return segment
        # ||v(lam)|| falls from ||v*|| to 0 as lam grows from 0: bisect on log(lam).
        s = np.array(self.eigenvalues)
        low, high = np.log(s.max() * 1e-18), np.log(s.max() * 1e18)
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (low, middle) if self._at(np.exp(middle))[0] < radius else (middle, high)
        return min(segment, self._at(np.exp(high))[1])

    def _at(self, lam):
        """Length of ``v(lam) = (psi'psi + lam)^-1 psi'psi v*``, and ``||psi (v* - v)||``."""
        s, squares = np.array(self.eigenvalues), np.array(self.squares)
        length = np.sqrt((squares * (s / (s + lam)) ** 2).sum())
        error = (squares * s * (lam / (s + lam)) ** 2).sum()
        # What rounding left out of the spectrum counts as if nothing represented it.
        lost = abs(self.start**2 - self.rest**2 - (squares * s).sum())
        return length, np.sqrt(error + lost + self.rest**2)

    def best(self, epsilon, weight_norm):
        """The radius that minimises ``R epsilon + weight_norm * curve(R)``; also its error."""
        candidates = [(self.distance, self.rest), (0.0, self.start)]
        if self.eigenvalues:
            top = max(self.eigenvalues)
            grid = np.geomspace(1e-18 * top, 1e6 * top, 400) if top > 0 else []
            candidates += [self._at(lam) for lam in grid]
        return min(candidates, key=lambda at: at[0] * epsilon + weight_norm * at[1])


@dataclass(frozen=True)
class GapCertificate:
    """An upper bound on ``L(omega) - min L`` for the meta-parameters omega that were certified.

    Attributes
    ----------
    bound : float
        The meta-loss at omega exceeds its global minimum by at most this much; in units of the
        loss. ``float(certificate)`` is the bound.
    epsilon : float
        ``||grad L(omega)||``: omega is epsilon-stationary.
    radius : float
        R, the radius at which the bound is smallest.
    weight_norm : float
        ``||w||``, root mean square of the loss derivative over the query rows; for shared inputs
        the smaller factor of Corollary 1.
    representation_error : float
        ``min ||u - psi v||`` over ``||v|| <= radius``: what the adapted features cannot represent.
    meta_loss : float
        L(omega).
    slack : float
        Suboptimality of the comparator itself, from its own gradient or, for losses that are not
        quadratic, from duality; part of the bound.
    rounding : float
        How precisely L(omega) can be evaluated in float64; part of the bound.
    unresolved : float
        What directions below the numerical rank could lower the loss by, were they not zero. Not
        part of the bound, which assumes that they are.
    comparator : str
        What stands in for the global optimum.
    assumptions : tuple of (str, str)
        What the bound rests on, and whether it was checked, holds by construction or is assumed.
    curve : callable
        The representation error as a function of R.
    route : str
        What `bound` rests on: "Theorem 1"; "Corollary 1" where all tasks share their inputs; for
        losses that are not quadratic also "query minima" or "strong convexity".
    corollary : GapCertificate or None
        The certificate by Corollary 1, where it applies; then `bound` is the smaller of the two.
    routes : tuple of (str, float)
        For losses that are not quadratic: each route that applies and its bound; `bound` is the
        smallest. Empty otherwise.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> model = MAMLRegressor().fit(make_linear_tasks(n_tasks=30, random_state=0))
    >>> certificate = model.gap_certificate_
    >>> float(certificate) == certificate.bound
    True
    >>> certificate.lower_bound <= model.meta_loss_
    True
    """

    bound: float
    epsilon: float
    radius: float
    weight_norm: float
    representation_error: float
    meta_loss: float
    slack: float
    rounding: float
    comparator: str
    assumptions: tuple
    curve: Curve
    route: str = "Theorem 1"
    corollary: "GapCertificate | None" = None
    routes: tuple = ()
    unresolved: float = 0.0

    @property
    def lower_bound(self):
        """``meta_loss - bound``: no meta-parameters have a smaller meta-loss."""
        return self.meta_loss - self.bound

    def at(self, radius):
        """The bound of Theorem 1 (or Corollary 1) at a given R.

        Parameters
        ----------
        radius : float
            R >= 0, in the units of the meta-parameters.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the radius is negative or not a number.
        """
        if not isinstance(radius, Real) or not radius >= 0:
            raise ValueError(f"radius must be a number >= 0; got {radius!r}.")
        error = self.curve(radius)
        return radius * self.epsilon + self.weight_norm * error + self.slack + self.rounding

    def __float__(self):
        return self.bound

    def _rows(self):
        """What there is to tell: pairs of a name and a text, a step in where they are terms."""
        share = self.bound / self.meta_loss if self.meta_loss > 0 else 0.0
        return [
            ("meta-loss of the fit", f"{self.meta_loss:.6g}"),
            ("global minimum, at least", f"{self.lower_bound:.6g}"),
            ("gap, at most", f"{self.bound:.3g}  ({share:.2g} of the meta-loss)"),
            *((f"  by {name}", f"{bound:.3g}") for name, bound in self.routes),
            (f"terms of {'Theorem 1' if self.routes else self.route}", ""),
            ("  R * epsilon", f"{self.radius:.3g} * {self.epsilon:.3g}"),
            (
                "  weight norm * repr. error",
                f"{self.weight_norm:.3g} * {self.representation_error:.3g}",
            ),
            ("  comparator's slack", f"{self.slack:.3g}"),
            ("  rounding", f"{self.rounding:.3g}"),
        ]

    def __str__(self):
        lines = [TITLE, *(f"  {name:<30}{text}".rstrip() for name, text in self._rows())]
        lines += [f"  comparator: {self.comparator}", "  assumptions:"]
        return "\n".join(lines + [f"    - {what}: {status}" for what, status in self.assumptions])

    def _repr_html_(self):
        """The certificate as a table, for notebooks."""
        rows = [*self._rows(), ("comparator", self.comparator)]
        rows += [(f"assumption: {what}", status) for what, status in self.assumptions]
        left = 'style="text-align:left; white-space:pre-wrap"'
        cells = "".join(
            f"<tr><td {left}>{escape(name)}</td><td {left}>{escape(text)}</td></tr>"
            for name, text in rows
        )
        return f"<table><caption {left}>{escape(TITLE)}</caption><tbody>{cells}</tbody></table>"


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
    """
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
