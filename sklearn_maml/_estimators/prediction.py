"""What a fitted model computes: functions of its attributes, for whoever holds one.

Every function takes a fitted `MAMLRegressor` or `MAMLClassifier`, called `model`. ``z`` is always
a prediction before the link, shape (n_rows,) or (n_rows, n_targets).
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._objective.risk import Risk
from sklearn_maml._progress import check_overflow, refusing_overflow
from sklearn_maml._tasks.classes import codes_of, most_probable
from sklearn_maml._tasks.features import Features, check_phi
from sklearn_maml._tasks.labels import feature_names, positions_of, read_labels
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml._tasks.tables import read_one_task, read_rows, read_tasks

__all__ = [
    "adapted_theta",
    "check_targets",
    "deviation",
    "deviation_by_task",
    "deviations_of_rows",
    "feature_names_of",
    "features_of",
    "join_theta",
    "linear",
    "linear_by_task",
    "objective_of",
    "objective_on",
    "predict_rows",
    "prior_of",
    "query_predictions",
    "response",
    "rows_by_task",
    "split_theta",
    "theta_of",
    "truth_of",
    "uncertainty_of",
    "warn_if_diverging",
]

# Rows are predicted so many numbers at a time: a few MiB.
BATCH_ELEMENTS = 2**19


def theta_of(model):
    """The meta-parameters, shape (d,) or (n_targets, d), the intercept last."""
    return join_theta(model.coef_, model.intercept_, model.fit_intercept)


def features_of(model, X):
    """`Features` of rows that were read."""
    transform = None if model.featurizer_ is None else model.featurizer_.transform
    return Features(X, transform, model.fit_intercept)


def feature_names_of(model):
    """Names of the features that a model is linear in, or None where they have none."""
    names = feature_names(model) if hasattr(model, "feature_names_in_") else None
    if model.featurizer_ is None:
        return names
    try:
        return model.featurizer_.get_feature_names_out(names)
    except (AttributeError, TypeError, ValueError):  # a transformer that names nothing
        return None


def response(model, z):
    """What ``predict`` returns for z: a mean, or a class."""
    if hasattr(model, "classes_"):
        return model.classes_[most_probable(z)]
    return model.loss_.inverse_link(z)


def truth_of(model, y):
    """Targets as the user knows them: themselves, or classes."""
    return model.classes_[codes_of(y)] if hasattr(model, "classes_") else y


def linear(model, X, coef, intercept):
    """z of rows that were not read, under one set of parameters."""
    X, _, _ = read_rows(model, X)
    phi = X if model.featurizer_ is None else check_phi(model.featurizer_.transform(X))
    return phi @ coef.T + intercept


def linear_by_task(model, X, groups, known, theta):
    """z of rows that were not read, each under the parameters of its task.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    X, groups
        As in `MAMLRegressor.predict`.
    known : dict of label to int
        Positions in `theta`. Other tasks are what ``model.on_unknown_task`` says.
    theta : ndarray of shape (n_tasks, d) or (n_tasks, n_targets, d)
    """
    features, at, codes = rows_by_task(model, X, groups, known)
    own = np.where(at.reshape(-1, *[1] * (theta.ndim - 1)) >= 0, theta[at], theta_of(model))
    return predict_rows(features, own, codes)


def rows_by_task(model, X, groups, known):
    """Features of rows, where each of their labels is in `known`, and each row's label number."""
    X, _, labels = read_rows(model, X)
    numbered = read_labels(model, labels, groups, X.shape[0])
    if numbered is None:
        raise ValueError("groups= must say which task each row belongs to; got None.")
    ids, codes = numbered
    return features_of(model, X), positions_of(ids, known, model.on_unknown_task), codes


def deviation(model, X, uncertainty):
    """Standard deviations of the targets of rows that were not read, all of one task.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    X : array-like of shape (n_rows, n_features)
    uncertainty : tuple of ndarray (noise, U)
        From `uncertainty_of` or `prior_of`.
    """
    features = features_of(model, read_rows(model, X)[0])
    return deviations_of_rows(features, uncertainty, np.zeros(features.n_rows, dtype=int))


def deviation_by_task(model, X, groups, known, information):
    """Standard deviations of the targets of rows, each given what is known of its task.

    Parameters
    ----------
    model, X, groups, known
        As in `linear_by_task`.
    information : ndarray of shape (n_tasks, k) or None
        See `uncertainty_of`.
    """
    features, at, codes = rows_by_task(model, X, groups, known)
    return deviations_of_rows(features, uncertainty_of(model, information, at), codes)


def deviations_of_rows(features, uncertainty, which):
    """Standard deviations of the targets of rows j, each of the task k = which[j].

    Parameters
    ----------
    features : Features
    uncertainty : tuple of ndarray (noise, U)
        Of n tasks, as ``AdaptationRule.uncertainty`` returns it.
    which : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_targets)
    """
    noise, unknown = uncertainty
    spread = np.square(predict_rows(features, unknown, which)).sum(axis=-1)
    return np.sqrt(noise[which].T * (1.0 + spread)).T


