"""Gradient steps seen from the rows: theta moves within the span of the support rows.

A step is ``theta <- theta - M F' r`` with the metric M, the rows F and ``r = eta w l'(F theta)``.
With ``K = F M F'`` it takes the predictions z of the support rows to ``z - K r``, and moves those
of other rows Phi by ``-Phi M F' r``. Where rows are no more than features, the features are then
read twice for a gradient, to predict and to return, instead of four times a step.
"""

import numpy as np

from sklearn_maml._stacked import matvec

__all__ = ["follow"]


def follow(theta, support, query, geometry, step, n_steps):
    """Predictions of the query rows after gradient steps, and how they depend on the support's.

    Parameters
    ----------
    theta : ndarray of shape (..., 1, d) or (..., n, d)
    support, query : Risk
        Of n tasks, with m_s and m_q rows. The features of `support` are kept, and their products
        are kept with them.
    geometry : Geometry
        Of the support rows.
    step : ndarray of shape (n,)
        Lengths that do not depend on theta.
    n_steps : int

    Returns
    -------
    predictions : ndarray of shape (..., n, m_q)
    pull : callable
        Maps rows V (..., n, k, m_q) to the (..., n, k, m_s) with which ``V dz/dtheta = V Phi -
        pull(V) F``, for predictions z.
    """
    inner, kept = geometry.products, support.kept
    if query is not support and "outer" not in kept:
        rows = geometry.standardise(query.features)
        kept["outer"] = np.matmul(rows, np.swapaxes(geometry.rows, -1, -2))
    outer = inner if query is support else kept["outer"]
    z, path, moved = support.predict(theta), [], 0.0
    predictions = z if query is support else query.predict(theta)
    for _ in range(n_steps):
        path.append(z)
        force = step[:, None] * support.residual_at(z)
        moved = moved + force
        z = z - matvec(inner, force)
    predictions = z if query is support else predictions - matvec(outer, moved)

    def pull(V):
        direct, total = np.matmul(V, outer), None
        for z in reversed(path):
            bend = (step[:, None] * support.curvature_at(z))[..., None, :]
            if total is None:
                total = direct * bend
                continue
            # Into the same memory: more of it would cost as much as the products.
            back = np.matmul(total, inner)
            np.subtract(direct, back, out=back)
            back *= bend
            back += total
            total = back
        return total

    return predictions, pull
