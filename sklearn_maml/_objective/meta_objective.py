"""The meta-objective: the chain rule, written once, summed over blocks of tasks in parallel.

It joins tasks, a loss and an adaptation rule by duck type and knows none of them:

    L(theta) = sum_i p_i sum_j b_ij l(phi_ij' A_i(theta), y_ij) + alpha ||theta||^2
"""

from functools import partial, reduce
from itertools import chain
from operator import add
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend

from sklearn_maml._objective.linearization import Linearization
from sklearn_maml._objective.parallel import one_blas_thread
from sklearn_maml._objective.risk import Risk
from sklearn_maml._progress import report

__all__ = ["MetaObjective", "QueryPredictions", "add_parts"]

# Rows * d^2 below this are a few milliseconds of work: less than it takes to start workers.
MIN_WORK_IN_PARALLEL = 2**28

# What support rows tell of all tasks is kept where it fits into 128 MiB.
KEPT_INFORMATION = 2**24


class QueryPredictions(NamedTuple):
    """Query rows of all tasks and episodes, pooled.

    Attributes
    ----------
    truth, predicted : ndarray of shape (n,) or (n_targets, n)
        Targets, and predictions before the link.
    weight : ndarray of shape (n,)
        Row weights; on average ``n_tasks p_i`` in each task, divided among its episodes.
    task : ndarray of shape (n,)
        The number of the row's task.
    """

    truth: np.ndarray
    predicted: np.ndarray
    weight: np.ndarray
    task: np.ndarray


def _with_gradient(f, linearization):
    """A block's part of the meta-loss, of its gradient and of whatever f adds."""
    rest = f(linearization)  # first: a design that it needs serves the gradient too
    return linearization.value, linearization.gradient, *rest


def _value(linearization):
    return (linearization.value,)


def _nothing(linearization):
    return ()


