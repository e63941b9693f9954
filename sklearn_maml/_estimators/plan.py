"""The first step of `fit`: what the parameters of an estimator say, before a row is read."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import clone

from sklearn_maml._component import (
    check_bool,
    check_n_jobs,
    check_number,
    check_option,
    random_of,
    resolve,
)
from sklearn_maml._estimators.defaults import (
    calibrates,
    choose_solver,
    choose_support,
    default_rule,
)
from sklearn_maml._estimators.feature_choice import check_pooled
from sklearn_maml._tasks.episodes import Episodes, read_episodes
from sklearn_maml._tasks.features import check_featurizer
from sklearn_maml.adaptation import RULES
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.certificate.certify import check_effort
from sklearn_maml.solvers import SOLVERS
from sklearn_maml.solvers.solver import Solver

__all__ = ["Plan", "check_parameters", "make_plan", "make_solver"]


class Plan(NamedTuple):
    """What the parameters of a model say, checked before any row is read.

    Attributes
    ----------
    rule : AdaptationRule or None
        None where `inner_lr` and `n_steps` say it.
    solver : Solver
    episodes : Episodes
    mixed : bool
        Whether the episodes are the mixed shots of ``support="auto"``.
    calibrates : bool
        Whether intervals are calibrated.
    """

    rule: Any
    solver: Any
    episodes: Episodes
    mixed: bool
    calibrates: bool

    @property
    def learns(self):
        """Whether something of the rule is to be learned from the tasks."""
        return self.rule is not None and self.rule.learnable


def make_plan(model):
    """The `Plan` of a model, whose loss it sets; parameters that are out of range raise."""
    model.loss_ = model._make_loss()
    rule = _given_rule(model)
    check_parameters(model)
    solver = make_solver(model, rule)
    support, mixed = choose_support(model.support, rule)
    episodes = read_episodes(support, model.split, model.n_episodes, random_of(model.random_state))
    check_featurizer(model.featurizer)
    check_pooled(model.pooled)
    return Plan(rule, solver, episodes, mixed, calibrates(model.calibrate, rule))


def make_solver(model, rule):
    """The solver that the parameters name, for the model's loss and a rule."""
    solver = model.solver
    if isinstance(solver, str) and solver == "auto":
        solver = choose_solver(model.loss_, rule)
    return resolve(solver, SOLVERS, Solver, "solver")


def check_parameters(model):
    """Raise for parameters out of range that no part of its own checks.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    """
    check_number("alpha", model.alpha)
    check_effort(model.certificate)
    check_n_jobs(model.n_jobs)
    if not isinstance(model.verbose, bool):
        check_number("verbose", model.verbose)
    check_bool("fit_intercept", model.fit_intercept)
    check_option("on_unknown_task", model.on_unknown_task, ("meta", "raise"))
    check_option("split", model.split, ("random", "first"))


def _given_rule(model):
    """The rule that `adaptation` names or is, or None."""
    if np.ndim(model.inner_lr):
        raise TypeError(
            "inner_lr must be a positive number or 'auto'; for one a parameter pass "
            f"adaptation=GradientSteps(inner_lr=...); got {model.inner_lr!r}."
        )
    if model.adaptation is None:
        return default_rule(model.inner_lr, model.n_steps)
    if model.inner_lr is not None or model.n_steps is not None:
        raise ValueError(
            f"inner_lr={model.inner_lr!r} and n_steps={model.n_steps!r} have no effect "
            "with adaptation=...; set them on the adaptation rule instead."
        )
    return clone(resolve(model.adaptation, RULES, AdaptationRule, "adaptation"))
