"""Learning the metric of a proximal rule: which directions differ between tasks, and how much.

Two criteria. REML takes the covariance of the random effects of a linear mixed model. "query"
minimises the meta-loss over the metric (`_query_loss`), with the gradient

    dL/dSigma = sum_i p_i (J_i' g_i) e_i',     Sigma e_i = theta_i - theta,     g_i = dR_i/dtheta_i.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sklearn_maml._learning.reml import Moments, fit_reml, symmetric_basis
from sklearn_maml._learning.variable_projection import Coordinates
from sklearn_maml._linalg import vecmat
from sklearn_maml._objective.meta_objective import add_parts
from sklearn_maml._objective.parallel import one_blas_thread
from sklearn_maml._tasks.stacks import moments
from sklearn_maml.adaptation.prior import Metric, Noise
from sklearn_maml.adaptation.standardization import Standardization

__all__ = [
    "LOG_DEVIATION",
    "TaskCoordinates",
    "metric_coordinates",
    "noise_variance",
    "restricted_likelihood",
    "task_coordinates",
]

# A feature varies within tasks if this share of its variance, or more, is within tasks.
VARIES = 1e-10

# Directions of standardised features whose mean square is below this share of the largest's are
# left out of the mixed model: they are sums of others.
COLLINEAR = 1e-12

# log standard deviations of a metric in standardised features stay within these bounds.
LOG_DEVIATION = (-12.0, 12.0)

# The noise is estimated for each number of shots that so many tasks have rows for.
TASKS_FOR_SHOTS = 10


@dataclass(frozen=True, eq=False)
class TaskCoordinates:
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


def task_coordinates(blocks):
    """The `TaskCoordinates` of all rows of some tasks.

    Parameters
    ----------
    blocks : Blocks

    Returns
    -------
    TaskCoordinates
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
    return TaskCoordinates(standard, varies, gram, intercept)


def _whitening(gram):
    """(d, r): combinations of features that are uncorrelated, of unit size, and not null."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > COLLINEAR * values.max(initial=0.0)
    return vectors[:, kept] / np.sqrt(values[kept])


def restricted_likelihood(objective, coordinates, kind):
    """Fit a linear mixed model to the rows of all tasks.

    Parameters
    ----------
    objective : MetaObjective
        With a loss of constant Hessian.
    coordinates : TaskCoordinates
    kind : {"intercept", "diagonal", "full"}
        The structure of the covariance, in standardised features.

    Returns
    -------
    metric : Metric
        Covariance of the random effects in units of the residual variance.
    model : MixedModel
        Its fixed effects and log likelihood are those of the features; `relative` is not.
    """
    fixed_basis = _whitening(coordinates.gram)
    random_basis = np.eye(int(coordinates.varies.sum()))
    if kind == "full":
        random_basis = _whitening(coordinates.gram[np.ix_(coordinates.varies, coordinates.varies)])
    whole = objective.vary(blocks=objective.blocks.unsplit())
    collected = _collect(whole, coordinates, random_basis, fixed_basis)
    q = random_basis.shape[1]
    with one_blas_thread():
        model = fit_reml(collected, np.eye(q), _structure(kind, q, coordinates))
    lift = coordinates.standard.lift(fixed_basis.T).T
    volume = collected.n_targets * np.log(np.linalg.svd(lift, compute_uv=False)).sum()
    model = replace(
        model,
        fixed=model.fixed @ lift.T,
        log_likelihood=float(model.log_likelihood + volume),
    )
    values, vectors = np.linalg.eigh(model.relative)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return Metric(coordinates.lift @ random_basis @ root), model


def _structure(kind, q, coordinates):
    """A basis of the symmetric matrices (q, q) of one structure, shape (q * q, k)."""
    if kind == "full":
        return symmetric_basis(q)
    diagonal = np.zeros((q, q, q))
    diagonal[np.arange(q), np.arange(q), np.arange(q)] = 1.0
    return diagonal.reshape(q * q, q) @ _ties(kind, q, coordinates)


def _ties(kind, q, coordinates):
    """Which of q variances are one and the same, shape (q, k)."""
    if kind == "diagonal" or not coordinates.intercept or q == 1:
        return np.eye(q)
    ties = np.zeros((q, 2))
    ties[:-1, 0] = ties[-1, 1] = 1.0
    return ties


def _collect(objective, coordinates, random_basis, fixed_basis):
    """The `Moments` of all rows, task by task."""
    collect = partial(_task_moments, objective, coordinates, random_basis, fixed_basis)
    gram, cross, share, total, n_rows = objective.fold(collect, add_parts)
    tasks = objective.blocks.tasks
    return Moments(
        gram=np.concatenate(gram),
        cross=np.concatenate(cross),
        count=np.concatenate(share) * tasks.count,
        total=sum(total) * tasks.count,
        n_rows=float(sum(n_rows) * tasks.count),
        n_targets=objective.n_targets or 1,
    )


def _task_moments(objective, coordinates, random_basis, fixed_basis, i):
    """Lists of block i's moments; targets are those that a loss of constant Hessian works on."""
    risk, _, share = objective.risks(i)
    rows = coordinates.standard.rows(risk.features)
    random = rows[..., coordinates.varies] @ random_basis
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
    return [gram], [cross], [share], [total], [share @ risk.size]


