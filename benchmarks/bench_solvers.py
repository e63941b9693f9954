"""CPU seconds and evaluations to a gap of 1e-3, 1e-6, 1e-9: solver x loss x problem, one thread.

The gap is relative to that of theta = 0. Its truth is the best value that any solver found; a
solver that ends in another local minimum, or too early, has a dash. Where
PyTorch is installed, the same meta-objective with torch.func gradients and torch.optim.LBFGS is
timed too, after a check that values and gradients agree. Every solver runs several times, on data
that it has not seen stacked, after a run to warm up; the times are medians.

    python benchmarks/bench_solvers.py [--small]
"""

# ruff: noqa: E402 - threads are limited before numpy is imported
import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import time
import warnings

import numpy as np
from scipy.special import expit

from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses import LOSSES
from sklearn_maml.solvers import LBFGS, SGD, GaussNewton, GradientDescent, LeastSquares

try:
    import torch
    import torch_peer
except ImportError:
    torch = None

GAPS = (1e-3, 1e-6, 1e-9)
# (tasks, rows, features, condition number of the features)
PROBLEMS = {
    "many small": (500, 20, 10, 1.0),
    "ill-conditioned": (200, 20, 20, 1e3),
    "wide": (50, 20, 300, 10.0),
}
N_STEPS, ALPHA = 2, 1e-3
REPEATS = 5


def make_problem(loss, n_tasks, m, d, condition, seed=0):
    """Pooled rows of linear tasks about common parameters, in columns of unequal size."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, m, d)) * np.geomspace(1, 1 / condition, d) ** 0.5
    theta = rng.normal(size=d) / np.sqrt((X**2).sum(axis=2).mean())
    theta_i = theta + 0.3 * rng.normal(size=(n_tasks, d)) / np.sqrt((X**2).sum(axis=2).mean())
    z = np.einsum("nmd,nd->nm", X, theta_i)
    if loss == "log_loss":
        y = (rng.random(z.shape) < expit(3 * z)).astype(float)
    elif loss == "poisson":
        y = rng.poisson(np.exp(0.5 * z)).astype(float)
    else:
        y = z + 0.3 * rng.standard_t(3, size=z.shape)
    return X.reshape(-1, d), y.ravel()


def make_objective(X, y, loss, n_tasks):
    """A fresh meta-objective; steps are short enough that none is capped or damped."""
    codes = np.repeat(np.arange(n_tasks), len(y) // n_tasks)
    blocks = Blocks(Tasks.from_codes(y, codes), Features(X, intercept=False), Episodes())
    size = 0.5 / (X**2).sum(axis=1).max()
    bounded = np.isfinite(LOSSES[loss].hessian_bound)
    rule = GradientSteps(size if bounded else 0.1 * size, N_STEPS, cap=False)
    return MetaObjective(blocks, LOSSES[loss](), rule, np.full(X.shape[1], ALPHA))


class Recorder:
    """Values of an objective with the seconds at which they were known."""

    def __init__(self):
        # Of this process: what else the machine does counts for neither side.
        self.start, self.seconds, self.values = time.process_time(), [], []

    def __call__(self, value):
        self.seconds.append(time.process_time() - self.start)
        self.values.append(value)


def median(records):
    """One record of several that took the same path, with the medians of its times."""
    typical = records[0]
    typical.seconds = np.median([record.seconds for record in records], axis=0)
    return typical


def run(solver, X, y, loss, n_tasks):
    """Seconds and values of each evaluation by a solver."""
    record = Recorder()
    objective = Recorded(make_objective(X, y, loss, n_tasks), record)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver.minimize(objective, np.zeros(X.shape[1]))
    return record


class Recorded:
    """A meta-objective that tells a recorder the value of each evaluation."""

    def __init__(self, objective, record):
        self._objective, self._record = objective, record

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def value(self, theta):
        self._record(self._objective.value(theta))
        return self._record.values[-1]

    def value_and_gradient(self, theta):
        self._objective.value_and_gradient(theta)
        self.value(theta)  # known by now
        return self._objective.value_and_gradient(theta)

    def reduce_with_gradient(self, f, theta):
        rest = self._objective.reduce_with_gradient(f, theta)
        self.value(theta)
        return rest


def run_peer(X, y, loss, n_tasks):
    """The same by PyTorch; also how well values and gradients agree."""
    objective = make_objective(X, y, loss, n_tasks)
    step = np.full(n_tasks, objective.rule.inner_lr)
    objective = objective.vary(blocks=Whole(objective.blocks))
    evaluate = torch_peer.value_and_gradient(objective, loss, step, N_STEPS)
    theta = 0.02 * np.random.default_rng(0).normal(size=X.shape[1])
    ours, theirs = objective.value_and_gradient(theta), evaluate(theta)
    difference = max(
        abs(ours[0] - theirs[0]) / abs(theirs[0]),
        np.linalg.norm(ours[1] - theirs[1]) / np.linalg.norm(theirs[1]),
    )
    records = []
    for _ in range(1 + REPEATS):
        records.append(Recorder())
        torch_peer.lbfgs(evaluate, np.zeros(X.shape[1]), records[-1])
    return median(records[1:]), difference


class Whole:
    """All blocks of equal tasks as one."""

    kept = True

    def __init__(self, blocks):
        parts = [blocks[i] for i in range(len(blocks))]
        rows = type(parts[0].query)(
            *(np.concatenate(part) for part in zip(*(b.query for b in parts), strict=True))
        )
        self.block = parts[0]._replace(
            support=rows, query=rows, weight=np.concatenate([b.weight for b in parts])
        )
        self.tasks, self.n_query = blocks.tasks, blocks.n_query

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return self.block


def reached(record, best, gap):
    """Seconds and evaluations until the gap, relative to the first value's; None if never."""
    first = record.values[0]
    hits = np.flatnonzero(np.array(record.values) - best <= gap * (first - best))
    return (record.seconds[hits[0]], hits[0] + 1) if len(hits) else None


