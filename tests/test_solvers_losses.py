"""Iterative solvers, over the registries, against scipy with differences and one another."""

import re
import warnings

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of, targets_for
from registered import examples
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import PoissonRegressor

from sklearn_maml import MAMLRegressor
from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml._objective.gauss_newton_hessian import gauss_newton_hessian
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.losses import LOSSES, LogLoss, Poisson, PseudoHuber, SquaredError
from sklearn_maml.solvers import (
    LBFGS,
    SGD,
    SOLVERS,
    GaussNewton,
    GradientDescent,
    LeastSquares,
)
from sklearn_maml.solvers.coordinates import Coordinates
from sklearn_maml.solvers.damping import damped_cholesky
from sklearn_maml.solvers.lbfgs import _scaling
from sklearn_maml.solvers.stopping import negligible_gap

RULE = GradientSteps(0.5, 2, relative=True)


def small(loss, rule=RULE, alpha=0.01, **options):
    return objective_of(make_tasks(20, 8, n_features=3, seed=1), loss, rule, alpha, **options)


@pytest.mark.parametrize("episodes", [None, {"support": 3, "split": "first"}])
@pytest.mark.parametrize(
    "solver", examples(SOLVERS, lambda s: "random_state" not in s.get_params())
)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_solver_that_draws_nothing_finds_the_minimum_of_every_loss(solver, loss, episodes):
    objective = small(LOSSES[loss](), episodes=episodes)
    start = np.zeros(objective.n_parameters)
    try:
        result = solver.minimize(objective, start)
    except ValueError as refusal:
        if objective.is_quadratic or "needs a quadratic meta-objective" not in str(refusal):
            raise
        return
    value, gradient = objective.value_and_gradient(result.theta)
    assert (start == 0).all()
    assert result.converged
    assert result.n_iter == len(result.values) - 1
    assert result.values[-1] == pytest.approx(value, rel=1e-14)
    assert np.linalg.norm(gradient) < 1e-5 * (1 + abs(value))
    peer = minimize(lambda t: objective.value_and_gradient(t)[0], start, tol=1e-7)
    assert value <= peer.fun + 1e-9


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_callback_is_told_of_every_iterate(solver):
    objective, told = small(SquaredError()), []

    def callback(theta, value):
        told.append((theta.copy(), theta, value))

    result = SOLVERS[solver]().minimize(objective, objective.origin(), callback=callback)
    assert [value for *_, value in told] == list(result.values)
    assert (told[0][0] == 0).all()
    assert (told[-1][0] == result.theta).all()
    for then, now, value in told:
        assert (then == now).all()  # an array of its own
        assert objective.value(then) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_gauss_newton_is_monotone_from_far_away(loss):
    objective = small(LOSSES[loss]())
    for seed in range(3):
        far = 10 * np.random.default_rng(seed).normal(size=objective.n_parameters)
        values = GaussNewton().minimize(objective, far).values
        assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS()], ids=repr)
@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("loss", ["pseudo_huber", "log_cosh", "smoothed_quantile"])
def test_targets_in_large_units_are_reached_by_losses_that_are_straight_there(solver, loss, scale):
    tasks = [(X, scale * y) for X, y in make_tasks(20, 8, n_features=3, seed=1)]
    for n_steps in (0, 1):
        model = MAMLRegressor(loss=loss, solver=solver, n_steps=n_steps).fit(tasks)
        best = model.meta_loss_
        for theta in 1.0 + 1e-3 * np.random.default_rng(0).normal(size=(20, 3)):
            objective = objective_of(tasks, model.loss_, model.adaptation_)
            at = np.append(theta * model.coef_, model.intercept_)
            assert objective.value_and_gradient(at)[0] >= best


@pytest.mark.parametrize("solver", ["gauss_newton", "lbfgs"])
@pytest.mark.parametrize(("loss", "seed"), [("poisson", 445), ("gamma", 391), ("gamma", 1471)])
def test_a_start_where_the_loss_explodes_does_not_loosen_the_tolerance(loss, seed, solver):
    """With a log link, the loss of theta = 0 after a first step can be 1e16 times the smallest."""
    rng = np.random.default_rng(seed)
    scale, tasks = 10 ** rng.uniform(-6, 6, size=3), []
    for _ in range(4):
        X = rng.normal(size=(7, 3))
        z = X @ rng.normal(size=3)
        tasks.append((X * scale, np.exp(z) * rng.gamma(2, size=7)))
    rule = GradientSteps(0.5, 2, relative=True)
    model = MAMLRegressor(loss=loss, adaptation=rule, support=[1, 2], random_state=0, solver=solver)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.fit(tasks)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    theta = np.append(model.coef_ * scale, model.intercept_)

    def value_and_gradient(theta):
        value, gradient = objective.value_and_gradient(theta / np.append(scale, 1.0))
        return value, gradient / np.append(scale, 1.0)

    found = minimize(value_and_gradient, theta, jac=True, method="L-BFGS-B")
    assert told or found.fun >= model.meta_loss_ * (1 - 1e-6)


