"""How long a gradient step is: capped by the support Hessian's largest eigenvalue, or damped.

With lambda_i a bound on that eigenvalue (docs: theory, "Inner loops"):

    a step as it is given      eta
    capped                     min(eta, 1 / lambda_i)
    relative                   eta / lambda_i
    damped                     1 / hypot(1 / eta, lambda_i(theta)),   or eta / lambda_i(theta)

Steps are damped where the loss has no largest curvature, so that no cap holds for all theta. Their
length then depends on where they start, and its derivative is part of the pullback.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import curvature_norm, largest_eigenvalue, vecmat

__all__ = ["EvenLengths", "StepLength", "check_step_lengths"]

# A step of exactly 1 / lambda_max would erase theta along that task's steepest direction.
MARGIN = 1.01


def check_step_lengths(inner_lr):
    """Raise unless `inner_lr` is a positive number, or a row of numbers that are not negative."""
    if np.ndim(inner_lr) == 0:
        if isinstance(inner_lr, bool) or not isinstance(inner_lr, Real):
            raise TypeError(
                "inner_lr must be a positive number, one a parameter, or 'learn'; "
                f"got {inner_lr!r}."
            )
        if not 0 < inner_lr < np.inf:
            raise ValueError(f"inner_lr must be positive and finite; got {inner_lr}.")
        return
    lengths = np.asarray(inner_lr)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iuf":
        raise TypeError(f"inner_lr must be a number, or one a parameter; got {inner_lr!r}.")
    if not (np.isfinite(lengths).all() and (lengths >= 0).all() and (lengths > 0).any()):
        raise ValueError(
            f"inner_lr must be finite, nowhere negative and not all zero; got {inner_lr!r}."
        )


@dataclass(frozen=True)
class StepLength:
    """The length of steps, of the largest where each parameter has one of its own.

    Attributes
    ----------
    longest : float
        eta.
    cap, relative : bool
        As in `GradientSteps`.
    """

    longest: float
    cap: bool
    relative: bool

    def is_damped(self, loss):
        """Whether the length depends on where a step starts."""
        return (self.cap or self.relative) and not np.isfinite(loss.hessian_bound)

    def damped(self, geometry, theta):
        """The length of a damped step from theta, and how fast it shortens.

        Parameters
        ----------
        geometry : Geometry
        theta : ndarray of shape (..., n, d)

        Returns
        -------
        length : ndarray of shape (..., n)
        shortening : ndarray of shape (..., n, d)
            Minus the gradient of log(length) in theta.
        """
        risk = geometry.risk
        z = risk.predict(theta)
        curvature = _damping_curvature(risk, z)
        safe = np.where(curvature > 0, curvature, 1.0)
        largest, shares = curvature_norm(geometry.rows, risk.weights * curvature)
        hessian = risk.loss.hessian(risk.targets, z)
        slopes = shares * (hessian / safe) * (risk.loss.third(risk.targets, z) / safe)
        if self.relative:
            longest = min(self.longest, 1.0) if self.cap else self.longest
            length = longest / np.where(largest > 0, largest, 1.0)
        else:
            length = 1.0 / np.hypot(1.0 / self.longest, largest)
            slopes = slopes * np.square(length * largest)[..., None]
        return length, vecmat(slopes, risk.features)

    def shares(self, geometry, start, length):
        """Minus the gradient of log(length) in the logarithms of a metric's ratios, (..., d).

        Parameters
        ----------
        geometry : Geometry
        start : ndarray of shape (..., n, d)
            Where the damped step starts.
        length : ndarray of shape (..., n)
        """
        risk = geometry.risk
        root = np.sqrt(risk.weights * _damping_curvature(risk, risk.predict(start)))
        # The rows' transpose has the same eigenvalues, and a column for each parameter.
        columns = np.swapaxes(root[..., None] * geometry.rows, -1, -2)
        largest, shares = curvature_norm(columns, np.ones(columns.shape[-2]))
        return shares * np.square(length * largest)[..., None]

    def saturated(self, geometry):
        """``eta lambda_i`` where predictions fit the targets exactly, shape (n,)."""
        risk = geometry.risk
        at_targets = risk.weights * risk.loss.saturated_hessian(risk.targets)
        largest, _ = curvature_norm(geometry.rows, at_targets)
        return self.longest * largest.reshape(-1, *risk.weights.shape[:-1]).max(axis=0)


class EvenLengths:
    """The lengths of a stack's steps where they depend on no theta; computed once.

    Parameters
    ----------
    step : StepLength
    geometry : Geometry
        Of the support rows of n tasks, whose loss has a finite `hessian_bound`.
    """

    def __init__(self, step, geometry):
        self.step, self.geometry = step, geometry
        self.facts = {}  # see `InnerLoop.recall`

    @property
    def _largest(self):
        """lambda_i, shape (n,); a larger bound where even that shortens no step."""
        if "largest" not in self.facts:
            self.facts["largest"] = self._found_largest()
        return self.facts["largest"]

    def _found_largest(self):
        if self.step.relative:  # every eigenvalue is asked for: a bound would be of no use
            bound, enough = np.asarray(np.trace(self.gram, axis1=-2, axis2=-1)), 0.0
        else:
            bound, enough = np.asarray(self.geometry.trace(self._weights)), self._uncapped
        near = bound > enough
        if near.any():
            gram = self.gram if near.all() and near.ndim else self.gram[near]
            bound[near] = MARGIN * largest_eigenvalue(gram, enough=enough / MARGIN)
        return bound

    @property
    def _uncapped(self):
        """A bound up to this one caps no step."""
        return 1.0 / self.step.longest

    @property
    def _weights(self):
        return self.geometry.risk.weights * self.geometry.risk.loss.hessian_bound

    @cached_property
    def gram(self):
        """The support Hessian at its largest, from the rows or the features."""
        return self.geometry.gram(self._weights)

    @cached_property
    def length(self):
        """eta_i, shape (n,)."""
        step = self.step
        if step.relative:
            longest = min(step.longest, 1.0) if step.cap else step.longest
            return longest / np.where(self._largest > 0, self._largest, 1.0)
        if step.cap:
            return 1.0 / np.maximum(1.0 / step.longest, self._largest)
        return np.full(self.geometry.risk.weights.shape[:-1], step.longest)

    @cached_property
    def relative(self):
        """``eta lambda_i`` before the cap, shape (n,)."""
        if self.step.relative:
            return np.full(self.geometry.risk.weights.shape[:-1], self.step.longest)
        return self.step.longest * self._largest


def _damping_curvature(risk, z):
    """The curvatures by which a step is damped, shape (..., m).

    That at the target, too, keeps a step from far below it, where l'' is tiny, from overshooting.
    """
    hessian = risk.loss.hessian(risk.targets, z)
    return np.hypot(hessian, risk.loss.saturated_hessian(risk.targets))
