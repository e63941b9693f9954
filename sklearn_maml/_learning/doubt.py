"""What is not known of the meta-parameters, and of how tasks differ, in closed form."""

from functools import partial

import numpy as np

from sklearn_maml._parallel import add_parts
from sklearn_maml.adaptation.doubt import Doubt

__all__ = ["doubt_of"]

# Less than this share of the noise's variance, on average over rows, is not worth its memory.
NEGLIGIBLE = 1e-3

# Directions whose precision is below this share of the largest are not known to be known.
UNDETERMINED = 1e-10


def doubt_of(objective, varies):
    """What is not known of theta and Sigma, as a `Doubt`.

    The covariance of the generalised least-squares estimate of theta, where tasks differ by Sigma,
    is ``C = (sum_i P_i)^-1``, ``P_i = F_i' (I + F_i Sigma F_i')^-1 F_i = S_i J_i`` with J_i the
    derivative of adapting to all rows of the task. Of n tasks that are alike the restricted
    estimate of ``Sigma + S_i^-1`` is a Wishart matrix of n - 1 degrees of freedom about ``n C``, so
    that adapting a new task by it adds ``n^2 / (n - 1) J (C P C + tr(C P) C) J'``. The first term
    is taken for its share in the second where tasks are alike: one over the number of effects that
    vary.

    Parameters
    ----------
    objective : MetaObjective
        A quadratic.
    varies : ndarray of bool of shape (d,)
        The effects whose covariance was estimated.

    Returns
    -------
    Doubt or None
        None where it hardly matters: with many tasks.

    References
    ----------
    Kackar & Harville, "Approximations for standard errors of estimators of fixed and random effects
    in mixed linear models", Journal of the American Statistical Association 79, 1984. Prasad & Rao,
    "The estimation of the mean squared error of small-area estimators", same journal 85, 1990.
    """
    whole = objective.vary(blocks=objective.blocks.unsplit())
    precision, gram, size = whole.fold(partial(_information, whole), add_parts)
    theta, sigma = factor_of(precision, gram), np.zeros((0, len(gram)))
    if np.einsum("rd,de,re->", theta, gram, theta) <= NEGLIGIBLE * size:
        return None
    n_tasks, q = objective.blocks.tasks.count, varies.sum()
    if not q or n_tasks < 2:
        return Doubt(theta, sigma)
    sigma = theta
    if not varies.all():
        some = np.ix_(varies, varies)
        inner = factor_of(precision[some], gram[some])
        sigma = np.zeros((len(inner), len(gram)))
        sigma[:, varies] = inner
    return Doubt(theta, sigma, n_tasks**2 / (n_tasks - 1) * (1.0 + 1.0 / q))


def factor_of(precision, gram):
    """D with ``D'D`` the inverse of a precision, in directions that it determines."""
    scale = np.sqrt(np.diag(gram))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(0.5 * (precision + precision.T) / np.outer(scale, scale))
    kept = values > UNDETERMINED * max(values[-1], 0.0)
    return (vectors[:, kept] / np.sqrt(values[kept])).T / scale


def _information(objective, i):
    """A block's ``sum_i F_i' F_i J_i`` and ``sum_i F_i' F_i``, and how many rows it has."""
    at = objective.linearize(i, objective.origin())
    query = at.query
    weight = objective.blocks.tasks.count * (at.weight * query.n_rows)[:, None] * query.weights
    rows = query.features.reshape(-1, query.features.shape[-1])
    weighted = weight.reshape(-1, 1) * rows
    return weighted.T @ at.design.reshape(rows.shape), weighted.T @ rows, weight.sum()