@pytest.mark.parametrize(("solver", "start"), [(GaussNewton(), 60.0), (LBFGS(), 10.0)], ids=repr)
def test_predictions_far_from_the_data_are_survived(solver, start):
    tasks = make_tasks(20, 8, n_features=3, seed=1)
    objective = objective_of(tasks, Poisson(), GradientSteps(0.1), 0.0)
    result = solver.minimize(objective, np.array([0.0, 0.0, 0.0, start]))
    assert np.isfinite(result.values).all()
    assert result.values[-1] < 1.0


@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS()], ids=repr)
@pytest.mark.parametrize("loss", [PseudoHuber(), LogLoss()], ids=repr)
def test_more_features_than_rows(solver, loss):
    tasks = [(X, (y > 0) * 1.0) for X, y in make_tasks(4, 5, n_features=40, seed=2)]
    objective = objective_of(tasks, loss, RULE, 0.0)
    result = solver.minimize(objective, np.zeros(objective.n_parameters))
    assert result.converged
    assert result.values[-1] < 1e-6


class DiagonalLBFGS(LBFGS):
    MAX_DENSE = 1


def test_a_diagonal_preconditioner_reaches_the_same_minimum():
    objective = small(PseudoHuber())
    expected = GaussNewton().minimize(objective, np.zeros(4)).values[-1]
    found = DiagonalLBFGS().minimize(objective, np.zeros(4)).values[-1]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n_targets", [0, 2])
@pytest.mark.parametrize("dense", [True, False])
def test_the_coordinates_of_lbfgs_have_a_hessian_of_ones_and_slopes_to_match(dense, n_targets):
    """``g' (W x) = (W' g)' x``; W' H W is 1, or has a diagonal of ones where H is not formed."""
    tasks = [(X * [0.01, 1.0, 100.0], y) for X, y in make_tasks(20, 8, n_features=3, seed=1)]
    if n_targets:
        tasks = [(X, np.column_stack([y, 2 * y + X[:, 1]])) for X, y in tasks]
    objective = objective_of(tasks, PseudoHuber(), RULE, 0.01)
    theta = objective.origin() + 0.1
    make = Coordinates.choose if dense else Coordinates.plain
    to_y, to_slope = _scaling(*make(objective, theta))
    rng, hessian = np.random.default_rng(0), gauss_newton_hessian(objective, theta)
    x, g = rng.normal(size=(2, *theta.shape))
    assert (g * to_y(x)).sum() == pytest.approx((to_slope(g) * x).sum(), rel=1e-12)
    for k, e in enumerate(np.eye(4)):
        ones = np.zeros_like(theta) + e
        curved = to_slope(np.matmul(hessian, to_y(ones)[..., None])[..., 0])
        np.testing.assert_allclose(
            curved if dense else curved[..., k], ones if dense else 1, atol=1e-7
        )


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_gap_that_is_negligible_is_a_share_of_the_loss_between_bounds(unit):
    """Without steps all starts are one: predictions of 0, from where a loss may fall by 1e-10."""
    tasks = [(X, unit * y) for X, y in make_tasks(5, 8, n_features=3, seed=1)]
    objective = objective_of(tasks, SquaredError(), GradientSteps(0.1, 0))
    top, enough = objective.value(np.zeros(4)), negligible_gap(objective, 1e-6)
    for share, wanted in ((1e-20, 1e-16), (1e-9, 1e-15), (0.5, 5e-7), (30.0, 1e-6)):
        assert enough(share * top) == pytest.approx(wanted * top, rel=1e-9, abs=0)
    assert negligible_gap(objective, 0.0)(top) == pytest.approx(1e-15 * top, rel=1e-9, abs=0)


class Alone:
    """An objective that is infinite but at one place, so that solvers stop where they start."""

    def __init__(self, objective, place):
        self.objective, self.place = objective, place

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def value_and_gradient(self, theta):
        if (theta == self.place).all():
            return self.objective.value_and_gradient(theta)
        return np.inf, np.zeros_like(theta)


