"""Scores of candidates that have the same features: by sums over tasks, or by a fit for each fold.

Where a rule is given, folds and penalties are subtracted from one set of normal equations
(`leave_tasks_out`). A rule that is learned is learned for each fold anew, lest it know the tasks
that it is judged by. What does not depend on the candidate is made once: features, folds, the
splits of their tasks, and covariances that do not depend on the penalty.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._estimators.defaults import gradient_rule
from sklearn_maml._estimators.fitting import episodes_of, keep_facts, minimum
from sklearn_maml._estimators.prediction import feature_names_of
from sklearn_maml._learning.problem import LearningProblem
from sklearn_maml._objective.quadratic import refuse_too_wide
from sklearn_maml._parallel import one_blas_thread
from sklearn_maml._progress import report
from sklearn_maml._tasks.stacks import Blocks
from sklearn_maml.model_selection.leave_tasks_out import Folds, r2_at

__all__ = ["SameFeatures"]


@dataclass(frozen=True, eq=False)
class SameFeatures:
    """Tasks with their features, split into folds, on which candidates are tried.

    Attributes
    ----------
    rows : TaskRows
    featurizer : FittedFeaturizer
        To these rows.
    intercept : bool
        Whether there is one.
    splits : list of (train, test)
        Boolean arrays of shape (n_tasks,).
    judging : Episodes or None
        By which candidates are judged; None judges them as tasks are split for their fit.
    """

    rows: Any
    featurizer: Any
    intercept: bool
    splits: list
    judging: Any
    _stacked: dict = field(init=False, repr=False, default_factory=dict)

    def given(self, candidate, alphas):
        """Folds and objective of a rule that is given, whatever the penalty.

        Parameters
        ----------
        candidate : Candidate
            One of those that differ in their penalty alone.
        alphas : list of float

        Returns
        -------
        folds : Folds
        objective : MetaObjective
            Of all tasks, without a penalty; its scores are ``folds.scores(objective)``.
        learned : LearnedMetric or None
            What the rule says of itself.
        """
        model, plan = candidate.model, candidate.plan
        blocks, judged = self._whole(plan.episodes)
        folds = Folds(blocks, self.splits, alphas, model.n_jobs, judged)
        if plan.rule is None:
            rule, learned = gradient_rule(model.inner_lr, model.n_steps, blocks, model.n_jobs), None
        else:
            names = feature_names_of(model, self.featurizer.transformer)
            problem = LearningProblem(folds.objective(plan.rule), plan.solver, names)
            rule, learned = plan.rule.learn(problem)
        return folds, folds.objective(rule), learned

    def learned(self, candidates):
        """Scores by fits to each fold, shape (n_splits, n_candidates)."""
        scores = np.empty((len(self.splits), len(candidates)))
        for s, (train, test) in enumerate(self.splits):
            tasks, fits = self.rows.tasks.only(train), {}
            for c, candidate in enumerate(candidates):
                model, plan = candidate.model, candidate.plan
                episodes = episodes_of(plan, tasks)
                if episodes not in fits:  # candidates share rows, splits, and what is known of them
                    held_out = self._whole(plan.episodes)[1].only(test)
                    fits[episodes] = Blocks(tasks, self._features, episodes), {}, held_out
                blocks, facts, held_out = fits[episodes]
                keep_facts(model, episodes, self.rows.untold)
                with one_blas_thread():
                    found = minimum(model, plan, blocks, self.featurizer.transformer, facts)
                    objective, theta = found
                    scores[s, c] = r2_at(objective.vary(blocks=held_out), theta)
                report(f"{candidate.told()}, split {s}: R2 {scores[s, c]:.6g}", model.verbose)
        return scores

    @cached_property
    def _features(self):
        return self.featurizer.training_features(self.rows.X, self.intercept)

    def _whole(self, episodes):
        """All tasks, split for a fit, and to be judged."""
        if episodes not in self._stacked:
            blocks = Blocks(self.rows.tasks, self._features, episodes)
            refuse_too_wide(blocks, products=True)
            judged = blocks if self.judging is None else blocks.split(self.judging)
            self._stacked[episodes] = blocks, judged
        return self._stacked[episodes]
