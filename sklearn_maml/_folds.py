"""Folds of tasks at the cost of one fit: normal equations are sums over tasks.

With the squared loss, leaving a fold of tasks out is a subtraction. For each inner loop one pass
over the data gives the normal equations of all folds, and one more judges the solutions of all
folds and penalties on the tasks that they were not fitted to.
"""

from functools import partial

import numpy as np
from scipy.linalg import cho_solve

from sklearn_maml._blocks import Blocks
from sklearn_maml._objective import MetaObjective
from sklearn_maml._quadratic import safe_cholesky
from sklearn_maml.losses import SquaredError
from sklearn_maml.solvers import LeastSquares

__all__ = ["Folds"]


class Folds:
    """Solutions and scores for all folds and penalties, one inner loop at a time.

    Parameters
    ----------
    blocks : Blocks
    splits : list of (train, test)
        Boolean arrays of shape (n_tasks,).
    alphas : list of float
    n_jobs : int or None
    """

    def __init__(self, blocks, splits, alphas, n_jobs):
        self.blocks, self.n_jobs = blocks, n_jobs
        self.train, self.test = (np.array(side) for side in zip(*splits, strict=True))
        # Tasks that are in training together, always, need one sum only.
        self.patterns, cell = np.unique(self.train.T, axis=0, return_inverse=True)
        self.cell = cell.ravel()
        unit = np.ones(blocks.features.width)
        unit[-1] = not blocks.features.intercept
        self.penalties = [alpha * unit for alpha in alphas]
        self.rounds = _rounds(self.test)

    def scores(self, rule):
        """R2 on the tasks left out, shape (n_splits, n_alphas)."""
        objective = self._objective(self.blocks, rule, self.penalties[0])
        theta = self._solve(objective)
        errors = {}
        y = self.blocks.tasks.y
        for split_of in self.rounds:
            part = partial(_errors, objective, theta, split_of, y.mean(axis=0))
            _merge(errors, objective.fold(part, _merge))
        return np.array([_r2(*errors[s]) for s in range(len(self.test))])

    def _objective(self, blocks, rule, penalty):
        return MetaObjective(blocks, SquaredError(), rule, penalty, self.n_jobs)

    def _solve(self, objective):
        """Minimisers for each split and penalty, shape (n_splits, n_alphas, ..., d)."""
        n_targets, d = objective.n_targets, objective.n_parameters
        start = np.zeros((n_targets, d) if n_targets else d)
        hessian, gradient = self._sums(objective, start, with_hessian=True)
        everything = Equations(hessian.sum(axis=0), gradient.sum(axis=0))
        first = everything.newton(start, max(self.penalties, key=np.sum))
        if first is not None:  # near the solutions, so that large offsets of y do not cancel
            start = first
            _, gradient = self._sums(objective, start, with_hessian=False)
        mass = Summable(np.bincount(self.cell, self.blocks.tasks.weight))
        hessian, gradient = Summable(hessian), Summable(gradient)
        theta = np.empty((len(self.train), len(self.penalties), *start.shape))
        for s, kept in enumerate(self.patterns.T):
            share = mass.where(kept)
            own = Equations(hessian.where(kept) / share, gradient.where(kept) / share)
            for a, penalty in enumerate(self.penalties):
                solution = own.newton(start, penalty)
                if solution is None:
                    solution = self._refit(objective.rule, self.train[s], penalty, start)
                theta[s, a] = solution
        return theta

    def _sums(self, objective, theta, with_hessian):
        """Sums over the tasks of each cell: A (n_cells, d, d), or None, and gradients at theta."""
        part = partial(_normal_equations, objective, theta, self.cell, with_hessian)
        sums = objective.fold(part, _merge)
        hessian, gradient = zip(*(sums[c] for c in range(len(self.patterns))), strict=True)
        return np.array(hessian) if with_hessian else None, np.array(gradient)

    def _refit(self, rule, kept, penalty, start):
        """The exact solver's minimiser on some tasks, however ill-conditioned."""
        blocks = self.blocks
        blocks = Blocks(blocks.tasks.only(kept), blocks.features, blocks.episodes)
        objective = self._objective(blocks, rule, penalty)
        return LeastSquares().minimize(objective, np.zeros_like(start)).theta


