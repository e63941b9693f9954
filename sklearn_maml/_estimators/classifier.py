"""Few-shot classification: one logistic regression a class, meta-learned together."""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from sklearn_maml._estimators.adapted import AdaptedClassifier
from sklearn_maml._estimators.intervals import label_sets_of, probabilities_of
from sklearn_maml._estimators.meta_learner import MetaLearner
from sklearn_maml._estimators.prediction import response
from sklearn_maml._estimators.streaming import go_on
from sklearn_maml._tasks.classes import check_kind, read_classes
from sklearn_maml._typing import (
    Array,
    Column,
    Coverage,
    Effort,
    Floats,
    PerRow,
    Random,
    Split,
    Support,
    Table,
    Tasks,
    Unknown,
)
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.losses.logistic import LogLoss
from sklearn_maml.solvers.solver import Solver

__all__ = ["MAMLClassifier"]


class MAMLClassifier(ClassifierMixin, MetaLearner[AdaptedClassifier]):
    """Few-shot classification: meta-parameters from which a new task is learned with a few rows.

    As `MAMLRegressor`, with the logistic loss. Two classes are one logistic regression; more
    are one a class against the rest, on the same features and steps. The classes are those of all
    tasks; a task may hold only some of them. `gap_certificate_` bounds how far the sum of the
    meta-losses of all classes is from its minimum.

    Parameters
    ----------
    inner_lr : "auto" or float, default=None
    n_steps : int, default=None
    featurizer : transformer, default=None
    pooled : classifier, default=None
    adaptation : str or AdaptationRule, default=None
    solver : str or Solver, default="auto"
        All as in `MAMLRegressor`; the exact solver for squares does not apply. A featurizer that
        looks at y is told the class labels.
    alpha : float, default=1e-3
        Ridge penalty on the meta-parameters, the intercept excepted. Not 0 as in `MAMLRegressor`:
        where the classes are separable, the logistic loss without penalty has no minimiser.
    fit_intercept : bool, default=True
    support : "auto", "all", int, float or list of int, default="auto"
    split : {"random", "first"}, default="random"
    n_episodes : int, default=1
    task_column : str or int, default=None
    offset_column : str or int, default=None
        As in `MAMLRegressor`, added to the log odds of ``classes_[1]``; for two classes.
    on_unknown_task : {"meta", "raise"}, default="meta"
    certificate : {"fast", "full", "branch"} or None, default="fast"
        All as in `MAMLRegressor`.
    calibrate : "auto" or bool, default="auto"
        Whether to calibrate probabilities, and label sets, on the training tasks, each of which
        plays the new one; it takes less than the fit again. "auto" does where the rule is learned.
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
    gap_certificate_ : GapCertificate or None
    meta_loss_ : float
        Mean logistic loss of the query rows after adapting, summed over classes, with the penalty.
    task_coef_ : ndarray of shape (n_tasks, n_phi) or (n_tasks, n_classes, n_phi), or None
        The parameters of each named task, adapted to all of its rows.
    task_intercept_ : ndarray of shape (n_tasks,) or (n_tasks, n_classes), or None
    loss_, featurizer_, feature_choice_, adaptation_, learned_, inner_lr_, capped_share_
        As in `MAMLRegressor`.
    n_tasks_, task_ids_
        As in `MAMLRegressor`.
    calibration_ : Calibration or None
        By number of support rows, the temperatures that scores are divided by for probabilities,
        in its `temperature`, and what `predict_set` goes by; None without `calibrate`, and where
        tasks show no differences.
    n_iter_, meta_losses_, n_features_in_, feature_names_in_
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

    __metadata_request__decision_function = {"groups": True}
    __metadata_request__predict_proba = {"groups": True}

    def __init__(
        self,
        inner_lr: float | Literal["auto"] | None = None,
        n_steps: int | None = None,
        *,
        featurizer: Any = None,
        pooled: Any = None,
        adaptation: str | AdaptationRule | None = None,
        solver: str | Solver = "auto",
        alpha: float = 1e-3,
        fit_intercept: bool = True,
        support: Support = "auto",
        split: Split = "random",
        n_episodes: int = 1,
        task_column: Column | None = None,
        offset_column: Column | None = None,
        on_unknown_task: Unknown = "meta",
        certificate: Effort | None = "fast",
        calibrate: bool | Literal["auto"] = "auto",
        n_jobs: int | None = None,
        random_state: Random | None = None,
        verbose: int = 0,
    ) -> None:
        self.inner_lr = inner_lr
        self.n_steps = n_steps
        self.featurizer = featurizer
        self.pooled = pooled
        self.adaptation = adaptation
        self.solver = solver
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.support = support
        self.split = split
        self.n_episodes = n_episodes
        self.task_column = task_column
        self.offset_column = offset_column
        self.on_unknown_task = on_unknown_task
        self.certificate = certificate
        self.calibrate = calibrate
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def partial_fit(
        self,
        X: Tasks,
        y: PerRow = None,
        *,
        groups: PerRow = None,
        sample_weight: PerRow = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Go on with more tasks: the first call is a `fit`, later ones take stochastic steps.

        By the rule that the first call learned, over the tasks that they are given: an epoch, or
        what ``solver=SGD(...)`` says. Parameters of known tasks stay as they were when these were
        seen; `gap_certificate_` is that of the last call's tasks.

        Parameters
        ----------
        X, y, groups, sample_weight
            As in `fit`. Each task as a whole: its rows cannot be spread over several calls.
        classes : array-like of shape (n_classes,), default=None
            All classes there will be, in the first call; None takes those of its tasks.

        Returns
        -------
        self : MAMLClassifier

        Raises
        ------
        ValueError
            If the data are not as described, or not as those of the first call, or a task or a
            class is not as it should be. The model is then as it was before the call.
        """
        go_on(self, X, y, groups, sample_weight, classes)
        return self

    def decision_function(self, X: Table, *, groups: PerRow = None) -> Floats:
        """Scores: log odds of each class against the rest.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        groups : array-like of shape (n_rows,), default=None
            The task of each row, as in `MAMLRegressor.predict`: a task seen in `fit` is predicted
            with its own parameters.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
            With two classes one column, for ``classes_[1]``.

        Raises
        ------
        ValueError
            If `groups` are given but `fit` was given no labels of tasks.
        KeyError
            For an unknown task, if `on_unknown_task` is "raise".
        """
        return self._linear(X, groups)

    def predict_proba(self, X: Table, *, groups: PerRow = None) -> Floats:
        """Probabilities of the classes, in the order of ``classes_``.

        Those of the scores over a temperature, which tasks that played the new one have found for
        the number of rows adapted to, where `fit` has calibrated (``calibrate``).

        Parameters
        ----------
        X, groups
            As in `decision_function`.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
            The most probable class is the one that `predict` returns. With more than two classes,
            the one-against-rest probabilities divided by their sum.
        """
        rows, n_rows = self._rows_and_sizes(X, groups)
        return probabilities_of(self, rows, n_rows)

    def predict(self, X: Table, *, groups: PerRow = None) -> Array:
        """The most probable classes.

        Parameters
        ----------
        X, groups
            As in `decision_function`.

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        return response(self, self._linear(X, groups))

    def predict_set(
        self, X: Table, coverage: Coverage = 0.9, *, groups: PerRow = None
    ) -> NDArray[np.bool_]:
        """Sets of classes that hold the true one with a given probability, whatever tasks are like.

        All classes of a probability above a bound, and the most probable one. The bound is
        calibrated on the training tasks, as `MAMLRegressor.predict_interval` is.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
        coverage : float or sequence of float, default=0.9
            Between 0 and 1, excluded.
        groups : array-like of shape (n_rows,), default=None
            As in `decision_function`.

        Returns
        -------
        ndarray of bool of shape (n_rows, n_classes)
            With one more axis, the last, for several coverages.

        Warns
        -----
        UserWarning
            If there are fewer than ``coverage / (1 - coverage)`` tasks: then a set holds the fewest
            classes whose probabilities add up to the coverage.
        """
        rows, n_rows = self._rows_and_sizes(X, groups)
        return label_sets_of(self, rows, n_rows, coverage)

    def score(
        self, X: Tasks, y: PerRow = None, *, groups: PerRow = None, sample_weight: PerRow = None
    ) -> float:
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
        if y is not None:
            y = read_classes(y)
            check_kind(y, self.classes_)
        return self._score(accuracy_score, X, y, groups, sample_weight)

    def _make_loss(self):
        return LogLoss()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # As for regression: a split without tasks to compare.
        tags.classifier_tags.poor_score = not isinstance(self.support, str)
        return tags
