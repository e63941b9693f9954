"""The same meta-objective in PyTorch: torch.func gradients through the inner steps, batched."""

import numpy as np
import torch

torch.set_default_dtype(torch.float64)

LOSSES = {
    "squared_error": lambda y, z: (z - y) ** 2,
    "pseudo_huber": lambda y, z: 2 * (torch.sqrt(1 + (z - y) ** 2) - 1),
    "log_loss": lambda y, z: torch.nn.functional.softplus(z) - y * z,
    "poisson": lambda y, z: 2 * (torch.exp(z) - y * z + torch.special.xlogy(y, y) - y),
}


def value_and_gradient(objective, loss, step, n_steps):
    """A function from theta (numpy) to L and its gradient, for steps of lengths `step` (n,).

    Tasks must be of one size; each adapts to all its rows and is judged on them.
    """
    block = objective.blocks[0]
    assert len(objective.blocks) == 1
    rows = block.query
    parts = (rows.features, rows.targets, rows.weights)
    X, y, a = (torch.as_tensor(np.ascontiguousarray(part)) for part in parts)
    weight, step = torch.as_tensor(block.weight), torch.as_tensor(step)
    penalty, pointwise = torch.as_tensor(objective.penalty), LOSSES[loss]

    def risk(theta, X, y, a):
        return (a * pointwise(y, X @ theta)).sum()

    def adapted_risk(theta, X, y, a, step):
        theta_i = theta
        for _ in range(n_steps):
            theta_i = theta_i - step * torch.func.grad(risk)(theta_i, X, y, a)
        return risk(theta_i, X, y, a)

    def meta_loss(theta):
        risks = torch.func.vmap(adapted_risk, in_dims=(None, 0, 0, 0, 0))(theta, X, y, a, step)
        return (weight * risks).sum() + (penalty * theta**2).sum()

    both = torch.func.grad_and_value(meta_loss)

    def evaluate(theta):
        gradient, value = both(torch.as_tensor(theta))
        return float(value), gradient.numpy()

    return evaluate


def lbfgs(evaluate, theta, record, max_iter=500, tolerance=1e-12):
    """The end of torch.optim.LBFGS with its strong Wolfe line search; `record` gets each value."""
    parameters = torch.nn.Parameter(torch.as_tensor(theta.copy()))
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=max_iter,
        tolerance_grad=tolerance,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure():
        value, gradient = evaluate(parameters.detach().numpy())
        record(value)
        parameters.grad = torch.as_tensor(gradient)
        return torch.tensor(value)

    optimizer.step(closure)
    return parameters.detach().numpy()
