"""Rules that are learned: Proximal by REML, by the query loss, its strength and its uncertainty."""

import logging
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from foreign_parts import PreconditionedStep
from moments import moments_of
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures
from small_parts import HalfSquaredError

from sklearn_maml import (
    GradientSteps,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    SingleTaskWarning,
    adapt_tasks,
)
from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml._learning.likelihood import likelihood
from sklearn_maml._learning.problem import LearningProblem
from sklearn_maml._learning.proximal import metric_coordinates
from sklearn_maml._learning.random_effects import RandomEffects, random_effects_of
from sklearn_maml._learning.reml import fit_low_rank, fit_reml
from sklearn_maml._learning.starts import shots_of_starts
from sklearn_maml._learning.structure import Structure
from sklearn_maml._learning.variable_projection import Profile, _first_valley
from sklearn_maml._objective.meta_objective import MetaObjective
from sklearn_maml._objective.risk import Risk
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml.adaptation import RULES
from sklearn_maml.adaptation.prior import Metric, Noise, Starts
from sklearn_maml.adaptation.standardization import Standardization
from sklearn_maml.losses import LOSSES, SquaredError
from sklearn_maml.solvers import GaussNewton, LeastSquares

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from baselines import varies_within_groups
from lme4_reference import differences, figures
from public_suite import load

REML = Proximal(strength=1.0, metric="full")


def mixed_tasks(n_tasks=40, size=8, d=2, noise=0.5, seed=0):
    """Tasks of a mixed model with correlated effects of intercept and slopes."""
    rng = np.random.default_rng(seed)
    root = np.tril(rng.normal(size=(d + 1, d + 1)))
    tasks = []
    for _ in range(n_tasks):
        X = rng.normal(size=(size, d)) + 1.0
        parameters = np.arange(1.0, d + 2) + root @ rng.normal(size=d + 1)
        tasks.append((X, X @ parameters[:-1] + parameters[-1] + noise * rng.normal(size=size)))
    return tasks


def theta_of(model):
    return np.append(model.coef_, model.intercept_)


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


# --------------------------------------------------------------------------------------------------
# The mixed model


def example(seed=0, n_targets=1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 3))
    groups = np.repeat(np.arange(8), 5)
    effects = rng.normal(size=(8, 2, n_targets))[groups]
    y = X @ rng.normal(size=(3, n_targets)) + np.einsum("nk,nkt->nt", X[:, :2], effects)
    return X, X[:, :2], y + 0.3 * rng.normal(size=y.shape), groups


def test_restricted_likelihood_is_that_of_error_contrasts():
    """Harville: the density of A'y with orthonormal A'X = 0, and log|X'X| / 2 for the measure."""
    X, Z, y, groups = example()
    relative = np.array([[0.8, 0.2], [0.2, 0.5]])
    at = likelihood(moments_of(X, Z, y, groups), relative)
    V = np.eye(40) + (Z @ relative @ Z.T) * (groups[:, None] == groups)
    contrasts = np.linalg.svd(X)[0][:, 3:]
    covariance = at.noise[0] * contrasts.T @ V @ contrasts
    density = multivariate_normal(np.zeros(37), covariance).logpdf(contrasts.T @ y[:, 0])
    assert_allclose(-0.5 * at.value, density - 0.5 * np.linalg.slogdet(X.T @ X)[1], rtol=1e-10)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_gradient_of_the_restricted_likelihood_agrees_with_finite_differences(n_targets):
    moments = moments_of(*example(n_targets=n_targets))
    relative = np.array([[0.8, 0.2], [0.2, 0.5]])
    at = likelihood(moments, relative)
    for direction in (np.diag([1.0, 0]), np.diag([0, 1.0]), np.array([[0, 1.0], [1, 0]])):
        step = 1e-5 * direction
        ahead, behind = (likelihood(moments, relative + s * step).value for s in (1, -1))
        expected = (at.slope * direction).sum()
        assert_allclose((ahead - behind) / 2e-5, expected, rtol=1e-6)


def test_targets_share_the_covariance_and_keep_their_own_noise():
    X, Z, y, groups = example()
    one = fit_reml(moments_of(X, Z, y, groups), Structure.full(2))
    two = fit_reml(moments_of(X, Z, np.c_[y, 3 * y], groups), Structure.full(2))
    assert_allclose(two.relative, one.relative, rtol=1e-5)
    assert_allclose(two.noise, one.noise * [1, 9], rtol=1e-6)


