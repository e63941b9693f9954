"""What a certificate would have said at each iteration of a solver."""

import inspect

import numpy as np

from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml._estimators.plan import make_solver
from sklearn_maml._estimators.prediction import theta_of
from sklearn_maml.certificate.certify import certify
from sklearn_maml.model_selection.pipelines import at_the_model, unwrap

__all__ = ["certified_path"]


def certified_path(fitted, tasks, y, groups, sample_weight, n_points=50):
    """Meta-losses and certified lower bounds by iteration, from a second run of the solver.

    Parameters
    ----------
    fitted : MAMLRegressor, Pipeline that ends in one, or a search over either
    tasks, y, groups, sample_weight
        What it was fitted on.
    n_points : int, default=50
        At most so many iterates are certified, the first and the last among them. Of a solver that
        takes no callback only these two are known.

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
    objective = objective_on(model, X, y, **given, episodes=model._episodes)
    value = objective.value(theta_of(model))
    if not np.isclose(value, model.meta_loss_, rtol=1e-6):
        raise ValueError(
            f"The meta-loss on these tasks is {value:.6g}, but it was {model.meta_loss_:.6g} in "
            "fit; pass the tasks, groups and weights of fit."
        )
    values, iterates = _run(make_solver(model, objective.rule), objective, model._start)
    bounds, known = np.full(len(values), np.nan), sorted(iterates)
    for k in np.unique(np.linspace(0, len(known) - 1, n_points).astype(int)):
        bounds[known[k]] = certify(objective, iterates[known[k]]).lower_bound
    return values, bounds


def _run(solver, objective, start):
    """The meta-losses of a solver's iterates, and those iterates that are known, by number."""
    told = []
    if "callback" not in inspect.signature(solver.minimize).parameters:
        result = solver.minimize(objective, start)
        return np.array(result.values), {0: start, len(result.values) - 1: result.theta}
    solver.minimize(objective, start, callback=lambda theta, value: told.append((theta, value)))
    return np.array([value for _, value in told]), {k: at for k, (at, _) in enumerate(told)}