@pytest.mark.parametrize("solver", [GaussNewton(max_iter=1), LBFGS(max_iter=1)], ids=repr)
def test_the_gap_that_a_solver_tells_is_that_of_a_quadratic(solver):
    """``g' H^-1 g / 2`` with its Hessian is ``L - min L``."""
    objective, start = small(SquaredError()), np.ones(4)
    best = LeastSquares().minimize(objective, np.zeros(4)).values[-1]
    with pytest.warns(ConvergenceWarning) as told:
        solver.minimize(Alone(objective, start), start)
    (got,) = re.findall(r"estimated gap ([^,]+),", str(told[0].message))
    assert float(got) == pytest.approx(objective.value(start) - best, rel=1e-2)


def test_steps_of_gradient_descent_are_halved_until_one_does_not_rise(monkeypatch):
    """From 64 times the inverse curvature: some power of two of it is taken."""
    objective = small(SquaredError())
    gradient = objective.value_and_gradient(np.zeros(4))[1]
    unit = 1.0 / np.linalg.eigvalsh(gauss_newton_hessian(objective, np.zeros(4)))[-1]
    for times in (64.0, 0.5):
        monkeypatch.setattr(
            "sklearn_maml.solvers.gradient_descent._inverse_curvature", lambda H, t=times: t * unit
        )
        with pytest.warns(ConvergenceWarning):
            theta = GradientDescent(max_iter=1).minimize(objective, np.zeros(4)).theta
        length = times
        while objective.value(-length * unit * gradient) > objective.value(np.zeros(4)):
            length /= 2
        np.testing.assert_allclose(theta, -length * unit * gradient, rtol=1e-9)
        assert (length < times) == (times > 1)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_gradient_descent_stops_at_a_share_of_the_first_gradient_in_any_unit(unit):
    tasks = [(X, unit * y) for X, y in make_tasks(20, 8, n_features=3, seed=1)]
    objective = objective_of(tasks, SquaredError(), RULE, 0.01)
    result = GradientDescent(tol=1e-3).minimize(objective, np.zeros(4))
    sizes = [
        np.linalg.norm(objective.value_and_gradient(t)[1]) for t in (np.zeros(4), result.theta)
    ]
    assert 1e-5 * sizes[0] < sizes[1] <= 1e-3 * sizes[0]


def test_a_verbose_sgd_tells_the_loss_of_each_epoch(caplog):
    caplog.set_level("INFO", logger="sklearn_maml")
    objective = small(PseudoHuber()).vary(verbose=1)
    values = SGD(n_epochs=2, random_state=0).minimize(objective, np.zeros(4)).values
    for epoch, value in enumerate(values[1:], start=1):
        assert f"epoch {epoch}: meta-loss {value:.8g}" in caplog.text


@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS(), GradientDescent(tol=1e-8)], ids=repr)
def test_several_targets_are_several_problems(solver):
    rng = np.random.default_rng(3)
    tasks = [(rng.normal(size=(9, 3)), rng.normal(size=(9, 2))) for _ in range(6)]
    both = objective_of(tasks, PseudoHuber(), RULE, 0.01)
    theta = solver.minimize(both, np.zeros((2, 4))).theta
    for k in range(2):
        one = objective_of([(X, y[:, k]) for X, y in tasks], PseudoHuber(), RULE, 0.01)
        alone = solver.minimize(one, np.zeros(4)).theta
        np.testing.assert_allclose(theta[k], alone, atol=1e-5)


def test_gradient_descent_is_the_papers_iteration():
    def schedule(iteration):
        return 0.1 / (1 + iteration)

    objective = small(PseudoHuber())
    result = GradientDescent(schedule, max_iter=3, tol=1.0).minimize(objective, np.zeros(4))
    assert result.n_iter == 0
    with pytest.warns(ConvergenceWarning, match="gradient norm"):
        result = GradientDescent(schedule, max_iter=3).minimize(objective, np.zeros(4))
    theta = np.zeros(4)
    for i in range(3):
        theta = theta - schedule(i) * objective.value_and_gradient(theta)[1]
    np.testing.assert_allclose(result.theta, theta, rtol=1e-13)


def test_gradient_descent_with_too_long_steps_says_so():
    objective = small(SquaredError())
    with pytest.warns(ConvergenceWarning, match="GradientDescent stopped"):
        GradientDescent(1e3).minimize(objective, np.zeros(4))


