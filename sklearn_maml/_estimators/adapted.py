"""What adapting to one task returns: an estimator for that task."""

from abc import ABCMeta, abstractmethod
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._component import Documented, check_bool
from sklearn_maml._estimators.intervals import (
    intervals_of,
    label_sets_of,
    probabilities_of,
    quantiles_of,
    temperatures,
)
from sklearn_maml._estimators.prediction import (
    adapted_theta,
    finite_theta,
    linear,
    linear_and_deviation,
    response,
    rows_of_one,
    split_theta,
    uncertainty_of,
)
from sklearn_maml._tasks.labels import feature_names
from sklearn_maml._typing import Array, Coverage, Floats, PerRow, Table

__all__ = [
    "Adapted",
    "AdaptedClassifier",
    "AdaptedRegressor",
    "AdaptedT",
    "adapter",
    "check_meta",
]

# What a meta-model adapts to.
AdaptedT = TypeVar("AdaptedT")


class Adapted(Documented, BaseEstimator, metaclass=ABCMeta):
    """Base class of what `adapt` returns: the parameters of one task, and the fitted meta-model."""

    _n_rows = 0.0  # of those that were pickled before rows were counted; no calibration asks

    def __init__(self, meta: Any) -> None:
        self.meta = meta

    def fit(self, X: Table, y: ArrayLike, *, sample_weight: PerRow = None) -> Self:
        """Adapt to the rows of one task.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
        y : array-like of shape (m,) or (m, n_targets)
            For a classifier labels among ``classes_``; some of them, or only one, will do.
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        self : AdaptedRegressor or AdaptedClassifier

        Raises
        ------
        ValueError
            If the rows are not as in the fit of `meta`, or a class was not seen there.
        """
        meta = self._meta()
        check_meta(meta, type(self).__name__, is_classifier(self))
        return self._keep(*adapted_theta(meta, X, y, sample_weight))

    def to_linear(self) -> Any:
        """The same predictions by scikit-learn's own classes, for export (ONNX, PMML) or speed.

        Returns
        -------
        LinearRegression, LogisticRegression, OneVsRestClassifier or Pipeline
            With the parameters `coef_` and `intercept_`, for classes over the temperature of their
            probabilities; for more than two classes one logistic regression a class. Behind the
            fitted featurizer if there is one. It takes X without the task column.

        Raises
        ------
        ValueError
            If the loss of a regressor has a link: its response is not linear in the features; or
            if there is no feature.
        """
        check_is_fitted(self, "coef_")
        meta = self._meta()
        if meta.offset_column is not None:
            raise ValueError(
                f"to_linear has no place for offset_column={meta.offset_column!r}: scikit-learn's "
                "own classes add nothing to their predictions. Use coef_ and intercept_."
            )
        if self.coef_.shape[-1] == 0:
            raise ValueError(
                "to_linear needs a feature, as scikit-learn's own classes do; this model has none "
                "but the intercept, which is intercept_."
            )
        plain = self._plain(meta)
        if meta.featurizer_ is not None:
            return Pipeline([("featurizer", meta.featurizer_), ("linear", plain)])
        if hasattr(self, "feature_names_in_"):
            for part in (plain, *getattr(plain, "estimators_", ())):
                part.feature_names_in_ = feature_names(meta)
        return plain

    @abstractmethod
    def _plain(self, meta):
        """Scikit-learn's own model of the features."""

    def _meta(self):
        """The fitted meta-model."""
        meta = self.meta.estimator if isinstance(self.meta, FrozenEstimator) else self.meta
        return getattr(meta, "best_estimator_", meta)

    def _keep(self, theta, information, n_rows):
        """Store a task's parameters, what is known of them and by how many rows; returns self."""
        meta, self._information, self._n_rows = self._meta(), information, n_rows
        self.coef_, self.intercept_ = split_theta(theta, meta._has_intercept)
        for name in ("n_features_in_", "feature_names_in_", "classes_"):
            if hasattr(meta, name):
                setattr(self, name, getattr(meta, name))
        return self

    def _rows(self, X):
        """The meta-model, and rows that are to be predicted for this task."""
        check_is_fitted(self, "coef_")
        meta = self._meta()
        return meta, rows_of_one(meta, X, finite_theta(self, meta._has_intercept))

    def _linear(self, X):
        """Predictions before the link."""
        return linear(*self._rows(X))


