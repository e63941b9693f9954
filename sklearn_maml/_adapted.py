"""What adapting returns: a regressor for one task, or a mapping from task labels to regressors."""

from collections.abc import Mapping

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._rows import feature_names

__all__ = [
    "AdaptedRegressor",
    "AdaptedTasks",
    "deviations_of_rows",
    "in_pipeline",
    "join_theta",
    "predict_rows",
    "split_theta",
    "through",
    "uncertainty_of",
]

# Rows are predicted so many numbers at a time: a few MiB.
BATCH_ELEMENTS = 2**19


class AdaptedRegressor(RegressorMixin, BaseEstimator):
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

    def __init__(self, meta):
        self.meta = meta

    def fit(self, X, y, *, sample_weight=None):
        """Adapt to the rows of one task.

        Parameters
        ----------
        X : array-like of shape (m, n_features)
        y : array-like of shape (m,) or (m, n_targets)
        sample_weight : array-like of shape (m,), default=None

        Returns
        -------
        self : AdaptedRegressor
        """
        return self._keep(*self._meta()._adapt_one(X, y, sample_weight))

    def predict(self, X, *, return_std=False):
        """Predict rows of the task.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            With the columns of the fit of `meta`. Every row is taken for one of this task: labels
            in a task column are not looked at.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too: the noise and what
            the support rows leave unknown of the task, not what is unknown of the meta-parameters.
            For rules that know of them, such as `Proximal`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.
        """
        check_is_fitted(self, "coef_")
        meta = self._meta()
        mean = meta._response(X, self.coef_, self.intercept_)
        if not return_std:
            return mean
        return mean, meta._deviation(X, uncertainty_of(meta, self._information))

    def to_linear(self):
        """The same predictions by scikit-learn's own classes, for export (ONNX, PMML) or speed.

        Returns
        -------
        LinearRegression or Pipeline
            ``y = phi(x)' coef_ + intercept_``, behind the fitted featurizer if there is one. It
            takes X without the task column.

        Raises
        ------
        ValueError
            If the loss has a link: its response is not linear in the features.
        """
        check_is_fitted(self, "coef_")
        meta = self._meta()
        z = np.array([-1.0, 0.0, 2.0])
        if not np.array_equal(meta._loss.inverse_link(z), z):
            raise ValueError(
                f"The loss {meta._loss!r} has a link, so that predictions are not linear in the "
                "features; to_linear is for losses without one, such as 'squared_error'."
            )
        linear = LinearRegression(fit_intercept=meta.fit_intercept)
        linear.coef_, linear.intercept_ = self.coef_.copy(), self.intercept_
        linear.n_features_in_ = self.coef_.shape[-1]
        if meta.featurizer_ is not None:
            steps = [("featurizer", meta.featurizer_), ("linear", linear)]
            return Pipeline(steps)
        if hasattr(self, "feature_names_in_"):
            linear.feature_names_in_ = feature_names(meta)
        return linear

    def _meta(self):
        meta = self.meta.estimator if isinstance(self.meta, FrozenEstimator) else self.meta
        check_is_fitted(meta)
        return meta

    def _keep(self, theta, information):
        """Store a task's parameters and what is known of them; returns self."""
        meta = self._meta()
        self.coef_, self.intercept_ = split_theta(theta, meta.fit_intercept)
        self._information = information
        self.n_features_in_ = meta.n_features_in_
        if hasattr(meta, "feature_names_in_"):
            self.feature_names_in_ = meta.feature_names_in_
        return self


