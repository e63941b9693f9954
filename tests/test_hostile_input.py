"""Whatever is passed to a public name, it is refused in words that help, or works.

One table: a public name, what is done with it, the error, and words that its message must contain.
Its rows are made of wrong values and of all calls that can get them. Then random
objects, for as many seconds as the environment variable FUZZ_SECONDS says, from FUZZ_SEED on.
"""

import os
import re
import time
from functools import partial
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from fuzz import complaint, public_callables, random_call
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_maml import (
    AdaptedClassifier,
    AdaptedRegressor,
    AdaptedTasks,
    MAMLClassifier,
    MAMLRegressor,
    MAMLRegressorCV,
    NTKFeatures,
    PooledPrediction,
    TaskStatistics,
    adapt,
    adapt_tasks,
    certify,
    few_shot_curve,
    few_shot_scorer,
    load_model,
    task_statistics,
)
from sklearn_maml.adaptation import RULES, GradientSteps, Proximal
from sklearn_maml.datasets import make_linear_tasks, make_sinusoid_tasks, tasks_from_frame
from sklearn_maml.displays import (
    ConvergenceDisplay,
    FewShotCurveDisplay,
    GapCertificateDisplay,
    IntervalDisplay,
    TaskEffectsDisplay,
)
from sklearn_maml.losses import LOSSES, Gamma, Poisson, PseudoHuber, SmoothedQuantile, Tweedie
from sklearn_maml.model_selection import FewShotScorer
from sklearn_maml.solvers import LBFGS, SGD, SOLVERS, GaussNewton, GradientDescent, LeastSquares

RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(6, 2)), RNG.normal(size=6)) for _ in range(4)]
LABELLED = [(A, b > 0) for A, b in TASKS]
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
C, G = Y > 0, np.repeat(list("abcd"), 6)
FRAME = pd.DataFrame({"u": X[:, 0], "v": X[:, 1], "y": Y, "g": G})
MODELS = {
    "MAMLRegressor": MAMLRegressor().fit(X, Y, groups=G),
    "MAMLClassifier": MAMLClassifier().fit(X, C, groups=G),
    "MAMLRegressorCV": MAMLRegressorCV(cv=2, n_steps=(1,), alphas=(0.1,)).fit(X, Y, groups=G),
}
REGRESSOR, CLASSIFIER = MODELS["MAMLRegressor"], MODELS["MAMLClassifier"]
ADAPTED = {
    "AdaptedRegressor": REGRESSOR.adapt(X[:6], Y[:6]),
    "AdaptedClassifier": CLASSIFIER.adapt(X[:6], C[:6]),
}


def drawn_effects(**given):
    return TaskEffectsDisplay.from_estimator(REGRESSOR, **given)


def drawn_intervals(**given):
    model = MAMLRegressor(calibrate=False).fit(TASKS)
    return IntervalDisplay.from_estimator(model, *TASKS[0], **given)


class Row(NamedTuple):
    """One row of the table."""

    name: str
    what: str
    call: object
    error: type
    words: str

    def __str__(self):
        return f"{self.name}: {self.what}"


def unfitted(model):
    return type(model)(**model.get_params(deep=False))


def spoilt(values, bad):
    """A copy with one bad entry in the 4th row, which is a row of the first task."""
    out = np.array(values, dtype=float)
    out[3] = bad
    return out


# -- X, in every call that takes rows -------------------------------------------------------------

SCALAR = "Expected 2D array, got scalar array"
BAD_X = {
    "None": (lambda: None, ValueError, SCALAR),
    "a number": (lambda: 3, ValueError, SCALAR),
    "text": (lambda: "abc", ValueError, SCALAR),
    "a dict": (lambda: {"u": [1.0] * 24}, ValueError, SCALAR),
    "a set": (lambda: {1}, ValueError, SCALAR),
    "a generator": (lambda: (row for row in X), ValueError, SCALAR),
    "a function": (lambda: len, ValueError, SCALAR),
    "one axis": (lambda: Y, ValueError, "Expected 2D array, got 1D array"),
    "three axes": (lambda: np.ones((24, 2, 2)), ValueError, "dim 3"),
    "records": (lambda: np.zeros(24, dtype=[("a", float)]), ValueError, "got 1D array"),
    "no rows": (lambda: X[:0], ValueError, "0 sample(s)"),
    "no columns": (lambda: X[:, :0], ValueError, "0 feature(s)"),
    "rows of two lengths": (lambda: [[1, 2], [3]] * 12, ValueError, "inhomogeneous"),
    "complex numbers": (lambda: X + 0j, ValueError, "Complex data not supported"),
    "text in an array": (lambda: np.full((24, 2), "x"), ValueError, "could not convert string"),
    "None in an array": (lambda: np.full((24, 2), None), ValueError, "X contains NaN"),
    "dates": (lambda: np.full((24, 2), np.datetime64("2020")), ValueError, "holds dates or dur"),
    "NaN": (lambda: spoilt(X, np.nan), ValueError, "X contains NaN"),
    "NaN in a sparse matrix": (
        lambda: sp.csr_matrix(spoilt(X, np.nan)),
        ValueError,
        "X contains NaN",
    ),
    "infinity": (lambda: spoilt(X, np.inf), ValueError, "X contains infinity"),
    "masked entries": (lambda: np.ma.masked_greater(X, 0), ValueError, "X is a masked array"),
    "a lazy frame": (lambda: pl.DataFrame(X).lazy(), TypeError, "X is a LazyFrame"),
    "a list of tables": (lambda: [A for A, _ in TASKS], ValueError, "list of tables"),
}
BAD_ROWS = {"another width": (lambda: np.ones((24, 3)), ValueError, "X has 3 features, but MAML")}
TARGETS = {"MAMLRegressor": Y, "MAMLClassifier": C, "MAMLRegressorCV": Y}
ROW_CALLS = {  # what is called with rows, of models and of what they adapt to
    "fit": lambda model, y, value: unfitted(model).fit(value, y, groups=G),
    "adapt": lambda model, y, value: model.adapt(value, y),
    "adapt_tasks": lambda model, y, value: model.adapt_tasks(value, y, groups=G),
    "predict": lambda model, y, value: model.predict(value),
    "predict by groups": lambda model, y, value: model.predict(value, groups=G),
    "score by groups": lambda model, y, value: model.score(value, y, groups=G),
    "certify": lambda model, y, value: model.certify(value, y, groups=G),
    "few_shot_curve": lambda model, y, value: few_shot_curve(
        model, value, y, groups=G, supports=[2]
    ),
}