def by_statsmodels(data):
    """MixedLM with random effects of all that varies within groups; and the design it was given."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    X = with_ones(data.X)
    random = np.append(varies_within_groups(data.X, data.groups), True)
    best = None
    for method in ("lbfgs", "bfgs", "powell"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MixedLM warns of what is tested here: its convergence
            model = MixedLM(data.y, X, data.groups, exog_re=X[:, random])
            fit = model.fit(reml=True, method=method, maxiter=2000, gtol=1e-10)
        best = fit if best is None or fit.llf > best.llf else best
    return best, random


def test_sleepstudy_gives_the_figures_that_lme4_publishes():
    """Reaction ~ Days + (Days | Subject): Bates, Maechler, Bolker & Walker, JSS 67(1), 2015."""
    data = load("sleepstudy")
    model = MAMLRegressor(adaptation=REML, random_state=0)
    found = model.fit(data.X, data.y, groups=data.groups).learned_
    slope, intercept = np.sqrt(np.diagonal(found.covariance))
    assert_allclose(-2 * found.log_likelihood, 1743.628, atol=5e-4)
    assert_allclose([intercept, slope], [24.741, 5.922], rtol=1e-4)
    assert_allclose(found.covariance[0, 1] / (slope * intercept), 0.066, atol=5e-4)
    assert_allclose(np.sqrt(found.residual_variance), 25.592, atol=5e-4)
    assert_allclose(found.fixed_effects, [10.467, 251.405], atol=5e-4)


@pytest.mark.parametrize(
    ("rule", "criterion", "deviations"),
    [
        (
            Proximal(1.0, "diagonal", criterion="reml"),
            1743.67,
            [5.988, 25.051],
        ),  # (Days || Subject)
        (Proximal(1.0, "full", random_effects="intercept"), 1786.465, [0.0, 37.124]),
        (Proximal(1.0, "full", random_effects=[]), 1786.465, [0.0, 37.124]),
        (Proximal(1.0, "full", random_effects=["Days"]), 1743.628, [5.922, 24.740]),
        (Proximal(1.0, "full", random_effects=[-1]), 1743.628, [5.922, 24.740]),
        (Proximal(1.0, "full", random_effects=[False]), 1786.465, [0.0, 37.124]),
    ],
)
def test_sleepstudy_with_fewer_covariances_gives_the_figures_of_lme4(rule, criterion, deviations):
    """REML criteria and standard deviations of Bates et al., sections 2 and 3."""
    data = load("sleepstudy")
    frame = pd.DataFrame(data.X, columns=["Days"])
    found = MAMLRegressor(adaptation=rule).fit(frame, data.y, groups=data.groups).learned_
    assert_allclose(-2 * found.log_likelihood, criterion, atol=5e-3)
    assert_allclose(np.sqrt(np.diagonal(found.covariance)), deviations, atol=2e-3)
    if rule.metric == "diagonal":
        assert_allclose(found.covariance[0, 1], 0.0, atol=1e-9)


@pytest.mark.parametrize("X", [np.zeros((180, 1)), np.ones((180, 2))])
def test_an_intercept_alone_is_a_model(X):
    """One-way analysis of variance, balanced: REML is the classical estimate."""
    data = load("sleepstudy")
    model = MAMLRegressor(adaptation=REML, random_state=0).fit(X, data.y, groups=data.groups)
    tables = data.y.reshape(18, 10)
    within = tables.var(axis=1, ddof=1).mean()
    between = tables.mean(axis=1).var(ddof=1) - within / 10
    assert_allclose(model.learned_.residual_variance, within, rtol=1e-6)
    assert_allclose(model.learned_.covariance[-1, -1], between, rtol=1e-6)
    shift = model.adapt(X[:10], tables[0]).predict(X[:1]) - model.predict(X[:1])
    share = between / (between + within / 10)
    assert_allclose(shift, share * (tables[0].mean() - model.predict(X[:1])), rtol=1e-6)


def test_an_effect_that_was_not_asked_for_is_the_same_in_all_tasks():
    tasks = mixed_tasks(30, d=3)
    for metric in ("full", "diagonal", "intercept", "identity"):
        rule = Proximal(metric=metric, random_effects=[0, 2])
        model = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
        assert model.learned_.varies.tolist() == [True, False, True, True]
        adapted = model.adapt(*tasks[0])
        moved = adapted.coef_ != model.coef_
        assert moved.tolist() == [True, False, True]


def test_features_of_a_featurizer_are_asked_for_by_their_names():
    data = load("sleepstudy")
    frame = pd.DataFrame(data.X, columns=["Days"])
    rule = Proximal(1.0, "full", random_effects=["Days"])
    curved = PolynomialFeatures(2, include_bias=False)
    model = MAMLRegressor(adaptation=rule, featurizer=curved).fit(frame, data.y, groups=data.groups)
    assert model.learned_.names == ("Days", "Days^2", "intercept")
    assert model.learned_.varies.tolist() == [True, False, True]
    model.set_params(featurizer=FunctionTransformer())
    with pytest.raises(ValueError, match="have no names: give positions"):
        model.fit(frame, data.y, groups=data.groups)


def test_orthodont_gives_the_figures_that_nlme_publishes():
    """The example of help(lme) in R's nlme: lme(distance ~ age, data = Orthodont), by REML.

    Pinheiro & Bates, "Mixed-Effects Models in S and S-PLUS", Springer 2000.
    """
    data = load("Orthodont")
    model = MAMLRegressor(adaptation=REML, random_state=0)
    found = model.fit(data.X[:, :1], data.y, groups=data.groups).learned_
    slope, intercept = np.sqrt(np.diagonal(found.covariance))
    assert_allclose(found.log_likelihood, -221.3183, atol=1e-4)
    assert_allclose([intercept, slope], [2.3270341, 0.2264279], rtol=2e-6)
    assert_allclose(found.covariance[0, 1] / (slope * intercept), -0.609, atol=5e-4)
    assert_allclose(np.sqrt(found.residual_variance), 1.3100396, rtol=2e-7)
    assert_allclose(found.fixed_effects, [0.6601852, 16.7611111], atol=5e-8)


LME4 = {  # largest differences; a log likelihood may only be higher
    "log_likelihood": 1e-4,
    "fixed_effects": 1e-3,
    "covariance": 5e-3,
    "random_effects": 5e-3,
    "residual_variance": 5e-4,
}


def test_reml_agrees_with_lme4_where_there_is_r():
    """Or where its figures are kept; benchmarks/lme4_reference.R makes them."""
    found = figures()
    if found is None:
        pytest.skip("no Rscript with lme4, and no figures that were kept")
    made_by = found.pop("made_by")
    for name, reference in found.items():
        told = differences(name, reference)
        assert told["log_likelihood"] > -1e-4, (name, made_by)
        if not reference["singular"]:
            assert all(abs(told[what]) < LME4[what] for what in LME4), (name, told, made_by)


@pytest.mark.parametrize("name", ["sleepstudy", "Orthodont"])
def test_figures_of_the_form_that_r_writes_are_compared(name):
    """The same comparison with statsmodels in the place of lme4; a wrong figure shows."""
    data = load(name)
    reference, random = by_statsmodels(data)
    names = np.array([*(feature.replace("_", "") for feature in data.feature_names), "(Intercept)"])
    entry = {
        "fixed_effects": dict(zip(names, reference.fe_params, strict=True)),
        "random_names": names[random],
        "covariance": reference.cov_re,
        "residual_variance": reference.scale,
        "log_likelihood": reference.llf,
        "random_effects": [reference.random_effects[group] for group in range(3)],
    }
    told = differences(name, entry)
    assert all(abs(told[what]) < LME4[what] for what in LME4), told
    wrong = {**entry, "random_effects": 1.1 * np.array(entry["random_effects"])}
    assert differences(name, wrong)["random_effects"] > LME4["random_effects"]


@pytest.mark.skipif(sys.platform == "win32", reason="the script that stands for R is a shell's")
def test_r_is_run_where_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("lme4_reference.KEPT", tmp_path / "kept.json")
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / name))
    for script, expected in (
        ("echo '{\"made_by\": 1}'", {"made_by": 1}),
        ("exit 3", None),
        ("exit 1", RuntimeError),
    ):
        (tmp_path / "Rscript").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "Rscript").chmod(0o755)
        if expected is RuntimeError:
            with pytest.raises(RuntimeError, match="failed"):
                figures()
        else:
            assert figures() == expected


@pytest.mark.parametrize("name", ["sleepstudy", "Oxboys", "Orthodont", "Milk", "Exam"])
def test_reml_agrees_with_statsmodels(name):
    """No R is needed for it: MixedLM runs live. Where it stops short, ours is the better fit."""
    data = load(name)
    reference, random = by_statsmodels(data)
    model = MAMLRegressor(adaptation=REML, random_state=0)
    found = model.fit(data.X, data.y, groups=data.groups).learned_
    assert found.converged
    assert found.log_likelihood > reference.llf - 1e-4
    if found.singular:
        assert name == "Exam"
        return
    ours = found.covariance[np.ix_(random, random)]
    unit = np.sqrt(np.diagonal(ours))
    assert_allclose(found.log_likelihood, reference.llf, atol=1e-4)
    assert_allclose(ours / np.outer(unit, unit), reference.cov_re / np.outer(unit, unit), atol=2e-3)
    assert_allclose(found.residual_variance, reference.scale, rtol=2e-4)
    assert_allclose(found.fixed_effects, reference.fe_params, rtol=1e-4, atol=1e-4)


def test_a_direction_without_variance_is_an_answer():
    rng = np.random.default_rng(1)
    tasks = []
    for _ in range(50):
        X = rng.normal(size=(6, 2))
        tasks.append((X, X @ [1.0, 2.0] + rng.normal() + rng.normal(size=6)))  # slopes are the same
    found = MAMLRegressor(adaptation=REML, random_state=0).fit(tasks).learned_
    assert found.converged
    assert found.singular
    assert "singular" in str(found)


def test_reml_counts_weights_as_repetitions():
    tasks = mixed_tasks(12)
    rng = np.random.default_rng(3)
    weights = [rng.integers(1, 4, size=8) for _ in tasks]
    times = rng.integers(1, 3, size=12)
    model = MAMLRegressor(adaptation=REML, support="all")
    rows = [(X, y, w) for (X, y), w in zip(tasks, weights, strict=True)]
    weighted = model.fit(rows, sample_weight=times)
    repeated = clone(model).fit(
        [
            (np.repeat(X, w, axis=0), np.repeat(y, w))
            for (X, y), w, n in zip(tasks, weights, times, strict=True)
            for _ in range(n)
        ]
    )
    assert_allclose(weighted.learned_.covariance, repeated.learned_.covariance, rtol=1e-6)
    assert_allclose(theta_of(weighted), theta_of(repeated), rtol=1e-7)
    noise = [model.adaptation_.noise.variance for model in (weighted, repeated)]
    assert_allclose(*noise, rtol=1e-6)


# --------------------------------------------------------------------------------------------------
# Adaptation


def blup(model, covariance, noise, X, y):
    F = with_ones(X)
    gain = covariance @ F.T @ np.linalg.inv(F @ covariance @ F.T + noise * np.eye(len(y)))
    return theta_of(model) + gain @ (y - F @ theta_of(model)), covariance - gain @ F @ covariance


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_adapting_is_the_blup(rows):
    """In row space and in parameter space alike, with the standard deviations that go with it."""
    tasks = mixed_tasks()
    rule = clone(REML).set_params(doubt=None)  # the BLUP takes theta and Sigma for known
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    X, y = mixed_tasks(1, seed=9)[0]
    found = model.learned_
    adapted = model.adapt(X[:rows], y[:rows])
    expected, _ = blup(model, found.covariance, found.residual_variance, X[:rows], y[:rows])
    assert_allclose(theta_of(adapted), expected, rtol=1e-6)
    before, noise = model.adaptation_.noise.at(np.array([0, rows]))
    covariance = model.adaptation_.metric.covariance
    _, posterior = blup(model, covariance, 1.0, X[:rows], y[:rows])
    mean, std = adapted.predict(X, return_std=True)
    assert_allclose(mean, adapted.predict(X))
    spread = ((with_ones(X) @ posterior) * with_ones(X)).sum(axis=1)
    assert_allclose(std**2, noise * (1 + spread))
    _, std = model.predict(X, return_std=True)
    spread = ((with_ones(X) @ covariance) * with_ones(X)).sum(axis=1)
    assert_allclose(std**2, before * (1 + spread))


def test_adapting_agrees_with_the_random_effects_of_statsmodels():
    data = load("Oxboys")
    reference, _ = by_statsmodels(data)
    covariance = reference.cov_re / reference.scale
    model = MAMLRegressor(adaptation=Proximal(strength=1.0, metric=covariance))
    model.fit(data.X, data.y, groups=data.groups)
    model.coef_, model.intercept_ = reference.fe_params[:1], reference.fe_params[1]
    for group, effects in reference.random_effects.items():
        rows = data.groups == group
        adapted = model.adapt(data.X[rows], data.y[rows])
        assert_allclose(theta_of(adapted) - reference.fe_params, effects, rtol=1e-6)


@pytest.mark.parametrize("q", [0, 1, 3])
def test_pullback_is_the_derivative_of_adapt(q):
    rng = np.random.default_rng(q)
    rule = Proximal(2.0, Metric(rng.normal(size=(3, q))))
    weights = rng.uniform(size=(4, 5))
    weights[:, -1] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    risk = Risk(SquaredError(), rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5)), weights)
    theta, step = rng.normal(size=3), rng.normal(size=3)
    theta_i, pullback = rule.adapt(theta, risk)
    ahead, _ = rule.adapt(theta + step, risk)
    V = rng.normal(size=(4, 2, 3))
    moved = (V @ (ahead - theta_i)[..., None])[..., 0]
    assert_allclose(pullback(V) @ step, moved, atol=1e-12)
    assert_allclose(rule.spread(V), ((V @ rule.metric.factor) ** 2).sum(axis=-1) / 2)


@pytest.mark.parametrize("tasks", [(), (2,), (3, 2)])
def test_independent_effects_of_many_features_are_multiplied_by_their_few_entries(tasks):
    rng, d = np.random.default_rng(0), 150
    factor = np.diag(rng.uniform(size=d))[:, :-3]
    factor[-1] = rng.normal(size=d - 3)  # what centring moves
    V, U = rng.normal(size=(*tasks, 4, d)), rng.normal(size=(*tasks, 4, d - 3))
    metric = Metric(factor)
    assert metric.rows(V) == pytest.approx(V @ factor, rel=1e-12, abs=1e-12)
    assert metric.lift(U) == pytest.approx(U @ factor.T, rel=1e-12, abs=1e-12)
    assert metric.rows(V[..., 0, :]) == pytest.approx(V[..., 0, :] @ factor, rel=1e-12, abs=1e-12)


def test_weights_of_support_rows_are_repetitions():
    model = MAMLRegressor(adaptation=REML, random_state=0).fit(mixed_tasks())
    X, y = mixed_tasks(1, seed=5)[0]
    weights = np.array([1, 2, 0, 3, 1, 1, 0, 2])
    weighted = model.adapt(X, y, sample_weight=weights)
    repeated = model.adapt(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert_allclose(theta_of(weighted), theta_of(repeated), rtol=1e-9)
    assert_allclose(
        weighted.predict(X, return_std=True)[1], repeated.predict(X, return_std=True)[1], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("adaptation", "transform"),
    [
        ("learned", np.diag([1e-6, 1e4])),
        ("learned", np.array([[0.6, -0.8], [0.8, 0.6]])),
        (Proximal(metric="diagonal"), np.diag([1e-6, 1e4])),
        (Proximal(metric="intercept"), np.diag([1e-6, 1e4])),
        (Proximal(metric="identity"), np.diag([1e-6, 1e4])),
    ],
)
def test_units_and_rotations_leave_predictions_as_they_are(adaptation, transform):
    tasks = mixed_tasks(25)
    other = [(X @ transform + [[3e-6, 1e4]], y) for X, y in tasks]
    X, y = tasks[0]
    model = MAMLRegressor(adaptation=adaptation, random_state=0)
    expected = model.fit(tasks).adapt(X[:3], y[:3]).predict(X, return_std=True)
    moved = clone(model).fit(other).adapt(other[0][0][:3], y[:3])
    assert_allclose(moved.predict(other[0][0], return_std=True), expected, rtol=2e-4)


# --------------------------------------------------------------------------------------------------
# Learning on the query loss


def objective_of(tasks, rule, support=(1, 3), intercept=True):
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    codes = np.repeat(np.arange(len(tasks)), [len(y) for _, y in tasks])
    episodes = Episodes(support, "random", 3 if support != "all" else 1, seed=0)
    blocks = Blocks(Tasks.from_codes(y, codes), Features(X, intercept=intercept), episodes)
    return MetaObjective(blocks, SquaredError(), rule, np.zeros(X.shape[1] + intercept))


@pytest.mark.parametrize("kind", ["intercept", "diagonal", "full"])
def test_gradient_of_the_query_loss_in_the_metric(kind):
    """By the envelope theorem theta need not be differentiated: central differences agree."""
    objective = objective_of(mixed_tasks(15), Proximal(1.0, np.eye(3)))
    profile = Profile(objective, objective.blocks, LeastSquares())
    effects = random_effects_of(objective.blocks)
    x, make_metric, chain, _ = metric_coordinates(effects, kind, np.full(3, 0.7))
    x = x + 0.3 * np.sin(1.0 + np.arange(len(x)))
    at = lambda x: profile.value_and_slope(Proximal(1.0, make_metric(x)))  # noqa: E731
    gradient = chain(x, at(x)[1])
    for j, step in enumerate(1e-5 * np.eye(len(x))):
        assert_allclose((at(x + step)[0] - at(x - step)[0]) / 2e-5, gradient[j], rtol=1e-5)


@pytest.mark.parametrize("metric", ["intercept", "diagonal", "full"])
def test_a_learned_metric_beats_a_given_one_on_the_loss_it_minimises(metric):
    tasks = mixed_tasks(30)
    model = MAMLRegressor(support=[1, 3], random_state=0)
    plain = clone(model).set_params(adaptation=Proximal(metric="identity")).fit(tasks)
    rule = Proximal(metric=metric, criterion="query")
    learned = clone(model).set_params(adaptation=rule).fit(tasks)
    assert learned.meta_loss_ <= plain.meta_loss_ * (1 + 1e-6)
    assert learned.learned_.criterion == "query"
    assert learned.adaptation_.strength == 1.0


@pytest.mark.parametrize("metric", ["intercept", "diagonal"])
def test_reml_learns_structured_metrics_too(metric):
    tasks = mixed_tasks(60)
    rule = Proximal(strength=1.0, metric=metric, criterion="reml")
    found = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks).learned_
    full = MAMLRegressor(adaptation=REML, random_state=0).fit(tasks).learned_
    assert found.converged
    assert found.log_likelihood < full.log_likelihood


def test_strength_of_a_correct_model_is_about_one():
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(mixed_tasks(300))
    assert 0.7 < model.adaptation_.strength < 1.4
    assert_allclose(model.adaptation_.noise.variance, 0.25, rtol=0.1)


def test_without_query_rows_the_likelihood_alone_decides():
    model = MAMLRegressor(adaptation=Proximal(metric="full"), support="all").fit(mixed_tasks(20))
    assert model.adaptation_.strength == 1.0


def test_the_certificate_covers_theta_given_the_learned_rule():
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(mixed_tasks())
    assert model.gap_certificate_.bound < 1e-9 * model.meta_loss_
    assert any("learned" in what for what, _ in model.gap_certificate_.assumptions)


def test_fit_leaves_the_rule_alone_and_says_what_it_chose():
    rule = Proximal()
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(mixed_tasks())
    assert (rule.strength, rule.metric) == (None, "auto")
    assert model.learned_.metric == "full"
    assert model.learned_.criterion == "reml"
    assert "3 parameter(s)" in str(model.learned_)
    assert rule.learnable
    assert not model.adaptation_.learnable
    assert MAMLRegressor("auto").fit(mixed_tasks()).learned_ is None


def one_hot_tasks(n_tasks, factors=0, spread=0.0, m=12, c=16, seed=0):
    """Rows of one of c kinds; tasks differ in how they take them, along few directions or all."""
    rng = np.random.default_rng(seed)
    directions = factors and rng.normal(size=(c, factors))
    tasks = []
    for _ in range(n_tasks):
        X = np.eye(c)[rng.integers(c, size=m)]
        effects = spread * rng.normal(size=c) + rng.normal()
        if factors:
            effects = effects + directions @ rng.normal(size=factors)
        tasks.append((X, X @ effects + 0.3 * rng.normal(size=m)))
    return tasks


@pytest.mark.parametrize("d", [3, 20, 120])
def test_fewer_rows_than_parameters_are_learned_from_too(d):
    rng = np.random.default_rng(0)
    tasks = [(rng.normal(size=(3, d)), rng.normal() + rng.normal(size=3)) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the likelihood may have no maximum
        model = MAMLRegressor(adaptation="learned", support=[1], random_state=0).fit(tasks)
    assert np.isfinite(model.adapt(*tasks[0]).coef_).all()


def few_shot_error(model, tasks, k):
    adapted = [model.adapt(X[:k], y[:k]).predict(X[k:]) - y[k:] for X, y in tasks]
    return np.mean(np.square(adapted))


@pytest.mark.parametrize(
    ("factors", "spread", "kind"), [(2, 0.0, "low_rank"), (0, 0.3, "intercept")]
)
def test_many_effects_get_the_structure_that_predicts_held_out_tasks(factors, spread, kind):
    tasks = one_hot_tasks(110, factors, spread)
    train, test = tasks[:30], tasks[30:]
    model = MAMLRegressor(adaptation="learned", support=[2, 6], random_state=1).fit(train)
    found = model.learned_
    assert (found.metric, found.criterion) == (kind, "reml")
    assert (found.n_factors > 0) == (factors > 0)
    assert "17 parameter(s)" in found.reason
    assert "held-out tasks are predicted best" in found.reason
    rule = Proximal(metric="diagonal", criterion="reml")
    other = clone(model).set_params(adaptation=rule).fit(train)
    limit = 0.5 if factors else 1.0
    assert few_shot_error(model, test, 6) < limit * few_shot_error(other, test, 6)


def test_a_metric_of_low_rank_is_had_by_name():
    tasks = one_hot_tasks(60, factors=1, c=6)
    rule = Proximal(metric="low_rank")
    model = MAMLRegressor(adaptation=rule, support=[2, 6], random_state=0).fit(tasks)
    assert model.learned_.metric == "low_rank"
    assert model.learned_.n_factors == 1
    assert model.learned_.converged
    covariance = model.learned_.covariance
    assert np.linalg.eigvalsh(covariance)[-2:].min() > 0.1  # the factor, and the shift of all
    both = [(X, np.c_[y, -2 * y]) for X, y in tasks]
    twice = clone(model).fit(both)
    assert_allclose(twice.learned_.covariance, covariance, rtol=0.02, atol=0.02)


def test_a_column_that_only_some_tasks_have_does_not_stop_the_choice():
    tasks = one_hot_tasks(40, factors=1, c=6)
    tasks[0] = (np.c_[tasks[0][0], np.ones(12)], tasks[0][1])
    tasks[0][0][::2, -1] = 0.0
    tasks[1:] = [(np.c_[X, np.zeros(12)], y) for X, y in tasks[1:]]
    rule = Proximal(metric="low_rank")
    model = MAMLRegressor(adaptation=rule, support=[2, 6], random_state=0).fit(tasks)
    assert np.isfinite(theta_of(model)).all()
    assert np.isfinite(model.learned_.log_likelihood)


def test_features_that_are_constant_within_tasks_are_not_adapted():
    rng = np.random.default_rng(0)
    tasks = [(np.c_[X, np.full(len(X), rng.normal())], y) for X, y in mixed_tasks(20)]
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(tasks)
    assert model.learned_.varies.tolist() == [True, True, False, True]
    adapted = model.adapt(*tasks[0])
    assert adapted.coef_[2] == model.coef_[2]
    own = MAMLRegressor(adaptation="learned", fit_intercept=False, random_state=0)
    own.fit([(with_ones(X), y) for X, y in tasks])
    assert own.learned_.varies.tolist() == [True, True, False, True]


def test_collinear_features_do_no_harm():
    tasks = mixed_tasks(20)
    twice = [(np.c_[X, X[:, 0]], y) for X, y in tasks]
    model = MAMLRegressor(adaptation="learned", random_state=0)
    X, y = tasks[0]
    expected = model.fit(tasks).adapt(X[:3], y[:3]).predict(X)
    found = clone(model).fit(twice).adapt(twice[0][0][:3], y[:3]).predict(twice[0][0])
    assert_allclose(found, expected, rtol=1e-4)


def test_mixed_shots_use_tasks_of_a_single_row():
    tasks = mixed_tasks(20)
    single = [(X[:1], y[:1]) for X, y in mixed_tasks(5, seed=3)]
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(tasks + single)
    assert np.isfinite(theta_of(model)).all()
    with pytest.warns(SingleTaskWarning, match="15 tasks of one row each"):
        only = MAMLRegressor(adaptation="learned", random_state=0).fit(single * 3)
    assert np.isfinite(theta_of(only)).all()
    assert "tasks of one row do not show how tasks differ" in str(only.learned_)


def test_first_rows_as_support_and_several_targets():
    tasks = [(X, np.c_[y, 2 * y]) for X, y in mixed_tasks(20)]
    model = MAMLRegressor(adaptation="learned", split="first").fit(tasks)
    one = MAMLRegressor(adaptation="learned", split="first").fit(mixed_tasks(20))
    X, y = tasks[0]
    mean, std = model.adapt(X[:3], y[:3]).predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape
    assert_allclose(mean, one.adapt(X[:3], y[:3, 0]).predict(X)[:, None] * [1, 2], rtol=1e-3)
    assert_allclose(std[:, 1], 2 * std[:, 0], rtol=1e-3)


def test_the_variance_of_a_feature_of_first_rows_only_does_not_run_away():
    """Query rows hardly show it: the likelihood of all rows holds it where it is."""
    rng = np.random.default_rng(0)
    X = np.c_[np.arange(12) / 12, np.arange(12) == 0]
    effects = rng.normal(size=(60, 3))
    tasks = [(X, X @ e[:2] + e[2] + 0.3 * rng.normal(size=12)) for e in effects]
    rule = Proximal(metric="diagonal")
    found = MAMLRegressor(adaptation=rule, split="first", support=[1, 3]).fit(tasks)
    deviation = 0.3 * np.sqrt(np.diagonal(found.adaptation_.metric.covariance))
    assert_allclose(deviation[:2], 1.0, rtol=0.7)


@pytest.mark.parametrize("adaptation", ["learned", GradientSteps("learn")])
def test_a_feature_of_first_rows_only_is_learned_of_their_residuals(adaptation):
    """It is 0 in all query rows with ``split="first"``, but not in the rows adapted to."""
    rng = np.random.default_rng(0)
    X = np.c_[np.arange(12) / 12, np.arange(12) == 0]
    tasks = [
        (X, X @ [1 + rng.normal(), 2.0] + rng.normal() + 0.1 * rng.normal(size=12))
        for _ in range(60)
    ]
    model = MAMLRegressor(adaptation=adaptation, split="first", support=[1, 3]).fit(tasks)
    assert_allclose(model.coef_, [1.0, 2.0], atol=0.5)


def test_intervals_cover_what_they_promise():
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(mixed_tasks(100))
    inside = []
    for X, y in mixed_tasks(200, seed=0)[100:]:
        mean, std = model.adapt(X[:3], y[:3]).predict(X[3:], return_std=True)
        inside.extend(np.abs(y[3:] - mean) < 1.645 * std)
    assert 0.86 < np.mean(inside) < 0.94


def test_noise_is_known_between_and_beyond_the_numbers_of_shots():
    noise = Noise(np.array([1, 3, 10]), np.array([2.0, 4.0, 18.0]))
    assert_allclose(noise.at(np.array([0, 1, 2, 3, 5, 10, 99])), [2, 2, 3, 4, 8, 18, 18])
    both = Noise(noise.shots, np.c_[noise.variance, 10 * noise.variance])
    assert_allclose(both.at(np.array([2, 99])), [[3, 30], [18, 180]])
    assert_allclose(Noise(np.ones(1), np.array([0.5])).at(np.array([0, 7])), 0.5)


def bent(n_tasks, bend=4.0, seed=0, d=1):
    """Curves that lines are to follow: after k first rows another line fits what is left."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 12)
    X = np.stack([x, np.cos(7 * x)][:d], axis=1)
    level, slope = rng.normal(size=(2, n_tasks, 1))
    y = level + (1 + slope) * x - bend * x**2 + 0.1 * rng.normal(size=(n_tasks, 12))
    return [(X, row) for row in y]


