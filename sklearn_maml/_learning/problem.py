"""What a rule may ask when it is learned: it gets a problem, just as `adapt` gets a risk.

A rule chooses what is to be learned and in which coordinates. It never sees a solver: theta is
found here, for each candidate, so that a rule knows nothing of how meta-losses are minimised.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml._learning.doubt import doubt_of
from sklearn_maml._learning.learned_metric import LearnedMetric
from sklearn_maml._learning.noise import noise_variance
from sklearn_maml._learning.proximal import learn_covariance
from sklearn_maml._learning.random_effects import random_effects_of
from sklearn_maml._learning.starts import learn_starts, shots_of_starts
from sklearn_maml._learning.step_lengths import learn_lengths
from sklearn_maml._learning.task_noise import noise_of_tasks
from sklearn_maml._learning.variable_projection import Profile, best_scale, minimize_query_loss
from sklearn_maml._progress import warn_user
from sklearn_maml._tasks.features import parameter_names

__all__ = ["LearningProblem"]

# A query loss below this share of that of predicting 0 is rounding.
EXACT = 1e-20


@dataclass(frozen=True, eq=False)
class LearningProblem:
    """Training tasks, as a rule that is learned from them sees them.

    Parameters
    ----------
    objective : MetaObjective
        With the rule as the user gave it, its tasks split as in `fit`.
    solver : Solver
        Finds theta for each candidate rule.
    feature_names : array-like of str, default=None
        Of the features, where they are known.
    coarse : bool, default=False
        Whether what is learned is only compared with the like, so that likelihoods need not be
        maximised to the end, nor anybody be warned of that.
    facts : dict
        What is known of the tasks whatever the penalty is, and what is given of the rule: problems
        of the same blocks may share one.
    """

    objective: Any
    solver: Any
    feature_names: Any = None
    coarse: bool = False
    facts: dict = field(default_factory=dict)

    @property
    def loss(self):
        """The loss, to be asked for facts such as ``constant_hessian``."""
        return self.objective.loss

    @property
    def is_quadratic(self):
        """Whether the meta-loss is a quadratic in theta."""
        return self.objective.is_quadratic

    @property
    def n_tasks(self):
        """How many tasks weigh something. One task does not show how tasks differ."""
        return int(np.count_nonzero(self.objective.blocks.tasks.weight))

    @property
    def n_rows(self):
        """How many rows all tasks have."""
        return int(self.objective.blocks.tasks.offsets[-1])

    @property
    def shows_differences(self):
        """Whether it can be seen how tasks differ: there are two, and some have two rows."""
        return self.objective.blocks.tasks.show_differences

    @property
    def n_parameters(self):
        """d, with the intercept's."""
        return self.objective.n_parameters

    @property
    def n_targets(self):
        """The number of targets, or 0 where targets have one axis."""
        return self.objective.n_targets

    @property
    def has_query_rows(self):
        """Whether tasks are judged on rows that they were not adapted to."""
        return self.objective.blocks.episodes.support != "all"

    def need_query_rows(self, what):
        """Raise ValueError unless there are query rows to learn `what` on."""
        if not self.has_query_rows:
            raise ValueError(
                f"support='all' leaves no query rows of their own to learn {what} on; give "
                "support= a number of rows, a list of them or a fraction, or use support='auto'."
            )

    def is_interpolated(self, rule):
        """Whether theta fits all rows exactly: the query loss is rounding then, whatever the rule.

        A penalty keeps it from that, and so may features that depend on one another.

        Parameters
        ----------
        rule : AdaptationRule
            With all its parameters set.
        """
        objective = self.objective.vary(rule=rule)
        if not self.is_quadratic or self.n_rows > self.n_parameters or objective.penalty.any():
            return False
        return self.query_loss(rule) <= EXACT * objective.value(objective.origin())

    def shows(self, what, rule):
        """Whether the query loss can tell `what` of a rule; a warning, where it cannot."""
        if not self.is_interpolated(rule):
            return True
        warn_user(
            f"{self.n_rows} rows do not tell {what}: one theta of {self.n_parameters:,} parameters "
            "fits them all exactly, so nothing is learned of it, nor of the noise. Make fewer "
            "features, for example by featurizer=PCA(10), or give alpha > 0.",
            ConvergenceWarning,
        )
        return False

    @property
    def _varying(self):
        blocks, n_jobs = self.objective.blocks, self.objective.n_jobs
        return self._once("effects", lambda: random_effects_of(blocks, n_jobs))

    def _once(self, fact, make):
        if fact not in self.facts:
            self.facts[fact] = make()
        return self.facts[fact]

    def random_effects(self, which=None):
        """Which features' effects can differ between tasks.

        Parameters
        ----------
        which : None, "intercept", or array-like of names, positions or booleans
            Of features; the intercept's effect differs too. None is all that vary within tasks.

        Returns
        -------
        RandomEffects
        """
        return self._varying.only(which, self.feature_names)

    @property
    def parameter_names(self):
        """Names of the d parameters: those of the features, or "x0", ..., and "intercept"."""
        intercept = self.objective.blocks.features.intercept
        return parameter_names(self.feature_names, self.n_parameters, intercept)

    @property
    def standardization(self):
        """Coordinates in which features are centred and of unit size."""
        return self._varying.standard

    def query_loss(self, rule):
        """The smallest meta-loss over theta with that rule.

        Parameters
        ----------
        rule : AdaptationRule
            With all its parameters set.

        Returns
        -------
        float
            Infinite where it overflows.
        """
        return Profile(self.objective, self.objective.blocks, self.solver)(rule)[-1]

    def best_scale(self, make_rule, near=False, theta=None):
        """The scale of a family of rules that leaves the smallest meta-loss.

        Parameters
        ----------
        make_rule : callable
            From a positive number to a rule, which moves tasks further the larger it is.
        near : bool, default=False
            Whether a scale of 1 is about right.
        theta : ndarray, default=None
            Meta-parameters that are about right for all these rules; None finds those of each.

        Returns
        -------
        float
        """
        return best_scale(self.objective, self.solver, make_rule, near, theta)

    def minimize(self, start, make_rule, chain, bounds=None, pull=0.0):
        """Coordinates of the rule that leaves the smallest meta-loss, by L-BFGS.

        Parameters
        ----------
        start : ndarray of shape (k,)
        make_rule : callable
            From coordinates to a rule, whose `slope` is asked.
        chain : callable
            From coordinates and the slope, summed over tasks, to the derivative in the coordinates.
        bounds : list of (float, float), default=None
        pull : float, default=0.0
            What a squared distance of 1 from the start costs, in units of the loss there.

        Returns
        -------
        x : ndarray of shape (k,)
        n_iter : int
        converged : bool
        """
        sought = start, make_rule, chain, bounds, pull
        return minimize_query_loss(self.objective, self.solver, *sought)

    def given_covariance(self, metric):
        """The `LearnedMetric` of a covariance that needs no learning."""
        varies = metric.factor.any(axis=1)
        return LearnedMetric("given", None, "as given", 1.0, varies, self.parameter_names)

    def covariance(self, effects, structure, criterion, reason, make_rule):
        """How tasks differ: the covariance of their parameters.

        Parameters
        ----------
        effects : RandomEffects
            What differs between them.
        structure : {"identity", "intercept", "diagonal", "full"}
        criterion : {"reml", "query"} or None
        reason : str
            Why these were chosen, for the report.
        make_rule : callable
            From a `Metric` to the rule that shrinks by it, for the query loss.

        Returns
        -------
        metric : Metric
            Sigma, in units of the noise's variance by "reml". Without a direction where there is
            only one task.
        learned : LearnedMetric
        """
        sought = effects, structure, criterion, reason, make_rule
        if criterion != "reml" or not self.is_quadratic:  # theta, and so the penalty, takes part
            return learn_covariance(self, *sought)
        fact = structure, reason, effects.varies.tobytes()
        return self._once(fact, lambda: learn_covariance(self, *sought))

    def step_lengths(self, make_rule):
        """One length a parameter, on the query loss: a `LearnedSteps`.

        Parameters
        ----------
        make_rule : callable
            From lengths (d,) to the rule, smooth in them.
        """
        return learn_lengths(self, make_rule)

    def starts(self, rule):
        """By how much tasks start from elsewhere than theta, by their number of first rows.

        Parameters
        ----------
        rule : AdaptationRule
            With all its other parameters set.

        Returns
        -------
        Starts or None
            None where rows have no order, or held-out tasks are predicted better without.
        """
        if not (self.is_quadratic and self.has_query_rows) or self.n_tasks < 2:
            return None
        shots = shots_of_starts(self.objective)
        if len(shots) < 2:  # known before the data are passed over
            return None
        objective, theta, _ = Profile(self.objective, self.objective.blocks, self.solver)(rule)
        return learn_starts(objective, theta, shots, self._varying)

    def doubt(self, varies):
        """What is not known of theta and of the covariance of some effects, as a `Doubt`."""
        return doubt_of(self.objective, varies)

    def task_noise(self, theta, given, freedom):
        """How the variance of the noise differs between tasks; see `noise_of_tasks`."""
        return noise_of_tasks(self.objective, theta, given, freedom)

    def noise(self, theta, rule):
        """The variance of the noise, as a `Noise`, from residuals at theta with the set rule."""
        return noise_variance(self.objective, theta, rule)