def model_of_one_task(model, y):
    return unfitted(model).fit(X[:, :0], y)


def rows_of_x():
    for owner, model in MODELS.items():
        call = partial(model_of_one_task, model, TARGETS[owner])
        yield Row(owner, f"fit of {owner}, X is no columns", call, ValueError, "0 feature(s)")
    for owner, model in MODELS.items():
        for method, call in ROW_CALLS.items():
            bad = BAD_X if method == "fit" else BAD_X | BAD_ROWS
            for what, (make, error, words) in bad.items():
                if (method, what) == ("fit", "no columns"):
                    continue  # with labels of tasks it is a model of their intercepts
                name = method if method == "few_shot_curve" else owner
                yield Row(
                    name,
                    f"{method} of {owner}, X is {what}",
                    lambda call=call, model=model, y=TARGETS[owner], make=make: call(
                        model, y, make()
                    ),
                    error,
                    words,
                )
    tasks = {"AdaptedTasks": REGRESSOR.adapt_tasks(TASKS)}
    for owner, model in (ADAPTED | tasks).items():
        given = {"groups": [0] * 24} if owner == "AdaptedTasks" else {}
        for what, (make, error, words) in (BAD_X | BAD_ROWS).items():
            yield Row(
                owner,
                f"predict, X is {what}",
                lambda model=model, make=make, given=given: model.predict(make(), **given),
                error,
                words,
            )


# -- targets, labels and weights ------------------------------------------------------------------

