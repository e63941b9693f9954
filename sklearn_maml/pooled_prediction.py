"""One model for all tasks as a feature of a model for each: predictions, cross-fitted by task."""

from collections.abc import Iterable
from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import check_array, check_consistent_length, get_tags
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    _check_feature_names_in,
    _check_sample_weight,
    check_is_fitted,
    has_fit_parameter,
    validate_data,
)

from sklearn_maml._component import Documented, check_bool, check_int, check_n_jobs, check_option
from sklearn_maml._tasks.features import take_rows
from sklearn_maml._tasks.labels import group_rows
from sklearn_maml._typing import Array, PerRow, Table

__all__ = ["PooledPrediction"]

METHODS = ("predict_proba", "decision_function", "predict")


class PooledPrediction(Documented, TransformerMixin, BaseEstimator):
    """What any regressor or classifier, fitted on the rows of all tasks, predicts, as a feature.

    As the `featurizer` of `MAMLRegressor` it makes few-shot learners of trees, forests, or whatever
    else predicts: the estimator finds what tasks have in common, curved or not, and each task has a
    coefficient of its own for its prediction g(x), next to an intercept and to the columns of x,

    ``f_i(x) = a_i + b_i g(x) + c_i' x``,

    where a_i, b_i and c_i are adapted to a few rows of task i. For curved parts that differ between
    tasks, stand it beside splines in a ``FeatureUnion``; so are several estimators combined.

    On the rows that it is fitted on, an estimator predicts too well: it has seen their targets. So
    `fit_transform` **cross-fits by task**, as stacking does by row: what it returns for a task are
    predictions by a clone that saw none of the task's rows. `transform`, for rows to come, averages
    what these clones predict: an estimator that was fitted on all rows would predict in another
    way than those that the tasks' coefficients were learned from, where there are few rows. So
    ``fit_transform(X, y)`` is not ``transform(X)`` afterwards. `MAMLRegressor`, `MAMLClassifier`
    and `MAMLRegressorCV` know: their featurizers may cross-fit, be it inside a ``Pipeline``,
    ``ColumnTransformer`` or ``FeatureUnion``.

    Parameters
    ----------
    estimator : regressor or classifier, default=None
        It is cloned. None is ``HistGradientBoostingRegressor(random_state=0)``.
    cv : int, splitter or iterable, default=5
        The folds of `fit_transform`. An int is that many folds of tasks by ``GroupKFold``, which
        draws nothing at random, or as many folds as there are tasks if these are fewer; without
        `groups` folds of rows by ``KFold``. Another splitter, or pairs (train, test) of row
        numbers, has to keep the rows of a task together and to test each row once.
    method : {"auto", "predict", "predict_proba", "decision_function"}, default="auto"
        What of the estimator to take. "auto" is the first that it has of "predict_proba",
        "decision_function" and "predict". Of probabilities the first class is left out, since the
        others tell it.
    passthrough : bool, default=True
        Whether the columns of X come first, which must then be numbers, or the prediction alone.
        Without them a straight effect that differs between tasks cannot be adapted to.
    n_jobs : int, default=None
        Workers for the folds, as in joblib.

    Attributes
    ----------
    estimators_ : list of regressors or classifiers
        One a fold, after `fit_transform`; after `fit` one, of all rows.
    method_ : str
        The method in use.
    n_predictions_ : int
        The number of columns that are predictions: the last ones.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    See Also
    --------
    sklearn.preprocessing.TargetEncoder : Cross-fits in `fit_transform` too.
    sklearn.ensemble.StackingRegressor : Cross-fits by row, and adapts to nothing.

    Notes
    -----
    Estimators are fitted with the weights of rows if their ``fit`` has the parameter
    `sample_weight`, and without otherwise. X is handed to them as it is, so that they may take
    missing values, text and categories where ``passthrough=False``.

    References
    ----------
    Wolpert, "Stacked generalization", Neural Networks 5(2), 1992. Hajjem, Bellavance & Larocque,
    "Mixed-effects random forest for clustered data", Journal of Statistical Computation and
    Simulation 84(6), 2014, adapt an intercept beside a forest.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> from sklearn_maml import MAMLRegressor, PooledPrediction
    >>> rng = np.random.default_rng(0)
    >>> X, task = rng.uniform(-3, 3, size=(600, 1)), np.repeat(np.arange(30), 20)
    >>> size = rng.uniform(1, 2, size=30)  # all tasks are waves, each of its own height
    >>> y = size[task] * np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=600)
    >>> forest = PooledPrediction(RandomForestRegressor(30, random_state=0))
    >>> model = MAMLRegressor(featurizer=forest, random_state=0).fit(X, y, groups=task)
    >>> straight = MAMLRegressor(random_state=0).fit(X, y, groups=task)
    >>> X_new = np.linspace(-3, 3, 50)[:, None]
    >>> y_new = 1.9 * np.sin(2 * X_new[:, 0])
    >>> seen = [5, 18, 30]
    >>> model.adapt(X_new[seen], y_new[seen]).score(X_new, y_new) > 0.95
    True
    >>> straight.adapt(X_new[seen], y_new[seen]).score(X_new, y_new) < 0.2
    True
    """

    # Estimators with a featurizer, and pipelines under metadata routing, pass these on unasked.
    # scikit-learn takes a request of fit_transform for one of fit.
    __metadata_request__fit = {"groups": True, "sample_weight": True}

    def __init__(
        self,
        estimator: Any = None,
        *,
        cv: Any = 5,
        method: Literal["auto", "predict", "predict_proba", "decision_function"] = "auto",
        passthrough: bool = True,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.cv = cv
        self.method = method
        self.passthrough = passthrough
        self.n_jobs = n_jobs

    def fit(
        self, X: Table, y: ArrayLike, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Self:
        """Fit the estimator on all rows, once.

        For rows that are trained on use `fit_transform`, which cross-fits.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_rows, n_features)
        y : array-like of shape (n_rows,) or (n_rows, n_targets)
        groups : array-like of shape (n_rows,), default=None
            Of no consequence here: all rows are fitted at once. For `fit_transform`.
        sample_weight : array-like of shape (n_rows,), default=None

        Returns
        -------
        self : PooledPrediction

        Raises
        ------
        ValueError, TypeError
            If a parameter is not as described, or the estimator refuses the data.
        """
        X, y, weight = self._read_training_rows(X, y, sample_weight)
        self._fit_each([slice(None)], X, y, weight)
        return self

    def fit_transform(
        self, X: Table, y: ArrayLike, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> Any:
        """Fit the estimator once a fold, and predict each task by one that saw none of its rows.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_rows, n_features)
        y : array-like of shape (n_rows,) or (n_rows, n_targets)
        groups : array-like of shape (n_rows,), default=None
            The task of each row. None cross-fits by row, which is not enough where tasks differ:
            rows of a task tell of one another. An estimator whose featurizer this is passes its
            tasks.
        sample_weight : array-like of shape (n_rows,), default=None

        Returns
        -------
        ndarray or CSR matrix of shape (n_rows, [n_features +] n_predictions)

        Raises
        ------
        ValueError, TypeError
            As in `fit`; if there are fewer than two tasks, or rows without `groups`; or if `cv`
            puts rows of one task on both sides, or does not test each row once.
        """
        X, targets, weight = self._read_training_rows(X, y, sample_weight)
        train, test = zip(*_folds(self.cv, X, targets, groups), strict=True)
        rows = np.concatenate(test)
        if not np.array_equal(np.sort(rows), np.arange(len(targets))):
            raise ValueError("cv must test each row once, as a partition of the rows does.")
        self._fit_each(train, X, targets, weight)
        found = map(self._predicted, self.estimators_, (take_rows(X, own) for own in test))
        return self._beside(X, np.concatenate(list(found))[np.argsort(rows)])

    def transform(self, X: Table) -> Any:
        """The mean of what the fitted estimators predict.

        Parameters
        ----------
        X : array-like, sparse matrix or frame of shape (n_rows, n_features)

        Returns
        -------
        ndarray or CSR matrix of shape (n_rows, [n_features +] n_predictions)
        """
        check_is_fitted(self)
        X = self._read_rows(X, reset=False)
        return self._beside(X, self._mean(X))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> Array:
        """Names of the columns: those of X, then "pooledprediction0" and so on.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the columns of X, where it had none.

        Returns
        -------
        ndarray of str objects
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        made = [f"pooledprediction{j}" for j in range(self.n_predictions_)]
        return np.array([*(names if self.passthrough else ()), *made], dtype=object)

    def _template(self):
        """The estimator to clone."""
        if self.estimator is None:
            return HistGradientBoostingRegressor(random_state=0)
        return self.estimator

    def _check_parameters(self):
        """Raise for parameters that are not as described; returns the method in use."""
        estimator = self._template()
        if isinstance(estimator, type) or not hasattr(estimator, "fit"):
            raise TypeError(
                "estimator must be None, a regressor or a classifier, an object with fit and "
                f"predict; got {estimator!r}."
            )
        check_option("method", self.method, ("auto", *METHODS))
        check_bool("passthrough", self.passthrough)
        check_n_jobs(self.n_jobs)
        wanted = METHODS if self.method == "auto" else (self.method,)
        able = [method for method in wanted if hasattr(estimator, method)]
        if not able:
            raise TypeError(
                f"estimator must have {' or '.join(wanted)}; {estimator!r} does not. Pass another "
                "estimator= or method=."
            )
        return able[0]

    def _read_training_rows(self, X, y, sample_weight):
        """X, y and weights, checked as far as the estimator does not check them itself."""
        self.method_ = self._check_parameters()
        if y is None:
            raise ValueError(
                "PooledPrediction requires y to be passed, but the target y is None; it fits an "
                "estimator."
            )
        X, y = self._read_rows(X, reset=True), np.asarray(y)
        check_consistent_length(X, y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        return X, y, sample_weight

    def _read_rows(self, X, reset):
        """A table as it is, or an array; its values are for the estimator to judge."""
        if not hasattr(X, "columns"):
            X = check_array(
                X,
                accept_sparse=("csr", "csc"),
                dtype=None,
                ensure_all_finite=False,
                estimator=self,
                input_name="X",
            )
        return validate_data(self, X, reset=reset, skip_check_array=True)

    def _fit_each(self, folds, X, y, weight):
        """Fit a clone of the estimator on the rows of each fold, and count what they predict."""
        # Routing may be on only for `groups` to get here; the estimator gets none, and is to be
        # given weights as ever, without a request of its own.
        weighs = weight is not None and has_fit_parameter(self._template(), "sample_weight")
        with config_context(enable_metadata_routing=False):
            self.estimators_ = Parallel(n_jobs=self.n_jobs)(
                delayed(clone(self._template()).fit)(
                    take_rows(X, rows),
                    y[rows],
                    **({"sample_weight": weight[rows]} if weighs else {}),
                )
                for rows in folds
            )
        if hasattr(self.estimators_[0], "classes_"):
            self._classes = np.unique(y)
        self.n_predictions_ = self._mean(take_rows(X, slice(0, 1))).shape[1]

    def _mean(self, X):
        """What the estimators predict on average, as columns."""
        return np.mean([self._predicted(estimator, X) for estimator in self.estimators_], axis=0)

    def _predicted(self, estimator, X):
        """Predictions as columns, checked to be numbers; a class that a fold lacked has share 0."""
        predicted = check_array(
            getattr(estimator, self.method_)(X),
            ensure_2d=False,
            dtype=np.float64,
            input_name=f"{self.method_} of estimator",
        )
        predicted = predicted.reshape(len(predicted), -1)
        if self.method_ == "predict" or not hasattr(estimator, "classes_"):
            return predicted
        known = np.isin(self._classes, estimator.classes_)
        if self.method_ == "predict_proba":
            shares = np.zeros((len(predicted), len(known)))
            shares[:, known] = predicted
            return shares[:, 1:]
        if not known.all():
            raise ValueError(
                "The rows that some fold is fitted on lack the class "
                f"{self._classes[~known].tolist()[0]!r}, of which there is no score then. Take "
                "fewer folds, or an estimator with predict_proba."
            )
        return predicted

    def _beside(self, X, predicted):
        """The columns of X, if they are to stay, and the predictions."""
        if not self.passthrough:
            return predicted
        try:
            X = check_array(X, accept_sparse="csr", dtype=np.float64, ensure_all_finite="allow-nan")
        except ValueError as error:
            raise ValueError(
                f"passthrough=True keeps the columns of X, which must be numbers: {error} Pass "
                "passthrough=False, and what is to stay beside the prediction through a "
                "FeatureUnion or ColumnTransformer."
            ) from error
        if sp.issparse(X):
            return sp.hstack([X, predicted], format="csr")
        return np.hstack([X, predicted])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        estimator = self._template()
        if hasattr(estimator, "__sklearn_tags__") and not isinstance(estimator, type):
            inner = get_tags(estimator).input_tags
            for fact in ("sparse", "allow_nan", "string", "categorical"):
                setattr(tags.input_tags, fact, getattr(inner, fact))
        return tags


def _folds(cv, X, y, groups):
    """Pairs (train, test) of row numbers; the rows of a task are on the same side of each."""
    n_rows = X.shape[0]
    ids, codes = (np.arange(n_rows),) * 2 if groups is None else group_rows(groups, n_rows)
    folds = _splitter(cv, len(ids), groups is not None)
    # A splitter that asks for no groups warns that it ignores them, though it may do right.
    asks = get_routing_for_object(folds).consumes("split", ("groups",)) and groups is not None
    splits = list(folds.split(np.zeros((n_rows, 1)), y, **({"groups": codes} if asks else {})))
    for train, test in splits if groups is not None else ():
        torn = np.intersect1d(codes[train], codes[test])
        if torn.size:
            raise ValueError(
                f"cv puts rows of task {ids[torn[0]]} into both train and test; "
                "use a splitter that keeps groups together, such as GroupKFold."
            )
    return splits


def _splitter(cv, n, by_task):
    """What splits n tasks, or n rows, as `cv` says."""
    if isinstance(cv, int | np.integer):
        check_int("cv", cv, low=2)
        if n < 2:
            what, hint = ("tasks", " or leave out groups=") if by_task else ("rows", "")
            raise ValueError(
                f"To cross-fit takes two {what} or more, to predict one from the others; got "
                f"n_samples=1 of them. Pass more{hint}."
            )
        return (GroupKFold if by_task else KFold)(min(cv, n))
    if isinstance(cv, Iterable) and not isinstance(cv, str):
        cv = list(cv)
        if any(not isinstance(sides, tuple | list) or len(sides) != 2 for sides in cv):
            raise ValueError(f"cv must hold pairs (train, test) of row numbers; got {cv!r}.")
    return check_cv(cv)
