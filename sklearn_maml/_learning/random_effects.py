"""Random effects: which features' effects can differ between tasks, and how much they do by REML.

The mixed model is that of `reml`, in standardised features: its likelihood is then well scaled,
and does not depend on the units or the origin of a feature.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sklearn_maml._learning.decrement import measured
from sklearn_maml._learning.mixed_design import mixed_design, structure_of
from sklearn_maml._learning.reml import fit_reml
from sklearn_maml._learning.structure import FLOOR, Structure
from sklearn_maml._linalg import vecmat
from sklearn_maml._parallel import one_blas_thread
from sklearn_maml._tasks.moments import moments, over_stacks
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "RandomEffects",
    "diagonal_deviations",
    "fit_covariance",
    "random_effects_of",
]

# A feature varies within tasks if this share of its variance, or more, is within tasks.
VARIES = 1e-10

# Of more tasks than these an evaluation of the likelihood takes so long that a mixed model of a
# tenth of them is fitted first: it leaves some three steps to take on all, where there would be
# twenty. It need not be exact, in units of -2 log likelihood: another tenth would tell otherwise.
MANY_TASKS, ROUGHLY = 20_000, 1e-2


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


def random_effects_of(blocks, n_jobs=None):
    """The `RandomEffects` of all rows of some tasks.

    Parameters
    ----------
    blocks : Blocks
    n_jobs : int, default=None
        As in joblib.

    Returns
    -------
    RandomEffects
    """
    intercept = bool(blocks.features.intercept)
    mean, deviation = moments(blocks, n_jobs)
    standard = Standardization.from_moments(mean, deviation, intercept, 1.0)
    within, gram = over_stacks(partial(_within_and_gram, standard), blocks, n_jobs)
    total = np.diagonal(gram) - (0.0 if intercept else (mean / standard.scale) ** 2)
    varies = (within > VARIES * total) & (within > VARIES)
    if intercept:
        varies[-1] = True
    else:
        varies |= (deviation <= 1e-12 * np.abs(mean)) & (mean != 0)
    return RandomEffects(standard, varies, gram, intercept)


def _within_and_gram(standard, stack, weight, ones):
    """A stack's sums of squares within tasks (d,), and of products (d, d), in a standard."""
    rows, share = standard.rows(stack.features), stack.weights
    centre = vecmat(share * ones, rows)[:, None, :]
    share = weight[:, None] * share
    within = np.einsum("nm,nmd->d", share, (rows - ones[..., None] * centre) ** 2)
    flat = (np.sqrt(share)[..., None] * rows).reshape(-1, rows.shape[-1])
    return within, flat.T @ flat


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
    design = mixed_design(effects, kind).about(objective)
    structure = structure_of(design, kind)
    model, moments = _fitted(objective, design, structure, tol)
    with one_blas_thread():
        return design.lifted(measured(moments, structure, model))


def _fitted(objective, design, structure, tol=1e-9):
    """The mixed model of all tasks, and their moments; of very many a tenth tells where to start.

    So each search but the first, of few tasks, begins within some standard errors of its end.
    """
    start = _start(objective, design, structure)
    moments = design.moments(objective)
    with one_blas_thread():
        return fit_reml(moments, structure, start, tol=tol), moments


def _start(objective, design, structure):
    """The mixed model of a tenth of very many tasks, roughly; None for others."""
    n_tasks = len(objective.blocks.tasks.weight)
    if n_tasks <= MANY_TASKS:
        return None
    few = objective.vary(blocks=objective.blocks.sample(n_tasks // 10, keeps=False))
    start = _start(few, design, structure)
    moments = design.moments(few).shrunk()
    with one_blas_thread():
        return fit_reml(moments, structure, start, tol=ROUGHLY)


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
    design = mixed_design(effects, "low_rank").about(objective)
    structure = Structure.diagonal(effects.ties(kind))
    model, _ = _fitted(objective, design, structure)
    return np.maximum(np.sqrt(np.diagonal(model.relative)), FLOOR)