class MetaObjective:
    """The meta-loss L(theta) over blocks of tasks.

    Parameters
    ----------
    blocks : sequence of Block
    loss : Loss
    rule : AdaptationRule
    penalty : ndarray of shape (d,)
        alpha for each penalised parameter, 0 for the intercept.
    n_jobs : int, default=None
        Workers, as in joblib. The result does not depend on it, not even in the last bit.
    verbose : int, default=0
        Whether to report each evaluation.
    """

    def __init__(self, blocks, loss, rule, penalty, n_jobs=None, verbose=0):
        self.blocks, self.loss, self.rule, self.penalty = blocks, loss, rule, penalty
        self.n_jobs, self.verbose = n_jobs, verbose
        self.facts = {}  # what is true of the objective as a whole, such as its Hessian
        self._memos = [{} for _ in range(len(blocks))]  # and of each block's support rows
        self._kept = [{} for _ in range(len(blocks))]
        self._last = (None, None)

    def __getstate__(self):
        return {**self.__dict__, "_kept": [{} for _ in self._kept]}

    @property
    def is_quadratic(self):
        """Whether the meta-loss is a quadratic in theta: its Hessian, and J_i, are constant."""
        return self.loss.constant_hessian and self.rule.affine

    @property
    def n_parameters(self):
        """d: the length of theta."""
        return len(self.penalty)

    def origin(self):
        """Parameters that are all zero, of the shape that theta has."""
        return np.zeros(
            (self.n_targets, self.n_parameters) if self.n_targets else self.n_parameters
        )

    @property
    def n_targets(self):
        """The number of targets, or 0 where targets have one axis."""
        y = self.blocks.tasks.y
        return 0 if y.ndim == 1 else y.shape[1]

    def exact(self):
        """The objective with its rule's true derivative: itself, unless the rule is first-order."""
        rule = self.rule.exact()
        if rule is self.rule:
            return self
        return self.vary(rule=rule, verbose=self.verbose)

    def vary(self, rule=None, blocks=None, verbose=0):
        """The objective with another rule or on other blocks."""
        return MetaObjective(
            self.blocks if blocks is None else blocks,
            self.loss,
            self.rule if rule is None else rule,
            self.penalty,
            self.n_jobs,
            verbose,
        )

    def report(self, message):
        """Log a message, at level INFO if the objective is verbose."""
        report(message, self.verbose)

    def value_and_gradient(self, theta):
        """L(theta), summed over targets, and its gradient.

        Parameters
        ----------
        theta : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        value : float
        gradient : ndarray of the shape of theta
        """
        if not self._known(theta):
            self.reduce_with_gradient(_nothing, theta)
        return self._last[1]

    def value(self, theta):
        """L(theta) alone, for half the price."""
        if self._known(theta):
            return self._last[1][0]
        (value,) = self.reduce(_value, theta)
        return float(value + (self.penalty * theta**2).sum())

    def _known(self, theta):
        return self._last[0] is not None and np.array_equal(self._last[0], theta)

    def reduce_with_gradient(self, f, theta):
        """`reduce`, with value and gradient at theta evaluated in the same pass and kept."""
        if self._known(theta):
            return self.reduce(f, theta)
        value, gradient, *rest = self.reduce(partial(_with_gradient, f), theta)
        value = float(value + (self.penalty * theta**2).sum())
        gradient = gradient + 2 * self.penalty * theta
        size = np.hypot.reduce(gradient, axis=None)  # no square overflows
        self.report(f"meta-loss {value:.8g}, gradient norm {size:.3g}")
        self._last = theta.copy(), (value, gradient)
        return rest

    def reduce(self, f, theta, combine=None):
        """``f`` of each block's `Linearization` at theta, summed over blocks in their order.

        Parameters
        ----------
        f : callable
            Returns a tuple of numbers and arrays; a module-level function, so that worker
            processes can run it too.
        theta : ndarray of shape (d,) or (n_targets, d)
        combine : callable, default=None
            How two results become one; None adds them entry by entry.
        """
        return self.fold(partial(self._apply, f, theta), combine or add_parts)

    def adapted(self, theta):
        """The adapted parameters of every task, from its support rows.

        Parameters
        ----------
        theta : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        theta_i : ndarray of shape (n_tasks, d) or (n_tasks, n_targets, d)
            In the order of the tasks; with one episode a task.
        information : ndarray of shape (n_tasks, k) or None
            See `AdaptationRule.information`; None where it would take more than 128 MiB.
        """
        parts = self.fold(partial(self._adapted, theta), add)
        owner, theta_i, information = zip(*parts, strict=True)
        order = np.argsort(np.concatenate(owner))
        known = None if information[0] is None else np.concatenate(information)[order]
        return np.concatenate(theta_i)[order], known

    def query_predictions(self, theta):
        """The query rows of all tasks, predicted by the adapted parameters.

        Parameters
        ----------
        theta : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        QueryPredictions
        """
        return QueryPredictions(*self.fold(partial(self._query_predictions, theta), _concatenate))

    def relative_step_shares(self, limits):
        """The shares of tasks, by weight, whose relative step exceeds each limit.

        Parameters
        ----------
        limits : sequence of float

        Returns
        -------
        ndarray of shape (n_limits,)
        """
        return self.fold(partial(self._shares, np.asarray(limits)), np.add)

    def _shares(self, limits, i):
        support, _, weight = self.risks(i)
        return (self.rule.relative_step(support) > limits[:, None]) @ weight

    def _adapted(self, theta, i):
        support, _, _ = self.risks(i)
        theta_i, _ = self.rule.adapt(theta[..., None, :], support)
        information = self.rule.information(support)
        if information is not None:
            kept = len(self.blocks.tasks.weight) * information[0].size <= KEPT_INFORMATION
            information = information if kept else None
        return [(self.blocks.owner(i), np.moveaxis(theta_i, -2, 0), information)]

    def _query_predictions(self, theta, i):
        at = self.linearize(i, theta)
        targets, weights = at.query.targets, at.query.weights
        # An episode of weight 0 stands for a task that is too small for it.
        real = (weights > 0) & (at.weight > 0)[:, None]
        n_tasks = len(self.blocks.tasks.weight)
        scaled = weights * (weights > 0).sum(axis=1, keepdims=True)
        scaled = scaled * n_tasks * at.weight[:, None]
        owner = np.broadcast_to(self.blocks.owner(i)[:, None], weights.shape)
        predictions = np.broadcast_to(at.predictions, targets.shape)
        return targets[..., real], predictions[..., real], scaled[real], owner[real]

    def linearize(self, i, theta):
        """The `Linearization` of block i at theta."""
        return Linearization(*self.risks(i), theta, self.rule)

    def risks(self, i):
        """Support risk, query risk and task weights of block i."""
        block = self.blocks[i]
        kept = self._kept[i] if self.blocks.cached else None
        support = Risk(self.loss, *block.support, memo=self._memos[i], kept=kept)
        if block.query is block.support:
            return support, support, block.weight
        return support, Risk(self.loss, *block.query), block.weight

    def batches(self, size, random):
        """Random batches of tasks, each a function from theta to an unbiased gradient.

        Blocks come in random order, and so do the batches of a block, so that a block is built
        once a pass. Gradients are scaled by the number of batches: their mean over a pass, theta
        held fixed, is the gradient of the meta-loss.

        Parameters
        ----------
        size : int
            Tasks (episodes) a batch, at most.
        random : RandomState

        Yields
        ------
        callable
            Maps theta to a gradient of its shape.
        """
        counts = [len(self.blocks[i].weight) for i in range(len(self.blocks))]
        n_batches = sum(-(-count // size) for count in counts)
        for i in random.permutation(len(self.blocks)):
            risks = self.risks(i)
            order = random.permutation(counts[i])
            for start in range(0, counts[i], size):
                members = order[start : start + size]
                yield partial(self._batch_gradient, risks, members, n_batches)

    def _batch_gradient(self, risks, members, scale, theta):
        support, query, weight = risks
        chosen = support.take(members)
        other = chosen if query is support else query.take(members)
        part = Linearization(chosen, other, weight[members], theta, self.rule)
        return scale * part.gradient + 2 * self.penalty * theta

    def _apply(self, f, theta, i):
        # Far from the data an exponential overflows: the loss is infinite, and a solver turns back.
        with np.errstate(over="ignore", invalid="ignore"):
            return f(self.linearize(i, theta))

    def fold(self, f, combine):
        """Left fold of ``f(i)`` over block numbers: the same bits for every `n_jobs`."""
        n_blocks = len(self.blocks)
        # One BLAS thread: workers are the parallelism, and sums do not depend on their number.
        with one_blas_thread():
            work = self.blocks.n_query() * self.n_parameters**2
            if effective_n_jobs(self.n_jobs) == 1 or work < MIN_WORK_IN_PARALLEL:
                return reduce(combine, map(f, range(n_blocks)))
            return reduce(combine, self._in_parallel(f, range(n_blocks)))

    def _in_parallel(self, f, numbers):
        """``f(i)`` for each number, in order, by joblib's workers."""
        backend, _ = get_active_backend(prefer="threads")
        # Threads share the objective. Processes get a copy with each call: so make few calls.
        size = 1
        if not getattr(backend, "uses_threads", False):
            size = -(-len(numbers) // (4 * effective_n_jobs(self.n_jobs)))
        chunks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
        lazily = "generator" if getattr(backend, "supports_return_generator", False) else "list"
        parallel = Parallel(self.n_jobs, prefer="threads", return_as=lazily)
        return chain.from_iterable(parallel(delayed(_each)(f, chunk) for chunk in chunks))


def _each(f, numbers):
    with one_blas_thread():  # worker processes have a BLAS of their own
        return [f(i) for i in numbers]


def _concatenate(total, part):
    return tuple(np.concatenate(pair, axis=-1) for pair in zip(total, part, strict=True))


def add_parts(total, part):
    """Two blocks' results, tuples, entry by entry."""
    return tuple(a + b for a, b in zip(total, part, strict=True))
