"""What a meta-learned model is compared with: each task alone, and all tasks as one."""

import numpy as np
from sklearn.base import is_classifier

from sklearn_maml._estimators.prediction import has_intercept
from sklearn_maml._task_newton import RidgeProblem, ridge_minimum
from sklearn_maml._tasks.classes import codes_of
from sklearn_maml._tasks.lists import is_task_list, pool
from sklearn_maml._tasks.tables import read_tasks
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.model_selection.errors import (
    CLASS_ERRORS,
    MISCOVERAGE,
    choose_metric,
    mean_errors,
)
from sklearn_maml.model_selection.pipelines import at_the_model, unwrap

__all__ = ["OwnRidge", "own_ridge", "pooled_task_errors"]


class OwnRidge(AdaptationRule):
    """A ridge-penalised fit to a task's support rows alone, as a rule: it forgets theta.

    ``min sum_j l(phi_j' t, y_j) + ||t||^2`` over the task's rows, each of weight 1 on average. With
    a quadratic loss the intercept is hardly penalised; with others it is, since rows of one class
    alone would send it to infinity.

    Parameters
    ----------
    intercept : bool, default=True
        Whether the last feature is constant.
    """

    def __init__(self, intercept=True):
        self.intercept = intercept

    def adapt(self, theta, risk):
        """The task's own parameters; their derivative in theta is 0."""
        rows, n_rows = risk.features, (risk.weights > 0).sum(axis=-1)
        unit = np.ones(rows.shape[-1])
        if risk.loss.constant_hessian and self.intercept:
            unit[-1] = 1e4  # in so large a unit its penalty is 1e-8 of the others'
        weights, start = n_rows[..., None] * risk.weights, np.zeros(risk.targets.shape)
        strength = np.ones(n_rows.shape)
        problem = RidgeProblem(risk.loss, risk.targets, weights, start, unit * rows, strength)
        return unit * ridge_minimum(problem), np.zeros_like


def own_ridge(fitted):
    """`OwnRidge` for the features of a fitted model, or of what holds one."""
    return OwnRidge(has_intercept(unwrap(fitted)[1]))


def pooled_task_errors(fitted, pooled, tasks, y, groups, metric):
    """Each task's mean error under one regression for all, shape (n_tasks,).

    Parameters
    ----------
    fitted : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
        It tells tasks apart.
    pooled : regressor or classifier
        Fitted; a classifier with the classes of `fitted`.
    tasks, y, groups, metric
        As in `few_shot_curve`.
    """
    steps, model = unwrap(fitted)
    numeric = not is_classifier(model)
    table = pool(tasks, numeric).X if is_task_list(tasks, y) else tasks
    X, y, given = at_the_model(steps, model, tasks, y, groups, None)
    rows, metric = read_tasks(model, X, y, **given), choose_metric(model, metric)
    if metric == MISCOVERAGE:
        raise ValueError(f"metric={metric!r} is of intervals, and pooled={pooled!r} has none.")
    truth, predicted = rows.tasks.y, pooled.predict(table)
    if numeric:
        errors = mean_errors(metric, truth, predicted)
    else:
        predicted = np.searchsorted(model.classes_, predicted)
        errors = CLASS_ERRORS[metric](codes_of(truth), predicted, pooled.predict_proba(table))
    return np.bincount(rows.codes, errors) / np.bincount(rows.codes)