def test_first_rows_have_a_starting_point_for_each_number_of_them():
    """With enough tasks it is the theta of a fit with that number of support rows alone."""
    tasks = bent(400)
    model = MAMLRegressor(adaptation="learned", split="first", support=[1, 4, 8]).fit(tasks)
    rule = model.adaptation_
    assert rule.starts.shots.tolist() == [0, 1, 4, 8]
    assert model.learned_.starts == (1, 4, 8)
    assert "after 1, 4, 8 first row(s)" in str(model.learned_)
    assert not rule.starts.shift[0].any()
    plain = Proximal(rule.strength, rule.metric)
    for k, shift in zip((1, 4, 8), rule.starts.shift[1:], strict=True):
        alone = MAMLRegressor(adaptation=plain, split="first", support=k).fit(tasks)
        assert_allclose(theta_of(model) + shift, theta_of(alone), rtol=0.02, atol=0.02)
    without = clone(model).set_params(adaptation=Proximal(starts=None)).fit(tasks)
    assert model.meta_loss_ < 0.8 * without.meta_loss_
    assert model.gap_certificate_.bound < 1e-9 * model.meta_loss_
    held_out = bent(100, seed=1)
    for k in (1, 4, 6, 8):
        assert few_shot_error(model, held_out, k) < few_shot_error(without, held_out, k)


