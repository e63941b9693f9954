"""Cholesky factors of Hessians that rounding or a straight loss made all but singular."""

import numpy as np
from scipy.linalg import lapack

__all__ = ["damped_cholesky", "is_nearly_singular", "lifted", "triangular"]

# Of a matrix of unit diagonal: an eigenvalue below NULL * d is rounding. A pivot of less than
# NEARLY_NULL dampings is a sign of one.
NULL, NEARLY_NULL = 1e-15, 2.0

# A damping above this holds rounding in check by itself.
STRONG = 1e-6


def lifted(diagonal):
    """A diagonal without zeros, by which parameters of any unit can be compared."""
    top = diagonal.max(axis=-1, keepdims=True)
    return np.maximum(diagonal, np.where(top > 0, 1e-12 * top, 1.0))


# Far from the data H may have overflowed. What is made of it is then not a number, nor is a gap
# that is estimated with it: the solver says so, once, in words.
@np.errstate(over="ignore", invalid="ignore")
def damped_cholesky(hessian, damping):
    """Lower factors of ``H + damping * diag(H)``; the damping grows where rounding asks for it.

    Directions in which H is zero but for rounding count as curved like ``diag(H)``. A damping of
    1e-9 alone would let the rounding of a gradient, times 1e9, carry theta along them.
    """
    unit, scale = _unit(hessian)
    diagonal = np.einsum("...ii->...i", unit)  # a view
    undamped = diagonal.copy()
    while True:
        diagonal[...] = undamped + damping
        try:
            lower = np.linalg.cholesky(unit)
            # The eigenvalues cost ten times as much as the factor: only where they can matter.
            if damping < STRONG and _least_pivot(lower) < NEARLY_NULL * damping:
                lower = np.linalg.cholesky(_without_null(unit, damping))
            return scale[..., None] * lower
        except np.linalg.LinAlgError:
            damping = max(10.0 * damping, 1e-14)


@np.errstate(over="ignore", invalid="ignore")
def is_nearly_singular(hessian, least):
    """Whether a column of H, all of unit length, is but for `least` a sum of those before it."""
    try:
        return not _least_pivot(np.linalg.cholesky(_unit(hessian)[0])) >= least
    except np.linalg.LinAlgError:
        return True


def _unit(hessian):
    """H with a diagonal of ones, and the scale that parameters were divided by."""
    scale = np.sqrt(lifted(np.diagonal(hessian, axis1=-2, axis2=-1)))
    return hessian / (scale[..., :, None] * scale[..., None, :]), scale


def _least_pivot(lower):
    return np.square(np.einsum("...ii->...i", lower)).min(initial=1.0)


def _without_null(unit, damping):
    """Matrices plus a damping, with 1 for each eigenvalue that is nothing but the damping."""
    values, vectors = np.linalg.eigh(unit)
    null = values < damping + NULL * values.shape[-1]
    return np.matmul(vectors * np.where(null, 1.0, values)[..., None, :], vectors.swapaxes(-1, -2))


def triangular(lower, v, trans):
    """``lower^-1 v`` or its transpose, for v of shape (..., d)."""
    if v.ndim == 1:  # a tenth of the time that scipy.linalg.solve_triangular takes to check
        return lapack.dtrtrs(lower.T, v, lower=0, trans=int(trans == "N"))[0]
    return np.stack([triangular(one, x, trans) for one, x in zip(lower, v, strict=True)])
