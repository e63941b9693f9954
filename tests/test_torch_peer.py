"""Value and gradient of the meta-loss against PyTorch's automatic differentiation."""

import sys
from pathlib import Path

import numpy as np
import pytest
from objectives import objective_of

from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses import LOSSES

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import torch_peer


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("loss", torch_peer.LOSSES)
def test_value_and_gradient_are_those_of_torch(loss, n_steps):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 2, 60).astype(float)
    tasks = [(X[i : i + 10], y[i : i + 10]) for i in range(0, 60, 10)]
    rule = GradientSteps(0.05, n_steps, cap=False)
    objective = objective_of(tasks, LOSSES[loss](), rule, 0.1)
    peer = torch_peer.value_and_gradient(objective, loss, np.full(6, 0.05), n_steps)
    for theta in 0.3 * rng.normal(size=(3, 5)):
        value, gradient = objective.value_and_gradient(theta)
        expected = peer(theta)
        assert value == pytest.approx(expected[0], rel=1e-12)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-9, atol=1e-12)
