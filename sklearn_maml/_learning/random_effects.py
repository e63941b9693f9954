"""Random effects: which features' effects can differ between tasks, and how much they do by REML.

The mixed model is that of `reml`, in standardised features: its likelihood is then well scaled,
and does not depend on the units or the origin of a feature.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sklearn_maml._learning.reml import Moments, fit_reml
from sklearn_maml._learning.structure import Structure
from sklearn_maml._linalg import vecmat
from sklearn_maml._objective.meta_objective import add_parts
from sklearn_maml._objective.parallel import one_blas_thread
from sklearn_maml._tasks.stacks import moments
from sklearn_maml.adaptation.prior import Metric
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "RandomEffects",
    "fit_covariance",
    "random_effects_of",
]

# A feature varies within tasks if this share of its variance, or more, is within tasks.
VARIES = 1e-10

# Directions of standardised features whose mean square is below this share of the largest's are
# left out of the mixed model: they are sums of others.
COLLINEAR = 1e-12


@dataclass(frozen=True, eq=False)
class RandomEffects:
    """Standardised features, and which of them can differ in their effect from task to task.

    Attributes
    ----------
    standard : Standardization
    varies : ndarray of bool, shape (d,)
        Features that vary within tasks, and the constant one.
    gram : ndarray of shape (d, d)
        Mean products of the standardised features over all rows.
    intercept : bool
        Whether the last feature is the intercept's.
    """

    standard: Standardization
    varies: np.ndarray
    gram: np.ndarray
    intercept: bool

    @property
    def lift(self):
        """T of shape (d, q): parameters of the standardised features that vary to all d."""
        return self.standard.lift(np.eye(len(self.varies))[self.varies]).T

    def ties(self, kind):
        """Which standard deviation each of the q effects has in a diagonal metric, shape (q,)."""
        q = int(self.varies.sum())
        if kind == "diagonal" or not self.intercept or q == 1:
            return np.arange(q)
        return np.append(np.zeros(q - 1, dtype=int), 1)


def random_effects_of(blocks):
    """The `RandomEffects` of all rows of some tasks.

    Parameters
    ----------
    blocks : Blocks

    Returns
    -------
    RandomEffects
    """
    intercept = bool(blocks.features.intercept)
    mean, deviation = moments(blocks)
    standard = Standardization.from_moments(mean, deviation, intercept, 1.0)
    gram, within = 0.0, 0.0
    for block in blocks.unsplit():
        rows, share = standard.rows(block.support.features), block.support.weights
        centre = vecmat(share, rows)
        share = block.weight[:, None] * share
        within = within + np.einsum("nm,nmd->d", share, (rows - centre[:, None, :]) ** 2)
        flat = (np.sqrt(share)[..., None] * rows).reshape(-1, len(mean))
        gram = gram + flat.T @ flat
    total = np.diagonal(gram) - (0.0 if intercept else (mean / standard.scale) ** 2)
    varies = (within > VARIES * total) & (within > VARIES)
    if intercept:
        varies[-1] = True
    else:
        varies |= (deviation <= 1e-12 * np.abs(mean)) & (mean != 0)
    return RandomEffects(standard, varies, gram, intercept)


def _whitening(gram):
    """(d, r): combinations of features that are uncorrelated, of unit size, and not null."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > COLLINEAR * values.max(initial=0.0)
    return vectors[:, kept] / np.sqrt(values[kept])


def fit_covariance(objective, effects, kind):
    """Fit a linear mixed model to the rows of all tasks.

    Parameters
    ----------
    objective : MetaObjective
        With a loss of constant Hessian.
    effects : RandomEffects
    kind : {"intercept", "diagonal", "full"}
        The structure of the covariance, in standardised features.

    Returns
    -------
    metric : Metric
        Covariance of the random effects in units of the residual variance.
    model : MixedModel
        Its fixed effects and log likelihood are those of the features; `relative` is not.
    """
    fixed_basis = _whitening(effects.gram)
    random_basis = np.eye(int(effects.varies.sum()))
    if kind == "full":
        random_basis = _whitening(effects.gram[np.ix_(effects.varies, effects.varies)])
    whole = objective.vary(blocks=objective.blocks.unsplit())
    collected = _collect(whole, effects, random_basis, fixed_basis)
    q = random_basis.shape[1]
    with one_blas_thread():
        model = fit_reml(collected, _structure(kind, q, effects))
    lift = effects.standard.lift(fixed_basis.T).T
    volume = collected.n_targets * np.log(np.linalg.svd(lift, compute_uv=False)).sum()
    model = replace(
        model,
        fixed=model.fixed @ lift.T,
        log_likelihood=float(model.log_likelihood + volume),
    )
    values, vectors = np.linalg.eigh(model.relative)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return Metric(effects.lift @ random_basis @ root), model


def _structure(kind, q, effects):
    """The `Structure` of q random effects."""
    return Structure.full(q) if kind == "full" else Structure.diagonal(effects.ties(kind))


def _collect(objective, effects, random_basis, fixed_basis):
    """The `Moments` of all rows, task by task."""
    collect = partial(_task_moments, objective, effects, random_basis, fixed_basis)
    gram, cross, share, total, n_rows = objective.fold(collect, add_parts)
    tasks = objective.blocks.tasks
    return Moments(
        gram=np.concatenate(gram, axis=-1),
        cross=np.concatenate(cross, axis=-1),
        count=np.concatenate(share) * tasks.count,
        total=sum(total) * tasks.count,
        n_rows=float(sum(n_rows) * tasks.count),
        n_targets=objective.n_targets or 1,
    )


def _task_moments(objective, effects, random_basis, fixed_basis, i):
    """Lists of block i's moments; targets are those that a loss of constant Hessian works on."""
    risk, _, share = objective.risks(i)
    rows = effects.standard.rows(risk.features)
    random = rows[..., effects.varies] @ random_basis
    zero = np.zeros(risk.targets.shape)
    targets = -risk.loss.gradient(risk.targets, zero) / risk.loss.hessian_bound
    targets = np.moveaxis(targets.reshape(-1, *risk.weights.shape), 0, -1)
    both = np.concatenate([rows @ fixed_basis, targets], axis=-1)
    weighted = (risk.size[:, None] * risk.weights)[..., None] * both
    cross = np.matmul(np.swapaxes(random, -1, -2), weighted)
    root = (risk.size[:, None] * risk.weights)[..., None] * random
    gram = np.matmul(np.swapaxes(random, -1, -2), root)
    flat = both.reshape(-1, both.shape[-1])
    total = (share[:, None, None] * weighted).reshape(flat.shape).T @ flat
    gram, cross = np.moveaxis(gram, 0, -1), np.moveaxis(cross, 0, -1)
    return [gram], [cross], [share], [total], [share @ risk.size]
