"""What a certificate would have said at each iteration of a solver."""

import numpy as np

from sklearn_maml._estimators.prediction import objective_on, theta_of
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml.certificate.certify import certify
from sklearn_maml.model_selection.pipelines import at_the_model, unwrap

__all__ = ["certified_path"]


class _Recording(MetaObjective):
    """A meta-objective that remembers where it was evaluated, by value."""

    def __init__(self, objective):
        super().__init__(
            objective.blocks, objective.loss, objective.rule, objective.penalty, objective.n_jobs
        )
        object.__setattr__(self, "visited", {})

    def value_and_gradient(self, theta):
        value, gradient = super().value_and_gradient(theta)
        self.visited[value] = theta.copy()
        return value, gradient


def certified_path(fitted, tasks, y, groups, sample_weight, n_points=50):
    """Meta-losses and certified lower bounds by iteration, from a second run of the solver.

    Parameters
    ----------
    fitted : MAMLRegressor, Pipeline that ends in one, or a search over either
    tasks, y, groups, sample_weight
        What it was fitted on.
    n_points : int, default=50
        At most so many iterates are certified, the first and the last among them.

    Returns
    -------
    values, lower_bounds : ndarray of shape (n_values,)
        NaN where an iterate was not certified.

    Raises
    ------
    ValueError
        If these are not the tasks of the fit.
    """
    steps, model = unwrap(fitted)
    X, y, given = at_the_model(steps, model, tasks, y, groups, sample_weight)
    plain = objective_on(model, X, y, **given, episodes=model._episodes)
    objective = _Recording(plain)
    value, _ = objective.value_and_gradient(theta_of(model))
    if not np.isclose(value, model.meta_loss_, rtol=1e-6):
        raise ValueError(
            f"The meta-loss on these tasks is {value:.6g}, but it was {model.meta_loss_:.6g} in "
            "fit; pass the tasks, groups and weights of fit."
        )
    result = model._make_solver(objective.rule).minimize(objective, objective.origin())
    values = np.array(result.values)
    bounds = np.full(len(values), np.nan)
    for k in np.unique(np.linspace(0, len(values) - 1, n_points).astype(int)):
        if result.values[k] in objective.visited:
            certificate = certify(plain, objective.visited[result.values[k]])
            bounds[k] = certificate.lower_bound
    return values, bounds
