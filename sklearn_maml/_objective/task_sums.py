"""What the meta-objective would be without some tasks: its normal equations are sums over tasks.

Tasks are in cells. One pass over the data gives the sums of each cell; those of all other cells are
a difference, and a Newton step on them leads to the meta-parameters without that cell's tasks.
"""

from functools import partial

import numpy as np
from scipy.linalg import cho_solve

from sklearn_maml._objective.quadratic import quadratic, safe_cholesky

__all__ = ["Summable", "minimiser", "normal_equations", "solutions_without"]

# Directions whose curvature is below this share of the largest are not moved along.
NEGLIGIBLE = 1e-10


class Summable:
    """Parts whose sum over any selection is wanted, by way of the fewer terms.

    Parameters
    ----------
    parts : ndarray of shape (n, ...)
    total : ndarray of shape (...), default=None
        Their sum, where it is known.
    """

    def __init__(self, parts, total=None):
        self.parts, self.total = parts, parts.sum(axis=0) if total is None else total

    def where(self, kept):
        """The sum of the parts that are kept."""
        if kept.sum() <= len(kept) / 2:
            return self.parts[kept].sum(axis=0)
        return self.total - self.parts[~kept].sum(axis=0)


def minimiser(hessian, half_gradient):
    """``A^-1 g`` for symmetric A (d, d) and g (..., d); None where A is not safely definite."""
    scale = np.sqrt(np.diag(hessian))
    if not scale.all():
        return None
    unit = hessian / scale
    unit /= scale[:, None]
    factor = safe_cholesky(unit)
    if factor is None:
        return None
    return cho_solve((factor, False), (half_gradient / scale).T).T / scale


def normal_equations(objective, theta, cell, with_hessian=True):
    """The sums of each cell of tasks, without the penalty.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
    cell : ndarray of shape (n_tasks,)
        0, ..., n_cells - 1.
    with_hessian : bool, default=True

    Returns
    -------
    hessian : ndarray of shape (n_cells, d, d) or (n_cells, n_targets, d, d)
        ``sum_i p_i sum_j b_ij (l''_ij / 2) psi_ij psi_ij'``; one matrix for all targets where the
        meta-objective is a quadratic, one for each elsewhere. Zeros, if it is not wanted.
    gradient : ndarray of shape (n_cells, d) or (n_cells, n_targets, d)
        At theta.
    """
    sums = objective.fold(partial(_sums, objective, theta, cell, with_hessian), _merge)
    hessian, gradient = zip(*(sums[c] for c in range(cell.max() + 1)), strict=True)
    return np.array(hessian), np.array(gradient)


def solutions_without(objective, theta, cell):
    """The meta-parameters without each cell's tasks: a Gauss-Newton step from those of all.

    Exact where the meta-objective is a quadratic, else what is called the approximate leave-one-out
    (docs: intervals). Directions that the other tasks leave open stay as they are.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)
        That minimises it.
    cell : ndarray of shape (n_tasks,)
        Two or more cells, 0, ..., n_cells - 1, each with a task that weighs something; -1 for a
        task that is in none.

    Returns
    -------
    ndarray of shape (n_cells, d) or (n_cells, n_targets, d)
    """
    (hessians, gradients), (hessian, gradient) = _parts_and_total(objective, theta, cell)
    weight, penalty = objective.blocks.tasks.weight, objective.penalty
    found = np.empty(gradients.shape)
    for k, rest in enumerate(1.0 - np.bincount(cell[cell >= 0], weight[cell >= 0])):
        normal = (hessian - hessians[k]) / rest + np.diag(penalty)
        slope = 0.5 * (gradient - gradients[k]) / rest + penalty * theta
        if normal.ndim == 2:
            step = _step(normal, slope)
        else:  # each target has curvatures of its own
            step = np.array([_step(*own) for own in zip(normal, slope, strict=True)])
        found[k] = theta - step
    return found


def _parts_and_total(objective, theta, cell):
    """The `normal_equations` of each cell, and those of all tasks.

    Where most tasks are in no cell the solver knows what all of them sum up to: no pass is made.
    """
    some = cell >= 0
    if some.all() or not (objective.is_quadratic and quadratic(objective).definite):
        n_cells = cell.max() + 1
        hessians, gradients = normal_equations(objective, theta, np.where(some, cell, n_cells))
        total = hessians.sum(axis=0), gradients.sum(axis=0)
        return (hessians[:n_cells], gradients[:n_cells]), total
    few = objective.vary(blocks=objective.blocks.only(some))
    share = objective.blocks.tasks.weight[some].sum()  # the weights of the few add up to 1 as well
    hessians, gradients = normal_equations(few, theta, cell[some])
    shape, penalty = quadratic(objective), objective.penalty
    root, (_, gradient) = shape.triangle * shape.scale, objective.value_and_gradient(theta)
    total = root.T @ root - np.diag(penalty), gradient - 2.0 * penalty * theta
    return (share * hessians, share * gradients), total


def _step(hessian, half_gradient):
    """`minimiser`, or the shortest step where it is not determined, in columns of unit size."""
    step = minimiser(hessian, half_gradient)
    if step is not None:
        return step
    scale = np.sqrt(np.maximum(np.diag(hessian), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    kept = values > NEGLIGIBLE * max(values[-1], 1.0)
    basis = vectors[:, kept] / scale[:, None]
    return (half_gradient @ basis / values[kept]) @ basis.T


def _merge(total, part):
    """Add a part's sums, by key, to the total's; the total is changed, never a worker's arrays."""
    for key, values in part.items():
        known = total.get(key)
        total[key] = (
            values if known is None else [a + b for a, b in zip(known, values, strict=True)]
        )
    return total


def _sums(objective, theta, cell, with_hessian, i):
    """A block's sums for each cell of tasks: [A, gradient at theta]."""
    at = objective.linearize(i, theta)
    cells, of = np.unique(cell[objective.blocks.owner(i)], return_inverse=True)
    gradients = at.weight[:, None] * at.task_gradients
    members = (of == np.arange(len(cells))[:, None]).astype(float)
    sums = np.matmul(members, gradients)
    if with_hessian:
        hessian = at.query.curvatures(at.predictions) * at.weight[:, None]
        hessians = _grams(at.scaled_design(np.sqrt(0.5 * hessian)), of, len(cells))
    else:
        hessians = [0.0] * len(cells)
    return {c: [hessians[k], sums[..., k, :]] for k, c in enumerate(cells.tolist())}


def _grams(rows, of, n_cells):
    """``F' F`` over the rows (..., n, m, d) of each cell of tasks: (n_cells, ..., d, d)."""
    if n_cells == len(of):  # a task each
        grams = np.moveaxis(np.matmul(np.swapaxes(rows, -1, -2), rows), -3, 0)
        return grams[np.argsort(of)]
    parts = [rows] if n_cells == 1 else [rows[..., of == k, :, :] for k in range(n_cells)]
    flat = [part.reshape(*rows.shape[:-3], -1, rows.shape[-1]) for part in parts]
    return [np.matmul(np.swapaxes(part, -1, -2), part) for part in flat]