def uncertainty_of(model, information, at=None):
    """How sure predictions are for tasks that were adapted: see ``AdaptationRule.uncertainty``.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    information : ndarray of shape (k,) or (n_tasks, k), or None
        See ``AdaptationRule.information``.
    at : ndarray of shape (n,), default=None
        Which of the tasks; negative for one of which nothing is known. None is all.

    Returns
    -------
    noise, U : ndarray

    Raises
    ------
    ValueError
        If the rule knows of no such thing, or `information` was too large to be kept.
    """
    prior = prior_of(model)  # a rule that knows nothing says so itself
    if information is None:
        raise ValueError(
            "return_std=True needs what support rows tell of each task, which was not kept: with "
            f"{prior[1].shape[1]} parameters that differ between tasks it would have taken more "
            "than 128 MiB. Adapt to the rows of these tasks, one by adapt or fewer by adapt_tasks."
        )
    if at is not None:
        information = information[at] * (at >= 0)[:, None]
    return model.adaptation_.uncertainty(prior[1].shape[2], np.atleast_2d(information))


def prior_of(model):
    """How sure predictions are for a task of which nothing is known."""
    if not model.loss_.constant_hessian:  # before a rule is recommended that could not help
        raise ValueError(
            f"return_std=True is for the squared error; the loss is {model.loss_!r}. Predict "
            "without it."
        )
    return model.adaptation_.uncertainty(theta_of(model).shape[-1])


def objective_of(model, blocks, rule=None):
    """The meta-objective on blocks of tasks, with the model's own rule by default."""
    penalty = np.full(blocks.features.width, float(model.alpha))
    if model.fit_intercept:
        penalty[-1] = 0.0
    rule = model.adaptation_ if rule is None else rule
    return MetaObjective(blocks, model.loss_, rule, penalty, model.n_jobs, model.verbose)


def objective_on(model, X, y, groups, sample_weight, episodes, rule=None):
    """The meta-objective on other tasks, in any form that ``fit`` takes."""
    rows = read_tasks(model, X, y, groups, sample_weight)
    check_targets(model, rows.tasks.y)
    episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
    blocks = Blocks(rows.tasks, features_of(model, rows.X), episodes)
    return objective_of(model, blocks, rule)


def query_predictions(model, X, y, groups, sample_weight, episodes, rule=None):
    """Targets and z of all query rows after adapting to the support rows, and whose they are.

    Returns
    -------
    truth, z : ndarray of shape (n,) or (n, n_targets)
    weight, task : ndarray of shape (n,)
    """
    objective = objective_on(model, X, y, groups, sample_weight, episodes, rule)
    truth, z, weight, task = objective.query_predictions(theta_of(model))
    return truth.T, z.T, weight, task


def adapted_theta(model, X, y, sample_weight):
    """Parameters of the one task whose support rows these are, and what the rows tell of it."""
    X, tasks = read_one_task(model, X, y, sample_weight)
    check_targets(model, tasks.y)
    rows = slice(None) if tasks.rows is None else tasks.rows
    weight = tasks.row_weight[rows]
    phi, size = features_of(model, X)[rows], weight.sum()
    risk = Risk(model.loss_, phi, tasks.y[rows].T, weight / size, size)
    rule = model.adaptation_
    loop = rule.bind(risk)
    with refusing_overflow():
        theta, _ = loop.adapt(theta_of(model))
        check_overflow(theta)
    warn_if_diverging(rule, (loop.relative_step > 2).mean(), stacklevel=5)
    return theta, rule.information(risk)


def check_targets(model, y):
    """Raise where y does not have the number of targets of fit, or the loss does not take it."""
    expected = ("n_rows", *map(str, model.coef_.shape[:-1]))
    if y.shape[1:] != model.coef_.shape[:-1]:
        raise ValueError(f"y must have the shape ({', '.join(expected)}) of fit; got {y.shape}.")
    model.loss_.check_targets(y)


def warn_if_diverging(rule, share, stacklevel):
    """Warn where steps longer than 2 / curvature are taken as they are."""
    length, capped = rule.lengths or (0.0, True)
    if share > 0 and not capped:
        warnings.warn(
            f"Uncapped inner steps (inner_lr={np.max(length):g}) diverge on {share:.0%} of "
            "the tasks: step length times curvature exceeds 2. Use a smaller inner_lr or cap=True.",
            ConvergenceWarning,
            stacklevel=stacklevel,
        )


def predict_rows(features, theta, which):
    """``phi_j' theta_k`` for each row j, with k = which[j].

    Parameters
    ----------
    features : Features
    theta : ndarray of shape (n, d) or (n, n_targets, d)
    which : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_targets)
    """
    out = np.empty((features.n_rows, *theta.shape[1:-1]))
    size = max(1, BATCH_ELEMENTS // max(1, theta[0].size))
    for rows in gen_batches(features.n_rows, size):
        out[rows] = np.einsum("md,m...d->m...", features[rows], theta[which[rows]])
    return out


def split_theta(theta, fit_intercept):
    """(coef, intercept) of parameters whose last entry is the intercept, if there is one."""
    if not fit_intercept:
        return theta, np.zeros(theta.shape[:-1]) if theta.ndim > 1 else 0.0
    coef, intercept = theta[..., :-1].copy(), theta[..., -1]
    return coef, intercept.copy() if intercept.ndim else float(intercept)


def join_theta(coef, intercept, fit_intercept):
    """The inverse of `split_theta`."""
    if not fit_intercept:
        return coef
    return np.concatenate([coef, np.asarray(intercept)[..., None]], axis=-1)
