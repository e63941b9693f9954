"""The restricted likelihood of a linear mixed model, from second moments of each task.

    y_i = X_i beta + Z_i delta_i + e_i,     delta_i ~ N(0, s Sigma),     e_i ~ N(0, s I)

beta and the residual variance s are profiled out (Lindstrom & Bates, "Newton-Raphson and EM
Algorithms for Linear Mixed-Effects Models for Repeated-Measures Data", JASA 1988). What an
evaluation of the likelihood needs of a task is ``Z_i' [Z_i X_i y_i]``, so that its cost does not
depend on the number of rows. Sigma is never inverted. In its axes, with ``Sigma = K S K``, K = V
diag(k) and S = diag(r^2), and with G = K' Z' Z K, C = K' Z' [X y] and B = I + G S,

    log|V_i| = log|B|,     [X y]' V_i^-1 [X y] = [X y]'[X y] - C' S B^-1 C,
    K' Z' V_i^-1 Z K = B^-1 G,     K' Z' V_i^-1 [X y] = B^-1 C,

so that one elimination of B gives value, gradient and Fisher's information. k is the standard
deviation of a direction or FLOOR, if that is larger; r is what is left, at most 1: a direction
without variance still has a derivative, and can grow.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from sklearn_maml._learning.structure import FLOOR

__all__ = ["Likelihood", "Moments", "explained_products", "likelihood", "solved_moments"]

# At this standard deviation, in units of the residual's, a variance is as good as zero.
NONE = 1e-7

# Without noise the likelihood is unbounded where a task has fewer rows than random effects; so no
# residual variance is taken to be below this share of what one model for all tasks leaves.
NO_NOISE = 1e-10

# Fixed effects of some of the tasks are shrunk by this share of a row for each row.
SHRINKAGE = 1e-6

# Tasks are worked on so many numbers at a time: they stay in a core's cache.
CHUNK = 2**16

# Up to this many equations are eliminated for all tasks at once, one column after the other: for so
# few LAPACK would spend most of its time on being called.
FEW = 6


@dataclass(frozen=True, eq=False)
class Moments:
    """What REML needs of n tasks with q random and r fixed effects and t targets; tasks come last.

    Attributes
    ----------
    gram : ndarray of shape (q, q, n)
        Z'Z of each task.
    cross : ndarray of shape (q, r + t, n)
        Z'[X y].
    count : ndarray of shape (n,)
        How many tasks each task stands for.
    total : ndarray of shape (r + t, r + t)
        [X y]'[X y], summed over tasks.
    n_rows : float
        Number of rows, summed over tasks.
    n_targets : int
        t. Targets share Sigma; each has its own residual variance and fixed effects.
    noise : float, default=None
        The residual variance, where it is known; None profiles it out.
    """

    gram: np.ndarray
    cross: np.ndarray
    count: np.ndarray
    total: np.ndarray
    n_rows: float
    n_targets: int
    noise: float | None = None

    @property
    def n_fixed(self):
        """r, the number of fixed effects."""
        return len(self.total) - self.n_targets

    @property
    def dof(self):
        """Residual degrees of freedom, n_rows - r; 1 where rows leave none."""
        return max(self.n_rows - self.n_fixed, 1.0)

    @classmethod
    def joined(cls, parts):
        """The moments of all tasks of several `Moments`."""
        return cls(
            gram=np.concatenate([part.gram for part in parts], axis=-1),
            cross=np.concatenate([part.cross for part in parts], axis=-1),
            count=np.concatenate([part.count for part in parts]),
            total=sum(part.total for part in parts),
            n_rows=sum(part.n_rows for part in parts),
            n_targets=parts[0].n_targets,
        )

    def shrunk(self):
        """The same with a millionth of a row added for each row, whose targets are 0.

        In fixed effects that are uncorrelated and of unit size: that keeps them determined where
        only some of the tasks are looked at, and lack a column that others have.
        """
        total = self.total.copy()
        fixed = np.arange(self.n_fixed)
        total[fixed, fixed] += SHRINKAGE * self.n_rows
        return replace(self, total=total)

    def chunks(self):
        """(gram, cross, count) of some tasks at a time."""
        size = max(1, CHUNK // (self.gram[..., 0].size + self.cross[..., 0].size))
        for start in range(0, len(self.count), size):
            part = slice(start, start + size)
            yield self.gram[..., part], self.cross[..., part], self.count[part]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """-2 log restricted likelihood at some Sigma, summed over targets, and its derivatives.

    Attributes
    ----------
    value : float
    to : ndarray of shape (q, q)
        K: its columns are the axes of Sigma, as long as their standard deviations (or FLOOR).
    root : ndarray of shape (q,)
        r: what standard deviations are of these lengths, at most 1.
    gradient : ndarray of shape (q, q)
        The derivative in S, symmetric.
    information : ndarray or None
        The expected second derivative in it: of shape (q * q, q * q), or (q, q) for its diagonal.
    fixed : ndarray of shape (t, r)
    noise : ndarray of shape (t,)
        Residual variances.
    """

    value: float
    to: np.ndarray
    root: np.ndarray
    gradient: np.ndarray
    information: np.ndarray | None
    fixed: np.ndarray
    noise: np.ndarray

    @property
    def slope(self):
        """The derivative in Sigma itself, (q, q)."""
        back = np.linalg.inv(self.to)
        return back.T @ self.gradient @ back


def likelihood(moments, relative, information=None):
    """The restricted `Likelihood` of `Moments` at Sigma (q, q).

    Parameters
    ----------
    moments : Moments
    relative : ndarray of shape (q, q)
    information : {"full", "diagonal"}, default=None
        Whether Fisher's information is wanted, and of what.

    Returns
    -------
    Likelihood
    """
    t, q = moments.n_targets, len(relative)
    to, root = _axes(relative)
    total, explained, log_determinant = np.zeros((q, q)), 0.0, 0.0
    told, solved = 0.0, []
    for shrunk, seen, precision, log_each, count in solved_moments(moments, to, root):
        log_determinant += count @ log_each
        total += precision @ count
        explained = explained + explained_products(shrunk, seen, count)
        told = told + _sum_of_products(precision, count, information)
        solved.append((seen, count))
    fixed, deviance, noise, contrast, log_fixed = _profile(moments.total - explained, moments)
    value = t * (log_determinant + log_fixed) + deviance
    fitted = sum(_quadratic_forms(seen, contrast, count) for seen, count in solved)
    if information is not None:
        told = t * (told - _of_noise(total, information) / moments.n_rows)
    gradient = t * 0.5 * (total + total.T) - fitted
    return Likelihood(float(value), to, root, gradient, told, fixed, noise)


def solved_moments(moments, to, root):
    """(S C, B^-1 C, B^-1 G, log|B|, count) of some tasks at a time; see this module's docstring.

    Parameters
    ----------
    moments : Moments
    to, root : ndarray of shape (q, q) and (q,)
        As of a `Likelihood`.
    """
    for gram, cross, count in moments.chunks():
        gram, cross = _congruence(gram, to), np.tensordot(to, cross, axes=(0, 0))
        matrices = np.eye(len(root))[..., None] + gram * np.square(root)[:, None]
        both, log_each = _eliminate(matrices, np.concatenate([cross, gram], axis=1))
        seen, precision = both[:, : cross.shape[1]], both[:, cross.shape[1] :]
        yield np.square(root)[:, None, None] * cross, seen, precision, log_each, count


def explained_products(shrunk, seen, count):
    """``sum_i count_i C' S B^-1 C``: what the random effects take off ``[X y]'[X y]``."""
    return np.matmul(shrunk * count, np.swapaxes(seen, 1, 2)).sum(axis=0)


def _axes(relative):
    """K = V diag(k), and r. A diagonal Sigma keeps its axes, so that steps leave it diagonal."""
    values, vectors = np.diagonal(relative), np.eye(len(relative))
    if np.count_nonzero(relative - np.diag(values)):
        values, vectors = np.linalg.eigh(relative)
    deviation = np.sqrt(np.maximum(values, NONE**2))
    length = np.maximum(deviation, FLOOR)
    return vectors * length, deviation / length


def _congruence(matrices, to):
    """``K' A K`` for matrices A (q, q, n) and K (q, q)."""
    q, _, n = matrices.shape
    return np.matmul(to.T, (to.T @ matrices.reshape(q, -1)).reshape(q, q, n))


