"""Errors of rows that few-shot curves are made of, by their names."""

import numpy as np
from sklearn.base import is_classifier

__all__ = ["CLASS_ERRORS", "choose_metric", "mean_errors"]

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
    if not isinstance(metric, str) or metric not in errors:
        raise ValueError(
            f"metric must be one of {sorted(errors)} for {type(model).__name__}; got {metric!r}."
        )
    return metric


def mean_errors(metric, truth, predicted):
    """Each row's error, the mean over targets."""
    return ERRORS[metric](truth - predicted).reshape(len(truth), -1).mean(axis=1)
