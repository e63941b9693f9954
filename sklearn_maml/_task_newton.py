"""Newton's method on many small convex problems at once, each with a line search of its own.

One engine, `newton_minima`, and one problem that it solves, `RidgeProblem`: the inner problem of
proximal adaptation. The other, `QueryMinima`, belongs to the certificate. A problem is n functions
of an array of shape (n, r), one a task, and has

- ``value(a)``, shape (n,), infinite where it overflows, and ``gradient(a)``, of the shape of a;
- ``newton(a, value, floor)``: Newton steps, the predicted decrease of each, the
  best lower bound known on each minimum (`floor` is the one so far), and which tasks are solved;
- ``take(chosen)``: some of the tasks.
"""

from typing import NamedTuple

import numpy as np

from sklearn_maml._linalg import matvec, vecmat

__all__ = [
    "Minima",
    "RidgeProblem",
    "best_start",
    "line_search",
    "newton_minima",
    "ridge_minimum",
    "weighted_sum",
]

# Steps at most: with an exponential far from its minimum, each lowers a prediction by 1.
MAX_ITER = 200

# A problem is solved where the step is so small a share of the solution, in the problem's own norm:
# one more step squares it.
SOLVED = 1e-8

# A decrease of less than this share of the value is lost in the value's rounding: slopes tell.
UNSEEN = 1e-9

EPS = np.finfo(float).eps

# What the rounding of an exponential's value may hide, in units of its second derivative.
HIDDEN = 16 * EPS


class Minima(NamedTuple):
    """Where Newton's method on n problems ended.

    Attributes
    ----------
    a : ndarray of shape (n, r)
        The arguments.
    value : ndarray of shape (n,)
        The values there.
    floor : ndarray of shape (n,)
        The best lower bounds that the problems gave.
    step : ndarray of shape (n, r)
        Each task's last Newton step; where it is solved, ``a - step`` is closer still.
    solved : ndarray of shape (n,)
        Whether a task was solved, or else stopped where nothing lowered its value any further.
    """

    a: np.ndarray
    value: np.ndarray
    floor: np.ndarray
    step: np.ndarray
    solved: np.ndarray


def newton_minima(problem, a, value, floor, max_iter):
    """Damped Newton steps on n problems at once; what is solved does not wait for the others.

    Parameters
    ----------
    problem : object
        Of n tasks, as described in this module's docstring.
    a : ndarray of shape (n, r)
        Where to start; not changed.
    value, floor : ndarray of shape (n,)
        The values there, and lower bounds that are known; -inf where there is none.
    max_iter : int

    Returns
    -------
    Minima
    """
    found = Minima(a.copy(), value.copy(), floor.copy(), 0.0 * a, np.zeros(len(a), dtype=bool))
    left = np.arange(len(a))
    for _ in range(max_iter):
        step, decrease, floor, solved = problem.newton(a, value, floor)
        ahead, value = line_search(problem, a, value, step, np.where(solved, 0.0, decrease))
        for whole, part in zip(found, (ahead, value, floor, step, solved), strict=True):
            whole[left] = part
        going = (ahead != a).any(axis=-1)
        if not going.any():
            break
        if not going.all():
            problem, left = problem.take(going), left[going]
        a, value, floor = ahead[going], value[going], floor[going]
    return found