class AdaptedTasks(Mapping):
    """Many tasks, each with its adapted regressor; what `adapt_tasks` returns.

    A read-only mapping from a task's label (its position, for a list of tasks) to its
    `AdaptedRegressor`.

    Parameters
    ----------
    meta : MAMLRegressor
        Fitted; in a ``sklearn.frozen.FrozenEstimator``.
    task_ids : ndarray of shape (n_tasks,)
    theta : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_targets, n_phi)
        The tasks' parameters, the intercept last.
    information : ndarray of shape (n_tasks, k), default=None
        See ``AdaptationRule.information``.
    steps : list of (str, transformer), default=()
        Fitted steps of a pipeline that X goes through first.

    Attributes
    ----------
    task_ids : ndarray of shape (n_tasks,)
    coef : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_targets, n_phi)
    intercept : ndarray of shape (n_tasks,) or (n_tasks, n_targets)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=30, random_state=0)
    >>> adapted = MAMLRegressor().fit(tasks[:20]).adapt_tasks(tasks[20:])
    >>> len(adapted), adapted[3].coef_.shape
    (10, (5,))
    >>> rows, labels = np.zeros((2, 5)), [3, 7]
    >>> np.allclose(adapted.predict(rows, groups=labels), adapted.intercept[labels])
    True
    """

    def __init__(self, meta, task_ids, theta, information=None, steps=()):
        self.meta, self.task_ids, self.steps = meta, task_ids, tuple(steps)
        self.coef, self.intercept = split_theta(theta, meta.estimator.fit_intercept)
        self._theta, self._information = theta, information
        self._known = {label: i for i, label in enumerate(task_ids)}

    def __getitem__(self, label):
        at = self._known[label]
        information = None if self._information is None else self._information[at]
        adapted = AdaptedRegressor(self.meta)._keep(self._theta[at], information)
        return in_pipeline(self.steps, "regressor", adapted)

    def __iter__(self):
        return iter(self._known)

    def __len__(self):
        return len(self._known)

    def __repr__(self):
        return f"<AdaptedTasks: {len(self)} tasks>"

    def behind(self, steps):
        """The same tasks, for an X that goes through fitted pipeline steps first."""
        return type(self)(self.meta, self.task_ids, self._theta, self._information, steps)

    def predict(self, X, *, groups=None, return_std=False):
        """Predict rows of several tasks, each with its task's parameters.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        groups : array-like of shape (n_rows,), default=None
            The task of each row; None where X has a task column.
        return_std : bool, default=False
            Whether to return the standard deviations of the rows' targets too; see
            `AdaptedRegressor.predict`.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_targets)
        std : ndarray of the same shape
            Only if ``return_std=True``.

        Raises
        ------
        KeyError
            For a task that is not among these, if ``meta.on_unknown_task`` is "raise"; else the
            meta-parameters predict its rows.
        """
        X = through(self.steps, X)
        return self.meta.estimator._predict_tasks(
            X, groups, self._known, self._theta, self._information, return_std
        )


def in_pipeline(steps, name, estimator):
    """The estimator, at the end of a pipeline where there are steps before it."""
    return Pipeline([*steps, (name, estimator)]) if steps else estimator


def through(steps, X):
    """X as it leaves the fitted steps of a pipeline."""
    for _, step in steps:
        X = X if step in (None, "passthrough") else step.transform(X)
    return X


def predict_rows(features, theta, which):
    """``phi_j' theta_k`` for each row j, with k = which[j].

    Parameters
    ----------
    features : Features
    theta : ndarray of shape (n, d) or (n, n_targets, d)
    which : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_targets)
    """
    out = np.empty((features.n_rows, *theta.shape[1:-1]))
    size = max(1, BATCH_ELEMENTS // max(1, theta[0].size))
    for rows in gen_batches(features.n_rows, size):
        out[rows] = np.einsum("md,m...d->m...", features[rows], theta[which[rows]])
    return out


def deviations_of_rows(features, uncertainty, which):
    """Standard deviations of the targets of rows j, each of the task k = which[j].

    Parameters
    ----------
    features : Features
    uncertainty : tuple of ndarray (noise, U)
        Of n tasks, as ``AdaptationRule.uncertainty`` returns it.
    which : ndarray of shape (n_rows,)

    Returns
    -------
    ndarray of shape (n_rows,) or (n_rows, n_targets)
    """
    noise, unknown = uncertainty
    spread = np.square(predict_rows(features, unknown, which)).sum(axis=-1)
    return np.sqrt(noise[which].T * (1.0 + spread)).T


def uncertainty_of(meta, information, at=None):
    """How sure predictions are for tasks that were adapted: see ``AdaptationRule.uncertainty``.

    Parameters
    ----------
    meta : MAMLRegressor
        Fitted.
    information : ndarray of shape (k,) or (n_tasks, k), or None
    at : ndarray of shape (n,), default=None
        Which of the tasks; negative for one of which nothing is known. None is all.

    Returns
    -------
    noise, U : ndarray

    Raises
    ------
    ValueError
        If the rule knows of no such thing, or `information` was too large to be kept.
    """
    d = meta.coef_.shape[-1] + meta.fit_intercept
    _, prior = meta.adaptation_.uncertainty(d)  # a rule that knows nothing says so itself
    if information is None:
        raise ValueError(
            "return_std=True needs what support rows tell of each task, which was not kept: with "
            f"{prior.shape[1]} parameters that differ between tasks it would have taken more than "
            "128 MiB. Adapt to the rows of these tasks, one by adapt or fewer by adapt_tasks."
        )
    if at is not None:
        information = information[at] * (at >= 0)[:, None]
    return meta.adaptation_.uncertainty(d, np.atleast_2d(information))


def split_theta(theta, fit_intercept):
    """(coef, intercept) of parameters whose last entry is the intercept, if there is one."""
    if not fit_intercept:
        return theta, np.zeros(theta.shape[:-1]) if theta.ndim > 1 else 0.0
    coef, intercept = theta[..., :-1].copy(), theta[..., -1]
    return coef, intercept.copy() if intercept.ndim else float(intercept)


def join_theta(coef, intercept, fit_intercept):
    """The inverse of `split_theta`."""
    if not fit_intercept:
        return coef
    return np.concatenate([coef, np.asarray(intercept)[..., None]], axis=-1)
