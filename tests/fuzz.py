"""Public entry points called with random Python objects: for `test_hostile_input`, and by itself.

``python tests/fuzz.py 60 0`` runs a minute with seed 0 and prints each kind of failure once.
"""

import inspect
import linecache
import sys
import time
import warnings
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import sklearn_maml
from sklearn_maml import (
    adaptation,
    certificate,
    datasets,
    displays,
    losses,
    model_selection,
    solvers,
)

matplotlib.use("agg")
RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(6, 2)), RNG.normal(size=6)) for _ in range(4)]
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
G = np.repeat(list("abcd"), 6)
LABELLED = [(A, b > 0) for A, b in TASKS]
FRAME = pd.DataFrame(X, columns=["u", "v"]).assign(g=G)

# Objects are made anew for each call: some can be read once, and a call might change one.
ODD = [
    lambda: None,
    lambda: True,
    lambda: 0,
    lambda: 3,
    lambda: -1,
    lambda: 10**400,
    lambda: 1.5,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: 1j,
    lambda: Decimal("0.5"),
    lambda: Fraction(1, 2),
    lambda: "a",
    lambda: "auto",
    lambda: b"a",
    lambda: [],
    lambda: (),
    lambda: {},
    lambda: {"a": 1},
    lambda: {1, 2},
    lambda: object(),
    lambda: Ridge(),
    lambda: Ridge,
    lambda: len,
    lambda: (i for i in range(3)),
    lambda: [None] * 24,
    lambda: [[1, 2], [3]],
    lambda: ["a"] * 24,
    lambda: [1, "a"] * 12,
    lambda: np.array(3.0),
    lambda: np.zeros((0, 2)),
    lambda: np.zeros((24, 0)),
    lambda: np.ones((24, 2, 2)),
    lambda: np.full((24, 2), np.nan),
    lambda: np.full((24, 2), 1e300),
    lambda: np.ones((24, 2)) * 1j,
    lambda: np.array(["a", "b"] * 12),
    lambda: np.array([None, 1.0] * 12, dtype=object),
    lambda: np.array(["2020"] * 24, dtype="M8[D]"),
    lambda: np.ma.masked_array(Y, mask=Y > 0),
    lambda: np.zeros(24, dtype=[("a", float)]),
    lambda: sp.csr_matrix(X),
    lambda: sp.coo_array(X),
    lambda: FRAME,
    lambda: FRAME["g"],
    lambda: FRAME[["u", "v"]],
    lambda: pd.Series(pd.period_range("2020", periods=24, freq="M")),
    lambda: pl.DataFrame(X),
    lambda: pl.DataFrame(X).lazy(),
    lambda: pl.Series(G),
    lambda: [A for A, _ in TASKS],
    lambda: [(A, b, 1.0) for A, b in TASKS],
    lambda: [(A, b, -b) for A, b in TASKS],
    lambda: [(A,) for A, _ in TASKS],
    lambda: [(1, 2)] * 3,
    lambda: [*TASKS, (X[:, :1], Y)],
    lambda: [(pd.DataFrame(A), b) for A, b in TASKS],
    lambda: [([0, 1], [2, 3])],
]
GOOD = {
    "X": [lambda: TASKS, lambda: X, lambda: LABELLED],
    "y": [lambda: Y, lambda: None, lambda: Y > 0],
    "groups": [lambda: G, lambda: None],
    "sample_weight": [lambda: None, lambda: np.ones(24), lambda: np.ones(4)],
    "tasks": [lambda: TASKS, lambda: X, lambda: LABELLED],
}
MODELS = [
    sklearn_maml.MAMLRegressor("auto", support=2, random_state=0).fit(TASKS),
    sklearn_maml.MAMLRegressor("auto").fit(X, Y, groups=G),
    sklearn_maml.MAMLRegressor("auto", task_column="g").fit(FRAME, Y),
    sklearn_maml.MAMLRegressor("auto", featurizer=StandardScaler()).fit(TASKS),
    sklearn_maml.MAMLClassifier("auto").fit(LABELLED),
    sklearn_maml.MAMLClassifier("auto").fit(X, Y > 0, groups=G),
    sklearn_maml.MAMLRegressorCV(cv=2, n_steps=(1,), alphas=(0.1,)).fit(TASKS),
]
MODELS += [model.adapt(*task) for model, task in ((MODELS[0], TASKS[0]), (MODELS[4], LABELLED[0]))]
MODELS += [MODELS[1].adapt_tasks(TASKS), MODELS[4].adapt_tasks(LABELLED)]
METHODS = (
    "fit",
    "adapt",
    "adapt_tasks",
    "predict",
    "predict_proba",
    "decision_function",
    "score",
    "certify",
)
HOUSES = (
    sklearn_maml,
    adaptation,
    certificate,
    datasets,
    displays,
    losses,
    model_selection,
    solvers,
)
MADE_BY_US = ("SingleTaskWarning", "GapCertificate", "FewShotCurve", "Learnable")  # to be read
ERRORS = (ValueError, TypeError, KeyError)  # NotFittedError is a ValueError
WARNINGS = (ConvergenceWarning, DataConversionWarning, sklearn_maml.SingleTaskWarning, UserWarning)


