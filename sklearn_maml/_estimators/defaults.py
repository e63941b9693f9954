"""What "auto" stands for: step lengths, the support and the solver."""

from numbers import Integral, Real

from sklearn_maml._tasks.stacks import moments
from sklearn_maml.adaptation.gradient_steps import GradientSteps
from sklearn_maml.adaptation.standardization import Standardization

__all__ = ["AUTO_EPISODES", "choose_solver", "choose_support", "gradient_rule"]

# What inner_lr="auto" stands for, chosen by benchmarks/bench_defaults.py: all steps together leave
# this share of theta along the steepest direction of a task, in standardised features, ...
AUTO_REMAINDER = 0.1

# ... and move the intercept this many times as far as a coefficient.
AUTO_INTERCEPT_STEP = 16.0

# What support="auto" stands for where the rule is learned: one fit for all numbers of shots, each
# with this many random splits in all, if tasks are few.
AUTO_SHOTS = (1, 2, 3, 5, 10)

AUTO_EPISODES = 1000
# Tasks with many rows are split less often: in all splits so many rows are read, or each once.
AUTO_ROWS = 2**19


def gradient_rule(inner_lr, n_steps, blocks):
    """The gradient steps that `inner_lr` and `n_steps` stand for; "auto" is decided here.

    Parameters
    ----------
    inner_lr : "auto" or float
    n_steps : int
    blocks : Blocks
        For "auto": the rows whose moments define the coordinates in which to step.

    Returns
    -------
    GradientSteps
        Validated.
    """
    if isinstance(inner_lr, str):
        if inner_lr != "auto":
            raise ValueError(f"inner_lr must be 'auto' or a number; got {inner_lr!r}.")
        GradientSteps(n_steps=n_steps).validate()
        intercept = blocks.features.intercept
        coordinates = Standardization.from_moments(*moments(blocks), intercept, AUTO_INTERCEPT_STEP)
        length = 1.0 - AUTO_REMAINDER ** (1.0 / max(n_steps, 1))
        return GradientSteps(length, n_steps, relative=True, coordinates=coordinates)
    if isinstance(inner_lr, Integral) and abs(inner_lr) > 2**1023:  # no float64
        raise ValueError(f"inner_lr must be positive and finite; got {inner_lr!r}.")
    rule = GradientSteps(inner_lr, n_steps)
    rule.validate()
    return rule


def choose_support(support, rule):
    """What `support` stands for, and whether that is the mixed shots of a learned rule."""
    if not isinstance(support, str) or support != "auto":
        fraction = isinstance(support, Real) and not isinstance(support, Integral)
        return (float(support) if fraction and 0 < support < 1 else support), False
    mixed = rule is not None and rule.learnable
    return (AUTO_SHOTS if mixed else "all"), mixed


def choose_solver(loss, rule):
    """What solver="auto" stands for."""
    if rule is not None and rule.first_order:
        return "gradient_descent"
    quadratic = loss.constant_hessian and (rule is None or rule.affine)
    return "least_squares" if quadratic else "gauss_newton"