def table(problem, shape, loss):
    """Run and print all solvers on one problem."""
    n_tasks = shape[0]
    X, y = make_problem(loss, *shape)
    solvers = [GaussNewton(tol=1e-14), LBFGS(tol=1e-14), GradientDescent(max_iter=300)]
    solvers.append(SGD(0.02, batch_size=50, n_epochs=30, method="adam", random_state=0))
    if LOSSES[loss].constant_hessian:
        solvers.insert(0, LeastSquares())
    records = {}
    for solver in solvers:
        runs = [run(solver, X, y, loss, n_tasks) for _ in range(1 + REPEATS)]
        records[type(solver).__name__] = median(runs[1:])
    if torch is not None:
        torch.set_num_threads(1)
        records["torch LBFGS"], difference = run_peer(X, y, loss, n_tasks)
        print(f"\n{problem}, {loss}: value and gradient agree with torch to {difference:.1e}")
    else:
        print(f"\n{problem}, {loss}")
    best = min(min(record.values) for record in records.values())
    for name, record in records.items():
        cells = [reached(record, best, gap) for gap in GAPS]
        text = "".join(f"{'-':>18}" if c is None else f"{c[0]:>10.4f} s{c[1]:>6}" for c in cells)
        print(f"  {name:<16}{text}")
    return {name: reached(record, best, 1e-6) for name, record in records.items()}


def main():
    """Print all tables, and the peer's time over that of the best of ours."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the tasks")
    small = parser.parse_args().small
    print("seconds and evaluations to a relative gap of " + ", ".join(f"{g:g}" for g in GAPS))
    ratios = []
    for problem, (n_tasks, *rest) in PROBLEMS.items():
        for loss in ("squared_error", "pseudo_huber", "log_loss", "poisson"):
            times = table(problem, (n_tasks // 10 if small else n_tasks, *rest), loss)
            peer = times.pop("torch LBFGS", None)
            mine = times.get("LeastSquares") or times["GaussNewton"]
            if peer and mine:
                ratios.append((peer[0] / mine[0], problem, loss))
    for ratio, problem, loss in ratios:
        print(f"{problem}, {loss}: default solver {ratio:.1f}x as fast as torch to 1e-6")


if __name__ == "__main__":
    main()