def _eliminate(matrices, right):
    """Solutions of B x = b, and log|B|, for B (q, q, n) = (an s.p.d. matrix) (a diagonal one).

    Such a B needs no pivoting: its pivots are those of the positive definite matrix, rescaled.
    """
    q = len(matrices)
    if q > FEW:
        matrices, right = np.moveaxis(matrices, -1, 0), np.moveaxis(right, -1, 0)
        solution = np.matmul(np.linalg.inv(matrices), right)  # faster than solve for small ones
        return np.moveaxis(solution, 0, -1), np.linalg.slogdet(matrices)[1]
    table = np.concatenate([matrices, right], axis=1)
    pivots = np.empty((q, table.shape[-1]))
    for j in range(q):
        pivots[j] = table[j, j]
        row = table[j, j + 1 :]
        row /= pivots[j]
        for i in range(q):
            if i != j:
                table[i, j + 1 :] -= table[i, j] * row
    return table[:, q:], np.log(pivots).sum(axis=0)


def _quadratic_forms(rows, contrast, count):
    """``sum_i count_i U_i W U_i'`` for U (q, c, n) and W (c, c)."""
    half = np.matmul(contrast, rows) * count
    return np.tensordot(rows, half, axes=([1, 2], [1, 2]))


def _sum_of_products(precision, count, information):
    """``sum_i count_i P_i (x) P_i``, or its entries for diagonal matrices, ``P_ab^2``."""
    q = len(precision)
    if information is None:
        return 0.0
    if information == "diagonal":
        return np.square(precision) @ count
    flat = precision.reshape(q * q, -1)
    products = ((flat * count) @ flat.T).reshape(q, q, q, q)  # sum P_ab P_cd
    return products.transpose(0, 2, 1, 3).reshape(q * q, q * q)


def _of_noise(total, information):
    """What the profiled residual variance takes of the information, times the number of rows."""
    size = np.diagonal(total) if information == "diagonal" else total.ravel()
    return np.outer(size, size)


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
    if moments.noise is not None:
        noise = np.full(t, moments.noise)
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
