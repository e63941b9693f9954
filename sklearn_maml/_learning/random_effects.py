"""Random effects: which features' effects can differ between tasks, and how much they do by REML.

The mixed model is that of `reml`, in standardised features: its likelihood is then well scaled,
and does not depend on the units or the origin of a feature.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.linalg import qr

from sklearn_maml._learning.decrement import measured
from sklearn_maml._learning.likelihood import Moments
from sklearn_maml._learning.reml import fit_reml
from sklearn_maml._learning.structure import FLOOR, Structure
from sklearn_maml._linalg import vecmat
from sklearn_maml._objective.meta_objective import add_parts
from sklearn_maml._objective.parallel import one_blas_thread
from sklearn_maml._tasks.moments import moments
from sklearn_maml.adaptation.prior import Metric
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "MixedDesign",
    "RandomEffects",
    "collected",
    "diagonal_deviations",
    "fit_covariance",
    "mixed_design",
    "random_effects_of",
    "structure_of",
]

# A feature varies within tasks if this share of its variance, or more, is within tasks.
VARIES = 1e-10

# Directions of standardised features whose mean square is below this share of the largest's are
# left out of the mixed model: they are sums of others.
COLLINEAR = 1e-12

# Of more tasks than these an evaluation of the likelihood takes so long that a mixed model of a few
# of them is fitted first: it leaves some three steps to take on all, where there would be twenty.
MANY_TASKS, TASKS_TO_START = 20_000, 2_000


@dataclass(frozen=True, eq=False)
class RandomEffects:
    """Standardised features, and which of them can differ in their effect from task to task.

    Attributes
    ----------
    standard : Standardization
    varies : ndarray of bool, shape (d,)
        Features that vary within tasks, or that were asked for, and the constant one.
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

    @property
    def own_basis(self):
        """(q, q): the varying features as they are, of unit size, in the standardised ones.

        A standardised feature is centred: its multiples are those of the feature less a constant,
        which is the intercept's. Independent effects of these are not independent effects of the
        features themselves, as lme4's ``(1 + x || g)`` has them.
        """
        basis = np.eye(int(self.varies.sum()))
        if self.intercept:
            offset = (self.standard.mean / self.standard.scale)[self.varies]
            basis[-1] += offset * self.standard.scale[-1]
        return basis / np.linalg.norm(basis, axis=0)

    def only(self, which, names=None):
        """The same with the effects that a user asked for, and the intercept's.

        Parameters
        ----------
        which : None, "intercept", or array-like of names, positions or booleans
            Of the features; None keeps those that vary within tasks.
        names : array-like of str, default=None
            Of the features, where they are known.
        """
        if which is None:
            return self
        varies = np.zeros(len(self.varies), dtype=bool)
        features = varies[: len(varies) - self.intercept]
        features[_positions(which, len(features), names)] = True
        varies[len(features) :] = True
        if not varies.any():
            raise ValueError(
                f"random_effects={which!r} leaves nothing that could differ between tasks: there "
                "is no intercept with fit_intercept=False."
            )
        return replace(self, varies=varies)

    def ties(self, kind):
        """Which standard deviation each of the q effects has in a diagonal metric, shape (q,)."""
        q = int(self.varies.sum())
        if kind == "diagonal" or not self.intercept or q == 1:
            return np.arange(q)
        return np.append(np.zeros(q - 1, dtype=int), 1)


def _positions(which, n_features, names):
    """Positions, or a mask, of the features that a user asked for."""
    if isinstance(which, str):
        which = [] if which == "intercept" else [which]
    which = np.asarray(which)
    kind = "i" if which.size == 0 else which.dtype.kind
    if which.ndim != 1 or kind not in "biuUO":
        raise TypeError(
            "random_effects must be 'intercept', or names, positions or a boolean mask of "
            f"features; got {which!r}."
        )
    if kind == "b" and len(which) != n_features:
        raise ValueError(
            f"random_effects, a boolean mask, must have one entry for each of the {n_features} "
            f"features; got {len(which)}."
        )
    if kind in "iu" and not ((which >= -n_features) & (which < n_features)).all():
        raise ValueError(
            f"random_effects={which.tolist()} is out of range: there are {n_features} features."
        )
    return (
        _named(which.tolist(), names)
        if kind in "UO"
        else which.astype(bool if kind == "b" else int)
    )


