"""A search over rules and features has the scores of a loop of fits, and the fit of the best."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, LeaveOneGroupOut, LeaveOneOut
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, PolynomialFeatures

from sklearn_maml import GradientSteps, MAMLRegressor, MAMLRegressorCV, Proximal
from sklearn_maml._learning import problem
from sklearn_maml.datasets import make_linear_tasks

TASKS = make_linear_tasks(n_tasks=24, n_samples=8, n_features=2, noise=0.5, random_state=0)
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
GROUPS = np.repeat([f"g{i:02}" for i in range(24)], 8)
# A split by which a search of our own and one by scikit-learn judge by the same rows.
FIRST = {"support": [1, 3], "split": "first", "random_state": 0}
POLYNOMIAL = PolynomialFeatures(include_bias=False)
RULES = {
    "learned": ["learned", Proximal(metric="diagonal", criterion="reml")],
    "by the query loss": [Proximal(metric="diagonal"), Proximal(metric="intercept")],
    "strengths": [Proximal(2.0), Proximal(metric="identity"), Proximal(starts=None)],
    "effects": [Proximal(random_effects="intercept"), Proximal(random_effects=[0])],
    "given": [Proximal(1.0, [1.0, 2.0, 0.5]), GradientSteps(0.1, 2), GradientSteps(0.05, cap=False)],
    "lengths": [GradientSteps("learn"), GradientSteps(0.1, first_order=True)],
}


def assert_same_search(fast, slow):
    for name, values in fast.cv_results_.items():
        if name.endswith("_test_score") and not name.startswith("rank"):
            expected = slow.cv_results_[name]
            np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-7, err_msg=name)
        elif name.startswith("param_"):
            np.testing.assert_array_equal(values.mask, np.ma.getmaskarray(slow.cv_results_[name]))
    assert [each.keys() for each in fast.cv_results_["params"]] == [
        each.keys() for each in slow.cv_results_["params"]
    ]
    assert str(fast.best_params_) == str(slow.best_params_)
    best, expected = fast.best_estimator_, slow.best_estimator_
    np.testing.assert_allclose(best.coef_, expected.coef_, rtol=1e-8)
    assert str(best.adaptation_) == str(expected.adaptation_)
    assert str(best.learned_) == str(expected.learned_)
    assert repr(best.calibration_) == repr(expected.calibration_)


@pytest.mark.parametrize("name", RULES)
def test_scores_and_the_best_model_are_those_of_grid_search(name):
    grid = {"adaptation": RULES[name]}
    fast = MAMLRegressorCV(param_grid=grid, alphas=[0.0, 0.1], cv=3, **FIRST).fit(TASKS)
    model = MAMLRegressor(**FIRST)
    slow = GridSearchCV(model, grid | {"alpha": [0.0, 0.1]}, cv=3).fit(TASKS)
    assert_same_search(fast, slow)
