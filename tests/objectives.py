"""Meta-objectives of lists of tasks, and their minimum by numpy.linalg.lstsq."""

import numpy as np

from sklearn_maml import GradientSteps
from sklearn_maml._blocks import Blocks, Episodes, Features
from sklearn_maml._objective import MetaObjective
from sklearn_maml._tasks import Tasks, pool
from sklearn_maml.losses import SquaredError


def make_objective(tasks, inner_lr=0.02, n_steps=1, alpha=0.0, episodes=None, **rule):
    pooled = pool(tasks)
    codes = np.repeat(np.arange(len(tasks)), pooled.sizes)
    blocks = Blocks(Tasks.from_codes(pooled.y, codes), Features(pooled.X), episodes or Episodes())
    penalty = np.append(np.full(pooled.X.shape[1], alpha), 0.0)
    return MetaObjective(blocks, SquaredError(), GradientSteps(inner_lr, n_steps, **rule), penalty)


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