NUMERIC = "y must be numeric, got dtype"
BAD_Y = {
    "None": (lambda: None, ValueError, "requires y to be passed"),
    "text": (lambda: ["1.5"] * 24, ValueError, NUMERIC),
    "text that is one": (lambda: "abc", ValueError, NUMERIC),
    "objects": (lambda: Y.astype(object), ValueError, NUMERIC),
    "dates": (lambda: np.full(24, np.datetime64("2020")), ValueError, NUMERIC),
    "a dict": (lambda: dict(enumerate(Y)), ValueError, NUMERIC),
    "a generator": (lambda: (v for v in Y), ValueError, NUMERIC),
    "tasks": (lambda: [b for _, b in TASKS[:3]] + [Y[:5]], ValueError, NUMERIC),
    "a lazy frame": (lambda: pl.DataFrame({"y": Y}).lazy(), ValueError, NUMERIC),
    "complex": (lambda: Y + 0j, ValueError, "Complex data not supported"),
    "too few": (lambda: Y[:-1], ValueError, "X has 24 rows but y has 23"),
    "three axes": (lambda: np.ones((24, 1, 1)), ValueError, "dim 3"),
    "no targets": (lambda: np.ones((24, 0)), ValueError, "0 feature(s)"),
    "NaN": (lambda: spoilt(Y, np.nan), ValueError, "y contains NaN"),
    "infinity": (lambda: spoilt(Y, np.inf), ValueError, "y contains infinity"),
    "huge": (lambda: spoilt(Y, 1e80), ValueError, "Targets must be zero or between"),
    "tiny": (lambda: np.full(24, 1e-80), ValueError, "Targets must be zero or between"),
    "masked": (lambda: np.ma.masked_greater(Y, 0), ValueError, "y is a masked array"),
}
MISSING_CLASS = "y contains None or NaN; every row needs a class"
BAD_CLASSES = {
    "None": (lambda: None, ValueError, "requires y to be passed"),
    "numbers to be predicted": (lambda: Y, ValueError, "Unknown label type: continuous"),
    "text and numbers": (lambda: [1, "a"] * 12, ValueError, "mixes labels of types int and str"),
    "text and bytes": (lambda: [b"a", "a"] * 12, ValueError, "types bytes and str"),
    "mixed objects": (
        lambda: np.array([1, "a"] * 12, dtype=object),
        ValueError,
        "mixes labels of types int and str",
    ),
    "text and NaN": (lambda: ["a", "b", np.nan] * 8, ValueError, MISSING_CLASS),
    "text and None": (lambda: ["a", "b", None] * 8, ValueError, MISSING_CLASS),
    "strings with NA": (
        lambda: pd.Series(["a", "b", pd.NA] * 8, dtype="string"),
        ValueError,
        MISSING_CLASS,
    ),
    "categories with NA": (
        lambda: pd.Series(["a", "b", None] * 8, dtype="category"),
        ValueError,
        MISSING_CLASS,
    ),
    "too few": (lambda: C[:-1], ValueError, "X has 24 rows but y has 23"),
    "two columns": (lambda: np.column_stack([C, C]), ValueError, "y should be a 1d array"),
    "masked": (lambda: np.ma.masked_array(C, mask=C), ValueError, "y is a masked array"),
}
NEW_CLASS = {
    "a class unseen": (lambda: np.full(24, 7), ValueError, "that fit has not seen"),
    "text for numbers": (lambda: ["a"] * 24, ValueError, "y holds labels such as"),
}
LABEL_A_ROW = "groups must be a one-dimensional array or list, one label a row"
BAD_GROUPS = {
    "text": (lambda: "a" * 24, ValueError, LABEL_A_ROW),
    "a number": (lambda: 3, ValueError, LABEL_A_ROW),
    "a set": (lambda: set(range(24)), ValueError, LABEL_A_ROW),
    "a dict": (lambda: dict.fromkeys(range(24)), ValueError, LABEL_A_ROW),
    "a generator": (lambda: iter(G), ValueError, LABEL_A_ROW),
    "a column": (lambda: G[:, None], ValueError, LABEL_A_ROW),
    "a frame": (lambda: pd.DataFrame({"g": G}), ValueError, LABEL_A_ROW),
    "too few": (lambda: G[:-1], ValueError, "groups has 23 labels but X has 24 rows"),
    "None among them": (lambda: [None, *G[1:]], ValueError, "row 0 has no label"),
    "NaN among them": (lambda: spoilt(np.ones(24), np.nan), ValueError, "row 3 has no label"),
    "NaT among them": (lambda: [*G[1:], pd.NaT], ValueError, "row 23 has no label"),
    "lists": (lambda: [[g] for g in G], TypeError, "hashable labels; row 0"),
    "arrays": (lambda: [np.ones(2)] * 24, TypeError, "hashable labels; row 0"),
    "masked": (lambda: np.ma.masked_equal(G, "a"), ValueError, "groups is a masked array"),
}
WEIGHT_A_ROW = "sample_weight must be a one-dimensional array or list"
BAD_WEIGHTS = {
    "text": (lambda: "abc", TypeError, WEIGHT_A_ROW),
    "a generator": (lambda: (1.0 for _ in Y), TypeError, WEIGHT_A_ROW),
    "a dict": (lambda: dict.fromkeys(range(24), 1.0), TypeError, WEIGHT_A_ROW),
    "a set": (lambda: {1.0}, TypeError, WEIGHT_A_ROW),
    "a complex number": (lambda: 1j, TypeError, WEIGHT_A_ROW),
    "a function": (lambda: len, TypeError, WEIGHT_A_ROW),
    "an array of no axes": (lambda: np.array(2.0), TypeError, WEIGHT_A_ROW),
    "a huge int": (lambda: 10**400, ValueError, "sample_weight must be a finite number >= 0"),
    "NaN": (lambda: np.nan, ValueError, "sample_weight must be a finite number >= 0"),
    "a negative number": (lambda: -1.0, ValueError, "sample_weight must be a finite number >= 0"),
    "NaN among them": (lambda: spoilt(np.ones(24), np.nan), ValueError, "sample_weight contains"),
    "negative ones": (lambda: -np.ones(24), ValueError, "Negative values"),
    "a table": (lambda: np.ones((24, 1)), ValueError, "1D"),
    "too few": (lambda: np.ones(23), ValueError, "23"),
    "complex ones": (lambda: np.ones(24) * 1j, ValueError, "Complex"),
    "words": (lambda: ["a"] * 24, ValueError, "could not convert string to float"),
    "too wide a range": (lambda: np.full(24, 1e308), ValueError, "Only their ratios matter"),
    "all zero": (lambda: np.zeros(24), ValueError, "zero"),
    "masked": (lambda: np.ma.masked_array(np.ones(24), C), ValueError, "is a masked array"),
}
Y_CALLS = {
    "fit": lambda model, y: unfitted(model).fit(X, y, groups=G),
    "adapt": lambda model, y: model.adapt(X, y),
    "adapt_tasks": lambda model, y: model.adapt_tasks(X, y, groups=G),
    "score by groups": lambda model, y: model.score(X, y, groups=G),
    "certify": lambda model, y: model.certify(X, y, groups=G),
}
GROUP_CALLS = {
    "fit": lambda model, y, groups: unfitted(model).fit(X, y, groups=groups),
    "predict": lambda model, y, groups: model.predict(X, groups=groups),
    "adapt_tasks": lambda model, y, groups: model.adapt_tasks(X, y, groups=groups),
    "score": lambda model, y, groups: model.score(X, y, groups=groups),
    "certify": lambda model, y, groups: model.certify(X, y, groups=groups),
}
WEIGHT_CALLS = {
    "fit": lambda model, y, w: unfitted(model).fit(X, y, groups=G, sample_weight=w),
    "adapt": lambda model, y, w: model.adapt(X, y, sample_weight=w),
    "adapt_tasks": lambda model, y, w: model.adapt_tasks(X, y, groups=G, sample_weight=w),
    "certify": lambda model, y, w: model.certify(X, y, groups=G, sample_weight=w),
}


def rows_of_y_and_labels():
    for owner, model in MODELS.items():
        classes = owner == "MAMLClassifier"
        for method, call in Y_CALLS.items():
            bad = BAD_CLASSES if classes else BAD_Y
            if classes and method != "fit":
                bad = bad | NEW_CLASS
            for what, (make, error, words) in bad.items():
                yield Row(
                    owner,
                    f"{method}, y is {what}",
                    lambda call=call, model=model, make=make: call(model, make()),
                    error,
                    words,
                )
        for kind, calls, wrong in (
            ("groups", GROUP_CALLS, BAD_GROUPS),
            ("sample_weight", WEIGHT_CALLS, BAD_WEIGHTS),
        ):
            for method, call in calls.items():
                for what, (make, error, words) in wrong.items():
                    yield Row(
                        owner,
                        f"{method}, {kind}: {what}",
                        lambda call=call, model=model, y=TARGETS[owner], make=make: call(
                            model, y, make()
                        ),
                        error,
                        words,
                    )


