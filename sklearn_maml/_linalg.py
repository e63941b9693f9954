"""Linear algebra over stacks: leading axes are tasks, the last two (or one) a matrix (a vector)."""

import math

import numpy as np

__all__ = [
    "chain",
    "curvature_norm",
    "flat_matmul",
    "flat_vecmat",
    "geometric_sum",
    "inverse",
    "largest_eigenvalue",
    "matmul",
    "matvec",
    "row_products",
    "self_products",
    "triangle",
    "vecmat",
]


# Up to this size, and from so many of them on, products are taken of all at once: BLAS would spend
# most of its time on being called, and OpenBLAS lets threads wait for each other at each call.
TINY, MANY_TINY = 100, 500


def matmul(left, right):
    """``left @ right``: (..., i, j) and (..., j, k) to (..., i, k)."""
    work, count = math.prod(left.shape[-2:]) * right.shape[-1], math.prod(left.shape[:-2])
    together = left.shape[:-2] == right.shape[:-2] and left.shape[-2] > 1 < right.shape[-1]
    if not (together and 0 < work <= TINY and count >= MANY_TINY):
        return np.matmul(left, right)
    return _tasks_first(np.einsum("ijn,jkn->ikn", *map(_tasks_last, (left, right))), left)


def _tasks_last(stack):
    """A copy (i, j, n) of (..., i, j): an operation on it is one loop over tasks for each i, j."""
    return np.moveaxis(stack.reshape(-1, *stack.shape[-2:]), 0, -1).copy()


def _tasks_first(table, like):
    """(i, k, n) as (..., i, k), the leading axes as those of another stack."""
    return np.ascontiguousarray(np.moveaxis(table, -1, 0)).reshape(
        *like.shape[:-2], *table.shape[:2]
    )


def matvec(matrices, vectors):
    """``matrices @ vectors``: (..., m, d) and (..., d) to (..., m)."""
    if vectors.ndim <= 2 < matrices.ndim and vectors.size == vectors.shape[-1] > 0:
        one = vectors.ravel()
        if matrices.flags.c_contiguous:  # else numpy would copy them first
            return (matrices.reshape(-1, len(one)) @ one).reshape(matrices.shape[:-1])
        return np.matmul(matrices, one)
    return np.matmul(matrices, vectors[..., None])[..., 0]


def vecmat(vectors, matrices):
    """``vectors' @ matrices``: (..., m) and (..., m, d) to (..., d)."""
    return np.matmul(vectors[..., None, :], matrices)[..., 0, :]


def flat_matmul(rows, matrix):
    """``rows @ matrix`` of many stacked rows (..., d) and one matrix (d, r), as one product."""
    flat = rows.reshape(math.prod(rows.shape[:-1]), len(matrix)) @ matrix  # there may be no columns
    return flat.reshape(*rows.shape[:-1], matrix.shape[-1])


def flat_vecmat(vectors, matrices):
    """`vecmat` summed over tasks: (..., n, m) and (..., n, m, d) to (..., d)."""
    if not matrices.flags.c_contiguous:
        return vecmat(vectors, matrices).sum(axis=-2)
    flat = matrices.reshape(*matrices.shape[:-3], -1, matrices.shape[-1])
    return vecmat(vectors.reshape(*vectors.shape[:-2], -1), flat)


def triangle(rows):
    """R of a QR decomposition, or the rows themselves where they are no more than columns."""
    return rows if rows.shape[-2] <= rows.shape[-1] else np.linalg.qr(rows, mode="r")


def row_products(V, left, weights, right):
    """``V left' diag(weights) right`` for rows V (..., k, d), in the cheaper order.

    `left` and `right` have shape (..., m, d); with fewer rows than features nothing d x d is
    ever built.
    """
    k, (m, d) = V.shape[-2], right.shape[-2:]
    if 2 * k * m <= d * (k + m):
        return matmul(matmul(V, np.swapaxes(left, -1, -2)) * weights[..., None, :], right)
    return matmul(V, matmul(np.swapaxes(left, -1, -2), weights[..., None] * right))


def self_products(rows):
    """``X X'`` for rows X (..., m, d), shape (..., m, m)."""
    (m, d), count = rows.shape[-2:], math.prod(rows.shape[:-2])
    if 0 < m * m * d <= 3 * TINY and count >= MANY_TINY:
        turned = _tasks_last(rows)
        return _tasks_first(np.einsum("ijn,kjn->ikn", turned, turned), rows)
    # Numpy gives a product of an array with itself to syrk, which on small stacks takes two to four
    # times as long as gemm does. Two halves are no such product, and need no copy of the rows.
    turned, half = np.swapaxes(rows, -1, -2), m // 2
    products = np.empty((*rows.shape[:-1], rows.shape[-2]))
    for part in (slice(half), slice(half, None)):
        np.matmul(rows, turned[..., part], out=products[..., part])
    return products


def chain(V, gain, rows):
    """``V gain rows`` for V (..., k, r), gain (..., r, m), rows (..., m, d), in the cheaper order.

    With many rows neither k x m nor, with many features, r x d is ever built.
    """
    (k, r), (m, d) = V.shape[-2:], rows.shape[-2:]
    if k * m * (r + d) <= r * d * (k + m):
        return matmul(matmul(V, gain), rows)
    return matmul(V, matmul(gain, rows))


# Up to this size, and from so many matrices a column on, inverses are taken of all at once: LAPACK
# would spend most of its time on being called. So many numbers at a time stay in a core's cache.
SMALL, MANY, CHUNK = 6, 50, 2**15


