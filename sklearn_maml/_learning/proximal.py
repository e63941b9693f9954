"""Learning the prior of a proximal rule: the covariance of what differs between tasks.

Two criteria. REML takes the covariance of the random effects of a linear mixed model, for losses
that are not quadratic of one of working responses (`quasi_likelihood`). "query" minimises the
meta-loss over Sigma (`variable_projection`), with the gradient

    dL/dSigma = sum_i p_i (J_i' g_i) e_i',     Sigma e_i = theta_i - theta,     g_i = dR_i/dtheta_i.
"""

from dataclasses import replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._learning.learned_metric import LearnedMetric
from sklearn_maml._learning.quasi_likelihood import fit_quasi_likelihood
from sklearn_maml._learning.random_effects import diagonal_deviations, fit_covariance
from sklearn_maml._learning.selection import COARSE, choose_structure
from sklearn_maml._progress import warn_user
from sklearn_maml.adaptation.prior import Metric

__all__ = ["learn_covariance", "metric_coordinates"]

# log standard deviations of a metric in standardised features stay within these bounds.
LOG_DEVIATION = (-12.0, 12.0)

# Their prior standard deviation about those of REML, as if each task were one observation. Without
# it the variance of what query rows hardly show, such as the effect of a dummy that is 1 in first
# rows only, runs away.
PRIOR_DEVIATION = 1.5

# Of more deviations than these REML takes longer than the query loss.
MANY_DEVIATIONS = 100


def learn_covariance(problem, effects, kind, criterion, reason, make_rule):
    """How tasks differ; see `LearningProblem.covariance`."""
    found = LearnedMetric(kind, criterion, reason, 1.0, effects.varies, problem.parameter_names)
    if not problem.shows_differences:
        what = "one task does" if problem.n_tasks < 2 else "tasks of one row do"
        alone = f"{what} not show how tasks differ, so adapting changes nothing"
        return Metric(effects.lift[:, :0]), replace(found, reason=alone)
    if not effects.varies.any():
        alone = "no feature varies within tasks, so adapting changes nothing"
        return Metric(effects.lift[:, :0]), replace(found, reason=alone)
    if criterion is None:
        return Metric(effects.lift), found
    likely = _by_reml if problem.loss.constant_hessian else _by_quasi_likelihood
    chosen = kind in ("auto", "low_rank")
    learn = _by_choice if chosen else {"reml": likely, "query": _by_query}[criterion]
    metric, found = learn(problem, effects, found, make_rule)
    if not found.converged and not problem.coarse:
        warn_user(
            f"The metric {kind!r} did not converge in {found.n_iter} iterations "
            f"(criterion {criterion!r}); it is used as it is. Scale the features, or learn less: "
            "metric='diagonal' or 'intercept', or random_effects= for some features only.",
            ConvergenceWarning,
        )
    return metric, found


def _by_reml(problem, effects, found, make_rule):
    """Metric and report of the restricted likelihood."""
    tol = COARSE if problem.coarse else 1e-9
    metric, model = fit_covariance(problem.objective, effects, found.metric, tol)
    return metric, found.of_model(metric, model, problem.n_targets)


def _by_quasi_likelihood(problem, effects, found, make_rule):
    """Metric and report of REML on working responses."""
    metric, models, theta, n_iter = fit_quasi_likelihood(
        problem.objective, effects, found.metric, make_rule
    )
    noise = np.array([model.noise[0] for model in models])
    return metric, replace(
        found,
        reason=f"{found.reason}; REML is that of working responses",
        covariance=metric.covariance * noise[0],
        residual_variance=noise if problem.n_targets else noise[0],
        fixed_effects=theta,
        singular=any(model.singular for model in models),
        n_iter=n_iter,
    )


def _by_choice(problem, effects, found, make_rule):
    """Metric and report of the restricted likelihood, with the structure that predicts best."""
    problem.need_query_rows(f"the metric {found.metric!r}")
    kinds = ("intercept", "low_rank") if found.metric == "auto" else ("low_rank",)
    kind, k, metric, model = choose_structure(problem.objective, effects, kinds, make_rule)
    told = "one variance for the intercept and one for the others"
    if kind == "low_rank":
        told = f"a variance for each and {k} factor(s)"
    reason = f"{found.reason}; held-out tasks are predicted best with {told}"
    found = replace(found, metric=kind, n_factors=k, reason=reason)
    return metric, found.of_model(metric, model, problem.n_targets)


def _by_query(problem, effects, found, make_rule):
    """Metric and report of the query loss."""
    problem.need_query_rows(f"the metric {found.metric!r}")
    equal = Metric(effects.lift)
    if not problem.shows(f"the metric {found.metric!r}", make_rule(equal)):
        return equal, replace(found, metric="identity", covariance=equal.covariance)
    start, pull = _deviations(problem, effects, found.metric, make_rule)
    x, make_metric, chain, bounds = metric_coordinates(effects, found.metric, start)
    x, n_iter, converged = problem.minimize(
        x, lambda x: make_rule(make_metric(x)), chain, bounds, pull
    )
    metric = make_metric(x)
    return metric, replace(found, covariance=metric.covariance, n_iter=n_iter, converged=converged)


def _deviations(problem, effects, kind, make_rule):
    """Standard deviations (q,) to start from, and what it costs to leave them.

    Those of the restricted likelihood where there is one; else all the same, and free.
    """
    q = int(effects.varies.sum())
    likely = problem.loss.constant_hessian and problem.n_rows > problem.n_parameters
    if likely and kind != "full" and q <= MANY_DEVIATIONS:
        start = diagonal_deviations(problem.objective, effects, kind)
        return start, 1.0 / (PRIOR_DEVIATION**2 * problem.n_tasks)
    scale = problem.best_scale(lambda x: make_rule(Metric(np.sqrt(x) * effects.lift)))
    return np.full(q, np.sqrt(scale)), 0.0


def metric_coordinates(effects, kind, deviations):
    """Where and how a metric is sought on the query loss.

    Parameters
    ----------
    effects : RandomEffects
    kind : {"intercept", "diagonal", "full"}
    deviations : ndarray of shape (q,)
        Standard deviations to start from, in standardised features.

    Returns
    -------
    start : ndarray of shape (k,)
    make_metric : callable
        From coordinates (k,) to a `Metric`.
    chain : callable
        From coordinates, and the derivative of a function in Sigma, to that in the coordinates.
    bounds : list of (float, float) or None
    """
    lift, q = effects.lift, len(deviations)
    unit = Metric(lift)
    if kind == "full":
        at = np.tril_indices(q)

        def factor(x):
            triangle = np.zeros((q, q))
            triangle[at] = x
            return triangle

        def chain(x, slope):  # Sigma = T L L' T', so that d/dL = T' (S + S') T L
            return (lift.T @ unit.rows(slope + slope.T) @ factor(x))[at]

        return np.diag(deviations)[at], lambda x: Metric(lift @ factor(x)), chain, None

    ties = effects.ties(kind)

    def chain_of_logs(x, slope):  # the diagonal of that, times that of L
        diagonal = np.einsum("dj,dj->j", lift, unit.rows(slope + slope.T))
        return np.bincount(ties, diagonal * np.exp(2.0 * x[ties]))

    start = np.bincount(ties, np.log(deviations)) / np.bincount(ties)
    return (
        start,
        lambda x: Metric(lift * np.exp(x[ties])),
        chain_of_logs,
        [LOG_DEVIATION] * len(start),
    )
