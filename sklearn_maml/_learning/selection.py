"""Which structure of a covariance predicts best: mixed models of some tasks, judged on the others.

A likelihood always prefers more parameters. What counts is the query loss of tasks that took no
part: they adapt from the fixed effects of the model, by its covariance, and are judged on query
rows. Everything is fitted by REML on moments that are collected once.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sklearn_maml._learning.decrement import measured
from sklearn_maml._learning.mixed_design import mixed_design
from sklearn_maml._learning.mixed_moments import Moments
from sklearn_maml._learning.reml import fit_low_rank, fit_reml
from sklearn_maml._learning.structure import Structure
from sklearn_maml._parallel import one_blas_thread

__all__ = ["COARSE", "choose_structure"]

# Numbers of factors beside a diagonal.
FACTORS = (1, 2, 4)

# Tasks are dealt to so many folds, and so many of them are enough to tell structures apart.
FOLDS, TASKS_FOR_CHOICE = 3, 2000

# -2 log likelihoods need be no more exact than this to be compared; the chosen one's is.
COARSE, FINE = 1e-2, 1e-6


@dataclass(frozen=True, eq=False)
class Candidate:
    """A structure that was tried.

    Attributes
    ----------
    kind : {"intercept", "low_rank"}
    k : int
        The number of factors beside the diagonal.
    model : MixedModel
        Of all tasks.
    loss : float
        On the query rows of held-out tasks.
    """

    kind: str
    k: int
    model: Any
    loss: float


def choose_structure(objective, effects, kinds, make_rule):
    """The structure whose mixed model leaves the smallest query loss on held-out tasks.

    Parameters
    ----------
    objective : MetaObjective
        Split into support and query rows.
    effects : RandomEffects
    kinds : sequence of {"intercept", "low_rank"}
        In standardised features; "low_rank" is a diagonal and 0, 1, 2 or 4 factors, of which there
        are more only while they help.
    make_rule : callable
        From a `Metric` to the rule that shrinks by it.

    Returns
    -------
    kind : str
    k : int
        The number of factors.
    metric : Metric
    model : MixedModel
        As `fit_covariance` returns it, of all tasks.
    """
    design = mixed_design(effects, "low_rank").about(objective)
    # Tasks that took no part judge by their loss: a penalty is for those that did.
    objective = objective.penalised(np.zeros_like(objective.penalty))
    blocks = objective.blocks.sample(TASKS_FOR_CHOICE)
    parts = [objective.vary(blocks=fold) for fold in _folds(blocks)]
    moments = [design.moments(part) for part in parts]
    q = len(effects.ties("diagonal"))

    def tried(kind, k=0, start=None):
        fit = partial(_fit, effects, kind, k)
        model, loss = fit(Moments.joined(moments), start), 0.0
        for i, held_out in enumerate(parts):
            others = Moments.joined(moments[:i] + moments[i + 1 :]).shrunk()
            metric, lifted = design.lifted(fit(others, model))
            theta = lifted.fixed if objective.n_targets else lifted.fixed[0]
            loss += held_out.vary(rule=make_rule(metric)).value(theta)
        return Candidate(kind, k, model, loss)

    with one_blas_thread():
        best = diagonal = tried("low_rank")
        for k in (k for k in FACTORS if k < q):
            more = tried("low_rank", k, diagonal.model)
            if more.loss >= best.loss:
                break
            best = more
        if "intercept" in kinds:
            best = min(best, tried("intercept"), key=lambda candidate: candidate.loss)
        whole = Moments.joined(moments) if blocks is objective.blocks else design.moments(objective)
        model = _fit(effects, best.kind, best.k, whole, best.model, FINE)
        if not best.k:
            model = measured(whole, _diagonal(effects, best.kind), model)
    return best.kind, best.k, *design.lifted(model)


def _folds(blocks):
    """The tasks that weigh something, dealt to folds at random."""
    weighty = np.flatnonzero(blocks.tasks.weight > 0)
    order = np.random.default_rng(blocks.episodes.seed).permutation(weighty)
    for start in range(min(FOLDS, len(order))):
        kept = np.zeros(len(blocks.tasks.weight), dtype=bool)
        kept[order[start::FOLDS]] = True
        yield blocks.only(kept)


def _fit(effects, kind, k, moments, start, tol=COARSE):
    """The mixed model with a diagonal, of which some entries may be tied, and k factors."""
    if k:
        return fit_low_rank(moments, k, start, tol=tol)
    return fit_reml(moments, _diagonal(effects, kind), start, tol=tol)


def _diagonal(effects, kind):
    return Structure.diagonal(effects.ties("intercept" if kind == "intercept" else "diagonal"))