def inverse(matrices):
    """Inverses of symmetric positive definite matrices, shape (..., d, d).

    Those need no pivoting: their pivots are positive, and sums of them do not grow.
    """
    d, count = matrices.shape[-1], math.prod(matrices.shape[:-2])
    if not 0 < d <= SMALL or count < MANY * d:
        return np.linalg.inv(matrices)
    flat = matrices.reshape(count, d, d)
    found, step = np.empty((count, d, d)), max(1, CHUNK // d**2)
    for start in range(0, count, step):
        table = _tasks_last(flat[start : start + step])
        _invert(table)
        found[start : start + step] = np.moveaxis(table, -1, 0)
    return found.reshape(matrices.shape)


def _invert(table):
    """Gauss-Jordan elimination of matrices (d, d, n), in place."""
    for k in range(len(table)):
        pivot = 1.0 / table[k, k]
        row = table[k] * pivot
        row[k] = pivot
        for i in range(len(table)):
            if i != k:
                factor = table[i, k].copy()
                table[i, k] = 0.0
                table[i] -= factor * row
        table[k] = row


def geometric_sum(gram, step, n_steps):
    """``q(S) = eta sum_{k<K} (I - eta S)^k`` by doubling: about 2 log2(K) products.

    Parameters
    ----------
    gram : ndarray of shape (..., r, r)
        Symmetric S.
    step : ndarray of shape (...)
        eta.
    n_steps : int
        K.
    """
    eye = np.eye(gram.shape[-1])
    total = np.broadcast_to(eye, gram.shape)  # sum of the first `bits` powers
    factor = power = eye - step[..., None, None] * gram
    bits = bin(n_steps)[3:]
    for i, bit in enumerate(bits):
        total = total + (np.matmul(power, total) if i else power)
        if bit == "1" or i + 1 < len(bits):
            power = np.matmul(power, power)
        if bit == "1":
            total = total + power
            power = np.matmul(power, factor)
    return step[..., None, None] * total


def largest_eigenvalue(gram, tolerance=0.05, enough=0.0, max_doublings=6):
    """An upper bound on the largest eigenvalue of positive semi-definite matrices.

    The Schatten norm ``(tr S^2p)^(1/2p)`` for p = 1, 2, 4, ... until it is within the tolerance of
    the lower bound ``(tr S^2p / tr S^p)^(1/p)``. A few products cost a tenth of a stacked
    eigendecomposition. Zero eigenvalues change nothing, so that rows may be repeated or weighted.

    Parameters
    ----------
    gram : ndarray of shape (n, r, r)
        Not zero.
    tolerance : float, default=0.05
        How far, relatively, the bound may be above the eigenvalue.
    enough : float, default=0.0
        A bound below this need not be tight.
    max_doublings : int, default=6
        At 6 the bound is within 5 percent for r up to 500, however close the eigenvalues are.

    Returns
    -------
    ndarray of shape (n,)
    """
    # The largest entry is on the diagonal; divided by it, squares neither over- nor underflow.
    largest = np.einsum("nii->ni", gram).max(axis=1)
    found, left = np.empty(len(gram)), np.arange(len(gram))
    power, log_size = gram / largest[:, None, None], np.zeros(len(gram))
    for k in range(max_doublings + 1):
        size = np.sqrt(np.einsum("nij,nij->n", power, power))
        power /= size[:, None, None]  # so that it can be squared again
        log_size = log_size + np.log(size) / 2**k
        found[left] = largest[left] * np.exp(log_size)
        # Of a power of norm 1 the trace is 1 over the lower bound.
        loose = np.log(np.einsum("nii->n", power)) / 2**k > np.log1p(tolerance)
        loose &= found[left] > enough
        if k == max_doublings or not loose.any():
            return found
        if not loose.all():  # these go on by themselves
            left, power, log_size = left[loose], power[loose], log_size[loose]
        power = np.matmul(power, power)


def curvature_norm(rows, weights, doublings=3):
    """A smooth upper bound on the largest eigenvalue of ``F' W F``, and its derivative in W.

    The Schatten norm ``lambda = tr((F' W F)^p)^(1/p)`` with p = 2^(doublings + 1): at most
    ``rank^(1/p)`` times the largest eigenvalue, 20 percent above it for rank 20.

    Parameters
    ----------
    rows : ndarray of shape (..., m, d)
        F.
    weights : ndarray of shape (..., m)
        Non-negative.

    Returns
    -------
    norm : ndarray of shape (...)
    shares : ndarray of shape (..., m)
        ``d log(lambda) = sum_j shares_j d log(w_j)``; non-negative, of sum 1.
    """
    top = weights.max(axis=-1, keepdims=True, initial=0.0)
    weights = weights / np.where(top > 0, top, 1.0)
    few = rows.shape[-2] <= rows.shape[-1]
    root = np.sqrt(weights)
    scaled = root[..., None] * rows
    turned = np.swapaxes(scaled, -1, -2)
    power = np.matmul(scaled, turned) if few else np.matmul(turned, scaled)
    log_norm, below = 0.0, np.eye(power.shape[-1])  # gram^(2^k), and gram^(2^k - 1) up to scale
    for k in range(doublings + 1):
        if k:
            below = below if few else np.matmul(power, below)
            power = np.matmul(power, power)
        size = np.sqrt(np.einsum("...ij,...ij->...", power, power))
        size = np.where(size > 0, size, 1.0)
        power = power / size[..., None, None]
        log_norm = log_norm + np.log(size) / 2**k
    if few:
        shares = np.square(power).sum(axis=-1)
    else:
        shares = (np.matmul(np.matmul(scaled, below), power) * scaled).sum(axis=-1)
    total = shares.sum(axis=-1, keepdims=True)
    norm = np.where(total[..., 0] > 0, np.exp(log_norm) * top[..., 0], 0.0)
    return norm, shares / np.where(total > 0, total, 1.0)
