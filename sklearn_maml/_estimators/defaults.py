"""What defaults and "auto" stand for: the rule, step lengths, the support and the solver."""

from dataclasses import replace
from numbers import Integral, Real

import numpy as np

from sklearn_maml._tasks.episodes import read_episodes
from sklearn_maml._tasks.moments import moments
from sklearn_maml.adaptation.gradient_steps import GradientSteps
from sklearn_maml.adaptation.proximal import Proximal
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "AUTO_EPISODES",
    "AUTO_ROWS",
    "AUTO_SHOTS",
    "JUDGING_DRAWS",
    "calibrates",
    "choose_solver",
    "choose_support",
    "default_rule",
    "gradient_rule",
    "judging_episodes",
    "scoring_episodes",
]

# What inner_lr="auto" stands for, chosen by benchmarks/bench_defaults.py: all steps together leave
# this share of theta along the steepest direction of a task, in standardised features, ...
AUTO_REMAINDER = 0.1

# ... and move the intercept this many times as far as a coefficient.
AUTO_INTERCEPT_STEP = 16.0

# More steps than these are a mistake.
MOST_STEPS = 10**9

# What support="auto" stands for where the rule is learned: one fit for all numbers of shots, each
# with this many random splits in all, if tasks are few.
AUTO_SHOTS = (1, 2, 3, 5, 10)

AUTO_EPISODES = 1000
# Tasks with many rows are split less often: in all splits so many rows are read, or each once.
AUTO_ROWS = 2**18


# A model is judged after adapting to those numbers of rows, at so many random splits of each task.
JUDGING_DRAWS = 10


def default_rule(inner_lr, n_steps):
    """The rule of a model that is given none: a learned one, or None for gradient steps.

    Parameters
    ----------
    inner_lr : "auto", float or None
    n_steps : int or None
        Whoever gives one of them asks for the gradient steps of the papers.
    """
    return Proximal() if inner_lr is None and n_steps is None else None


def gradient_rule(inner_lr, n_steps, blocks, n_jobs=None):
    """The gradient steps that `inner_lr` and `n_steps` stand for; "auto" is decided here.

    Parameters
    ----------
    inner_lr : "auto", float or None
        None is "auto".
    n_steps : int or None
        None is 1.
    blocks : Blocks
        For "auto": the rows whose moments define the coordinates in which to step.
    n_jobs : int, default=None
        Threads, as in joblib.

    Returns
    -------
    GradientSteps
        Validated.
    """
    inner_lr = "auto" if inner_lr is None else inner_lr
    n_steps = 1 if n_steps is None else n_steps
    if isinstance(n_steps, Integral) and n_steps > MOST_STEPS:
        raise ValueError(f"n_steps must be at most {MOST_STEPS:,}; got {n_steps!r}.")
    if isinstance(inner_lr, str):
        if inner_lr != "auto":
            raise ValueError(f"inner_lr must be 'auto' or a number; got {inner_lr!r}.")
        GradientSteps(n_steps=n_steps).validate()
        intercept = blocks.features.intercept
        of_rows = moments(blocks, n_jobs)
        coordinates = Standardization.from_moments(*of_rows, intercept, AUTO_INTERCEPT_STEP)
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


def judging_episodes(episodes, random_state=None, n_draws=JUDGING_DRAWS):
    """How tasks are split to judge a model: always by rows that it was not adapted to.

    Parameters
    ----------
    episodes : Episodes
        Those of the fit. Numbers of shots are taken over; "all" rows are those of "auto".
    random_state : int, RandomState or None, default=None
        None is 0: so candidates of a search are judged on the same rows.
    n_draws : int
        Random draws of each number of shots.

    Returns
    -------
    Episodes
    """
    several = episodes.support == "all" or episodes.lenient
    shots = AUTO_SHOTS if several else episodes.support
    n_draws = n_draws if episodes.split == "random" else 1
    seed = 0 if random_state is None else random_state
    return replace(read_episodes(shots, episodes.split, n_draws, seed), lenient=several)


def scoring_episodes(episodes, judging):
    """How tasks are split to calibrate intervals: at numbers of rows, as in the fit if it was so.

    Parameters
    ----------
    episodes, judging : Episodes
        Those of the fit, and those by which the model is judged.

    Returns
    -------
    Episodes
    """
    for given in (episodes, judging):
        if not isinstance(given.support, str | float):
            return given
    return replace(judging, support=AUTO_SHOTS, lenient=True)


def calibrates(calibrate, rule):
    """What ``calibrate="auto"`` stands for: learned rules alone, whose fits take longer."""
    if isinstance(calibrate, str) and calibrate == "auto":
        return rule is not None and rule.learnable
    if not isinstance(calibrate, bool | np.bool_):
        raise TypeError(f"calibrate must be 'auto', True or False; got {calibrate!r}.")
    return bool(calibrate)


def choose_solver(loss, rule):
    """What solver="auto" stands for."""
    if rule is not None and rule.first_order:
        return "gradient_descent"
    quadratic = loss.constant_hessian and (rule is None or rule.affine)
    return "least_squares" if quadratic else "gauss_newton"
