"""Model-agnostic meta-learning (MAML) for scikit-learn: exact fits, certified optimality.

>>> from sklearn_maml import MAMLRegressor
>>> from sklearn_maml.datasets import make_linear_tasks
>>> tasks = make_linear_tasks(n_tasks=50, random_state=0)
>>> model = MAMLRegressor().fit(tasks)
>>> X_new, y_new = make_linear_tasks(n_tasks=1, random_state=1)[0]
>>> model.adapt(X_new[:5], y_new[:5]).predict(X_new[5:]).shape
(15,)
"""

from sklearn_maml._estimators.adapted import AdaptedClassifier, AdaptedRegressor
from sklearn_maml._estimators.adapted_tasks import AdaptedTasks
from sklearn_maml._estimators.classifier import MAMLClassifier
from sklearn_maml._estimators.loading import load_model
from sklearn_maml._estimators.regressor import MAMLRegressor
from sklearn_maml._estimators.streaming import task_statistics
from sklearn_maml._tasks.single_task import SingleTaskWarning
from sklearn_maml._tasks.statistics import TaskStatistics
from sklearn_maml.adaptation import GradientSteps, Proximal
from sklearn_maml.certificate import GapCertificate, certify
from sklearn_maml.losses import (
    Gamma,
    LogCosh,
    LogLoss,
    Poisson,
    PseudoHuber,
    SmoothedQuantile,
    SquaredError,
    Tweedie,
)
from sklearn_maml.model_selection import (
    MAMLRegressorCV,
    adapt,
    adapt_tasks,
    few_shot_curve,
    few_shot_scorer,
)
from sklearn_maml.ntk import NTKFeatures
from sklearn_maml.pooled_prediction import PooledPrediction
from sklearn_maml.solvers import LBFGS, SGD, GaussNewton, GradientDescent, LeastSquares

__version__ = "0.1.0.dev0"

__all__ = [
    "LBFGS",
    "SGD",
    "AdaptedClassifier",
    "AdaptedRegressor",
    "AdaptedTasks",
    "Gamma",
    "GapCertificate",
    "GaussNewton",
    "GradientDescent",
    "GradientSteps",
    "LeastSquares",
    "LogCosh",
    "LogLoss",
    "MAMLClassifier",
    "MAMLRegressor",
    "MAMLRegressorCV",
    "NTKFeatures",
    "Poisson",
    "PooledPrediction",
    "Proximal",
    "PseudoHuber",
    "SingleTaskWarning",
    "SmoothedQuantile",
    "SquaredError",
    "TaskStatistics",
    "Tweedie",
    "adapt",
    "adapt_tasks",
    "certify",
    "few_shot_curve",
    "few_shot_scorer",
    "load_model",
    "task_statistics",
]