# -- lists of tasks -------------------------------------------------------------------------------

A, B = TASKS[0]
BAD_TASKS = {
    "empty": (lambda: [], ValueError, "Got an empty list of tasks"),
    "of single tables": (lambda: [(A,)], ValueError, "Task 0: expected a tuple (X, y)"),
    "of four parts": (lambda: [(A, B, 1, 1)], ValueError, "got a tuple of length 4"),
    "of lists": (lambda: [TASKS[0], [A, B]], ValueError, "Task 1: expected a tuple (X, y)"),
    "of numbers": (lambda: [(1, 2)], ValueError, "Task 0: X must have 2 dimensions"),
    "with None for y": (lambda: [(A, None)], ValueError, "Task 0: "),
    "with too few targets": (lambda: [(A, B[:3])], ValueError, "Task 0: X has 6 rows but y has 3"),
    "with no rows": (lambda: [(A, B), (A[:0], B[:0])], ValueError, "Task 1 has no rows"),
    "of two widths": (lambda: [(A, B), (A[:, :1], B)], ValueError, "Task 1 has 1 columns"),
    "of two kinds": (lambda: [(A, B), (sp.csr_matrix(A), B)], ValueError, "a sparse matrix but"),
    "with masked rows": (lambda: [(np.ma.masked_greater(A, 0), B)], ValueError, "Task 0: X is a m"),
    "with lazy frames": (lambda: [(pl.DataFrame(A).lazy(), B)], TypeError, "Task 0: X is a LazyF"),
    "with NaN": (lambda: [(A * np.nan, B)], ValueError, "Task 0: X contains NaN (row 0"),
    "with wrong weights": (lambda: [(A, B, [1, 2])], ValueError, "Task 0: weight must be a number"),
    "with negative weights": (lambda: [(A, B, -1)], ValueError, "Task 0: weights must be finite"),
    "with words for weights": (lambda: [(A, B, "a")], ValueError, "Task 0: weight must be a"),
}
TASK_CALLS = {
    "MAMLRegressor.fit": lambda tasks: MAMLRegressor().fit(tasks),
    "MAMLRegressor.partial_fit": lambda tasks: MAMLRegressor().partial_fit(tasks),
    "task_statistics": lambda tasks: task_statistics(MAMLRegressor(), tasks),
    "MAMLRegressor.adapt_tasks": lambda tasks: REGRESSOR.adapt_tasks(tasks),
    "MAMLRegressor.score": lambda tasks: REGRESSOR.score(tasks),
    "MAMLRegressor.certify": lambda tasks: REGRESSOR.certify(tasks),
    "MAMLRegressorCV.fit": lambda tasks: MAMLRegressorCV().fit(tasks),
    "adapt_tasks": lambda tasks: adapt_tasks(REGRESSOR, tasks),
    "few_shot_curve": lambda tasks: few_shot_curve(REGRESSOR, tasks, supports=[2]),
    "few_shot_scorer": lambda tasks: few_shot_scorer(support=2)(REGRESSOR, tasks),
    "FewShotScorer": lambda tasks: FewShotScorer(support=2)(REGRESSOR, tasks),
    "FewShotCurveDisplay": lambda tasks: FewShotCurveDisplay.from_estimator(REGRESSOR, tasks),
}


def rows_of_task_lists():
    for name, call in TASK_CALLS.items():
        for what, (make, error, words) in BAD_TASKS.items():
            yield Row(
                name.split(".")[0],
                f"{name}, a list {what}",
                lambda call=call, make=make: call(make()),
                error,
                words,
            )


# -- parameters, of estimators and of parts -------------------------------------------------------

HUGE = 10**400
PARAMETERS = {
    "inner_lr": [0, -1.0, np.nan, np.inf, True, "fast", [0.1], HUGE, 1j],
    "n_steps": [-1, 1.5, True, "1", [1], HUGE],
    "alpha": [-1, np.nan, np.inf, True, None, "1", [1.0], HUGE, 1j],
    "fit_intercept": [1, "no", None, np.ones(2)],
    "support": ["some", -1, 1.5, True, None, [], [0.5], {2}, np.nan],
    "split": ["last", 1, None, np.ones(2)],
    "n_episodes": [0, 1.5, True, "1", None],
    "on_unknown_task": ["skip", None, 1, np.ones(2)],
    "task_column": ["none such", 7, -7, 1.0, True, [0]],
    "offset_column": ["none such", 7, -7, 1.0, True, [0]],
    "n_jobs": ["a", 1.5, 0, True, [1]],
    "random_state": ["a", -1, 2**40, 1.5, [None]],
    "verbose": ["a", -1, None, [1]],
    "featurizer": ["passthrough", 3, StandardScaler, LinearRegression(), len],
    "pooled": ["boosting", 3, StandardScaler(), LinearRegression, len],
    "adaptation": ["none such", 3, GradientSteps, len, [1]],
    "solver": ["none such", 3, GaussNewton, len, None],
}
PARAMETERS_OF_SEARCH = {
    "inner_lrs": [[], "auto", 0.1, [0.0], ["fast"]],
    "n_steps": [[], 1, "1", [-1], [1.5]],
    "alphas": [[], 0.1, "0.1", [-1.0], [np.nan], ["a"]],
    "cv": [
        [],
        "none such",
        1,
        [(1, 2, 3)],
        [([], [0])],
        [([0], [])],
        [([0], [99])],
        [(["a"], [0])],
    ],
    "support": ["none such", -1, 1.5],
    "n_jobs": ["a", 1.5],
    "random_state": ["a", -1],
    "featurizer": ["passthrough", len],
    "task_column": ["none such", 7],
}
# Words that an error has instead of the parameter's name.
OTHER_WORDS = {("cv", 1): "n_splits"}


