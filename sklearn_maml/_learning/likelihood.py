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

Where the columns of Z are fixed effects too, these are taken along the axes of Sigma as well, Z K:
then ``B^-1 C`` holds ``B^-1 G``, and nothing is stored or eliminated twice.
"""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from sklearn_maml._learning.mixed_moments import places
from sklearn_maml._learning.structure import FLOOR
from sklearn_maml._memory import room
from sklearn_maml._parallel import add_parts

__all__ = ["Likelihood", "Solved", "likelihood"]

# At this standard deviation, in units of the residual's, a variance is as good as zero.
NONE = 1e-7

# Without noise the likelihood is unbounded where a task has fewer rows than random effects; so no
# residual variance is taken to be below this share of what one model for all tasks leaves.
NO_NOISE = 1e-10

# What a value's sums over tasks round, relative to it.
SUMS = 1e-14

# Up to FEW equations, and up to MODERATE of so many tasks, are eliminated for all tasks at once,
# one column after the other: LAPACK would spend most of its time on being called.
FEW, MODERATE, MANY_TASKS = 6, 30, 100


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
    schur : ndarray of shape (r + t, r + t)
        ``[X y]' V^-1 [X y]``.
    rounding : float
        About how far off the value is: what random effects explain is taken off ``y'y``, and the
        more of it that is, the fewer digits are left of the residual sum of squares.
    """

    value: float
    to: np.ndarray
    root: np.ndarray
    gradient: np.ndarray
    information: np.ndarray | None
    fixed: np.ndarray
    noise: np.ndarray
    schur: np.ndarray
    rounding: float

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
    solved, back = Solved(moments, to, root), moments.back(to)
    pairs = information == "full" and not moments.first_fixed
    keeps = not pairs and moments.n_tasks * q * (q + t + moments.n_fixed) <= room()
    kept, sums = zip(*solved.each(partial(_sums, moments, information, keeps)), strict=True)
    log_determinant, total, explained, told = reduce(add_parts, sums)
    schur = moments.total - back.T @ explained @ back
    fixed, deviance, noise, contrast, log_fixed = _profile(schur, moments)
    value = t * (log_determinant + log_fixed) + deviance
    contrast = back @ contrast @ back.T
    forms = partial(_quadratic_forms, contrast)
    if pairs:
        fitted = _forms_of_pairs(contrast, told, places(q, len(contrast)))
    elif keeps:
        fitted = sum(moments.over(forms, kept))
    else:
        fitted = sum(solved.each(lambda i, part: forms(part)))
    if information == "full":
        told = _of_all_entries(told, q)
    if information is not None:
        told = t * (told - _of_noise(total, information) / moments.n_rows)
    gradient = t * 0.5 * (total + total.T) - fitted
    lost = np.diagonal(moments.total)[-t:] / noise  # dof times the ratio of sums of squares
    rounding = SUMS * abs(value) + np.finfo(float).eps * float(lost.sum())
    return Likelihood(float(value), to, root, gradient, told, fixed, noise, schur, rounding)


@dataclass(frozen=True, eq=False)
class Part:
    """Some tasks' equations, solved; see this module's docstring.

    Attributes
    ----------
    shrunk, seen : ndarray of shape (q, c, n)
        ``S C`` and ``B^-1 C``.
    precision : ndarray of shape (q, q, n)
        ``B^-1 G``.
    log_each, count : ndarray of shape (n,)
        ``log|B|``, and how many tasks each stands for.
    """

    shrunk: Any
    seen: np.ndarray
    precision: Any
    log_each: Any
    count: np.ndarray


class Solved:
    """The equations of all tasks, solved as often as they are asked for, a `Part` at a time.

    Parameters
    ----------
    moments : Moments
    to, root : ndarray of shape (q, q) and (q,)
        As of a `Likelihood`.
    """

    def __init__(self, moments, to, root):
        self.moments, self.to, self.root = moments, to, root

    def each(self, f):
        """``f(i, part)`` of the i-th part, in order, by as many threads as there are jobs."""
        chunks = enumerate(self.moments.chunks())
        return self.moments.over(lambda chunk: f(chunk[0], self._solve(*chunk[1])), chunks)

    def _solve(self, columns, count):
        q, variance = len(self.root), np.square(self.root)
        # (q, G and C, n): gram and others along the axes of Sigma.
        table = np.tensordot(self.to, columns, axes=(0, 0))
        table[:, :q] = np.matmul(self.to.T, table[:, :q])
        first = self.moments.first_fixed
        shrunk = variance[:, None, None] * table[:, first:]
        log_each = _solve_each(table, variance)
        return Part(shrunk, table[:, first:], table[:, :q], log_each, count)