def metric_coordinates(coordinates, kind, start, make_rule):
    """Where and how a metric is sought on the query loss.

    Parameters
    ----------
    coordinates : TaskCoordinates
    kind : {"intercept", "diagonal", "full"}
    start : float
        Scale of the metric to start from.
    make_rule : callable
        From a `Metric` to the rule with that metric.

    Returns
    -------
    Coordinates
    """
    lift = coordinates.lift
    at = _cholesky if kind == "full" else partial(_log_deviations, kind, coordinates)
    x, expand, contract, bounds = at(lift.shape[1], np.sqrt(start))

    def chain(x, slope):
        factor = expand(x)
        return contract(lift.T @ (slope + slope.T) @ lift @ factor, factor)

    return Coordinates(x, lambda x: make_rule(Metric(lift @ expand(x))), chain, bounds)


def _log_deviations(kind, coordinates, q, deviation):
    """Coordinates of diagonal metrics: logs of the standard deviations, of which some are tied.

    Returns
    -------
    x : ndarray of shape (k,)
        Where to start.
    expand : callable
        From x to the factor (q, q).
    contract : callable
        From the derivative in the factor, and the factor, to that in x.
    bounds : list of (float, float) or None
    """
    ties = _ties(kind, q, coordinates)

    def expand(x):
        return np.diag(np.exp(ties @ x))

    def contract(slope, factor):
        return ties.T @ (np.diagonal(slope) * np.diagonal(factor))

    k = ties.shape[1]
    return np.full(k, np.log(deviation)), expand, contract, [LOG_DEVIATION] * k


def _cholesky(q, deviation):
    """Coordinates of full metrics: a lower triangle. Returns what `_log_deviations` does."""
    at = np.tril_indices(q)

    def expand(x):
        factor = np.zeros((q, q))
        factor[at] = x
        return factor

    return deviation * np.eye(q)[at], expand, lambda slope, factor: slope[at], None


def noise_variance(objective, theta):
    """The variance of the noise, from residuals of query rows and the rule's own uncertainty.

    A query row j of its own has residual variance ``s (1 + v_j)``, where ``s v_j`` is the variance
    of ``phi_j' theta_i``; a row that the task was adapted to has ``s (1 - v_j)``. Each number of
    support rows that tasks are split by in turn has an s of its own.

    Returns
    -------
    Noise
    """
    episodes, tasks = objective.blocks.episodes, objective.blocks.tasks
    shots = np.array(episodes.support if isinstance(episodes.support, tuple) else [1])
    squares, size = objective.fold(partial(_residual_moments, objective, theta), add_parts)
    same = shots == np.unique(shots)[:, None]
    shots, squares, size = np.unique(shots), squares @ same.T, same @ size
    n_tasks = (tasks.sizes[tasks.weight > 0] > shots[:, None]).sum(axis=1)
    often = np.flatnonzero(n_tasks >= TASKS_FOR_SHOTS)
    if len(often) < 2:
        return Noise(shots[:1], squares.sum(axis=-1)[None] / size.sum())
    return Noise(shots[often], (squares[..., often] / size[often]).T)


def _residual_moments(objective, theta, i):
    """A block's weighted squared residuals and what they are divided by, by number of shots."""
    linearization = objective.linearize(i, theta)
    query, weight = linearization.query, linearization.row_weight
    squares = np.square(linearization.loss_gradient / query.loss.hessian_bound)
    spread = objective.rule.spread(query.features, linearization.support)
    if query is linearization.support:
        size = weight * (1 - spread)
    else:
        squares, size = squares / (1 + spread), weight
    squares, size = (weight * squares).sum(axis=-1), size.sum(axis=-1)
    episodes = objective.blocks.episodes
    draws = np.arange(episodes.n_draws).reshape(
        -1, episodes.n_episodes
    )  # one row a number of shots
    member = (objective.blocks[i].draw == draws[..., None]).any(axis=1).astype(float)
    return squares @ member.T, member @ size
