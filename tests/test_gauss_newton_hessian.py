"""The Gauss-Newton Hessian against Jacobians by differences."""

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of

from sklearn_maml import GradientSteps
from sklearn_maml._objective.gauss_newton_hessian import gauss_newton_hessian, hessian_diagonal
from sklearn_maml.losses import LogCosh, LogLoss, PseudoHuber, SmoothedQuantile, SquaredError

THETA = np.array([0.3, -0.2, 0.1])
STEPS = GradientSteps(0.3, 2, cap=False)


def jacobian(objective, i, theta):
    """How the predictions of block i move with theta, (n, m, d), by central differences."""
    ends = [
        objective.linearize(i, theta + s * e).predictions for e in 1e-6 * np.eye(3) for s in (1, -1)
    ]
    return np.stack(
        [(up - down) / 2e-6 for up, down in zip(ends[::2], ends[1::2], strict=True)], -1
    )


def by_hand(objective, theta, curvature):
    """``sum p b l'' psi psi' + 2 A``, where ``curvature(y, z)`` stands for l''."""
    total = 2.0 * np.diag(objective.penalty)
    for i in range(len(objective.blocks)):
        at, psi = objective.linearize(i, theta), jacobian(objective, i, theta)
        seen = at.row_weight * curvature(at.query.targets, at.predictions)
        total = total + np.einsum("ij,ijk,ijl->kl", seen, psi, psi)
    return total


def of_log_cosh(y, z):
    """l'', but no less than a tenth of that of the parabola that is as steep there."""
    return np.maximum(1 / np.cosh(z - y) ** 2, 0.1 * np.abs(np.tanh(z - y) / (z - y)))


def of_pseudo_huber(y, z):
    """The same, of squares up to about 3 and slopes up to 6."""
    root = np.sqrt(1 + ((z - y) / 3.0) ** 2)
    return np.maximum(2 / root**3, 0.1 * 2 / root)


@pytest.mark.parametrize(
    ("loss", "curvature"),
    [
        (LogCosh(), of_log_cosh),
        (PseudoHuber(3.0), of_pseudo_huber),
        (LogLoss(), lambda y, z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
        (SquaredError(), lambda y, z: 2.0),
    ],
    ids=["log_cosh", "pseudo_huber", "log_loss", "squared_error"],
)
@pytest.mark.parametrize("far", [1.0, 30.0])
def test_the_hessian_is_that_of_its_formula(loss, curvature, far):
    """Rows near to their targets, and so far from them that log-cosh is straight there."""
    tasks = [task for m in (3, 9) for task in make_tasks(3, m, n_features=2, seed=m)]
    tasks = [((X, (y > 0) * 1.0) if isinstance(loss, LogLoss) else (X, far * y)) for X, y in tasks]
    objective = objective_of(tasks, loss, STEPS, 0.2)
    wanted = by_hand(objective, THETA, curvature)
    found = gauss_newton_hessian(objective, THETA)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)
    W = np.random.default_rng(0).normal(size=(3, 2))
    np.testing.assert_allclose(
        gauss_newton_hessian(objective, THETA, W), W.T @ found @ W, rtol=1e-9
    )
    for v in np.eye(3):
        np.testing.assert_allclose(objective.hessian_dot(THETA, v), found @ v, rtol=1e-9)
    (diagonal,) = objective.reduce(hessian_diagonal, THETA)
    np.testing.assert_allclose(diagonal + 2 * objective.penalty, np.diag(found), rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "curvature"), [(LogCosh(), 1.0), (SmoothedQuantile(0.5, 1.0), 0.25)], ids=repr
)
def test_at_the_target_a_loss_is_as_curved_as_it_is(loss, curvature):
    """There the parabola through it has no slope to go by: 0 / 0 would be a warning."""
    X, y = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.3, -0.2])
    objective = objective_of([(X, y)], loss, GradientSteps(0.1, 0), penalise_last=True)
    np.testing.assert_allclose(
        gauss_newton_hessian(objective, y), 0.5 * curvature * np.eye(2), rtol=1e-12
    )
