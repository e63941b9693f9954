"""Noise whose variance differs between tasks: against the posterior, summed up by brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import simpson
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, multivariate_normal, multivariate_t, norm, t
from sklearn.base import clone

from sklearn_maml import MAMLRegressor, Proximal, task_statistics
from sklearn_maml._learning.task_noise import likeliest_freedom
from sklearn_maml._objective.risk import Risk
from sklearn_maml.adaptation.prior import Metric
from sklearn_maml.adaptation.task_noise import TaskNoise, log_density, prior_squares
from sklearn_maml.losses import SquaredError

SIGMA = np.array([[1.0, 0.3, 0.2], [0.3, 0.5, 0.0], [0.2, 0.0, 2.0]])
NOISE, FREEDOM = 0.4, 5.0


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def tasks_of(n_tasks, freedom=FREEDOM, seed=0, n_rows=10):
    """Tasks whose variance is a scaled inverse chi-squared of mean NOISE, and Sigma with it."""
    rng, found = np.random.default_rng(seed), []
    root = np.linalg.cholesky(SIGMA)
    for _ in range(n_tasks):
        size = 1.0 if np.isinf(freedom) else (freedom - 2.0) / rng.chisquare(freedom)
        X = rng.normal(size=(n_rows, 2))
        theta = [1.0, -1.0, 2.0] + np.sqrt(NOISE * size) * (root @ rng.normal(size=3))
        noise = np.sqrt(NOISE * size) * rng.normal(size=n_rows)
        found.append((X, with_ones(X) @ theta + noise))
    return found


TASKS = tasks_of(150)


def fitted(task_noise, tasks=TASKS, **parameters):
    """Fitted with the covariance and the mean variance that tasks were made with."""
    rule = Proximal(1.0, SIGMA, noise=NOISE, doubt=None, task_noise=task_noise)
    return MAMLRegressor(adaptation=rule, calibrate=False, **parameters).fit(tasks)


def theta_of(model):
    return np.append(model.coef_, model.intercept_)


# -- the closed form ------------------------------------------------------------------------------


def posterior_by_brute_force(model, X, y, freedom, phi):
    """Variance and distribution of a target, by summing over the task's variance on a grid."""
    F, rest = with_ones(X), y - with_ones(X) @ theta_of(model)
    V = F @ SIGMA @ F.T + np.eye(len(y))
    s = np.exp(np.linspace(np.log(1e-4), np.log(1e5), 4001))
    prior = chi2.pdf(NOISE * (freedom - 2) / s, freedom) * NOISE * (freedom - 2) / s**2
    quadratic, volume = rest @ np.linalg.solve(V, rest), np.linalg.slogdet(V)[1]
    likelihood = np.exp(-0.5 * (len(y) * np.log(s) + volume + quadratic / s))
    weight = prior * likelihood * s  # of the logarithm of s
    weight /= simpson(weight, np.log(s))
    gain = SIGMA @ F.T @ np.linalg.inv(V)
    left = 1.0 + phi @ (SIGMA - gain @ F @ SIGMA) @ phi
    variance = simpson(weight * s * left, np.log(s))
    return variance, lambda z: simpson(weight * norm.cdf(z / np.sqrt(s * left)), np.log(s))


@pytest.mark.parametrize("k", [1, 4, 10])
def test_a_target_is_distributed_as_by_summing_over_the_variance_of_the_task(k):
    model = fitted(FREEDOM)
    for X, y in (TASKS[0], TASKS[1], (TASKS[2][0], 5 * TASKS[2][1])):
        phi = np.array([0.5, -1.0, 1.0])
        variance, below = posterior_by_brute_force(model, X[:k], y[:k], FREEDOM, phi)
        adapted = model.adapt(X[:k], y[:k])
        mean, std = adapted.predict(phi[None, :-1], return_std=True)
        assert_allclose(std**2, variance, rtol=1e-6)
        for q in (0.05, 0.5, 0.9):
            at = adapted.predict_quantile(phi[None, :-1], q) - mean
            assert below(at[0]) == pytest.approx(q, abs=1e-6)
        low, high = adapted.predict_interval(phi[None, :-1], coverage=0.8)
        assert below((high - mean)[0]) - below((low - mean)[0]) == pytest.approx(0.8, abs=1e-6)