class AdaptedRegressor(RegressorMixin, Adapted):
    """A regressor for one task, adapted from a fitted meta-model; what `adapt` returns.

    Fitting it is adapting: it always starts from the meta-parameters of `meta`, never from what
    it learned before. As an ordinary scikit-learn estimator it can be cross-validated on the rows
    of a new task, and stand in a pipeline.

    Parameters
    ----------
    meta : MAMLRegressor
        Fitted; in a ``sklearn.frozen.FrozenEstimator``, so that cloning leaves it fitted.

    Attributes
    ----------
    coef_ : ndarray of shape (n_phi,) or (n_targets, n_phi)
        The task's parameters in feature space.
    intercept_ : float or ndarray of shape (n_targets,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X had column names in the fit of `meta`.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> *tasks, (X_new, y_new) = make_linear_tasks(n_tasks=31, random_state=0)
    >>> adapted = MAMLRegressor().fit(tasks).adapt(X_new[:5], y_new[:5])
    >>> adapted.coef_.shape
    (5,)
    >>> adapted.to_linear()
    LinearRegression()
    """

    @overload
    def predict(self, X: Table, *, return_std: Literal[False] = False) -> Floats: ...
    @overload
    def predict(self, X: Table, *, return_std: Literal[True]) -> tuple[Floats, Floats]: ...
    def predict(self, X: Table, *, return_std: bool = False) -> Floats | tuple[Floats, Floats]:
        """Predict rows of the task.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            With the columns of the fit of `meta`. Every row is taken for one of this task: labels
            in a task column are not looked at.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise, what
            the support rows leave unknown of the task, and what the training tasks leave unknown of
            the meta-parameters and of how tasks differ. For rules that know of them, such as
            `Proximal`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.
        """
        check_bool("return_std", return_std)
        meta, rows = self._rows(X)
        if not return_std:
            return response(meta, linear(meta, rows))
        uncertainty = uncertainty_of(meta, self._information)
        z, deviation = linear_and_deviation(meta, rows, uncertainty)
        return response(meta, z), deviation

    def predict_interval(
        self, X: Table, coverage: Coverage = 0.9, *, signed: bool = False
    ) -> tuple[Floats, Floats]:
        """Intervals in which targets of rows of the task are.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        coverage, signed
            See `MAMLRegressor.predict_interval`.

        Returns
        -------
        low, high : ndarray of shape (n_rows,) or (n_rows, n_targets)
            With one more axis, the last, for several coverages.
        """
        meta, rows = self._rows(X)
        return intervals_of(meta, rows, self._information, self._n_rows, coverage, signed)

    def predict_quantile(self, X: Table, quantile: Coverage = 0.5) -> Floats:
        """Quantiles of targets of rows of the task; see `MAMLRegressor.predict_quantile`."""
        meta, rows = self._rows(X)
        return quantiles_of(meta, rows, self._information, self._n_rows, quantile)

    def _plain(self, meta):
        if not meta.loss_.identity_link:
            raise ValueError(
                f"The loss {meta.loss_!r} has a link, so that predictions are not linear in the "
                "features; to_linear is for losses without one, such as 'squared_error'."
            )
        plain = LinearRegression(fit_intercept=meta._has_intercept)
        plain.coef_, plain.intercept_ = self.coef_.copy(), self.intercept_
        plain.n_features_in_ = self.coef_.shape[-1]
        return plain


class AdaptedClassifier(ClassifierMixin, Adapted):
    """A classifier for one task, adapted from a fitted meta-model; what `adapt` returns.

    Fitting it is adapting: it always starts from the meta-parameters of `meta`.

    Parameters
    ----------
    meta : MAMLClassifier
        Fitted; in a ``sklearn.frozen.FrozenEstimator``, so that cloning leaves it fitted.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Those of the meta-model, whatever the task's rows hold.
    coef_ : ndarray of shape (n_phi,) or (n_classes, n_phi)
        The task's parameters in feature space; one row with two classes, for ``classes_[1]``.
    intercept_ : float or ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X had column names in the fit of `meta`.

    Examples
    --------
    >>> from sklearn_maml import MAMLClassifier
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = [(X, y > 0) for X, y in make_linear_tasks(random_state=0)]
    >>> X_new, y_new = tasks.pop()
    >>> MAMLClassifier().fit(tasks).adapt(X_new[:5], y_new[:5]).coef_.shape
    (5,)
    """

    def decision_function(self, X: Table) -> Floats:
        """Scores; see `MAMLClassifier.decision_function`."""
        return self._linear(X)

    def predict_proba(self, X: Table) -> Floats:
        """Probabilities of the classes; see `MAMLClassifier.predict_proba`."""
        meta, rows = self._rows(X)
        return probabilities_of(meta, rows, self._n_rows)

    def predict(self, X: Table) -> Array:
        """The most probable classes; see `MAMLClassifier.predict`."""
        return response(self._meta(), self._linear(X))

    def predict_set(self, X: Table, coverage: Coverage = 0.9) -> NDArray[np.bool_]:
        """Sets of classes that rows of the task may have; see `MAMLClassifier.predict_set`."""
        meta, rows = self._rows(X)
        return label_sets_of(meta, rows, self._n_rows, coverage)

    def _plain(self, meta):
        temperature = float(temperatures(meta, self._n_rows))
        coef, intercept = self.coef_ / temperature, self.intercept_ / temperature
        if len(self.classes_) == 2:
            return _logistic(coef, intercept, self.classes_)
        plain = OneVsRestClassifier(LogisticRegression())
        parameters = zip(coef, intercept, strict=True)
        plain.estimators_ = [_logistic(*own, classes=np.arange(2)) for own in parameters]
        plain.classes_ = self.classes_
        plain.label_binarizer_ = LabelBinarizer().fit(self.classes_)
        plain.n_features_in_ = self.coef_.shape[-1]
        return plain


def _logistic(coef, intercept, classes):
    """A fitted logistic regression of two classes."""
    plain = LogisticRegression()
    plain.coef_, plain.intercept_ = coef[None].copy(), np.array([intercept])
    plain.classes_, plain.n_features_in_ = classes, len(coef)
    return plain


def check_meta(meta, owner, classifies):
    """Raise for what is no fitted meta-model, or is one of the other kind."""
    wanted = "MAMLClassifier" if classifies else "MAMLRegressor"
    if not hasattr(meta, "adapt_tasks") or is_classifier(meta) != classifies:
        raise TypeError(f"{owner} needs a fitted {wanted}; got {type(meta).__name__}.")
    check_is_fitted(meta)


def adapter(meta):
    """What adapts `meta`, a fitted model in a `FrozenEstimator`, to one task; not fitted."""
    # A frozen estimator copies its tags, which takes longer than adapting.
    return (AdaptedClassifier if is_classifier(meta.estimator) else AdaptedRegressor)(meta)