def rows_of_parameters():
    owners = {"MAMLRegressor": Y, "MAMLClassifier": C}
    for owner, y in owners.items():
        loss = {"loss": ["none such", 3, PseudoHuber, None]} if owner == "MAMLRegressor" else {}
        for name, values in (PARAMETERS | loss).items():
            for value in values:
                given = {} if name == "task_column" else {"groups": G}
                yield Row(
                    owner,
                    f"{name}={str(value)[:30]}",
                    lambda owner=owner, y=y, name=name, value=value, given=given: type(
                        MODELS[owner]
                    )(**{name: value}).fit(X, y, **given),
                    (TypeError, ValueError),
                    name,
                )
    for name, values in PARAMETERS_OF_SEARCH.items():
        for value in values:
            given = {} if name == "task_column" else {"groups": G}
            yield Row(
                "MAMLRegressorCV",
                f"{name}={str(value)[:30]}",
                lambda name=name, value=value, given=given: MAMLRegressorCV(
                    **({"cv": 2, "n_steps": (1,)} | {name: value})
                ).fit(X, Y, **given),
                (TypeError, ValueError),
                "n_splits" if (name, value) == ("cv", 1) else name.removesuffix("s"),
            )


NUMBER = [0, -1.0, np.nan, np.inf, True, None, "a", [1.0], 1j, HUGE]
PARTS = {
    PseudoHuber: {"delta": [*NUMBER, 1e300, 1e-300]},
    SmoothedQuantile: {"quantile": [*NUMBER, 1.0], "smoothing": [*NUMBER, 1e300, 1e-300]},
    Tweedie: {"power": [*NUMBER, 0.5, 2.5]},
    GradientSteps: {
        "inner_lr": [0, -1.0, np.nan, np.inf, True, None, "a", 1j, [0.1, -1.0], [[0.1]]],
        "n_steps": [-1, 1.5, True, "a", None],
    },
    Proximal: {
        "strength": [0, -1.0, np.nan, np.inf, True, "a", [1.0]],
        "metric": ["none such", 3.0, [[1.0, 2.0]], None],
        "criterion": ["none such", 3, None, np.ones(2)],
        "noise": [0, -1.0, np.nan, "a", [[1.0]], [[1], [1, 2]], sp.coo_array(np.eye(2))],
    },
    GaussNewton: {"tol": [-1.0, np.nan, True, "a", None], "max_iter": [-1, 1.5, "a", None]},
    LBFGS: {"tol": [-1.0, np.nan, True, "a", None], "max_iter": [-1, 1.5, "a", None]},
    GradientDescent: {
        "learning_rate": [0, -1.0, np.nan, True, "fast", None, np.ones(2)],
        "tol": [-1.0, np.nan, "a"],
        "max_iter": [-1, 1.5, "a"],
    },
    SGD: {
        "learning_rate": [0, -1.0, np.nan, True, "a", None],
        "batch_size": [0, 1.5, "a", None],
        "n_epochs": [0, 1.5, "a", None],
        "method": ["none such", 3, None, np.ones(2)],
        "momentum": [-0.1, 1.0, np.nan, "a"],
        "random_state": ["a", -1],
    },
    NTKFeatures: {"n_hidden": [0, 1.5, "a", None], "activation": ["none such", 3, None]},
    PooledPrediction: {
        "estimator": ["none such", 3, LinearRegression, StandardScaler()],
        "cv": [0, 1, 1.5, True, "five", [(0, 1, 2)], None],
        "method": ["none such", 3, None, "predict_proba"],
        "passthrough": [1, "a", None],
        "n_jobs": [0, 1.5, "a"],
    },
}
SLOT = {"losses": "loss", "adaptation": "adaptation", "solvers": "solver"}


def rows_of_parts():
    for part, parameters in PARTS.items():
        slot = SLOT.get(part.__module__.split(".")[1], "featurizer")
        loss = {"loss": "log_cosh"} if slot == "solver" else {}
        for name, values in parameters.items():
            for value in values:
                yield Row(
                    part.__name__,
                    f"{name}={str(value)[:30]}",
                    lambda part=part, slot=slot, loss=loss, name=name, value=value: MAMLRegressor(
                        **loss, **{slot: part(**{name: value})}
                    ).fit(X, Y, groups=G),
                    (TypeError, ValueError),
                    name,
                )


# -- everything else ------------------------------------------------------------------------------


def with_coef(coef):
    """A fitted model whose coef_ somebody has set."""
    model = MAMLRegressor().fit(TASKS)
    model.coef_ = coef
    return model


def of_width(width):
    """A featurizer that makes so many copies of its rows, of width(number of rows)."""
    return FunctionTransformer(lambda A: np.hstack([A] * width(A.shape[0])))