@pytest.mark.parametrize("solver", [GaussNewton(max_iter=1), LBFGS(max_iter=1)], ids=repr)
def test_stopping_early_warns_with_got_wanted_and_remedy(solver):
    objective = small(PseudoHuber())
    with pytest.warns(ConvergenceWarning, match=r"after 1 iter.*wanted at most.*Raise max_iter=1"):
        result = solver.minimize(objective, np.zeros(4))
    assert not result.converged


@pytest.mark.parametrize("method", ["momentum", "adam"])
@pytest.mark.parametrize("loss", LOSSES)
def test_sgd_comes_near_the_minimum(loss, method):
    objective = small(LOSSES[loss]())
    best = GaussNewton().minimize(objective, np.zeros(4)).values[-1]
    solver = SGD(0.02, batch_size=4, n_epochs=50, method=method, random_state=0)
    result = solver.minimize(objective, np.zeros(4))
    assert result.n_iter == 50 == len(result.values) - 1
    assert result.values[-1] - best < 0.1 * (result.values[0] - best)


@pytest.mark.parametrize("method", ["momentum", "adam"])
def test_sgd_repeats_itself(method):
    objective = small(PseudoHuber())
    solver = SGD(0.02, batch_size=4, n_epochs=5, method=method, random_state=0)
    first, second = (solver.minimize(objective, np.zeros(4)).theta for _ in range(2))
    assert (first == second).all()
    other = SGD(0.02, batch_size=4, n_epochs=5, method=method, random_state=1)
    assert (other.minimize(objective, np.zeros(4)).theta != first).any()


