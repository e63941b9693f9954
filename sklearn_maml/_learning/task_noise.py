"""How the variance of the noise differs between tasks, by the likelihood of the training tasks."""

from functools import partial
from operator import add

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_maml.adaptation.task_noise import TaskNoise, log_density

__all__ = ["likeliest_freedom", "noise_of_tasks"]

# The degrees of freedom are one number: this many tasks determine it.
TASKS_FOR_FREEDOM = 20000

# Degrees of freedom, less 2, are looked for at so many places between these, then next to the best.
LEAST, MOST, N_PLACES = 0.05, 1e4, 50

# By so much the log likelihood has to be larger than with one variance for all: Akaike's price of a
# parameter.
WORTH = 1.0


def noise_of_tasks(objective, theta, given, freedom):
    """How the variance of the noise differs between tasks, from all of their rows.

    Parameters
    ----------
    objective : MetaObjective
        A quadratic, with the rule in use.
    theta : ndarray of shape (d,) or (n_targets, d)
    given : float, ndarray of shape (n_targets,) or None
        The mean variance; None estimates it.
    freedom : float or None
        Degrees of freedom; None learns them.

    Returns
    -------
    TaskNoise or None
        None where tasks are as likely to share one variance.
    """
    blocks = objective.blocks.sample(TASKS_FOR_FREEDOM, keeps=False)
    if freedom is None and not blocks.tasks.show_differences:
        return None
    whole = objective.vary(blocks=blocks.unsplit())
    parts = zip(*whole.fold(partial(_squares, whole, theta), add), strict=True)
    weight, n_rows, squares = (np.concatenate(part, axis=-1) for part in parts)
    variance = squares @ weight / (n_rows @ weight) if given is None else np.asarray(given)
    variance = np.broadcast_to(variance, squares.shape[:-1])
    variance = np.where(variance > 0, variance, 1.0)  # a target without noise has none to share out
    if freedom is not None:
        return TaskNoise(np.full(variance.shape, float(freedom)), variance)
    relative = np.reshape(squares / variance[..., None], (-1, len(n_rows)))
    found = [likeliest_freedom(n_rows, own, weight * blocks.tasks.count) for own in relative]
    if np.isinf(found).all():
        return None
    return TaskNoise(np.minimum(found, 2.0 + MOST).reshape(variance.shape), variance)


def _squares(objective, theta, i):
    """A block's tasks: their weights, numbers of rows, and Q (n,) or (n_targets, n), in a list."""
    loop, weight = objective.loop(i, again=False)
    risk = loop.support
    theta_i, _ = loop.adapt(theta[..., None, :])
    squares = objective.rule.squares(risk.square_about(risk.predict(theta_i)))
    return [(weight, np.broadcast_to(risk.n_rows, weight.shape), squares)]


def likeliest_freedom(n_rows, squares, weight):
    """The degrees of freedom under which tasks are likeliest; see `log_density`.

    Parameters
    ----------
    n_rows, squares : ndarray of shape (n,)
    weight : ndarray of shape (n,)
        How many tasks each counts for.

    Returns
    -------
    float
        Infinite where one variance for all is as likely.
    """

    def unlikely(log_shared):
        return -(weight @ log_density(2.0 + np.exp(log_shared), n_rows, squares))

    places = np.linspace(np.log(LEAST), np.log(MOST), N_PLACES)
    values = [unlikely(place) for place in places]
    best = int(np.argmin(values))
    around = places[max(best - 1, 0)], places[min(best + 1, N_PLACES - 1)]
    result = minimize_scalar(unlikely, bounds=around, method="bounded", options={"xatol": 1e-9})
    worth = -(weight @ log_density(np.inf, n_rows, squares)) - result.fun
    return 2.0 + float(np.exp(result.x)) if worth > WORTH else np.inf
