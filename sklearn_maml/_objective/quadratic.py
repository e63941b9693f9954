"""Where the meta-objective is a quadratic: its Newton step, exact however ill-conditioned.

    L(theta - v) = L(theta) - g' v + v' A v,     A = sum_i p_i Psi_i' B_i Psi_i (l'' / 2) + alpha I

Psi_i is the adapted design. Two routes lead to the minimiser. A Cholesky factor of A costs one pass
over the data and then nothing; forming A squares the condition number, though, so where A is
not safely positive definite the rows themselves are reduced to a triangle, block by block (a tall
and skinny QR decomposition), and a singular value decomposition gives the minimum-norm solution.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular

from sklearn_maml._linalg import flat_vecmat, triangle
from sklearn_maml._parallel import one_blas_thread

__all__ = [
    "Quadratic",
    "minimum_norm",
    "quadratic",
    "reduce_rows",
    "refuse_lost_features",
    "refuse_too_wide",
    "safe_cholesky",
]

# Relative to columns of unit length: a smallest eigenvalue of A below this takes the QR route.
# Above it each Newton step still gains five digits, and a second one recovers them all.
SAFELY_POSITIVE = 1e-11

# More rows than these do not raise the threshold of the numerical rank.
ROWS_THAT_ROUND = 2000

# Parts of a fit that hold more numbers than these, half a GiB, are refused, for several are held.
MOST_NUMBERS = 2**26

# Squares of smaller features begin to underflow.
SMALLEST_FEATURE = 1e-100


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The second-order part of a meta-objective with a constant Hessian.

    Attributes
    ----------
    scale : ndarray of shape (d,)
        Root mean squares of the query features: the unit in which columns are compared.
    triangle : ndarray of shape (k, d)
        R with ``R' R = A / (scale scale')``.
    definite : bool
        Whether the Cholesky factorisation is safe.
    rank : int
        Numerical rank of R. Directions below it count as zero, as in ``numpy.linalg.lstsq``, but
        with a threshold that stops growing with the number of rows.
    target : ndarray of shape (k, n_targets), default=None
        That of `reduce_rows` at the origin, where R is not A's Cholesky factor.
    """

    scale: np.ndarray
    triangle: np.ndarray
    definite: bool
    rank: int
    target: np.ndarray | None = None

    def newton_step(self, objective, theta, gradient):
        """v such that ``theta - v`` minimises the objective; of minimum norm if theta is 0.

        Parameters
        ----------
        objective : MetaObjective
        theta, gradient : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        ndarray of shape (d,) or (n_targets, d)
        """
        if self.definite:
            half = 0.5 * (gradient / self.scale).T
            return cho_solve((self.triangle, False), half).T / self.scale
        triangle, target = self.triangle, self.target
        if theta.any():
            triangle, target = reduce_rows(objective, theta, self.scale)
        step = minimum_norm(triangle, target, self.scale, self.rank)
        return step.T.reshape(theta.shape)

    def resolved(self, objective, near, share):
        """The minimiser nearest to a theta, along directions that the rows resolve alone.

        Parameters
        ----------
        objective : MetaObjective
        near : ndarray of shape (d,) or (n_targets, d)
        share : float
            Of the largest singular value, which that of a direction has to exceed.

        Returns
        -------
        ndarray of shape (d,) or (n_targets, d)
        """
        triangle, target = reduce_rows(objective, near, self.scale)
        s = np.linalg.svd(triangle, compute_uv=False)
        rank = int((s > share * s.max(initial=0.0)).sum())
        step = minimum_norm(triangle, target, self.scale, rank)
        return near - step.T.reshape(near.shape)

    def gap(self, gradient):
        """``g' A^+ g / 4``: how far the objective is above its minimum, given its gradient."""
        half = 0.5 * (gradient / self.scale).reshape(-1, len(self.scale)).T
        if self.definite:
            return float(np.square(solve_triangular(self.triangle, half, trans="T")).sum())
        _, s, vt = np.linalg.svd(self.triangle, full_matrices=False)
        return float(np.square((vt[: self.rank] @ half) / s[: self.rank, None]).sum())

    def unresolved(self, objective, theta):
        """The loss that directions below the rank could still remove, were they not zero.

        That is the energy of the residuals along their left singular vectors; of directions that
        are truly zero, too, it holds their share of what cannot be explained.
        """
        if self.rank == len(self.scale):
            return 0.0
        triangle, target = reduce_rows(objective, theta, self.scale)
        u, _, _ = np.linalg.svd(triangle, full_matrices=False)
        return float(np.square(u[:, self.rank :].T @ target).sum())

    def length(self, v):
        """``sqrt(v' A v)``: the root mean square of Psi v over the query rows."""
        return float(np.linalg.norm(self.triangle @ (self.scale * v).reshape(-1, len(v.T)).T))

    def spectrum(self, v):
        """Eigenvalues of A, and v's squared coordinates along the eigenvectors.

        Returns
        -------
        eigenvalues, squares : ndarray of shape (r,)
        """
        _, s, vt = np.linalg.svd(self.triangle * self.scale, full_matrices=False)
        along = vt @ v.reshape(-1, len(v.T)).T
        return s**2, np.square(along).sum(axis=1)