def _named(which, names):
    """Positions of the features with these names."""
    known = [] if names is None else list(names)
    unknown = [name for name in which if name not in known]
    if unknown:
        hint = (
            f"the features are {known}." if known else "the features have no names: give positions."
        )
        raise ValueError(f"random_effects names {unknown}, but {hint}")
    return [known.index(name) for name in which]


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
    for stack, weight in blocks.stacks():
        rows, share = standard.rows(stack.features), stack.weights
        centre = vecmat(share, rows)
        share = weight[:, None] * share
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
    """

    effects: RandomEffects
    random: np.ndarray
    fixed: np.ndarray

    def moments(self, objective):
        """The `Moments` of all rows of an objective's tasks, whose loss has a constant Hessian."""
        whole = objective.vary(blocks=objective.blocks.unsplit())
        parts = whole.fold(partial(_task_moments, whole, self), add_parts)
        return collected(parts, whole.blocks.tasks.count, whole.n_targets or 1)

    def of_stack(self, features, counts, targets, share):
        """What a stack of n tasks adds to `Moments`, in lists, for `collected`.

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
        gram, cross, share, total : list of one ndarray
        """
        rows = self.effects.standard.rows(features)
        random = rows[..., self.effects.varies] @ self.random
        both = np.concatenate([rows @ self.fixed, targets], axis=-1)
        turned, weighted = np.swapaxes(random, -1, -2), counts[..., None] * both
        cross, gram = np.matmul(turned, weighted), np.matmul(turned, counts[..., None] * random)
        flat = both.reshape(-1, both.shape[-1])
        total = (share[:, None, None] * weighted).reshape(flat.shape).T @ flat
        return [np.moveaxis(gram, 0, -1)], [np.moveaxis(cross, 0, -1)], [share], [total]

    def lifted(self, model):
        """The `Metric` of a mixed model, and the model with fixed effects of the features.

        The log likelihood becomes that of the features too; `relative` stays as it is.
        """
        lift = self.effects.standard.lift(self.fixed.T).T
        volume = len(model.noise) * _log_volume(lift)
        values, vectors = np.linalg.eigh(model.relative)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        varies = self.effects.varies
        gram = self.random.T @ self.effects.gram[np.ix_(varies, varies)] @ self.random
        return Metric(self.effects.lift @ self.random @ root), replace(
            model,
            between=float((model.relative * gram).sum()),
            fixed=model.fixed @ lift.T,
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
    random = np.eye(int(effects.varies.sum()))
    if kind == "diagonal":
        random = effects.own_basis
    if kind == "full":
        random = _whitening(effects.gram[np.ix_(effects.varies, effects.varies)])
    return MixedDesign(effects, random, _whitening(effects.gram))


def fit_covariance(objective, effects, kind, tol=1e-9):
    """Fit a linear mixed model to the rows of all tasks.

    Parameters
    ----------
    objective : MetaObjective
        With a loss of constant Hessian.
    effects : RandomEffects
    kind : {"intercept", "diagonal", "full"}
        The structure of the covariance: in standardised features, "diagonal" in the features' own
        coordinates.
    tol : float, default=1e-9
        As in `fit_reml`.

    Returns
    -------
    metric : Metric
        Covariance of the random effects in units of the residual variance.
    model : MixedModel
        Its fixed effects and log likelihood are those of the features; `relative` is not.
    """
    design = mixed_design(effects, kind)
    structure = structure_of(design, kind)
    model, moments = _fitted(objective, design, structure, tol)
    with one_blas_thread():
        return design.lifted(measured(moments, structure, model))


def _fitted(objective, design, structure, tol=1e-9):
    """The mixed model of all tasks, and their moments; of very many a few tell where to start."""
    start = None
    if len(objective.blocks.tasks.weight) > MANY_TASKS:
        few = design.moments(objective.vary(blocks=objective.blocks.sample(TASKS_TO_START)))
        with one_blas_thread():
            start = fit_reml(few.shrunk(), structure)
    moments = design.moments(objective)
    with one_blas_thread():
        return fit_reml(moments, structure, start, tol=tol), moments


def structure_of(design, kind):
    """The `Structure` of a covariance of a kind, in a `MixedDesign`."""
    if kind == "full":
        return Structure.full(design.random.shape[1])
    return Structure.diagonal(design.effects.ties(kind))


def collected(parts, count, n_targets, noise=None):
    """The `Moments` of all tasks.

    Parameters
    ----------
    parts : tuple of lists
        What `MixedDesign.of_stack` returns, and the number of rows by share, of all blocks.
    count : float
        The number of tasks, by which shares are to be multiplied.
    n_targets : int
    noise : float, default=None
        The residual variance, where it is known.
    """
    gram, cross, share, total, n_rows = parts
    return Moments(
        gram=np.concatenate(gram, axis=-1),
        cross=np.concatenate(cross, axis=-1),
        count=np.concatenate(share) * count,
        total=sum(total) * count,
        n_rows=float(sum(n_rows) * count),
        n_targets=n_targets,
        noise=noise,
    )


def diagonal_deviations(objective, effects, kind):
    """Standard deviations of independent effects of standardised features by REML, shape (q,).

    In units of the residual's, and no less than is a scale for steps.

    Parameters
    ----------
    objective : MetaObjective
        With a loss of constant Hessian.
    effects : RandomEffects
    kind : {"intercept", "diagonal"}
    """
    design, structure = mixed_design(effects, "low_rank"), Structure.diagonal(effects.ties(kind))
    model, _ = _fitted(objective, design, structure)
    return np.maximum(np.sqrt(np.diagonal(model.relative)), FLOOR)


def _task_moments(objective, design, i):
    """Lists of block i's moments; targets are those that a loss of constant Hessian works on."""
    risk, _, share = objective.risks(i)
    targets = risk.residuals(np.zeros(risk.targets.shape))
    targets = np.moveaxis(targets.reshape(-1, *risk.weights.shape), 0, -1)
    counts = risk.size[:, None] * risk.weights
    return *design.of_stack(risk.features, counts, targets, share), [share @ risk.size]
