"""Folds of tasks at the cost of one fit: normal equations are sums over tasks.

With the squared loss, leaving a fold of tasks out is a subtraction. For each inner loop one pass
over the data gives the normal equations of all folds, and one more judges the solutions of all
folds and penalties on the tasks that they were not fitted to. Where every fold is one task, its
rows are left out of one solution for all tasks, and no fold has normal equations of its own.
"""

from functools import partial

import numpy as np

from sklearn_maml._linalg import flat_matmul, matvec
from sklearn_maml._memory import room
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._objective.task_sums import Summable, minimiser, normal_equations
from sklearn_maml._parallel import add_parts, one_blas_thread
from sklearn_maml.losses.residual import SquaredError
from sklearn_maml.model_selection.ridge_path import diagonalise, left_out, ridge_path
from sklearn_maml.solvers.least_squares import LeastSquares

__all__ = ["Folds", "r2_at"]


# Normal equations of cells are held twice, as sums and as those of a block that are added to them;
# beside them there are those of all tasks, those of a fold, and two copies that are reduced.
BESIDE = 4


class Folds:
    """Scores for all folds and penalties, one inner loop at a time.

    What a fit to all tasks needs too is kept by the objective that is scored.

    Parameters
    ----------
    blocks : Blocks
    splits : list of (train, test)
        Boolean arrays of shape (n_tasks,).
    alphas : list of float
    n_jobs : int or None
    judged : Blocks, default=None
        The same tasks, split otherwise, by which they are judged; None judges them as they are.
    """

    def __init__(self, blocks, splits, alphas, n_jobs, judged=None):
        self.blocks, self.alphas, self.n_jobs = blocks, np.array(alphas, dtype=float), n_jobs
        self.judged = blocks if judged is None else judged
        self.train, self.test = (np.array(side) for side in zip(*splits, strict=True))
        self.penalised = np.ones(blocks.features.width)
        self.penalised[-1] = not blocks.features.intercept
        all_but_one = self.train.sum(axis=1) == self.train.shape[1] - 1
        # A task's rows, in all their draws, have to be in one block to be left out together.
        together = not blocks.draws_apart and self.judged is blocks
        self.one_by_one = together and (all_but_one & self.test.any(axis=1)).all()

    def scores(self, objective):
        """R2 on the tasks left out, shape (n_splits, n_alphas), of an `objective`."""
        scores = np.full((len(self.test), len(self.alphas)), np.nan)
        with one_blas_thread():  # many small factorisations: threads would only wait
            if self.one_by_one:
                self._one_by_one(objective, scores)
            left, alphas = (np.flatnonzero(np.isnan(scores).any(axis=axis)) for axis in (1, 0))
            for splits in self._chunks(left):
                scores[np.ix_(splits, alphas)] = self._several(objective, splits, alphas)
        return scores

    def objective(self, rule, kept=None):
        """The meta-objective of all tasks, or of those that are kept, without a penalty."""
        blocks = self.blocks if kept is None else self.blocks.only(kept)
        return MetaObjective(blocks, SquaredError(), rule, 0.0 * self.penalised, self.n_jobs)

    def _chunks(self, splits):
        """The splits, so many at a time that there is room for their cells' normal equations."""
        n_cells = len(_cells(self.train[splits])[0])
        if len(splits) > 1 and (2 * n_cells + BESIDE) * len(self.penalised) ** 2 > room():
            middle = len(splits) // 2
            return self._chunks(splits[:middle]) + self._chunks(splits[middle:])
        return [splits] if len(splits) else []

    def _several(self, objective, splits, alphas):
        """Scores of some splits and penalties, by the solution of each."""
        start, theta = self._solve(objective, splits, self.alphas[alphas])
        same = self.judged is self.blocks  # whose rows are bound to the rule already
        judged = objective if same else objective.vary(blocks=self.judged)
        return self._judge(splits, partial(_errors, judged, start, theta), judged)

    def _one_by_one(self, objective, scores):
        """Set the scores that one task left out of the solution for all changes safely."""
        cell = np.zeros(self.train.shape[1], dtype=int)
        (hessian,), (gradient,), start = self._sums(objective, cell)
        share = self.blocks.tasks.weight.sum() - self.blocks.tasks.weight
        groups = [np.argsort(self.alphas)]
        while groups:
            alphas = groups.pop()
            penalties = share[:, None] * self.alphas[alphas]
            diagonal = diagonalise(hessian, self.penalised, penalties.min(), penalties.max())
            if diagonal is not None:
                sides = 0.5 * gradient @ diagonal.basis, (self.penalised * start) @ diagonal.basis
                part = partial(_errors_left_out, objective, start, diagonal, sides, penalties)
                scores[:, alphas] = self._judge(np.arange(len(scores)), part, objective)
            elif len(alphas) > 1:  # smaller ranges of penalties are safer
                groups += np.array_split(alphas, 2)

    def _judge(self, splits, errors, objective):
        """R2 of the splits, from what each block adds to their sums."""
        y, sums = self.blocks.tasks.y, None
        for split_of in _rounds(self.test[splits]):
            part = partial(_block_sums, errors, split_of, len(splits), y.mean(axis=0))
            further = objective.fold(part, add_parts)
            sums = further if sums is None else add_parts(sums, further)
        return _r2(*sums)

    def _solve(self, objective, splits, alphas):
        """A start, and minimisers for each split and penalty (n_splits, n_alphas, ..., d)."""
        patterns, cell = _cells(self.train[splits])
        hessian, gradient, start = self._sums(objective, cell)
        mass = Summable(np.bincount(cell, self.blocks.tasks.weight))
        hessian, gradient = Summable(hessian, objective.kept("normal")), Summable(0.5 * gradient)
        pull, intercept = self.penalised * start, self.blocks.features.intercept
        theta = np.empty((len(splits), len(alphas), *start.shape))
        for s, kept in enumerate(patterns.T):
            share = mass.where(kept)
            normal, slope = hessian.where(kept) / share, gradient.where(kept) / share
            path = ridge_path(normal, slope, pull, alphas, intercept)
            for a, (alpha, step) in enumerate(zip(alphas, path, strict=True)):
                if step is None:
                    step = minimiser(normal + np.diag(alpha * self.penalised), slope + alpha * pull)
                if step is None:
                    theta[s, a] = self._refit(objective.rule, self.train[splits[s]], alpha)
                else:
                    theta[s, a] = start - step
        return start, theta

    def _sums(self, objective, cell):
        """For each cell of tasks A (n_cells, d, d) and the gradient, at a start near solutions."""
        start = objective.origin()
        hessian, gradient = normal_equations(objective, start, cell)
        whole = objective.keep("normal", lambda _: hessian.sum(axis=0))
        penalty = np.diag(self.alphas.max() * self.penalised)
        step = minimiser(whole + penalty, 0.5 * gradient.sum(axis=0))
        if step is not None:  # so that large offsets of y do not cancel
            start = start - step
            _, gradient = normal_equations(objective, start, cell, with_hessian=False)
        return hessian, gradient, start

    def _refit(self, rule, kept, alpha):
        """The exact solver's minimiser on some tasks, however ill-conditioned."""
        objective = self.objective(rule, kept).penalised(alpha * self.penalised)
        return LeastSquares().minimize(objective, objective.origin()).theta