@pytest.mark.parametrize("episodes", [None, {"support": 3}, {"support": (1, 2), "n_episodes": 2}])
def test_batches_average_to_the_gradient(episodes):
    tasks = [task for m in (5, 9, 30) for task in make_tasks(7, m, n_features=3, seed=m)]
    objective = objective_of(tasks, PseudoHuber(), RULE, 0.1, episodes=episodes)
    theta = np.random.default_rng(4).normal(size=4)
    parts = [f(theta) for f in objective.batches(4, np.random.RandomState(0))]
    assert len(parts) > 5
    gradient = objective.value_and_gradient(theta)[1]
    np.testing.assert_allclose(np.mean(parts, axis=0), gradient, rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_batch_of_one_has_the_gradient_of_that_task_alone_and_of_the_whole_penalty(alpha):
    tasks = [task for m in (5, 9, 30) for task in make_tasks(3, m, n_features=3, seed=m)]
    theta = np.random.default_rng(4).normal(size=4)
    objective = objective_of(tasks, PseudoHuber(), RULE, alpha)
    found = [f(theta) for f in objective.batches(1, np.random.RandomState(0))]
    wanted = [
        objective_of([task], PseudoHuber(), RULE, alpha).value_and_gradient(theta)[1]
        for task in tasks
    ]
    found, wanted = (np.array(sorted(map(tuple, rows))) for rows in (found, wanted))
    np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_blocks_of_tasks_come_in_random_order():
    tasks = [make_tasks(1, m, n_features=3, seed=m)[0] for m in (5, 30)]
    objective, theta = objective_of(tasks, PseudoHuber(), RULE), np.ones(4)
    passes = [objective.batches(5, np.random.RandomState(seed)) for seed in range(30)]
    firsts = {tuple(next(batches)(theta)) for batches in passes}
    assert len(firsts) >= len(objective.blocks) > 1


@pytest.mark.parametrize(("size", "n_batches"), [(1, 7), (3, 3), (7, 1), (100, 1)])
def test_an_epoch_is_of_batches_of_the_size_that_is_asked_for(size, n_batches):
    objective = objective_of(make_tasks(7, 5, n_features=3), PseudoHuber(), RULE, 0.1)
    counted = Counted(objective)
    SGD(0.01, size, 2, random_state=0).minimize(counted, np.zeros(4))
    assert counted.n_batches == 2 * n_batches


class Counted:
    """An objective that counts the batches that are drawn from it."""

    def __init__(self, objective):
        self.objective, self.n_batches = objective, 0

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def batches(self, size, random):
        for part in self.objective.batches(size, random):
            self.n_batches += 1
            yield part


def test_sgd_that_diverges_raises():
    objective = small(Poisson(), GradientSteps(0.1, cap=False))
    with pytest.raises(FloatingPointError, match=r"diverged in epoch 1.*smaller learning_rate"):
        SGD(1e6, random_state=0).minimize(objective, np.zeros(4))


@pytest.mark.parametrize("solver", [LeastSquares(), GaussNewton(), LBFGS()], ids=repr)
def test_solvers_that_need_the_true_gradient_refuse_first_order_rules(solver):
    objective = small(SquaredError(), GradientSteps(0.1, first_order=True))
    with pytest.raises(ValueError, match=r"GradientSteps has first_order=True.*gradient_descent"):
        solver.minimize(objective, np.zeros(4))


@pytest.mark.parametrize("loss", ["squared_error", "pseudo_huber"])
def test_first_order_costs_something_and_auto_chooses_a_solver_for_it(loss):
    tasks = make_tasks(20, 8, n_features=3, seed=1)
    short = MAMLRegressor(loss=loss, adaptation=GradientSteps(0.3, 2, first_order=True)).fit(tasks)
    full = MAMLRegressor(loss=loss, adaptation=GradientSteps(0.3, 2)).fit(tasks)
    assert short.meta_loss_ > full.meta_loss_
    assert short.gap_certificate_.bound >= short.meta_loss_ - full.meta_loss_
    assert short.gap_certificate_.epsilon > 1e-3  # of the true gradient


@pytest.mark.parametrize("solver", ["auto", "gauss_newton", "lbfgs"])
def test_without_steps_the_fit_is_that_of_scikit_learn(solver):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(80, 3))
    y = rng.poisson(np.exp(0.5 * X @ [1.0, -1.0, 0.5] + 0.3)).astype(float)
    peer = PoissonRegressor(alpha=0.05, tol=1e-10, solver="newton-cholesky").fit(X, y)
    model = MAMLRegressor(n_steps=0, inner_lr=0.1, loss="poisson", alpha=0.05, solver=solver)
    model.fit(X, y)
    np.testing.assert_allclose(model.coef_, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(model.predict(X), peer.predict(X), rtol=1e-5)
    assert model.meta_loss_ > 0


@pytest.mark.parametrize(
    ("solver", "name", "error"),
    [
        (GaussNewton(tol=-1), "tol", ValueError),
        (GaussNewton(max_iter=0), "max_iter", ValueError),
        (LBFGS(tol="0"), "tol", TypeError),
        (LBFGS(max_iter=1.0), "max_iter", TypeError),
        (GradientDescent(0.0), "learning_rate", ValueError),
        (GradientDescent("fast"), "learning_rate", TypeError),
        (SGD(np.inf), "learning_rate", ValueError),
        (SGD(batch_size=0), "batch_size", ValueError),
        (SGD(n_epochs=True), "n_epochs", TypeError),
        (SGD(momentum=1.0), "momentum", ValueError),
        (SGD(momentum=-0.1), "momentum", ValueError),
        (SGD(momentum="heavy"), "momentum", TypeError),
        (SGD(method="rmsprop"), "method", ValueError),
    ],
    ids=repr,
)
def test_bad_hyperparameters_are_named(solver, name, error):
    with pytest.raises(error, match=f"^{name} must be"):
        solver.validate()


def test_targets_for_other_losses_are_refused_by_the_estimator():
    tasks = make_tasks(5, 8)
    with pytest.raises(ValueError, match=r"Poisson.*targets >= 0"):
        MAMLRegressor("auto", loss="poisson").fit(tasks)
    good = [(X, targets_for(Poisson(), y)) for X, y in tasks]
    model = MAMLRegressor("auto", loss="poisson").fit(good)
    with pytest.raises(ValueError, match=r"Poisson.*targets >= 0"):
        model.adapt(*tasks[0])


class Misled:
    """An objective whose gradient points uphill, or which is not finite away from the start."""

    def __init__(self, objective, limit=np.inf):
        self.objective, self.limit = objective, limit
        self.sign = -1.0 if limit == np.inf else 1.0

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def value_and_gradient(self, theta):
        value, gradient = self.objective.value_and_gradient(theta)
        inside = np.linalg.norm(theta) <= self.limit
        return (value if inside else np.inf), self.sign * gradient


@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS()], ids=repr)
def test_a_solver_that_cannot_go_down_stops_with_a_warning(solver):
    objective, start = Misled(small(PseudoHuber())), np.zeros(4)
    with pytest.warns(ConvergenceWarning, match="stopped after"):
        result = solver.minimize(objective, start)
    assert not result.converged
    assert (result.theta == start).all()


