"""What `fit` does once parameters are checked and rows are read: it finds the meta-parameters.

Every function takes the estimator that is fitted, called `model`, and stores what it finds in it.
"""

from dataclasses import replace

import numpy as np

from sklearn_maml._estimators.defaults import (
    AUTO_EPISODES,
    AUTO_ROWS,
    gradient_rule,
    judging_episodes,
)
from sklearn_maml._estimators.feature_choice import choose_features, feature_sets
from sklearn_maml._estimators.intervals import calibrated_in_fit
from sklearn_maml._estimators.objectives import objective_of, with_offsets
from sklearn_maml._estimators.prediction import (
    feature_names_of,
    split_theta,
    takes_uncapped_steps,
    theta_of,
    truth_of,
    warn_if_diverging,
)
from sklearn_maml._estimators.residual_feature import residual_set
from sklearn_maml._learning.problem import LearningProblem
from sklearn_maml._objective.quadratic import quadratic, refuse_lost_features, refuse_too_wide
from sklearn_maml._parallel import one_blas_thread
from sklearn_maml._progress import check_overflow, refusing_overflow, report, stage
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import fit_featurizer
from sklearn_maml._tasks.labels import TaskIndex
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.certificate.certify import certify
from sklearn_maml.certificate.point import foresee

__all__ = [
    "N_STAGES",
    "certified",
    "episodes_of",
    "expect_same",
    "fit_blocks",
    "fit_rows",
    "fit_searched",
    "keep_facts",
    "keep_tasks",
    "minimum",
    "start_of",
]


# A fit whose bound is below this share of its loss needs no second start. Fits that another start
# beat, in trials, had bounds of 0.7 and more; those of default step lengths have 0.3 and less.
SURE = 0.3

# Directions whose singular value is at most this share of the largest are not resolved: the root of
# float64's precision, at which curvature is lost. Where a task's first rows are the support, theta
# is seen through what adapting leaves of it, and may be wild in more directions: then the second.
RESOLVED = 1.5e-8, 1e-4

# So many times the squared error of the fixed effects, unadapted, is wild.
WILD = 100.0

# Reading, metric, strength, theta, certificate and intervals. A rule that is not learned has no
# second and third, steps that are learned have their lengths there, a search has itself, and a
# choice of features is one more.
N_STAGES = 6


def expect_same(model, other):
    """Let a model expect the X that another was given."""
    for name in ("n_features_in_", "feature_names_in_"):
        if hasattr(other, name):
            setattr(model, name, getattr(other, name))


def fit_rows(model, plan, rows, featurizer=None):
    """Find the meta-parameters, and store all that the model is made of.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
        That knows its loss, and which X to expect.
    plan : Plan
    rows : TaskRows
    featurizer : FittedFeaturizer, default=None
        Already fitted on these rows; None fits that of the model.
    """
    model.loss_.check_targets(rows.tasks.y)
    rows = rows._replace(tasks=with_offsets(model, rows))
    episodes = episodes_of(plan, rows.tasks)
    episodes.check_sizes(rows.tasks.sizes, names=rows.ids)
    keep_facts(model, episodes, rows.untold)
    if featurizer is None:
        featurizer = _features(model, plan, rows, episodes)
    model.featurizer_ = featurizer.transformer
    features = featurizer.training_features(rows.X, model._has_intercept)
    blocks = Blocks(rows.tasks, features, episodes)
    with one_blas_thread():  # entered once, for all passes over the data
        objective = fit_blocks(model, plan, blocks, rows.ids, rows.named)
        model.calibration_ = None
        if plan.calibrates:
            with stage("intervals"):
                model.calibration_ = calibrated_in_fit(model, objective)


def episodes_of(plan, tasks):
    """The `Episodes` by which a fit splits some tasks."""
    episodes = plan.episodes
    if plan.mixed and tasks.show_differences:
        n_tasks, n_rows = len(tasks.weight), int(tasks.offsets[-1])
        return episodes.adjusted(AUTO_EPISODES, AUTO_ROWS, n_tasks, n_rows)
    if plan.mixed:  # nothing to learn: one model for all rows, exact in their weights
        return Episodes(split=episodes.split, seed=episodes.seed)
    return episodes


def keep_facts(model, episodes, untold):
    """Store what a fit does not find: parameters, as a model predicts by those it was fitted with.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    episodes : Episodes
    untold : bool
        Whether nothing tells tasks apart, so that all rows count as one.
    """
    model._episodes, model._alpha = episodes, float(model.alpha)
    model._judging = judging_episodes(episodes, model.random_state)
    model._has_intercept, model._untold = bool(model.fit_intercept), untold


