"""Every lower bound is attacked: other meta-parameters are sought, from far, that beat it.

200 small problems by default; ``SKLEARN_MAML_ATTACKS=5000`` in the environment tries so many.
"""

import os
from dataclasses import dataclass

import numpy as np
import pytest
from objectives import objective_of, targets_for
from scipy.optimize import minimize

from sklearn_maml import Proximal, certify
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.certificate.tight import EFFORTS
from sklearn_maml.losses import LOSSES

N_ATTACKS = int(os.environ.get("SKLEARN_MAML_ATTACKS", "200"))
N_BATCHES = 20

CONVEX = [name for name in LOSSES if not LOSSES[name].constant_hessian]
EPISODES = ({}, {"support": 2, "split": "first"}, {"support": 0.5, "n_episodes": 2})


@dataclass
class Problem:
    """A small problem, with where to start from."""

    objective: object
    starts: list
    effort: str
    text: str

    def best(self):
        """The smallest meta-loss that scipy finds, and where."""
        ends = [self.descend(start) for start in self.starts]
        return min(ends, key=lambda end: end[0])

    def descend(self, start):
        with np.errstate(all="ignore"):  # far starts of exponential losses
            found = minimize(self.safe, start, jac=True, method="BFGS", options={"maxiter": 60})
        return float(found.fun), found.x

    def safe(self, theta):
        with np.errstate(all="ignore"):
            value, gradient = self.objective.value_and_gradient(theta)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e300, np.zeros_like(theta)
        return value, gradient


def random_rule(rng, d):
    kind = rng.integers(4)
    if kind == 0:
        return Proximal(float(rng.choice([0.3, 3.0, 30.0])), np.exp(rng.normal(size=d)))
    lengths = [0.1, 0.5, 2.0]
    if kind == 1:
        return GradientSteps(float(rng.choice(lengths)), int(rng.integers(0, 4)))
    if kind == 2:
        return GradientSteps(0.9, int(rng.integers(1, 3)), relative=True)
    return GradientSteps(float(rng.choice(lengths)), int(rng.integers(1, 3)), cap=False)


def random_problem(seed):
    """Few tasks in one or two clusters that want opposite parameters: several local minima."""
    rng = np.random.default_rng(seed)
    d, n_tasks, m = rng.integers(1, 4), rng.integers(1, 7), int(rng.integers(3, 9))
    loss = LOSSES[CONVEX[seed % len(CONVEX)]]()
    wanted = rng.normal(size=d) * rng.choice([0.3, 1.0, 3.0])
    signs = rng.choice([-1.0, 1.0], size=n_tasks) if rng.integers(2) else np.ones(n_tasks)
    scale = rng.choice([0.3, 1.0, 3.0])
    tasks = []
    for sign in signs:
        X = scale * rng.normal(size=(m, d))
        z = sign * (X @ wanted) + rng.choice([0.1, 1.0]) * rng.normal(size=m)
        y = (z > 0) * 1.0 if type(loss).__name__ == "LogLoss" else targets_for(loss, z)
        tasks.append((X, y))
    rule = random_rule(rng, d + 1)
    episodes = EPISODES[rng.integers(len(EPISODES))]
    objective = objective_of(tasks, loss, rule, float(rng.choice([0.0, 0.01, 0.3])), episodes)
    starts = [np.zeros(d + 1), *(rng.normal(size=(3, d + 1)) * [[0.3], [3.0], [30.0]])]
    starts += [np.append(sign * wanted, 0.0) for sign in (1.0, -1.0)]
    effort = "branch" if seed % 40 == 1 else ("fast", "full")[seed % 2]
    return Problem(objective, starts, effort, f"{seed}: {loss!r}, {rule!r}, {episodes}")


@pytest.mark.parametrize("batch", range(N_BATCHES))
def test_nothing_that_scipy_finds_beats_a_lower_bound(batch, monkeypatch):
    # A bound is valid however early branch and bound stops.
    monkeypatch.setitem(EFFORTS, "branch", EFFORTS["branch"]._replace(n_nodes=60))
    for seed in range(batch, N_ATTACKS, N_BATCHES):
        problem = random_problem(seed)
        best, theta = problem.best()
        local = problem.descend(problem.starts[seed % len(problem.starts)])[1]
        for at in (theta, local, np.zeros_like(theta)):
            value = problem.safe(at)[0]
            if value >= 1e100:  # no square of it is finite
                continue
            certificate = certify(problem.objective, at, problem.effort)
            for route, bound in certificate.routes:
                assert value - best <= bound + 1e-13 * abs(value), (problem.text, route, bound)
            assert not (certificate.exact and value - best > 1e-9 * abs(value)), problem.text
