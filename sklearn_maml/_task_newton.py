"""Newton's method on many small convex problems at once, each with a line search of its own."""

from typing import NamedTuple

import numpy as np

from sklearn_maml._linalg import matvec, vecmat

__all__ = ["RidgeProblem", "line_search", "ridge_minimum"]

MAX_ITER = 200

# A problem is solved where the step is so small a share of the solution, in the problem's own norm:
# one more step squares it.
SOLVED = 1e-8

# A decrease of less than this share of the value is lost in the value's rounding: slopes tell.
UNSEEN = 1e-9

EPS = np.finfo(float).eps


def line_search(problem, a, value, step, decrease, halvings=60):
    """Newton steps, halved task by task until they lower the value; none where nothing does.

    Where the decrease is too small to be seen in the value, until the slope along the step, which
    falls from `decrease`, is not far below zero: then it does not lead far beyond the minimum.

    Parameters
    ----------
    problem : object
        Of n tasks, with ``value(a)``, which is infinite where it overflows, ``gradient(a)``, and
        ``take(chosen)``.
    a, step : ndarray of shape (n, r)
    value, decrease : ndarray of shape (n,)
        The value at a, and by how much its slope along the step says that it will fall.

    Returns
    -------
    a, value : ndarray
        The new arguments and the values there.
    """
    # What does not fall, or falls too little to tell, is left where it is.
    left = np.flatnonzero(np.isfinite(decrease) & (decrease > 0) & np.isfinite(step).all(axis=-1))
    a, value, length = a.copy(), value.copy(), 1.0
    problem = problem.take(left)
    for _ in range(halvings):
        if not len(left):
            break
        trial = a[left] - length * step[left]
        new = problem.value(trial)
        good = new <= value[left] - 1e-4 * length * decrease[left]
        unseen = decrease[left] <= UNSEEN * np.abs(value[left])
        if unseen.any():
            along = (problem.gradient(trial) * step[left]).sum(axis=-1)
            good = np.where(unseen, along >= -0.5 * decrease[left], good)
        a[left[good]], value[left[good]] = trial[good], new[good]
        if good.any():
            left, problem = left[~good], problem.take(~good)
        length *= 0.5
    return a, value


class RidgeProblem(NamedTuple):
    """``min over b of sum_j w_j l(y_j, z_j + f_j' b) + strength |b|^2``, for a stack of tasks.

    Attributes
    ----------
    loss : Loss
    targets : ndarray of shape (..., n, m)
    weights : ndarray of shape (n, m)
    start : ndarray of shape (..., n, m)
        z, the predictions at b = 0.
    rows : ndarray of shape (n, m, r)
        The f_j.
    strength : ndarray of shape (n,)
        Positive.
    """

    loss: object
    targets: np.ndarray
    weights: np.ndarray
    start: np.ndarray
    rows: np.ndarray
    strength: np.ndarray

    def flat(self):
        """The same problems with one leading axis."""
        lead = self.start.shape[:-1]
        ends = {"targets": 1, "weights": 1, "start": 1, "rows": 2, "strength": 0}
        n, parts = int(np.prod(lead)), {}
        for name, end in ends.items():
            part = getattr(self, name)
            inner = part.shape[part.ndim - end :]
            parts[name] = np.broadcast_to(part, (*lead, *inner)).reshape(n, *inner)
        return self._replace(**parts)

    def take(self, chosen):
        """Some of the problems, which have one leading axis."""
        return RidgeProblem(self.loss, *(part[chosen] for part in self[1:]))

    def predict(self, b):
        """Predictions of b (..., n, r): (..., n, m)."""
        return self.start + matvec(self.rows, b)

    def value(self, b):
        """The objective, infinite where it overflows, shape (..., n)."""
        value = self._mean(self.loss.value(self.targets, self.predict(b)))
        value = value + self.strength * np.square(b).sum(axis=-1)
        return np.where(np.isfinite(value), value, np.inf)

    def gradient(self, b):
        """The objective's gradient, of the shape of b."""
        slope = self.loss.gradient(self.targets, self.predict(b))
        slope = np.where(self.weights > 0, self.weights * slope, 0.0)
        return vecmat(slope, self.rows) + 2.0 * self.strength[..., None] * b

    def newton(self, b):
        """Newton steps, the decrease that their slope promises, and one that is negligible.

        Negligible beside b in the norm of the Hessian, or what the rounding of the gradient makes.
        """
        z, turned = self.predict(b), np.swapaxes(self.rows, -1, -2)
        real = self.weights > 0
        slope = np.where(real, self.weights * self.loss.gradient(self.targets, z), 0.0)
        bend = np.where(real, self.weights * self.loss.hessian(self.targets, z), 0.0)
        gradient = vecmat(slope, self.rows) + 2.0 * self.strength[..., None] * b
        rounding = 4.0 * EPS * vecmat(np.abs(slope), np.abs(self.rows))
        hessian = np.matmul(turned, bend[..., None] * self.rows)
        # Where the curvature dwarfs the strength by more than float64 holds, a bit more of it.
        ridge = 2.0 * self.strength + 1e-15 * np.trace(hessian, axis1=-2, axis2=-1)
        hessian = hessian + ridge[..., None, None] * np.eye(b.shape[-1])
        finite = np.isfinite(hessian).all(axis=(-2, -1)) & np.isfinite(gradient).all(axis=-1)
        hessian = np.where(finite[..., None, None], hessian, np.eye(b.shape[-1]))
        both = np.stack([gradient, rounding], axis=-1)
        steps = np.linalg.solve(hessian, both)
        decrease, noise = np.moveaxis((both * steps).sum(axis=-2), -1, 0)
        size = (vecmat(b, hessian) * b).sum(axis=-1)
        negligible = np.maximum(SOLVED**2 * size, noise)
        return steps[..., 0], np.where(finite, decrease, np.nan), negligible

    def _mean(self, values):
        return np.where(self.weights > 0, self.weights * values, 0.0).sum(axis=-1)


