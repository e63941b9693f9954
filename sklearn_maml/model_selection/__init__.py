"""Choosing and judging models by what they will be used for: a few rows of a new task.

`few_shot_scorer` and `few_shot_curve` adapt to some rows of each task and judge by the others;
`adapt` and `adapt_tasks` reach a fitted `MAMLRegressor` or `MAMLClassifier` through pipelines and
searches; `MAMLRegressorCV` searches by itself.
"""

from sklearn_maml.model_selection.few_shot import (
    FewShotCurve,
    FewShotScorer,
    few_shot_curve,
    few_shot_scorer,
)
from sklearn_maml.model_selection.pipelines import adapt, adapt_tasks
from sklearn_maml.model_selection.regressor_cv import MAMLRegressorCV

__all__ = [
    "FewShotCurve",
    "FewShotScorer",
    "MAMLRegressorCV",
    "adapt",
    "adapt_tasks",
    "few_shot_curve",
    "few_shot_scorer",
]
