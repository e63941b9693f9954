"""phi: the features of rows, some rows at a time, as a featurizer makes them."""

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.validation import has_fit_parameter

__all__ = [
    "Features",
    "check_featurizer",
    "check_phi",
    "fit_featurizer",
    "parameter_names",
    "take_rows",
]


def check_featurizer(featurizer):
    """Raise for what cannot be fitted and then transform."""
    able = all(hasattr(featurizer, method) for method in ("fit", "transform"))
    if featurizer is not None and (isinstance(featurizer, type) or not able):
        raise TypeError(
            "featurizer must be None or a transformer, an object with fit and transform; "
            f"got {featurizer!r}."
        )


def fit_featurizer(featurizer, X, tasks, y=None):
    """A clone of the featurizer, fitted on the rows that weigh something.

    Parameters
    ----------
    featurizer : transformer or None
    X : array, CSR matrix or frame of shape (n_rows, n_columns)
    tasks : Tasks
    y : ndarray of shape (n_rows,), default=None
        What the featurizer is told of the rows; the tasks' targets by default.
    """
    if featurizer is None:
        return None
    rows = slice(None) if tasks.rows is None else tasks.rows
    weight = np.zeros(len(tasks.y))
    weight[rows] = tasks.row_weight[rows] * np.repeat(
        tasks.weight / tasks.weight.max(), tasks.sizes
    )
    y = tasks.y if y is None else y
    if not weight.all():
        kept = np.flatnonzero(weight)
        X, y, weight = take_rows(X, kept), y[kept], weight[kept]
    featurizer = clone(featurizer)
    weighted = has_fit_parameter(featurizer, "sample_weight") and not (weight == 1).all()
    return featurizer.fit(X, y, **({"sample_weight": weight} if weighted else {}))


# Features beyond this are refused: the squares of their products would overflow float64.
LARGEST_FEATURE = 1e70


class Features:
    """phi of some rows at a time, as a dense array, with a column of ones for the intercept.

    Parameters
    ----------
    X : array, sparse matrix or frame of shape (n_rows, n_features_in)
    transform : callable, default=None
        The fitted featurizer's ``transform``; None uses the columns of `X` as they are.
    intercept : bool, default=True
        Whether the last column is constant 1.
    """

    def __init__(self, X, transform=None, intercept=True):
        self.X, self.transform, self.intercept = X, transform, intercept
        self.n_rows = X.shape[0]
        self.n_features = X.shape[1] if transform is None else self._phi(slice(0, 1)).shape[1]
        self.width = self.n_features + bool(intercept)

    def __getitem__(self, rows):
        phi = self._phi(rows)
        if phi.shape[1] != self.n_features:
            raise ValueError(
                "The featurizer must make the same columns of every row; it made "
                f"{phi.shape[1]} of some rows and {self.n_features} of others."
            )
        if not np.vdot(phi, phi) < LARGEST_FEATURE**2:  # cheaper than to look for the largest
            raise ValueError(
                f"Features must be at most {LARGEST_FEATURE:g} in size; got "
                f"{np.abs(phi).max():g}. Rescale the columns of X."
            )
        if not self.intercept:
            return phi
        out = np.empty((phi.shape[0], self.width))
        out[:, :-1] = phi
        out[:, -1] = 1.0
        return out

    def _phi(self, rows):
        phi = take_rows(self.X, rows)
        if self.transform is not None:
            n_rows = phi.shape[0]
            phi = check_phi(self.transform(phi))
            if phi.shape[0] != n_rows:
                raise ValueError(
                    f"The featurizer must return one row a row of X; it made {phi.shape[0]} rows "
                    f"of {n_rows}."
                )
        return phi.toarray() if sp.issparse(phi) else np.asarray(phi)


def take_rows(X, rows):
    """Some rows of an array (a view, for a slice), a CSR matrix or a frame."""
    if hasattr(X, "dtype"):
        return X[rows]
    if isinstance(rows, slice):
        rows = np.arange(*rows.indices(X.shape[0]))
    return _safe_indexing(X, rows)


def check_phi(phi):
    """A featurizer's output as a float64 array or CSR matrix.

    Raises
    ------
    ValueError
        If it is not a finite table of numbers with at least one column.
    """
    return check_array(
        phi, accept_sparse=("csr", "csc"), dtype=np.float64, input_name="featurizer output"
    )


def parameter_names(names, n_parameters, intercept):
    """Names of the parameters: those of the features, or "x0", ..., and "intercept" for the last.

    Parameters
    ----------
    names : array-like of str or None
        Of the features, where they are known.
    n_parameters : int
        d, with the intercept's.
    intercept : bool

    Returns
    -------
    tuple of str
    """
    if names is None:
        names = [f"x{j}" for j in range(n_parameters - bool(intercept))]
    return (*map(str, names), *["intercept"] * bool(intercept))