def r2_at(objective, theta):
    """R2 of the query rows of all tasks of an objective at theta."""
    tasks = objective.blocks.tasks
    everywhere = np.zeros(len(tasks.weight), dtype=int)
    part = partial(_block_sums, partial(_errors_at, objective, theta), everywhere, 1)
    return _r2(*objective.fold(partial(part, tasks.y.mean(axis=0)), add_parts))[0, 0]


def _errors_at(objective, theta, split_of, i):
    """`_errors` at one theta."""
    at = objective.linearize(i, theta)
    squares = at.row_weight * np.square(at.predictions - at.query.targets)
    return at, split_of[objective.blocks.owner(i)], squares[None]


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


def _block_sums(errors, split_of, n_splits, origin, i):
    """A block's sums for each split: squared errors, and weight, mean and square of targets."""
    at, of, squares = errors(split_of, i)
    query, real = at.query, (at.query.weights > 0).sum(axis=1)
    weight = at.row_weight * real[:, None]
    centred = query.targets - np.reshape(origin, (*np.shape(origin), 1, 1))
    parts = [
        real * squares.sum(axis=-1),
        weight.sum(axis=-1),
        (weight * centred).sum(axis=-1),
        (weight * centred**2).sum(axis=-1),
    ]
    return tuple(_by_split(part, of, n_splits) for part in parts)


