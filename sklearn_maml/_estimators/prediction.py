"""What a fitted model computes: functions of its attributes, for whoever holds one.

Every function takes a fitted `MAMLRegressor` or `MAMLClassifier`, called `model`. ``z`` is always
a prediction before the link, shape (n_rows,) or (n_rows, n_targets).
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._objective.risk import Risk
from sklearn_maml._progress import check_overflow, refusing_overflow, warn_user
from sklearn_maml._tasks.classes import codes_of, most_probable
from sklearn_maml._tasks.features import Features, check_phi, take_rows
from sklearn_maml._tasks.labels import feature_names, read_labels
from sklearn_maml._tasks.tables import read_one_task, read_rows
from sklearn_maml.losses.offset import loss_for, with_offset

__all__ = [
    "adapted_theta",
    "check_targets",
    "check_width",
    "feature_names_of",
    "features_of",
    "finite_theta",
    "has_intercept",
    "join_theta",
    "linear",
    "linear_and_deviation",
    "prior_of",
    "response",
    "rows_by_task",
    "rows_of_one",
    "split_theta",
    "takes_uncapped_steps",
    "targets_with_offsets",
    "theta_of",
    "truth_of",
    "uncertainty_of",
    "warn_if_diverging",
]

# Rows are predicted so many numbers at a time: a few MiB.
BATCH_ELEMENTS = 2**19


def theta_of(model):
    """The meta-parameters, shape (d,) or (n_targets, d), the intercept last."""
    return finite_theta(model, model._has_intercept)


def finite_theta(fitted, has_intercept):
    """The parameters of a fitted or adapted model; users may have set them, so they are checked."""
    theta = join_theta(fitted.coef_, fitted.intercept_, has_intercept)
    if not np.isfinite(theta).all():
        raise ValueError(
            f"coef_ or intercept_ of {type(fitted).__name__} holds NaN or infinity; fit it again."
        )
    return theta


def has_intercept(model):
    """Whether the last parameter is an intercept, as it was in `fit`."""
    return model._has_intercept


def features_of(model, X):
    """`Features` of rows that were read."""
    transform = None if model.featurizer_ is None else model.featurizer_.transform
    return Features(X, transform, model._has_intercept)


def feature_names_of(model, featurizer):
    """Names of the features that a fitted featurizer makes, or None where they have none."""
    names = feature_names(model) if hasattr(model, "feature_names_in_") else None
    if featurizer is None:
        return names
    try:
        return featurizer.get_feature_names_out(names)
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


class Rows(NamedTuple):
    """Rows to be predicted, and whose they are.

    Attributes
    ----------
    X : array, CSR matrix or frame of shape (n_rows, n_columns)
        Read, as phi takes it.
    theta : ndarray of shape (n, d) or (n, n_targets, d)
        Parameters of the n tasks that the rows are of.
    which : ndarray of shape (n_rows,) or None
        The task of each row; None where all are of the first.
    at : ndarray of shape (n,) or None
        Where each of the tasks is among the known ones; -1 for one that is not.
    offset : ndarray of shape (n_rows,) or None
        What is added to z.
    """

    X: Any
    theta: np.ndarray
    which: np.ndarray | None = None
    at: np.ndarray | None = None
    offset: np.ndarray | None = None


def rows_of_one(model, X, theta):
    """`Rows` that are all predicted with the same parameters, (d,) or (n_targets, d)."""
    X, _, _, offset = read_rows(model, X)
    return Rows(X, theta[None], offset=offset)


def rows_by_task(model, X, groups, known, theta):
    """`Rows` that are predicted each with the parameters of its task.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    X, groups
        As in `MAMLRegressor.predict`.
    known : TaskIndex
        Positions in `theta`. Other tasks are what ``model.on_unknown_task`` says.
    theta : ndarray of shape (n_tasks, d) or (n_tasks, n_targets, d)
    """
    X, _, labels, offset = read_rows(model, X)
    numbered = read_labels(model, labels, groups, X.shape[0])
    if numbered is None:
        raise ValueError("groups= must say which task each row belongs to; got None.")
    ids, which = numbered
    at = known.positions(ids, model.on_unknown_task)
    is_known = (at >= 0).reshape(-1, *[1] * (theta.ndim - 1))
    return Rows(X, np.where(is_known, theta[at], theta_of(model)), which, at, offset)


def linear(model, rows):
    """z of rows."""
    return _moved(_products(model, rows, rows.theta)[0], rows.offset)


def linear_and_deviation(model, rows, uncertainty):
    """z of rows, and the standard deviations of their targets.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    rows : Rows
    uncertainty : tuple of ndarray (noise, U)
        Of the n tasks of the rows, as ``AdaptationRule.uncertainty`` returns it.

    Returns
    -------
    z, deviation : ndarray of shape (n_rows,) or (n_rows, n_targets)
    """
    noise, unknown = uncertainty
    z, spread = _products(model, rows, rows.theta, unknown)
    which = np.zeros(len(z), dtype=np.intp) if rows.which is None else rows.which
    deviation = np.sqrt(noise[which].T * (1.0 + np.square(spread).sum(axis=-1))).T
    return _moved(z, rows.offset), deviation


def _moved(z, offset):
    """z with the offsets of rows (n_rows,) or (n_rows, 1), if there are any."""
    return z if offset is None else (z.T + offset.T).T


def _products(model, rows, *stacks):
    """``phi_j' V_k`` of each row j of task k, for stacks V (n, ..., d): a list of (n_rows, ...).

    Each row is featurised once, however many products it takes part in.
    """
    n_rows, width = rows.X.shape[0], rows.theta.shape[-1] - model._has_intercept
    products = [np.empty((n_rows, *stack.shape[1:-1])) for stack in stacks]
    whole = rows.which is None and model.featurizer_ is None  # then nothing is copied
    size = BATCH_ELEMENTS // max(1, *(stack[0].size for stack in stacks))
    step = n_rows if whole else max(1, size)
    for batch in (slice(start, start + step) for start in range(0, n_rows, step)):
        phi = _phi(model, take_rows(rows.X, batch), width)
        which = None if rows.which is None else rows.which[batch]
        for stack, product in zip(stacks, products, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                product[batch] = _product(phi, stack[..., :width], which)
                if model._has_intercept:
                    product[batch] += stack[0 if which is None else which, ..., -1]
                if not np.isfinite(np.vdot(product[batch], product[batch])):
                    raise ValueError(
                        "Overflow: the squares of predictions are beyond the range of float64; "
                        f"the largest feature is {np.abs(phi).max():g}. Rescale the columns of X."
                    )
    return products


def _product(phi, stack, which):
    """`_products` without an intercept; of one V for all rows where `which` is None."""
    if which is None:
        return phi @ stack[0].T
    phi = phi.toarray() if sp.issparse(phi) else np.asarray(phi)
    return np.einsum("md,m...d->m...", phi, stack[which])


def _phi(model, X, width):
    """Features of some rows, checked, without the intercept."""
    if model.featurizer_ is None:
        check_width(model, X.shape[1])
        return X
    phi = check_phi(model.featurizer_.transform(X))
    if phi.shape != (X.shape[0], width):
        raise ValueError(
            f"The featurizer must return one row a row of X and the {width} columns of fit; of "
            f"{X.shape[0]} rows it made {phi.shape[0]} rows with {phi.shape[1]} columns."
        )
    return phi


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
    width = prior_of(model)[1].shape[2]  # a rule that knows nothing says so itself
    if information is None:
        n_effects = model.adaptation_.posterior(width).shape[1]
        raise ValueError(
            "return_std=True needs what support rows tell of each task, which was not kept: with "
            f"{n_effects} parameters that differ between tasks it would have taken more than "
            "128 MiB. Adapt to the rows of these tasks, one by adapt or fewer by adapt_tasks."
        )
    if at is not None:
        information = information[at] * (at >= 0)[:, None]
    return model.adaptation_.uncertainty(width, np.atleast_2d(information))


def prior_of(model):
    """How sure predictions are for a task of which nothing is known."""
    if not model.loss_.constant_hessian:  # before a rule is recommended that could not help
        raise ValueError(
            f"return_std=True is for the squared error; the loss is {model.loss_!r}. Predict "
            "without it."
        )
    return model.adaptation_.uncertainty(theta_of(model).shape[-1])


def targets_with_offsets(model, y, offset):
    """Targets that know their offsets, if there are any."""
    if offset is not None and hasattr(model, "classes_") and y.ndim > 1:
        raise ValueError(
            f"offset_column is for two classes, whose log odds it moves; got {y.shape[1]} classes."
        )
    return with_offset(model.loss_, y, offset)


def adapted_theta(model, X, y, sample_weight):
    """Parameters of the task whose support rows these are, what they tell, how many they are."""
    X, y, weight, offset = read_one_task(model, X, y, sample_weight)
    check_targets(model, y)
    y = targets_with_offsets(model, y, offset)
    size, rule = weight.sum(), model.adaptation_
    features = features_of(model, X)
    check_width(model, features.n_features)
    risk = Risk(loss_for(model.loss_, y), features[:], y.T, weight / size, size)
    loop = rule.bind(risk)
    with refusing_overflow():
        theta, _ = loop.adapt(theta_of(model))
        check_overflow(theta)
    if takes_uncapped_steps(rule):
        warn_if_diverging(rule, (loop.relative_step > 2).mean())
    return theta, rule.information(risk.square_about(risk.predict(theta))), float(size)


def check_width(model, n_features):
    """Raise where coef_ is not of as many features as there are."""
    if model.coef_.shape[-1] != n_features:
        raise ValueError(
            f"coef_ of {type(model).__name__} has {model.coef_.shape[-1]} entries for {n_features} "
            "features; fit it again."
        )


def check_targets(model, y):
    """Raise where y does not have the number of targets of fit, or the loss does not take it."""
    expected = ("n_rows", *map(str, model.coef_.shape[:-1]))
    if y.shape[1:] != model.coef_.shape[:-1]:
        raise ValueError(f"y must have the shape ({', '.join(expected)}) of fit; got {y.shape}.")
    model.loss_.check_targets(y)


def takes_uncapped_steps(rule):
    """Whether the rule takes steps of its own length however steep a task is."""
    return rule.lengths is not None and not rule.lengths[1]


def warn_if_diverging(rule, share):
    """Warn where uncapped steps longer than 2 / curvature are taken, on a share of the tasks."""
    if share > 0:
        warn_user(
            f"Uncapped inner steps (inner_lr={np.max(rule.lengths[0]):g}) diverge on {share:.0%} "
            "of the tasks: step length times curvature exceeds 2. Use a smaller inner_lr or "
            "cap=True.",
            ConvergenceWarning,
        )


def split_theta(theta, fit_intercept, views=False):
    """(coef, intercept) of parameters whose last entry is the intercept, if there is one.

    As `views` they take no memory of their own.
    """
    if not fit_intercept:
        return theta, np.zeros(theta.shape[:-1]) if theta.ndim > 1 else 0.0
    if views:
        return theta[..., :-1], theta[..., -1]
    coef, intercept = theta[..., :-1].copy(), theta[..., -1]
    return coef, intercept.copy() if intercept.ndim else float(intercept)


def join_theta(coef, intercept, fit_intercept):
    """The inverse of `split_theta`."""
    if not fit_intercept:
        return coef
    return np.concatenate([coef, np.asarray(intercept)[..., None]], axis=-1)