def quadratic(objective):
    """The `Quadratic` of a meta-objective whose Hessian is constant, made once per objective.

    Returns
    -------
    Quadratic
    """
    with one_blas_thread():
        return objective.keep("quadratic", _factorise)


def _factorise(objective):
    d, n_targets = objective.n_parameters, objective.n_targets
    zero = np.zeros((n_targets, d) if n_targets else d)
    n_query = objective.blocks.n_query
    if n_query < d and not objective.penalty.any():
        scale = _scale(_mean_squares(objective), objective)
    else:
        squares, normal = _squares_and_normal(objective, zero)
        scale = _scale(squares, objective)
        normal[np.diag_indices(d)] += objective.penalty
        normal /= scale
        normal /= scale[:, None]
        factor = safe_cholesky(normal)
        if factor is not None:
            return Quadratic(scale, factor, definite=True, rank=d)
    triangle, target = reduce_rows(objective, zero, scale)
    s = np.linalg.svd(triangle, compute_uv=False)
    # As numpy.linalg.lstsq decides it; but a tall QR decomposition rounds hardly more for more
    # rows. Columns have unit length before adaptation: what it leaves below a few eps is rounding.
    size = max(d, min(n_query, ROWS_THAT_ROUND)) * s.max(initial=0.0)
    rank = int((s > np.finfo(float).eps * max(10.0, size)).sum())
    return Quadratic(scale, triangle, definite=False, rank=rank, target=target)


def _squares_and_normal(objective, theta):
    """Mean squares of the query features, and A without the penalty: which a search has taken."""
    normal = objective.kept("normal")
    if normal is None:
        return objective.reduce_with_gradient(_normal_equations, theta)
    return _mean_squares(objective), normal.copy()


def _scale(squares, objective):
    """Root mean squares of the columns; 1 for a column of zeros."""
    refuse_lost_features(objective, squares)
    scale = np.sqrt(squares + objective.penalty)
    return np.where(scale > 0, scale, 1.0)


def refuse_lost_features(objective, squares=None):
    """Raise for features whose squares underflow, whatever the loss.

    Parameters
    ----------
    objective : MetaObjective
    squares : ndarray of shape (d,), default=None
        Mean squares of the query features; None makes them.

    Raises
    ------
    ValueError
        Naming the columns.
    """
    if squares is None:
        squares = _mean_squares(objective)
    small = np.flatnonzero(squares < SMALLEST_FEATURE**2)
    if len(small) and objective.fold(partial(_any_entry, objective, small), np.logical_or):
        raise ValueError(
            f"Features whose root mean square is below {SMALLEST_FEATURE:g} are lost to rounding "
            f"(columns {small.tolist()} of phi); rescale them, for example with a StandardScaler."
        )


def refuse_too_wide(blocks, products, square=True):
    """Raise where features are so many that a fit would hardly end, or fit into memory.

    A rule that is learned, and a search, take sums of products of all features, d x d. A square
    loss takes as many, or as many rows as there are: of a sparse X these would be dense.

    Parameters
    ----------
    blocks : Blocks
    products : bool
        Whether d x d sums are taken whatever the number of rows.
    square : bool, default=True
        Whether the loss has a constant Hessian.

    Raises
    ------
    ValueError
    """
    features, d = blocks.features, blocks.features.width
    if not (products or (features.sparse and square)):
        return
    n_rows = d if products else min(d, blocks.n_query)
    if n_rows * d > MOST_NUMBERS:
        raise ValueError(
            f"{features.n_features:,} features are too many: the fit would hold dense arrays of "
            f"{n_rows:,} x {d:,} numbers, and at most {MOST_NUMBERS:,} are allowed. Make fewer "
            "features, for example by featurizer=TruncatedSVD(100) or "
            "featurizer=SparseRandomProjection(1000), which take sparse X too."
        )