def test_unknown_tasks_have_the_deviation_that_all_share_and_the_quantiles_of_t():
    model, plain = fitted(FREEDOM), fitted(None)
    X = TASKS[0][0]
    mean, std = model.predict(X, return_std=True)
    assert_array_equal(std, plain.predict(X, return_std=True)[1])
    _, high = model.predict_interval(X, coverage=0.9)
    assert_allclose(high, mean + std * t.ppf(0.95, FREEDOM) * np.sqrt(1 - 2 / FREEDOM))


def test_with_many_degrees_of_freedom_all_is_as_without():
    many, plain = fitted(1e9), fitted(None)
    X, y = TASKS[0]
    one, other = (model.adapt(X[:4], y[:4]) for model in (many, plain))
    assert_array_equal(one.predict(X), other.predict(X))
    assert_allclose(*(a.predict(X, return_std=True)[1] for a in (one, other)), rtol=1e-6)
    assert_allclose(one.predict_interval(X), other.predict_interval(X), rtol=1e-6)
    assert_allclose(one.predict_quantile(X, 0.3), other.predict_quantile(X, 0.3), rtol=1e-6)


@pytest.mark.parametrize("m", [2, 9])
@pytest.mark.parametrize("factor", [np.linalg.cholesky(SIGMA), np.eye(3)[:, :1], np.eye(3)[:, :0]])
def test_squares_are_those_under_the_prior_covariance(m, factor):
    rng = np.random.default_rng(m)
    F, weight, strength = rng.normal(size=(m, 3)), rng.uniform(0.5, 3.0, size=m), 0.7
    y, theta = rng.normal(size=m), rng.normal(size=3)
    rule = Proximal(strength, Metric(factor))
    risk = Risk(SquaredError(), F[None], y[None], weight[None] / weight.sum(), weight.sum()[None])
    theta_i, _ = rule.adapt(theta, risk)
    found = rule.squares(risk.square_about(risk.predict(theta_i)))
    V = F @ factor @ factor.T @ F.T / strength + np.diag(1 / weight)
    rest = y - F @ theta
    assert_allclose(found, rest @ np.linalg.solve(V, rest), rtol=1e-10)


def test_squares_of_tasks_that_are_met_exactly_do_not_fall_below_zero():
    rng = np.random.default_rng(0)
    rows = 1e8 * rng.normal(size=(50, 3, 4))
    residuals = 1e-9 * rng.normal(size=(50, 3))
    assert (prior_squares(rows, np.ones((50, 3)), residuals, 1e-12) >= 0).all()
    model = fitted(FREEDOM)
    X = TASKS[0][0]
    _, std = model.adapt(X, with_ones(X) @ theta_of(model)).predict(X, return_std=True)
    _, shared = fitted(None).adapt(X, X[:, 0]).predict(X, return_std=True)
    assert_allclose(std, shared * np.sqrt((FREEDOM - 2) / (FREEDOM - 2 + len(X))))


# -- the degrees of freedom -----------------------------------------------------------------------


def test_the_density_is_that_of_a_multivariate_t_but_for_what_all_share():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 4))
    V, y = np.eye(6) + A @ A.T, 3.0 * rng.normal(size=6)
    squares = np.array([y @ np.linalg.solve(V, y)])

    def density(freedom):
        shape = V * (freedom - 2) / freedom
        return multivariate_t.logpdf(y, shape=shape, df=freedom)

    k = np.array([6])
    for freedom in (2.1, 5.0, 300.0):
        found = log_density(freedom, k, squares) - log_density(np.inf, k, squares)
        truth = density(freedom) - multivariate_normal.logpdf(y, cov=V)
        assert_allclose(found, truth, rtol=1e-9)


