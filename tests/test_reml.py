"""The restricted likelihood on 60 random problems: as high as lme4's and statsmodels', or higher.

The comparison with lme4 needs Rscript with lme4 and is skipped where these are not installed.
"""

import shutil
import subprocess
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from moments import moments_of
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from statsmodels.regression.mixed_linear_model import MixedLM

from sklearn_maml import MAMLRegressor, Proximal
from sklearn_maml._learning.reml import _is_stationary, fit_reml
from sklearn_maml._learning.structure import Structure

SCRIPT = Path(__file__).with_name("reml.R")
NO_LME4 = 3
N_PROBLEMS = 60

# In -2 log likelihood. Both search by iterations; the likelihood itself is the same to 1e-9.
WORSE = 1e-4

# Standard deviations of the random effects, in units of the noise: from none at all to most of it.
SPREADS = (0.0, 0.1, 0.5, 1.0, 5.0, 100.0)
FEATURES_OF_EFFECTS = {1: "intercept", 2: [0], 3: [0, 1]}


@cache
def problem(i):
    """(number of random effects, table): unbalanced, often singular, in any units."""
    rng = np.random.default_rng([13, i])
    n_effects, n_tasks = 1 + i % 3, int(rng.integers(5, 40))
    sizes = rng.integers(1, 4, n_tasks) if i % 4 == 0 else rng.integers(2, 15, n_tasks)
    sizes[:2] += 4
    task = np.repeat(np.arange(n_tasks), sizes)
    x = rng.normal(rng.normal(size=2) * 3.0, 10.0 ** rng.uniform(-1, 1, 2), (len(task), 2))
    spread = SPREADS[i % len(SPREADS)]
    mix = rng.normal(size=(3, 3))
    mix[:, 1 + i % 2 :] *= (i // 6) % 2  # every second time of rank one or two
    design = np.column_stack([np.ones(len(task)), x / x.std(axis=0)])[:, :n_effects]
    effects = spread * rng.normal(size=(n_tasks, 3)) @ mix.T
    y = x @ rng.normal(size=2) + (design * effects[task, :n_effects]).sum(axis=1)
    y = 10.0 ** rng.uniform(-3, 3) * (y + rng.normal(size=len(task)))
    table = {"problem": i, "effects": n_effects, "y": y, "x1": x[:, 0], "x2": x[:, 1]}
    return n_effects, pd.DataFrame(table | {"task": task})


@cache
def learned(i):
    n_effects, table = problem(i)
    rule = Proximal(1.0, "full", random_effects=FEATURES_OF_EFFECTS[n_effects])
    model = MAMLRegressor(adaptation=rule, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
        return model.fit(table[["x1", "x2"]], table["y"], groups=table["task"]).learned_


@pytest.fixture(scope="module")
def lme4(tmp_path_factory):
    """By lme4: -2 log restricted likelihood, and whether the covariance is singular."""
    if (rscript := shutil.which("Rscript")) is None:
        pytest.skip("no Rscript here: lme4 is not compared with")
    path = tmp_path_factory.mktemp("lme4") / "problems.csv"
    tables = pd.concat([problem(i)[1] for i in range(N_PROBLEMS)])
    tables.to_csv(path, index=False, float_format="%.17g")
    run = subprocess.run([rscript, SCRIPT, path], capture_output=True, text=True, check=False)
    if run.returncode == NO_LME4:
        pytest.skip("Rscript has no lme4: it is not compared with")
    assert run.returncode == 0, run.stderr
    found = np.array([line.split() for line in run.stdout.splitlines()], dtype=float)
    assert found[:, 0].tolist() == list(range(N_PROBLEMS))
    return found[:, 1:]


@pytest.mark.parametrize("i", range(N_PROBLEMS))
def test_the_restricted_likelihood_is_no_lower_than_that_of_lme4(i, lme4):
    assert -2 * learned(i).log_likelihood <= lme4[i, 0] + WORSE


def test_the_search_converges():
    """But in one or two, by the BLAS: effects of rank one, 600 times the noise, say."""
    assert sum(not learned(i).converged for i in range(N_PROBLEMS)) <= 2


def test_the_problems_are_singular_and_not(lme4):
    singular = lme4[:, 1].mean()
    assert 0.2 < singular < 0.9


def test_lme4_finds_as_high_a_likelihood_in_most_problems(lme4):
    """So that it is the same likelihood that both of them maximise."""
    ours = np.array([-2 * learned(i).log_likelihood for i in range(N_PROBLEMS)])
    assert np.mean(np.abs(ours - lme4[:, 0]) < 1e-5) > 0.7


@pytest.mark.parametrize("i", [1, 2, 7, 9, 16, 23, 34])
def test_the_restricted_likelihood_is_no_lower_than_that_of_statsmodels(i):
    n_effects, table = problem(i)
    design = np.column_stack([np.ones(len(table)), table[["x1", "x2"]]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it thinks of singular covariances
        reference = MixedLM(
            table["y"].to_numpy(), design, table["task"], exog_re=design[:, :n_effects]
        ).fit(reml=True, method=["lbfgs", "bfgs"])
    assert -2 * learned(i).log_likelihood <= -2 * reference.llf + WORSE


@pytest.mark.parametrize("metric", ["full", "diagonal", "low_rank", "intercept"])
@pytest.mark.parametrize("split", ["random", "first"])
@pytest.mark.parametrize("n_targets", [0, 2])
def test_what_is_learned_does_not_depend_on_an_offset_of_the_targets(metric, split, n_targets):
    rng, tasks = np.random.default_rng(0), []
    for _ in range(30):
        own, X = rng.normal(size=3), rng.normal(size=(8, 2))
        y = own[0] + X @ (1.0 + 0.5 * own[1:]) + 0.1 * rng.normal(size=8)
        tasks.append((X, np.column_stack([y, 2.0 - y]) if n_targets else y))
    model = MAMLRegressor(adaptation=Proximal(metric=metric), split=split, random_state=0)
    here = clone(model).fit(tasks)
    far = clone(model).fit([(X, y + 2.0**23) for X, y in tasks])
    assert far.meta_loss_ == pytest.approx(here.meta_loss_, rel=1e-6)
    assert_allclose(far.coef_, here.coef_, rtol=1e-5)
    assert_allclose(far.intercept_ - 2.0**23, here.intercept_, atol=1e-5)
    assert_allclose(far.adaptation_.noise.variance, here.adaptation_.noise.variance, rtol=1e-5)
    if here.learned_.fixed_effects is not None:
        shift = np.zeros(3)
        shift[-1] = 2.0**23
        fixed = far.learned_.fixed_effects - shift
        assert_allclose(fixed, here.learned_.fixed_effects, rtol=1e-4, atol=1e-5)
        variance = here.learned_.residual_variance
        assert_allclose(far.learned_.residual_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_a_short_axis_is_found_along_a_long_one_without_moving_that(seed):
    """By a symmetric step the long axis moved as far, in its own units: up to 37 steps."""
    rng, task = np.random.default_rng(seed), np.repeat(np.arange(2000), 4)
    X = np.column_stack([rng.normal(size=8000), np.ones(8000)])
    own = rng.normal(size=2000)[:, None] * [1.0, 0.05]
    y = ((1.0 + own[task]) * X).sum(axis=1, keepdims=True) + rng.normal(size=(8000, 1))
    start = SimpleNamespace(relative=np.diag([1.0, 0.02**2]))
    found = fit_reml(moments_of(X, X, y, task), Structure.full(2), start)
    assert found.converged
    assert found.n_iter <= 15
    assert_allclose(found.relative[0], [1.0, 0.05], atol=0.2)


@pytest.mark.parametrize(("rounding", "stationary"), [(0.0, False), (1.0, True)])
def test_a_direction_wants_no_variance_for_less_than_the_value_rounds(rounding, stationary):
    """Without noise values round by tens: one such fit in 150 was said not to have converged."""
    at = SimpleNamespace(root=np.array([0.5, 1.0]), gradient=-0.03 * np.eye(2), rounding=rounding)
    assert _is_stationary(at, Structure.full(2)) is stationary


@pytest.mark.parametrize("seed", range(8))
def test_tasks_that_are_far_from_normal_need_few_steps(seed, monkeypatch):
    """Fisher's information, a mean over normal data, is then far from what the curvature is."""
    rng, task = np.random.default_rng(seed), np.repeat(np.arange(100), 8)
    X = np.column_stack([rng.normal(size=(800, 3)), np.ones(800)])
    size = np.exp(2.0 * rng.normal(size=100))
    own = size[:, None] * np.column_stack([0.1 * rng.normal(size=(100, 3)), np.full(100, 3.0)])
    y = ((1.0 + own[task]) * X).sum(axis=1) + size[task] * rng.normal(size=800)
    moments = moments_of(X, X, y[:, None], task)
    found = fit_reml(moments, Structure.full(4))
    monkeypatch.setattr("sklearn_maml._learning.reml.SURPRISED", np.inf)
    slow = fit_reml(moments, Structure.full(4), max_iter=1000)
    assert found.converged
    assert found.n_iter <= 0.7 * slow.n_iter
    assert_allclose(found.log_likelihood, slow.log_likelihood, rtol=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("d", [1, 4])
def test_tasks_that_one_model_explains_to_the_last_digit(seed, d):
    """Their residual variance is 0, and 1 / 0 no number: what sums of squares round is taken."""
    rng, slope = np.random.default_rng(seed), np.arange(1.0, d + 1.0)
    X = rng.normal(size=(20, 10, d))
    model = MAMLRegressor(random_state=0).fit([(A, A @ slope) for A in X])
    assert_allclose(model.coef_, slope, rtol=1e-10)
    rounding = np.sqrt(X[..., 0].size) * np.finfo(float).eps  # of a sum of so many terms
    assert model.learned_.residual_variance <= rounding * np.var(X @ slope)
    new = rng.normal(size=(30, d))
    adapted = model.adapt(new[:3], new[:3] @ slope)
    mean, std = adapted.predict(new, return_std=True)
    assert_allclose(mean, new @ slope, atol=1e-9)
    assert (std < 1e-6).all()
