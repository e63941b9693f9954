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

__all__ = ["GapCertificate", "certify"]

EPS = np.finfo(float).eps


@dataclass(frozen=True)
class Curve:
    """``min ||psi (v* - v)||`` over ``||v|| <= R`` as a function of R.

    Attributes
    ----------
    distance : float
        ||v*||, from where on the minimum is 0.
    start : float
        The minimum at R = 0, ``||psi v*||``.
    eigenvalues, squares : tuple of float
        Spectrum of psi' psi, and the squared coordinates of v* in it. Empty where they were not
        needed, or lost to rounding: then v is sought on the segment from 0 to v*, which is valid
        and no sharper.
    """

    distance: float
    start: float
    eigenvalues: tuple = ()
    squares: tuple = ()

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
            return 0.0
        segment = self.start * (1.0 - radius / self.distance)
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
        lost = abs(self.start**2 - (squares * s).sum())  # what rounding left out of the spectrum
        return length, np.sqrt(error + lost)

    def best(self, epsilon, weight_norm):
        """The radius that minimises ``R epsilon + weight_norm * curve(R)``; also its error."""
        candidates = [(self.distance, 0.0), (0.0, self.start)]
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
        Suboptimality of the comparator itself, from its own gradient; part of the bound.
    rounding : float
        How precisely L(omega) can be evaluated in float64; part of the bound.
    unresolved : float
        What directions below the numerical rank could lower the loss by, were they not zero. Not
        part of the bound, which assumes that they are.
    comparator : str
        What stands in for the global optimum.
    assumptions : tuple of (str, str)
        What the bound rests on, and whether it was checked, holds by construction or is assumed.
    route : str
        "Theorem 1", or "Corollary 1" where all tasks share their inputs.
    corollary : GapCertificate or None
        The certificate by Corollary 1, where it applies; then `bound` is the smaller of the two.

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
    unresolved: float
    comparator: str
    assumptions: tuple
    curve: Curve
    route: str = "Theorem 1"
    corollary: "GapCertificate | None" = None

    @property
    def lower_bound(self):
        """``meta_loss - bound``: no meta-parameters have a smaller meta-loss."""
        return self.meta_loss - self.bound

    def at(self, radius):
        """The bound at a given R.

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

    def __str__(self):
        share = self.bound / self.meta_loss if self.meta_loss > 0 else 0.0
        lines = [
            f"Gap certificate ({self.route} of Wang, Cai, Yang & Wang, ICML 2020)",
            f"  meta-loss of the fit          {self.meta_loss:.6g}",
            f"  global minimum, at least      {self.lower_bound:.6g}",
            f"  gap, at most                  {self.bound:.3g}  ({share:.2g} of the meta-loss)",
            f"    R * epsilon                 {self.radius:.3g} * {self.epsilon:.3g}",
            f"    weight norm * repr. error   {self.weight_norm:.3g} * "
            f"{self.representation_error:.3g}",
            f"    comparator's slack          {self.slack:.3g}",
            f"    rounding                    {self.rounding:.3g}",
            f"  comparator: {self.comparator}",
            "  assumptions:",
        ]
        return "\n".join(lines + [f"    - {what}: {status}" for what, status in self.assumptions])

    def _repr_html_(self):
        """The certificate as a table, for notebooks."""
        share = self.bound / self.meta_loss if self.meta_loss > 0 else 0.0
        rows = [
            ("meta-loss of the fit", f"{self.meta_loss:.6g}"),
            ("global minimum, at least", f"{self.lower_bound:.6g}"),
            ("<b>gap, at most</b>", f"<b>{self.bound:.3g}</b> ({share:.2g} of the meta-loss)"),
            ("R × gradient norm ε", f"{self.radius:.3g} × {self.epsilon:.3g}"),
            (
                "weight norm × representation error",
                f"{self.weight_norm:.3g} × {self.representation_error:.3g}",
            ),
            ("comparator's slack", f"{self.slack:.3g}"),
            ("rounding", f"{self.rounding:.3g}"),
            ("comparator", escape(self.comparator)),
        ]
        rows += [(f"assumption: {escape(what)}", escape(how)) for what, how in self.assumptions]
        cells = "".join(
            f'<tr><td style="text-align:left">{what}</td>'
            f'<td style="text-align:left">{value}</td></tr>'
            for what, value in rows
        )
        title = f"Gap certificate ({escape(self.route)} of Wang, Cai, Yang &amp; Wang, ICML 2020)"
        return (
            f'<table><caption style="text-align:left">{title}</caption>'
            f"<tbody>{cells}</tbody></table>"
        )


def certify(objective, theta):
    """Bound the suboptimality of theta, knowing nothing of how it was found.

    The comparator is made here, from the objective and the gradient at theta alone: the Newton
    step to the minimiser of the quadratic L, whose own suboptimality is evaluated and added.

    Parameters
    ----------
    objective : MetaObjective
        With a loss whose Hessian is constant and a rule that is affine.
    theta : ndarray of shape (d,) or (n_targets, d)
        The meta-parameters omega to be certified.

    Returns
    -------
    GapCertificate

    Raises
    ------
    NotImplementedError
        If the meta-loss is not a quadratic.
    """
    if not objective.is_quadratic:
        raise NotImplementedError(
            "No certificate is implemented for the loss "
            f"{type(objective.loss).__name__} with the rule {type(objective.rule).__name__}: "
            "the meta-loss is not a quadratic."
        )
    shape = quadratic(objective)
    squared_norm, root_risks, *magnitudes = objective.reduce_with_gradient(
        partial(_weights_and_magnitudes, theta), theta
    )
    meta_loss, gradient = objective.value_and_gradient(theta)
    penalty_weight = 4 * (objective.penalty * theta**2).sum()  # rows w_j = 2 sqrt(alpha) omega_j
    to_optimum = shape.newton_step(objective, theta, gradient)
    epsilon = float(np.linalg.norm(gradient))
    weight_norm = float(np.sqrt(squared_norm + penalty_weight))
    rounding = _rounding(meta_loss, *magnitudes, len(shape.scale))
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
    corollary = _tightened(replace(certificate, weight_norm=float(root_risks), route="Corollary 1"))
    return replace(min(certificate, corollary, key=float), corollary=corollary)


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
