"""Warnings point to the line of the user that led to them."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import sklearn_maml
from sklearn_maml import GradientSteps, MAMLRegressor, SingleTaskWarning
from sklearn_maml._progress import warn_user

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 2)), RNG.normal(size=12)
TASKS = [(X[:6], Y[:6]), (X[6:], Y[6:])]
ONE = MAMLRegressor("auto").fit(X, Y)
UNCAPPED = MAMLRegressor(adaptation=GradientSteps(2.0, cap=False))
with warnings.catch_warnings(action="ignore"):
    DIVERGING = UNCAPPED.fit(TASKS)


@pytest.mark.parametrize(
    ("call", "category"),
    [
        (lambda: UNCAPPED.fit(TASKS), ConvergenceWarning),  # behind scikit-learn's decorator
        (lambda: DIVERGING.adapt(X, Y), ConvergenceWarning),
        (lambda: DIVERGING.adapt_tasks(TASKS), ConvergenceWarning),
        (lambda: ONE.adapt(X, Y), SingleTaskWarning),
        (lambda: sklearn_maml.adapt(ONE, X, Y), SingleTaskWarning),  # two functions deep
    ],
)
def test_a_warning_points_to_the_line_outside_of_the_package_that_called_it(call, category):
    with pytest.warns(category) as caught:
        call()
    place = [(w.filename, w.lineno) for w in caught if w.category is category]
    assert place == [(__file__, call.__code__.co_firstlineno)]


def test_a_package_whose_name_only_begins_alike_is_a_place_to_point_to():
    line = compile("warn_user('text', UserWarning)", "elsewhere.py", "exec")
    with pytest.warns(UserWarning, match="text") as caught:
        exec(line, {"__name__": "sklearn_maml_extension", "warn_user": warn_user})
    assert caught[0].filename == "elsewhere.py"
