"""How far meta-parameters can be from the global optimum: a pure function.

It rests on Theorem 1 of Wang, Cai, Yang & Wang, "On the Global Optimality of Model-Agnostic
Meta-Learning", ICML 2020, read on data (docs: theory). With w, u, psi over query rows,

    L(omega) - L(theta*) <= R epsilon + ||w|| min_{||v|| <= R} ||u - psi v||     for every R > 0,

where epsilon = ||grad L(omega)||, w = l'(h_omega), u = h_omega - h_theta* and psi = J' phi; and,
for convex losses, on bounds of this package that need no comparator.
"""

from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._typing import Effort, Floats
from sklearn_maml.certificate.convex_route import certify_convex
from sklearn_maml.certificate.gap_certificate import GapCertificate
from sklearn_maml.certificate.quadratic_route import certify_quadratic
from sklearn_maml.certificate.spot_checks import spot_check_rule
from sklearn_maml.certificate.tight import EFFORTS

__all__ = ["certify", "check_effort"]


def check_effort(certificate):
    """Raise unless `certificate` is None or an effort that `certify` knows."""
    if certificate is not None and not (isinstance(certificate, str) and certificate in EFFORTS):
        raise ValueError(
            f"certificate must be one of {', '.join(map(repr, EFFORTS))} or None; got "
            f"{certificate!r}."
        )


def certify(
    objective: MetaObjective, theta: Floats, certificate: Effort | None = "fast"
) -> GapCertificate | None:
    """Bound the suboptimality of theta, knowing nothing of how it was found.

    Where the meta-loss is quadratic, the minimiser is a Newton step away: the bound is Theorem 1
    with it in place of the optimum, plus its own suboptimality, which is evaluated. For other
    losses the smallest of several bounds is reported, each valid by itself:

    - "Theorem 1", with each task's own query minimiser in place of the optimum, and a slack from
      Fenchel duality;
    - "query minima": ``L(omega) - sum_i p_i min R_i``, which Theorem 1 bounds from above;
    - "Theorem 3", for proximal rules that adapt to the rows they are judged on: exact where no row
      moves far;
    - "Theorem 1, relaxed": the slopes of the support rows are relaxed to the interval that they lie
      in, and a convex program is solved;
    - with ``certificate="full"``, in rounds: the same on a region that holds all minimisers;
      "Theorem 4", convexity of L as seen from omega, exact where it holds; and "Corollary 5",
      Theorem 1 with a comparator in that region;
    - with ``certificate="branch"`` also "branch and bound", for few parameters.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        The meta-parameters omega to be certified.
    certificate : {"fast", "full", "branch"} or None, default="fast"
        What it may cost: about as much as the fit, ten times as much, or as long as it takes for a
        few parameters. Quadratic meta-losses need no more than "fast". None makes none.

    Returns
    -------
    GapCertificate or None

    Raises
    ------
    TypeError
        For anything but an objective.
    ValueError
        If the meta-loss is not finite, if a rule's pullback is not its derivative, or for an effort
        that there is not.

    Examples
    --------
    A solver is handed the objective, and may ask how far it is from the minimum:

    >>> import numpy as np
    >>> from sklearn_maml import GradientDescent, MAMLRegressor, certify
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> class Certified(GradientDescent):
    ...     def minimize(self, objective, theta, callback=None):
    ...         result = super().minimize(objective, theta, callback)
    ...         start, end = (certify(objective, at).bound for at in (theta, result.theta))
    ...         print(f"from {start:.0f} above the minimum at most, to {end:.6f}")
    ...         return result
    >>> tasks = make_linear_tasks(theta=np.ones(6), random_state=0)
    >>> model = MAMLRegressor(inner_lr=0.1, solver=Certified(tol=1e-9)).fit(tasks)
    from 6 above the minimum at most, to 0.000000
    """
    check_effort(certificate)
    if not hasattr(objective, "value_and_gradient"):
        raise TypeError(
            f"certify takes a meta-objective; got {type(objective).__name__}. A fitted model has "
            "the certificate of its fit as gap_certificate_, and of other tasks by its own method "
            "certify(X, y)."
        )
    if certificate is None:
        return None
    objective = objective.exact()
    spot_check_rule(objective, theta)
    if objective.is_quadratic:
        return certify_quadratic(objective, theta)
    return certify_convex(objective, theta, certificate)