def test_straight_curves_all_start_from_theta():
    model = MAMLRegressor(adaptation="learned", split="first", support=[1, 4])
    assert model.fit(bent(60, bend=0.0)).adaptation_.starts is None
    assert model.learned_.starts == ()
    model.set_params(split="random", random_state=0)
    assert model.fit(bent(60)).adaptation_.starts is None


def test_starting_points_of_several_targets_and_of_many_tasks_at_once():
    tasks = bent(50, d=2)
    both = [(X, np.c_[y, -2 * y]) for X, y in tasks]
    model = MAMLRegressor(adaptation="learned", split="first", support=[2, 6])
    one = clone(model).fit(tasks)
    two = model.fit(both)
    X, y = both[0]
    assert two.adaptation_.starts.shift.shape == (3, 2, 3)
    for k in (1, 2, 4, 6, 12):
        expected = one.adapt(X[:k], y[:k, 0]).predict(X)
        found = two.adapt(X[:k], y[:k]).predict(X)
        assert_allclose(found, expected[:, None] * [1, -2], rtol=1e-3, atol=1e-3)
        many = two.adapt_tasks([(X[:k], y[:k])]).predict(X, groups=[0] * len(X))
        assert_allclose(many, found, rtol=1e-9)


def test_shifts_lie_between_those_of_the_numbers_of_shots():
    starts = Starts(np.array([0, 2, 4]), np.array([[0.0, 0], [2, 4], [6, 0]]))
    assert_allclose(starts.at(np.array([0, 1, 3, 9])), [[0, 0], [1, 2], [4, 2], [6, 0]])
    assert_allclose(starts.at(3), [4, 2])
    rule = Proximal(2.0, np.zeros(2), starts=starts)  # tasks stay where they start
    model = MAMLRegressor(adaptation=rule).fit([(np.ones((4, 1)), np.arange(4.0))] * 3)
    adapted = model.adapt(np.ones((2, 1)), np.zeros(2))
    assert_allclose(theta_of(adapted) - theta_of(model), [2, 4])


def drifting(n_tasks, seed):
    """Constant tasks whose rows scatter the more the later they are."""
    rng = np.random.default_rng(seed)
    scatter = np.linspace(0.2, 3.0, 12)
    X = np.tile(np.linspace(-1, 1, 12)[:, None], (n_tasks, 1, 1))
    y = rng.normal(size=(n_tasks, 1)) + scatter * rng.normal(size=(n_tasks, 12))
    return list(zip(X, y, strict=True))


def test_intervals_of_later_rows_cover_what_they_promise():
    """Variances after the first k rows are those of the rows after these, whatever k is."""
    rule = Proximal(1.0, metric=[0.0, 1e-6])  # tasks stay where they are: all is noise
    support = [10, 1, 5]
    model = MAMLRegressor(adaptation=rule, split="first", support=support).fit(drifting(400, 0))
    noise = model.adaptation_.noise
    assert noise.shots.tolist() == [1, 5, 10]
    y = np.stack([y for _, y in drifting(400, 0)]) - model.predict(drifting(1, 0)[0][0])
    assert_allclose(noise.variance, [np.mean(y[:, k:] ** 2) for k in (1, 5, 10)], rtol=1e-3)
    for k in (1, 5, 10):
        inside = []
        for X, y in drifting(400, 1):
            mean, std = model.adapt(X[:k], y[:k]).predict(X[k:], return_std=True)
            inside.extend(np.abs(y[k:] - mean) < 1.645 * std)
        assert 0.87 < np.mean(inside) < 0.94


def test_few_tasks_share_one_noise():
    tasks = drifting(30, 0)
    long = [(X[:4], y[:4]) for X, y in tasks[9:]]
    model = MAMLRegressor(adaptation=Proximal(metric="full"), split="first", support=[1, 3, 5])
    assert model.fit(tasks[:9] + long).adaptation_.noise.shots.tolist() == [1, 3]
    assert model.fit(tasks[:10] + long).adaptation_.noise.shots.tolist() == [1, 3, 5]
    assert model.fit(tasks[:9]).adaptation_.noise.variance.shape == (1,)
    tenth = [(*task, 0.0) for task in tasks[9:10]]  # that weighs nothing
    assert model.fit([*tasks[:9], *tenth, *long]).adaptation_.noise.shots.tolist() == [1, 3]


def test_starts_are_learned_where_ten_tasks_have_rows_left():
    """Nine of four rows and one of two for certain; the others weigh something, or nothing."""
    rng = np.random.default_rng(0)

    def shots(weight, n_features=2, support=(1, 3, 4)):
        sizes, weights = np.array([4] * 10 + [2]), np.r_[np.ones(9), weight, 1.0]
        X = rng.normal(size=(sizes.sum(), n_features))
        tasks = Tasks.from_codes(X[:, 0], np.repeat(np.arange(11), sizes), None, weights)
        blocks = Blocks(tasks, Features(X), Episodes(support=support, split="first"))
        objective = MetaObjective(blocks, SquaredError(), None, np.zeros(n_features + 1))
        return shots_of_starts(objective).tolist()

    assert shots(1.0) == [1, 3]
    assert shots(0.0) == [1]
    assert shots(1.0, n_features=99) == [1, 3]
    assert shots(1.0, n_features=100) == []
    assert shots(1.0, support=1) == []


