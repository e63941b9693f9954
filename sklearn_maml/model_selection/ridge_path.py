"""A quadratic with a ridge penalty of many sizes, at about the cost of one.

    x(c) = (A + c P)^-1 b(c),      P = diag(1, ..., 1), or diag(1, ..., 1, 0) with an intercept

A is reduced to a tridiagonal matrix, after which a penalty costs d^2. Or A and P are made diagonal
together, after which what is predicted for some rows without them costs a matrix of their number.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import (
    eigh,
    eigvalsh_tridiagonal,
    lapack,
    solveh_banded,
)

from sklearn_maml._linalg import self_products
from sklearn_maml._objective.quadratic import safe_cholesky

__all__ = ["Diagonal", "diagonalise", "left_out", "ridge_path"]

# With a smallest eigenvalue below this share of its largest entry, A is left to `minimiser`, which
# compares columns each in its own unit.
SAFELY_REDUCED = 1e-9

# With one below this share A is made diagonal in columns of unit length.
SAFELY_ROTATED = 1e-4

# Rows that decide a direction almost alone have a leverage within this of 1: as many digits are
# lost where they are left out by a downdate.
SAFELY_LEFT_OUT = 1e-3

# Where penalties make some directions so many times as stiff as they leave others, the latter lose
# so many times the rounding error.
SAFELY_STIFFER = 1e6

# LAPACK reduces this many columns at a time, if given the memory.
PANEL = 64


def ridge_path(hessian, fixed, growing, penalties, intercept):
    """``(A + c P)^-1 (fixed + c growing)`` for each penalty c, by one tridiagonal reduction.

    An intercept is eliminated, so that P is the identity; then ``A = Q T Q'`` gives ``A + c I = Q
    (T + c I) Q'``.

    Parameters
    ----------
    hessian : ndarray of shape (d, d)
        A: symmetric, positive semi-definite.
    fixed, growing : ndarray of shape (..., d)
    penalties : sequence of float
        c >= 0.
    intercept : bool
        Whether the last parameter is not penalised.

    Returns
    -------
    list of ndarray of shape (..., d), or None
        None for a penalty with which A is too ill-conditioned, in the units that it has.
    """
    negligible = SAFELY_REDUCED * np.diag(hessian).max()
    if not intercept:
        return _reduced_path(hessian, fixed, growing, penalties, negligible)
    row, pivot = hessian[-1, :-1], hessian[-1, -1]
    if pivot <= negligible:
        return [None] * len(penalties)
    slope = row / pivot
    given = [b[..., :-1] - b[..., -1:] * slope for b in (fixed, growing)]
    path = _reduced_path(hessian[:-1, :-1] - np.outer(slope, row), *given, penalties, negligible)
    for k, (c, x) in enumerate(zip(penalties, path, strict=True)):
        if x is not None:
            last = (fixed[..., -1] + c * growing[..., -1]) / pivot - x @ slope
            path[k] = np.concatenate([x, last[..., None]], axis=-1)
    return path


def _reduced_path(matrix, fixed, growing, penalties, negligible):
    """`ridge_path` where P is the identity; None where an eigenvalue is negligible."""
    n = len(matrix)
    if n < 3:  # tridiagonal as it is, and soon solved
        return [None] * len(penalties)
    reduced, diagonal, beside, tau, _ = lapack.dsytrd(matrix.T, lower=1, lwork=PANEL * n)
    (least,) = eigvalsh_tridiagonal(diagonal, beside, select="i", select_range=(0, 0))
    columns = np.concatenate([b.reshape(-1, n) for b in (fixed, growing)]).T
    first, second = np.split(_rotate(reduced, tau, columns, "T"), 2, axis=1)
    above = np.array([0.0, *beside])
    safe = [c for c in penalties if least + c > negligible]
    if not safe:
        return [None] * len(penalties)
    solved = [solveh_banded(np.array([above, diagonal + c]), first + c * second) for c in safe]
    rotated = _rotate(reduced, tau, np.concatenate(solved, axis=1), "N").T
    found = dict(zip(safe, rotated.reshape(len(safe), *fixed.shape), strict=True))
    return [found.get(c) for c in penalties]


def _rotate(reduced, tau, columns, trans):
    """``Q columns`` ("N") or ``Q' columns`` ("T"), for the Q of dsytrd; the first row stays."""
    room = PANEL * columns.shape[1]
    rotated, _, _ = lapack.dormqr("L", trans, reduced[1:, :-1], tau, columns[1:], room)
    return np.concatenate([columns[:1], rotated])


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A basis W with ``W' (A + c P) W = diag(1 + (c - least) rates)``.

    Attributes
    ----------
    basis : ndarray of shape (d, d)
    rates : ndarray of shape (d,)
        Non-negative.
    least : float
        The smallest c that is allowed.
    """

    basis: np.ndarray
    rates: np.ndarray
    least: float

    def inverse(self, c):
        """The diagonal of ``(W' (A + c P) W)^-1`` for c (...), shape (..., d): at most 1."""
        return 1.0 / (1.0 + np.subtract(c, self.least)[..., None] * self.rates)


def diagonalise(hessian, penalised, least, most):
    """`Diagonal` of A and ``P = diag(penalised)``; None where its rounding could be seen.

    For penalties from `least`, with which A has to be safely definite, to `most`, which may not
    make some directions too much stiffer than others.
    Eigenvectors of A do, with the intercept eliminated, where all are large enough; else ``A +
    least P = R' R`` and ``R^-T P R^-1 = V diag(rates) V'`` give ``W = R^-1 V``.
    """
    found = _rotated(hessian, penalised, least)
    if found is None:
        found = _reduced(hessian, penalised, least)
    if found is None or (most - least) * found.rates.max(initial=0.0) > SAFELY_STIFFER:
        return None
    return found


def _rotated(hessian, penalised, least):
    """`Diagonal` by eigenvectors of A, its intercept eliminated; None where units may matter."""
    d, negligible = np.count_nonzero(penalised), SAFELY_ROTATED * np.diag(hessian).max()
    if not 0 < len(hessian) - 1 <= d or hessian[-1, -1] <= negligible:
        return None
    slope = hessian[-1] / hessian[-1, -1] if d < len(hessian) else np.zeros(d)
    matrix = (hessian - np.outer(slope, hessian[-1]))[:d, :d]
    values, vectors = eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    if values[0] + least <= negligible:
        return None
    rates, basis = np.zeros(len(hessian)), np.zeros(hessian.shape)
    rates[:d] = 1.0 / (values + least)
    np.multiply(vectors, np.sqrt(rates[:d]), out=basis[:d, :d])
    if d < len(hessian):
        basis[d, :d], basis[d, d] = -slope[:d] @ basis[:d, :d], hessian[d, d] ** -0.5
    return Diagonal(basis, rates, least)


def _reduced(hessian, penalised, least):
    """`Diagonal` by a Cholesky factor, in columns of unit length, so that units do not matter."""
    whole = hessian + np.diag(least * penalised)
    scale = np.sqrt(np.diag(whole))
    factor = safe_cholesky(whole / np.outer(scale, scale)) if scale.all() else None
    if factor is None:
        return None
    inverse, _ = lapack.dtrtri(factor)
    inverse /= scale[:, None]
    root = inverse * np.sqrt(penalised)[:, None]
    rates, vectors = eigh(root.T @ root, driver="evd", overwrite_a=True, check_finite=False)
    return Diagonal(inverse @ vectors, np.maximum(rates, 0.0), least)


def left_out(rows, inverse, residuals):
    """What residuals become where each stack's rows are left out of the fit.

    ``(I - Z D Z')^-1 e``, by a matrix of as many rows as Z has rows, or columns if they are fewer.

    Parameters
    ----------
    rows : ndarray of shape (n, m, d)
        Z = B W, with B the weighted design.
    inverse : ndarray of shape (n, d)
        The diagonal D of `Diagonal.inverse`.
    residuals : ndarray of shape (..., n, m)
        Weighted, of the fit to all rows.

    Returns
    -------
    ndarray of shape (..., n, m)
        NaN where some direction hangs on the rows of a stack almost alone.

    References
    ----------
    Cook & Weisberg, "Residuals and Influence in Regression", Chapman & Hall 1982, section 3.
    """
    scaled = rows * np.sqrt(inverse)[:, None, :]
    turned = np.swapaxes(scaled, -1, -2)
    few = rows.shape[1] <= rows.shape[2]
    leverage = self_products(scaled if few else turned)
    safe = np.einsum("nij,nij->n", leverage, leverage) < (1 - SAFELY_LEFT_OUT) ** 2
    unclear = np.flatnonzero(~safe)
    safe[unclear] = np.linalg.eigvalsh(leverage[unclear])[:, -1] < 1 - SAFELY_LEFT_OUT
    remaining = np.eye(leverage.shape[-1]) - leverage * safe[:, None, None]
    columns = np.moveaxis(residuals.reshape(-1, *residuals.shape[-2:]), 0, -1)  # (n, m, n_targets)
    if few:
        columns = np.linalg.solve(remaining, columns)
    else:
        columns = columns + np.matmul(
            scaled, np.linalg.solve(remaining, np.matmul(turned, columns))
        )
    columns = np.where(safe[:, None, None], columns, np.nan)
    return np.moveaxis(columns, -1, 0).reshape(residuals.shape)
