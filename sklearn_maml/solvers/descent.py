"""Descent with a Gauss-Newton model that secants keep up to date."""

from dataclasses import dataclass, replace

import numpy as np

from sklearn_maml._objective.gauss_newton_hessian import (
    damped_cholesky,
    damped_step,
    gauss_newton_hessian,
    triangular,
)

__all__ = ["Descent", "SecantModel", "hessian_pays", "negligible_gap"]


@dataclass(frozen=True, eq=False)
class SecantModel:
    """A quadratic model: a Hessian from one place, corrected by what gradients did since.

    Attributes
    ----------
    hessian : ndarray of shape (..., d, d)
    damping : float
        Times the Hessian's diagonal, added to it.
    lower : ndarray of shape (..., d, d)
        The Cholesky factor of that sum.
    pairs : tuple of (ndarray, ndarray)
        Moves and the changes of the gradient along them, of shape (..., d); the latest last.
    length : float
        How long steps are in directions that no pair tells of, by the latest pair: above 1 where
        the loss has become less curved everywhere.
    """

    hessian: np.ndarray
    damping: float
    lower: np.ndarray
    pairs: tuple = ()
    length: float = 1.0

    MEMORY = 20

    @classmethod
    def of(cls, hessian, damping):
        """The model of a Hessian alone."""
        return cls(hessian, damping, damped_cholesky(hessian, damping))

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
        """The v with which ``theta - v`` minimises the model: the two loops of L-BFGS."""
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


def negligible_gap(objective, tol):
    """From a meta-loss to the gap that is negligible beside it.

    `tol` times the meta-loss; but a loss that falls to zero is not followed below 1e-10 of where it
    can start: at theta = 0, or at predictions of 0 where adapting from there overshoots.

    Parameters
    ----------
    objective : MetaObjective
    tol : float

    Returns
    -------
    callable
    """
    origin = objective.origin()
    (unadapted,) = objective.reduce(_value_at_zero, origin)
    top = np.fmin(abs(objective.value(origin)), abs(unadapted))

    def enough(value):
        return max(tol * min(max(abs(value), 1e-10 * top), top), 1e-15 * abs(value))

    return enough


def _value_at_zero(linearization):
    """A block's part of the meta-loss of predictions that are all zero."""
    query = linearization.query
    return ((linearization.row_weight * query.loss.value(query.targets, 0.0)).sum(),)


class Descent:
    """Steps that lower an objective, and what they have learned of it.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        Where it starts.

    Attributes
    ----------
    values : list of float
        The meta-loss at the start and after each step.
    """

    def __init__(self, objective, theta):
        self.objective, self.theta = objective, theta
        self.damping, self.rejected = LEAST_DAMPING, 0  # steps from theta that were rejected
        self._renew(gauss_newton_hessian(objective, theta))
        self.value, self.gradient = objective.value_and_gradient(theta)
        self.values = [self.value]

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
        promises = []  # since there was a new Hessian, or a step was rejected
        while True:
            step = self.model.newton_step(self.gradient)
            promised = 0.5 * (self.gradient * step).sum()
            wanted = enough(self.value)
            if promised <= wanted and not self.fresh:
                self._renew(gauss_newton_hessian(self.objective, self.theta))
                continue
            spent = len(self.values) > max_iter or self.damping > LAST_DAMPING
            if spent or promised <= wanted:
                step, gap = self._newton(self.gradient)
                if gap <= wanted:  # a damped step may promise little however far it is
                    return self._polish(step, gap)
                if spent:
                    return gap
            promises.append(promised)
            doubted = self.damping > LEAST_DAMPING
            renew = doubted or hessian_pays(len(self.theta.T), promises, wanted)
            if not self._try(step, promised, renew) or renew:
                promises = []

    def _renew(self, hessian):
        """Model the loss by its Hessian at theta: `fresh` until there is a step."""
        self.model, self.fresh = SecantModel.of(hessian, self.damping), True

    def _newton(self, gradient):
        """A step free of damping and secants, ``H^-1 g``, and the gap ``g' H^-1 g / 2``."""
        step = damped_step(self.model.hessian, gradient, LEAST_DAMPING)
        return step, 0.5 * (gradient * step).sum()

    def _polish(self, step, gap):
        """One more step, for one gradient, unless rounding is all that is left; the gap then."""
        there = self.theta - step
        value, gradient = self.objective.value_and_gradient(there)
        left = self._newton(gradient)[1]
        if left < gap and value <= self.value + 1e-14 * abs(self.value):
            self.theta, self.value, self.gradient = there, value, gradient
            self.values[-1] = min(self.values[-1], value)
            return left
        return gap

    def _try(self, step, promised, renew):
        """Take the step if it lowers the objective, say so, and learn from it in any case."""
        there = self.theta - step
        hessian = gauss_newton_hessian(self.objective, there) if renew else None
        value, gradient = self.objective.value_and_gradient(there)
        informed, rise = self.model, value - self.value
        if rise < 10.0 * promised:  # farther up, slopes say nothing of the loss here
            informed = informed.with_secant(-step, gradient - self.gradient)
        if not rise < -1e-4 * promised:
            self._turn_back(informed)
            return False
        self.theta, self.value, self.gradient = there, value, gradient
        self.values.append(value)
        self.model, self.fresh, self.rejected = informed, False, 0
        if rise < -0.7 * promised:
            self.damping = self.damping / 8 if self.damping > FIRST_DAMPING else LEAST_DAMPING
        if renew:
            self._renew(hessian)
        return True

    def _turn_back(self, informed):
        """Before the next step from the same place: learn, else doubt the model, else dampen it."""
        self.rejected += 1
        if self.rejected == 1 and informed is not self.model:
            self.model = informed
        elif not self.fresh:
            self._renew(gauss_newton_hessian(self.objective, self.theta))
        else:
            self.damping = max(6.0 * self.damping, FIRST_DAMPING)
            self._renew(self.model.hessian)


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
