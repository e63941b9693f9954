"""How sure a rule is of tasks that it shrinks towards a prior: in closed form, for a square."""

import numpy as np

from sklearn_maml._linalg import chain, flat_matmul
from sklearn_maml._objective.risk import Risk
from sklearn_maml._typing import Floats
from sklearn_maml.adaptation.doubt import Doubt, crossed_grams, unknown_of_tasks
from sklearn_maml.adaptation.prior import Noise
from sklearn_maml.adaptation.ridge import ridge_gain
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.adaptation.task_noise import TaskNoise, prior_squares

__all__ = ["Shrinking"]


class Shrinking(AdaptationRule):
    """A rule that shrinks tasks towards theta, by a covariance of their parameters.

    A subclass has a `strength`, a `noise`, a `doubt` and a `task_noise`, and the methods `_metric`
    and `_strength`.
    """

    def spread(self, V: Floats, risk: Risk | None = None) -> Floats:
        """Variance of ``V theta_i`` given the support rows, in units of the noise's.

        Parameters
        ----------
        V : ndarray of shape (..., k, d)
        risk : Risk, default=None
            Support rows; None for a task of which nothing is known.

        Returns
        -------
        ndarray of shape (..., k)
        """
        metric = self._metric(V.shape[-1])
        rows = metric.rows(V)
        left = rows
        if risk is not None:
            support = metric.rows(risk.features)
            gain = ridge_gain(risk.weights, support, self._strength(risk))
            left = rows - np.matmul(np.matmul(rows, gain), support)
        return np.maximum((left * rows).sum(axis=-1), 0.0) / self.strength

    def spread_of_theta(self, V: Floats, risk: Risk | None = None) -> Floats | float:
        """Variance of ``V J_i theta`` by what is not known of theta; arguments as of `spread`."""
        return self.doubt.of_theta(self._pulled(V, risk)) if self._doubts else 0.0

    @property
    def _doubts(self):
        """Whether it is known what is not known of theta, as it is after `calibrate`."""
        return isinstance(self.doubt, Doubt)

    def _pulled(self, V, risk):
        """``V J_i`` for rows V (..., k, d)."""
        if risk is None:
            return V
        metric = self._metric(V.shape[-1])
        rows = metric.rows(risk.features)
        gain = ridge_gain(risk.weights, rows, self._strength(risk))
        return V - chain(metric.rows(V), gain, risk.features)

    def _taken(self, risk):
        """``tr(E P_i E')``: see `Doubt`."""
        rows = self._metric(risk.features.shape[-1]).rows(risk.features)
        gain = ridge_gain(risk.weights, rows, self._strength(risk))
        seen = flat_matmul(risk.features, self.doubt.sigma.T)
        crossed = (risk.weights[..., None] * seen * (seen - chain(rows, gain, seen))).sum((-2, -1))
        return risk.n_rows * crossed

    def deviation(self, V: Floats, risk: Risk | None = None) -> Floats | None:
        """By the noise and all that is not known, where the noise is; see `AdaptationRule`."""
        if self.noise is None:
            return None
        unknown = self.spread(V, risk)
        n_rows = np.zeros(V.shape[:-2]) if risk is None else risk.n_rows
        if self._doubts:
            taken = n_rows if risk is None else self._taken(risk)
            unknown = unknown + self.doubt.of_rows(self._pulled(V, risk), taken)
        noise = Noise.read(self.noise).at(n_rows)
        if self.of_targets and risk is not None:
            noise = noise * self.task_noise.ratio(n_rows, self.squares(risk).T)
        return np.sqrt(noise.T[..., None] * (1.0 + unknown))

    @property
    def of_targets(self) -> bool:
        """Whether the variance of the noise is a task's own, as its rows tell."""
        return isinstance(self.task_noise, TaskNoise)

    def quantile(self, q: float, n_rows: Floats) -> Floats:
        """Of Student's t where tasks have a noise of their own; see `AdaptationRule.quantile`."""
        if self.of_targets:
            return self.task_noise.quantile(q, n_rows)
        return super().quantile(q, n_rows)

    def squares(self, risk: Risk) -> Floats:
        """Q of support rows about their adapted parameters, in absolute terms.

        Parameters
        ----------
        risk : Risk
            See `AdaptationRule.information`.

        Returns
        -------
        ndarray of shape (...) or (n_targets, ...)
            See `prior_squares`.
        """
        rows = self._metric(risk.features.shape[-1]).rows(risk.features)
        weights = risk.n_rows[..., None] * risk.weights
        return prior_squares(rows, weights, risk.targets, self.strength)

    def information(self, risk: Risk) -> Floats:
        """Rows, their `squares`, and what `crossed_grams` makes of them; see `AdaptationRule`."""
        root = np.sqrt(risk.weights / self._strength(risk)[..., None])
        scaled = root[..., None] * risk.features
        rows = self._metric(risk.features.shape[-1]).rows(scaled)
        flat = crossed_grams(rows, scaled, self.doubt if self._doubts else None)
        told = [np.broadcast_to(risk.n_rows, flat.shape[:-1])]
        if self.of_targets:
            told.extend(self.squares(risk).reshape(-1, *told[0].shape))
        return np.concatenate([np.stack(told, axis=-1), flat], axis=-1)

    def posterior(self, n_parameters: int, information: Floats | None = None) -> Floats:
        """``U'U = L (I + G_i)^-1 L' / strength``; see `AdaptationRule.posterior`.

        Of normal parameters under normal noise it does not depend on targets. For other losses it
        is Laplace's approximation about theta_i, whose noise is half the loss's dispersion.
        """
        return self._unknown(n_parameters, information)[0]

    def _unknown(self, n_parameters, information):
        """The `posterior`, and the same of what was estimated; see `unknown_of_tasks`."""
        metric, doubt = self._metric(n_parameters), self.doubt if self._doubts else None
        if information is None:
            nothing = np.zeros((1, 1, n_parameters))
            flat = crossed_grams(metric.rows(nothing), nothing, doubt)
        else:
            flat = information[:, 1 + self._n_squares :]
        return unknown_of_tasks(metric.factor, self.strength, doubt, flat)

    def uncertainty(
        self, n_parameters: int, information: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """The `posterior`, what is not known of theta, and the noise; see `AdaptationRule`."""
        if self.noise is None:
            raise ValueError(
                f"{self!r} has no variance of the noise, which MAMLRegressor.fit estimates for the "
                "squared error, unless theta fits all rows exactly."
            )
        n_rows = np.zeros(1) if information is None else information[:, 0]
        unknown = np.concatenate(self._unknown(n_parameters, information), axis=1)
        return Noise.read(self.noise).at(n_rows) * self.noise_ratio(information), unknown

    def noise_ratio(self, information: Floats | None = None) -> Floats | float:
        """The variance of tasks' noise, in units of the shared one; see `AdaptationRule`."""
        if information is None or not self.of_targets:
            return 1.0
        squares = information[:, 1 : 1 + self._n_squares]
        squares = squares.reshape(-1, *self.task_noise.freedom.shape)
        return self.task_noise.ratio(information[:, 0], squares)

    @property
    def _n_squares(self):
        """How many of the columns of `information` are squares: one a target, or none."""
        return self.task_noise.freedom.size if self.of_targets else 0
