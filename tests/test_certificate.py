"""The certificate against the true gap, at optima and at random parameters."""

import pickle
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
from families import ILL_POSED, UNEQUAL_UNITS, WELL_POSED, make_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import make_objective, objective_of, smallest_loss
from reference import adapted_design, meta_loss, with_ones
from small_parts import Shift

from sklearn_maml import GapCertificate, MAMLRegressor, Proximal, SquaredError, certify
from sklearn_maml._tasks import stacks
from sklearn_maml.adaptation import AdaptationRule, GradientSteps
from sklearn_maml.solvers import LeastSquares

FAMILIES = {**WELL_POSED, **ILL_POSED, **UNEQUAL_UNITS}


@pytest.mark.parametrize("n_steps", [1, 2, 50])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_bound_holds_at_random_parameters_and_every_radius(name, n_steps):
    objective = make_objective(FAMILIES[name](), n_steps=n_steps)
    best, rng = smallest_loss(objective), np.random.default_rng(0)
    for size in (1e-8, 1e-3, 1.0, 1e3):
        theta = size * rng.normal(size=objective.n_parameters)
        certificate = certify(objective, theta)
        gap = objective.value_and_gradient(theta)[0] - best
        assert gap <= certificate.bound * (1 + 1e-9)
        for radius in certificate.radius * np.array([0.0, 1e-3, 0.5, 1.0, 2.0, 1e3]):
            assert gap <= certificate.at(radius) * (1 + 1e-9)


@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_at_the_fit_the_bound_is_rounding_and_the_lower_bound_is_below_the_minimum(name, n_steps):
    tasks = FAMILIES[name]()
    objective = make_objective(tasks, n_steps=n_steps)
    certificate = MAMLRegressor(0.02, n_steps).fit(tasks).gap_certificate_
    scale = objective.value_and_gradient(np.zeros(objective.n_parameters))[0]
    best = smallest_loss(objective) * (1 + 1e-13)  # lstsq rounds too
    assert certificate.lower_bound <= best + certificate.rounding
    if name in WELL_POSED:  # offsets and small directions cost digits of the predictions
        assert certificate.bound <= (1e-12 if name in ("plain", "wide tasks") else 1e-9) * scale


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.01, 1.0]),
    st.sampled_from([{}, {"support": 0.5}, {"support": (0, 1), "n_episodes": 2}]),
    st.integers(0, 1000),
)
def test_the_bound_holds_for_any_small_problem(n_tasks, n_rows, d, alpha, episodes, seed):
    rng = np.random.default_rng(seed)
    tasks = make_tasks(n_tasks, n_rows + 1, n_features=d, seed=seed)
    objective = make_objective(tasks, 0.3, 2, alpha=alpha, episodes=episodes)
    theta = rng.normal(size=d + 1)
    certificate = certify(objective, theta)
    gap = certificate.meta_loss - smallest_loss(objective)
    assert -1e-12 * certificate.meta_loss <= gap <= certificate.bound * (1 + 1e-9)


def test_every_term_is_what_the_theorem_says():
    tasks, rng = make_tasks(7, 6, n_features=3), np.random.default_rng(0)
    theta = rng.normal(size=4)
    certificate = certify(make_objective(tasks, 0.02, 2, cap=False), theta)
    episodes = [((with_ones(X), y),) * 2 for X, y in tasks]
    value = meta_loss(theta, episodes, 0.02, 2)
    h = 1e-6 * np.eye(4)
    gradient = [
        (meta_loss(theta + e, episodes, 0.02, 2) - meta_loss(theta - e, episodes, 0.02, 2)) / 2e-6
        for e in h
    ]
    assert certificate.meta_loss == pytest.approx(value, rel=1e-12)
    assert certificate.epsilon == pytest.approx(np.linalg.norm(gradient), rel=1e-7)
    assert certificate.weight_norm == pytest.approx(2 * np.sqrt(value), rel=1e-12)
    # The representation error at the best radius, from the stacked adapted design.
    design, target = adapted_design(tasks, 0.02, 2)
    to_optimum = theta - np.linalg.lstsq(design, target, rcond=None)[0]
    radius = certificate.radius
    lam = bisect(lambda lam: ridge(design, to_optimum, lam), radius)
    error = np.linalg.norm(design @ (to_optimum - ridge(design, to_optimum, lam)))
    assert certificate.representation_error == pytest.approx(error, rel=1e-4, abs=1e-9)
    assert certificate.bound == pytest.approx(
        radius * certificate.epsilon + certificate.weight_norm * error, rel=1e-4
    )