def test_the_degrees_of_freedom_are_the_likeliest_of_all_rows():
    model = fitted("auto")
    theta = theta_of(model)

    def unlikely(log_freedom):
        freedom = 2 + np.exp(log_freedom)
        total = 0.0
        for X, y in TASKS:
            V = with_ones(X) @ SIGMA @ with_ones(X).T + np.eye(len(y))
            shape = NOISE * (freedom - 2) / freedom * V
            total -= multivariate_t.logpdf(y, with_ones(X) @ theta, shape, freedom)
        return total

    best = minimize_scalar(unlikely, bounds=(-2.0, 5.0), method="bounded")
    found = model.adaptation_.task_noise
    assert found.freedom == pytest.approx(2 + np.exp(best.x), rel=1e-4)
    assert_array_equal(found.variance, NOISE)


def test_tasks_count_by_their_weights_and_rows_by_how_many_they_stand_for():
    rng = np.random.default_rng(1)
    k, squares = rng.integers(1, 9, size=60), rng.chisquare(4, size=60) * rng.exponential(size=60)
    twice = rng.integers(0, 3, size=60)
    found = likeliest_freedom(k, squares, twice.astype(float))
    assert np.isfinite(found)
    repeated = likeliest_freedom(
        np.repeat(k, twice), np.repeat(squares, twice), np.ones(sum(twice))
    )
    assert found == pytest.approx(repeated, rel=1e-5)
    tasks = [(np.repeat(X, 2, axis=0), np.repeat(y, 2)) for X, y in TASKS]
    X, y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
    groups = np.repeat(np.arange(len(TASKS)), 10)
    weighted = clone(fitted("auto")).fit(X, y, groups=groups, sample_weight=np.full(len(y), 2.0))
    one, other = weighted.adaptation_.task_noise, fitted("auto", tasks).adaptation_.task_noise
    assert_allclose(one.freedom, other.freedom, rtol=1e-6)


def test_tasks_that_share_a_variance_are_left_so():
    tasks = tasks_of(150, freedom=np.inf)
    plain = MAMLRegressor(random_state=0).fit(tasks)
    model = MAMLRegressor(adaptation=Proximal(task_noise="auto"), random_state=0).fit(tasks)
    assert model.adaptation_.task_noise is None
    X, y = tasks[0]
    for name in ("predict_interval", "predict"):
        one, other = (getattr(m.adapt(X[:4], y[:4]), name)(X) for m in (model, plain))
        assert_array_equal(one, other)


@pytest.mark.parametrize("split", ["random", "first"])
def test_learned_degrees_of_freedom_are_about_those_of_the_tasks(split):
    rule = Proximal(task_noise="auto")
    model = MAMLRegressor(adaptation=rule, random_state=0, split=split).fit(tasks_of(600))
    found = model.adaptation_.task_noise
    assert 4.0 < found.freedom < 6.5
    assert found.variance == pytest.approx(NOISE, rel=0.15)


def test_each_target_has_degrees_of_freedom_of_its_own():
    rng = np.random.default_rng(0)
    other = tasks_of(150, freedom=np.inf, seed=1)
    two = [(X, np.column_stack([y, X @ [1.0, 2.0] + rng.normal(size=10)])) for X, y in TASKS]
    assert len(other) == len(two)
    model = MAMLRegressor(adaptation=Proximal(task_noise="auto"), random_state=0).fit(two)
    freedom = model.adaptation_.task_noise.freedom
    assert freedom.shape == (2,)
    assert 2.5 < freedom[0] < 8.0
    assert freedom[1] > 50.0
    X, y = two[0]
    low, high = model.adapt(X[:3], y[:3]).predict_interval(X, coverage=[0.5, 0.9])
    assert low.shape == (10, 2, 2)
    own = clone(model).set_params(calibrate=False).fit(two).adapt(X[:3], y[:3])
    (mean, std), (low, high) = own.predict(X, return_std=True), own.predict_interval(X)
    reach = t.ppf(0.95, freedom + 3) * np.sqrt(1 - 2 / (freedom + 3))
    assert_allclose(high - mean, reach * std)
    for j in range(2):  # as if it were alone, with the same rule
        rule = clone(model.adaptation_)
        alone = Proximal(
            rule.strength,
            rule.metric,
            doubt=rule.doubt,
            noise=float(rule.noise.at(np.array([3.0]))[0, j]),
            task_noise=TaskNoise(freedom[j], rule.task_noise.variance[j]),
        )
        single = MAMLRegressor(adaptation=alone).fit([(X, y[:, j]) for X, y in two])
        single.coef_, single.intercept_ = model.coef_[j], model.intercept_[j]
        found = single.adapt(X[:3], y[:3, j]).predict(X, return_std=True)[1]
        assert_allclose(found, std[:, j], rtol=1e-9)


@pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")
@pytest.mark.parametrize(
    "tasks",
    [
        [(X[:1], y[:1]) for X, y in TASKS[:20]],
        [(X[:4, :1], y[:4]) for X, y in TASKS[:4]],
        [(np.ones((4, 2)), y[:4]) for X, y in TASKS[:20]],
        [(X, np.zeros(len(y))) for X, y in TASKS[:20]],
    ],
    ids=["one row", "few rows", "constant features", "zeros"],
)
@pytest.mark.parametrize("task_noise", ["auto", 4.0])
def test_tasks_that_show_little_have_finite_deviations(tasks, task_noise):
    model = MAMLRegressor(adaptation=Proximal(task_noise=task_noise), random_state=0).fit(tasks)
    _, std = model.adapt(*tasks[0]).predict(tasks[0][0], return_std=True)
    assert np.isfinite(std).all()
    assert (std >= 0).all()


@pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")
def test_errors_with_heavy_tails_are_no_noise_of_tasks_own_where_tasks_have_one_row():
    rng = np.random.default_rng(0)
    tasks = [(rng.normal(size=(1, 2)), rng.standard_t(2.5, size=1)) for _ in range(500)]
    model = MAMLRegressor(adaptation=Proximal(task_noise="auto"), random_state=0).fit(tasks)
    assert model.adaptation_.task_noise is None


def test_a_target_without_noise_leaves_the_others_theirs():
    two = [(X, np.column_stack([0.0 * y, y])) for X, y in TASKS]
    rule = Proximal(1.0, SIGMA, doubt=None, task_noise=FREEDOM)
    model, alone = (MAMLRegressor(adaptation=rule).fit(tasks) for tasks in (two, TASKS))
    X, y = two[0]
    _, std = model.adapt(X[:4], y[:4]).predict(X, return_std=True)
    assert_array_equal(std[:, 0], 0.0)
    _, own = alone.adapt(X[:4], y[:4, 1]).predict(X, return_std=True)
    assert_allclose(std[:, 1], own, rtol=1e-9)


# -- what it is for -------------------------------------------------------------------------------


def test_intervals_hold_for_noisy_and_for_quiet_tasks_and_are_narrower_and_likelier():
    known, new = tasks_of(300, 3.5, seed=2), tasks_of(300, 3.5, seed=3, n_rows=30)
    size = np.array(
        [np.var(y - with_ones(X) @ np.linalg.lstsq(with_ones(X), y)[0]) for X, y in new]
    )
    loud = size > np.quantile(size, 0.8)
    inside, width, density = {}, {}, {}
    for own in (None, "auto"):
        model = MAMLRegressor(adaptation=Proximal(task_noise=own), random_state=0).fit(known)
        inside[own], width[own], density[own] = [], [], []
        freedom = np.inf if own is None else model.adaptation_.task_noise.freedom + 8
        for X, y in new:
            adapted = model.adapt(X[:8], y[:8])
            low, high = adapted.predict_interval(X[8:])
            inside[own].append(np.mean((low <= y[8:]) & (y[8:] <= high)))
            width[own].append(np.mean(high - low))
            mean, std = adapted.predict(X[8:], return_std=True)
            scale = std if own is None else std * np.sqrt(1 - 2 / freedom)
            density[own].append(t.logpdf(y[8:], freedom, mean, scale).mean())
    for found in inside.values():
        assert 0.88 < np.mean(found) < 0.93
    shared, own = (np.array(inside[key]) for key in (None, "auto"))
    assert shared[loud].mean() < 0.75
    assert own[loud].mean() > 0.83
    assert shared[~loud].mean() > 0.93
    assert own[~loud].mean() < 0.93
    assert np.mean(width["auto"]) < 0.95 * np.mean(width[None])
    assert np.mean(density["auto"]) > np.mean(density[None]) + 0.08


