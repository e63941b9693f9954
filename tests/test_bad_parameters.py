"""Parameters out of range or without effect, and methods called too early or with other data."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_maml import (
    AdaptedRegressor,
    GradientDescent,
    GradientSteps,
    MAMLRegressor,
    MAMLRegressorCV,
    Proximal,
    SquaredError,
)
from sklearn_maml.adaptation import Standardization

RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(5, 2)), RNG.normal(size=5)) for _ in range(4)]
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
G = np.repeat(list("abcd"), 5)
FRAMES = [(pd.DataFrame(A, columns=["u", "v"]), b) for A, b in TASKS]
MODEL = MAMLRegressor("auto").fit(TASKS)


def spoilt(values, bad):
    """A copy with one bad entry in the 4th row."""
    out = np.array(values)
    out[3] = bad
    return out


def refuses(message, call, error=ValueError):
    with pytest.raises(error, match=message):
        call()


# Parameters


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"inner_lr": 0}, ValueError, "inner_lr must be positive and finite; got 0"),
        ({"inner_lr": -0.1}, ValueError, "inner_lr must be positive and finite; got -0.1"),
        ({"inner_lr": np.nan}, ValueError, "inner_lr must be positive and finite; got nan"),
        ({"inner_lr": np.inf}, ValueError, "inner_lr must be positive and finite; got inf"),
        (
            {"inner_lr": True},
            TypeError,
            "inner_lr must be a positive number, one a parameter, or 'learn'; got True",
        ),
        ({"inner_lr": "0.1"}, ValueError, "inner_lr must be 'auto' or a number; got '0.1'"),
        ({"inner_lr": np.array([0.1, 0.2])}, TypeError, "inner_lr must be a positive number"),
        ({"n_steps": -1}, ValueError, "n_steps must be an int >= 0; got -1"),
        ({"calibrate": "yes"}, TypeError, "calibrate must be 'auto', True or False; got 'yes'"),
        ({"calibrate": 1}, TypeError, "calibrate must be 'auto', True or False; got 1"),
        ({"n_steps": 1.0}, TypeError, "n_steps must be an int >= 0; got 1.0"),
        ({"n_steps": True}, TypeError, "n_steps must be an int >= 0; got True"),
        ({"n_steps": "1"}, TypeError, "n_steps must be an int >= 0; got '1'"),
        ({"inner_lr": 0.1, "n_steps": 1.5}, TypeError, "n_steps must be an int >= 0; got 1.5"),
        ({"support": 5}, ValueError, r"Task 0 has n_samples=5: too few rows for support=5"),
        ({"support": [7, 9]}, ValueError, r"Task 0 .* support=\(7, 9\).* leave the task out"),
        ({"support": "some"}, ValueError, "support must be 'all', an int"),
        ({"support": []}, ValueError, "support must be 'all', an int"),
        ({"support": [True, 2]}, TypeError, "support must be 'all', an int"),
        ({"support": 1.5}, ValueError, "support must be 'all', an int"),
        ({"support": 2, "split": "last"}, ValueError, "split must be 'random' or 'first'"),
        ({"support": 2, "n_episodes": 0}, ValueError, "n_episodes must be at least 1; got 0"),
        ({"support": 2, "n_episodes": 10**400}, ValueError, "n_episodes must be at most 1,000,000"),
        (
            {"inner_lr": "auto", "n_episodes": 3},
            ValueError,
            "n_episodes=3 would repeat the same split",
        ),
        (
            {"n_steps": 1, "split": "first"},
            ValueError,
            "split='first' has no effect with support='all'",
        ),
        ({"support": 2, "split": "first", "n_episodes": 2}, ValueError, "would repeat the same"),
        ({"adaptation": GradientSteps(), "inner_lr": 0.1}, ValueError, "inner_lr=0.1 .*no effect"),
        ({"adaptation": GradientSteps(), "n_steps": 2}, ValueError, "n_steps=2 have no effect"),
        ({"adaptation": GradientSteps(-1.0)}, ValueError, "inner_lr must be positive"),
        ({"adaptation": GradientSteps}, TypeError, "adaptation must be .*AdaptationRule; got"),
        ({"loss": "hinge"}, ValueError, "loss='hinge' is not known; expected one of .*'squared"),
        ({"loss": SquaredError}, TypeError, "loss must be a name or an instance of Loss"),
        (
            {"solver": "newton"},
            ValueError,
            "solver='newton' is not known; expected one of .*'least",
        ),
        ({"alpha": -1}, ValueError, "alpha must be a finite number >= 0; got -1"),
        ({"alpha": np.nan}, ValueError, "alpha must be a finite number >= 0; got nan"),
        ({"alpha": True}, TypeError, "alpha must be a finite number >= 0; got True"),
        ({"alpha": "1"}, TypeError, "alpha must be a finite number >= 0; got '1'"),
        ({"fit_intercept": "no"}, TypeError, "fit_intercept must be True or False; got 'no'"),
        ({"random_state": "a"}, ValueError, "'a' cannot be used to seed"),
        ({"featurizer": "passthrough"}, TypeError, "transformer, .*; got 'passthrough'"),
        ({"featurizer": StandardScaler}, TypeError, "transformer, an object with fit and tr"),
        ({"featurizer": LinearRegression()}, TypeError, "transformer, .*; got LinearReg"),
        ({"featurizer": FunctionTransformer(lambda A: A[:, 0])}, ValueError, "Expected 2D array"),
        ({"featurizer": FunctionTransformer(lambda A: A[:1])}, ValueError, "one row a row of X"),
    ],
)
def test_a_parameter_that_is_wrong_or_would_be_ignored_is_refused(parameters, error, message):
    refuses(message, lambda: MAMLRegressor(**parameters).fit(TASKS), error)


@pytest.mark.parametrize("support", [1, 0.5, [1, 2]])
def test_one_row_where_a_split_needs_two_is_refused_with_its_task(support):
    model = MAMLRegressor("auto", support=support)
    refuses("Task 1 has n_samples=1", lambda: model.fit([TASKS[0], (X[:1], Y[:1])]))
    refuses("Task z has n_samples=1", lambda: model.fit(X, Y, groups=[*G[:-1], "z"]))


# After fitting, and before


@pytest.mark.parametrize("method", ["adapt", "score", "certify"])
def test_an_unfitted_model_refuses_to_work(method):
    refuses("not fitted yet", lambda: getattr(MAMLRegressor("auto"), method)(X, Y), NotFittedError)
    refuses("not fitted yet", lambda: MAMLRegressor("auto").predict(X), NotFittedError)
    refuses("not fitted yet", lambda: AdaptedRegressor(MODEL).predict(X), NotFittedError)
    refuses(
        "not fitted yet", lambda: AdaptedRegressor(MAMLRegressor("auto")).fit(X, Y), NotFittedError
    )


MORE = FRAMES[0][0].assign(w=1.0)
OTHER = FRAMES[0][0].rename(columns={"v": "w"})
METHODS = {
    "predict": lambda model, table: model.predict(table),
    "adapt": lambda model, table: model.adapt(table, Y[:5]),
    "score": lambda model, table: model.score(table, Y[:5]),
    "score of tasks": lambda model, table: model.score([(table, Y[:5])]),
    "score of groups": lambda model, table: model.score(table, Y[:5], groups=G[:5]),
    "certify": lambda model, table: model.certify([(table, Y[:5])]),
}


@pytest.mark.parametrize("featurizer", [None, StandardScaler()])
@pytest.mark.parametrize("call", METHODS.values(), ids=METHODS)
def test_other_columns_than_in_fit_are_refused_by_every_method(call, featurizer):
    model = MAMLRegressor("auto", featurizer=featurizer).fit(FRAMES)
    for table in (MORE, OTHER, FRAMES[0][0][["v", "u"]]):
        refuses("feature names should match", lambda table=table: call(model, table))
        adapted = model.adapt(*FRAMES[1])
        refuses("feature names should", lambda a=adapted, table=table: a.predict(table))
    model.fit(TASKS)
    for table in (X[:5, :1], MORE.to_numpy()):
        refuses("features, but MAML.* expecting 2", lambda table=table: call(model, table))


@pytest.mark.parametrize("n_targets", [1, 2])
def test_another_number_of_targets_than_in_fit_is_refused_by_every_method(n_targets):
    y = Y if n_targets == 1 else np.column_stack([Y, Y])
    other = np.column_stack([Y, Y, Y])
    model = MAMLRegressor("auto").fit(X, y, groups=G)
    for call in (
        model.adapt,
        lambda X, y: model.score([(X, y)]),
        lambda X, y: model.certify([(X, y)]),
    ):
        refuses("y must have the shape .* of fit; got", lambda call=call: call(X, other))
    refuses("different number of output", lambda: model.score(X, other))


@pytest.mark.parametrize(
    "call", [MODEL.predict, lambda t: MODEL.score(t, Y), lambda t: MODEL.adapt(t, Y)]
)
@pytest.mark.parametrize("tasks", [TASKS, [A for A, _ in TASKS]])
def test_tasks_where_rows_are_expected_are_refused(call, tasks):
    refuses("list of (tables|.X, y. tuples)", lambda: call(tasks))


@pytest.mark.parametrize(
    ("rows", "y", "weight", "message"),
    [
        (X[:0], Y[:0], None, "0 sample"),
        (X[:3], Y[:2], None, "X has 3 rows but y has 2"),
        (X[:3], None, None, "requires y to be passed"),
        (X[:3], Y[:3], np.zeros(3), "zero"),
        (X[:3], Y[:3], -np.ones(3), "Negative"),
        (X[:3], Y[:3], np.ones(2), "2"),
        (spoilt(X, np.nan), Y, None, "X contains NaN"),
        (X, spoilt(Y, np.inf), None, "y contains inf"),
    ],
)
def test_support_rows_that_are_wrong_are_refused(rows, y, weight, message):
    refuses(message, lambda: MODEL.adapt(rows, y, sample_weight=weight))


def test_a_model_that_failed_to_fit_is_not_fitted():
    model = MAMLRegressor("auto", support=9)
    refuses("too few rows", lambda: model.fit(TASKS))
    refuses("not fitted yet", lambda: model.predict(X), NotFittedError)
    model.set_params(support=2).fit(TASKS)
    refuses("Targets must be zero or between", lambda: model.fit(X, Y * 1e80))
    refuses("not fitted yet", lambda: model.predict(X), NotFittedError)


@pytest.mark.parametrize("lengths", [[1.0], [1.0, 2.0]])
@pytest.mark.parametrize("support", ["all", 1])
def test_a_wrong_number_of_step_lengths_is_refused_by_every_route(lengths, support):
    model = MAMLRegressor(adaptation=GradientSteps(lengths), support=support, random_state=0)
    tasks = [(np.ones((2, 3)), np.arange(2.0)) for _ in range(4)]
    with pytest.raises(ValueError, match="step lengths but there are 4 parameters"):
        model.fit(tasks)


def test_a_metric_that_is_not_made_of_numbers_is_refused():
    for metric in (1j * np.eye(4), [1, "a", 2, 3]):
        model = MAMLRegressor(adaptation=Proximal(1.0, metric))
        with pytest.raises(TypeError, match="metric must be an array of numbers"):
            model.fit([(np.ones((2, 3)), np.arange(2.0))])


@pytest.mark.parametrize("loss", ["poisson", "log_cosh"])
def test_no_support_rows_leave_theta_for_every_loss(loss):
    rng = np.random.default_rng(0)
    tasks = [(rng.normal(size=(6, 2)), rng.uniform(size=6)) for _ in range(5)]
    model = MAMLRegressor(0.1, loss=loss, support=0, alpha=1.0, fit_intercept=False).fit(tasks)
    pooled = MAMLRegressor(0.1, n_steps=0, loss=loss, alpha=1.0, fit_intercept=False).fit(tasks)
    np.testing.assert_allclose(model.coef_, pooled.coef_, rtol=1e-6)


# Coordinates of gradient steps, and step lengths that a function returns

UNITS = np.ones(3)


@pytest.mark.parametrize(
    ("coordinates", "error", "message"),
    [
        (3, TypeError, "coordinates must be None or a Standardization; got 3"),
        ("x", TypeError, "coordinates must be None or a Standardization; got 'x'"),
        (np.ones(3), TypeError, "coordinates must be None or a Standardization"),
        (Standardization(np.ones(2), UNITS), ValueError, r"got shapes \(2,\) and \(3,\)"),
        (Standardization(np.ones((1, 3)), np.ones((1, 3))), ValueError, r"got shapes \(1, 3\)"),
        (Standardization(["a"], [1.0]), TypeError, "coordinates need numbers; got mean="),
        (Standardization(0.0, 1.0), ValueError, r"got shapes \(\) and \(\)"),
        (Standardization(UNITS, 0.0 * UNITS), ValueError, "finite means and positive scales"),
        (Standardization(UNITS, -UNITS), ValueError, "finite means and positive scales"),
        (Standardization(UNITS * np.nan, UNITS), ValueError, "finite means and positive scales"),
        (Standardization(UNITS, UNITS * np.inf), ValueError, "finite means and positive scales"),
        (Standardization(np.ones(2), np.ones(2)), ValueError, "of 2 parameters but there are 3"),
        (Standardization(np.ones(4), np.ones(4)), ValueError, "of 4 parameters but there are 3"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(coordinates, error, message):
    rule = GradientSteps(0.1, coordinates=coordinates)
    refuses(message, lambda: MAMLRegressor(adaptation=rule).fit(TASKS), error)


@pytest.mark.parametrize(
    ("rate", "error"),
    [("a", TypeError), (None, TypeError), (np.nan, ValueError), (-1.0, ValueError)],
)
def test_a_learning_rate_that_is_no_number_is_refused(rate, error):
    solver = GradientDescent(learning_rate=lambda iteration: rate)
    message = r"learning_rate\(0\) must be a finite number >= 0; got"
    refuses(message, lambda: MAMLRegressor("auto", solver=solver).fit(TASKS), error)


def test_a_learning_rate_may_be_a_function_of_the_iteration():
    solver = GradientDescent(learning_rate=lambda iteration: 0.2 + 0.1 * (iteration % 2))
    model = MAMLRegressor("auto", solver=solver).fit(TASKS)
    np.testing.assert_allclose(model.meta_loss_, MODEL.meta_loss_, rtol=1e-6)


@pytest.mark.parametrize("verbose", ["yes", -1, np.ones(3), np.nan, None])
@pytest.mark.parametrize("kind", [MAMLRegressor, MAMLRegressorCV])
def test_verbose_is_checked_before_anything_is_told(kind, verbose):
    refuses(
        "verbose must be a finite number >= 0; got",
        lambda: kind(verbose=verbose).fit(TASKS),
        (TypeError, ValueError),
    )


def test_a_search_checks_parameters_before_it_reads():
    refuses(
        "fit_intercept must be True or False; got",
        lambda: MAMLRegressorCV(fit_intercept=np.ones(3)).fit(TASKS),
        TypeError,
    )
