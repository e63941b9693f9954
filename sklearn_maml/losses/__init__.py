"""Losses: how wrong a prediction is, pointwise, with derivatives in the prediction.

A loss is convex and three times differentiable in ``z``, the prediction before the link. Losses for
targets that are real numbers have the identity link; those for counts and amounts the log link;
`LogLoss` the logit link. To add one, write its class in one of the files of this folder, and its
line in that file's registry.
"""

from sklearn_maml.losses.deviance import DEVIANCES, Gamma, Poisson, Tweedie
from sklearn_maml.losses.logistic import LOGISTIC_LOSSES, LogLoss
from sklearn_maml.losses.loss import Loss
from sklearn_maml.losses.residual import (
    RESIDUAL_LOSSES,
    LogCosh,
    PseudoHuber,
    SmoothedQuantile,
    SquaredError,
)

__all__ = [
    "LOSSES",
    "Gamma",
    "LogCosh",
    "LogLoss",
    "Loss",
    "Poisson",
    "PseudoHuber",
    "SmoothedQuantile",
    "SquaredError",
    "Tweedie",
]

LOSSES = {**RESIDUAL_LOSSES, **DEVIANCES, **LOGISTIC_LOSSES}
