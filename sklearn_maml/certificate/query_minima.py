"""A comparator that needs no optimum: each task's own minimiser of its query risk.

For any theta, ``L(theta) >= sum_i p_i min_t R_i(t)``. The minima are found by Newton steps, for all
tasks of a block at once, and bounded from below by Fenchel duality: for every slope vector nu with
``sum_j b_j nu_j phi_j = 0``,

    min_t R_i(t) >= sum_j b_j inf_z (l(y_j, z) - nu_j z),

so that a minimiser need only be approximate, and may not even exist (separable classes).
"""

from typing import NamedTuple

import numpy as np

from sklearn_maml._linalg import matvec, triangle, vecmat
from sklearn_maml._task_newton import best_start, newton_minima, weighted_sum

__all__ = ["QueryMinima", "combine", "compare", "compare_all", "query_minima", "representation"]

MAX_ITER = 80

# Newton steps end where each task's slack is this share of the scale of its risk.
TOLERANCE = 1e-11

# A certificate is the sum over tasks of what the meta-parameters lose beside the minimum, and of
# the slack: more steps would lower it by this share at most. Separable classes have no minimum, and
# take a step for each digit.
SHARE = 1e-2

# Where the value settled before the dual was inside of its domain it goes on to this share of that.
FINER = 1e-2

# Of the log-odds of a class.
SURE = 6.0

# Rows whose curvature is below such shares of the most that it can be are taken to be separated:
# the best slope is 0.
SEPARATED = (0.05, 5e-3, 5e-4)

# Slopes count as orthogonal to the features if what is left of them there is rounding.
ORTHOGONAL = 1e-14


