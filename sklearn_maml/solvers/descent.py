"""Descent with a Gauss-Newton model that secants keep up to date.

scipy's trust-exact with the same Hessian reaches the same minima, but evaluates a Hessian at every
trial point: one and a half to ten times the seconds of this, by benchmarks/bench_solvers.py's
problems.
"""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_maml.solvers.damping import damped_cholesky, triangular

__all__ = ["Descent", "SecantModel", "hessian_pays", "polish"]


@dataclass(frozen=True, eq=False)
class SecantModel:
    """A quadratic model: a Hessian from one place, corrected by what gradients did since.

    Attributes
    ----------
    hessian : ndarray of shape (..., d, d)
    lower : ndarray of shape (..., d, d)
        The Cholesky factor of the damped Hessian.
    pairs : tuple of (ndarray, ndarray)
        Moves and the changes of the gradient along them, of shape (..., d); the latest last.
    length : float
        How long steps are in directions that no pair tells of, by the latest pair: above 1 where
        the loss has become less curved everywhere.
    """

    hessian: np.ndarray
    lower: np.ndarray
    pairs: tuple = ()
    length: float = 1.0

    MEMORY = 20

    @classmethod
    def of(cls, hessian, damping):
        """The model of a Hessian alone, plus its diagonal times a damping."""
        return cls(hessian, damped_cholesky(hessian, damping))

    def with_secant(self, move, change):
        """The model that also knows how the gradient changed along a move.

        A change of less than a hundredth of what the Hessian expects teaches nothing: the model
        stays positive definite, and steps do not explode.
        """
        seen = (move * change).sum()
        expected = np.square(np.matmul(move[..., None, :], self.lower)).sum()
        if not (np.isfinite(seen) and seen > 0.01 * expected):
            return self
        length = seen / np.square(triangular(self.lower, change, "N")).sum()
        return replace(self, pairs=(*self.pairs, (move, change))[-self.MEMORY :], length=length)

    def newton_step(self, gradient):
        """The v with which ``y - v`` minimises the model: the two loops of L-BFGS.

        Nocedal & Wright, algorithm 7.4, with ``length * H^-1`` for the initial inverse.
        """
        shares = []
        for move, change in reversed(self.pairs):
            shares.append((move * gradient).sum() / (move * change).sum())
            gradient = gradient - shares[-1] * change
        step = self.length * triangular(self.lower, triangular(self.lower, gradient, "N"), "T")
        for (move, change), share in zip(self.pairs, reversed(shares), strict=True):
            step = step + (share - (change * step).sum() / (move * change).sum()) * move
        return step


# The damping of a model that is trusted: it only makes up for the rounding of a singular Hessian.
LEAST_DAMPING = 1e-9

# The first damping of one that misled, and the last.
FIRST_DAMPING, LAST_DAMPING = 1e-3, 1e12

# Where the predicted decrease is a larger share of the value, rounding cannot hide what is gained.
UNSEEN = 1e-5