def fit_blocks(model, plan, blocks, ids, named):
    """Find the meta-parameters of stacked tasks, and store them and the tasks.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
        That knows its featurizer too, and what `keep_facts` keeps.
    plan : Plan
    blocks : TaskBlocks
    ids : ndarray of shape (n_tasks,)
    named : bool
        Whether the tasks have names.

    Returns
    -------
    MetaObjective
        That was minimised.
    """
    with one_blas_thread():
        with refusing_overflow():
            objective, model.learned_ = _learned(model, plan, blocks, model.featurizer_)
        _fit_objective(model, plan, objective, ids, named)
    return objective


def fit_searched(model, plan, rows, featurizer, objective, learned):
    """Find the meta-parameters of an objective that a search has made, and store them.

    Parameters
    ----------
    model, plan, rows, featurizer
        As in `fit_rows`.
    objective : MetaObjective
        Of all these rows; what it keeps is not computed again.
    learned : LearnedMetric or None
        What its rule says of itself, if nothing of it was to be learned.
    """
    keep_facts(model, objective.blocks.episodes, rows.untold)
    model.featurizer_, model.learned_, model.calibration_ = featurizer.transformer, learned, None
    with one_blas_thread():
        _fit_objective(model, plan, objective, rows.ids, rows.named)


def _features(model, plan, rows, episodes):
    """The fitted featurizer: with `pooled`, that with which held-out tasks are predicted best."""
    told = truth_of(model, np.real(rows.tasks.y))
    if model.pooled is None:
        return fit_featurizer(model.featurizer, rows.X, rows.tasks, told)

    def fit(featurizer, blocks):
        return minimum(model, plan, blocks, featurizer.transformer, coarse=True)

    with stage("features"), one_blas_thread(), refusing_overflow():
        sets = feature_sets(model, rows, told)
        parts = rows.tasks, episodes, model._judging, model._has_intercept, fit
        choice = choose_features(sets, *parts)
        sets |= residual_set(model, rows, sets, choice.chosen, episodes, fit)
        model.feature_choice_ = choose_features(sets, *parts, choice)
    return sets[model.feature_choice_.chosen]


def minimum(model, plan, blocks, featurizer, facts=None, coarse=False):
    """What a fit finds of stacked tasks, before it is judged: nothing is stored.

    Parameters
    ----------
    model, plan, blocks
        As in `fit_blocks`.
    featurizer : transformer or None
        Fitted, that with which the features were made.
    facts : dict, default=None
        Of these blocks: see `LearningProblem`.
    coarse : bool, default=False
        Whether it is only compared with the like.

    Returns
    -------
    objective : MetaObjective
        With its rule, learned where that is to be learned.
    theta : ndarray of shape (d,) or (n_targets, d)
    """
    objective, learned = _learned(model, plan, blocks, featurizer, facts, coarse)
    start = start_of(objective, learned)
    return objective, _minimised(model, plan, objective, learned, start).theta


def _learned(model, plan, blocks, featurizer, facts=None, coarse=False):
    """The objective with its rule, learned where that is to be learned, and what was learned."""
    refuse_too_wide(blocks, plan.learns, model.loss_.constant_hessian)
    rule = plan.rule
    if rule is None:
        rule = gradient_rule(model.inner_lr, model.n_steps, blocks, model.n_jobs)
    objective = objective_of(model, blocks, rule)
    if not objective.is_quadratic:  # else the solver looks, on its way
        refuse_lost_features(objective)
    names = feature_names_of(model, featurizer)
    facts = {} if facts is None else facts
    rule, learned = rule.learn(LearningProblem(objective, plan.solver, names, coarse, facts))
    return objective_of(model, blocks, rule), learned


def _fit_objective(model, plan, objective, ids, named):
    """Find theta, certify it, and store both and the tasks."""
    with refusing_overflow():
        start, result, loss_and_certificate = _solved(model, plan, objective)
        problem = LearningProblem(objective, plan.solver)
        model.adaptation_ = objective.rule.calibrate(problem, result.theta)
    model.coef_, model.intercept_ = split_theta(result.theta, model._has_intercept)
    model.meta_loss_, model.gap_certificate_ = loss_and_certificate
    model.meta_losses_, model.n_iter_ = np.array(result.values), result.n_iter
    model._start, model.task_ids_, model.n_tasks_ = start, ids, len(ids)
    _report_steps(model, objective)
    if objective.blocks.episodes.support != "all" or model.adaptation_ is not objective.rule:
        objective = objective_of(model, objective.blocks.unsplit())
    keep_tasks(model, objective, ids if named else None)