class QueryMinima(NamedTuple):
    """The query risks of n tasks, each in an orthonormal basis, for `newton_minima`.

    With Q the left factor of ``B^1/2 Phi = Q R``, predictions are ``z = B^-1/2 Q a``. Q has as many
    columns as the smaller of rows and features, whatever the rank: a larger space can only lower
    the minimum, so that the bound stays valid.

    Attributes
    ----------
    loss : Loss
    targets : ndarray of shape (n, m)
    root, inverse : ndarray of shape (n, m)
        Roots of the weights, and one over them; both 0 on padding.
    basis : ndarray of shape (n, m, r)
        Q.
    scale, given : ndarray of shape (n,)
        The size of each risk, beside which its slack is negligible; and the risk of predictions
        from which it falls: `share` of the fall is negligible too.
    share : float
    """

    loss: object
    targets: np.ndarray
    root: np.ndarray
    inverse: np.ndarray
    basis: np.ndarray
    scale: np.ndarray
    given: np.ndarray
    share: float

    @classmethod
    def of(cls, query):
        """Of a risk with targets (..., n, m); targets come one after another."""
        root = np.sqrt(query.weights)
        inverse = np.divide(1.0, root, where=root > 0, out=np.zeros_like(root))
        basis = np.linalg.qr(root[..., None] * query.features)[0]
        m = root.shape[-1]
        times = query.targets.size // root.size
        flat = [np.tile(part, (times, *[1] * (part.ndim - 1))) for part in (root, inverse, basis)]
        targets = query.targets.reshape(-1, m)
        return cls(query.loss, targets, *flat, *np.zeros((2, len(targets))), 0.0)

    def take(self, chosen):
        """Some of the tasks."""
        return QueryMinima(self.loss, *(part[chosen] for part in self[1:-1]), self.share)

    def project(self, z):
        """Coordinates a of the predictions nearest to z."""
        return self._to_basis(self.root * np.where(self.root > 0, z, 0.0))

    def predict(self, a):
        """Predictions of coordinates a: (n, r) to (n, m)."""
        return self.inverse * matvec(self.basis, a)

    def value(self, a):
        """The query risks, infinite where they overflow."""
        value = weighted_sum(self.root**2, self.loss.value(self.targets, self.predict(a)))
        return np.where(np.isfinite(value), value, np.inf)

    def gradient(self, a):
        """The risks' gradients, of the shape of a."""
        return self._to_basis(self.root * self.loss.gradient(self.targets, self.predict(a)))

    def newton(self, a, value, floor):
        """Newton steps; see `newton_minima`. Solved is a task whose floor is all but its value.

        The slopes at the end of a full step, to first order, are nearly orthogonal to the features:
        made so exactly, they are slopes nu that the dual takes.
        """
        z = self.predict(a)
        slope = self.loss.gradient(self.targets, z)
        curvature = np.where(self.root > 0, self.loss.hessian(self.targets, z), 0.0)
        gradient = self._to_basis(self.root * slope)
        hessian = np.matmul(np.swapaxes(self.basis, -1, -2) * curvature[..., None, :], self.basis)
        r = hessian.shape[-1]
        size = np.trace(hessian, axis1=-2, axis2=-1) / r
        ridge = np.maximum(1e-14 * size, 1e-290)
        step = np.linalg.solve(hessian + ridge[..., None, None] * np.eye(r), gradient[..., None])
        step = step[..., 0]
        nu = self.root * (slope - curvature * self.predict(step))
        nu = nu - matvec(self.basis, self._to_basis(nu))
        dual = self.dual(self.inverse * nu)
        floor = np.where(dual > floor, dual, floor)  # a dual that is not a number is no bound
        decrease = (gradient * step).sum(axis=-1)
        # Where classes are separable the dual may never be as tight: then the value has to do.
        settled = decrease <= 0.1 * self.share * (self.given - value)
        return step, decrease, floor, ~self.is_open(value, floor) | settled

    def dual(self, nu):
        """The lower bounds that feasible slopes give, -inf where they are outside the domain."""
        return weighted_sum(self.root**2, self.loss.dual(self.targets, nu))

    def is_open(self, value, floor):
        """Which tasks have more slack than does not matter."""
        return value - floor > np.maximum(TOLERANCE * self.scale, self.share * (self.given - value))

    def dual_without(self, a, share):
        """The lower bounds at a if rows of almost no curvature have slopes of exactly 0.

        Where some rows of a task are separated, its minimum is that of the others. Slopes that are
        made orthogonal to all features at once are then by a hair outside of their domain on the
        rows that are separated, and prove nothing; these are orthogonal on the others alone.
        """
        z = self.predict(a)
        rest = self.loss.hessian(self.targets, z) > share * self.loss.hessian_bound
        nu = np.where(rest, self.root * self.loss.gradient(self.targets, z), 0.0)
        basis = np.where(rest[..., None], self.basis, 0.0)
        gram = np.matmul(np.swapaxes(basis, -1, -2), basis)
        gram = gram + 1e-10 * np.eye(gram.shape[-1])  # directions that no other row sees
        for _ in range(4):  # each makes up for the ridge, and for rounding
            nu = nu - matvec(basis, np.linalg.solve(gram, vecmat(nu, basis)[..., None])[..., 0])
        left = np.abs(vecmat(nu, basis)).max(axis=-1)
        dual = self.dual(self.inverse * nu)
        size = np.sqrt(np.square(self.root * self.loss.gradient(self.targets, z)).sum(axis=-1))
        return np.where(left <= ORTHOGONAL * size, dual, -np.inf)

    def _to_basis(self, rows):
        return vecmat(rows, self.basis)


def query_minima(query, z, share=0.0):
    """Approximate minima of query risks, and rigorous lower bounds on them.

    Parameters
    ----------
    query : Risk
        Of a stack of n tasks.
    z : ndarray of shape (..., n, m)
        Predictions from which to start; others are tried too.
    share : float, default=0.0
        Of what the risk falls from there to its minimum, slack that does not matter.

    Returns
    -------
    predictions : ndarray of shape (..., n, m)
        Of the approximate minimisers; 0 on padding.
    value, lower : ndarray of shape (..., n)
        The risk there, and a number that no parameters can fall below.
    """
    problem = QueryMinima.of(query)
    y, z = problem.targets, np.asarray(z)
    # The predictions given, zero, guesses of the loss, and for classes what is nearly sure of them.
    zero = np.zeros(y.shape)
    sure = -SURE * np.sign(problem.loss.gradient(y, zero))
    starts = (z.reshape(y.shape), zero, *problem.loss.guesses(y), sure)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        a, value = best_start(problem, [problem.project(at) for at in starts])
        floor = problem.dual(np.zeros(y.shape))
        scale = np.maximum(np.abs(value), np.abs(floor))
        given = problem.value(problem.project(starts[0]))
        problem = problem._replace(scale=scale, given=given, share=share)
        a, value, floor = _solved(problem, a, value, floor)
        left = problem.is_open(value, floor)
        if left.any():
            finer = problem.take(left)._replace(share=FINER * share)
            a[left], value[left], floor[left] = _solved(finer, a[left], value[left], floor[left])
    predictions, lower = problem.predict(a).reshape(z.shape), np.minimum(floor, value)
    return predictions, value.reshape(z.shape[:-1]), lower.reshape(z.shape[:-1])


