"""phi: the features of rows, some rows at a time, as a featurizer makes them."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.utils import _safe_indexing, check_array
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from sklearn_maml._memory import room

__all__ = [
    "Features",
    "FittedFeaturizer",
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


class FittedFeaturizer(NamedTuple):
    """What `fit_featurizer` returns.

    Attributes
    ----------
    transformer : transformer or None
        Fitted.
    phi : ndarray or CSR matrix of shape (n_rows, n_phi), or None
        The features of the rows that it was fitted on, where they are not what ``transform`` makes
        of them.
    """

    transformer: Any = None
    phi: Any = None

    def kept(self, X):
        """The same with the features of all rows X that it was fitted on, if there is room."""
        if self.transformer is None or self.phi is not None:
            return self
        transform = self.transformer.transform
        if X.shape[0] * Features(X, transform).n_features > room():
            return self
        return self._replace(phi=_check_rows(transform(X), X.shape[0]))

    def training_features(self, X, intercept):
        """`Features` of the rows that the featurizer was fitted on, X."""
        if self.phi is not None:
            return Features(self.phi, None, intercept)
        transform = None if self.transformer is None else self.transformer.transform
        return Features(X, transform, intercept)


def fit_featurizer(featurizer, X, tasks, y=None):
    """A clone of the featurizer, fitted on the rows that weigh something.

    A featurizer may make other features of the rows it is fitted on than of rows to come: it
    cross-fits by task, as `PooledPrediction` does. It says so, through pipelines too, by asking for
    `groups` as scikit-learn's metadata routing has it; then what its ``fit_transform`` returns is
    kept for the fit. All others are asked for a block of rows at a time.

    Parameters
    ----------
    featurizer : transformer or None
    X : array, CSR matrix or frame of shape (n_rows, n_columns)
    tasks : Tasks
    y : ndarray of shape (n_rows,), default=None
        What the featurizer is told of the rows; the tasks' targets by default.

    Returns
    -------
    FittedFeaturizer
    """
    if featurizer is None:
        return FittedFeaturizer()
    codes, weight = _rows_of_tasks(tasks)
    kept, y = np.flatnonzero(weight), tasks.y if y is None else y
    all_rows = X
    if len(kept) < len(weight):
        X, y, codes, weight = take_rows(X, kept), y[kept], codes[kept], weight[kept]
    weights = {} if (weight == 1).all() else {"sample_weight": weight}
    featurizer = clone(featurizer)
    asked = get_routing_for_object(featurizer).consumes("fit_transform", ("groups", *weights))
    if "groups" not in asked:
        weights = weights if has_fit_parameter(featurizer, "sample_weight") else {}
        return FittedFeaturizer(featurizer.fit(X, y, **weights))
    # With one task there is no other to learn from: then the featurizer does without tasks.
    given = {"groups": codes if (codes != codes[0]).any() else None}
    given |= weights if "sample_weight" in asked else {}
    phi = _cross_fitted(featurizer, X, y, given)
    return FittedFeaturizer(featurizer, _phi_of_all(all_rows, kept, phi, featurizer.transform))


def _cross_fitted(featurizer, X, y, given):
    """What the featurizer makes of the rows that it is fitted on, told of tasks and weights."""
    with config_context(enable_metadata_routing=True):  # for what the featurizer may be inside of
        try:
            return featurizer.fit_transform(X, y, **given)
        except UnsetMetadataPassedError:
            if "sample_weight" not in given:
                raise
            # Some step of a pipeline could take weights, and does not say whether it wants them.
            # Pipelines that do not cross-fit are fitted without weights, and so is this one.
            return featurizer.fit_transform(X, y, groups=given["groups"])


def _rows_of_tasks(tasks):
    """The task of each row, and what it weighs times its task's share of the largest."""
    rows = slice(None) if tasks.rows is None else tasks.rows
    codes, weight = np.zeros(len(tasks.y), dtype=np.intp), np.zeros(len(tasks.y))
    codes[rows] = np.repeat(np.arange(len(tasks.sizes)), tasks.sizes)
    weight[rows] = tasks.row_weight[rows] * (tasks.weight / tasks.weight.max())[codes[rows]]
    return codes, weight


def _phi_of_all(X, kept, phi, transform):
    """Features of all rows, of those kept as given; the others were not trained on."""
    phi = _check_rows(phi, len(kept))
    if len(kept) == X.shape[0]:
        return phi
    left = np.setdiff1d(np.arange(X.shape[0]), kept)
    rest = _check_rows(transform(take_rows(X, left)), len(left))
    stack = sp.vstack if sp.issparse(phi) else np.vstack
    return stack([phi, rest])[np.argsort(np.concatenate([kept, left]))]


def _check_rows(phi, n_rows):
    """`check_phi`, and one row a row of X."""
    phi = check_phi(phi)
    if phi.shape[0] != n_rows:
        raise ValueError(
            f"The featurizer must return one row a row of X; it made {phi.shape[0]} rows "
            f"of {n_rows}."
        )
    return phi


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

    @property
    def sparse(self):
        """Whether the columns of a sparse X are the features, so that they are more as arrays."""
        return self.transform is None and sp.issparse(self.X)

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
            phi = _check_rows(self.transform(phi), phi.shape[0])
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