def test_with_few_tasks_intervals_are_those_of_t_and_told():
    rule = Proximal(task_noise=FREEDOM)
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(TASKS[:7])
    X, y = TASKS[7]
    adapted = model.adapt(X[:3], y[:3])
    mean, std = adapted.predict(X, return_std=True)
    with pytest.warns(UserWarning, match="7 calibration tasks are too few .* by Student's t"):
        low, high = adapted.predict_interval(X)
    reach = std * t.ppf(0.95, FREEDOM + 3) * np.sqrt(1 - 2 / (FREEDOM + 3))
    assert_allclose([low, high], [mean - reach, mean + reach])


@pytest.mark.parametrize("split", ["random", "first"])
def test_a_calibration_is_of_the_deviations_that_are_predicted(split):
    rule = Proximal(task_noise=FREEDOM)
    model = MAMLRegressor(adaptation=rule, support=4, split=split, random_state=0).fit(TASKS[:100])
    if split == "random":
        model.set_params(n_episodes=1)
    model = model.recalibrate(TASKS[100:])
    at = list(model.calibration_.shots).index(0)
    rows = [model.predict(X, return_std=True) for X, _ in TASKS[100:]]
    scores = [np.abs(y - mean) / std for (mean, std), (_, y) in zip(rows, TASKS[100:], strict=True)]
    assert_allclose(model.calibration_.absolute[at][-1], np.max(scores))
    if split == "first":
        adapted = [(model.adapt(X[:4], y[:4]), X[4:], y[4:]) for X, y in TASKS[100:]]
        rows = [(a.predict(X, return_std=True), y) for a, X, y in adapted]
        scores = np.sort(np.concatenate([np.abs(y - m) / std for (m, std), y in rows]))
        at = list(model.calibration_.shots).index(4)
        assert_allclose(model.calibration_.absolute[at][-1], scores[-1], rtol=1e-9)
        assert_allclose(model.calibration_.absolute[at][256], scores[149], rtol=1e-9)


def test_known_adapted_and_many_tasks_have_the_same_deviations():
    X, y = (np.concatenate(part) for part in zip(*TASKS[:30], strict=True))
    groups = np.repeat([f"p{i}" for i in range(30)], 10)
    rule = Proximal(task_noise=FREEDOM)
    model = MAMLRegressor(adaptation=rule, random_state=0).fit(X, y, groups=groups)
    plain = clone(model).set_params(adaptation=Proximal()).fit(X, y, groups=groups)
    many = model.adapt_tasks(X, y, groups=groups)
    asked = groups.copy()
    asked[:10] = "unknown"
    rows = (m.predict(X, groups=asked, return_std=True)[1] for m in (model, many))
    one, other = rows
    assert_allclose(one, other, rtol=1e-12)
    assert_allclose(one[:10], model.predict(X[:10], return_std=True)[1])
    for i in (3, 7):
        task = groups == f"p{i}"
        adapted = model.adapt(X[task], y[task])
        for found in (adapted, many[f"p{i}"]):
            assert_allclose(found.predict(X[task], return_std=True)[1], one[task], rtol=1e-12)
        intervals = model.predict_interval(X[task], groups=groups[task])
        assert_allclose(adapted.predict_interval(X[task]), intervals, rtol=1e-12)
        effects = [m.random_effects().standard_errors[i] for m in (model, plain)]
        ratio = one[task] / plain.predict(X[task], groups=groups[task], return_std=True)[1]
        assert_allclose(ratio, ratio[0])
        assert_allclose(effects[0] / effects[1], ratio[0])
        assert abs(ratio[0] - 1) > 0.02