NOT_FITTED = "not fitted yet"
NO_MODEL = "Expected a fitted MAMLRegressor or MAMLClassifier"
NO_NUMBERS = "column 's' of X does not hold numbers"
OTHERS = [
    ("AdaptedClassifier", lambda: AdaptedClassifier(REGRESSOR).fit(X, C), TypeError, "got MAMLReg"),
    ("AdaptedClassifier", lambda: AdaptedClassifier(3).fit(X, C), TypeError, "needs a fitted MAML"),
    ("AdaptedRegressor", lambda: AdaptedRegressor(CLASSIFIER).fit(X, Y), TypeError, "got MAMLClas"),
    (
        "AdaptedRegressor",
        lambda: AdaptedRegressor(None).fit(X, Y),
        TypeError,
        "needs a fitted MAML",
    ),
    (
        "AdaptedRegressor",
        lambda: AdaptedRegressor(MAMLRegressor()).fit(X, Y),
        NotFittedError,
        NOT_FITTED,
    ),
    (
        "AdaptedRegressor",
        lambda: AdaptedRegressor(REGRESSOR).predict(X),
        NotFittedError,
        NOT_FITTED,
    ),
    (
        "AdaptedRegressor",
        lambda: ADAPTED["AdaptedRegressor"].predict(X, return_std=1),
        TypeError,
        "return_std must be True or False",
    ),
    (
        "AdaptedRegressor",
        lambda: MAMLRegressor(0.1).fit(TASKS).adapt(X, Y).predict(X, return_std=True),
        ValueError,
        "return_std=True needs a rule that knows how tasks vary",
    ),
    *[
        (owner, lambda ask=ask, bad=bad: ask(bad), error, f"; got {told}.")
        for owner, ask in (
            ("MAMLRegressor", lambda bad: REGRESSOR.predict_interval(X, bad)),
            ("AdaptedRegressor", lambda bad: ADAPTED["AdaptedRegressor"].predict_interval(X, bad)),
            ("MAMLClassifier", lambda bad: CLASSIFIER.predict_set(X, bad)),
            ("AdaptedClassifier", lambda bad: ADAPTED["AdaptedClassifier"].predict_set(X, bad)),
        )
        for bad, error, told in (
            (0, ValueError, "0"),
            (1.0, ValueError, "1.0"),
            (90, ValueError, "90"),
            (np.nan, ValueError, "nan"),
            ([0.5, -0.1], ValueError, "[0.5, -0.1]"),
            ([], TypeError, "[]"),
            ("90%", TypeError, "'90%'"),
            (None, TypeError, "None"),
            ([[0.5]], TypeError, "[[0.5]]"),
        )
    ],
    (
        "AdaptedRegressor",
        lambda: ADAPTED["AdaptedRegressor"].predict_interval(X, signed="yes"),
        TypeError,
        "signed must be True or False",
    ),
    (
        "AdaptedRegressor",
        lambda: MAMLRegressor(0.1).fit(TASKS).adapt(X, Y).predict_interval(X),
        ValueError,
        "Fit it with calibrate=True on several tasks",
    ),
    ("MAMLRegressor", lambda: MAMLRegressor().recalibrate(TASKS), NotFittedError, NOT_FITTED),
    *[
        ("IntervalDisplay", lambda given=given: drawn_intervals(**given), error, words)
        for given, error, words in (
            ({"shots": []}, TypeError, "shots must be a sequence of int; got []"),
            ({"shots": 3}, TypeError, "shots must be a sequence of int; got 3"),
            ({"feature": 2}, ValueError, "the position of one of 2 columns; got 2"),
            ({"shots": [0, 2]}, ValueError, "one or more; got [0, 2]"),
            ({"shots": [6]}, ValueError, "one or more; got [6]"),
            ({"coverage": [0.5]}, TypeError, "coverage must be one number"),
            ({"coverage": 2.0}, ValueError, "coverage must be between 0 and 1"),
            ({"ax": 3}, TypeError, "ax must be matplotlib Axes or None; got int"),
        )
    ],
    (
        "IntervalDisplay",
        lambda: IntervalDisplay.from_estimator(CLASSIFIER, *LABELLED[0]),
        TypeError,
        "estimator must be a MAMLRegressor",
    ),
    ("AdaptedTasks", lambda: AdaptedTasks(1, 2, 3), TypeError, "is what adapt_tasks returns"),
    ("AdaptedTasks", lambda: REGRESSOR.adapt_tasks(TASKS)["a"], KeyError, "a"),
    ("AdaptedTasks", lambda: REGRESSOR.adapt_tasks(TASKS).predict(X), ValueError, "groups= must"),
    ("MAMLClassifier", lambda: MAMLClassifier().fit(X, C * 0), ValueError, "at least 2 classes"),
    ("MAMLRegressor", lambda: MAMLRegressor().predict(X), NotFittedError, NOT_FITTED),
    ("MAMLRegressor", lambda: MAMLRegressor().save("m.npz"), NotFittedError, NOT_FITTED),
    ("MAMLRegressor", lambda: MAMLRegressor().merge(), NotFittedError, NOT_FITTED),
    ("MAMLRegressor", lambda: MAMLRegressor.from_statistics(1), TypeError, "be a TaskStatistics"),
    ("TaskStatistics", lambda: TaskStatistics.from_dict({}), ValueError, "'json' is missing"),
    ("load_model", lambda: load_model("no such file"), FileNotFoundError, "no such file"),
    ("task_statistics", lambda: task_statistics(3, TASKS), TypeError, "must be a MAMLRegressor"),
    (
        "MAMLRegressor",
        lambda: with_coef(np.full(2, np.nan)).certify(TASKS),
        ValueError,
        "holds NaN",
    ),
    ("MAMLRegressor", lambda: with_coef(np.full(2, np.nan)).predict(X), ValueError, "holds NaN"),
    (
        "MAMLRegressor",
        lambda: with_coef(np.ones(3)).certify(TASKS),
        ValueError,
        "has 3 entries for",
    ),
    ("MAMLRegressor", lambda: with_coef(np.ones(3)).adapt(X, Y), ValueError, "has 3 entries for 2"),
    ("MAMLRegressor", lambda: with_coef(np.ones(3)).predict(X), ValueError, "has 3 entries for 2"),
    (
        "MAMLRegressor",
        lambda: REGRESSOR.predict(spoilt(X, 1e300)),
        ValueError,
        "Rescale the columns",
    ),
    ("MAMLRegressor", lambda: REGRESSOR.adapt_tasks(X, Y), ValueError, "rows without labels"),
    (
        "MAMLRegressor",
        lambda: MAMLRegressor(on_unknown_task="raise").fit(X, Y, groups=G).predict(X, groups=Y),
        KeyError,
        "24 task(s) not seen before",
    ),
    (
        "MAMLRegressor",
        lambda: (
            MAMLRegressor(featurizer=of_width(lambda m: 1 + (m == 5))).fit(TASKS).predict(X[:5])
        ),
        ValueError,
        "and the 2 columns of fit; of 5 rows it made 5 rows with 4 columns",
    ),
    (
        "MAMLRegressor",
        lambda: MAMLRegressor(featurizer=of_width(lambda m: min(m, 3))).fit(TASKS),
        ValueError,
        "it made 6 of some rows and 2 of others",
    ),
    (
        "MAMLRegressor",
        lambda: MAMLRegressor(featurizer=FunctionTransformer(lambda A: A[:1])).fit(TASKS),
        ValueError,
        "one row a row of X",
    ),
    *(
        ("MAMLRegressor", lambda table=table: MAMLRegressor().fit(table, Y, groups=G), error, words)
        for table, error, words in (
            (FRAME[["u"]].assign(s=G), ValueError, NO_NUMBERS),
            (FRAME[["u"]].assign(s=pd.Categorical(G)), ValueError, NO_NUMBERS),
            (
                FRAME[["u"]].assign(s=pd.period_range("2020", periods=24, freq="M")),
                TypeError,
                NO_NUMBERS,
            ),
            (FRAME[["u"]].assign(s=pd.interval_range(0, 24)), TypeError, NO_NUMBERS),
            (pl.DataFrame({"u": Y, "s": G}), ValueError, NO_NUMBERS),
            (FRAME[["u"]].assign(s=G), ValueError, "ColumnTransformer([('codes', OneHotEncoder()"),
            (
                FRAME.assign(t=pd.Timestamp("2020"))[["u", "t"]],
                ValueError,
                "column 't' holds dates",
            ),
        )
    ),
    ("adapt", lambda: adapt(3, X, Y), TypeError, NO_MODEL),
    ("adapt", lambda: adapt(LinearRegression().fit(X, Y), X, Y), TypeError, NO_MODEL),
    ("adapt", lambda: adapt(MAMLRegressor(), X, Y), NotFittedError, NOT_FITTED),
    ("adapt", lambda: adapt(REGRESSOR.adapt_tasks(TASKS), X, Y), TypeError, NO_MODEL),
    ("adapt_tasks", lambda: adapt_tasks("a", X, Y), TypeError, NO_MODEL),
    ("adapt_tasks", lambda: adapt_tasks(REGRESSOR, X, Y), ValueError, "rows without labels"),
    ("certify", lambda: certify(REGRESSOR, np.zeros(3)), TypeError, "takes a meta-objective"),
    ("certify", lambda: certify(None, None), TypeError, "takes a meta-objective; got NoneType"),
    ("few_shot_curve", lambda: few_shot_curve(REGRESSOR, X, Y), ValueError, "without task labels"),
    ("few_shot_curve", lambda: few_shot_curve(3, TASKS), TypeError, NO_MODEL),
    *(
        (
            "few_shot_curve",
            lambda supports=supports: few_shot_curve(REGRESSOR, TASKS, supports=supports),
            (TypeError, ValueError),
            "supports",
        )
        for supports in ([], [0.5], [-1], ["a"], [True], [None], "12", 3, [[1]], None)
    ),
    (
        "few_shot_curve",
        lambda: few_shot_curve(REGRESSOR, TASKS, supports=[6]),
        ValueError,
        "Task 0",
    ),
    *(
        (
            "few_shot_curve",
            lambda name=name, value=value: few_shot_curve(
                REGRESSOR, TASKS, supports=[1], **{name: value}
            ),
            (TypeError, ValueError),
            name,
        )
        for name, values in {
            "n_draws": [0, 1.5, "a", None],
            "metric": ["r2", 3, [], len, "log_loss"],
            "random_state": ["a", -1],
            "adaptation": ["none such", 3, GradientSteps],
        }.items()
        for value in values
    ),
    *(
        (
            scorer.__name__,
            lambda s=scorer, name=name, value=value: s(**{name: value})(REGRESSOR, TASKS),
            (TypeError, ValueError),
            words,
        )
        for scorer in (few_shot_scorer, FewShotScorer)
        for name, value, words in (
            ("metric", r2_score, "metric must be a name or a scorer"),
            ("metric", lambda y, z: 0.0, "metric must be a name or a scorer"),
            ("metric", 3, "metric must be a name or a scorer"),
            ("metric", "none such", "none such"),
            ("support", "all", "leaves no rows to judge by"),
            ("support", 1.5, "support"),
            ("support", None, "support"),
            ("n_draws", 0, "n_"),
            ("random_state", -1, "random_state"),
        )
    ),
    (
        "few_shot_scorer",
        lambda: few_shot_scorer()(REGRESSOR, X, Y),
        ValueError,
        "without task labels",
    ),
    ("few_shot_scorer", lambda: few_shot_scorer()(3, TASKS), TypeError, NO_MODEL),
    *(
        (
            "make_linear_tasks",
            lambda name=name, value=value: make_linear_tasks(**{name: value}),
            (TypeError, ValueError),
            name,
        )
        for name, values in {
            "n_tasks": [0, 1.5, "a", True, None],
            "n_samples": [0, 1.5, "a", (3, 2), (1, 2, 3)],
            "n_features": [0, 1.5, "a", None],
            "noise": [-1.0, np.nan, "a", None],
            "theta": ["a", [1.0], 3, {1}, HUGE, [np.nan] * 6, np.ones(6) * 1j],
            "return_theta": ["a", 1, None],
            "random_state": ["a", -1, 2**40],
        }.items()
        for value in values
    ),
    *(
        (
            "make_sinusoid_tasks",
            lambda name=name, value=value: make_sinusoid_tasks(**{name: value}),
            (TypeError, ValueError),
            name,
        )
        for name, values in {
            "n_tasks": [0, "a"],
            "noise": [-1.0, "a"],
            "amplitude": ["a", 1.0, (2, 1), (0, np.inf), (1, 2, 3)],
            "phase": [None, (0, "a")],
            "x_range": [(1, 0)],
            "return_parameters": [1, np.ones(2)],
            "random_state": ["a", -1],
        }.items()
        for value in values
    ),
    *(
        ("tasks_from_frame", lambda given=given: tasks_from_frame(*given), error, words)
        for given, error, words in (
            ((X, "y", "g"), TypeError, "frame must be a pandas or polars DataFrame"),
            ((pl.DataFrame({"y": Y}).lazy(), "y", "g"), TypeError, "frame must be"),
            ((FRAME, "none such", "g"), ValueError, "none such"),
            ((FRAME, "y", "none such"), ValueError, "none such"),
            ((FRAME, "y", "y"), ValueError, "is used 2 times"),
            ((FRAME, ["y"], "g"), TypeError, "target must be the name of a column"),
            ((FRAME, "y", G), TypeError, "group must be the name of a column"),
            ((FRAME, "y", "g", "u"), TypeError, "features must be a list"),
            ((FRAME, "y", "g", 3), TypeError, "features must be a list"),
            ((FRAME, "y", "g", []), ValueError, "add a feature"),
            ((FRAME[:0], "y", "g"), ValueError, "no rows"),
            ((FRAME.assign(g=None), "y", "g"), ValueError, "no group label"),
        )
    ),
    (
        "ConvergenceDisplay",
        lambda: ConvergenceDisplay.from_estimator(REGRESSOR, TASKS[:2]),
        ValueError,
        "pass the tasks, groups and weights of fit",
    ),
    *(
        (
            display.__name__,
            lambda display=display, given=given: display.from_estimator(*given),
            error,
            words,
        )
        for display, rest in (
            (ConvergenceDisplay, ()),
            (GapCertificateDisplay, ()),
            (TaskEffectsDisplay, ()),
            (FewShotCurveDisplay, (TASKS,)),
        )
        for given, error, words in (
            ((3, *rest), TypeError, NO_MODEL),
            ((MAMLRegressor(), *rest), NotFittedError, NOT_FITTED),
            ((LogisticRegression().fit(X, C), *rest), TypeError, NO_MODEL),
        )
    ),
    (
        "GapCertificateDisplay",
        lambda: GapCertificateDisplay.from_estimator(REGRESSOR, ax=3),
        TypeError,
        "ax must be matplotlib Axes",
    ),
    *(
        ("TaskEffectsDisplay", lambda given=given: drawn_effects(**given), error, words)
        for given, error, words in (
            ({"feature": "x9"}, ValueError, "which are ['x0', 'x1', 'intercept']; got 'x9'"),
            ({"feature": []}, ValueError, "feature must name random effects"),
            ({"feature": 0}, TypeError, "feature must be a name or a list of names; got 0"),
            ({"feature": [0]}, TypeError, "feature must be a name or a list of names; got [0]"),
            ({"ax": 3}, TypeError, "ax must be matplotlib Axes"),
            ({"ax": []}, ValueError, "one Axes for each of the 3 effects to draw; got 0"),
        )
    ),
    ("Poisson", lambda: MAMLRegressor(loss="poisson").fit(TASKS), ValueError, "needs targets >= 0"),
    ("Poisson", lambda: Poisson(3), TypeError, "takes"),
    (
        "Gamma",
        lambda: MAMLRegressor(loss="gamma").fit(X, Y * 0, groups=G),
        ValueError,
        "positive targets",
    ),
    ("Gamma", lambda: Gamma(3), TypeError, "takes"),
    ("LogLoss", lambda: MAMLRegressor(loss="log_loss").fit(TASKS), ValueError, "in [0, 1]"),
    (
        "LeastSquares",
        lambda: MAMLRegressor(loss="log_cosh", solver=LeastSquares()).fit(TASKS),
        ValueError,
        "LeastSquares",
    ),
    *(
        (
            part.__name__,
            lambda part=part: part("a", "b", "c", "d", "e", "f", "g"),
            TypeError,
            "takes",
        )
        for registry in (LOSSES, RULES, SOLVERS)
        for part in registry.values()
    ),
]
ROWS = [
    *rows_of_x(),
    *rows_of_y_and_labels(),
    *rows_of_task_lists(),
    *rows_of_parameters(),
    *rows_of_parts(),
    *(
        Row(name, f"{i}: {words}", call, error, words)
        for i, (name, call, error, words) in enumerate(OTHERS)
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_wrong_is_refused_in_words_that_help(row):
    try:
        with pytest.raises(row.error, match=re.escape(row.words)):
            row.call()
    finally:
        plt.close("all")


def test_the_table_is_long_and_names_all_that_is_public():
    assert len(ROWS) >= 400
    named = {row.name for row in ROWS}
    base_classes = {"AdaptationRule", "Loss", "Solver"}  # are not made, but derived from
    made_by_fit = {"SlopeForm", "SolverResult", "Standardization"}
    public = {name.removesuffix(".from_estimator") for name in public_callables()}
    assert public - named <= base_classes | made_by_fit


def test_random_objects_are_refused_on_purpose_or_work():
    random = np.random.default_rng(int(os.environ.get("FUZZ_SEED", "0")))
    until = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "4"))
    while time.monotonic() < until:
        name, call, chosen = random_call(random)
        assert complaint(call, chosen) is None, (name, chosen)
