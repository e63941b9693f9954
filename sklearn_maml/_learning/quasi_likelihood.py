"""Penalised quasi-likelihood: the covariance of random effects for losses that are not quadratic.

About its predictions z the loss is a square, ``l ~ w (zw - z)^2 + const`` with the working weight
``w = l'' / 2`` and the working response ``zw = z - l' / l''``. REML of a linear mixed model of
working responses, with working weights, gives a covariance and fixed effects; these give each task
its conditional mode; the modes give new predictions, and so on (Breslow & Clayton, "Approximate
Inference in Generalized Linear Mixed Models", JASA 1993). The residual variance is a dispersion,
known where the loss is a likelihood that leaves none free. Variances come out too small where tasks
have few rows and classes (Breslow & Lin, Biometrika 1995): the query loss says what strength is
right.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from sklearn_maml._learning.mixed_design import mixed_design, structure_of
from sklearn_maml._learning.reml import fit_reml
from sklearn_maml._parallel import add_parts, one_blas_thread
from sklearn_maml._progress import report
from sklearn_maml.adaptation.prior import Metric
from sklearn_maml.solvers.gauss_newton import GaussNewton

__all__ = ["fit_quasi_likelihood", "working"]

# Rounds end at the last of these, or where Sigma changes by less than this share of itself (or of
# VISIBLE, in units of the noise). It need not be exact: its size is chosen again, by the strength.
MAX_ROUNDS, SETTLED, VISIBLE = 10, 0.02, 0.1

# A working response is at most so far from its prediction; farther on it would be a row whose loss
# is all but straight that decides, with a huge response and hardly any weight.
LONGEST = 4.0

# A round's own likelihood is maximised to this, in units of -2 log likelihood, or so many steps.
TOLERANCE, MAX_ITER = 1e-2, 20


def fit_quasi_likelihood(objective, effects, kind, make_rule):
    """The covariance of random effects, and fixed effects, of a generalised linear mixed model.

    Parameters
    ----------
    objective : MetaObjective
    effects : RandomEffects
    kind : {"intercept", "diagonal", "full"}
        As in `fit_covariance`.
    make_rule : callable
        From a `Metric` to the rule that shrinks by it: its adapted parameters are the modes.

    Returns
    -------
    metric : Metric
        Covariance of the random effects in units of the dispersion.
    models : list of MixedModel
        Of the working responses, one a target.
    theta : ndarray of shape (d,) or (n_targets, d)
        The fixed effects.
    n_iter : int
        Rounds.
    """
    design = mixed_design(effects, kind)
    whole = objective.vary(blocks=objective.blocks.unsplit())
    at = whole.vary(rule=make_rule(Metric(effects.lift[:, :0])))  # one model for all tasks
    theta = GaussNewton(tol=1e-6).minimize(at, at.origin()).theta
    models, relative = [None] * (objective.n_targets or 1), 0.0
    n_iter, settled = 0, False
    while not settled and n_iter < MAX_ROUNDS:
        models = [
            _fit(design, kind, _moments(at, design, theta, k), model)
            for k, model in enumerate(models)
        ]
        before, relative = relative, np.mean([model.relative for model in models], axis=0)
        lifted = [design.lifted(replace(model, relative=relative)) for model in models]
        theta = np.reshape([model.fixed[0] for _, model in lifted], theta.shape)
        change, n_iter = np.linalg.norm(relative - before), n_iter + 1
        settled = change <= SETTLED * (np.linalg.norm(before) + VISIBLE)
        report(f"working responses: the covariance changed by {change:.3g}")
        at = whole.vary(rule=make_rule(lifted[0][0]))
    return lifted[0][0], models, theta, n_iter


def _fit(design, kind, moments, start):
    """REML, roughly, from the model of the round before."""
    with one_blas_thread():
        return fit_reml(moments, structure_of(design, kind), start, MAX_ITER, TOLERANCE)


def working(loss, y, z):
    """Working weights and responses of a loss about predictions z.

    Where a loss is a straight line far from its target, the weight is that of the parabola about
    the target that is as steep there: iteratively reweighted least squares, whose working response
    is the target itself.

    Parameters
    ----------
    loss : Loss
    y, z : ndarray

    Returns
    -------
    weight, response : ndarray
        ``l'' / 2``, or more, and ``z - l' / (2 weight)``: the gradient at z is always that of l.
    """
    slope, curvature = loss.gradient(y, z), loss.hessian(y, z)
    if loss.least_at_target:
        distance = np.abs(z - y)
        chord = np.minimum(np.abs(slope), loss.hessian_bound * distance)
        curvature = np.maximum(
            curvature, np.divide(chord, distance, where=distance > 0, out=0.0 * chord)
        )
    else:
        curvature = np.maximum(curvature, np.abs(slope) / LONGEST)
    # Where even that underflows the row says nothing.
    step = np.divide(slope, curvature, where=curvature > 0, out=np.zeros_like(slope))
    return 0.5 * curvature, z - step


def _moments(objective, design, theta, k):
    """The `Moments` of the k-th target's working responses about adapted predictions."""
    parts = objective.reduce(partial(_working_moments, design, k), theta, combine=add_parts)
    dispersion = objective.loss.dispersion
    noise = None if dispersion is None else 0.5 * dispersion
    return design.collected(parts, objective.blocks.tasks.count, 1, noise)


def _working_moments(design, k, linearization):
    """A block's lists of moments."""
    risk, share = linearization.query, linearization.weight
    shape = (-1, *risk.weights.shape)
    y, z = (part.reshape(shape)[k] for part in (risk.targets, linearization.predictions))
    weight, response = working(risk.loss, y, z)
    counts = risk.size[:, None] * risk.weights
    weight = np.where(counts > 0, counts * weight, 0.0)  # padding may overflow
    response = np.where(counts > 0, response, 0.0)
    sums = design.of_stack(risk.features, weight, response[..., None], share)
    return *sums, [share @ risk.size]