def ridge(design, to_optimum, lam):
    gram = design.T @ design
    return np.linalg.solve(gram + lam * np.eye(len(gram)), gram @ to_optimum)


def bisect(v, radius):
    low, high = -40.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if np.linalg.norm(v(np.exp(middle))) < radius else (middle, high)
    return np.exp(low)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_convex_in_the_radius_and_least_at_the_reported_one(seed):
    objective = make_objective(make_tasks(10, 8, seed=seed))
    certificate = certify(objective, np.random.default_rng(seed).normal(size=6))
    radii = np.linspace(0, 2 * certificate.curve.distance, 201)
    bounds = np.array([certificate.at(radius) for radius in radii])
    assert (np.diff(bounds, 2) >= -1e-9 * bounds.max()).all()
    assert certificate.bound <= bounds.min() * (1 + 1e-3)
    assert certificate.at(certificate.radius) == pytest.approx(certificate.bound, rel=1e-6)


def test_at_the_optimum_no_spectrum_is_needed_and_any_radius_can_be_asked():
    certificate = MAMLRegressor("auto").fit(make_tasks(10, 8)).gap_certificate_
    assert certificate.curve.eigenvalues == ()
    assert certificate.at(0.0) >= certificate.slack + certificate.rounding
    assert certificate.at(certificate.curve.distance / 2) <= certificate.at(0.0) + 1e-12
    assert certificate.at(2.0) == pytest.approx(2 * certificate.epsilon + certificate.rounding)


@pytest.mark.parametrize("n_steps", [1, 3])
def test_shared_inputs_bring_corollary_1(n_steps):
    X = make_tasks(1, 12)[0][0]
    tasks = [(X, y) for _, y in make_tasks(9, 12)]
    theta = np.random.default_rng(0).normal(size=6)
    objective = make_objective(tasks, n_steps=n_steps)
    certificate = certify(objective, theta)
    episodes = [((with_ones(X), y),) * 2 for X, y in tasks]
    risks = [meta_loss(theta, [episode], 0.02, n_steps) for episode in episodes]
    assert certificate.corollary.weight_norm == pytest.approx(2 * np.mean(np.sqrt(risks)))
    assert certificate.corollary.route == "Corollary 1"
    assert certificate.bound <= certificate.corollary.bound
    gap = certificate.meta_loss - smallest_loss(objective)
    assert gap <= certificate.corollary.bound * (1 + 1e-9)
    for radius in (0.0, certificate.radius / 3):
        assert gap <= certificate.corollary.at(radius) * (1 + 1e-9)


@pytest.mark.parametrize("other", [None, 0, 1, 3, 4, 8])
def test_inputs_have_to_be_shared_by_all_blocks(other, monkeypatch):
    """Three tasks a block; one task of some block may have an input of its own."""
    X = make_tasks(1, 12)[0][0]
    tasks = [(X.copy(), y) for _, y in make_tasks(9, 12)]
    if other is not None:
        tasks[other][0][-1, -1] += 1e-9
    monkeypatch.setattr(stacks, "BLOCK_ELEMENTS", 3 * X.size + 3 * len(X))
    objective = make_objective(tasks)
    assert len(objective.blocks) == 3
    assert (certify(objective, np.ones(6)).corollary is None) == (other is not None)


def test_unshared_inputs_do_not_bring_it():
    X, y = make_tasks(1, 12)[0]
    other = X.copy()
    other[-1, -1] += 1e-9
    assert certify(make_objective([(X, y), (other, y)]), np.zeros(6)).corollary is None
    weights = np.arange(1.0, 13.0)
    model = MAMLRegressor("auto").fit([(X, y, weights), (X, y)])
    assert model.gap_certificate_.corollary is None


def test_shared_inputs_with_unlike_weight_sums_do_not_bring_it_where_the_rule_asks_for_the_sum():
    # Weights are normalised within a task, but a proximal step counts them: J_i differs.
    rng = np.random.default_rng(0)
    y, weights = 100.0 * rng.normal(size=(20, 1)), np.full((20, 1), 1e3)
    y[1:] *= 0.01
    weights[0] = 1e-3
    tasks = [(np.ones((1, 1)), *task) for task in zip(y, weights, strict=True)]
    model = MAMLRegressor(adaptation=Proximal(1.0, np.ones(1)), fit_intercept=False).fit(tasks)
    best = model.meta_loss_
    model.coef_ = model.coef_ + 1.0
    certificate = model.certify(tasks)
    assert certificate.lower_bound <= best * (1 + 1e-12)
    assert certificate.corollary is None