def _solved(problem, a, value, floor):
    """Approximate minima: a, the values there, and lower bounds, also where rows are separated."""
    a, value, floor, *_ = newton_minima(problem, a, value, floor, MAX_ITER)
    for share in SEPARATED if np.isfinite(problem.loss.hessian_bound) else ():
        left = problem.is_open(value, floor)
        if not left.any():
            break
        floor[left] = np.fmax(floor[left], problem.take(left).dual_without(a[left], share))
    return a, value, floor


def compare(linearization):
    """A block's part of Theorem 1 with the query minimisers in place of the optimum.

    Returns
    -------
    rows : ndarray of shape (..., k, d + 1)
        ``[psi, u]`` times the roots of the row weights, reduced to a triangle.
    lower, slack, magnitude : float
        Sums over tasks, by weight, of the lower bounds; of the minimisers' risks above them; and
        of the terms that the bounds add up, the unit of their rounding.
    """
    query, weight = linearization.query, linearization.weight
    z = linearization.predictions
    best, value, lower = query_minima(
        query, np.broadcast_to(z, linearization.loss_gradient.shape), SHARE
    )
    root = np.sqrt(linearization.row_weight)
    u = root * (z - best)
    psi = np.broadcast_to(
        root[..., None] * linearization.design, (*u.shape, query.features.shape[-1])
    )
    rows = np.concatenate([psi, u[..., None]], axis=-1)
    rows = rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])
    terms = np.abs(query.loss.value(query.targets, best)) + np.abs(
        query.loss.gradient(query.targets, best) * best
    )
    magnitude = (np.where(root > 0, linearization.row_weight * terms, 0.0)).sum()
    return triangle(rows), (weight * lower).sum(), (weight * (value - lower)).sum(), magnitude


def combine(total, part):
    """Two blocks' results of `compare` as one."""
    rows = triangle(np.concatenate([total[0], part[0]], axis=-2))
    return rows, *(a + b for a, b in zip(total[1:], part[1:], strict=True))


def representation(rows):
    """How well psi represents u, direction by direction.

    Parameters
    ----------
    rows : ndarray of shape (..., k, d + 1)
        ``[psi, u]``.

    Returns
    -------
    eigenvalues, squares : ndarray of shape (r,)
        Eigenvalues of psi' psi, and the squared coordinates of ``psi^+ u``.
    rest : float
        The length of what psi cannot represent.
    """
    psi, u = rows[..., :-1], rows[..., -1]
    left, s, _ = np.linalg.svd(psi, full_matrices=False)
    along = np.matmul(np.swapaxes(left, -1, -2), u[..., None])[..., 0]
    rest = u - np.matmul(left, along[..., None])[..., 0]
    kept = s > np.finfo(float).eps * max(psi.shape[-2:]) * s.max(axis=-1, keepdims=True)
    squares = np.square(along[kept] / s[kept])
    outside = np.square(rest).sum() + np.square(along[~kept]).sum()
    return s[kept] ** 2, squares, float(np.sqrt(outside))


def compare_all(objective, theta):
    """`compare` over all blocks and the penalty's own rows.

    The penalty's minimum is 0, at 0: ``alpha |omega|^2 = <w, u>`` with ``w = 2 sqrt(alpha) omega``
    and ``u = sqrt(alpha) omega / 2``, without the loss of a linearisation.
    """
    rows, lower, slack, magnitude = objective.reduce(compare, theta, combine=combine)
    root = np.sqrt(objective.penalty)
    if root.any():
        ridge = np.broadcast_to(np.diag(root), (*theta.shape, len(root)))
        extra = np.concatenate([ridge, 0.5 * (root * theta)[..., None]], axis=-1)
        rows = triangle(np.concatenate([rows, extra], axis=-2))
    return rows, float(lower), float(slack), float(magnitude)