def test_a_sample_of_many_tasks_gives_strength_and_noise(monkeypatch):
    tasks = mixed_tasks(200)
    whole = MAMLRegressor(adaptation="learned", random_state=1).fit(tasks)
    monkeypatch.setattr("sklearn_maml._learning.variable_projection.TASKS_FOR_SCALE", 100)
    monkeypatch.setattr("sklearn_maml._learning.noise.TASKS_FOR_NOISE", 100)
    monkeypatch.setattr(
        "sklearn_maml._learning.variable_projection.WORK", 9 * 100
    )  # of 200 tasks * 5 draws * rows
    part = MAMLRegressor(adaptation="learned", random_state=1).fit(tasks)
    assert part.adaptation_.strength != whole.adaptation_.strength
    assert_allclose(part.adaptation_.strength, whole.adaptation_.strength, rtol=0.6)  # 100 tasks
    noise = [model.adaptation_.noise.variance for model in (part, whole)]
    assert_allclose(*noise, rtol=0.2)


@pytest.mark.parametrize("n_rare", [0, 3])
def test_of_very_many_tasks_a_few_tell_only_where_to_start(n_rare, monkeypatch):
    """Also where these few lack columns that others have."""
    tasks, rng = mixed_tasks(120), np.random.default_rng(0)
    for i, (X, y) in enumerate(tasks):
        tasks[i] = np.column_stack([X, (i < 2) * rng.normal(size=(len(X), n_rare))]), y
    rule = Proximal(metric="diagonal", criterion="reml", random_effects=[0])
    whole = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    monkeypatch.setattr("sklearn_maml._learning.random_effects.MANY_TASKS", 100)
    part = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    assert part.learned_.log_likelihood == pytest.approx(whole.learned_.log_likelihood, abs=1e-6)
    assert part.learned_.newton_decrement < 1e-6


def test_nothing_is_learned_where_all_is_given():
    rule = Proximal(2.0, metric=[1.0, 4.0, 9.0], noise=0.5)
    model = MAMLRegressor(adaptation=rule).fit(mixed_tasks(5))
    assert model.adaptation_.noise == 0.5
    assert model.learned_.criterion is None
    assert not rule.learnable
    full = MAMLRegressor(adaptation=Proximal(2.0, metric=np.diag([1.0, 4.0, 9.0])))
    X, y = mixed_tasks(1, seed=2)[0]
    expected = full.fit(mixed_tasks(5)).adapt(X[:2], y[:2])
    assert_allclose(theta_of(model.adapt(X[:2], y[:2])), theta_of(expected), rtol=1e-12)


def test_targets_without_noise_are_met():
    """The likelihood grows without bound there; the fit stops and predicts, whatever it says."""
    tasks = mixed_tasks(30, size=6, noise=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it converges is left to rounding
        model = MAMLRegressor(adaptation="learned", random_state=0).fit(tasks)
    X, y = mixed_tasks(1, seed=0, noise=0.0)[0]
    assert_allclose(model.adapt(X[:3], y[:3]).predict(X), y, atol=1e-3)


def hard_problem(seed):
    """Few tasks of few rows, with effects of all sizes, some without variance."""
    rng = np.random.default_rng(seed)
    q, n_tasks = rng.integers(1, 6), rng.integers(6, 40)
    root = np.tril(rng.normal(size=(q, q))) * 10 ** rng.uniform(-3, 1.5, size=q)[:, None]
    root[:, rng.integers(q)] *= rng.random() < 0.5
    groups = np.repeat(np.arange(n_tasks), rng.integers(2, 12, size=n_tasks))
    X = rng.normal(size=(len(groups), q + 1)) + rng.choice([0.0, 3.0])
    X[:, 0] = 1.0
    effects = (rng.normal(size=(n_tasks, q)) @ root.T)[groups]
    y = X.sum(axis=1) + (X[:, :q] * effects).sum(axis=1) + rng.normal(size=len(groups))
    return moments_of(X, X[:, :q], y[:, None], groups), q


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_reml_is_never_beaten_by_a_search_without_derivatives_of_ours(kind):
    """Sixty hard problems: BFGS with numerical derivatives, from where it ends and from elsewhere.

    A Fisher scoring alone stops short on one in ten of them.
    """
    for seed in range(12):
        moments, q = hard_problem(seed)
        structure = Structure.full(q) if kind == "full" else Structure.diagonal(np.arange(q))

        def value(x, moments=moments, structure=structure):
            factor = structure.factor(x)
            return likelihood(moments, factor @ factor.T).value

        found = fit_reml(moments, structure)
        assert found.converged, seed
        start = np.full(structure.which.max() + 1, 0.3)
        other = minimize(value, start, method="BFGS", options={"maxiter": 40})
        assert found.log_likelihood > -0.5 * other.fun - 1e-4, seed


@pytest.mark.parametrize("seed", range(3))
def test_many_effects_are_eliminated_like_few(seed, monkeypatch):
    moments, q = hard_problem(seed)
    few = likelihood(moments, np.eye(q), "full")
    monkeypatch.setattr("sklearn_maml._learning.likelihood.FEW", 0)
    many = likelihood(moments, np.eye(q), "full")
    for name in ("value", "gradient", "information", "fixed", "noise"):
        assert_allclose(getattr(many, name), getattr(few, name), rtol=1e-9, atol=1e-9)


def test_targets_without_noise_end_where_numbers_do():
    """Two effects and two rows a task: the likelihood grows without bound, and overflow ends it."""
    rng = np.random.default_rng(0)
    X = with_ones(rng.normal(size=(20, 1)))
    groups = np.repeat(np.arange(10), 2)
    y = (X * rng.normal(size=(10, 2))[groups]).sum(axis=1, keepdims=True)
    moments = moments_of(X, X, y, groups)
    diagonal = fit_reml(moments, Structure.diagonal([0, 1]))
    for found in (
        diagonal,
        fit_reml(moments, Structure.full(2)),
        fit_low_rank(moments, 1, diagonal),
    ):
        assert np.isfinite(found.log_likelihood)
        assert np.isfinite(found.relative).all()


@pytest.mark.parametrize("lost", [[2], range(2, 18), range(2, 10**6)])
def test_a_likelihood_lost_to_rounding_rejects_the_step(lost, monkeypatch):
    """By scoring, then by L-BFGS, and where nothing but the start can be evaluated."""
    calls = []

    def brittle(moments, relative, *information):
        calls.append(relative)
        if len(calls) in lost and not np.allclose(relative, np.eye(2)):
            raise np.linalg.LinAlgError("not positive definite")
        return likelihood(moments, relative, *information)

    moments = moments_of(*example())
    expected = fit_reml(moments, Structure.full(2))
    monkeypatch.setattr("sklearn_maml._learning.reml.likelihood", brittle)
    found = fit_reml(moments, Structure.full(2))
    assert found.converged == (len(lost) < 100)
    where = expected.relative if found.converged else np.eye(2)
    assert_allclose(found.relative, where, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("q", [2, 3])
def test_a_diagonal_and_q_less_one_factors_are_any_covariance(q):
    rng = np.random.default_rng(q)
    X = rng.normal(size=(120, q + 1))
    groups = np.repeat(np.arange(20), 6)
    root = np.tril(np.ones((q, q)))
    y = (X[:, :q] * (rng.normal(size=(20, q)) @ root.T)[groups]).sum(axis=1) + rng.normal(size=120)
    moments = moments_of(X, X[:, :q], y[:, None], groups)
    diagonal, full = (
        fit_reml(moments, Structure.diagonal(range(q))),
        fit_reml(moments, Structure.full(q)),
    )
    found = fit_low_rank(moments, q - 1, diagonal)
    assert found.converged
    assert_allclose(found.log_likelihood, full.log_likelihood, atol=1e-5)
    assert diagonal.log_likelihood < full.log_likelihood - 0.1
    assert_allclose(found.relative, full.relative, rtol=0.01, atol=0.01)


def flat(tasks):
    """Rows, targets and labels "0", "1", ... of some tasks, shuffled."""
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    groups = np.repeat([str(i) for i in range(len(tasks))], [len(y) for _, y in tasks])
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], y[order], groups[order]


@pytest.mark.parametrize("n_targets", [None, 2])
@pytest.mark.parametrize("rule", ["learned", Proximal(metric="diagonal")])
def test_rows_of_many_tasks_are_as_sure_as_adapting_to_each_makes_them(rule, n_targets):
    """Known tasks of a fit, adapted tasks, and one that was never seen, all in one call."""
    tasks = [(X[: 3 + i % 6], y[: 3 + i % 6]) for i, (X, y) in enumerate(mixed_tasks(12))]
    if n_targets:
        tasks = [(X, np.c_[y, y**2]) for X, y in tasks]
    X, y, groups = flat(tasks)
    weight = np.random.default_rng(1).integers(1, 4, size=len(y))
    model = MAMLRegressor(adaptation=rule, random_state=0)
    model.fit(X, y, groups=groups, sample_weight=weight)
    others = model.adapt_tasks(X, y, groups=groups, sample_weight=weight)
    rows = np.random.default_rng(2).normal(size=(26, 2))
    labels = np.array([*map(str, range(12)), "new"] * 2)
    fitted = model.predict(rows, groups=labels, return_std=True)
    adapted = others.predict(rows, groups=labels, return_std=True)
    assert_allclose(fitted, adapted, rtol=1e-12)
    for label in np.unique(labels):
        own, seen = labels == label, groups == label
        alone, again = model, model
        if label != "new":
            alone = model.adapt(X[seen], y[seen], sample_weight=weight[seen])
            again = others[label]
        expected = alone.predict(rows[own], return_std=True)
        assert_allclose(again.predict(rows[own], return_std=True), expected, rtol=1e-9)
        assert_allclose([part[own] for part in fitted], expected, rtol=1e-9)


def test_standard_deviations_are_those_of_a_gaussian_process():
    X, y, groups = flat(mixed_tasks(15))
    model = MAMLRegressor(adaptation=Proximal(doubt=None), random_state=0)
    model.fit(X, y, groups=groups)
    rule, rows = model.adaptation_, mixed_tasks(1, seed=4)[0][0]
    linear = lambda X: with_ones(X) @ rule.metric.factor  # noqa: E731
    for label in ("3", "7"):
        seen = groups == label
        prior = DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
        process = GaussianProcessRegressor(prior, alpha=rule.strength, optimizer=None)
        process.fit(linear(X[seen]), y[seen] - model.predict(X[seen]))
        shift, spread = process.predict(linear(rows), return_std=True)
        mean, std = model.predict(rows, groups=[label] * len(rows), return_std=True)
        assert_allclose(mean, model.predict(rows) + shift, rtol=1e-8)
        noise = rule.noise.at(seen.sum())
        assert_allclose(std**2, noise * (1 + spread**2 / rule.strength), rtol=1e-8)


def test_a_task_column_names_the_task_for_standard_deviations():
    X, y, groups = flat(mixed_tasks(10))
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(X, y, groups=groups)
    labelled = np.c_[X, groups.astype(float)]
    column = clone(model).set_params(task_column=2).fit(labelled, y)
    expected = model.predict(X, groups=groups, return_std=True)
    assert_allclose(column.predict(labelled, return_std=True), expected, rtol=1e-9)
    adapted = adapt_tasks(
        make_pipeline(FunctionTransformer(), column).fit(labelled, y), labelled, y
    )
    assert_allclose(adapted.predict(labelled, return_std=True), expected, rtol=1e-9)


def test_what_would_fill_memory_is_not_kept(monkeypatch):
    X, y, groups = flat(mixed_tasks(10))
    monkeypatch.setattr("sklearn_maml._objective.meta_objective.KEPT_INFORMATION", 10 * 3**2 - 1)
    model = MAMLRegressor(adaptation="learned", random_state=0).fit(X, y, groups=groups)
    adapted = model.adapt_tasks(X, y, groups=groups)
    assert_allclose(adapted.predict(X, groups=groups), model.predict(X, groups=groups))
    for ask in (model.predict, adapted.predict):
        with pytest.raises(ValueError, match=r"3 parameters .* 128 MiB"):
            ask(X, groups=groups, return_std=True)
    with pytest.raises(ValueError, match="128 MiB"):
        adapted["0"].predict(X, return_std=True)
    one = groups == "0"
    few = model.adapt_tasks(X[one], y[one], groups=groups[one])
    alone = model.adapt(X[one], y[one]).predict(X, return_std=True)
    assert_allclose(few["0"].predict(X, return_std=True), alone)


# --------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (Proximal(strength=0.0), ValueError, "strength must be a finite number > 0"),
        (Proximal(strength="1"), TypeError, "strength must be a finite number > 0"),
        (Proximal(noise=-2.0), ValueError, "noise must be positive"),
        (Proximal(noise="a"), TypeError, "noise must be a number or one a target"),
        (Proximal(noise=np.ones(3)), ValueError, "noise has 3 variances but there are 1 target"),
        (Proximal(criterion="ml"), ValueError, "criterion must be"),
        (Proximal(metric="diag"), ValueError, "metric must be an array or one of"),
        (Proximal(metric="identity", criterion="reml"), ValueError, "has no effect"),
        (Proximal(criterion="query"), ValueError, "needs a metric to learn"),
        (Proximal(metric=np.eye(2)), ValueError, "shape"),
        (Proximal(metric=np.full((3, 3), np.nan)), ValueError, "finite"),
        (Proximal(metric=np.diag([1.0, -1.0, 1.0])), ValueError, "positive semi-definite"),
        (Proximal(metric=Metric(np.eye(4))), ValueError, "for 4 parameters"),
        (
            Proximal(random_effects=["a"]),
            ValueError,
            r"names \['a'\], but the features have no names",
        ),
        (
            Proximal(random_effects="a"),
            ValueError,
            r"names \['a'\], but the features have no names",
        ),
        (Proximal(random_effects=[2]), ValueError, r"random_effects=\[2\] is out of range"),
        (Proximal(random_effects=[0.5]), TypeError, "random_effects must be 'intercept', or names"),
        (Proximal(random_effects=[True]), ValueError, "one entry for each of the 2 features"),
        (
            Proximal(metric=np.eye(3), random_effects=[0]),
            ValueError,
            "no effect with a metric that",
        ),
        (Proximal(starts="yes"), ValueError, "starts must be 'auto' or None; got 'yes'"),
        (Proximal(metric="low_rank", criterion="query"), ValueError, "is learned by REML"),
        (Proximal(metric=["a", "b", "c"]), TypeError, "an array of numbers or a name"),
        (GradientSteps("learned"), TypeError, "one a parameter, or 'learn'"),
        (GradientSteps("learn", relative=True), ValueError, "needs relative=False"),
        (GradientSteps("learn", n_steps=0), ValueError, "n_steps >= 1"),
        ("nearest", ValueError, "adaptation='nearest' is not known"),
    ],
)
def test_bad_rules_are_refused(rule, error, message):
    with pytest.raises(error, match=message):
        MAMLRegressor(adaptation=rule).fit(mixed_tasks(5))


