"""Meta-objectives of lists of tasks, and their minimum by numpy.linalg.lstsq."""

import numpy as np
from scipy.special import expit

from sklearn_maml import GradientSteps
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._objective.risk import Risk
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.lists import pool
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml.losses import SquaredError


def targets_for(loss, y):
    """y itself, or squeezed into (0, 1) where the loss is not defined for all of y."""
    try:
        loss.check_targets(y)
    except ValueError:
        return expit(y)
    return y


def stacked_risk(loss, m=6, d=4, n_tasks=5, seed=0, n_targets=None):
    """Support rows of tasks, as a rule is given them; one row of the first task is padding."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, size=(n_tasks, m))
    weights[0, -1] = 0.0  # padding
    shape = (n_tasks, m) if n_targets is None else (n_targets, n_tasks, m)
    features = rng.normal(size=(n_tasks, m, d))
    features[..., -1] = 1.0
    y = targets_for(loss, 2 * rng.normal(size=shape))
    return Risk(loss, features, y, weights / weights.sum(axis=1, keepdims=True))


def objective_of(tasks, loss, rule, alpha=0.0, episodes=None, penalise_last=False):
    """A meta-objective with any loss and rule, without an intercept if all are penalised.

    `episodes` holds the parameters of an estimator that say how tasks are split: support, split,
    n_episodes.
    """
    pooled = pool(tasks)
    codes = np.repeat(np.arange(len(tasks)), pooled.sizes)
    features = Features(pooled.X, intercept=not penalise_last)
    y = targets_for(loss, pooled.y)
    blocks = Blocks(Tasks.from_codes(y, codes), features, Episodes(**(episodes or {})))
    penalty = np.full(features.width, float(alpha))
    if not penalise_last:
        penalty[-1] = 0.0
    return MetaObjective(blocks, loss, rule, penalty)


def make_objective(tasks, inner_lr=0.02, n_steps=1, alpha=0.0, episodes=None, **rule):
    """The meta-objective of gradient steps with the squared error."""
    rule = GradientSteps(inner_lr, n_steps, **rule)
    return objective_of(tasks, SquaredError(), rule, alpha, episodes)


def smallest_loss(objective):
    """min L from the objective's own adapted design, by numpy.linalg.lstsq."""
    d = objective.n_parameters
    design, target = [], []
    for i in range(len(objective.blocks)):
        block = objective.linearize(i, np.zeros(d))
        root = np.sqrt(block.row_weight)
        design.append((root[..., None] * block.design).reshape(-1, d))
        target.append((root * -block.loss_gradient / 2).ravel())
    design, target = np.vstack(design), np.concatenate(target)
    if objective.penalty.any():
        design = np.vstack([design, np.diag(np.sqrt(objective.penalty))])
        target = np.append(target, np.zeros(d))
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    return np.square(design @ best - target).sum()