class Descent:
    """Steps that lower an objective, and what they have learned of it.

    Parameters
    ----------
    coordinates : Coordinates
        The objective, in the coordinates to work in.
    point : Point
        Where to start, with its Hessian.
    iterates : Iterates
        Is told of the start and of each step that lowers the objective.
    """

    def __init__(self, coordinates, point, iterates):
        self.coordinates, self.point, self.iterates = coordinates, point, iterates
        self.damping, self.rejected = LEAST_DAMPING, 0  # steps from here that were rejected
        self._renew(point.hessian)
        iterates.add(coordinates.theta(point.y), point.value)

    def run(self, enough, max_iter):
        """Step until the estimated gap is negligible, or nothing helps; the estimate.

        Parameters
        ----------
        enough : callable
            From the loss to the gap that is negligible beside it.
        max_iter : int
            Steps that lower the objective, at most.

        Returns
        -------
        float
            ``g' H^-1 g / 2``, of the gap that is left.
        """
        decreases = []  # predicted since there was a new Hessian, or a step was rejected
        while True:
            step = self.model.newton_step(self.point.gradient)
            predicted = 0.5 * (self.point.gradient * step).sum()
            wanted = self._negligible(predicted, enough(self.point.value))
            if predicted <= wanted and not self.fresh:
                self._renew(self._hessian())
                continue
            spent = self.iterates.n_iter >= max_iter or self.damping > LAST_DAMPING
            if spent or predicted <= wanted:
                gap = self._undamped_gap()
                if gap <= wanted:  # a damped step's decrease may be small however far it is
                    return self._polish(enough)
                if spent:
                    return gap
            decreases.append(predicted)
            damped = self.damping > LEAST_DAMPING
            renew = damped or hessian_pays(step.shape[-1], decreases, wanted)
            if not self._try(step, predicted, renew) or renew:
                decreases = []

    def _negligible(self, predicted, wanted):
        """The gap that is wanted, or what the rounding of predictions hides if that is more."""
        if predicted > UNSEEN * abs(self.point.value):
            return wanted  # far from there: no need to know
        return max(wanted, self.coordinates.rounding(self.point.y))

    def _hessian(self):
        return self.coordinates.look(self.point.y, hessian=True).hessian

    def _undamped_gap(self):
        lower = damped_cholesky(self.model.hessian, LEAST_DAMPING)
        return 0.5 * np.square(triangular(lower, self.point.gradient, "N")).sum()

    def _renew(self, hessian):
        """Model the loss by its Hessian here: `fresh` until there is a step."""
        self.model, self.fresh = SecantModel.of(hessian, self.damping), True

    def _polish(self, enough):
        """Steps that only slopes can judge; the gap that is left."""
        before = self.point.value
        here = self.point._replace(hessian=self.model.hessian)
        self.point, gap = polish(self.coordinates, here, enough)
        if self.point.value < before:
            self.iterates.add(self.coordinates.theta(self.point.y), self.point.value)
        return gap

    def _try(self, step, predicted, renew):
        """Take the step if it lowers the objective, say so, and learn from it in any case."""
        there = self.coordinates.look(self.point.y - step, hessian=renew)
        informed, rise = self.model, there.value - self.point.value
        if rise < 10.0 * predicted:  # farther up, slopes say nothing of the loss here
            informed = informed.with_secant(-step, there.gradient - self.point.gradient)
        if not rise < -1e-4 * predicted:
            self._turn_back(informed)
            return False
        self.point = there
        self.iterates.add(self.coordinates.theta(there.y), there.value)
        self.model, self.fresh, self.rejected = informed, False, 0
        if rise < -0.7 * predicted:
            self.damping = self.damping / 8 if self.damping > FIRST_DAMPING else LEAST_DAMPING
        if renew:
            self._renew(there.hessian)
        return True

    def _turn_back(self, informed):
        """What to change before the next step from the same place.

        First update the model by the step that failed. If the next one fails too, evaluate the
        Hessian anew; if that fails, damp it more.
        """
        self.rejected += 1
        if self.rejected == 1 and informed is not self.model:
            self.model = informed
        elif not self.fresh:
            self._renew(self._hessian())
        else:
            self.damping = max(6.0 * self.damping, FIRST_DAMPING)
            self._renew(self.model.hessian)


def polish(coordinates, point, enough):
    """Newton steps where values show little but rounding: each must leave less of the gap.

    Parameters
    ----------
    coordinates : Coordinates
    point : Point
        Where to start, with a Hessian, which serves for all steps.
    enough : callable
        From the loss to the gap that is negligible beside it. One step is taken even below it:
        for one gradient, what is left falls by orders of magnitude.

    Returns
    -------
    point : Point
    gap : float
        The estimate ``g' H^-1 g / 2`` of the gap that is left.
    """
    lower = damped_cholesky(point.hessian, LEAST_DAMPING)
    half = triangular(lower, point.gradient, "N")
    gap = 0.5 * np.square(half).sum()
    while True:
        there = coordinates.look(point.y - triangular(lower, half, "T"))
        half = triangular(lower, there.gradient, "N")
        left = 0.5 * np.square(half).sum()
        if not left < gap or coordinates.rises(point, there):
            return point, gap
        if left <= enough(there.value) or left > 0.5 * gap:
            return there, left
        point, gap = there, left


def hessian_pays(d, gaps, wanted):
    """Whether to evaluate a Hessian is less work than to go on at the rate so far.

    A Hessian takes about as long as ``2 + d / 15`` gradients (measured for 10 to 300 parameters).
    With a new one, each gradient gains about a digit.

    Parameters
    ----------
    d : int
    gaps : list of float
        Estimated with the present Hessian, one after another; the latest last.
    wanted : float
    """
    if len(gaps) == 1:
        return False
    rate = -np.log10(gaps[-1] / gaps[0]) / (len(gaps) - 1)  # digits a gradient
    digits = np.log10(gaps[-1] / wanted)
    return digits > rate * (2.0 + d / 15.0 + digits)