def test_without_an_intercept_something_else_must_differ():
    rule = Proximal(random_effects="intercept")
    with pytest.raises(ValueError, match="leaves nothing that could differ"):
        MAMLRegressor(adaptation=rule, fit_intercept=False).fit(mixed_tasks(5))


@pytest.mark.parametrize(
    "rule",
    [
        Proximal(metric="identity"),
        Proximal(metric="diagonal"),
        Proximal(metric="low_rank"),
        GradientSteps("learn"),
    ],
)
def test_learning_on_the_query_loss_needs_query_rows(rule):
    with pytest.raises(ValueError, match="support='all' leaves no query rows"):
        MAMLRegressor(adaptation=rule, support="all").fit(mixed_tasks(5))


@pytest.mark.parametrize("adaptation", ["learned", GradientSteps("learn")])
def test_one_task_shows_no_difference_between_tasks(adaptation):
    X, y = mixed_tasks(1)[0]
    with pytest.warns(SingleTaskWarning, match="does not show how tasks differ"):
        model = MAMLRegressor(adaptation=adaptation, random_state=0).fit(X, y)
    assert "one task" in str(model.learned_)
    with pytest.warns(SingleTaskWarning, match="one task"):
        adapted = model.adapt(X[:2], y[:2])
    assert_allclose(adapted.predict(X), model.predict(X))
    if adaptation == "learned":
        _, std = adapted.predict(X, return_std=True)
        rows = with_ones(X)
        leverage = ((rows @ np.linalg.inv(rows.T @ rows)) * rows).sum(axis=1)
        residuals = y - model.predict(X)
        noise = (residuals**2).sum() / (len(y) - rows.shape[1])  # as of least squares
        assert_allclose(std**2, noise * (1 + leverage))


@pytest.mark.parametrize("strength", [2.0, None])
def test_a_given_metric_is_used_even_with_one_task(strength):
    X, y = mixed_tasks(1)[0]
    given = Proximal(strength, np.diag([1.0, 25.0, 4.0]))
    model = MAMLRegressor(adaptation=given, random_state=0).fit([(X, y)])
    moved = model.adapt(X, y + 100)
    gram = with_ones(X).T @ with_ones(X)
    prior = (strength or 1.0) * np.diag([1.0, 1 / 25, 1 / 4])
    pull = with_ones(X).T @ (y + 100 - with_ones(X) @ theta_of(model))
    assert_allclose(theta_of(moved) - theta_of(model), np.linalg.solve(gram + prior, pull))


def test_classes_have_no_standard_deviations():
    tasks = [(X, y > np.median(y)) for X, y in mixed_tasks(20)]
    for rule in ("learned", None):
        model = MAMLClassifier(adaptation=rule, support=[2, 4], random_state=0).fit(tasks)
        with pytest.raises(ValueError, match=r"return_std=True is for the squared error.*LogLoss"):
            model.adapt_tasks(tasks).predict(tasks[0][0], groups=[0] * 8, return_std=True)


def test_return_std_needs_a_rule_that_knows():
    X, y = mixed_tasks(1)[0]
    model = MAMLRegressor(adaptation=GradientSteps(0.1)).fit([(X, y)])
    labelled = clone(model).fit(X, y, groups=np.arange(len(y)))
    for ask in (
        lambda: model.predict(X, return_std=True),
        lambda: model.adapt(X, y).predict(X, return_std=True),
        lambda: labelled.predict(X, groups=np.arange(len(y)), return_std=True),
        lambda: model.adapt_tasks([(X, y)]).predict(X, groups=[0] * len(y), return_std=True),
    ):
        with pytest.raises(ValueError, match="GradientSteps does not"):
            ask()


def test_a_rule_that_is_not_learned_does_not_adapt():
    risk = Risk(SquaredError(), np.eye(2), np.ones(2), np.full(2, 0.5))
    for rule in (Proximal(), GradientSteps("learn")):
        with pytest.raises(ValueError, match="not learned yet"):
            rule.adapt(np.zeros(2), risk)
    with pytest.raises(NotFittedError):
        MAMLRegressor(adaptation="learned").predict(np.eye(2), return_std=True)


def test_a_likelihood_that_is_not_maximised_is_reported(monkeypatch):
    def stop(*arguments, **options):
        return replace(fit_reml(*arguments), n_iter=7, converged=False)

    monkeypatch.setattr("sklearn_maml._learning.random_effects.fit_reml", stop)
    with pytest.warns(ConvergenceWarning, match="did not converge in 7 iterations"):
        MAMLRegressor(adaptation=REML, random_state=0).fit(mixed_tasks())


# --------------------------------------------------------------------------------------------------
# Other losses, and other rules


def few_shot_tasks(loss, n_tasks=60, m=14, seed=0):
    """Tasks that differ in one slope only, with the targets of a loss."""
    rng = np.random.default_rng(seed)
    tasks = []
    for _ in range(n_tasks):
        X = rng.normal(size=(m, 3))
        z = X @ [1.0, 0.5, 2 * rng.normal()] + 0.5
        if loss == "log_loss":
            y = (rng.random(m) < 1 / (1 + np.exp(-2 * z))).astype(float)
        elif loss == "poisson":
            y = rng.poisson(np.exp(0.5 * z)).astype(float)
        else:
            y = z + 0.3 * rng.standard_t(3, size=m)
        tasks.append((X, y))
    return tasks


def query_loss(model, tasks, k=8):
    """The mean loss of each task's rows after the first k, adapted to these."""
    losses = []
    for X, y in tasks:
        adapted = model.adapt(X[:k], y[:k])
        z = X[k:] @ adapted.coef_ + adapted.intercept_
        losses.append(LOSSES[model.loss]().value(y[k:], z).mean())
    return np.mean(losses)


