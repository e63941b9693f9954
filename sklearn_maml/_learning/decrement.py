"""How near a covariance is to a local maximum of the restricted likelihood: its Newton decrement.

With the notation of `likelihood`, ``W = Z K``, ``Q = (X' V^-1 X)^-1``, ``M = V^-1 - V^-1 X Q X'
V^-1``, ``N = W' M W`` and ``a = W' M y``, -2 log restricted likelihood f has, along a symmetric D
in S,

    f'  = tr(N D) - a' D a / s,
    f'' = -tr(N D N D) + 2 a' D N D a / s - (a' D a)^2 / (dof s^2),

the last term from the residual variance s that is profiled out. N joins tasks by Q only: ``N_ii =
P_i - U_i Q U_i'`` and ``N_ij = -U_i Q U_j'``, with ``P_i = B_i^-1 G_i`` and ``U_i = W_i' V_i^-1
X_i``. Fisher's information, by which the likelihood is maximised, is about the mean of f''; this is
f'' itself.
"""

from dataclasses import replace
from functools import reduce

import numpy as np

from sklearn_maml._learning.likelihood import Solved, likelihood
from sklearn_maml._parallel import add_parts

__all__ = ["measured", "newton_decrement", "second_derivative"]

# A direction without variance may want as little as this, in units of -2 log likelihood for a
# variance of FLOOR^2; see `reml`.
FLAT = 1e-4

# Curvature below this share of the largest is rounding.
SEEN = 1e-12


def newton_decrement(moments, structure, relative, at=None):
    """By how much a Newton step would raise the log restricted likelihood, to second order.

    In the root of S, in which a variance of zero is no boundary: there the likelihood is
    stationary, and its curvature says whether the variance would rather grow.

    Parameters
    ----------
    moments : Moments
    structure : Structure
        One that scoring steps can be taken in.
    relative : ndarray of shape (q, q)
        Sigma.
    at : Likelihood, default=None
        At Sigma, if it is known.

    Returns
    -------
    float
        ``-g' H^-1 g / 2`` of the log likelihood; infinite where that is not concave.
    """
    at = likelihood(moments, relative) if at is None else at
    second = second_derivative(moments, at, structure.information)
    slope, hessian = structure.root_derivatives(at, second)
    values, vectors = np.linalg.eigh(hessian)
    if values.min(initial=0.0) < -2.0 * FLAT:
        return np.inf
    values = np.maximum(values, SEEN * values.max(initial=0.0) + np.finfo(float).tiny)
    return float(0.25 * (np.square(vectors.T @ slope) / values).sum())


def measured(moments, structure, model):
    """A `MixedModel` with its decrement."""
    decrement = newton_decrement(moments, structure, model.relative, model.at)
    return replace(model, decrement=decrement)


def second_derivative(moments, at, information):
    """The second derivative in S of `Likelihood.value`: of the shape of its information."""
    t, r = moments.n_targets, moments.n_fixed
    solved, back = Solved(moments, at.to, at.root), moments.back(at.to)
    contrast = np.concatenate([-at.fixed.T, np.eye(t)])
    left = (contrast * (at.schur @ contrast)).sum(axis=0)
    # As the columns of Z are, fixed effects are taken along the axes of Sigma.
    contrast, Q = back @ contrast, back[:r, :r] @ np.linalg.inv(at.schur[:r, :r]) @ back[:r, :r].T

    def sums(i, part):
        P, U, count = part.precision, part.seen[:, :r], part.count
        a = np.matmul(contrast.T, part.seen) / np.sqrt(at.noise)[:, None]  # (q, t, n), of noise 1
        of_fixed = np.einsum("brn,crn->bcn", U, np.matmul(Q, U))
        of_noise = np.einsum("btn,ctn->bcn", a, a)
        rest = t * (2.0 * of_fixed - P) + 2.0 * of_noise
        return (
            _pairs(P * count, rest, information),
            _entries(U * count, U, information),
            _entries(U * count, a, information),
            np.einsum("ktt->kt", _entries(a * count, a, information)),
        )

    total, fixed, mixed, own = reduce(add_parts, solved.each(sums))
    turned = fixed @ Q
    total = total - t * np.einsum("krs,lsr->kl", turned, turned)
    total = total - 2.0 * np.einsum("krt,rs,lst->kl", mixed, Q, mixed)
    # Only a residual variance that is profiled out moves with Sigma, not one at its floor.
    free = np.isclose(left, moments.dof * at.noise, rtol=1e-9) & (moments.noise is None)
    total = total - (own * free) @ own.T / moments.dof
    return 0.5 * (total + total.T)


def _pairs(A, B, information):
    """``sum_i tr(A_i D B_i D)`` as a quadratic form in D, for A and B (q, q, n)."""
    q = len(A)
    if information == "diagonal":
        return (A * B).sum(axis=-1)
    products = (A.reshape(q * q, -1) @ B.reshape(q * q, -1).T).reshape(q, q, q, q)
    return products.transpose(0, 2, 1, 3).reshape(q * q, q * q)


def _entries(left, right, information):
    """``sum_i left_i' D right_i`` as a linear form in D, (k, r, s), for (q, r, n) and (q, s, n)."""
    if information == "diagonal":
        return np.matmul(left, np.swapaxes(right, 1, 2))
    products = np.tensordot(left, right, axes=(2, 2)).transpose(0, 2, 1, 3)
    return products.reshape(-1, *products.shape[2:])