def test_the_comparator_does_not_come_from_the_solver():
    # Whatever a solver returns is certified: here parameters that are plainly wrong.
    tasks = make_tasks(10, 8)
    model = MAMLRegressor("auto").fit(tasks)
    model.coef_ = model.coef_ + 1.0
    certificate = model.certify(tasks)
    objective_gap = certificate.meta_loss - model.gap_certificate_.meta_loss
    assert objective_gap > 0.1
    assert objective_gap <= certificate.bound


def test_certify_judges_other_tasks():
    tasks, others = make_tasks(10, 8, seed=1), make_tasks(12, 8, seed=2)
    model = MAMLRegressor(0.02).fit(tasks)
    certificate = model.certify(others)
    objective = make_objective(others)
    gap = certificate.meta_loss - smallest_loss(objective)
    assert 0 < gap <= certificate.bound
    theta = np.append(model.coef_, model.intercept_)
    assert certificate.meta_loss == pytest.approx(objective.value_and_gradient(theta)[0])


def test_a_certificate_is_frozen_pickled_printed_and_a_number():
    certificate = MAMLRegressor("auto").fit(make_tasks(10, 8)).gap_certificate_
    with pytest.raises(FrozenInstanceError):
        certificate.bound = 0.0
    again = pickle.loads(pickle.dumps(certificate))
    assert again == certificate
    assert isinstance(certificate, GapCertificate)
    assert float(certificate) == certificate.bound
    text = str(certificate)
    for word in ("gap, at most", "meta-loss", "global minimum", "comparator", "assumptions"):
        assert word in text
    assert all(status for _, status in certificate.assumptions)


@pytest.mark.parametrize("radius", [-1.0, np.nan])
def test_a_radius_that_is_none_is_refused(radius):
    certificate = MAMLRegressor("auto").fit(make_tasks(10, 8)).gap_certificate_
    with pytest.raises(ValueError, match="radius must be a number >= 0"):
        certificate.at(radius)


def test_what_unresolved_directions_could_do_is_said():
    # Two columns that differ in the last bits only: to float64 they are one.
    tasks = [(np.c_[X, X[:, 0] * (1 + 2e-16 * np.arange(6))], y) for X, y in make_tasks(20, 6)]
    certificate = certify(make_objective(tasks), np.zeros(7))
    assert 0 < certificate.unresolved < certificate.meta_loss
    (status,) = (status for what, status in certificate.assumptions if "rank" in what)
    assert status.startswith("assumed (rank 6 of 7")
    assert certify(make_objective(make_tasks(20, 6)), np.zeros(6)).unresolved == 0


def test_many_rows_do_not_make_a_determined_direction_look_like_rounding():
    # Monomials of degree 12 on [1, 3] span what Chebyshev polynomials do, badly conditioned.
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 3, size=(200, 100))
    y = np.polynomial.chebyshev.Chebyshev.basis(12)(x - 2) + 0.1 * rng.normal(size=x.shape)
    tasks = [(np.vander(a, 13)[:, :-1], b) for a, b in zip(x, y, strict=True)]
    design = np.polynomial.chebyshev.chebvander(x.ravel() - 2, 12)
    best = np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    expected = np.square(design @ best - y.ravel()).mean()
    certificate = MAMLRegressor(0.1, n_steps=0).fit(tasks).gap_certificate_
    assert certificate.meta_loss == pytest.approx(expected, rel=1e-6)
    assert certificate.lower_bound <= expected


@pytest.mark.parametrize("ratio", [1e13, 1e20])
def test_the_spectrum_of_columns_in_unlike_units_does_not_make_the_bound_too_small(ratio):
    rng = np.random.default_rng(0)
    tasks = [(X, X @ [0.0, ratio]) for X in rng.normal(size=(4, 4, 2)) * [ratio, 1 / ratio]]
    objective = make_objective(tasks, 1.0, 0)
    certificate = certify(objective, np.zeros(3))
    # The second column explains y up to nothing: the gap is all of the loss.
    assert certificate.bound >= certificate.meta_loss * (1 - 1e-9)


class Bent(AdaptationRule):
    """A step whose length saturates: smooth, but not affine in theta."""

    def adapt(self, theta, risk):
        away = np.tanh(3 * risk.gradient(theta))
        slope = 0.6 * (1 - away**2)

        def pullback(V):
            return V - risk.hessian_dot(theta, V * slope[..., None, :])

        return theta - 0.2 * away, pullback


