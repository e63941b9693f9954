"""In which combinations of features a mixed model is fitted, and what is collected for it."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.linalg import qr

from sklearn_maml._learning.mixed_moments import Moments, packed
from sklearn_maml._learning.structure import Structure
from sklearn_maml._linalg import matmul
from sklearn_maml._parallel import add_parts
from sklearn_maml.adaptation.prior import Metric

__all__ = ["MixedDesign", "mixed_design", "structure_of"]

# Directions of standardised features whose mean square is below this share of the largest's are
# left out of the mixed model: they are sums of others.
COLLINEAR = 1e-12


def _whitening(gram):
    """(d, r): combinations of features that are uncorrelated, of unit size, and not null."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > COLLINEAR * values.max(initial=0.0)
    return vectors[:, kept] / np.sqrt(values[kept])


@dataclass(frozen=True, eq=False)
class MixedDesign:
    """In which combinations of standardised features a mixed model is fitted.

    Attributes
    ----------
    effects : RandomEffects
    random : ndarray of shape (q_varies, q)
        Random effects, of unit size, in the standardised features that vary.
    fixed : ndarray of shape (d, r)
        Fixed effects, uncorrelated and of unit size, in all standardised features.
    shared : bool
        Whether the random effects are those of the first fixed ones.
    centre : ndarray of shape (t,) or float, default=0.0
        What moments take from targets, and fixed effects give back to the intercept: the square of
        an offset of 1e6 deviations would drown everything else.
    """

    effects: Any
    random: np.ndarray
    fixed: np.ndarray
    shared: bool
    centre: np.ndarray | float = 0.0

    def about(self, objective):
        """The same with targets centred, by the first block of tasks, if there is an intercept.

        Parameters
        ----------
        objective : MetaObjective
            With a loss of constant Hessian.
        """
        if not objective.blocks.features.intercept:
            return self
        risk, counts, targets, _ = _rows_of(objective.vary(blocks=objective.blocks.unsplit()), 0)
        ones = risk.features[..., -1]
        size = (counts * ones**2).sum()
        if not size > 0:  # the first tasks weigh nothing
            return self
        return replace(self, centre=np.einsum("nm,nmt->t", counts * ones, targets) / size)

    def moments(self, objective):
        """The `Moments` of all rows of an objective's tasks, whose loss has a constant Hessian."""
        whole = objective.vary(blocks=objective.blocks.unsplit())
        parts = whole.fold(partial(_task_moments, whole, self), add_parts)
        found = self.collected(parts, whole.blocks.tasks.count, whole.n_targets or 1)
        return replace(found, n_jobs=objective.n_jobs)

    def of_stack(self, features, counts, targets, share):
        """What a stack of n tasks adds to `Moments`, for `collected`.

        Parameters
        ----------
        features : ndarray of shape (n, m, d)
        counts : ndarray of shape (n, m)
            How many rows each row counts for, times its precision.
        targets : ndarray of shape (n, m, t)
        share : ndarray of shape (n,)
            How many tasks each task counts for, up to a factor.

        Returns
        -------
        parts, total : list of one
        """
        rows = self.effects.standard.rows(features)
        both = np.concatenate([rows @ self.fixed, targets], axis=-1)
        weighted = counts[..., None] * both
        flat = both.reshape(-1, both.shape[-1])
        total = (share[:, None, None] * weighted).reshape(flat.shape).T @ flat
        if self.shared:
            random = both[..., : self.random.shape[1]]
        else:
            random = rows[..., self.effects.varies] @ self.random
            weighted = np.concatenate([counts[..., None] * random, weighted], axis=-1)
        products = matmul(np.swapaxes(random, -1, -2), weighted)
        return [(packed(products), share)], [total]

    def collected(self, sums, count, n_targets, noise=None):
        """The `Moments` of all tasks.

        Parameters
        ----------
        sums : tuple of lists
            What `of_stack` returns, and the number of rows by share, of all blocks.
        count : float
            The number of tasks, by which shares are to be multiplied.
        n_targets : int
        noise : float, default=None
            The residual variance, where it is known.
        """
        parts, total, n_rows = sums
        q = self.random.shape[1]
        return Moments(
            parts=tuple((products, share * count) for products, share in parts),
            n_random=q,
            first_fixed=0 if self.shared else q,
            total=sum(total) * count,
            n_rows=float(sum(n_rows) * count),
            n_targets=n_targets,
            noise=noise,
        )

    def lifted(self, model):
        """The `Metric` of a mixed model, and the model with fixed effects of the features.

        The log likelihood becomes that of the features too; `relative` stays as it is.
        """
        lift = self.effects.standard.lift(self.fixed.T).T
        volume = len(model.noise) * _log_volume(lift)
        values, vectors = np.linalg.eigh(model.relative)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        varies = self.effects.varies
        fixed = model.fixed @ lift.T
        fixed[:, -1] += self.centre
        gram = self.random.T @ self.effects.gram[np.ix_(varies, varies)] @ self.random
        return Metric(self.effects.lift @ self.random @ root), replace(
            model,
            between=float((model.relative * gram).sum()),
            fixed=fixed,
            log_likelihood=float(model.log_likelihood + volume),
        )