def _by_split(values, of, n_splits):
    """Sums of values (..., n) over the entries of each split, shape (n_splits, ...)."""
    sums = np.zeros((n_splits, *values.shape[:-1]))
    np.add.at(sums, of[of >= 0], np.moveaxis(values, -1, 0)[of >= 0])
    return sums


def _errors(objective, start, theta, split_of, i):
    """A block at a start, the split of its entries, and weighted squares (n_alphas, ..., n, m)."""
    at = objective.linearize(i, start)
    of = split_of[objective.blocks.owner(i)]
    # Predictions are affine in theta: from those at one theta, all others by one product.
    others = (theta[of] - start).reshape(len(of), -1, theta.shape[-1])
    shift = np.moveaxis(np.matmul(at.design, np.swapaxes(others, -1, -2)), -1, 0)
    predictions = at.predictions + shift.reshape(*theta.shape[1:-1], *shift.shape[1:])
    return at, of, at.row_weight * np.square(predictions - at.query.targets)


def _errors_left_out(objective, start, diagonal, sides, penalties, split_of, i):
    """`_errors`, with each task left out of the solution for all; NaN where that is unsafe."""
    at = objective.linearize(i, start)
    owner, root = objective.blocks.owner(i), np.sqrt(at.row_weight)
    tasks = np.unique(owner)
    n_draws = len(owner) // len(tasks)
    rows = _by_task(flat_matmul(at.scaled_design(root), diagonal.basis), n_draws, 0)
    residuals = _by_task(root * (at.predictions - at.query.targets), n_draws, -2)
    squares = np.empty((penalties.shape[1], *at.predictions.shape))
    for a, c in enumerate(penalties[tasks].T):
        inverse = diagonal.inverse(c)
        step = np.expand_dims(sides[0], -2) + c[:, None] * np.expand_dims(sides[1], -2)
        remaining = left_out(rows, inverse, residuals - matvec(rows, inverse * step))
        remaining = remaining.reshape(*remaining.shape[:-1], n_draws, -1).swapaxes(-3, -2)
        squares[a] = np.square(remaining).reshape(at.predictions.shape)
    return at, split_of[owner], squares


def _by_task(values, n_draws, axis):
    """Episodes (n_draws * n, m) along two axes as (n, n_draws * m): a task's rows side by side."""
    axis %= values.ndim
    before, (n, m, *after) = values.shape[:axis], values.shape[axis:]
    split = values.reshape(*before, n_draws, n // n_draws, m, *after).swapaxes(axis, axis + 1)
    return split.reshape(*before, n // n_draws, n_draws * m, *after)


def _r2(squared, weight, first, second):
    """R2 as `sklearn.metrics.r2_score` defines it, averaged over targets: (n_splits, n_alphas)."""
    spread = second - first**2 / weight.reshape(-1, *[1] * (first.ndim - 1))
    constant = (spread <= 1e-14 * np.abs(second))[:, None]
    r2 = 1.0 - squared / np.where(constant, 1.0, spread[:, None])
    r2 = np.where(constant & np.isfinite(squared), np.where(squared == 0, 1.0, 0.0), r2)
    return r2 if r2.ndim == 2 else r2.mean(axis=2)


def _cells(train):
    """Patterns (n_cells, n_splits) of tasks that are in training together, and each task's cell.

    Such tasks need one sum only.
    """
    patterns, cell = np.unique(train.T, axis=0, return_inverse=True)
    return patterns, cell.ravel()