# -- streams, and what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_streams_and_sums_learn_what_one_fit_learns(n_targets, weighted):
    X, y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
    groups, rng = np.repeat(np.arange(len(TASKS)), 10), np.random.default_rng(0)
    y = y if n_targets == 1 else np.column_stack([y + 1e4, -y + X[:, 0]])
    weight = rng.uniform(0.5, 2.0, size=len(X)) if weighted else None
    given = {"random_state": 0, "n_episodes": 20, "calibrate": False}
    model = MAMLRegressor(adaptation=Proximal(task_noise="auto"), **given)
    whole = clone(model).fit(X, y, groups=groups, sample_weight=weight)
    part, rows = clone(model), task_statistics(model, X, y, groups=groups, sample_weight=weight)
    summed = MAMLRegressor.from_statistics(rows, **model.get_params(deep=False))
    for rows in (slice(0, 400), slice(400, 410), slice(410, None)):
        own = None if weight is None else weight[rows]
        part.partial_fit(X[rows], y[rows], groups=groups[rows], sample_weight=own)
    for other in (part, summed):
        one = [m.adaptation_.task_noise for m in (whole, other)]
        assert_allclose(one[0].freedom, one[1].freedom, rtol=1e-7)
        assert_allclose(one[0].variance, one[1].variance, rtol=1e-7)
        rows = [m.predict(X, groups=groups, return_std=True)[1] for m in (whole, other)]
        assert_allclose(*rows, rtol=1e-6)


def test_degrees_of_freedom_are_learned_from_a_sample_of_many_tasks(monkeypatch):
    every = fitted("auto").adaptation_.task_noise.freedom
    monkeypatch.setattr("sklearn_maml._learning.task_noise.TASKS_FOR_FREEDOM", 100)
    X, y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
    groups = np.repeat(np.arange(len(TASKS)), 10)
    whole, part = (clone(fitted("auto", random_state=0)) for _ in range(2))
    whole.fit(X, y, groups=groups)
    for rows in (slice(0, 400), slice(400, None)):
        part.partial_fit(X[rows], y[rows], groups=groups[rows])
    one, other = (m.adaptation_.task_noise.freedom for m in (whole, part))
    assert one == pytest.approx(other, rel=1e-7)
    assert abs(one - every) > 1e-3


def test_a_rule_from_before_there_was_such_a_noise_has_none():
    rule = Proximal()
    del rule.task_noise  # as of one that was pickled then
    assert rule.get_params()["task_noise"] is None
    assert clone(rule).task_noise is None


@pytest.mark.parametrize("value", [2.0, 2, 1.0, -1.0, 0, np.inf, np.nan])
def test_too_few_degrees_of_freedom_are_refused(value):
    with pytest.raises(ValueError, match="task_noise must be a finite number > 2"):
        fitted(value)


@pytest.mark.parametrize("value", ["yes", True, [4.0], TaskNoise])
def test_what_is_no_number_of_degrees_of_freedom_is_refused(value):
    with pytest.raises(TypeError, match="task_noise must be"):
        fitted(value)


@pytest.mark.parametrize("value", ["auto", 4.0])
def test_losses_without_a_noise_are_refused(value):
    counts = [(X, np.abs(np.round(y))) for X, y in TASKS[:10]]
    model = MAMLRegressor(loss="poisson", adaptation=Proximal(task_noise=value))
    with pytest.raises(ValueError, match=r"task_noise=.* has no effect with Poisson"):
        model.fit(counts)


@pytest.mark.parametrize("task_noise", [None, FREEDOM])
def test_one_variance_in_a_list_is_a_number(task_noise):
    X, y = TASKS[0]
    found = []
    for noise in (NOISE, [NOISE], np.array([NOISE])):
        rule = Proximal(1.0, SIGMA, noise=noise, task_noise=task_noise)
        adapted = MAMLRegressor(adaptation=rule, calibrate=False).fit(TASKS).adapt(X[:3], y[:3])
        found.append([*adapted.predict(X, return_std=True), *adapted.predict_interval(X)])
    for other in found[1:]:
        assert_array_equal(other, found[0])
    assert np.shape(found[0]) == (4, 10)


def test_a_rule_for_other_targets_is_refused():
    rule = fitted(FREEDOM).adaptation_
    two = [(X, np.column_stack([y, y])) for X, y in TASKS]
    with pytest.raises(ValueError, match="task_noise has degrees of freedom of shape"):
        MAMLRegressor(adaptation=rule).fit(two)
