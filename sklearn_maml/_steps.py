"""What gradient steps are made of: their geometry, and how their lengths are learned."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._query_loss import (
    LOG_SCALE,
    Coordinates,
    best_scale,
    minimize_query_loss,
)

__all__ = [
    "LOG_LENGTH",
    "Geometry",
    "LearnedSteps",
    "Stride",
    "check_step_lengths",
    "learn_lengths",
]

# The logarithm of a learned length, in standardised features.
LOG_LENGTH = (-2 * LOG_SCALE, LOG_SCALE)


class Stride(NamedTuple):
    """One inner step of a stack of tasks.

    Attributes
    ----------
    start : ndarray of shape (..., d)
        The parameters that it leaves.
    predictions : ndarray of shape (..., m)
        Those of the support rows by them.
    step : ndarray of shape (...)
        Its length.
    move : ndarray of shape (..., d)
        What it subtracts from them.
    shortening : ndarray of shape (..., d) or None
        Minus the gradient of log(step) in `start`, where steps are damped.
    """

    start: np.ndarray
    predictions: np.ndarray
    step: np.ndarray
    move: np.ndarray
    shortening: np.ndarray | None


class Geometry:
    """Support rows in the coordinates in which steps are taken, and their inner products.

    What is asked for is computed once; it lives as long as one block's linearization.

    Parameters
    ----------
    risk : Risk
    coordinates : Standardization or None
    ratios : ndarray of shape (d,), default=None
        Of the step lengths, in these coordinates; None where they are all the same.
    """

    def __init__(self, risk, coordinates, ratios=None):
        self.risk, self.coordinates, self.ratios = risk, coordinates, ratios
        self.tall = risk.features.shape[-2] > risk.features.shape[-1]

    def standardise(self, V):
        """``V L`` for rows V (..., k, d), times the roots of the ratios."""
        V = V if self.coordinates is None else self.coordinates.rows(V)
        return V if self.ratios is None else V * np.sqrt(self.ratios)

    @cached_property
    def rows(self):
        """``F = Phi L``, shape (..., m, d)."""
        return self.standardise(self.risk.features)

    @cached_property
    def products(self):
        """``F F'``, shape (..., m, m); kept where it is no larger than features that are kept."""
        kept = self.risk.kept if not self.tall and self.risk.kept is not None else {}
        if "products" not in kept:
            kept["products"] = np.matmul(self.rows, np.swapaxes(self.rows, -1, -2))
        return kept["products"]

    def gram(self, weights):
        """``F' W F`` or ``W^1/2 F F' W^1/2``, whichever is smaller: they share eigenvalues."""
        if self.tall:
            return np.matmul(np.swapaxes(self.rows, -1, -2), weights[..., None] * self.rows)
        root = np.sqrt(weights)
        gram = self.products * root[..., :, None]
        gram *= root[..., None, :]
        return gram


@dataclass(frozen=True, eq=False)
class LearnedSteps:
    """What `GradientSteps` learned from the training tasks; ``print`` tells it.

    Attributes
    ----------
    inner_lr : ndarray of shape (d,)
        The length of the step of each parameter, in standardised features, the intercept last; 0
        where there was only one task to learn from, which shows no difference between tasks.
    n_iter : int
    converged : bool
    """

    inner_lr: np.ndarray
    n_iter: int
    converged: bool

    def scaled(self, scale):
        """The same lengths times a number."""
        return replace(self, inner_lr=scale * self.inner_lr)

    def __str__(self):
        if not self.inner_lr.any():
            return "Gradient steps: one task does not show how tasks differ, so no steps are taken."
        return (
            "Gradient steps, one length a parameter, learned on the query loss in "
            f"{self.n_iter} iterations.\n"
            f"  lengths, in standardised features     "
            f"{np.array2string(self.inner_lr, precision=4)}"
        )


def learn_lengths(objective, solver, steps):
    """The lengths of steps, one a parameter, that leave the smallest meta-loss.

    Parameters
    ----------
    objective : MetaObjective
    solver : Solver
    steps : callable
        From lengths (d,) to the rule, smooth in them.

    Returns
    -------
    LearnedSteps
    """
    d = objective.n_parameters
    start = best_scale(objective, solver, lambda scale: steps(np.full(d, scale)))
    sought = Coordinates(
        np.full(d, np.log(start)),
        lambda x: steps(np.exp(x)),
        lambda x, slope: slope * np.exp(x),
        [LOG_LENGTH] * d,
    )
    x, n_iter, converged = minimize_query_loss(objective, solver, sought)
    if not converged:
        warnings.warn(
            f"The lengths of steps did not converge in {n_iter} iterations; they are used as they "
            "are.",
            ConvergenceWarning,
            stacklevel=5,
        )
    return LearnedSteps(np.exp(x), n_iter, converged)


def check_step_lengths(inner_lr):
    """Raise unless `inner_lr` is a positive number, or a row of numbers that are not negative."""
    if np.ndim(inner_lr) == 0:
        if isinstance(inner_lr, bool) or not isinstance(inner_lr, Real):
            raise TypeError(
                "inner_lr must be a positive number, one a parameter, or 'learn'; "
                f"got {inner_lr!r}."
            )
        if not 0 < inner_lr < np.inf:
            raise ValueError(f"inner_lr must be positive and finite; got {inner_lr}.")
        return
    lengths = np.asarray(inner_lr)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iuf":
        raise TypeError(f"inner_lr must be a number, or one a parameter; got {inner_lr!r}.")
    if not (np.isfinite(lengths).all() and (lengths >= 0).all() and (lengths > 0).any()):
        raise ValueError(
            f"inner_lr must be finite, nowhere negative and not all zero; got {inner_lr!r}."
        )