def public_callables():
    """Names and the classes or functions that they stand for, of the whole package."""
    found = {
        name: getattr(house, name)
        for house in HOUSES
        for name in house.__all__
        if callable(getattr(house, name)) and name not in MADE_BY_US
    }
    return {
        f"{name}.from_estimator" if name.endswith("Display") else name: getattr(
            value, "from_estimator", value
        )
        for name, value in found.items()
    }


def arguments(function, random):
    """Random arguments for a function: mostly good ones or its defaults, and an odd one or two."""
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    chosen = {}
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty
        if random.random() < 1.5 / len(parameters):
            chosen[name] = pick(ODD, random)()
        elif name in GOOD and (needed or random.random() < 0.5):
            chosen[name] = pick(GOOD[name], random)()
        elif needed:
            chosen[name] = pick(MODELS, random)
    return chosen


def pick(choices, random):
    return choices[random.integers(len(choices))]


def random_call(random):
    """A name, what is called, and with which arguments."""
    if random.random() < 0.5:
        names = public_callables()
        name = pick(sorted(names), random)
        return name, names[name], arguments(names[name], random)
    model = pick(MODELS, random)
    name = pick([name for name in METHODS if hasattr(model, name)], random)
    if name == "fit":  # of a copy: the models are used again
        model = type(model)(**model.get_params(deep=False))
    method = getattr(model, name)
    return f"{type(model).__name__}.{name}", method, arguments(method, random)


def complaint(call, chosen):
    """What is wrong with how a call ends; None if nothing is.

    It may return, or raise one of ERRORS on purpose: in the package by a ``raise``, or in the
    checks of a library that the package calls.
    """
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            made = call(**chosen)
            if hasattr(made, "on_unknown_task"):  # an estimator
                made.fit(X, Y > 0, groups=G)
            elif hasattr(made, "validate"):  # a loss, a rule or a solver
                made.validate()
        except OSError:  # a file that is not there: the system's own words
            return None
        except Exception as error:
            frame = error.__traceback__
            while frame.tb_next is not None:
                frame = frame.tb_next
            place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}"
            line = linecache.getline(*place.split(":")[:1], frame.tb_lineno).strip()
            ours = "sklearn_maml" in place
            if not isinstance(error, ERRORS) or (ours and not line.startswith("raise")):
                return f"{type(error).__name__} at {place}: {error}"
        finally:
            plt.close("all")
    for warning in seen:
        if warning.category not in WARNINGS and "sklearn/" not in warning.filename:
            place = f"{warning.filename}:{warning.lineno}"
            return f"{warning.category.__name__} at {place}: {warning.message}"
    return None


if __name__ == "__main__":
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    random, until, kinds = np.random.default_rng(seed), time.time() + seconds, Counter()
    while time.time() < until:
        name, call, chosen = random_call(random)
        found = complaint(call, chosen)
        kinds[found and found.split(": ")[0]] += 1
        if found and kinds[found.split(": ")[0]] == 1:
            print(name, {key: repr(value)[:80] for key, value in chosen.items()})
            print("   ", found[:300], flush=True)
    print(kinds.total(), "calls,", kinds[None], "as they should be")
