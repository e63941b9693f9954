"""What REML is given of a linear mixed model, from all of its rows."""

import numpy as np

from sklearn_maml._learning.likelihood import Moments

__all__ = ["moments_of"]


def moments_of(X, Z, y, groups):
    """The `Moments` of groups with fixed effects X, random effects Z and targets y (n, t)."""
    both = np.column_stack([X, y])
    rows = [groups == g for g in np.unique(groups)]
    return Moments(
        gram=np.stack([Z[r].T @ Z[r] for r in rows], axis=-1),
        cross=np.stack([Z[r].T @ both[r] for r in rows], axis=-1),
        count=np.ones(len(rows)),
        total=both.T @ both,
        n_rows=len(both),
        n_targets=both.shape[1] - X.shape[1],
    )
