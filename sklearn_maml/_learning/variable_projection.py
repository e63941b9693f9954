"""Learning a rule's parameters on the query loss: the meta-loss as a function of the rule.

Theta is exact for each candidate (variable projection), so that by the envelope theorem the
gradient is the partial derivative at that theta, `AdaptationRule.slope` summed over tasks.
"""

import warnings
from functools import partial

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._objective.quadratic import quadratic

__all__ = [
    "LOG_SCALE",
    "Profile",
    "best_scale",
    "minimize_query_loss",
]

# A scale is sought between exp(-8) and exp(8), or near 1.
LOG_SCALE, LOG_NEAR = 8.0, 1.5

# Near its minimum the loss of a scale is flat: 3 percent more or less cannot be told apart.
LOG_TOLERANCE = 0.03

# A scale is one number: so many tasks, and about so many query rows, determine it.
TASKS_FOR_SCALE, ROWS_FOR_SCALE = 2000, 2e4

# A rule is learned from so many rows that rows * d^2 is about this. Losses that are not quadratic
# take many more passes over them, and passes in which not only d counts.
WORK, WORK_UNLESS_QUADRATIC, ROWS_UNLESS_QUADRATIC = 2e8, 4e6, 1e4
ROWS_A_PARAMETER = 2


# What L-BFGS is told of a loss that overflows, in units of the loss where it starts.
FAR = 1e10


class Profile:
    """The smallest meta-loss of each rule, over theta.

    Parameters
    ----------
    objective : MetaObjective
    blocks : Blocks
        Enough of its tasks.
    solver : Solver
    """

    def __init__(self, objective, blocks, solver):
        self.objective, self.solver = objective.vary(blocks=blocks), solver
        self.report = objective.report
        self.theta = objective.origin()

    def __call__(self, rule):
        """The objective with that rule, theta, and the loss; infinite where it overflows."""
        at = self.objective.vary(rule=rule)
        if at.is_quadratic and not rule.first_order:
            (theta, value), note = _solved(at), ""
        elif not np.isfinite(at.value_and_gradient(self.theta)[0]):
            return at, self.theta, np.inf
        else:
            theta, value, note = self._sought(at)
        self.theta = theta  # near that of the next candidate
        self.report(f"learning the rule: smallest meta-loss {value:.8g}{note}")
        return at, theta, value

    def _sought(self, at):
        """Theta by the solver, the loss, and a note where it did not converge."""
        with warnings.catch_warnings():
            # A candidate that is not quite solved is one among many, and is reported; the fit
            # itself warns.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = self.solver.minimize(at, self.theta)
        return found.theta, found.values[-1], "" if found.converged else ", not converged"

    def value_and_slope(self, rule):
        """The smallest meta-loss of a rule, and its derivative in what is learned of it.

        Theta is where the meta-loss is smallest, so that how it moves with the rule does not count:
        the envelope theorem. The slope is None where the loss is infinite.
        """
        at, theta, value = self(rule)
        if not np.isfinite(value):
            return value, None
        (slope,) = at.reduce(partial(_slope, rule, theta), theta)
        return value, slope


def _solved(at):
    """Theta and loss of a quadratic by one Newton step; no digit of a candidate needs a second."""
    origin = at.origin()
    shape = quadratic(at)  # which leaves the gradient at the origin behind
    theta = origin - shape.newton_step(at, origin, at.value_and_gradient(origin)[1])
    return theta, at.value(theta)


def best_scale(objective, solver, make_rule, near=False, theta=None):
    """The scale of a rule that leaves the smallest meta-loss, theta being exact for each, or given.

    A rule that moves so far that it fits every support set leaves theta hardly determined, and free
    to fit the query rows: the loss can have a second, treacherous minimum there. So the minimum is
    that next to 1 (`near`), or the first one on the way up from small scales.

    Parameters
    ----------
    objective : MetaObjective
    solver : Solver
    make_rule : callable
        From a scale to the rule with that scale.
    near : bool
        Whether a scale of 1 is about right.
    theta : ndarray, default=None
        The same for all scales, or None.

    Returns
    -------
    float
    """
    work = max(ROWS_FOR_SCALE * objective.n_parameters**2, _least_work(objective))
    work = min(_work(objective), work)
    few = objective.blocks.sample(TASKS_FOR_SCALE).lighter(work)
    profile = Profile(objective, few, solver)

    def loss(log_scale):
        rule = make_rule(np.exp(log_scale))
        if theta is None:
            return profile(rule)[-1]
        value = profile.objective.vary(rule).value(theta)
        objective.report(f"scale {np.exp(log_scale):.3g}: meta-loss {value:.8g}")
        return value

    bounds = (-LOG_NEAR, LOG_NEAR) if near else _first_valley(loss, -LOG_SCALE, LOG_SCALE)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": LOG_TOLERANCE})
    return float(np.exp(found.x))


def _first_valley(loss, low, high):
    """An interval with the first minimum of a function, walking up from `low` in steps of 1."""
    at, value = low, loss(low)
    for x in np.arange(low + 1, high + 1):
        ahead = loss(x)
        if ahead > 1.01 * value:
            break
        at, value = (x, ahead) if ahead < value else (at, value)
    return max(at - 1, low), min(at + 1, high)


def minimize_query_loss(objective, solver, start, make_rule, chain, bounds=None, pull=0.0):
    """Learn a rule by variable projection.

    Parameters
    ----------
    objective : MetaObjective
    solver : Solver
    start : ndarray of shape (k,)
        Coordinates to start from.
    make_rule : callable
        From coordinates to the rule.
    chain : callable
        From coordinates, and the derivative in what is learned, to that in the coordinates.
    bounds : list of (float, float), default=None
    pull : float, default=0.0
        What a squared distance of 1 from the start costs, in units of the loss there.

    Returns
    -------
    x : ndarray of shape (k,)
    n_iter : int
    converged : bool
    """
    profile = Profile(objective, objective.blocks.lighter(_work(objective)), solver)
    unit = abs(profile(make_rule(start))[-1]) or 1.0

    def value_and_gradient(x):
        value, slope = profile.value_and_slope(make_rule(x))
        if slope is None:  # infinite: far above all else, so that the line search turns back
            return FAR, np.zeros_like(x)
        away = x - start
        return value / unit + pull * (away @ away), chain(x, slope) / unit + 2.0 * pull * away

    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 100, "ftol": 1e-6, "gtol": 1e-6},
    )
    return found.x, int(found.nit), bool(found.success)


def _slope(rule, theta, linearization):
    return (rule.slope(theta, linearization),)


def _work(objective):
    if objective.is_quadratic:
        return max(WORK, _least_work(objective))
    return min(WORK_UNLESS_QUADRATIC, ROWS_UNLESS_QUADRATIC * objective.n_parameters**2)


def _least_work(objective):
    """With rows enough for theta; each row counts once for each number of shots."""
    n_shots = objective.blocks.episodes.n_shots
    return ROWS_A_PARAMETER * n_shots * objective.n_parameters**3
