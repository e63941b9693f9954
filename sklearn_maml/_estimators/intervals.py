"""Intervals, label sets and probabilities of fitted models: calibrated in `fit`.

Every function takes a fitted `MAMLRegressor` or `MAMLClassifier`, called `model`.
"""

from functools import partial
from operator import add

import numpy as np

from sklearn_maml._component import check_bool
from sklearn_maml._estimators.defaults import scoring_episodes
from sklearn_maml._estimators.objectives import objective_on, query_predictions
from sklearn_maml._estimators.prediction import (
    linear,
    linear_and_deviation,
    prior_of,
    response,
    theta_of,
    uncertainty_of,
)
from sklearn_maml._intervals.bounds import (
    label_set,
    multipliers,
    own_label_set,
    quantile_of_scores,
    read_levels,
)
from sklearn_maml._intervals.calibration import calibration_of, tasks_needed
from sklearn_maml._intervals.scores import (
    folds_of_tasks,
    scores_of_tasks,
    standardised,
    tasks_to_score,
    told_to,
)
from sklearn_maml._intervals.temperature import (
    misfits_of_tasks,
    odds_and_class,
    temperature_of,
    temperatures_at,
)
from sklearn_maml._progress import warn_user
from sklearn_maml._tasks.classes import codes_of, probabilities

__all__ = [
    "calibrated_in_fit",
    "calibrated_on",
    "intervals_of",
    "label_sets_of",
    "missed_rows",
    "probabilities_of",
    "quantiles_of",
    "temperatures",
]


def calibrated_in_fit(model, objective):
    """The `Calibration` by the tasks of the fit, each with theta from other folds of tasks.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    objective : MetaObjective
        That was minimised.

    Returns
    -------
    Calibration or None
        None where tasks do not show how they differ.
    """
    if not objective.blocks.tasks.show_differences:
        return None
    split = _split_for_scores(model, objective)
    folds = folds_of_tasks(objective, theta_of(model), tasks_to_score(split))
    scores = _scores(model, split, folds)
    if not hasattr(model, "classes_"):
        return calibration_of(scores)
    return _calibration_of_classes(scores, temperature_of(scores))


def calibrated_on(model, objective):
    """The `Calibration` by tasks that theta was not learned from; temperatures are the model's."""
    split = _split_for_scores(model, objective)
    fold = np.full(len(split.blocks.tasks.weight), -1)
    fold[tasks_to_score(split)] = 0
    scores = _scores(model, split, (fold, theta_of(model)[None]))
    if not hasattr(model, "classes_"):
        return calibration_of(scores)
    # They may not depend on these tasks: scores are exchangeable with those of a new one.
    return _calibration_of_classes(scores, getattr(model.calibration_, "temperature", None))


def _split_for_scores(model, objective):
    """The objective with its tasks split at the numbers of support rows that scores are for."""
    episodes = scoring_episodes(model._episodes, model._judging)
    if objective.blocks.episodes == episodes:
        return objective
    return objective.vary(blocks=objective.blocks.split(episodes))


def _scores(model, objective, folds):
    """`TaskScores` of tasks that are split for them."""
    classifies = hasattr(model, "classes_")
    rule = model.adaptation_  # which knows the noise
    score = odds_and_class if classifies else standardised(model.loss_, rule.deviation)
    objective = objective.vary(rule) if rule.of_targets else objective
    return scores_of_tasks(objective, folds, score)


def _calibration_of_classes(scores, temperature):
    found = misfits_of_tasks(scores, temperature)
    return calibration_of(found, with_signs=False, temperature=temperature)


def temperatures(model, n_rows):
    """What the scores of a classifier are divided by, (n,), after so many support rows (n,)."""
    return temperatures_at(getattr(model.calibration_, "temperature", None), n_rows)


def probabilities_of(model, rows, n_rows):
    """Probabilities of the classes of rows, (n_rows, n_classes).

    Parameters
    ----------
    model : MAMLClassifier
    rows : Rows
    n_rows : ndarray of shape (n_tasks,), or None
        As in `intervals_of`.
    """
    z = linear(model, rows)
    temperature = temperatures(model, _support_rows(rows, n_rows))
    which = np.zeros(len(z), dtype=np.intp) if rows.which is None else rows.which
    return probabilities(z, temperature[which])