@pytest.mark.parametrize("seed", range(6))
def test_a_rule_that_is_not_affine_is_not_certified_as_a_quadratic(seed):
    tasks = make_tasks(3, 4, n_features=1, seed=seed)
    objective = make_objective(tasks, episodes={"support": 2, "split": "first"}).vary(rule=Bent())
    certificate = certify(objective, np.zeros(2))
    assert certificate.comparator.startswith("each task's own")
    line = np.linspace(-6, 6, 25)
    losses = [objective.value_and_gradient(np.array([a, b]))[0] for a in line for b in line]
    assert certificate.lower_bound <= min(losses)


def exact_minimum(tasks, inner_lr, n_steps):
    """The smallest mean squared error after many steps, by rational arithmetic."""
    normal, total, n = {}, Fraction(0), len(tasks)
    for X, y in tasks:
        rows = [[Fraction(float(v)) for v in row] + [Fraction(1)] for row in X]
        y, m, d = [Fraction(float(v)) for v in y], len(X), len(rows[0])
        step = 2 * Fraction(inner_lr) / m
        gram = [[sum(r[i] * r[j] for r in rows) for j in range(d)] for i in range(d)]
        # Columns of J, and the constant c, are taken through the steps.
        columns = [[Fraction(i == j) for i in range(d)] for j in range(d)] + [[Fraction(0)] * d]
        right = [sum(r[i] * t for r, t in zip(rows, y, strict=True)) for i in range(d)]
        for _ in range(n_steps):
            for k, v in enumerate(columns):
                pull = [sum(g * x for g, x in zip(row, v, strict=True)) for row in gram]
                columns[k] = [
                    x - step * (p - (right[i] if k == d else 0))
                    for i, (x, p) in enumerate(zip(v, pull, strict=True))
                ]
        for r, t in zip(rows, y, strict=True):
            psi = [sum(a * b for a, b in zip(r, v, strict=True)) for v in columns]
            psi[d] = t - psi[d]
            total += psi[d] ** 2 / (m * n)
            for i in range(d):
                for j in range(d + 1):
                    normal[i, j] = normal.get((i, j), 0) + psi[i] * psi[j] / (m * n)
    for k in range(d):  # Gauss, Jordan
        for i in (i for i in range(d) if i != k):
            share = normal[i, k] / normal[k, k]
            for j in range(k, d + 1):
                normal[i, j] -= share * normal[k, j]
        total -= normal[k, d] ** 2 / normal[k, k]
        for i in range(k + 1, d):
            normal[i, k] = Fraction(0)
    return float(total)


@pytest.mark.parametrize(("n_steps", "seed"), [(30, 0), (30, 3), (30, 4), (100, 0)])
def test_directions_that_adapting_shrinks_to_rounding_are_not_taken_for_zero(n_steps, seed):
    rng = np.random.default_rng(seed)
    tasks = [(rng.normal(size=(6, 1)) * 1e-8, rng.normal(size=6)) for _ in range(4)]
    tasks = [(np.c_[rng.normal(size=6), X], y) for X, y in tasks]
    steps = GradientSteps(0.3, n_steps, cap=False)
    certificate = MAMLRegressor(adaptation=steps, support="all").fit(tasks).gap_certificate_
    assert certificate.lower_bound <= exact_minimum(tasks, 0.3, n_steps)
    assert certificate.rounding < 1e-10
    assert certificate.bound < certificate.meta_loss  # squares are no less than 0


def test_a_direction_erased_altogether_is_an_assumption():
    certificate = (
        MAMLRegressor(adaptation=Shift(), support="all").fit(make_tasks(9, 8)).gap_certificate_
    )
    assert certificate.bound <= 1e-12
    (status,) = (status for what, status in certificate.assumptions if "rank" in what)
    assert status.startswith("assumed (rank")
    assert ("the adapted parameters are affine in theta", "asserted by Shift, spot-checked") in (
        certificate.assumptions
    )


def test_what_an_ill_conditioned_proximal_step_rounds_is_counted():
    """Of features of 1,000 a metric in units of 1 leaves a millionth: six digits are lost."""
    rule = Proximal(0.7, np.array([[1.1, 0.0, 1.0], [0.0, 0.1, 0.0], [1.0, 0.0, 4.1]]))
    for seed in range(20):
        tasks = make_tasks(3, 6, lambda Z: Z + 1000.0, n_features=2, seed=seed)
        objective, rng = objective_of(tasks, SquaredError(), rule), np.random.default_rng(seed)
        theta = LeastSquares().minimize(objective, objective.origin()).theta
        certificate = certify(objective, theta)
        near = [theta + 1e-9 * rng.normal(size=3) / [1e3, 1e3, 1.0] for _ in range(50)]
        assert min(map(objective.value, near)) >= certificate.lower_bound