def ridge_minimum(problem):
    """The minimisers b of a `RidgeProblem`, to rounding.

    The problem is strongly convex, so that damped Newton steps reach its only minimum from
    anywhere. With fewer rows than columns they run in an orthonormal basis of the rows: the
    minimiser is a combination of them.

    Returns
    -------
    ndarray of shape (..., n, r)
        Not a number where a task was not solved in `MAX_ITER` steps, far beyond the range in which
        its loss can be evaluated; a solver then turns back.
    """
    m, r = problem.rows.shape[-2:]
    if m < r:
        basis, triangle = np.linalg.qr(np.swapaxes(problem.rows, -1, -2))
        inside = ridge_minimum(problem._replace(rows=np.swapaxes(triangle, -1, -2)))
        return matvec(basis, inside)
    lead = problem.start.shape[:-1]
    problem = problem.flat()
    found = np.full((problem.start.shape[0], r), np.nan)
    left = np.arange(len(found))
    with np.errstate(over="ignore", invalid="ignore"):
        b, value = _best_start(problem)
        for _ in range(MAX_ITER):
            step, decrease, negligible = problem.newton(b)
            done = decrease <= negligible
            b, value = line_search(problem, b, value, step, np.where(done, 0.0, decrease))
            found[left[done]] = (b - step)[done]
            if done.all():
                break
            if done.any():  # the others go on by themselves
                problem, b, value, left = problem.take(~done), b[~done], value[~done], left[~done]
    return found.reshape(*lead, r)


def _best_start(problem):
    """Zero; or, where an exponential is lower there, what nearly fits the targets' logarithms."""
    b = np.zeros((*problem.start.shape[:-1], problem.rows.shape[-1]))
    value = problem.value(b)
    if np.isfinite(problem.loss.hessian_bound):
        return b, value
    turned = np.swapaxes(problem.weights[..., None] * problem.rows, -1, -2)
    gram = np.matmul(turned, problem.rows)
    ridge = 1e-6 * np.trace(gram, axis1=-2, axis2=-1) + 1e-300
    gram = gram + ridge[..., None, None] * np.eye(b.shape[-1])
    wanted = np.log1p(np.abs(problem.targets)) - problem.start
    fitted = np.linalg.solve(gram, np.matmul(turned, wanted[..., None]))[..., 0]
    other = problem.value(fitted)
    lower = other < value
    return np.where(lower[..., None], fitted, b), np.where(lower, other, value)