def intervals_of(model, rows, information, n_rows, coverage, signed):
    """Intervals of rows.

    Parameters
    ----------
    model : MAMLRegressor
    rows : Rows
    information : ndarray or None
        See `uncertainty_of`; of the tasks that ``rows.at`` counts.
    n_rows : ndarray of shape (n_tasks,), or None
        Support rows of these tasks; None where nothing is known of the task.
    coverage, signed
        As a user gave them.

    Returns
    -------
    low, high : ndarray of shape (n_rows,) or (n_rows, n_targets)
        With one more axis, the last, for several coverages.
    """
    coverages, several = read_levels("coverage", coverage)
    check_bool("signed", signed)
    given, quantile = _support_rows(rows, n_rows), _own_quantile(model)
    found, own = [], []
    for c in coverages:
        *sides, holds = multipliers(model.calibration_, c, given, signed, quantile)
        found += sides
        own += [] if holds else [c]
    ends = _ends(model, rows, information, n_rows, found)
    needed = tasks_needed(max(own), signed) if own else 0
    _say_that_tasks_are_few(model, "coverage", own, needed)
    low, high = ends[..., ::2], ends[..., 1::2]
    return (low, high) if several else (low[..., 0], high[..., 0])


def quantiles_of(model, rows, information, n_rows, quantile):
    """Quantiles of the targets of rows, as `intervals_of`; more than one with one more axis."""
    quantiles, several = read_levels("quantile", quantile)
    given = _support_rows(rows, n_rows)
    found, own = [], []
    for q in quantiles:
        value, holds = quantile_of_scores(model.calibration_, q, given, _own_quantile(model))
        found.append(value)
        own += [] if holds else [q]
    ends = _ends(model, rows, information, n_rows, found)
    needed = tasks_needed(max(max(q, 1.0 - q) for q in own)) if own else 0
    _say_that_tasks_are_few(model, "quantile", own, needed)
    return ends if several else ends[..., 0]


def _ends(model, rows, information, n_rows, multiples):
    """Means of rows plus multiples of their deviations, one of each on the last axis."""
    if multiples[0] is None:
        _refuse(model)
    mean, scale = _mean_and_scale(model, rows, information, n_rows)
    which = np.zeros(len(mean), dtype=np.intp) if rows.which is None else rows.which
    sides = [side[which].reshape(len(mean), *[-1] * (mean.ndim - 1)) for side in multiples]
    low, high = model.loss_.target_range
    return np.stack([np.clip(mean + side * scale, low, high) for side in sides], axis=-1)


def _refuse(model):
    raise ValueError(
        f"{type(model).__name__} knows no intervals: {model.adaptation_!r} does not know "
        "how tasks vary, and there is no calibration. Fit it with calibrate=True on "
        "several tasks."
    )


def label_sets_of(model, rows, n_rows, coverage):
    """Classes that rows may have, as `intervals_of`: (n_rows, n_classes[, n_coverages]) of bool."""
    coverages, several = read_levels("coverage", coverage)
    share = probabilities_of(model, rows, n_rows)
    which = np.zeros(len(share), dtype=np.intp) if rows.which is None else rows.which
    found = [_label_set(model, share, _support_rows(rows, n_rows), which, c) for c in coverages]
    own = [c for c, (_, holds) in zip(coverages, found, strict=True) if not holds]
    sets = [chosen for chosen, _ in found]
    _say_that_tasks_are_few(model, "coverage", own, tasks_needed(max(own)) if own else 0)
    return np.stack(sets, axis=-1) if several else sets[0]


def _label_set(model, share, n_rows, which, coverage):
    """Classes (n, n_classes) for probabilities of rows of tasks, and whether calibration says."""
    bound = None if model.calibration_ is None else model.calibration_.upper(coverage, n_rows)
    if bound is None:
        return own_label_set(share, coverage), False
    return label_set(share, bound[which]), True


