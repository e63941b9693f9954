"""How the lengths of gradient steps are learned."""

from dataclasses import dataclass, replace

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._learning.variable_projection import LOG_SCALE
from sklearn_maml._progress import warn_user

__all__ = ["LearnedSteps", "learn_lengths"]

# The logarithm of a learned length, in standardised features.
LOG_LENGTH = (-2 * LOG_SCALE, LOG_SCALE)


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

    @property
    def optimality(self):
        """As that of `LearnedMetric`: what a certificate says of the lengths."""
        return (
            "the lengths of steps, as they were learned, are a local optimum of the query loss",
            "not measured; that they are the best lengths is not claimed",
        )

    def __str__(self):
        if not self.inner_lr.any():
            return "Gradient steps: one task does not show how tasks differ, so no steps are taken."
        return (
            "Gradient steps, one length a parameter, learned on the query loss in "
            f"{self.n_iter} iterations.\n"
            f"  lengths, in standardised features     "
            f"{np.array2string(self.inner_lr, precision=4)}"
        )


def learn_lengths(problem, make_rule):
    """The lengths of steps, one a parameter, that leave the smallest meta-loss.

    Parameters
    ----------
    problem : LearningProblem
    make_rule : callable
        From lengths (d,) to the rule, smooth in them.

    Returns
    -------
    LearnedSteps
    """
    d = problem.n_parameters
    if not problem.shows_differences:
        return LearnedSteps(np.zeros(d), 0, True)
    start = problem.best_scale(lambda scale: make_rule(np.full(d, scale)))
    x, n_iter, converged = problem.minimize(
        np.full(d, np.log(start)),
        lambda x: make_rule(np.exp(x)),
        lambda x, slope: slope * np.exp(x),
        [LOG_LENGTH] * d,
    )
    if not converged:
        warn_user(
            f"The lengths of steps did not converge in {n_iter} iterations; they are used as they "
            "are. Scale the features, or give the length: inner_lr='auto' or a number.",
            ConvergenceWarning,
        )
    return LearnedSteps(np.exp(x), n_iter, converged)