def _sums(moments, information, keeps, i, part):
    """What `likelihood` sums up over tasks; before it what it reads again, if that is kept."""
    # A copy, without all else that was solved.
    kept = Part(None, moments.hold(i, part.seen), None, None, part.count) if keeps else None
    # What the random effects take off [X y]'[X y].
    explained = np.matmul(part.shrunk * part.count, np.swapaxes(part.seen, 1, 2)).sum(axis=0)
    told = _sum_of_products(part, information, moments.first_fixed)
    return kept, (part.count @ part.log_each, part.precision @ part.count, explained, told)


def _axes(relative):
    """K = V diag(k), and r. A diagonal Sigma keeps its axes, so that steps leave it diagonal."""
    values, vectors = np.diagonal(relative), np.eye(len(relative))
    if np.count_nonzero(relative - np.diag(values)):
        values, vectors = np.linalg.eigh(relative)
    deviation = np.sqrt(np.maximum(values, NONE**2))
    length = np.maximum(deviation, FLOOR)
    return vectors * length, deviation / length


def _solve_each(table, variance):
    """``B^-1 [G C]`` in the place of tables [G C] (q, k, n), with B = I + G S; returns log|B|.

    G is symmetric and positive semi-definite, and S = diag(variance). For all tasks at once the
    variances are brought in one after the other, a rank-one change each (Sherman & Morrison): no
    pivot is below 1, and what is left of G stays symmetric, so that half of it is worked on.
    """
    q, n = len(table), table.shape[-1]
    if q > (MODERATE if n >= MANY_TASKS else FEW):
        gram = np.moveaxis(table[:, :q], -1, 0)
        matrices = np.eye(q) + gram * variance
        solution = np.matmul(np.linalg.inv(matrices), np.moveaxis(table, -1, 0))
        table[:] = np.moveaxis(solution, 0, -1)
        return np.linalg.slogdet(matrices)[1]
    pivots, change = np.empty((q, n)), np.empty(table.shape[1:])
    for j, s in enumerate(variance):
        row = np.concatenate([table[:j, j], table[j, j:]])  # what is above the diagonal is true
        pivots[j] = 1.0 + s * row[j]
        solved = row / pivots[j]
        row *= s
        for i in range(q):
            if i != j:
                np.multiply(row[i], solved[i:], out=change[i:])
                table[i, i:] -= change[i:]
        table[:j, j], table[j, j:] = solved[:j], solved[j:]
    for i in range(q):
        table[i + 1 :, i] = table[i, i + 1 : q]
    return np.log(pivots).sum(axis=0)


def _quadratic_forms(contrast, part):
    """``sum_i count_i U_i W U_i'`` for U (q, c, n), what was seen, and W (c, c)."""
    half = np.matmul(contrast, part.seen) * part.count
    return np.tensordot(part.seen, half, axes=([1, 2], [1, 2]))


def _forms_of_pairs(contrast, pairs, place):
    """`_quadratic_forms` summed over tasks, from the `_sum_of_products` of all that was solved."""
    found, column = np.empty((len(place), len(place))), np.arange(len(contrast))
    for b, of in enumerate(place):
        found[:, b] = (pairs[:, of] @ contrast)[place, column].sum(axis=1)
    return found


def _sum_of_products(part, information, first):
    """``sum_i count_i P_i (x) P_i``: the products of half of P with itself, for P is symmetric.

    Of diagonal matrices the entries, ``P_ab^2``; see `_of_all_entries` for the others. Where P is
    some of what was seen, the rest of that has a part in the products, too: they hold all that the
    gradient is made of.
    """
    precision, count = part.precision, part.count
    if information is None:
        return 0.0
    if information == "diagonal":
        return np.square(precision) @ count
    q, half = len(precision), precision[np.tril_indices(len(precision))]
    if first == 0:
        half = np.concatenate([half, part.seen[:, q:].reshape(-1, len(count))])
    half *= np.sqrt(count)
    return half @ half.T


def _of_all_entries(products, q):
    """``sum P_ac P_bd`` at (ab, cd), (q * q, q * q), from the products of halves of P."""
    row, column = np.tril_indices(q)
    place = np.empty((q, q), dtype=int)
    place[row, column] = place[column, row] = np.arange(len(row))
    return products[place[:, None, :, None], place[:, None, :]].reshape(q * q, q * q)


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
    # Tasks that one model explains to the last digit leave what their sum of squares rounds.
    least = np.maximum(NO_NOISE * pooled, np.finfo(float).eps * np.diagonal(moments.total)[r:])
    floor = np.maximum(least / moments.dof, np.finfo(float).tiny)
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