def missed_rows(model, X, y, groups, sample_weight, episodes, coverage):
    """Which query rows are outside their intervals, or whose classes are not in their label sets.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    X, y, groups, sample_weight, episodes
        As in `query_predictions`.
    coverage : float

    Returns
    -------
    missed : ndarray of shape (n,)
        1 or 0; with several targets the share of these.
    weight, task : ndarray of shape (n,)
    """
    if hasattr(model, "classes_"):
        truth, z, weight, n_rows, task = query_predictions(
            model, X, y, groups, sample_weight, episodes
        )
        share, every = probabilities(z, temperatures(model, n_rows)), np.arange(len(z))
        chosen, holds = _label_set(model, share, n_rows, every, coverage)
        missed = 1.0 - chosen[every, codes_of(truth)]
    else:
        objective = objective_on(model, X, y, groups, sample_weight, episodes)
        block = partial(_missed_in_block, model, objective, coverage)
        missed, weight, task, holds = zip(*objective.fold(block, add), strict=True)
        missed, weight, task = map(np.concatenate, (missed, weight, task))
        holds = all(holds)
    _say_that_tasks_are_few(model, "coverage", [] if holds else [coverage], tasks_needed(coverage))
    return missed, weight, task


def _missed_in_block(model, objective, coverage, i):
    """A block's part of `missed_rows`, and whether the calibration says so, in a list."""
    loop, weight = objective.loop(i)
    answer = loop.respond(theta_of(model)[..., None, :])
    support, n_rows = told_to(objective.rule, loop.support, answer), loop.support.n_rows
    score = standardised(model.loss_, objective.rule.deviation)
    scores, own = score(loop.query, answer.predictions, support), _own_quantile(model)
    _, high, holds = multipliers(model.calibration_, coverage, n_rows, False, own)
    if high is None:
        _refuse(model)
    missed = np.abs(scores) > np.moveaxis(high, 0, -1)[..., None]
    mass = weight[:, None] * loop.query.weights
    missed = missed.reshape(-1, *mass.shape).mean(axis=0)
    owner = np.broadcast_to(objective.blocks.owner(i)[:, None], mass.shape)
    return [(missed[mass > 0], mass[mass > 0], owner[mass > 0], holds)]


def _knows_deviation(model):
    """Whether the rule knows the standard deviation of targets."""
    width = theta_of(model).shape[-1]
    return model.adaptation_.deviation(np.zeros((1, width))) is not None


def _own_quantile(model):
    """The rule's own quantiles in units of its deviation, or None where it knows none."""
    return model.adaptation_.quantile if _knows_deviation(model) else None


def _support_rows(rows, n_rows):
    """Numbers of support rows of the tasks of some rows, 0 for those that are not known."""
    if n_rows is None:
        return np.zeros(len(rows.theta))
    if rows.at is None:
        return np.atleast_1d(n_rows)
    return np.where(rows.at >= 0, n_rows[rows.at], 0.0)


def _mean_and_scale(model, rows, information, n_rows):
    if not _knows_deviation(model):
        mean = response(model, linear(model, rows))
        return mean, model.loss_.deviation(mean)
    nothing = n_rows is None
    uncertainty = prior_of(model) if nothing else uncertainty_of(model, information, rows.at)
    z, deviation = linear_and_deviation(model, rows, uncertainty)
    return response(model, z), deviation


def _say_that_tasks_are_few(model, what, levels, needed):
    """Warn where intervals are the model's own, unless nobody wanted others."""
    if not levels or (model.calibration_ is None and model.calibrate is False):
        return
    n_tasks = 0 if model.calibration_ is None else round(model.calibration_.n_tasks.max())
    told = ", ".join(f"{level:g}" for level in levels)
    errors = "by Student's t" if model.adaptation_.of_targets else "as of normal errors"
    warn_user(
        f"{n_tasks} calibration tasks are too few for a {what} of {told} that holds whatever "
        f"tasks look like, which takes {needed}. What is returned is the model's own, "
        f"{'as its probabilities are' if hasattr(model, 'classes_') else errors}.",
        UserWarning,
    )
