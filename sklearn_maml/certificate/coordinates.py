"""Coordinates in which the rows of all tasks have a unit Gram matrix.

Directions that no row sees are gone from them, and units and collinearity do no harm.
"""

import numpy as np

from sklearn_maml._linalg import triangle

__all__ = ["row_coordinates", "unmet"]

# Directions whose rows are a smaller share of the longest are rounding: no row sees them.
SEEN = 1e-14

# A condition on slopes holds but for rounding where the sum that should be 0 is no larger than this
# share of its terms. Then it is charged as if x were so many times as long.
ROUNDED, FAR = 1e-12, 100.0


def row_coordinates(objective):
    """T and its left inverse, ``theta = T x``, from support, query and penalty rows.

    Parameters
    ----------
    objective : MetaObjective

    Returns
    -------
    basis : ndarray of shape (d_theta, d)
    inverse : ndarray of shape (d, d_theta)
    """
    (rows,) = objective.reduce(_block_rows, objective.origin(), combine=_stacked)
    root = np.sqrt(objective.penalty)
    if root.any():
        (rows,) = _stacked((rows,), (np.diag(root),))
    scale = np.sqrt(np.square(rows).sum(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    _, s, vt = np.linalg.svd(rows / scale, full_matrices=False)
    kept = s > SEEN * len(scale) * s.max(initial=0.0)
    vt, s = vt[kept], s[kept]
    return (vt / s[:, None]).T / scale[:, None], s[:, None] * vt * scale


def unmet(rest, terms, *points):
    """What a lower bound loses at all x of interest by a slope ``rest' x`` that should be 0.

    Parameters
    ----------
    rest, terms : ndarray of shape (d,)
        And the sizes of the terms that it adds up.
    points : ndarrays of shape (d,)
        Rows have a unit Gram matrix in x, so that these are measured in predictions.

    Returns
    -------
    float
        Infinite where more is left than rounding: then nothing is known far away.
    """
    left = np.linalg.norm(rest)
    if not left <= ROUNDED * np.linalg.norm(terms):
        return np.inf
    return left * FAR * sum(np.linalg.norm(x) for x in points)


def _block_rows(linearization):
    """Query and support rows of a block, times roots of their weights, as a triangle."""
    query, support, weight = linearization.query, linearization.support, linearization.weight
    rows = []
    for risk in (query,) if query is support else (query, support):
        root = np.sqrt(weight[:, None] * risk.weights)
        rows.append((root[..., None] * risk.features).reshape(-1, risk.features.shape[-1]))
    return (triangle(np.concatenate(rows)),)


def _stacked(total, part):
    return (triangle(np.concatenate([total[0], part[0]])),)
