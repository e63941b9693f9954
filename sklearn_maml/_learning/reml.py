"""Linear mixed models by restricted maximum likelihood (REML), from second moments of each task.

    y_i = X_i beta + Z_i delta_i + e_i,     delta_i ~ N(0, s Sigma),     e_i ~ N(0, s I)

beta and the residual variance s are profiled out (Lindstrom & Bates, "Newton-Raphson and EM
Algorithms for Linear Mixed-Effects Models for Repeated-Measures Data", JASA 1988). What an
evaluation of the likelihood needs of a task is ``Z_i' [Z_i X_i y_i]``, so that its cost does not
depend on the number of rows. Sigma = L L' is never inverted: with A = L' Z' Z L and M = I + A,

    log|V_i| = log|M|,     [X y]' V_i^-1 [X y] = [X y]'[X y] - C' M^-1 C,     C = L' Z' [X y].

Steps are taken in D, with Fisher's information, where ``Sigma = K (R + D)^2 K`` and K and R are the
symmetric roots of ``max(Sigma, floor)`` and of ``min(Sigma / floor, 1)``: Sigma stays positive
semi-definite, a variance that wants to be zero gets there quadratically, and a direction without
variance can still turn.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

__all__ = ["Likelihood", "MixedModel", "Moments", "fit_reml", "likelihood", "symmetric_basis"]

# Standard deviations, in units of the residual's; random effects have features of unit size.
# Below FLOOR a variance is no scale for the steps; at NONE it is as good as zero.
FLOOR, NONE = 1e-2, 1e-7

# A direction with a standard deviation below this counts as having no variance.
SINGULAR = 1e-3

# Without noise the likelihood is unbounded where a task has fewer rows than random effects; so no
# residual variance is taken to be below this share of what one model for all tasks leaves.
NO_NOISE = 1e-10

# A step changes no standard deviation by more than this, in units of itself (or of FLOOR).
LONGEST = 2.0


@dataclass(frozen=True, eq=False)
class Moments:
    """What REML needs of n tasks with q random and r fixed effects and t targets.

    Attributes
    ----------
    gram : ndarray of shape (n, q, q)
        Z'Z of each task.
    cross : ndarray of shape (n, q, r + t)
        Z'[X y].
    count : ndarray of shape (n,)
        How many tasks each task stands for.
    total : ndarray of shape (r + t, r + t)
        [X y]'[X y], summed over tasks.
    n_rows : float
        Number of rows, summed over tasks.
    n_targets : int
        t. Targets share Sigma; each has its own residual variance and fixed effects.
    """

    gram: np.ndarray
    cross: np.ndarray
    count: np.ndarray
    total: np.ndarray
    n_rows: float
    n_targets: int

    @property
    def n_fixed(self):
        """r, the number of fixed effects."""
        return len(self.total) - self.n_targets

    @property
    def dof(self):
        """Residual degrees of freedom, n_rows - r."""
        return self.n_rows - self.n_fixed


@dataclass(frozen=True, eq=False)
class Likelihood:
    """-2 log restricted likelihood at some Sigma, summed over targets, and its derivatives.

    Attributes
    ----------
    value : float
    scale, root : ndarray of shape (q, q)
        K and R.
    gradient : ndarray of shape (q, q)
        The derivative in ``K^-1 Sigma K^-1``.
    information : ndarray of shape (q * q, q * q)
        The expected second derivative in it.
    fixed : ndarray of shape (t, r)
    noise : ndarray of shape (t,)
        Residual variances.
    """

    value: float
    scale: np.ndarray
    root: np.ndarray
    gradient: np.ndarray
    information: np.ndarray
    fixed: np.ndarray
    noise: np.ndarray


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
    """

    relative: np.ndarray
    fixed: np.ndarray
    noise: np.ndarray
    log_likelihood: float
    n_iter: int
    converged: bool
    singular: bool


def likelihood(moments, relative):
    """The restricted `Likelihood` of `Moments` at Sigma (q, q)."""
    t, r, q = moments.n_targets, moments.n_fixed, len(relative)
    scale, root = _scale_and_root(relative)
    gram, cross = _congruence(moments.gram, scale), np.matmul(scale, moments.cross)
    inverse, log_determinant = _inverse(np.eye(q) + _congruence(gram, root))
    middle = root @ inverse @ root  # (n, q, q): Z V^-1 = (I - gram middle) Z
    solved = cross - np.matmul(gram, np.matmul(middle, cross))
    count = moments.count[:, None, None]
    explained = (count * cross).reshape(-1, r + t).T @ np.matmul(middle, cross).reshape(-1, r + t)
    fixed, deviance, noise, contrast, log_fixed = _profile(moments.total - explained, moments)
    value = t * (moments.count @ log_determinant + log_fixed) + deviance
    precision = gram - np.matmul(gram, np.matmul(middle, gram))  # Z' V^-1 Z
    total = np.tensordot(moments.count, precision, axes=1)
    fitted = np.tensordot(count * np.matmul(solved, contrast), solved, axes=([0, 2], [0, 2]))
    information = _expected_information(precision, moments.count, total, moments.n_rows)
    return Likelihood(float(value), scale, root, t * total - fitted, t * information, fixed, noise)


def _scale_and_root(relative):
    """K and R, symmetric, with Sigma = K R R K."""
    values, vectors = np.linalg.eigh(relative)
    deviation = np.sqrt(np.maximum(values, NONE**2))
    scale = np.maximum(deviation, FLOOR)
    return (vectors * scale) @ vectors.T, (vectors * (deviation / scale)) @ vectors.T