def _log_volume(columns):
    """The log of the volume that columns (d, r) span, whatever the units of their rows.

    By singular values that of a row of 1e-20 would drown in the rounding of one of 1. A QR
    decomposition with column pivoting, large rows first, is right row by row (Cox and Higham,
    "Stability of Householder QR factorization for weighted least squares problems", 1998).
    """
    order = np.argsort(-np.abs(columns).max(axis=1, initial=0.0))
    triangle, _ = qr(columns[order], mode="r", pivoting=True)
    return np.log(np.abs(np.diagonal(triangle))).sum()


def mixed_design(effects, kind):
    """The `MixedDesign` in which covariances of a kind have the structure that it says.

    Parameters
    ----------
    effects : RandomEffects
    kind : {"intercept", "diagonal", "low_rank", "full"}
        "diagonal" is one in the features' own coordinates; for "full" they do not matter.
    """
    fixed, q = _whitening(effects.gram), int(effects.varies.sum())
    if kind == "full":
        random = _whitening(effects.gram[np.ix_(effects.varies, effects.varies)])
        return MixedDesign(effects, random, _beginning_with(random, fixed, effects), shared=True)
    random = effects.own_basis if kind == "diagonal" else np.eye(q)
    return MixedDesign(effects, random, fixed, shared=False)


def _beginning_with(random, fixed, effects):
    """Uncorrelated fixed effects of which the first are the random ones: (d, r)."""
    first = np.zeros((len(effects.varies), random.shape[1]))
    first[effects.varies] = random
    directions, size, _ = np.linalg.svd(fixed.T @ effects.gram @ first)
    return np.column_stack([first, fixed @ directions[:, np.count_nonzero(size > 0.5) :]])


def structure_of(design, kind):
    """The `Structure` of a covariance of a kind, in a `MixedDesign`."""
    if kind == "full":
        return Structure.full(design.random.shape[1])
    return Structure.diagonal(design.effects.ties(kind))


def _task_moments(objective, design, i):
    """Lists of block i's moments; targets are those that a loss of constant Hessian works on."""
    risk, counts, targets, share = _rows_of(objective, i)
    targets = targets - design.centre * risk.features[..., -1:]
    return *design.of_stack(risk.features, counts, targets, share), [share @ risk.size]


def _rows_of(objective, i):
    """Block i's risk, how many rows each row counts for, targets (n, m, t), and tasks' shares."""
    risk, _, share = objective.risks(i)
    targets = risk.residuals(np.zeros(risk.targets.shape))
    targets = np.moveaxis(targets.reshape(-1, *risk.weights.shape), 0, -1)
    return risk, risk.size[:, None] * risk.weights, targets, share
