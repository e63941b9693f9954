"""float64 against 50 digits: ladders of condition numbers, offsets and scales; overflow, underflow.

Three small tasks, of two features and an intercept. `precise` has the meta-objective by the book.
"""

import warnings
from functools import cache
from itertools import product

import numpy as np
import pytest
from mpmath import matrix, mpf
from numpy.testing import assert_allclose
from precise import PreciseObjective
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import (
    GradientSteps,
    LogCosh,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    PseudoHuber,
    SquaredError,
)

EPS = np.finfo(float).eps
RNG = np.random.default_rng(5)
PLAIN = []
for _ in range(3):
    Z = RNG.normal(size=(5, 2))
    y = Z @ [1.0, -1.0] + RNG.normal() * (1.0 + Z[:, 0]) + 0.5 * RNG.normal(size=5)
    PLAIN.append((Z, y))

LOSSES = {
    "squared_error": SquaredError(),
    "log_cosh": LogCosh(),
    "pseudo_huber": PseudoHuber(1.0),
}
RULES = ("steps", "proximal")


def with_condition(k):
    return [(np.column_stack([Z[:, 0], Z[:, 0] + 10.0**-k * Z[:, 1]]), y) for Z, y in PLAIN]


LADDER = {f"condition 1e{k}": with_condition(k) for k in (0, 4, 8, 12)}
LADDER |= {f"offset 1e{k}": [(Z + 10.0**k, y) for Z, y in PLAIN] for k in (3, 6, 9)}
LADDER |= {f"scale 1e{k}": [(Z * 10.0**k, y) for Z, y in PLAIN] for k in (-8, -4, 4, 8)}
# How far, relatively, a fit may be from the minimum. What is left at a condition number of 1e12
# is what the numerical rank gives away.
TOLERANCE = {"condition 1e12": 1e-6}


@cache
def fitted(loss, rule, step):
    """The tasks, the model, its meta-parameters exactly, and the objective in 50 digits."""
    tasks = LADDER[step]
    if rule == "steps":  # shorter than any task's cap, so that the reference needs none
        steepest = max(2.0 * (np.square(X).sum() + len(X)) / len(X) for X, _ in tasks)
        how = {"inner_lr": 0.3 / steepest, "n_steps": 2}
        part = GradientSteps(**how)
    else:
        size = np.mean([np.square(X).mean(axis=0) for X, _ in tasks], axis=0)
        how = {"strength": 2.0, "metric": np.append(1.0 / size, 1.0)}
        part = Proximal(**how)
    model = MAMLRegressor(loss=LOSSES[loss], adaptation=part)
    with warnings.catch_warnings():
        if step in TOLERANCE:  # it may say that it is not quite there
            warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(tasks)
    theta = matrix([mpf(float(v)) for v in (*model.coef_, model.intercept_)])
    return tasks, model, theta, PreciseObjective(loss, tasks, **how)


problems = pytest.mark.parametrize(("loss", "rule", "step"), list(product(LOSSES, RULES, LADDER)))


@problems
def test_fits_are_at_the_minimum_of_50_digits(loss, rule, step):
    _, model, theta, objective = fitted(loss, rule, step)
    least, value = objective.minimum(theta), objective.value(theta)
    assert value - least <= TOLERANCE.get(step, 1e-11) * least
    certificate = model.gap_certificate_
    assert certificate.bound >= value - least
    assert certificate.lower_bound <= least
    assert abs(model.meta_loss_ - value) <= certificate.rounding


@problems
def test_adapting_is_that_of_50_digits_to_the_rounding_of_a_prediction(loss, rule, step):
    tasks, model, theta, objective = fitted(loss, rule, step)
    for i, (X, y) in enumerate(tasks):
        own = np.array([float(v) for v in objective.adapt(theta, i)[0]])
        size = np.abs(own) + np.abs([*model.coef_, model.intercept_])
        magnitude = (np.column_stack([np.abs(X), np.ones(len(X))]) @ size).max()
        predicted = model.adapt(X, y).predict(X)
        assert_allclose(
            predicted, objective.predictions(theta, i), rtol=0, atol=20 * EPS * magnitude
        )


# -- overflow and underflow -----------------------------------------------------------------------

