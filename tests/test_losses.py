"""Losses: truth by complex step, finite differences, scikit-learn's metrics and its GLMs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from registered import examples
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    TweedieRegressor,
)
from sklearn.metrics import (
    log_loss,
    mean_gamma_deviance,
    mean_poisson_deviance,
    mean_tweedie_deviance,
)

from sklearn_maml.losses import (
    LOSSES,
    Gamma,
    LogCosh,
    LogLoss,
    Loss,
    Poisson,
    PseudoHuber,
    SmoothedQuantile,
    SquaredError,
    Tweedie,
)

each_loss = pytest.mark.parametrize("loss", examples(LOSSES))


def targets(loss, size, rng):
    """Targets that the loss is defined for, with its boundary cases: the widest range of four."""
    amounts = np.r_[0.0, rng.gamma(1.5, 3.0, size - 1)]
    shares = np.r_[0.0, 1.0, rng.random(size - 2)]
    for y in (3 * rng.standard_normal(size), amounts, amounts + 1e-3):
        try:
            loss.check_targets(y)
        except ValueError:
            continue
        return y
    return shares


def reals_about(z, rng):
    return z + rng.standard_normal(len(z))


def amounts_about(z, rng):
    return rng.gamma(2.0, np.exp(z) / 2) + 0.01


def labels_about(z, rng):
    return (rng.random(len(z)) < 1 / (1 + np.exp(-2 * z))).astype(float)


@pytest.fixture
def sample(loss):
    rng = np.random.default_rng(0)
    y = targets(loss, 200, rng)
    return y, rng.uniform(-6, 6, 200)


@each_loss
@pytest.mark.parametrize("name", ["value", "gradient", "hessian"])
def test_each_derivative_is_that_of_the_one_before_by_finite_differences(loss, name, sample):
    y, z = sample
    derivative = {"value": "gradient", "gradient": "hessian", "hessian": "third"}[name]
    f, h = getattr(loss, name), 1e-3 * min(1.0, getattr(loss, "smoothing", 1.0))
    # Fourth order in h: five points.
    numeric = (f(y, z - 2 * h) - 8 * f(y, z - h) + 8 * f(y, z + h) - f(y, z + 2 * h)) / (12 * h)
    exact = getattr(loss, derivative)(y, z)
    assert exact.shape == y.shape
    assert_allclose(exact, numeric, rtol=1e-6, atol=1e-6 * np.abs(exact).max())


@each_loss
def test_everything_is_finite_at_extreme_predictions(loss):
    y = targets(loss, 50, np.random.default_rng(1))[:, None]
    z = np.array([-700.0, -300.0, -40.0, 0.0, 40.0, 300.0, 700.0])
    for name in ("value", "gradient", "hessian", "third", "inverse_link"):
        f = getattr(loss, name)
        result = f(z) if name == "inverse_link" else f(y, z)
        assert np.isfinite(result).all(), name
    assert (loss.hessian(y, z) >= 0).all()
    assert (np.diff(loss.gradient(y, z), axis=1) >= 0).all()


@each_loss
def test_far_from_the_target_the_derivative_is_still_right(loss):
    y = targets(loss, 20, np.random.default_rng(2))[:, None]
    z = np.array([-600.0, -100.0, 100.0, 600.0])
    h = 1e-4
    numeric = (loss.value(y, z + h) - loss.value(y, z - h)) / (2 * h)
    assert_allclose(loss.gradient(y, z), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("far", [1e100, 1e160, 1e300])
@pytest.mark.parametrize("loss", [PseudoHuber(2.0), LogCosh(), SmoothedQuantile(0.3)], ids=repr)
def test_no_residual_is_too_large_for_losses_that_grow_like_lines(loss, far):
    for z in (far, -far):
        assert_allclose(loss.value(0.5, z), np.abs(loss.gradient(0.5, z)) * far, rtol=1e-12)
        assert np.abs(loss.gradient(0.5, z)) > 0.2
        assert 0 <= loss.hessian(0.5, z) < 1e-200


@each_loss
@pytest.mark.parametrize("order", ["gradient", "hessian", "third"])
def test_bounds_are_suprema(loss, order):
    bound = getattr(loss, f"{order}_bound")
    y = targets(loss, 30, np.random.default_rng(3))[:, None]
    z = y + max(1.0, getattr(loss, "delta", 0.0)) * np.linspace(-60, 60, 20_001)
    largest = np.abs(getattr(loss, order)(y, z)).max()
    if np.isinf(bound):
        assert largest > 50
    else:
        assert largest <= bound * (1 + 1e-12)
        assert largest >= 0.99 * bound


@each_loss
def test_constant_hessian_says_whether_the_hessian_is_constant(loss, sample):
    y, z = sample
    assert (np.ptp(loss.hessian(y, z)) == 0) == loss.constant_hessian


@each_loss
def test_dual_is_the_infimum_of_the_loss_minus_a_line(loss, sample):
    y, z = sample
    slope = loss.gradient(y, z)  # attained at z itself
    exact = loss.value(y, z) - slope * z
    scale = 1 + np.abs(loss.value(y, z)) + np.abs(slope * z)
    assert_allclose(loss.dual(y, slope) / scale, exact / scale, atol=1e-10)
    assert_allclose(Loss.dual(loss, y, slope) / scale, exact / scale, atol=1e-10)


@each_loss
def test_dual_at_slope_zero_is_below_every_value(loss, sample):
    y, _ = sample
    infimum = loss.dual(y, 0.0)
    assert np.isfinite(infimum).all()
    assert (loss.value(y[:, None], np.linspace(-50, 50, 999)) >= infimum[:, None] - 1e-12).all()
    assert_allclose(Loss.dual(loss, y, 0.0), infimum, atol=1e-9)


@pytest.mark.parametrize(
    ("loss", "y", "slope"),
    [
        (PseudoHuber(0.5), 0.0, 1.01),
        (LogCosh(), 0.0, -1.01),
        (SmoothedQuantile(0.9), 0.0, 0.2),
        (Poisson(), 1.0, -2.1),
        (Gamma(), 1.0, 2.1),
        (LogLoss(), 1.0, 0.1),
    ],
)
def test_dual_is_minus_infinity_for_slopes_that_the_loss_never_has(loss, y, slope):
    assert loss.dual(y, slope) == -np.inf
    assert Loss.dual(loss, y, slope) == -np.inf


@pytest.mark.parametrize("loss", examples(LOSSES, lambda x: np.isinf(x.hessian_bound)))
def test_the_saturated_hessian_is_the_hessian_at_the_target(loss):
    y = np.array([0.5, 1.0, 7.0])
    assert_allclose(loss.saturated_hessian(y), loss.hessian(y, np.log(y)))
    assert_allclose(loss.inverse_link(np.log(y)), y)


def test_a_loss_without_third_derivative_says_what_to_do():
    with pytest.raises(NotImplementedError, match=r"hessian_bound.*cap=False"):
        Loss().third(0.0, 0.0)
    assert Loss().saturated_hessian(np.ones(3)).sum() == 0
    assert Loss().inverse_link(3.0) == 3.0
    assert Loss().check_targets(np.array([-1.0])) is None


@pytest.mark.parametrize(
    ("loss", "metric", "draw"),
    [
        (Poisson(), mean_poisson_deviance, amounts_about),
        (Gamma(), mean_gamma_deviance, amounts_about),
        (Tweedie(1.5), lambda y, mu: mean_tweedie_deviance(y, mu, power=1.5), amounts_about),
        (LogLoss(), log_loss, labels_about),
    ],
    ids=["poisson", "gamma", "tweedie", "log_loss"],
)
def test_a_risk_is_the_metric_of_scikit_learn(loss, metric, draw):
    rng = np.random.default_rng(4)
    y, z = draw(np.zeros(50), rng), rng.standard_normal(50)
    assert_allclose(loss.value(y, z).mean(), metric(y, loss.inverse_link(z)))


def test_limits_are_the_losses_that_they_smooth():
    y, z = np.zeros(5), np.array([-3.0, -0.1, 0.0, 0.2, 4.0])
    assert_allclose(PseudoHuber(1e6).value(y, z), z**2, rtol=1e-9)
    assert_allclose(
        SmoothedQuantile(0.3, 1e-9).value(y, z), np.maximum(0.7 * z, -0.3 * z), atol=1e-9
    )
    assert_allclose(LogCosh().value(y, 1e-6 * z), 0.5e-12 * z**2, rtol=1e-6)


@pytest.mark.parametrize("value", [-1.0, 0.0, np.inf, np.nan, "1", None, True])
@pytest.mark.parametrize("name", ["delta", "smoothing", "quantile", "power"])
def test_hyperparameters_out_of_range_are_refused_by_name(name, value):
    cls = {"delta": PseudoHuber, "power": Tweedie}.get(name, SmoothedQuantile)
    with pytest.raises((TypeError, ValueError), match=name):
        cls(**{name: value}).validate()


def test_quantile_one_and_power_three_are_refused():
    with pytest.raises(ValueError, match=r"quantile must be inside \(0, 1\); got 1.0"):
        SmoothedQuantile(1.0).validate()
    with pytest.raises(ValueError, match=r"power must be in \[1, 2\].*convex.*got 3"):
        Tweedie(3.0).validate()


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (Poisson(), -1.0, r"Poisson.*targets >= 0; the smallest of y is -1"),
        (Gamma(), 0.0, r"Gamma.*positive targets; the smallest of y is 0"),
        (Tweedie(1.5), -0.5, r"Tweedie.*targets >= 0"),
        (LogLoss(), 2.0, r"LogLoss needs targets in \[0, 1\].*to 2"),
    ],
    ids=repr,
)
def test_targets_outside_the_range_are_refused(loss, y, message):
    with pytest.raises(ValueError, match=message):
        loss.check_targets(np.array([0.5, y]))
    loss.check_targets(np.array([0.5, 1.0]))


def minimiser(loss, X, y, alpha):
    """The pooled fit, by Newton steps with halving: an independent, naive solver."""
    design = np.column_stack([X, np.ones(len(X))])
    penalty = np.append(np.full(X.shape[1], alpha), 0.0)

    def risk(t):
        return loss.value(y, design @ t).mean() + (penalty * t**2).sum()

    t = np.zeros(design.shape[1])
    for _ in range(200):
        z = design @ t
        slope = design.T @ loss.gradient(y, z) / len(y) + 2 * penalty * t
        weight = loss.hessian(y, z) / len(y) + 1e-12
        step = np.linalg.solve((design.T * weight) @ design + 2 * np.diag(penalty), slope)
        size = 1.0
        while risk(t - size * step) > risk(t) and size > 1e-12:
            size /= 2
        t = t - size * step
    return t


@pytest.mark.parametrize(
    ("loss", "draw", "peer"),
    [
        (SquaredError(), reals_about, Ridge(alpha=0.05 * 80, tol=1e-14)),
        (
            Poisson(),
            amounts_about,
            PoissonRegressor(alpha=0.05, tol=1e-10, solver="newton-cholesky"),
        ),
        (Gamma(), amounts_about, GammaRegressor(alpha=0.05, tol=1e-10, solver="newton-cholesky")),
        (
            Tweedie(1.5),
            amounts_about,
            TweedieRegressor(
                power=1.5, link="log", alpha=0.05, tol=1e-10, solver="newton-cholesky"
            ),
        ),
        (
            LogLoss(),
            labels_about,
            LogisticRegression(C=1 / (2 * 0.05 * 80), tol=1e-12, solver="newton-cholesky"),
        ),
    ],
    ids=["squared_error", "poisson", "gamma", "tweedie", "log_loss"],
)
def test_the_pooled_fit_is_that_of_scikit_learn(loss, draw, peer):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((80, 3))
    z = 0.5 * X @ [1.0, -1.0, 0.5] + 0.3
    y = draw(z, rng)
    peer.fit(X, y)
    expected = np.append(peer.coef_.ravel(), peer.intercept_)
    # scikit-learn halves deviances and penalties both, and only its Ridge sums over rows.
    assert_allclose(minimiser(loss, X, y, 0.05), expected, atol=1e-6)


def test_huber_and_quantile_fits_are_near_those_of_scikit_learn():
    rng = np.random.default_rng(6)
    X = rng.standard_normal((300, 2))
    y = X @ [1.0, 2.0] + rng.standard_t(3, 300)
    huber = HuberRegressor(alpha=0.0).fit(X, y)
    ours = minimiser(PseudoHuber(1.35 * huber.scale_), X, y, 0.0)
    assert_allclose(ours, np.append(huber.coef_, huber.intercept_), atol=0.05)
    median = QuantileRegressor(quantile=0.7, alpha=0.0).fit(X, y)
    ours = minimiser(SmoothedQuantile(0.7, 0.02), X, y, 0.0)
    assert_allclose(ours, np.append(median.coef_, median.intercept_), atol=0.05)


@each_loss
def test_arguments_broadcast(loss):
    y, z = targets(loss, 7, np.random.default_rng(7)), np.linspace(-3, 3, 5)
    for f in (loss.value, loss.gradient, loss.hessian, loss.third, loss.dual):
        assert f(y[:, None], 0.1 * z[None, :]).shape == (7, 5)
    assert isinstance(float(loss.hessian(1.0, 0.0)), float)
