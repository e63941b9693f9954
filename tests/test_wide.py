"""Learned fits of features that are many, or that nearly depend on one another."""

import os
import warnings

import numpy as np
import pytest
from families import make_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from objectives import make_objective, objective_of, stacked_risk
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import MAMLRegressor, Proximal
from sklearn_maml._learning.variable_projection import ROWS_A_PARAMETER, _work
from sklearn_maml._objective.quadratic import quadratic
from sklearn_maml.adaptation import prior
from sklearn_maml.adaptation.doubt import Doubt
from sklearn_maml.adaptation.prior import Metric
from sklearn_maml.losses import SquaredError

EXAMPLES = int(os.environ.get("SKLEARN_MAML_EXAMPLES", 25))


def wide_tasks(n_tasks, size, d, seed=0):
    rng = np.random.default_rng(seed)
    tasks, mean = [], rng.normal(size=d) / np.sqrt(d)
    for _ in range(n_tasks):
        X, own = rng.normal(size=(size, d)), mean + rng.normal(size=d) / np.sqrt(d)
        tasks.append((X, X @ own + rng.normal() + 0.3 * rng.normal(size=size)))
    return tasks


@pytest.mark.parametrize("at", [[0, 1, 2, 3], [3, 0, 4], [2]])
def test_scales_beside_a_row_are_multiplied_as_the_matrix_is(at, monkeypatch):
    rng, d = np.random.default_rng(0), 5
    factor = np.zeros((d, len(at)))
    factor[at, np.arange(len(at))] = rng.normal(size=len(at))
    factor[-1] += rng.normal(size=len(at))
    V, U = rng.normal(size=(2, 3, d)), rng.normal(size=(2, 3, len(at)))
    monkeypatch.setattr(prior, "WIDE", 0)
    metric = Metric(factor)
    assert metric._scales is not None
    assert_allclose(metric.rows(V), V @ factor, rtol=1e-14, atol=1e-15)
    assert_allclose(metric.lift(U), U @ factor.T, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("factor", [np.ones((3, 2)), [[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]])
def test_other_factors_stay_matrices(factor, monkeypatch):
    monkeypatch.setattr(prior, "WIDE", 0)
    assert Metric(np.array(factor))._scales is None


@pytest.mark.parametrize("same", [True, False])
def test_deviations_are_those_of_dense_covariances(same):
    rng, d = np.random.default_rng(1), 4
    theta = rng.normal(size=(d, d))
    sigma = theta if same else rng.normal(size=(2, d))
    root, noise, strength, times = rng.normal(size=(d, 2)), 0.7, 1.3, 1.9
    rule = Proximal(strength, Metric(root), noise=noise, doubt=Doubt(theta, sigma, times))
    risk, V = stacked_risk(SquaredError(), d=d), rng.normal(size=(5, 3, d))
    found = rule.deviation(V, risk)
    for i in range(5):
        F, counts = risk.features[i], risk.weights[i] * risk.n_rows[i]
        V_i = np.diag(strength / np.where(counts > 0, counts, 1e-300)) + F @ root @ root.T @ F.T
        inverse = np.linalg.inv(V_i)
        J = np.eye(d) - root @ root.T @ F.T @ inverse @ F
        P = F.T @ np.diag(counts) @ F @ J
        covariance = root @ root.T @ (np.eye(d) - F.T @ inverse @ F @ root @ root.T) / strength
        covariance += J @ theta.T @ theta @ J.T
        covariance += times * np.trace(sigma @ P @ sigma.T) * J @ sigma.T @ sigma @ J.T
        spread = np.einsum("kd,de,ke->k", V[i], covariance, V[i])
        assert_allclose(found[i], np.sqrt(noise * (1.0 + spread)), rtol=1e-8)


def test_what_a_rule_is_learned_from_has_rows_for_each_parameter():
    d, size = 400, 4
    episodes = {"support": (1, 2, 3), "n_episodes": 3}
    rule = Proximal(1.0, np.ones(d))
    tasks = wide_tasks(600, size, d - 1)
    objective = objective_of(tasks, SquaredError(), rule, episodes=episodes)
    few = objective.blocks.lighter(_work(objective))
    assert len(few.tasks.weight) < 600
    assert len(few.tasks.weight) * size >= ROWS_A_PARAMETER * d


@pytest.mark.parametrize("rule", [Proximal(), Proximal(metric="identity")])
def test_what_fits_all_rows_exactly_teaches_nothing_and_says_so(rule):
    tasks = wide_tasks(5, 4, 120)
    with pytest.warns(ConvergenceWarning, match="20 rows do not tell the .* 121 parameters"):
        model = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    assert model.adaptation_.strength == 1.0
    assert model.adaptation_.noise is None
    with pytest.raises(ValueError, match="unless theta fits all rows exactly"):
        model.adapt(*tasks[0]).predict(tasks[0][0], return_std=True)


@pytest.mark.parametrize(
    ("n_tasks", "size", "d"), [(5, 4, 30), (4, 5, 19), (10, 3, 40), (6, 6, 60)]
)
@pytest.mark.parametrize("seed", range(4))
def test_noise_that_is_fitted_exactly_is_no_error(seed, n_tasks, size, d):
    """The restricted likelihood is rounding there, and L-BFGS may end anywhere."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n_tasks, size, d)), rng.normal(size=(n_tasks, size))
    with pytest.warns(ConvergenceWarning) as told:  # one may be of L-BFGS
        model = MAMLRegressor(random_state=0).fit(list(zip(X, y, strict=True)))
    assert any(f"{n_tasks * size} rows do not tell" in str(one.message) for one in told)
    assert_allclose(model.predict(X.reshape(-1, d)), y.ravel(), atol=1e-6)


def test_a_penalty_leaves_something_to_learn_from():
    tasks = wide_tasks(20, 4, 120)
    model = MAMLRegressor(adaptation=Proximal(metric="identity"), alpha=0.1, random_state=0)
    assert model.fit(tasks).adaptation_.noise is not None


def test_a_resolved_minimum_moves_along_resolved_directions_alone():
    rng, tasks = np.random.default_rng(2), make_tasks(20, 6)
    tasks = [(np.column_stack([X, X[:, 0] + 1e-7 * rng.normal(size=len(X))]), y) for X, y in tasks]
    objective = make_objective(tasks, 0.01, 2)
    shape, near = quadratic(objective), rng.normal(size=objective.n_parameters)
    assert not shape.definite
    theta = shape.resolved(objective, near, 1e-4)
    _, s, vt = np.linalg.svd(shape.triangle)
    kept = vt[s > 1e-4 * s[0]]
    assert len(kept) == len(s) - 1
    gradient = objective.value_and_gradient(theta)[1] / shape.scale
    before = objective.value_and_gradient(near)[1] / shape.scale
    assert np.abs(kept @ gradient).max() < 1e-9 * np.abs(kept @ before).max()
    moved = (theta - near) / shape.scale  # in the range of scale * V_r
    assert_allclose(moved, kept.T @ (kept @ moved), atol=1e-9 * np.abs(moved).max())


def bending_tasks(n_tasks=25, size=9, seed=0):
    """Curves over one variable, in first to last order, and Fourier features that nearly depend."""
    rng, tasks = np.random.default_rng(seed), []
    slopes, phases = rng.normal(size=20), rng.uniform(0, 2 * np.pi, size=20)
    for _ in range(n_tasks):
        x = np.linspace(-1, 1, size) + 0.05 * rng.normal(size=size)
        y = 150 + 8 * rng.normal() + (6 + rng.normal()) * x + 0.5 * x**2
        tasks.append((np.cos(np.outer(x, slopes) + phases), y + 0.3 * rng.normal(size=size)))
    return tasks


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nearly_dependent_features_are_not_taken_apart_by_huge_coefficients():
    tasks = bending_tasks()
    labels = np.repeat(np.arange(len(tasks)), [len(y) for _, y in tasks])
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    model = MAMLRegressor(adaptation="learned", split="first", random_state=0)
    chosen = clone(model).set_params(solver="least_squares").fit(X, y, groups=labels)
    assert np.abs(chosen.coef_).max() > 1e6  # a solver that is asked for does what it says
    model.fit(X, y, groups=labels)
    fixed = model.learned_.fixed_effects
    assert np.abs(model.coef_).max() < 10 * np.abs(fixed).max()
    assert np.sqrt(np.mean((model.predict(X, groups=labels) - y) ** 2)) < 1.0


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 10**6),
    st.floats(-16, -8),
    st.sampled_from(["reml", "query"]),
    st.sampled_from(["diagonal", "full", "intercept"]),
)
def test_copies_of_a_column_fit_as_the_column_does(seed, exponent, criterion, metric):
    rng = np.random.default_rng(seed)
    tasks = [(X, y + rng.normal() * X[:, 0]) for X, y in wide_tasks(12, 6, 2, seed)]
    rows = {size: rng.normal(size=size) for size in {len(y) for _, y in tasks}}
    copied = [
        (np.column_stack([X, X[:, 0] * (1.0 + 10.0**exponent * rows[len(y)])]), y) for X, y in tasks
    ]
    rule = Proximal(1.0, metric, criterion=criterion, starts=None)
    found = []
    for data in (tasks, copied):
        with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = MAMLRegressor(adaptation=rule, random_state=0, calibrate=False).fit(data)
        found.append(model.meta_loss_)
        assert np.isfinite(model.coef_).all()
    # A column more cannot fit worse, but for another Sigma; and it adds no more than one parameter.
    assert 0.5 * found[0] < found[1] < 1.5 * found[0]


@pytest.mark.parametrize("split", ["random", "first"])
def test_features_that_rows_still_resolve_are_fitted_exactly(split):
    rng, tasks = np.random.default_rng(0), []
    for _ in range(30):
        year = np.sort(rng.choice(np.arange(1990.0, 2021.0), 12, replace=False))
        t, (a, b) = (year - 2005.0) / 10.0, rng.normal(size=2)
        y = a + (1.0 + 0.3 * b) * t + 0.5 * t**2 + 0.2 * rng.normal(size=12)
        tasks.append((np.column_stack([year, year**2, year**3]), y))
    model = MAMLRegressor(split=split, random_state=0).fit(tasks)
    assert model.gap_certificate_.bound < 1e-5 * model.meta_loss_