def _mean_squares(objective):
    """Mean squares of the query features, from the rows alone: no rule is asked."""
    return objective.fold(partial(_mean_squares_of_block, objective), np.add)


def _mean_squares_of_block(objective, i):
    _, query, weight = objective.risks(i)
    return _column_squares(query, weight[:, None] * query.weights)


def _any_entry(objective, columns, i):
    """Whether some row that weighs something is not zero in these columns."""
    _, query, weight = objective.risks(i)
    real = (query.weights > 0) & (weight > 0)[:, None]
    return query.features[..., columns][real].any()


def safe_cholesky(matrix):
    """The upper Cholesky factor, or None where the smallest eigenvalue is not safely positive."""
    norm = lapack.dlange("1", matrix.T)
    try:
        factor = cholesky(matrix.T, check_finite=False)  # symmetric, and as Fortran has it
    except np.linalg.LinAlgError:
        return None
    reciprocal, _ = lapack.dpocon(factor, norm)
    return factor if reciprocal * norm > SAFELY_POSITIVE * max(1.0, norm) else None


def _column_squares(query, row_weight, out=None):
    """Mean squares of the query features: a block's part."""
    return flat_vecmat(row_weight, np.square(query.features, out=out))


def _normal_equations(linearization):
    """A block's part of the column squares and of A."""
    design = _weighted_design(linearization)
    flat = design.reshape(-1, design.shape[-1])
    normal = flat.T @ flat
    # The squares go where the design was: to touch new memory takes longer than to compute them.
    # It is larger than the features where several targets have designs of their own.
    query = linearization.query
    spare = design if design.shape == query.features.shape else None
    return _column_squares(query, linearization.row_weight, spare), normal


def _weighted_design(linearization):
    """Psi, rows scaled so that their sum of squares is v' A v."""
    half_hessian = 0.5 * linearization.query.loss.hessian_bound
    return linearization.scaled_design(np.sqrt(linearization.row_weight * half_hessian))


def reduce_rows(objective, theta, scale):
    """Q'-rotated rows ``R v ~ z`` of the least-squares problem for the Newton step at theta.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
    scale : ndarray of shape (d,)

    Returns
    -------
    triangle : ndarray of shape (k, d)
        k at most d + n_targets, or the number of rows.
    target : ndarray of shape (k, n_targets)
    """
    (rows,) = objective.reduce(partial(_rows, scale), theta, combine=_stack_and_reduce)
    if objective.penalty.any():
        root = np.sqrt(objective.penalty)
        ridge = np.column_stack([np.diag(root / scale), (root * theta).reshape(-1, len(root)).T])
        (rows,) = _stack_and_reduce((rows,), (ridge,))
    d = len(scale)
    return rows[:, :d], rows[:, d:]


def _rows(scale, linearization):
    """A block's scaled design and errors ``l' / l''``, side by side, reduced to a triangle."""
    design = _weighted_design(linearization)
    hessian = linearization.query.loss.hessian_bound
    root = np.sqrt(0.5 * hessian * linearization.row_weight)
    errors = root * linearization.loss_gradient / hessian
    d = design.shape[-1]
    flat = [design.reshape(-1, d) / scale, errors.reshape(-1, design[..., 0].size).T]
    return (triangle(np.concatenate(flat, axis=1)),)


def _stack_and_reduce(upper, lower):
    return (triangle(np.concatenate([upper[0], lower[0]])),)


def minimum_norm(triangle, target, scale, rank):
    """The solution v of ``triangle (scale * v) ~ target`` that has the smallest Euclidean norm.

    The rank is decided in scaled columns, the norm is that of v itself: among all v with
    ``V_r' (scale * v) = S_r^-1 U_r' target`` the shortest lies in the range of ``scale * V_r``.
    """
    if not rank:  # an old scipy solves no empty system
        return np.zeros((len(scale), target.shape[1]))
    u, s, vt = np.linalg.svd(triangle, full_matrices=False)
    along = (u[:, :rank].T @ target) / s[:rank, None]
    if rank == len(scale):
        return (vt.T @ along) / scale[:, None]
    basis, r = np.linalg.qr(scale[:, None] * vt[:rank].T)
    return basis @ solve_triangular(r, along, trans="T")
