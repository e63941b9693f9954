"""Linear mixed models by restricted maximum likelihood (REML).

Sigma, the covariance of the random effects in units of the residual variance, is sought by Fisher
scoring, by Newton's steps where that foretells the likelihood badly, and where it stalls by L-BFGS
on a factor of Sigma: all stay positive semi-definite, and a variance that wants to be zero gets
there. `likelihood` has the model and its derivatives.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from sklearn_maml._learning.decrement import second_derivative
from sklearn_maml._learning.likelihood import likelihood
from sklearn_maml._learning.structure import FLOOR, Structure
from sklearn_maml._progress import report

__all__ = ["MixedModel", "fit_low_rank", "fit_reml"]

# A direction with a standard deviation below this counts as having no variance.
SINGULAR = 1e-3

# Fisher scoring has stalled after so many steps that were too long.
STALLED = 12

# After so many steps in a row whose gain was not about what they foretold, in shares of that, the
# second derivative is asked.
SURPRISED, FORETOLD = 3, (0.7, 1.4)

# By how much a direction without variance may want some, in units of -2 log likelihood for a
# variance of FLOOR^2.
WANTED = 1e-4

# Values of -2 log likelihood that differ by this share of it are the same.
SAME = 1e-13

# The length of a factor that is new, in standard deviations.
FIRST_FACTOR = 0.3

# What L-BFGS is told of a likelihood that overflows.
FAR = 1e15


@dataclass(frozen=True, eq=False)
class MixedModel:
    """A mixed model fitted by REML.

    Attributes
    ----------
    relative : ndarray of shape (q, q)
        Sigma; the covariance of the random effects is ``noise * Sigma``.
    fixed : ndarray of shape (t, r)
        Fixed effects.
    noise : ndarray of shape (t,)
        Residual variances.
    log_likelihood : float
        Log restricted likelihood, summed over targets.
    n_iter : int
    converged : bool
    singular : bool
        Whether a direction of the random effects has (numerically) no variance.
    between : float or None
        The variance of a row's random part, on average over rows, in units of the noise's.
    coordinates : ndarray of shape (k,), default=None
        Of Sigma in `Structure.low_rank`, if it has that structure.
    decrement : float or None
        See `newton_decrement`; None where it was not asked for.
    at : Likelihood, default=None
        At Sigma.
    """

    relative: np.ndarray
    fixed: np.ndarray
    noise: np.ndarray
    log_likelihood: float
    n_iter: int
    converged: bool
    singular: bool
    between: float | None = None
    coordinates: np.ndarray | None = None
    decrement: float | None = None
    at: Any = None


def fit_reml(moments, structure, start=None, max_iter=100, tol=1e-9):
    """Maximise the restricted likelihood.

    By damped Fisher scoring; where that stalls, by L-BFGS on the entries of a factor, and scoring
    once more from there. None of them ends where the likelihood is lower than where it began.

    Parameters
    ----------
    moments : Moments
    structure : Structure
        Of Sigma; one that scoring steps can be taken in.
    start : MixedModel, default=None
        With a Sigma of that structure to start from; None starts from I.
    max_iter : int
        Steps of Fisher scoring; L-BFGS may take ten times as many.
    tol : float
        Stop where the predicted change of -2 log likelihood is less.

    Returns
    -------
    MixedModel
    """
    relative = np.eye(structure.size)
    if start is not None:
        factor = structure.factor(structure.coordinates(start.relative))
        relative = factor @ factor.T
    relative, at, n_iter, converged = _scoring(moments, structure, relative, max_iter, tol)
    if not converged:
        x, more, _ = _lbfgs(moments, structure, structure.coordinates(relative), max_iter, tol)
        factor = structure.factor(x)
        best = min(relative, factor @ factor.T, key=lambda at: likelihood(moments, at).value)
        relative, at, last, converged = _scoring(moments, structure, best, max_iter, tol)
        n_iter += more + last
    return _model(relative, at, n_iter, converged)


def fit_low_rank(moments, k, start, max_iter=100, tol=1e-9):
    """Maximise the restricted likelihood over ``Sigma = diag(s^2) + F F'``, by L-BFGS.

    Parameters
    ----------
    moments : Moments
    k : int
        Columns of F.
    start : MixedModel
        Such a one, or one with F = 0: then the search begins along the directions in which the
        likelihood grows most.
    max_iter, tol
        As in `fit_reml`.

    Returns
    -------
    MixedModel
    """
    structure = Structure.low_rank(len(start.relative), k)
    x = start.coordinates
    if x is None:
        x = _with_factors(moments, k, start.relative)
    x, n_iter, converged = _lbfgs(moments, structure, x, max_iter, tol)
    factor = structure.factor(x)
    relative = factor @ factor.T
    model = _model(relative, likelihood(moments, relative), n_iter, converged)
    return replace(model, coordinates=x)


def _with_factors(moments, k, relative):
    """Coordinates of a diagonal Sigma with k factors, along the steepest descent."""
    at = likelihood(moments, relative)
    wanted = np.diag(np.diagonal(at.gradient)) - at.gradient
    factors = FIRST_FACTOR * at.to @ np.linalg.eigh(wanted)[1][:, -k:]
    return np.append(np.sqrt(np.maximum(np.diagonal(relative), FLOOR**2)), factors.ravel())


def _model(relative, at, n_iter, converged):
    """The `MixedModel` with this Sigma, at which the likelihood is known."""
    deviation = np.sqrt(np.maximum(np.linalg.eigvalsh(relative), 0.0))
    return MixedModel(
        relative=relative,
        fixed=at.fixed,
        noise=at.noise,
        log_likelihood=-0.5 * at.value,
        n_iter=n_iter,
        converged=bool(converged),
        singular=bool(deviation.min(initial=np.inf) < SINGULAR),
        at=at,
    )


def _scoring(moments, structure, relative, max_iter, tol):
    """Fisher scoring: Sigma, its `Likelihood`, number of evaluations, whether it converged.

    Fisher's information is a mean over data of the model. Where these data are others, and steps
    change the value by more or less than they should, the second derivative itself takes its place.
    """
    at, damping, rejected = likelihood(moments, relative, structure.information), 1e-3, 0
    surprises = 0
    for n_iter in range(1, max_iter + 1):
        report(f"-2 log likelihood {at.value:.8g}")
        newton = None
        if surprises >= SURPRISED and not rejected:
            second = second_derivative(moments, at, structure.information)
            newton = structure.newton_step(at, second)
        step, change = structure.scoring_step(at, damping) if newton is None else newton
        done = change < tol + at.rounding and damping <= 1.0  # else it is small by force
        root = np.diag(at.root) + step
        candidate = at.to @ root @ root.T @ at.to.T
        there = _attempt(moments, candidate, structure.information)
        # The last step is too short for values to tell, but not for gradients.
        gain = np.nan if there is None else at.value - there.value
        if surprises < SURPRISED and not done:  # in a row
            surprises = 0 if FORETOLD[0] * change < gain < FORETOLD[1] * change else surprises + 1
        if there is not None and there.value < at.value + done * SAME * abs(at.value):
            relative, at, damping, rejected = candidate, there, damping / 10, 0
        else:
            damping, rejected = 10 * max(damping, 1e-6), rejected + 1
        if done:
            return relative, at, n_iter, _is_stationary(at, structure)
        if rejected == STALLED:
            break
    return relative, at, n_iter, False


def _is_stationary(at, structure):
    """Whether no direction without variance wants some: a step in its root would not show it."""
    asleep = at.root < 1.0
    wanted = structure.closest(at.gradient)[np.ix_(asleep, asleep)]
    return bool(np.linalg.eigvalsh(wanted).min(initial=0.0) > -WANTED - at.rounding)


def _lbfgs(moments, structure, x, max_iter, tol):
    """L-BFGS on a factor, from x: where it ends, number of evaluations, whether it converged."""
    factor = structure.factor(x)
    origin = likelihood(moments, factor @ factor.T).value

    def value_and_gradient(x):
        factor = structure.factor(x)
        at = _attempt(moments, factor @ factor.T)
        if at is None:  # the line search turns back
            return FAR, np.zeros_like(x)
        report(f"-2 log likelihood {at.value:.8g}")
        return at.value - origin, structure.contract(2.0 * at.slope @ factor)

    options = {"maxfun": 10 * max_iter, "maxiter": 10 * max_iter, "ftol": tol / 10, "gtol": 1e-5}
    found = minimize(value_and_gradient, x, jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(found.x).all():  # a line search of values that are all far away
        return x, int(found.nfev), False
    return found.x, int(found.nfev), bool(found.success)


def _attempt(moments, relative, information=None):
    """The likelihood; None where it is lost to overflow or rounding: too far away."""
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            at = likelihood(moments, relative, information)
    except (np.linalg.LinAlgError, ValueError):  # X'V^-1X is not positive definite, or not finite
        return None
    return at if np.isfinite(at.value) and np.isfinite(at.gradient).all() else None