def _solved(model, plan, objective):
    """Where the solver started, its result, and the meta-loss with its certificate."""

    def judged(theta):
        return certified(objective, theta, model.certificate, model.learned_)

    start = start_of(objective, model.learned_)
    if model.certificate is not None and model.solver == "auto":
        foresee(objective)
    with stage("theta"):
        result = _minimised(model, plan, objective, model.learned_, start)
    with stage("certificate"):
        first = judged(result.theta)
        if not _may_be_local(model, objective, *first):
            return start, result, first
        report("not tight: once more, from the parameters that predict best unadapted")
        other = _start_unadapted(plan.solver, objective)
        again = plan.solver.minimize(objective, other)
        if objective.value(again.theta) < first[0]:
            return other, again, judged(again.theta)
        return start, result, first


def _minimised(model, plan, objective, learned, start):
    """The solver's result; of features that depend on one another, nearer to the fixed effects.

    Where a mixed model was learned, its fixed effects say what such features do together. The exact
    minimum would take them apart by coefficients of 1e9 and more, of which rows that are not like
    the query rows see what is left. A solver that the user chose does what it says.
    """
    result = plan.solver.minimize(objective, start)
    near = getattr(learned, "fixed_effects", None)
    exact = near is None or model.solver != "auto" or not objective.is_quadratic
    if exact or quadratic(objective).definite:
        return result
    near = np.reshape(near, result.theta.shape)
    unadapted = objective.vary(rule=GradientSteps(n_steps=0))
    most = WILD * unadapted.value(near)
    for share in RESOLVED:
        theta = quadratic(objective).resolved(objective, near, share)
        if unadapted.value(theta) <= most:
            break
    values = (*result.values, objective.value(theta))
    return replace(result, theta=theta, values=values, n_iter=result.n_iter + 1)


def _may_be_local(model, objective, meta_loss, certificate):
    """Whether another start is worth its time: a fit might have ended in a local minimum.

    Not where the certificate is tight, a mixed model told where to start, or the user chose the
    solver, which then does what it says.
    """
    if certificate is None or objective.is_quadratic or objective.rule.first_order:
        return False
    told = getattr(model.learned_, "fixed_effects", None) is not None
    return model.solver == "auto" and not told and certificate.bound > SURE * abs(meta_loss)


def _start_unadapted(solver, objective):
    """The meta-parameters that predict best without adapting: those of a convex problem."""
    unadapted = objective.vary(rule=GradientSteps(n_steps=0))
    return solver.minimize(unadapted, objective.origin()).theta


def start_of(objective, learned):
    """Where the solver starts: the fixed effects of the mixed model that was learned, else 0.

    Working responses are only near the loss, so that fixed effects are only near theta; but that is
    half of the way. A quadratic is solved at once from anywhere, to the last bit the same.
    """
    near = getattr(learned, "fixed_effects", None)  # None, or of a rule that has no such model
    if near is None or objective.is_quadratic:
        return objective.origin()
    near = np.reshape(near, objective.origin().shape)
    try:  # the pass is not lost: solvers ask for value and gradient of their start first
        value, _ = objective.value_and_gradient(near)
    except np.linalg.LinAlgError:  # curvatures beside which a strength is nothing
        value = np.inf
    return near if np.isfinite(value) else objective.origin()


def certified(objective, theta, effort, learned):
    """The meta-loss and the certificate, whose bound may be infinite: then its notes say why."""
    certificate = certify(objective, theta, effort)
    if certificate is None:
        value = objective.value(theta)
        check_overflow([value, *theta.flat])
        return value, None
    check_overflow([certificate.meta_loss, *theta.flat])
    if objective.is_quadratic:  # where only overflow keeps a bound from being known
        check_overflow([certificate.bound, certificate.epsilon])
    optimality = getattr(learned, "optimality", None)  # a foreign rule need not say
    if optimality is not None:
        certificate = certificate.assuming(*optimality)
    return certificate.meta_loss, certificate


def _report_steps(model, objective):
    """Store how many steps were capped, and warn where uncapped steps diverge."""
    rule = model.adaptation_
    if rule.lengths is not None:
        capped, diverging = objective.relative_step_shares((1.0, 2.0))
        uncapped = takes_uncapped_steps(rule)
        model.inner_lr_, model.capped_share_ = rule.lengths[0], 0.0 if uncapped else capped
        if uncapped:
            warn_if_diverging(rule, diverging)


def keep_tasks(model, objective, ids):
    """Store the parameters of named tasks, adapted to all of their rows; None names none."""
    model.task_coef_ = model.task_intercept_ = model._information = model._n_rows = None
    model._known = TaskIndex()
    if ids is not None:
        theta, model._information = objective.adapted(theta_of(model))
        parts = split_theta(theta, model._has_intercept, views=True)
        model.task_coef_, model.task_intercept_ = parts
        model._known, model._n_rows = TaskIndex(ids), objective.blocks.n_rows
