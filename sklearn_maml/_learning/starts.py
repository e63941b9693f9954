"""Where tasks start from, by their number of support rows: for rows in order.

After k first rows what is to be predicted lies ahead. A model whose curves are too straight needs
another theta for each k then: ``theta + delta_k``, where delta_k minimises the query loss of the
episodes with k support rows, shrunk to 0 in the meta-loss's own metric,

    delta_k = argmin L_k(theta + delta) + (m / n) delta' B delta,     B = A + 0.03 G tr(A) / tr(G)

with A the Hessian of all L_k together, halved, G the Gram matrix of the features, in standardised
features, and n tasks. m counts tasks; one for all k is chosen by cross-validation over tasks. G
keeps features that few query rows have from being free.
"""

from functools import partial

import numpy as np

from sklearn_maml._parallel import add_parts
from sklearn_maml.adaptation.prior import Starts

__all__ = ["learn_starts", "shots_of_starts"]

# How many tasks the shrinkage may count for.
SHRINKAGES = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, np.inf)

# The share of B that G has.
GRAM_SHARE = 0.03

FOLDS = 5

# A starting point is learned for each number of shots that so many tasks have rows for.
TASKS_FOR_SHOTS = 10

# Normal equations are summed up for each fold and number of shots: with more parameters than these
# they would take longer than the fit.
MANY_PARAMETERS = 100


def shots_of_starts(objective):
    """The numbers of first rows for which a start can be learned: fewer than two are none.

    Parameters
    ----------
    objective : MetaObjective

    Returns
    -------
    ndarray of shape (n_shots,)
        Ascending; empty where rows have no order, or there are too many parameters.
    """
    blocks = objective.blocks
    support, sizes = blocks.episodes.support, blocks.tasks.sizes[blocks.tasks.weight > 0]
    if blocks.episodes.split != "first" or not isinstance(support, tuple):
        return np.zeros(0)
    shots = np.unique(support)
    often = (sizes > shots[:, None]).sum(axis=1) >= TASKS_FOR_SHOTS
    return shots[often] if objective.n_parameters <= MANY_PARAMETERS else np.zeros(0)


def learn_starts(objective, theta, shots, effects):
    """The `Starts` of first rows, or None where theta for all of them predicts better.

    Parameters
    ----------
    objective : MetaObjective
        A quadratic, with the rule in use.
    theta : ndarray of shape (d,) or (n_targets, d)
        Where it is smallest.
    shots : ndarray of shape (n_shots,)
        Two or more of `shots_of_starts`.
    effects : RandomEffects
        For the standardised features and their Gram matrix.

    Returns
    -------
    Starts or None
    """
    blocks, d = objective.blocks, objective.n_parameters
    episodes, weighty = blocks.episodes, np.flatnonzero(blocks.tasks.weight > 0)
    folds = np.zeros(len(blocks.tasks.weight), dtype=int)
    folds[weighty] = np.random.default_rng(episodes.seed).permutation(len(weighty)) % FOLDS
    member = np.array(episodes.support) == shots[:, None]
    parts = partial(_normal_equations, objective, theta, folds, member, effects.standard)
    hessian, gradient = objective.fold(parts, add_parts)
    total = 0.5 * hessian.sum(axis=(0, 1))
    gram = effects.gram * np.trace(total) / np.trace(effects.gram)
    shrink = 2.0 / len(weighty) * (total + GRAM_SHARE * gram)
    losses = [_held_out_loss(hessian, gradient, m * shrink) for m in SHRINKAGES[:-1]] + [0.0]
    best = SHRINKAGES[int(np.argmin(losses))]
    if best == np.inf:
        return None
    delta = _solved(hessian.sum(axis=0), gradient.sum(axis=0), best * shrink)
    delta = effects.standard.lift(delta.reshape(-1, d)).reshape(len(shots), *theta.shape)
    return Starts(np.append(0, shots), np.concatenate([np.zeros((1, *theta.shape)), delta]))


def _normal_equations(objective, theta, folds, member, standard, i):
    """Block i's Hessians (folds, shots, d, d) and gradients (folds, shots, t, d)."""
    at, block = objective.linearize(i, theta), objective.blocks[i]
    root = np.sqrt(at.row_weight * at.query.loss.hessian_bound)
    design = root[..., None] * standard.rows(at.design)
    slopes = at.row_weight * at.loss_gradient / np.where(root > 0, root, 1.0)
    slopes = slopes.reshape(-1, *root.shape)
    n_shots, d = len(member), design.shape[-1]
    hessian = np.zeros((FOLDS, n_shots, d, d))
    gradient = np.zeros((FOLDS, n_shots, len(slopes), d))
    of_shots = member[:, block.draw // objective.blocks.episodes.n_episodes]
    for fold in range(FOLDS):
        for k, chosen in enumerate(of_shots & (folds[block.owner] == fold)):
            rows = design[chosen].reshape(-1, d)
            hessian[fold, k] = rows.T @ rows
            gradient[fold, k] = slopes[:, chosen].reshape(len(slopes), -1) @ rows
    return hessian, gradient


def _solved(hessian, gradient, shrink):
    """delta of shape (shots, t, d)."""
    solutions = [
        np.linalg.lstsq(h + shrink, -g.T, rcond=1e-12)[0].T
        for h, g in zip(hessian, gradient, strict=True)
    ]
    return np.stack(solutions)


def _held_out_loss(hessian, gradient, shrink):
    """What delta of the other folds changes of each fold's loss, summed over folds."""
    total = 0.0
    for h, g in zip(hessian, gradient, strict=True):
        delta = _solved(hessian.sum(axis=0) - h, gradient.sum(axis=0) - g, shrink)
        total += (g * delta).sum() + 0.5 * (np.matmul(delta, h) * delta).sum()
    return total
