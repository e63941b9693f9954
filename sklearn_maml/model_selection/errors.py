"""Errors of rows that few-shot curves are made of, by their names."""

import numpy as np
from sklearn.base import is_classifier

from sklearn_maml._estimators.intervals import missed_rows, temperatures
from sklearn_maml._estimators.objectives import query_predictions
from sklearn_maml._estimators.prediction import response
from sklearn_maml._tasks.classes import codes_of, most_probable, probabilities

__all__ = ["CLASS_ERRORS", "MISCOVERAGE", "choose_metric", "errors_of_rows", "mean_errors"]

# The share of rows outside their intervals, or label sets.
MISCOVERAGE = "miscoverage"

ERRORS = {"mean_squared_error": np.square, "mean_absolute_error": np.abs}


def _log_loss(codes, predicted, shares):
    """Minus the logarithm of the true class's probability, at least that of an exact zero."""
    shares = shares[np.arange(len(codes)), codes]
    return -np.log(np.maximum(shares, np.finfo(float).eps))


def _zero_one_loss(codes, predicted, shares):
    return (predicted != codes).astype(float)


# Of a row's class, the predicted class, and the probabilities of all.
CLASS_ERRORS = {"log_loss": _log_loss, "zero_one_loss": _zero_one_loss}


def choose_metric(model, metric):
    """The error of a few-shot curve, checked; None is the first that suits the model.

    Raises
    ------
    ValueError
        For an error that is not known, or is of another kind of model.
    """
    errors = CLASS_ERRORS if is_classifier(model) else ERRORS
    if metric is None:
        return next(iter(errors))
    known = sorted([*errors, MISCOVERAGE])
    if not isinstance(metric, str) or metric not in known:
        raise ValueError(
            f"metric must be one of {known} for {type(model).__name__}; got {metric!r}."
        )
    return metric


def mean_errors(metric, truth, predicted):
    """Each row's error, the mean over targets."""
    return ERRORS[metric](truth - predicted).reshape(len(truth), -1).mean(axis=1)


def errors_of_rows(metric, model, X, y, groups, sample_weight, episodes, rule=None, coverage=0.9):
    """Errors of query rows after adapting to the support rows.

    Parameters
    ----------
    metric : str
        As from `choose_metric`.
    model, X, y, groups, sample_weight, episodes, rule
        As in `query_predictions`.
    coverage : float, default=0.9
        Of the intervals that "miscoverage" is of.

    Returns
    -------
    errors, weight, task : ndarray of shape (n,)
        Of each row the error, what it counts, and whose it is.
    """
    given = model, X, y, groups, sample_weight, episodes
    if metric == MISCOVERAGE:
        return missed_rows(*given, coverage)
    truth, z, weight, n_rows, task = query_predictions(*given, rule)
    if not is_classifier(model):
        return mean_errors(metric, truth, response(model, z)), weight, task
    # Temperatures are those of the model's own rule.
    share = probabilities(z, temperatures(model, n_rows) if rule is None else np.ones(len(z)))
    return CLASS_ERRORS[metric](codes_of(truth), most_probable(z), share), weight, task
