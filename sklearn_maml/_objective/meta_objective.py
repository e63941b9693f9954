"""The meta-objective: what a task contributes, summed over blocks of tasks in parallel.

It joins tasks, a loss and an adaptation rule by duck type and knows none of them:

    L(theta) = sum_i p_i sum_j b_ij l(phi_ij' A_i(theta), y_ij) + alpha ||theta||^2
"""

from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sklearn_maml._objective.gauss_newton_hessian import hessian_product
from sklearn_maml._objective.linearization import Linearization, QueryPredictions
from sklearn_maml._objective.risk import Risk
from sklearn_maml._parallel import adding, fill_from_blocks, fold_blocks
from sklearn_maml._progress import report

__all__ = ["MetaObjective"]

# What support rows tell of all tasks is kept where it fits into 128 MiB.
KEPT_INFORMATION = 2**24

# A row of few features takes as long as if these squared were more by so much.
NARROW = 2**9

# What an objective keeps that depends on its penalty.
PENALISED = ("last", "quadratic")


class Evaluation(NamedTuple):
    """The meta-loss and its gradient at theta, and the sums that were taken along."""

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    along: Any


@dataclass(frozen=True, eq=False)
class MetaObjective:
    """The meta-loss L(theta) over blocks of tasks.

    It is frozen: the rule is a copy of its own, so that nothing which is computed once, and kept
    for the next pass over the data, can become untrue. What is kept belongs to a block and this
    rule (its `InnerLoop`), or to a block and the last theta (its `Linearization`); it is kept where
    the blocks themselves are, and is never sent to worker processes.

    Attributes
    ----------
    blocks : Blocks
    loss : Loss
    rule : AdaptationRule
    penalty : ndarray of shape (d,)
        alpha for each penalised parameter, 0 for the intercept.
    n_jobs : int, default=None
        Workers, as in joblib. The result does not depend on it, not even in the last bit.
    verbose : int, default=0
        Whether to report each evaluation.
    """

    blocks: Any
    loss: Any
    rule: Any
    penalty: np.ndarray
    n_jobs: int | None = None
    verbose: int = 0
    _kept: dict = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "rule", copy(self.rule))

    def __getstate__(self):
        return {**self.__dict__, "_kept": {}}

    @property
    def is_quadratic(self):
        """Whether the meta-loss is a quadratic in theta: its Hessian, and J_i, are constant."""
        return self.loss.constant_hessian and self.rule.affine

    @property
    def n_parameters(self):
        """d: the length of theta."""
        return len(self.penalty)

    @property
    def n_targets(self):
        """The number of targets, or 0 where targets have one axis."""
        y = self.blocks.tasks.y
        return 0 if y.ndim == 1 else y.shape[1]

    def origin(self):
        """Parameters that are all zero, of the shape that theta has."""
        d = self.n_parameters
        return np.zeros((self.n_targets, d) if self.n_targets else d)

    def exact(self):
        """The objective with its rule's true derivative: itself, unless the rule is first-order."""
        return replace(self, rule=self.rule.exact()) if self.rule.first_order else self

    def vary(self, rule=None, blocks=None, verbose=0):
        """The objective with another rule or on other blocks."""
        return replace(
            self,
            blocks=self.blocks if blocks is None else blocks,
            rule=self.rule if rule is None else rule,
            verbose=verbose,
        )

    def penalised(self, penalty, verbose=0):
        """The objective with another penalty (d,): what is kept of the tasks does not change."""
        other = replace(self, penalty=penalty, verbose=verbose)
        other._kept.update((k, v) for k, v in self._kept.items() if k not in PENALISED)
        return other

    def keep(self, name, make):
        """``make(self)``, computed once: a fact of the objective as a whole."""
        if name not in self._kept:
            self._kept[name] = make(self)
        return self._kept[name]

    def kept(self, name):
        """What was kept by that name, or None."""
        return self._kept.get(name)

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
            self.reduce_with_gradient(self._kept.get("along", _nothing), theta)
        return self._kept["last"][1:3]

    def take_along(self, f):
        """Let `value_and_gradient` sum up f, too, which `reduce_with_gradient` is to be asked."""
        self._kept["along"] = f

    def value(self, theta):
        """L(theta) alone, for half the price."""
        if self._known(theta):
            return self._kept["last"].value
        (value,) = self.reduce(_value, theta)
        return float(value + (self.penalty * theta**2).sum())

    def hessian_dot(self, theta, v):
        """The Gauss-Newton Hessian at theta times v; exact where the meta-loss is a quadratic.

        ``H v = sum_i p_i sum_j b_ij l''_ij psi_ij (psi_ij' v) + 2 alpha v`` with the adapted design
        psi: no d x d matrix is formed.

        Parameters
        ----------
        theta, v : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        ndarray of the shape of v
        """
        (product,) = self.reduce(partial(hessian_product, v), theta)
        return product + 2.0 * self.penalty * v

    def reduce_with_gradient(self, f, theta):
        """`reduce`, with value and gradient at theta evaluated in the same pass and kept."""
        along = f is self._kept.get("along")
        if self._known(theta):
            last = self._kept["last"]
            return last.along if along and last.along is not None else self.reduce(f, theta)
        value, gradient, *rest = self.reduce(partial(_with_gradient, f), theta)
        value = float(value + (self.penalty * theta**2).sum())
        gradient = gradient + 2 * self.penalty * theta
        size = np.hypot.reduce(gradient, axis=None)  # no square overflows
        self.report(f"meta-loss {value:.8g}, gradient norm {size:.3g}")
        self._kept["last"] = Evaluation(theta.copy(), value, gradient, rest if along else None)
        return rest

    def _known(self, theta):
        last = self._kept.get("last")
        return last is not None and np.array_equal(last.theta, theta)

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
        return self.fold(partial(self._apply, f, theta), combine or adding())

    def _apply(self, f, theta, i):
        # Far from the data an exponential overflows: the loss is infinite, and a solver turns back.
        with np.errstate(over="ignore", invalid="ignore"):
            return f(self.linearize(i, theta))

    def fold(self, f, combine):
        """Left fold of ``f(i)`` over block numbers: the same bits for every `n_jobs`."""
        return fold_blocks(f, len(self.blocks), combine, self.n_jobs, self._work)

    @property
    def _work(self):
        """How much a pass over all rows is; see `fold_blocks`."""
        return self.blocks.n_query * (self.n_parameters**2 + NARROW)

    def linearize(self, i, theta):
        """The `Linearization` of block i at theta."""
        known = self._kept.get(("linearization", i))
        if known is not None and np.array_equal(known.theta, theta):
            return known
        loop, weight = self.loop(i)
        # A copy of theta: a solver may go on in the same memory.
        linearization = Linearization(loop.support, loop.query, weight, theta.copy(), loop)
        if self.blocks.kept:
            self._kept["linearization", i] = linearization
        return linearization

    def loop(self, i, again=True):
        """The `InnerLoop` of block i, and its tasks' weights; kept if it is asked for again."""
        if ("loop", i) in self._kept:
            return self._kept["loop", i]
        support, query, weight = self.risks(i)
        loop = self.rule.bind(support, query), weight
        loop[0].recall(self._kept.setdefault(("facts", i), {}))
        if again and self.blocks.kept:
            self._kept["loop", i] = loop
        return loop

    def risks(self, i):
        """Support risk, query risk and task weights of block i."""
        block = self.blocks[i]
        support = Risk(self.loss, *block.support)
        query = support if block.query is block.support else Risk(self.loss, *block.query)
        return support, query, block.weight

    def adapted(self, theta):
        """The adapted parameters of every task, from its support rows.

        Parameters
        ----------
        theta : ndarray of shape (d,) or (n_targets, d)

        Returns
        -------
        theta_i : ndarray of shape (n_tasks, d) or (n_tasks, n_targets, d)
            In the order of the tasks; with one episode a task.
        information : ndarray of shape (n_tasks, k) or (n_tasks, n_targets, k), or None
            See `AdaptationRule.information`; None where it would take more than 128 MiB.
        """
        f, n_tasks = partial(self._adapted, theta), len(self.blocks.tasks.weight)
        return fill_from_blocks(f, len(self.blocks), n_tasks, self.n_jobs, self._work)

    def _adapted(self, theta, i):
        loop, _ = self.loop(i, again=False)
        theta_i, _ = loop.adapt(theta[..., None, :])
        support = loop.support
        information = self._information(support.take([0]), theta_i[..., :1, :])
        n_tasks = len(self.blocks.tasks.weight)
        if information is not None:  # one task says how much all of them would take
            kept = n_tasks * information.size <= KEPT_INFORMATION
            information = self._information(support, theta_i) if kept else None
        return self.blocks.owner(i), np.moveaxis(theta_i, -2, 0), information

    def _information(self, support, theta_i):
        """What support rows tell of tasks with these parameters, tasks first; or None."""
        information = self.rule.information(support.square_about(support.predict(theta_i)))
        several = information is not None and information.ndim == 3
        return np.moveaxis(information, 0, 1) if several else information  # one set a target

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
        loop, weight = self.loop(i)
        return (loop.relative_step > limits[:, None]) @ weight

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
        counts = [len(self.blocks.owner(i)) for i in range(len(self.blocks))]
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
        part = Linearization(chosen, other, weight[members], theta, self.rule.bind(chosen, other))
        return scale * part.gradient + 2 * self.penalty * theta


def _with_gradient(f, linearization):
    """A block's part of the meta-loss, of its gradient and of whatever f adds."""
    return linearization.value, linearization.gradient, *f(linearization)


def _value(linearization):
    return (linearization.value,)


def _nothing(linearization):
    return ()


def _concatenate(total, part):
    return tuple(np.concatenate(pair, axis=-1) for pair in zip(total, part, strict=True))
