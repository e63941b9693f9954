"""Learning the prior of a proximal rule: the covariance of what differs between tasks.

Two criteria. REML takes the covariance of the random effects of a linear mixed model, for losses
that are not quadratic of one of working responses (`quasi_likelihood`). "query" minimises the meta-loss over Sigma (`variable_projection`), with the gradient

    dL/dSigma = sum_i p_i (J_i' g_i) e_i',     Sigma e_i = theta_i - theta,     g_i = dR_i/dtheta_i.
"""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._learning.learned_metric import LearnedMetric
from sklearn_maml._learning.quasi_likelihood import fit_quasi_likelihood
from sklearn_maml._learning.random_effects import fit_covariance
from sklearn_maml.adaptation.prior import Metric

__all__ = ["learn_covariance", "metric_coordinates"]

# log standard deviations of a metric in standardised features stay within these bounds.
LOG_DEVIATION = (-12.0, 12.0)


def learn_covariance(problem, effects, kind, criterion, reason, make_rule):
    """How tasks differ; see `LearningProblem.covariance`."""
    found = LearnedMetric(kind, criterion, reason, 1.0, effects.varies, problem.parameter_names)
    if problem.n_tasks < 2:
        alone = "one task does not show how tasks differ, so adapting changes nothing"
        return Metric(effects.lift[:, :0]), replace(found, reason=alone)
    if criterion is None:
        return Metric(effects.lift), found
    by_likelihood = _by_reml if problem.loss.constant_hessian else _by_quasi_likelihood
    learn = {"reml": by_likelihood, "query": _by_query}[criterion]
    metric, found = learn(problem, effects, found, make_rule)
    if not found.converged:
        warnings.warn(
            f"The metric {kind!r} did not converge in {found.n_iter} iterations "
            f"(criterion {criterion!r}); it is used as it is.",
            ConvergenceWarning,
            stacklevel=6,
        )
    return metric, found


def _by_reml(problem, effects, found, make_rule):
    """Metric and report of the restricted likelihood."""
    metric, model = fit_covariance(problem.objective, effects, found.metric)
    several = problem.n_targets
    return metric, replace(
        found,
        covariance=metric.covariance * model.noise[0],
        residual_variance=model.noise if several else model.noise[0],
        fixed_effects=model.fixed if several else model.fixed[0],
        log_likelihood=model.log_likelihood,
        singular=model.singular,
        n_iter=model.n_iter,
        converged=model.converged,
    )


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


def _by_query(problem, effects, found, make_rule):
    """Metric and report of the query loss."""
    problem.need_query_rows(f"the metric {found.metric!r}")
    scale = problem.best_scale(lambda x: make_rule(Metric(np.sqrt(x) * effects.lift)))
    start, make_metric, chain, bounds = metric_coordinates(effects, found.metric, scale)
    x, n_iter, converged = problem.minimize(
        start, lambda x: make_rule(make_metric(x)), chain, bounds
    )
    metric = make_metric(x)
    return metric, replace(found, covariance=metric.covariance, n_iter=n_iter, converged=converged)


def metric_coordinates(effects, kind, scale):
    """Where and how a metric is sought on the query loss.

    Parameters
    ----------
    effects : RandomEffects
    kind : {"intercept", "diagonal", "full"}
    scale : float
        Scale of the metric to start from.

    Returns
    -------
    start : ndarray of shape (k,)
    make_metric : callable
        From coordinates (k,) to a `Metric`.
    chain : callable
        From coordinates, and the derivative of a function in Sigma, to that in the coordinates.
    bounds : list of (float, float) or None
    """
    lift = effects.lift
    at = _cholesky if kind == "full" else partial(_log_deviations, effects.ties(kind))
    start, expand, contract, bounds = at(lift.shape[1], np.sqrt(scale))

    def chain(x, slope):
        factor = expand(x)  # Sigma = T L L' T', so that d/dL = T' (S + S') T L
        return contract(lift.T @ (slope + slope.T) @ lift @ factor, factor)

    return start, lambda x: Metric(lift @ expand(x)), chain, bounds


def _log_deviations(ties, q, deviation):
    """Coordinates of diagonal metrics: logs of the standard deviations, of which some are tied.

    Returns
    -------
    x : ndarray of shape (k,)
        Where to start.
    expand : callable
        From x to the factor (q, q).
    contract : callable
        From the derivative in the factor, and the factor, to that in x.
    bounds : list of (float, float) or None
    """

    def expand(x):
        return np.diag(np.exp(x[ties]))

    def contract(slope, factor):
        return np.bincount(ties, np.diagonal(slope) * np.diagonal(factor))

    k = ties.max() + 1
    return np.full(k, np.log(deviation)), expand, contract, [LOG_DEVIATION] * k


def _cholesky(q, deviation):
    """Coordinates of full metrics: a lower triangle. Returns what `_log_deviations` does."""
    at = np.tril_indices(q)

    def expand(x):
        factor = np.zeros((q, q))
        factor[at] = x
        return factor

    return deviation * np.eye(q)[at], expand, lambda slope, factor: slope[at], None