RNG = np.random.default_rng(0)
G = np.repeat(np.arange(12), 6)
X = RNG.normal(size=(72, 2))
Y = X @ [1.0, -1.0] + np.repeat(RNG.normal(size=12), 6) * (1 + X[:, 0]) + 0.3 * RNG.normal(size=72)
SMALL_TO_LARGE = [
    *(5e-324, 1e-320, 1e-310, 1e-300, 1e-200, 1e-160, 1e-150, 1e-110, 1e-90, 1e-50),
    *(1e50, 1e75, 1e150, 1e160, 1e200, 1e300, 1e307),
]
MODELS = {
    "learned": MAMLRegressor(random_state=0),
    "steps": MAMLRegressor("auto", 2),
    "log_cosh": MAMLRegressor(loss="log_cosh", random_state=0),
    "huber steps": MAMLRegressor("auto", loss="pseudo_huber"),
    "poisson": MAMLRegressor("auto", loss="poisson"),
    "classes": MAMLClassifier("auto", alpha=0.0, random_state=0),
}
# What Newton's method leaves where the default tolerance is reached.
FAR = {"log_cosh": 1e-4}


def predictions(name, scale_x=1.0, scale_y=1.0):
    """Of known and of new tasks; or the words by which the package refuses."""
    y = {"poisson": np.exp(Y / 3), "classes": Y + 2 * RNG_NOISE > 0}.get(name, Y)
    y = y if name == "classes" else y * scale_y
    try:
        model = clone(MODELS[name]).fit(X * scale_x, y, groups=G)
    except ValueError as error:
        return str(error)
    adapted = model.adapt(X[:4] * scale_x, y[:4])
    say = "predict_proba" if name == "classes" else "predict"
    parts = [getattr(model, say)(X * scale_x, groups=G), getattr(adapted, say)(X * scale_x)]
    return np.concatenate(parts) / scale_y


RNG_NOISE = RNG.normal(size=72)


def assert_right_or_refused(found, expected, atol, must_fit):
    if isinstance(found, str):
        assert not must_fit
        assert "escale" in found
    else:
        assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("scale", SMALL_TO_LARGE)
@pytest.mark.parametrize("name", MODELS)
def test_features_of_any_size_are_fitted_rightly_or_refused_in_words(name, scale):
    found, must_fit = predictions(name, scale_x=scale), 1e-98 < scale < 1e68
    assert_right_or_refused(found, predictions(name), FAR.get(name, 1e-6), must_fit)


@pytest.mark.parametrize("scale", SMALL_TO_LARGE)
@pytest.mark.parametrize("name", ["learned", "steps"])
def test_targets_of_any_size_are_fitted_rightly_or_refused_in_words(name, scale):
    found, must_fit = predictions(name, scale_y=scale), 1e-68 < scale < 1e68
    assert_right_or_refused(found, predictions(name), 1e-6, must_fit)


@pytest.mark.parametrize("scale", [1e-90, 1e-40, 1e-20, 1e-10, 1e10, 1e20, 1e40, 1e65])
def test_the_restricted_likelihood_depends_on_units_as_its_determinant_says(scale):
    """``-1/2 log |X' V^-1 X|``: two features in other units move it by twice the log of these."""
    plain, scaled = (
        MAMLRegressor(random_state=0).fit(X * unit, Y, groups=G).learned_ for unit in (1.0, scale)
    )
    expected = plain.log_likelihood - 2 * np.log(scale)
    assert_allclose(scaled.log_likelihood, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("metric", "loss"),
    [*product(["auto", "identity", "diagonal", "full"], LOSSES), ("low_rank", "squared_error")],
)
def test_features_that_are_all_zero_or_vary_between_tasks_only_are_fitted(metric, loss):
    """Without an intercept nothing then differs between tasks, and the fit says so."""
    model = MAMLRegressor(
        loss=loss, adaptation=Proximal(metric=metric), fit_intercept=False, random_state=0
    )
    model.fit(np.zeros((72, 2)), Y, groups=G)
    assert not model.coef_.any()
    between = np.repeat(X[:12], 6, axis=0)
    model.fit(between, Y, groups=G)
    assert not model.learned_.varies.any()
    assert "no feature varies within tasks" in model.learned_.reason
    assert_allclose(model.predict(between, groups=G), between @ model.coef_)
    assert model.gap_certificate_.bound < 1e-6


def test_features_that_are_all_zero_leave_classes_as_they_are():
    model = MAMLClassifier(fit_intercept=False, random_state=0).fit(0.0 * X, Y > 0, groups=G)
    assert (model.predict_proba(X) == 0.5).all()