@pytest.mark.parametrize("loss", ["squared_error", "pseudo_huber", "poisson", "log_loss"])
def test_learned_rules_adapt_better_than_untuned_ones_whatever_the_loss(loss):
    tasks, new = few_shot_tasks(loss), few_shot_tasks(loss, seed=1)
    model = MAMLRegressor(loss=loss, support=[3, 8], random_state=0)
    rules = [GradientSteps("learn", n_steps=2), Proximal(metric="diagonal")]
    fits = [clone(model).set_params(inner_lr="auto").fit(tasks)]
    fits += [clone(model).set_params(adaptation=rule).fit(tasks) for rule in rules]
    untuned, steps, proximal = (query_loss(fit, new) for fit in fits)
    assert steps < untuned
    assert proximal < untuned
    lengths, metric = fits[1].inner_lr_, np.diagonal(fits[2].adaptation_.metric.covariance)
    assert lengths[2] > 3 * max(lengths[:2])  # it is the third slope that differs
    assert metric[2] > 3 * max(metric[:2])


@pytest.mark.parametrize("loss", ["pseudo_huber", "log_loss"])
def test_auto_learns_a_covariance_of_working_responses_for_other_losses_and_says_why(loss):
    model = MAMLRegressor(loss=loss, adaptation="learned", support=[2, 5], random_state=0)
    model.fit(few_shot_tasks(loss, 30))
    assert (model.learned_.metric, model.learned_.criterion) == ("full", "reml")
    assert "working responses" in str(model.learned_)
    assert model.gap_certificate_.bound < model.meta_loss_
    with pytest.raises(ValueError, match="return_std=True is for the squared error"):
        model.predict(np.zeros((1, 3)), return_std=True)
    with pytest.raises(ValueError, match="no variance of the noise"):
        model.adaptation_.uncertainty(4)
    with pytest.raises(ValueError, match="no effect with"):
        model.set_params(adaptation=Proximal(noise=1.0)).fit(few_shot_tasks(loss, 30))


def test_learned_lengths_leave_a_smaller_meta_loss_than_any_one_length():
    tasks = mixed_tasks(40)
    model = MAMLRegressor(support=[1, 3], random_state=0)
    rule = GradientSteps("learn", cap=False)
    learned = clone(model).set_params(adaptation=rule).fit(tasks)
    standard = learned.adaptation_.coordinates
    for length in np.geomspace(1e-4, 10, 30):
        rule = GradientSteps(length, cap=False, coordinates=standard)
        one = MetaObjective(*objective_parts(learned, tasks, rule))
        theta = LeastSquares().minimize(one, one.origin()).theta
        assert learned.meta_loss_ <= one.value_and_gradient(theta)[0] * (1 + 1e-9)


def objective_parts(model, tasks, rule):
    objective = objective_on(model, tasks, None, None, None, model._episodes, rule)
    return objective.blocks, objective.loss, objective.rule, objective.penalty


def test_learned_lengths_do_not_depend_on_the_units_of_features():
    tasks, scale = mixed_tasks(25), np.array([1e-6, 1e4])
    other = [(X * scale + [3e-6, 1e4], y) for X, y in tasks]
    X, y = tasks[0]
    model = MAMLRegressor(adaptation=GradientSteps("learn", n_steps=2), random_state=0)
    expected = model.fit(tasks).adapt(X[:3], y[:3]).predict(X)
    moved = clone(model).fit(other).adapt(other[0][0][:3], y[:3]).predict(other[0][0])
    assert_allclose(moved, expected, rtol=1e-3)


def test_learned_lengths_are_reported_and_the_rule_is_left_alone():
    rule = GradientSteps("learn")
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(mixed_tasks(20))
    assert rule.inner_lr == "learn"
    assert rule.learnable
    assert not model.adaptation_.learnable
    assert_allclose(model.adaptation_.inner_lr, model.learned_.inner_lr)
    assert "one length a parameter" in str(model.learned_)
    assert len(model.inner_lr_) == 3


def test_a_first_order_rule_learns_its_lengths_too():
    rule = GradientSteps("learn", first_order=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # slow descent
        model = MAMLRegressor(adaptation=rule, random_state=0, support=[3])
        model = model.fit(few_shot_tasks("squared_error", 20))
    assert model.adaptation_.first_order
    assert model.inner_lr_[2] > max(model.inner_lr_[:2])


def test_a_search_for_lengths_that_ends_early_is_reported(monkeypatch):
    found = type("Found", (), {"x": np.zeros(3), "nit": 0, "success": False})
    monkeypatch.setattr(
        "sklearn_maml._learning.variable_projection.minimize", lambda *args, **kwargs: found
    )
    with pytest.warns(ConvergenceWarning, match="lengths of steps did not converge.*inner_lr="):
        MAMLRegressor(adaptation=GradientSteps("learn"), random_state=0).fit(mixed_tasks(5))


def test_a_rule_that_overflows_is_turned_back_from():
    """Poisson's steps of length exp(600 x) overflow where L-BFGS looks first."""
    tasks = few_shot_tasks("poisson", 5)
    make_rule = lambda x: GradientSteps(np.exp(600 * x), 2, cap=False)  # noqa: E731
    start = np.full(4, -0.01)
    squares = objective_of(tasks, make_rule(start), (3,))
    poisson = MetaObjective(squares.blocks, LOSSES["poisson"](), squares.rule, squares.penalty)
    problem = LearningProblem(poisson, GaussNewton())
    assert problem.query_loss(make_rule(start + 1.0)) == np.inf
    chain = lambda x, slope: 600 * np.exp(600 * x) * slope  # noqa: E731
    x, *_ = problem.minimize(start, make_rule, chain)
    assert problem.query_loss(make_rule(x)) <= problem.query_loss(make_rule(start))


def test_a_quadratic_loss_adapts_like_squares_whatever_its_factor():
    tasks, rule = mixed_tasks(20), Proximal(2.0, [1.0, 4.0, 0.5])
    whole = MAMLRegressor(adaptation=rule).fit(tasks)
    half = MAMLRegressor(adaptation=rule, loss=HalfSquaredError()).fit(tasks)
    X, y = mixed_tasks(1, seed=3)[0]
    assert_allclose(theta_of(half.adapt(X[:3], y[:3])), theta_of(whole.adapt(X[:3], y[:3])))


@pytest.mark.parametrize("noise", [None, 0.3, [0.3, 0.3]])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_a_given_metric_is_as_sure_of_known_tasks_as_of_adapted_ones(noise, n_targets):
    X, y = (np.concatenate(part) for part in zip(*mixed_tasks(6), strict=True))
    groups = np.repeat(np.arange(6), len(y) // 6)
    y = y if n_targets == 1 else np.column_stack([y, y])
    noise = noise[0] if np.ndim(noise) and n_targets == 1 else noise
    rule = Proximal(1.0, [1.0, 1.0, 1.0], noise=noise)
    model = MAMLRegressor(adaptation=rule).fit(X, y, groups=groups)
    mean, std = model.predict(X, groups=groups, return_std=True)
    assert mean.shape == std.shape == y.shape
    for k in range(6):
        own = model.adapt(X[groups == k], y[groups == k]).predict(X[groups == k], return_std=True)
        assert_allclose((mean[groups == k], std[groups == k]), own, rtol=1e-9)


def test_equal_numbers_of_shots_have_one_noise():
    model = MAMLRegressor(adaptation="learned", support=[2, 4, 2], random_state=0)
    noise = model.fit(mixed_tasks(30)).adaptation_.noise
    assert noise.shots.tolist() == [2, 4]


def test_learning_is_reported(caplog):
    with caplog.at_level(logging.INFO, logger="sklearn_maml"):
        MAMLRegressor(adaptation="learned", random_state=0, verbose=1).fit(mixed_tasks(10))
    assert "learning the rule: smallest meta-loss" in caplog.text
    assert "not converged" not in caplog.text


def test_candidates_that_are_not_solved_are_reported(caplog):
    rule = Proximal(metric="diagonal")
    model = MAMLRegressor(loss="log_cosh", adaptation=rule, support=[3], random_state=0, verbose=1)
    model.set_params(solver=GaussNewton(max_iter=1, tol=0.0))
    with (
        caplog.at_level(logging.INFO, logger="sklearn_maml"),
        pytest.warns(ConvergenceWarning, match="GaussNewton stopped"),
        pytest.warns(ConvergenceWarning, match="metric 'diagonal' did not converge.*learn less"),
    ):
        model.fit(mixed_tasks(10))
    assert "not converged" in caplog.text


def test_what_is_learned_on_the_query_loss_is_told():
    rule = Proximal(metric="diagonal")
    found = MAMLRegressor(adaptation=rule, random_state=0).fit(mixed_tasks(20))
    for deviation in np.sqrt(np.diagonal(found.adaptation_.metric.covariance)):
        assert f"{deviation:.4g}" in str(found.learned_)
    frame = found.learned_.to_frame()
    assert [*frame.index] == ["x0", "x1", "intercept"]
    assert "fixed_effect" not in frame


def sleepstudy_report():
    data = load("sleepstudy")
    frame = pd.DataFrame(data.X, columns=["Days"])
    return MAMLRegressor(adaptation=REML).fit(frame, data.y, groups=data.groups).learned_


def test_what_is_learned_is_told_as_mixed_models_are():
    found = sleepstudy_report()
    words = " ".join(str(found).split())
    assert "Days 10.47 35.07 5.922" in words
    assert "intercept 251.4 612.1 24.74 0.07" in words
    assert "residual 654.9 25.59" in words
    html = found._repr_html_()
    assert "<td>24.74</td>" in html
    assert found.reason in html


def test_what_is_learned_is_a_frame():
    frame = sleepstudy_report().to_frame()
    assert [*frame.index] == ["Days", "intercept", "residual"]
    assert_allclose(frame["std_dev"], [5.922, 24.740, 25.592], atol=2e-3)
    assert_allclose(frame["variance"], frame["std_dev"] ** 2)
    assert_allclose(frame.loc["Days", "corr_intercept"], 0.066, atol=5e-4)
    assert_allclose(frame["fixed_effect"], [10.467, 251.405, np.nan], atol=1e-3)


def test_a_report_of_several_targets_names_each():
    tasks = [(X, np.c_[y, 2 * y]) for X, y in mixed_tasks(20, d=6)]
    found = MAMLRegressor(adaptation=REML).fit(tasks).learned_
    frame = found.to_frame()
    assert_allclose(frame["fixed_effect_1"][:7], 2 * frame["fixed_effect_0"][:7], rtol=1e-6)
    assert_allclose(frame.loc["residual 1", "std_dev"], 2 * frame.loc["residual 0", "std_dev"])
    assert "corr x0" not in str(found)  # of seven parameters: to_frame has them


def test_long_reports_are_cut_and_empty_ones_refused():
    rng = np.random.default_rng(0)
    tasks = [(rng.normal(size=(9, 40)), rng.normal() + rng.normal(size=9)) for _ in range(9)]
    rule = Proximal(1.0, "full", random_effects="intercept")
    found = MAMLRegressor(adaptation=rule, support="all").fit(tasks).learned_
    assert "(11 more: see to_frame)" in str(found)
    given = MAMLRegressor(adaptation=Proximal(1.0, np.ones(41))).fit(tasks).learned_
    with pytest.raises(ValueError, match="No covariance was learned of the metric 'given'"):
        given.to_frame()
    assert "as given" in str(given)


@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_intraclass_correlation_is_the_share_between_tasks(slope):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 10, 1))
    effects = rng.normal(size=(400, 1)) + slope * rng.normal(size=(400, 1)) * X[..., 0]
    y = effects + rng.normal(size=(400, 10))
    found = MAMLRegressor(adaptation=REML).fit(list(zip(X, y, strict=True))).learned_
    between = 1.0 + slope**2
    assert_allclose(found.intraclass_correlation, between / (between + 1.0), atol=0.03)
    assert re.search(rf"intraclass correlation +{found.intraclass_correlation:.4g}\n", str(found))