@pytest.mark.parametrize("solver", [GaussNewton(max_iter=20), LBFGS(max_iter=20)], ids=repr)
def test_steps_into_infinity_are_taken_back(solver):
    objective = Misled(small(PseudoHuber()), limit=0.1)
    with pytest.warns(ConvergenceWarning, match="stopped after"):
        result = solver.minimize(objective, np.zeros(4))
    assert np.linalg.norm(result.theta) <= 0.1
    assert result.values[-1] < result.values[0]


def test_a_singular_hessian_is_damped_until_it_can_be_factorised():
    hessian = np.array([[4.0, 4.0], [4.0, 4.0]])
    lower = damped_cholesky(hessian, 0.0)
    null = 4.0 * np.array([[0.5, -0.5], [-0.5, 0.5]])  # as curved as the diagonal says
    np.testing.assert_allclose(lower @ lower.T, hessian + null, rtol=1e-10)
    assert np.isfinite(damped_cholesky(np.zeros((3, 3)), 1e-3)).all()


def test_a_strong_damping_leaves_null_directions_to_itself():
    """Their eigenvalues cost ten times as much as a factor, and would change the step by little."""
    hessian = np.array([[4.0, 4.0], [4.0, 4.0]])
    lower = damped_cholesky(hessian, 0.1)
    np.testing.assert_allclose(lower @ lower.T, hessian + 0.4 * np.eye(2), rtol=1e-12)


@pytest.mark.parametrize("theta", [[3.0, 7.0, 3.0, -11.0], [0.5, -0.6, 0.7, 0.4]])
@pytest.mark.parametrize("solver", [GaussNewton(), LBFGS()], ids=repr)
def test_a_start_from_which_predictions_overflow_is_said_to_be_one(solver, theta):
    """In words, and not in numpy's: warnings of numpy are errors here."""
    objective = small(Poisson(), GradientSteps(1.0, 2, cap=False))
    assert not np.isfinite(objective.value_and_gradient(np.array(theta))[0])
    with pytest.warns(ConvergenceWarning, match=r"predictions overflow.*smaller inner_lr"):
        result = solver.minimize(objective, np.array(theta))
    assert not result.converged


@pytest.mark.parametrize(("length", "cap", "share"), [(0.001, False, 0), (5.0, True, 1)])
def test_steps_of_a_loss_of_unbounded_curvature_are_judged_at_its_targets(length, cap, share):
    """No infinity is multiplied by nothing: warnings of numpy are errors here."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    y = rng.poisson(np.exp(X[:, 0])).astype(float)
    model = MAMLRegressor(loss="poisson", adaptation=GradientSteps(length, 2, cap=cap))
    model.fit(X, y, groups=np.repeat(np.arange(6), 10))
    assert model.capped_share_ == pytest.approx(share)


@pytest.mark.parametrize("method", ["momentum", "adam"])
def test_whole_batches_take_the_steps_of_the_papers(method):
    objective = objective_of(make_tasks(6, 5), PseudoHuber(), GradientSteps(0.1), 0.1)
    theta = objective.origin()
    told, velocity, square = [theta], 0.0, 0.0
    for t in range(1, 6):  # Kingma & Ba, algorithm 1; without it Polyak's heavy ball
        gradient = objective.value_and_gradient(theta)[1]
        if method == "adam":
            velocity = 0.8 * velocity + 0.2 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            first, second = velocity / (1 - 0.8**t), square / (1 - 0.999**t)
            theta = theta - 0.05 * first / (np.sqrt(second) + 1e-8)
        else:
            velocity = 0.8 * velocity + gradient
            theta = theta - 0.05 * velocity
        told.append(theta)
    solver, found = SGD(0.05, 100, 5, method=method, momentum=0.8, random_state=0), []
    result = solver.minimize(objective, objective.origin(), lambda at, _: found.append(at))
    np.testing.assert_allclose(found, told, rtol=1e-10)
    np.testing.assert_allclose(result.theta, told[-1], rtol=1e-10)


@pytest.mark.parametrize("units", [np.ones(4), np.array([0.01, 1.0, 10.0, 100.0])])
def test_null_directions_count_as_curved_like_the_diagonal_and_others_as_they_are(units):
    root = np.random.default_rng(0).normal(size=(4, 2))
    hessian = root @ root.T
    scale = np.sqrt(np.diagonal(hessian))
    unit = hessian / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(unit)
    whole = unit + vectors[:, :2] @ vectors[:, :2].T
    lower = damped_cholesky(hessian * np.outer(units, units), 1e-9)
    found = lower @ lower.T / np.outer(scale * units, scale * units)
    np.testing.assert_allclose(found, whole, atol=1e-8)
    assert values[1] < 1e-14 < 0.1 < values[2]