class Equations:
    """Normal equations of a quadratic: ``A`` and the gradient at some theta."""

    def __init__(self, hessian, gradient):
        self.hessian, self.gradient = hessian, gradient

    def newton(self, theta, penalty):
        """The minimiser with a penalty, from theta; None where A is not safely definite."""
        hessian = self.hessian + np.diag(penalty)
        scale = np.sqrt(np.diag(hessian))
        if not scale.all():
            return None
        factor = safe_cholesky(hessian / np.outer(scale, scale))
        if factor is None:
            return None
        half = (0.5 * self.gradient + penalty * theta) / scale
        return theta - cho_solve((factor, False), half.T).T / scale


class Summable:
    """Parts whose sum over any selection is wanted, by way of the fewer terms."""

    def __init__(self, parts):
        self.parts, self.total = parts, parts.sum(axis=0)

    def where(self, kept):
        """The sum of the parts that are kept."""
        if kept.sum() <= len(kept) / 2:
            return self.parts[kept].sum(axis=0)
        return self.total - self.parts[~kept].sum(axis=0)


def _rounds(test):
    """For each round the split in which each task is tested, or -1; a task once a round."""
    which, task = np.nonzero(test)
    order = np.argsort(task, kind="stable")
    which, task = which[order], task[order]
    first = np.searchsorted(task, task)
    turn = np.arange(len(task)) - first
    rounds = np.full((turn.max() + 1, test.shape[1]), -1)
    rounds[turn, task] = which
    return rounds


def _merge(total, part):
    """Add a part's sums, by key, to the total's; the total is changed."""
    for key, values in part.items():
        known = total.get(key)
        total[key] = (
            values if known is None else [a + b for a, b in zip(known, values, strict=True)]
        )
    return total


def _normal_equations(objective, theta, cell, with_hessian, i):
    """A block's sums for each cell of tasks: [A, gradient at theta]."""
    at = objective.linearize(i, theta)
    cells, of = np.unique(cell[objective.blocks.owner(i)], return_inverse=True)
    gradients = at.weight[:, None] * at.task_gradients
    members = (of == np.arange(len(cells))[:, None]).astype(float)
    sums = np.matmul(members, gradients)
    if with_hessian:
        root = np.sqrt(0.5 * at.query.loss.hessian_bound * at.row_weight)
        hessians = _grams(root[..., None] * at.design, of, len(cells))
    else:
        hessians = [0.0] * len(cells)
    return {c: [hessians[k], sums[..., k, :]] for k, c in enumerate(cells.tolist())}


def _grams(rows, of, n_cells):
    """``F' F`` over the rows (n, m, d) of each cell of tasks."""
    if n_cells == len(of):  # a task each
        grams = np.matmul(np.swapaxes(rows, -1, -2), rows)
        return grams[np.argsort(of)]
    flat = [rows[of == k].reshape(-1, rows.shape[-1]) for k in range(n_cells)]
    return [part.T @ part for part in flat]


def _errors(objective, theta, split_of, origin, i):
    """A block's sums for each split: squared errors, and weight, mean and square of targets."""
    support, query, weight = objective.risks(i)
    of = split_of[objective.blocks.owner(i)]
    # An episode of weight 0 stands for a task that is too small for it.
    real = (query.weights > 0).sum(axis=1, keepdims=True) * ((of >= 0) & (weight > 0))[:, None]
    w = query.weights * real * weight[:, None]
    splits, at = np.unique(of, return_inverse=True)
    own = np.moveaxis(theta[of], 0, -2)
    theta_i, _ = objective.rule.adapt(own, support)
    squared = (w * np.square(query.predict(theta_i) - query.targets)).sum(axis=-1)
    centred = query.targets - np.reshape(origin, (*np.shape(origin), 1, 1))
    members = (at[:, None] == np.arange(len(splits))).astype(float)
    sums = [
        squared @ members,
        w.sum(axis=1) @ members,
        (w * centred).sum(axis=-1) @ members,
        (w * centred**2).sum(axis=-1) @ members,
    ]
    return {s: [part[..., k] for part in sums] for k, s in enumerate(splits.tolist()) if s >= 0}


def _r2(squared, weight, first, second):
    """R2 as `sklearn.metrics.r2_score` defines it, averaged over targets: shape (n_alphas,)."""
    spread = second - first**2 / weight
    constant = spread <= 1e-14 * np.abs(second)
    r2 = 1.0 - squared / np.where(constant, 1.0, spread)
    r2 = np.where(constant, np.where(squared == 0, 1.0, 0.0), r2)
    return r2 if r2.ndim == 1 else r2.mean(axis=1)
