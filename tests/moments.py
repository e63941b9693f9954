"""What REML is given of a linear mixed model, from all of its rows."""

import numpy as np

from sklearn_maml._learning.mixed_moments import Moments, packed

__all__ = ["moments_of"]


def moments_of(X, Z, y, groups):
    """The `Moments` of groups with fixed effects X, random effects Z and targets y (n, t)."""
    both, q = np.column_stack([X, y]), Z.shape[1]
    all_columns = np.column_stack([Z, both])
    products = np.stack([Z[r].T @ all_columns[r] for r in map(groups.__eq__, np.unique(groups))])
    return Moments(
        parts=((packed(products), np.ones(len(products))),),
        n_random=q,
        first_fixed=q,
        total=both.T @ both,
        n_rows=len(both),
        n_targets=both.shape[1] - X.shape[1],
    )