def test_a_rule_without_a_slope_says_so():
    with pytest.raises(NotImplementedError, match="PreconditionedStep has nothing"):
        PreconditionedStep([[1.0]]).slope(np.zeros(2), None)


def test_rules_are_registered_under_their_names():
    assert RULES["learned"] is RULES["proximal"] is Proximal
    X, y = mixed_tasks(1)[0]
    by_name = MAMLRegressor(adaptation="gradient_steps").fit([(X, y)])
    assert_allclose(by_name.coef_, MAMLRegressor(inner_lr=0.1).fit([(X, y)]).coef_)


# --------------------------------------------------------------------------------------------------
# What is not known of theta and Sigma


def test_what_is_not_known_of_theta_is_what_generalised_least_squares_leaves_unknown():
    """By matrices of all rows of all tasks, for a new task and one with three rows."""
    tasks, metric = mixed_tasks(9), np.diag([0.5, 2.0, 1.0])
    rule = Proximal(0.8, metric, noise=0.3)
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    sigma = metric / 0.8
    precision = 0.0
    for X, _ in tasks:
        F = with_ones(X)
        precision = precision + F.T @ np.linalg.solve(np.eye(len(F)) + F @ sigma @ F.T, F)
    C = np.linalg.inv(precision)
    rows = with_ones(mixed_tasks(1, seed=3)[0][0])
    _, std = model.predict(rows[:, :-1], return_std=True)
    known = ((rows @ sigma) * rows).sum(axis=1)
    assert_allclose(std**2, 0.3 * (1 + known + ((rows @ C) * rows).sum(axis=1)))
    X, y = tasks[0][0][:3], tasks[0][1][:3]
    F = with_ones(X)
    gain = sigma @ F.T @ np.linalg.inv(np.eye(3) + F @ sigma @ F.T)
    J = np.eye(3) - gain @ F
    _, std = model.adapt(X, y).predict(rows[:, :-1], return_std=True)
    unknown = J @ sigma + J @ C @ J.T
    assert_allclose(std**2, 0.3 * (1 + ((rows @ unknown) * rows).sum(axis=1)))


@pytest.mark.parametrize("effects", [None, "intercept"])
def test_what_is_not_known_of_a_learned_metric_is_that_of_a_wishart_matrix(effects):
    tasks = mixed_tasks(9)
    rule = Proximal(1.0, "full", random_effects=effects, noise=0.3)
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(tasks)
    sigma, precision = model.adaptation_.metric.covariance, 0.0
    for X, _ in tasks:
        F = with_ones(X)
        precision = precision + F.T @ np.linalg.solve(np.eye(len(F)) + F @ sigma @ F.T, F)
    X, y = tasks[0][0][:3], tasks[0][1][:3]
    F, rows = with_ones(X), with_ones(mixed_tasks(1, seed=3)[0][0])
    J = np.eye(3) - sigma @ F.T @ np.linalg.solve(np.eye(3) + F @ sigma @ F.T, F)
    varies = slice(None) if effects is None else slice(2, None)
    inner = np.zeros((3, 3))
    inner[varies, varies] = np.linalg.inv(precision[varies, varies])
    q = 3 if effects is None else 1
    share = np.trace(F.T @ F @ J @ inner) * 81 / 8 * (1 + 1 / q)
    unknown = J @ sigma + J @ (np.linalg.inv(precision) + share * inner) @ J.T
    _, std = model.adapt(X, y).predict(rows[:, :-1], return_std=True)
    assert_allclose(std**2, 0.3 * (1 + ((rows @ unknown) * rows).sum(axis=1)), rtol=1e-6)
    support = Risk(SquaredError(), F[None], y[None], np.full((1, 3), 1 / 3))
    found = model.adaptation_.deviation(rows[None], support)
    assert_allclose(found[0], std, rtol=1e-9)


@pytest.mark.parametrize(("n_tasks", "least"), [(10, 0.02), (15, 0.012), (25, 0.006)])
def test_few_tasks_are_covered_better_where_what_is_not_known_counts(n_tasks, least):
    """Normal tasks: 90 % of the targets of new ones, before any row and after three."""
    rng, hits = np.random.default_rng(n_tasks), {"auto": [], None: []}

    def draw(n):
        found = []
        for _ in range(n):
            X = rng.normal(size=(8, 2))
            level, *slopes = rng.normal(size=3) * [1.5, 0.8, 0.8] + [0.0, 1.0, 2.0]
            found.append((X, X @ slopes + level + rng.normal(size=8)))
        return found

    for seed in range(40):
        train, test = draw(n_tasks), draw(10)
        for doubt, found in hits.items():
            model = MAMLRegressor(
                adaptation=Proximal(doubt=doubt), certificate=None, random_state=seed
            ).fit(train)
            for X, y in test:
                for k in (0, 3):
                    asked = model.adapt(X[:k], y[:k]) if k else model
                    mean, std = asked.predict(X[k:], return_std=True)
                    found.append((np.abs(y[k:] - mean) < 1.645 * std).mean())
    covered = {doubt: np.mean(found) for doubt, found in hits.items()}
    assert covered["auto"] > covered[None] + least
    assert abs(covered["auto"] - 0.9) < abs(covered[None] - 0.9)


def test_what_is_not_known_of_theta_is_left_out_where_it_hardly_matters(monkeypatch):
    monkeypatch.setattr("sklearn_maml._learning.doubt.NEGLIGIBLE", 0.1)
    rule = Proximal(0.8, [0.5, 2.0, 1.0], noise=0.3)
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(mixed_tasks(600))
    assert model.adaptation_.doubt is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", ["log_cosh", "pseudo_huber"])
def test_few_tasks_without_noise_are_fitted_with_any_loss(loss, seed):
    X = np.random.default_rng(seed).normal(size=(3, 2, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a loss that falls to zero
        model = MAMLRegressor(loss=loss, random_state=0).fit([(A, A.sum(axis=1)) for A in X])
    predicted = model.adapt(X[0], X[0].sum(axis=1)).predict(X[0])
    assert_allclose(predicted, X[0].sum(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("varies", "intercept", "kind", "ties"),
    [
        ([1], True, "intercept", [0]),
        ([0, 1], True, "intercept", [0]),
        ([1, 1], True, "intercept", [0, 1]),
        ([1, 1, 1, 1], True, "intercept", [0, 0, 0, 1]),
        ([1, 1, 1, 1], True, "diagonal", [0, 1, 2, 3]),
        ([1, 0, 1], False, "intercept", [0, 1]),
    ],
)
def test_effects_of_features_share_a_deviation_and_the_intercept_has_its_own(
    varies, intercept, kind, ties
):
    d = len(varies)
    effects = RandomEffects(None, np.array(varies, bool), np.eye(d), intercept)
    assert effects.ties(kind).tolist() == ties


def test_the_basis_of_features_as_they_are_has_their_columns():
    """Of unit size, in coordinates of the standardised features that vary within tasks."""
    rng, varies = np.random.default_rng(0), np.array([True, False, True, True])
    X = np.c_[rng.normal(size=(20, 3)) * [2.0, 0.5, 7.0] + [3.0, -1.0, 5.0], np.ones(20)]
    standard = Standardization(np.array([2.5, -1.0, 4.0, 0.0]), np.array([2.0, 0.5, 6.0, 0.3]))
    basis = RandomEffects(standard, varies, np.eye(4), intercept=True).own_basis
    assert_allclose(np.linalg.norm(basis, axis=0), 1.0)
    found, own = standard.rows(X)[:, varies] @ basis, X[:, varies]
    assert_allclose(found / np.linalg.norm(found, axis=0), own / np.linalg.norm(own, axis=0))


@pytest.mark.parametrize(
    ("loss", "around"),
    [
        (lambda x: min(1.0 + 0.02 * (x + 3.2) ** 2, 0.5 + (x - 5.0) ** 2), (-4, -2)),
        (lambda x: 1.0 + 0.001 * x if x < 1 else 0.5 + 0.01 * (x - 5.2) ** 2, (4, 6)),
        (lambda x: np.exp(-x), (7, 8)),
        (lambda x: np.exp(x), (-8, -7)),
    ],
    ids=["before a deeper one", "after a rise of less than a percent", "falls", "rises"],
)
def test_the_first_valley_of_a_function_is_next_to_its_smallest_scale(loss, around):
    assert _first_valley(loss, -8, 8) == around
