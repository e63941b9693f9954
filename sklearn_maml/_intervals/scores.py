"""Scores of training tasks: each plays the new one, with meta-parameters from tasks of other folds.

theta without a fold of tasks is a difference of sums over tasks (`_objective/task_sums.py`). The
task is adapted from there to its support rows, and its other rows are scored.
"""

from functools import partial
from operator import add
from typing import NamedTuple

import numpy as np

from sklearn_maml._memory import room
from sklearn_maml._objective.task_sums import solutions_without
from sklearn_maml.losses.offset import split_offset

__all__ = [
    "TaskScores",
    "folds_of_tasks",
    "scores_of_tasks",
    "standardised",
    "tasks_to_score",
    "told_to",
]

# Tasks are dealt to so many folds; to each its own where they are fewer.
N_FOLDS = 20

# So many tasks, and scores, determine a distribution of scores.
MOST_TASKS, MOST_SCORES = 5000, 2**21


class TaskScores(NamedTuple):
    """Scores of the rows of many tasks after so many support rows.

    Attributes
    ----------
    values : ndarray of shape (n,) or (n_targets, n)
    mass : ndarray of shape (n,)
        What rows count for within all.
    n_tasks : float
        How many tasks they are of; tasks of different weights are as many as count for as much,
        ``(sum p_i)^2 / sum p_i^2``.
    owner : ndarray of shape (n,)
        Numbers of their tasks.
    """

    values: np.ndarray
    mass: np.ndarray
    n_tasks: float
    owner: np.ndarray


def folds_of_tasks(objective, theta, members=None):
    """Each task's fold, and the meta-parameters without each fold.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        That minimises it.
    members : ndarray of int, default=None
        The tasks to be scored, each of which weighs something; None means all of these. Of the
        others theta always learns.

    Returns
    -------
    fold : ndarray of shape (n_tasks,)
        -1 for tasks that are in none.
    thetas : ndarray of shape (n_folds, d) or (n_folds, n_targets, d)
        theta itself, for one fold of all, where the normal equations of two would not fit into a
        quarter of scikit-learn's ``working_memory``, or only one task weighs something.
    """
    weight = objective.blocks.tasks.weight
    members = np.flatnonzero(weight) if members is None else members
    n_folds = int(min(len(members), N_FOLDS, room() / objective.n_parameters**2 / 2))
    fold = np.full(len(weight), -1)
    fold[members] = np.arange(len(members)) % max(n_folds, 1)
    if n_folds < 2:
        return fold, theta[None]
    return fold, solutions_without(objective.exact(), theta, fold)


def tasks_to_score(objective):
    """Not too many tasks of those that weigh something, evenly chosen: their numbers."""
    weight = objective.blocks.tasks.weight
    weighty = np.flatnonzero(weight)
    most = int(np.clip(MOST_SCORES / (objective.blocks.n_query / len(weight)), 100, MOST_TASKS))
    if len(weighty) <= most:
        return weighty
    return weighty[np.linspace(0, len(weighty) - 1, most).astype(int)]


def scores_of_tasks(objective, folds, score):
    """Scores of query rows, by number of support rows.

    Parameters
    ----------
    objective : MetaObjective
        Whose tasks are split at some numbers of support rows. At 0 rows all rows are scored.
    folds : (fold, thetas)
        What `folds_of_tasks` returns; tasks without a fold are not scored.
    score : callable
        From a query risk, predictions z (..., n, m) and the support risk, see `told_to`, or None,
        to the scores of rows, (n, m) or (n_targets, n, m).

    Returns
    -------
    dict of int to TaskScores
    """
    fold, members = folds[0], folds[0] >= 0
    if not members.all():
        objective = objective.vary(blocks=objective.blocks.only(members))
        fold = fold[members]
    one = partial(_adapted_scores, objective, fold, folds[1], score)
    parts = objective.fold(one, add)
    unsplit = objective.vary(blocks=objective.blocks.unsplit())
    parts = parts + unsplit.fold(partial(_prior_scores, unsplit, fold, folds[1], score), add)
    shots = np.unique([k for k, *_ in parts])
    weight = objective.blocks.tasks.weight
    return {int(k): _joined([own for own in parts if own[0] == k], weight) for k in shots}


def told_to(rule, support, response):
    """Support rows as ``rule.deviation`` takes them, for a `Response`."""
    if not rule.of_targets:
        return support
    return support.square_about(support.predict(response.theta_i))


def standardised(loss, deviation):
    """A score for regression: a residual on the scale of the response, in units of its deviation.

    Parameters
    ----------
    loss : Loss
    deviation : callable
        From rows (n, m, d) and a support risk, or None, to the deviations of their targets; or to
        None where these are not known: then Pearson's, by the loss's variance function.

    Returns
    -------
    callable
        See `scores_of_tasks`.
    """

    def score(query, z, support):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            truth, offset = split_offset(query.targets)
            mean = loss.inverse_link(z + offset)
            scale = deviation(query.features, support)
            scale = loss.deviation(mean) if scale is None else scale
            found = (truth - mean) / scale
        return np.where(np.isnan(found), np.inf, found)

    return score


def _adapted_scores(objective, fold, thetas, score, i):
    """A block's scores after adapting: a list of (shots, scores, mass, owners)."""
    blocks = objective.blocks
    loop, weight = objective.loop(i)
    owner, episodes = blocks.owner(i), blocks.episodes
    theta = np.moveaxis(thetas[fold[owner]], 0, -2)
    response = loop.respond(theta)
    support = told_to(objective.rule, loop.support, response)
    scores = score(loop.query, response.predictions, support)
    shot = np.atleast_1d(episodes.support)[blocks.draw(i) // episodes.n_episodes]
    # An episode of weight 0 stands for a task that is too small for it, one without support rows
    # for a task too small for any.
    fits = (weight > 0) & (loop.support.weights > 0).any(axis=-1)
    return [
        (k, *_rows(scores, loop.query, blocks.tasks.weight, owner, fits & (shot == k)))
        for k in np.unique(shot[fits & (shot > 0)])
    ]


def _prior_scores(objective, fold, thetas, score, i):
    """A block's scores without adapting, as `_adapted_scores`."""
    _, query, weight = objective.risks(i)
    owner = objective.blocks.owner(i)
    z = query.predict(np.moveaxis(thetas[fold[owner]], 0, -2))
    scores = score(query, z, None)
    return [(0, *_rows(scores, query, objective.blocks.tasks.weight, owner, weight > 0))]


def _rows(scores, query, weight, owner, members):
    """Scores (..., n_rows) of the real rows of some entries, their mass and owners."""
    mass = weight[owner][:, None] * query.weights
    real = members[:, None] & (mass > 0)
    scores = np.broadcast_to(scores, (*scores.shape[:-2], *mass.shape))
    return scores[..., real], mass[real], np.broadcast_to(owner[:, None], mass.shape)[real]


def _joined(parts, weight):
    """`TaskScores` of several parts of the same number of shots."""
    _, values, mass, owner = zip(*parts, strict=True)
    owner = np.concatenate(owner)
    members = weight[np.unique(owner)]
    n_tasks = members.sum() ** 2 / np.square(members).sum()
    return TaskScores(np.concatenate(values, axis=-1), np.concatenate(mass), n_tasks, owner)
