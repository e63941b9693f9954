"""The variance of the noise, once theta is found."""

from functools import partial

import numpy as np

from sklearn_maml._parallel import add_parts
from sklearn_maml.adaptation.prior import Noise

__all__ = ["noise_variance"]

# The variance of the noise is one number: this many tasks determine it.
TASKS_FOR_NOISE = 20000

# Rows that decide theta almost alone show so little of the noise at least.
LEAST = 0.05

# The noise is estimated for each number of shots that so many tasks have rows for.
TASKS_FOR_SHOTS = 10


def noise_variance(objective, theta, rule):
    """The variance of the noise, from residuals of query rows and the rule's own uncertainty.

    A query row j of its own has residual variance ``s (1 + v_j)``, where ``s v_j`` is the variance
    of ``phi_j' theta_i``; a row that the task was adapted to has ``s (1 - v_j)``. Both are less by
    what is not known of theta, which was fitted to them. So the mean square of an episode's
    residuals, on average over its query rows, is ``s (1 + v)``, less that. Each number of support
    rows that tasks are split by in turn has an s of its own.

    Parameters
    ----------
    objective : MetaObjective
        With a quadratic loss.
    theta : ndarray of shape (d,) or (n_targets, d)
    rule : AdaptationRule
        That of the objective, with a `spread` and a `spread_of_theta`.

    Returns
    -------
    Noise
    """
    blocks = objective.blocks.sample(TASKS_FOR_NOISE, keeps=False)
    objective, tasks, support = objective.vary(blocks=blocks), blocks.tasks, blocks.episodes.support
    shots = np.array(support if isinstance(support, tuple) else [1])
    squares, size = objective.fold(partial(_residual_moments, objective, theta, rule), add_parts)
    same = shots == np.unique(shots)[:, None]
    shots, squares, size = np.unique(shots), squares @ same.T, same @ size
    n_tasks = (tasks.sizes[tasks.weight > 0] > shots[:, None]).sum(axis=1)
    often = np.flatnonzero(n_tasks >= TASKS_FOR_SHOTS)
    if len(often) < 2:
        return Noise(shots[:1], squares.sum(axis=-1)[None] / size.sum())
    return Noise(shots[often], (squares[..., often] / size[often]).T)


def _residual_moments(objective, theta, rule, i):
    """A block's weighted squared residuals and what they are divided by, by number of shots."""
    linearization = objective.linearize(i, theta)
    query, weight = linearization.query, linearization.row_weight
    squares = np.square(query.residuals(linearization.predictions))
    rows = query.features, linearization.support
    spread, fitted = (
        (query.weights * own).sum(axis=-1)
        for own in (rule.spread(*rows), rule.spread_of_theta(*rows))
    )
    squares, size = (weight * squares).sum(axis=-1), weight.sum(axis=-1)
    if query is linearization.support:
        left = 1 - spread
        size = size * np.maximum(left - fitted, LEAST * left)
    else:
        left = 1 + spread
        squares = squares / np.maximum(left - fitted, LEAST * left)
    # Draws of the same number of shots follow one another.
    shot = objective.blocks.draw(i) // objective.blocks.episodes.n_episodes
    member = (shot[:, None] == np.arange(objective.blocks.episodes.n_shots)).astype(float)
    return squares @ member, size @ member
