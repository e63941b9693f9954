"""Few-shot classification: one logistic regression a class, meta-learned together."""

from copy import copy

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils import assert_all_finite, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_maml._maml import MAMLRegressor
from sklearn_maml._tasks import is_task_list

__all__ = ["AdaptedClassifier", "MAMLClassifier"]


class ScoresMixin:
    """Classes and probabilities from one score a class; a subclass has classes_ and _scores_of."""

    def decision_function(self, X):
        """Scores: log odds of each class against the rest.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
            With two classes one column, for ``classes_[1]``.
        """
        check_is_fitted(self)
        return self._scores_of(X)

    def predict_proba(self, X):
        """Probabilities of the classes, in the order of ``classes_``.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
            With more than two classes, the one-against-rest probabilities divided by their sum.
        """
        return probabilities(self.decision_function(X))

    def predict(self, X):
        """The most probable classes.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        scores = self.decision_function(X)
        return self.classes_[most_probable(scores)]


class MAMLClassifier(ScoresMixin, ClassifierMixin, BaseEstimator):
    """Few-shot classification: meta-parameters from which a new task is learned with a few rows.

    As `MAMLRegressor`, with the logistic loss. Two classes are one logistic regression; more
    are one a class against the rest, on the same features and steps. The classes are those of all
    tasks; a task may hold only some of them. `gap_certificate_` bounds how far the sum of the
    meta-losses of all classes is from its minimum.

    Parameters
    ----------
    inner_lr : "auto" or float, default="auto"
    n_steps : int, default=1
    featurizer : transformer, default=None
    adaptation : str or AdaptationRule, default=None
    solver : str or Solver, default="auto"
        All as in `MAMLRegressor`; the exact solver for squares does not apply.
    alpha : float, default=1e-3
        Ridge penalty on the meta-parameters, the intercept excepted. Not 0 as in `MAMLRegressor`:
        where the classes are separable, the logistic loss without penalty has no minimiser.
    fit_intercept : bool, default=True
    support : "all", int, float or list of int, default="all"
    split : {"random", "first"}, default="random"
    n_episodes : int, default=1
    n_jobs : int, default=None
    random_state : int, RandomState or None, default=None
    verbose : int, default=0
        All as in `MAMLRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted.
    coef_ : ndarray of shape (n_phi,) or (n_classes, n_phi)
        Meta-parameters in feature space; one row with two classes, for ``classes_[1]``.
    intercept_ : float or ndarray of shape (n_classes,)
    gap_certificate_ : GapCertificate
    meta_loss_ : float
        Mean logistic loss of the query rows after adapting, summed over classes, with the penalty.
    featurizer_, adaptation_, n_tasks_, task_ids_, n_iter_, n_features_in_, feature_names_in_
        As in `MAMLRegressor`.

    See Also
    --------
    MAMLRegressor : For numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLClassifier
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = [(X, np.where(y > 0, "high", "low")) for X, y in make_linear_tasks(random_state=0)]
    >>> model = MAMLClassifier().fit(tasks[:-1])
    >>> X_new, y_new = tasks[-1]
    >>> model.adapt(X_new[:8], y_new[:8]).predict_proba(X_new[8:]).shape
    (12, 2)
    """

    __metadata_request__fit = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(
        self,
        inner_lr="auto",
        n_steps=1,
        *,
        featurizer=None,
        adaptation=None,
        solver="auto",
        alpha=1e-3,
        fit_intercept=True,
        support="all",
        split="random",
        n_episodes=1,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.featurizer = featurizer
        self.adaptation = adaptation
        self.solver = solver
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.support = support
        self.split = split
        self.n_episodes = n_episodes
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, *, groups=None, sample_weight=None):
        """Find the meta-parameters.

        Parameters
        ----------
        X : list of (X_t, y_t) or (X_t, y_t, weight_t), or array-like of shape (n_rows, n_features)
        y : array-like of shape (n_rows,), default=None
            Class labels of any type; None for a list of tasks.
        groups : array-like of shape (n_rows,), default=None
            The task of each row. None: all rows are one task.
        sample_weight : array-like of shape (n_rows,) or (n_tasks,), default=None
            As in `MAMLRegressor.fit`.

        Returns
        -------
        self : MAMLClassifier

        Raises
        ------
        ValueError, TypeError
            If there are fewer than two classes, or the data or a parameter are not as described.
        """
        vars(self).pop("coef_", None)  # a fit that fails leaves no model of mixed parts
        self.classes_ = _classes(X, y)
        X, y = _encode(X, y, self.classes_)
        regression = self._regression()
        self._scores = regression.fit(X, y, groups=groups, sample_weight=sample_weight)
        vars(self).pop("feature_names_in_", None)
        for name, value in vars(self._scores).items():
            if name.endswith("_") and not name.startswith("_"):
                setattr(self, name, value)
        return self

    def adapt(self, X, y, *, sample_weight=None):
        """Learn a new task from its support rows; the model itself is unchanged.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
        y : array-like of shape (m,)
            Labels among ``classes_``; some of them, or only one, will do.
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        AdaptedClassifier
        """
        check_is_fitted(self)
        meta = FrozenEstimator(copy(self))
        return AdaptedClassifier(meta).fit(X, y, sample_weight=sample_weight)

    def score(self, X, y=None, *, groups=None, sample_weight=None):
        """Accuracy on query rows after adapting to support rows; or plain accuracy, without tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`; see `MAMLRegressor.score`.

        Returns
        -------
        float
        """
        check_is_fitted(self)
        if y is not None and groups is None:
            return accuracy_score(y, self.predict(X), sample_weight=sample_weight)
        X, y = _encode(X, y, self.classes_)
        truth, response, weight, _ = self._scores._query_predictions(X, y, groups, sample_weight)
        right = _index(truth) == _index(response)
        return float(np.average(right, weights=weight))

    def certify(self, X, y=None, *, groups=None, sample_weight=None):
        """Certify the meta-parameters on other tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`.

        Returns
        -------
        GapCertificate
        """
        check_is_fitted(self)
        X, y = _encode(X, y, self.classes_)
        return self._scores.certify(X, y, groups=groups, sample_weight=sample_weight)

    def _regression(self):
        """The logistic regressions, not fitted."""
        return MAMLRegressor(loss="log_loss", **self.get_params(deep=False))

    def _scores_of(self, X):
        _check_columns(self, X)
        return self._scores._linear(X, self._scores.coef_, self._scores.intercept_)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "coef_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        given = get_tags(self._regression())
        tags.input_tags = given.input_tags
        tags.classifier_tags.poor_score = given.regressor_tags.poor_score
        return tags


class AdaptedClassifier(ScoresMixin, ClassifierMixin, BaseEstimator):
    """A classifier for one task, adapted from a fitted meta-model; what `adapt` returns.

    Fitting it is adapting: it always starts from the meta-parameters of `meta`.

    Parameters
    ----------
    meta : MAMLClassifier
        Fitted; in a ``sklearn.frozen.FrozenEstimator``, so that cloning leaves it fitted.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Those of the meta-model.
    coef_ : ndarray of shape (n_phi,) or (n_classes, n_phi)
    intercept_ : float or ndarray of shape (n_classes,)

    Examples
    --------
    >>> from sklearn_maml import MAMLClassifier
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = [(X, y > 0) for X, y in make_linear_tasks(random_state=0)]
    >>> X_new, y_new = tasks.pop()
    >>> MAMLClassifier().fit(tasks).adapt(X_new[:5], y_new[:5]).coef_.shape
    (5,)
    """

    def __init__(self, meta):
        self.meta = meta

    def fit(self, X, y, *, sample_weight=None):
        """Adapt to the rows of one task.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
        y : array-like of shape (m,)
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        self : AdaptedClassifier

        Raises
        ------
        ValueError
            If a label is not among the classes of the meta-model.
        """
        meta = self._meta()
        _check_columns(meta, X)
        adapted = meta._scores.adapt(X, _targets(y, meta.classes_), sample_weight=sample_weight)
        self.classes_ = meta.classes_
        self.coef_, self.intercept_ = adapted.coef_, adapted.intercept_
        return self

    def _scores_of(self, X):
        meta = self._meta()
        _check_columns(meta, X)
        return meta._scores._linear(X, self.coef_, self.intercept_)

    def _meta(self):
        meta = self.meta.estimator if isinstance(self.meta, FrozenEstimator) else self.meta
        check_is_fitted(meta)
        return meta


def _check_columns(model, X):
    """Raise, in the classifier's own name, for other columns than those of fit."""
    if getattr(X, "ndim", 2) == 2:
        validate_data(model, X, reset=False, skip_check_array=True)


def probabilities(scores):
    """Probabilities of two classes (n, 2) from scores (n,), or of K from scores (n, K)."""
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    # Divided by the largest first, so that scores far below 0 do not all become 0.
    log_odds = -np.logaddexp(0.0, -scores)
    shares = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def most_probable(scores):
    """Positions of the most probable classes, shape (n,)."""
    return (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)


def _index(response):
    """Positions of classes from responses in [0, 1]: the second of two, or the largest of more."""
    return most_probable(response - 0.5)


def _classes(X, y):
    """The sorted classes of all tasks.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    if is_task_list(X, y):
        _check_tuples(X)
        y = np.concatenate([_labels(task[1]) for task in X]) if len(X) else np.zeros(0)
    elif y is None:
        raise ValueError(
            "MAMLClassifier requires y to be passed, but the target y is None; pass a list of "
            "(X, y) tuples, one a task, or all rows with y= and groups=."
        )
    classes = np.unique(_labels(y))
    if len(classes) < 2:
        raise ValueError(
            f"MAMLClassifier needs at least 2 classes; got {len(classes)} class: {classes}."
        )
    return classes


def _check_tuples(tasks):
    """Raise for what is no (X, y) or (X, y, weight)."""
    for i, task in enumerate(tasks):
        if not isinstance(task, tuple) or len(task) not in (2, 3):
            got = f"a tuple of length {len(task)}" if isinstance(task, tuple) else type(task)
            raise ValueError(f"Task {i}: expected a tuple (X, y) or (X, y, weight); got {got}.")


def _labels(y):
    """Class labels as a one-dimensional array, without missing ones."""
    y = column_or_1d(y, warn=True)
    if y.dtype == object and any(label is None or label != label for label in y):
        raise ValueError("y contains None or NaN; every row needs a class.")
    assert_all_finite(y, input_name="y", estimator_name="MAMLClassifier")
    check_classification_targets(y)
    return y


def _encode(X, y, classes):
    """Tasks or flat rows with 0 / 1 targets in place of labels."""
    if not is_task_list(X, y):
        return X, None if y is None else _targets(y, classes)
    _check_tuples(X)
    return [(task[0], _targets(task[1], classes), *task[2:]) for task in X], None


def _targets(y, classes):
    """0 / 1 targets (m,) for the second of two classes, or (m, K), one column a class."""
    y = _labels(y)
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"y holds labels {unknown} that fit has not seen; known are {classes}.")
    code = np.searchsorted(classes, y)
    if len(classes) == 2:
        return code.astype(float)
    return (code[:, None] == np.arange(len(classes))).astype(float)
