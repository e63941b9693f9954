"""The meta-objective of a fitted model, on the tasks of its fit or on others.

As in `prediction`, every function takes the model.
"""

from dataclasses import replace
from functools import partial
from operator import add

import numpy as np

from sklearn_maml._estimators.prediction import (
    check_targets,
    check_width,
    features_of,
    targets_with_offsets,
    theta_of,
)
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.tables import read_tasks
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses.offset import loss_for, split_offset

__all__ = ["objective_of", "objective_on", "query_predictions", "with_offsets"]


def objective_of(model, blocks, rule=None):
    """The meta-objective on blocks of tasks, with the model's own rule by default."""
    penalty = np.full(blocks.features.width, model._alpha)
    if model._has_intercept:
        penalty[-1] = 0.0
    rule = model.adaptation_ if rule is None else rule
    loss = loss_for(model.loss_, blocks.tasks.y)
    return MetaObjective(blocks, loss, rule, penalty, model.n_jobs, model.verbose)


def with_offsets(model, rows):
    """`Tasks` of rows that were read, whose targets know their offsets."""
    return replace(rows.tasks, y=targets_with_offsets(model, rows.tasks.y, rows.offset))


def objective_on(model, X, y, groups, sample_weight, episodes, rule=None):
    """The meta-objective on other tasks, in any form that ``fit`` takes."""
    rows = read_tasks(model, X, y, groups, sample_weight)
    return _objective_on(model, rows, episodes, rule)


def _objective_on(model, rows, episodes, rule):
    """`objective_on` of rows that were read."""
    check_targets(model, rows.tasks.y)
    episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
    features = features_of(model, rows.X)
    check_width(model, features.n_features)
    return objective_of(model, Blocks(with_offsets(model, rows), features, episodes), rule)


def query_predictions(model, X, y, groups, sample_weight, episodes, rule=None):
    """Targets and z of all query rows after adapting to the support rows, and whose they are.

    Returns
    -------
    truth, z : ndarray of shape (n,) or (n, n_targets)
    weight, n_rows, task : ndarray of shape (n,)
        What a row counts, how many support rows its task was adapted to, and which that is; the
        second is None for a regressor, which does not ask.
    """
    rows = read_tasks(model, X, y, groups, sample_weight)
    objective = _objective_on(model, rows, episodes, rule)
    truth, z, weight, task = objective.query_predictions(theta_of(model))
    truth, offset = split_offset(truth)
    if rows.offset is not None and model.loss_.of_residual:  # which were subtracted
        offset = _query_offsets(objective, rows)
        truth = truth + offset
    n_rows = None
    if hasattr(model, "classes_"):
        n_rows = np.concatenate(objective.fold(partial(_support_rows, objective), add))
    return truth.T, (z + offset).T, weight, n_rows, task


def _support_rows(objective, i):
    """A block's numbers of support rows, one a query row, in a list."""
    support, query, weight = objective.risks(i)
    real = (query.weights > 0) & (weight > 0)[:, None]
    return [np.broadcast_to(support.n_rows[:, None], real.shape)[real]]


def _query_offsets(objective, rows):
    """The offsets of all query rows, in the order of ``objective.query_predictions``."""
    blocks = objective.blocks
    blocks = Blocks(replace(rows.tasks, y=rows.offset), blocks.features, blocks.episodes)
    unadapted = objective.vary(rule=GradientSteps(n_steps=0), blocks=blocks)
    return unadapted.query_predictions(unadapted.origin())[0]