def _congruence(matrices, factor):
    """``S A S`` for matrices A (n, q, q) and a symmetric S (q, q)."""
    n, q, _ = matrices.shape
    half = (matrices.reshape(n * q, q) @ factor).reshape(n, q, q)
    return np.matmul(factor, half)


def _inverse(matrices):
    """Inverses and log determinants of symmetric matrices (n, q, q) that are at least I."""
    diagonal = np.diagonal(np.linalg.cholesky(matrices), axis1=-2, axis2=-1)
    return np.linalg.inv(matrices), 2 * np.log(diagonal).sum(axis=-1)


def _expected_information(precision, count, total, n_rows):
    """``sum_i count_i P_i (x) P_i``, less what the profiled residual variance takes."""
    q = len(total)
    flat = precision.reshape(-1, q * q)
    information = ((count[:, None] * flat).T @ flat).reshape(q, q, q, q)  # sum P_ab P_cd
    information = information.transpose(0, 2, 1, 3).reshape(q * q, q * q)
    return information - np.outer(total, total) / n_rows


def _profile(schur, moments):
    """Profile out fixed effects and residual variances, given [X y]'V^-1[X y].

    Returns
    -------
    fixed : ndarray of shape (t, r)
    deviance : float
        The residuals' part of -2 log likelihood.
    noise : ndarray of shape (t,)
    contrast : ndarray of shape (r + t, r + t)
        W such that ``(L'Z'V^-1[X y]) W (...)'`` sums up what the gradient takes off log|V|.
    log_fixed : float
        log|X'V^-1X|
    """
    t, r = moments.n_targets, moments.n_fixed
    fixed, residual, sums = _least_squares(schur, r)
    pooled = _least_squares(moments.total, r)[2]
    floor = np.maximum(NO_NOISE * pooled / moments.dof, np.finfo(float).tiny)
    noise = np.maximum(sums / moments.dof, floor)
    deviance = (moments.dof * np.log(2 * np.pi * noise) + sums / noise).sum()
    contrast = (residual / noise) @ residual.T
    factor = cho_factor(schur[:r, :r], lower=True)
    contrast[:r, :r] += t * cho_solve(factor, np.eye(r))
    log_fixed = 2 * np.log(np.diagonal(factor[0])).sum()
    return fixed.T, float(deviance), noise, contrast, log_fixed


def _least_squares(products, r):
    """Coefficients (r, t), contrasts (r + t, t), residual sums of squares (t,), by [X y]'[X y]."""
    fixed = cho_solve(cho_factor(products[:r, :r], lower=True), products[:r, r:])
    residual = np.concatenate([-fixed, np.eye(len(products) - r)])
    return fixed, residual, np.maximum(np.diagonal(residual.T @ products @ residual), 0.0)


def symmetric_basis(q):
    """A basis of the symmetric matrices (q, q), shape (q * q, q (q + 1) / 2)."""
    row, column = np.tril_indices(q)
    basis = np.zeros((q, q, len(row)))
    basis[row, column, np.arange(len(row))] = basis[column, row, np.arange(len(row))] = 1.0
    return basis.reshape(q * q, -1)


def fit_reml(moments, relative, basis, max_iter=200, tol=1e-9):
    """Maximise the restricted likelihood by damped Fisher scoring.

    Parameters
    ----------
    moments : Moments
    relative : ndarray of shape (q, q)
        Sigma to start from, positive definite.
    basis : ndarray of shape (q * q, k)
        Columns span the symmetric matrices of Sigma's structure, which must be closed under
        multiplication: all of them, or the diagonal ones.
    max_iter : int
        Evaluations of the likelihood.
    tol : float
        Stop where a step promises to change -2 log likelihood by less.

    Returns
    -------
    MixedModel
    """
    at, damping, converged, n_iter = likelihood(moments, relative), 1e-3, False, 0
    while not converged and n_iter < max_iter:
        n_iter += 1
        step, change = _scoring_step(at, basis, damping)
        root = at.root + step
        candidate = at.scale @ root @ root @ at.scale
        try:
            there = likelihood(moments, candidate)
        except np.linalg.LinAlgError:  # X'V^-1X lost to rounding: too large a step
            there = None
        if there is not None and there.value < at.value:
            relative, at, damping = candidate, there, damping / 10
        else:
            damping = 10 * max(damping, 1e-6)
        converged = change < tol + 1e-14 * abs(at.value)
    deviation = np.sqrt(np.maximum(np.linalg.eigvalsh(relative), 0.0))
    return MixedModel(
        relative=relative,
        fixed=at.fixed,
        noise=at.noise,
        log_likelihood=-0.5 * at.value,
        n_iter=n_iter,
        converged=bool(converged),
        singular=bool(deviation.min(initial=np.inf) < SINGULAR),
    )


def _scoring_step(at, basis, damping):
    """A symmetric step D, and by how much it should lower the value."""
    eye = np.eye(len(at.root))
    values, vectors = np.linalg.eigh(at.gradient)
    bending = (vectors * np.abs(values)) @ vectors.T  # Sigma is quadratic in D
    to_sigma = (np.kron(at.root, eye) + np.kron(eye, at.root)) @ basis
    hessian = to_sigma.T @ at.information @ to_sigma
    hessian += basis.T @ (np.kron(eye, bending) + np.kron(bending, eye)) @ basis
    slope = to_sigma.T @ at.gradient.ravel()
    size = np.diagonal(hessian)
    ridge = damping * size + 1e-13 * size.max(initial=0.0) + np.finfo(float).tiny
    x = np.linalg.solve(hessian + np.diag(ridge), -slope)
    values, vectors = np.linalg.eigh((basis @ x).reshape(eye.shape))
    step = (vectors * np.clip(values, -LONGEST, LONGEST)) @ vectors.T
    return step, -0.5 * float(slope @ x)