def line_search(problem, a, value, step, decrease, halvings=60):
    """Newton steps, halved task by task until they lower the value; none where nothing does.

    Where the decrease is too small to be seen in the value, until the slope along the step, which
    falls from `decrease`, is not far below zero: then it does not lead far beyond the minimum.

    Parameters
    ----------
    problem : object
        Of n tasks, with ``value(a)``, ``gradient(a)`` and ``take(chosen)``.
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
    problem = problem if len(left) == len(a) else problem.take(left)
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


def best_start(problem, starts):
    """The best of several starts, task by task, and the values there.

    Parameters
    ----------
    problem : object
        Of n tasks, with ``value(a)``.
    starts : sequence of ndarray of shape (n, r)
        An earlier one is taken where values are equal.

    Returns
    -------
    a : ndarray of shape (n, r)
    value : ndarray of shape (n,)
    """
    values = np.stack([problem.value(a) for a in starts])
    best = np.argmin(values, axis=0)[None]
    a = np.take_along_axis(np.stack(starts), best[..., None], axis=0)[0]
    return a, np.take_along_axis(values, best, axis=0)[0]


def weighted_sum(weights, values):
    """Sums over rows; padding, of weight 0, counts for nothing even where its value overflows."""
    return np.where(weights > 0, weights * values, 0.0).sum(axis=-1)


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
        value = weighted_sum(self.weights, self.loss.value(self.targets, self.predict(b)))
        value = value + self.strength * np.square(b).sum(axis=-1)
        return np.where(np.isfinite(value), value, np.inf)

    def gradient(self, b):
        """The objective's gradient, of the shape of b."""
        return vecmat(self._slopes(self.predict(b)), self.rows) + self._pull(b)

    def newton(self, b, value, floor):
        """Newton steps; see `newton_minima`.

        Solved is a task whose predicted decrease is negligible beside b in the norm of the Hessian,
        or no more than what the rounding of the gradient makes, or of predictions. Or, of an
        exponential, than what the rounding of the value hides: a deviance near zero is the
        difference of large terms.
        """
        z = self.predict(b)
        slope = self._slopes(z)
        curvature = np.where(
            self.weights > 0, self.weights * self.loss.hessian(self.targets, z), 0.0
        )
        gradient = vecmat(slope, self.rows) + self._pull(b)
        # Slopes are wrong by their own rounding and by that of the predictions.
        unsure = np.abs(slope) + curvature * np.abs(z)
        rounding = 4.0 * EPS * vecmat(unsure, np.abs(self.rows))
        hessian = np.matmul(np.swapaxes(self.rows, -1, -2), curvature[..., None] * self.rows)
        # Where the curvature dwarfs the strength by more than float64 holds, a bit more of it.
        ridge = 2.0 * self.strength + 1e-15 * np.trace(hessian, axis1=-2, axis2=-1)
        hessian = hessian + ridge[..., None, None] * np.eye(b.shape[-1])
        finite = np.isfinite(hessian).all(axis=(-2, -1)) & np.isfinite(gradient).all(axis=-1)
        hessian = np.where(finite[..., None, None], hessian, np.eye(b.shape[-1]))
        both = np.stack([gradient, rounding], axis=-1)
        steps = np.linalg.solve(hessian, both)
        decrease, noise = np.moveaxis((both * steps).sum(axis=-2), -1, 0)
        size = (vecmat(b, hessian) * b).sum(axis=-1)
        decrease = np.where(finite, decrease, np.nan)
        # Of rows that are met exactly, what predictions round is all that is left.
        last = 4.0 * EPS * np.abs(np.where(self.weights > 0, z, 0.0)).max(axis=-1, initial=0.0)
        noise = np.maximum(noise, curvature.sum(axis=-1) * np.square(last))
        hidden = np.maximum(SOLVED**2 * size, noise)
        if not np.isfinite(self.loss.hessian_bound):
            # Predictions are known to 1e-7 there, and the one more step squares that.
            hidden = np.maximum(hidden, HIDDEN * curvature.sum(axis=-1))
        return steps[..., 0], decrease, floor, decrease <= hidden

    def _slopes(self, z):
        """``w_j l'_j``, 0 on padding."""
        return np.where(self.weights > 0, self.weights * self.loss.gradient(self.targets, z), 0.0)

    def _pull(self, b):
        """The gradient of ``strength |b|^2``."""
        return 2.0 * self.strength[..., None] * b


def ridge_minimum(problem, max_iter=MAX_ITER):
    """The minimisers b of a `RidgeProblem`, to rounding.

    The problem is strongly convex, so that damped Newton steps reach its only minimum from
    anywhere. With fewer rows than columns they run in an orthonormal basis of the rows: the
    minimiser is a combination of them.

    Returns
    -------
    ndarray of shape (..., n, r)
        Not a number where a task was not solved in `max_iter` steps, far beyond the range in which
        its loss can be evaluated; a solver then turns back.
    """
    m, r = problem.rows.shape[-2:]
    if m < r:
        basis, triangle = np.linalg.qr(np.swapaxes(problem.rows, -1, -2))
        inside = problem._replace(rows=np.swapaxes(triangle, -1, -2))
        return matvec(basis, ridge_minimum(inside, max_iter))
    lead = problem.start.shape[:-1]
    problem = problem.flat()
    with np.errstate(over="ignore", invalid="ignore"):
        b, value = best_start(problem, _starts(problem))
        found = newton_minima(problem, b, value, np.full(len(b), -np.inf), max_iter)
    return np.where(found.solved[:, None], found.a - found.step, np.nan).reshape(*lead, r)


def _starts(problem):
    """Zero; and, as exponentials explode from there, what nearly fits the targets' logarithms."""
    zero = np.zeros((*problem.start.shape[:-1], problem.rows.shape[-1]))
    if np.isfinite(problem.loss.hessian_bound):
        return (zero,)
    turned = np.swapaxes(problem.weights[..., None] * problem.rows, -1, -2)
    gram = np.matmul(turned, problem.rows)
    ridge = 1e-6 * np.trace(gram, axis1=-2, axis2=-1) + 1e-300
    gram = gram + ridge[..., None, None] * np.eye(zero.shape[-1])
    wanted = problem.loss.guesses(problem.targets)[-1] - problem.start
    return zero, np.linalg.solve(gram, np.matmul(turned, wanted[..., None]))[..., 0]
