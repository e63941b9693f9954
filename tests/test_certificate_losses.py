"""Certificates of losses that are not quadratic: tried hard to beat, from far starts."""

import pickle
import warnings

import numpy as np
import pytest
from families import make_tasks
from objectives import objective_of, targets_for
from registered import examples
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import GapCertificate, MAMLRegressor, Proximal, certify
from sklearn_maml._objective.risk import Risk
from sklearn_maml.adaptation import RULES, AdaptationRule, GradientSteps
from sklearn_maml.certificate.point import certified_point, far_rounding
from sklearn_maml.certificate.query_minima import (
    SEPARATED,
    QueryMinima,
    query_minima,
    representation,
)
from sklearn_maml.certificate.tight import EFFORTS
from sklearn_maml.losses import (
    LOSSES,
    LogCosh,
    LogLoss,
    Loss,
    Poisson,
    PseudoHuber,
    SquaredError,
)
from sklearn_maml.solvers import GaussNewton

NO_STEPS = GradientSteps(0.1, 0)
CONVEX = [name for name in LOSSES if not LOSSES[name].constant_hessian]
EVERY_RULE = examples(RULES, lambda rule: not rule.first_order)
EPISODES = {
    "all": {},
    "split": {"support": 2, "split": "first"},
    "drawn": {"support": 0.5, "n_episodes": 2},
}


def solve(objective, theta):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # slow ends of far starts
        return GaussNewton(tol=1e-13, max_iter=30).minimize(objective, theta)


@pytest.mark.parametrize(
    ("loss", "rule", "episodes"),
    [
        *(
            pytest.param(loss, *rule.values, "all", id=f"{loss}-{rule.id}-all")
            for loss in CONVEX
            for rule in EVERY_RULE
        ),
        *((loss, GradientSteps(2.0), "split") for loss in CONVEX),
        *((loss, GradientSteps(0.8, 3, relative=True), "drawn") for loss in CONVEX),
        *((loss, Proximal(1.0, [0.5, 1.0, 4.0]), "split") for loss in CONVEX[::2]),
    ],
)
def test_no_start_of_twelve_beats_the_lower_bound(loss, rule, episodes):
    rng = np.random.default_rng(0)
    tasks = make_tasks(5, 6, n_features=2, seed=len(loss))
    objective = objective_of(
        tasks, LOSSES[loss](), rule, rng.choice([0.0, 0.1]), episodes=EPISODES[episodes]
    )
    starts = rng.normal(size=(12, 3)) * np.geomspace(0.01, 20, 12)[:, None]
    # Steps without a cap may overshoot beyond float64 from the farthest: no solver starts there.
    found = [solve(objective, start) for start in starts if objective.value(start) < 1e100]
    best = min(result.values[-1] for result in found)
    for theta in (np.zeros(3), starts[3], starts[7], found[0].theta, found[-1].theta):
        certificate = certify(objective, theta)
        gap = objective.value_and_gradient(theta)[0] - best
        assert certificate.lower_bound <= best
        assert gap <= certificate.bound
        for _, bound in certificate.routes:
            assert gap <= bound
        for radius in certificate.radius * np.array([0.0, 0.3, 1.0, 2.0]):
            assert gap <= certificate.at(radius) * (1 + 1e-12)


@pytest.mark.parametrize("loss", [PseudoHuber(), LogLoss()], ids=repr)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_in_the_wide_regime_the_bound_falls_to_radius_times_epsilon(loss, n_steps):
    tasks = make_tasks(6, 5, n_features=60, seed=1)
    rule = GradientSteps(0.5, n_steps, relative=True)
    objective = objective_of(tasks, loss, rule)
    result = GaussNewton().minimize(objective, np.zeros(61))
    certificate = certify(objective, result.theta)
    theorem = dict(certificate.routes)["Theorem 1"]
    start = objective.value_and_gradient(np.zeros(61))[0]
    assert theorem <= 2 * certificate.radius * certificate.epsilon + 1e-9 * start
    assert theorem <= 1e-4 * start


def relaxed_minimum(tasks, loss, inner_lr, alpha, theta):
    """The least meta-loss of one gradient step whose slopes may be any numbers in their range."""
    rows = [np.column_stack([X, np.ones(len(X))]) for X, _ in tasks]
    d, sizes = len(theta), [len(X) for X in rows]

    def value_and_gradient(at):
        theta, slopes = at[:d], np.split(at[d:], np.cumsum(sizes))
        value, in_theta, in_slopes = alpha * (theta[:-1] ** 2).sum(), np.zeros_like(theta), []
        in_theta[:-1] = 2 * alpha * theta[:-1]
        for X, (_, y), s in zip(rows, tasks, slopes[:-1], strict=True):
            move = inner_lr / len(X) * X @ X.T
            z = X @ theta - move @ s
            nu = loss.gradient(y, z) / len(X) / len(rows)
            value += loss.value(y, z).mean() / len(rows)
            in_theta += nu @ X
            in_slopes.append(-move @ nu)
        return value, np.concatenate([in_theta, *in_slopes])

    ranges = [np.broadcast_arrays(*loss.slope_range(y)) for _, y in tasks]
    low, high = (np.concatenate([r[k] for r in ranges]) for k in (0, 1))
    bounds = [(None, None)] * len(theta) + list(zip(low, high, strict=True))
    start = np.concatenate([theta, 0.5 * (low + high)])
    options = {"maxiter": 20000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(
        value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return found.fun


@pytest.mark.parametrize("loss", [LogLoss(), PseudoHuber(0.5), LogCosh()], ids=repr)
@pytest.mark.parametrize("m", [3, 12])
def test_the_relaxation_is_solved(loss, m, monkeypatch):
    tasks = make_tasks(6, m, n_features=4, seed=m)
    if isinstance(loss, LogLoss):
        tasks = [(X, (y > np.median(y)) * 1.0) for X, y in tasks]
    objective = objective_of(tasks, loss, GradientSteps(0.3, cap=False), 0.05)
    theta = solve(objective, np.zeros(5)).theta
    wanted = objective.value(theta) - relaxed_minimum(tasks, loss, 0.3, 0.05, theta)
    # By default it ends early, with a bound that is a little wider.
    fast = dict(certify(objective, theta).routes)["Theorem 1, relaxed"]
    assert wanted * (1 - 1e-6) <= fast <= 1.1 * wanted
    monkeypatch.setitem(EFFORTS, "fast", EFFORTS["fast"]._replace(precision=1e-9, share=0.0))
    precise = dict(certify(objective, theta).routes)["Theorem 1, relaxed"]
    assert precise == pytest.approx(wanted, rel=1e-5)


def test_without_steps_the_relaxation_is_the_problem_itself(monkeypatch):
    tasks = make_tasks(5, 8, n_features=3, seed=4)
    objective = objective_of(tasks, PseudoHuber(), NO_STEPS, 0.1)
    monkeypatch.setitem(EFFORTS, "fast", EFFORTS["fast"]._replace(precision=1e-9, share=0.0))
    far = np.full(4, 2.0)
    wanted = objective.value(far) - objective.value(solve(objective, far).theta)
    found = dict(certify(objective, far).routes)["Theorem 1, relaxed"]
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 1e-2])
def test_where_some_rows_are_separated_the_minimum_is_that_of_the_others(share):
    rng = np.random.default_rng(5)
    features = np.zeros((3, 12, 3))
    features[..., 0] = 1.0
    features[:, :5, 1:] = rng.normal(size=(3, 5, 2))  # the first rows are told apart by these
    features[:, :5, 1] += 3.0
    targets = np.zeros((3, 12))
    targets[:, :5] = 1.0
    targets[:, 5:7] = 1.0  # the others are alike: 2 of 7 are of class 1
    risk = Risk(LogLoss(), features, targets, np.full((3, 12), 1 / 12))
    entropy = -(2 * np.log(2 / 7) + 5 * np.log(5 / 7)) / 12
    _, value, lower = query_minima(risk, np.zeros((3, 12)), share)
    assert (value >= entropy * (1 - 1e-14)).all()  # the sum of twelve rows is rounded
    assert (lower <= entropy * (1 + 1e-12)).all()
    np.testing.assert_allclose(lower, entropy, rtol=1e-6)


@pytest.mark.parametrize("loss", CONVEX)
@pytest.mark.parametrize(("m", "d"), [(12, 3), (4, 6), (5, 5)])
def test_query_minima_are_those_of_scipy(loss, m, d):
    loss, rng = LOSSES[loss](), np.random.default_rng(2)
    weights = rng.uniform(size=(4, m))
    weights[0, -2:] = 0.0
    risk = Risk(
        loss,
        rng.normal(size=(4, m, d)),
        targets_for(loss, 3 * rng.normal(size=(4, m))),
        weights / weights.sum(axis=1, keepdims=True),
    )
    z, value, lower = query_minima(risk, 50 * rng.normal(size=(4, m)))
    assert (lower <= value).all()
    assert (value - lower <= 1e-9 * (1 + np.abs(value))).all()
    reached = (risk.weights * loss.value(risk.targets, z)).sum(axis=-1)
    np.testing.assert_allclose(reached, value, atol=1e-12)
    for i in range(4):
        alone = Risk(loss, risk.features[i], risk.targets[i], risk.weights[i])
        found = minimize(alone.value, np.zeros(d), jac=alone.gradient, tol=1e-10)
        assert lower[i] <= found.fun + 1e-12
        assert value[i] <= found.fun + 1e-7


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e4])
def test_query_minima_are_bounded_as_tightly_in_any_unit(unit):
    """``l_(delta u)(u y, u z) = u^2 l_delta(y, z)``: so are minima, and what bounds them."""
    rng, weights = np.random.default_rng(0), np.full((6, 9), 1 / 9)
    features, y = rng.normal(size=(6, 9, 3)), 3.0 * rng.normal(size=(6, 9))
    plain = query_minima(Risk(PseudoHuber(), features, y, weights), np.zeros((6, 9)))
    scaled = Risk(PseudoHuber(unit), features, unit * y, weights)
    _, value, lower = query_minima(scaled, np.zeros((6, 9)))
    np.testing.assert_allclose(value, unit**2 * plain[1], rtol=1e-10)
    assert (lower <= value).all()
    assert (lower >= value * (1 - 2e-11)).all()


def test_separable_classes_have_a_query_minimum_that_is_not_attained():
    X = np.array([[-2.0, 1], [-1, 1], [1, 1], [3, 1]])
    risk = Risk(LogLoss(), X[None], np.array([[0.0, 0, 1, 1]]), np.full((1, 4), 0.25))
    z, value, lower = query_minima(risk, np.zeros((1, 4)))
    assert lower == 0
    assert 0 <= value < 1e-9
    assert np.isfinite(z).all()


def test_partly_separable_classes_still_have_a_tight_bound():
    # The second feature separates the last two rows; the others are a coin toss.
    X = np.array([[1.0, 0], [1, 0], [1, 0], [1, 1], [1, -1]])
    risk = Risk(LogLoss(), X[None], np.array([[0.0, 1, 1, 1, 0]]), np.full((1, 5), 0.2))
    _, value, lower = query_minima(risk, np.zeros((1, 5)))
    assert value - lower < 1e-3
    assert lower <= 0.6 * (np.log(3) - 2 / 3 * np.log(2)) + 1e-12 <= value + 1e-9


@pytest.mark.parametrize("loss", [Poisson(), PseudoHuber()], ids=repr)
def test_several_targets_add_up(loss):
    rng = np.random.default_rng(3)
    tasks = [(rng.normal(size=(9, 3)), rng.normal(size=(9, 2))) for _ in range(6)]
    rule, theta = GradientSteps(0.5, 2, relative=True), rng.normal(size=(2, 4))
    both = certify(objective_of(tasks, loss, rule, 0.01), theta)
    lower = 0.0
    for k in range(2):
        y_all = targets_for(loss, np.concatenate([y for _, y in tasks]))
        y = np.split(y_all[:, k], 6)
        alone = objective_of([(X, y[i]) for i, (X, _) in enumerate(tasks)], loss, rule, 0.01)
        lower += certify(alone, theta[k]).lower_bound
    assert both.lower_bound == pytest.approx(lower, rel=1e-9)


class Softplus(Loss):
    """The smallest loss a user could write: no bounds, no dual, no third derivative."""

    hessian_bound = 0.25

    def value(self, y, z):
        return np.logaddexp(0.0, z) - y * z

    def gradient(self, y, z):
        return 1 / (1 + np.exp(-z)) - y

    def hessian(self, y, z):
        s = 1 / (1 + np.exp(-z))
        return s * (1 - s) + 0 * y


class InformedSoftplus(Softplus):
    """The same, with what the tight bounds ask for."""

    third_bound, fourth_bound, third_ratios = 1 / 108**0.5, 0.125, (1.0, 1.0)

    def third(self, y, z):
        s = 1 / (1 + np.exp(-z))
        return s * (1 - s) * (1 - 2 * s) + 0 * y

    def slope_range(self, y):
        return -y, 1.0 - y

    def slope_turn(self, y):
        return 0.0 * y


def test_a_loss_of_ones_own_gets_the_same_certificate():
    tasks = [(X, (y > 0) * 1.0) for X, y in make_tasks(6, 9, n_features=2, seed=5)]
    rule, theta = GradientSteps(0.5, 2), np.array([0.3, -0.1, 0.2])
    ours = certify(objective_of(tasks, LogLoss(), rule), theta)
    theirs = certify(objective_of(tasks, Softplus(), rule), theta)
    for route in ("Theorem 1", "query minima"):
        assert dict(theirs.routes)[route] == pytest.approx(dict(ours.routes)[route], rel=1e-6)
    assert theirs.lower_bound <= ours.lower_bound + 1e-9
    assert any("Softplus() have no known bound" in note for note in theirs.notes)
    assert dict(theirs.assumptions)[ours.assumptions[0][0]].startswith("asserted by Softplus")
    informed = certify(objective_of(tasks, InformedSoftplus(), rule), theta)
    assert informed.bound == pytest.approx(ours.bound, rel=1e-6)


def test_first_order_rules_are_certified_with_the_true_gradient():
    tasks = make_tasks(6, 9, n_features=2, seed=5)
    theta = np.array([0.3, -0.1, 0.2])
    short = objective_of(tasks, PseudoHuber(), GradientSteps(0.5, 2, first_order=True))
    full = objective_of(tasks, PseudoHuber(), GradientSteps(0.5, 2))
    assert certify(short, theta) == certify(full, theta)


def test_the_certificate_is_frozen_pickled_and_printed_with_all_routes():
    model = MAMLRegressor("auto", loss="pseudo_huber").fit(make_tasks(10, 9))
    certificate = model.gap_certificate_
    assert isinstance(certificate, GapCertificate)
    assert pickle.loads(pickle.dumps(certificate)) == certificate
    assert float(certificate) == min(bound for _, bound in certificate.routes)
    text = str(certificate)
    for words in ("by Theorem 1", "by query minima", "comparator: each task", "by duality"):
        assert words in text


def test_meta_parameters_with_an_infinite_loss_have_no_certificate():
    objective = objective_of(make_tasks(4, 5), Poisson(), GradientSteps(0.1, 0))
    with pytest.raises(ValueError, match="only finite ones have a certificate"):
        certify(objective, np.full(6, 1e4))


class Explosive(PseudoHuber):
    """Its slopes are beyond float64 where its values are not."""

    def gradient(self, y, z):
        return np.full(np.broadcast_shapes(np.shape(y), np.shape(z)), 1e200)


def test_slopes_beyond_float64_leave_no_bound_and_the_certificate_says_so():
    certificate = certify(objective_of(make_tasks(4, 5), Explosive(), NO_STEPS), np.zeros(6))
    assert certificate.bound == np.inf
    assert np.isfinite(certificate.meta_loss)
    assert "no bound is known" in str(certificate)


def test_representation_is_least_squares():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(2, 9, 4))
    rows[1, :, 1] = rows[1, :, 0]  # rank deficient
    eigenvalues, squares, rest = representation(rows)
    solutions = [np.linalg.lstsq(part[:, :-1], part[:, -1], rcond=None)[0] for part in rows]
    residuals = [part[:, -1] - part[:, :-1] @ v for part, v in zip(rows, solutions, strict=True)]
    assert len(eigenvalues) == 5
    assert squares.sum() == pytest.approx(np.square(solutions).sum())
    assert rest == pytest.approx(np.linalg.norm(residuals))
    # What is rounding is a share of a target's own rows, however small they are.
    eigenvalues, less, _ = representation(rows * np.array([1.0, 1e-20])[:, None, None])
    assert len(eigenvalues) == 5
    assert less.sum() == pytest.approx(squares.sum())


def test_blocks_of_tasks_add_up():
    tasks = [task for m in (3, 8, 30) for task in make_tasks(4, m, n_features=3, seed=m)]
    rule, theta = GradientSteps(0.5, 2), np.array([0.3, -0.1, 0.2, 0.5])
    together = certify(objective_of(tasks, PseudoHuber(), rule), theta)
    alone = [certify(objective_of([task], PseudoHuber(), rule), theta) for task in tasks]
    minima = np.mean([dict(certificate.routes)["query minima"] for certificate in alone])
    assert dict(together.routes)["query minima"] == pytest.approx(minima, rel=1e-9)
    # One theta for all tasks is less free than one a task.
    lower = np.mean([certificate.lower_bound for certificate in alone])
    assert together.lower_bound >= lower


class WrongPullback(AdaptationRule):
    """A step whose pullback forgets that it adapts."""

    affine = True

    def adapt(self, theta, risk):
        return GradientSteps(0.3).adapt(theta, risk)[0], lambda V: V


class NotSoAffine(AdaptationRule):
    """A step that bends, and says that it does not."""

    affine = True

    def adapt(self, theta, risk):
        theta_i, pullback = GradientSteps(0.3).adapt(theta, risk)
        return theta_i + 0.1 * np.sin(theta_i), lambda V: pullback(
            V * (1 + 0.1 * np.cos(theta_i))[..., None, :]
        )


class WrongSlopeForm(GradientSteps):
    """Steps that are twice as long as they say."""

    def slope_form(self, risk):
        form = super().slope_form(risk)
        return form._replace(length=0.5 * form.length)


def test_foreign_rules_that_break_their_word_are_found_out():
    tasks = make_tasks(5, 8, n_features=2, seed=1)
    theta = np.array([0.3, -0.1, 0.2])
    for loss in (LogCosh(), SquaredError()):
        with pytest.raises(ValueError, match="The pullback of WrongPullback is not the derivative"):
            certify(objective_of(tasks, loss, WrongPullback()), theta)
    with pytest.raises(ValueError, match="affine is True, but its adapted"):
        certify(objective_of(tasks, SquaredError(), NotSoAffine()), theta)
    certificate = certify(objective_of(tasks, LogCosh(), NotSoAffine()), theta)
    rules = {GradientSteps(0.3): "by construction", NotSoAffine(): "NotSoAffine, spot-checked"}
    for rule, held in rules.items():
        status = dict(certify(objective_of(tasks, LogCosh(), rule), theta).assumptions)
        assert held in status["the pullback is the derivative of the adapted parameters"]
    assert certificate.route in ("Theorem 1", "query minima")
    assert any("NotSoAffine has no slope form" in note for note in certificate.notes)
    wrong = certify(objective_of(tasks, LogCosh(), WrongSlopeForm(0.3)), theta)
    assert any("slope form of WrongSlopeForm" in note for note in wrong.notes)
    assert wrong.route in ("Theorem 1", "query minima")


class WrongElsewhere(GradientSteps):
    """Steps that are twice as long as they say, from the given share of THETA alone."""

    def __init__(self, share=0.0):
        super().__init__(0.3, cap=False)
        self.share = share

    def adapt(self, theta, risk):
        wrong = np.allclose(theta, self.share * np.array([0.3, -0.1, 0.2]))
        return GradientSteps(0.6 if wrong else 0.3, cap=False).adapt(theta, risk)

    bind = AdaptationRule.bind

    def slope_form(self, risk):
        return super().slope_form(risk)


@pytest.mark.parametrize("share", [0.5, 0.0, -1.0])
def test_a_foreign_slope_form_is_tried_at_other_parameters_than_the_certified_ones(share):
    """Half of them, none, and their opposites: no form is right at all four by chance."""
    tasks, theta = make_tasks(5, 8, n_features=2, seed=1), np.array([0.3, -0.1, 0.2])
    right, wrong = (
        certify(objective_of(tasks, LogCosh(), WrongElsewhere(s)), theta) for s in (0.7, share)
    )
    assert right.route == "Theorem 1, relaxed"
    assert any("slope form of WrongElsewhere" in note for note in wrong.notes)
    assert "Theorem 1, relaxed" not in dict(wrong.routes)


@pytest.mark.parametrize(
    "rule", [NO_STEPS, GradientSteps(0.1), Proximal(5.0, np.ones(2))], ids=repr
)
@pytest.mark.parametrize("loss", [LogCosh(), PseudoHuber(0.1)], ids=repr)
@pytest.mark.parametrize("far", [1e3, 1e5])
def test_directions_that_are_flat_where_one_stands_are_not_taken_for_rounding(loss, rule, far):
    """Rows of the second feature are fitted at ``far``, and from 0 their loss is a straight line.

    No Newton step makes slopes orthogonal to that feature; those of other rows are.
    """
    rng, tasks = np.random.default_rng(0), []
    for _ in range(4):
        X = np.kron(np.eye(2), np.ones((4, 1))) * rng.normal(size=(8, 2))
        tasks.append((X, X @ [0.0, far] + np.repeat([0.1, 0.0], 4) * rng.normal(size=8)))
    objective = objective_of(tasks, loss, rule, penalise_last=True)
    attained = objective.value(np.array([0.0, far]))
    assert attained < 1e-4 * objective.value(np.zeros(2))
    for effort in ("fast", "full"):
        assert certify(objective, np.zeros(2), effort).lower_bound <= attained


def test_efforts_are_names_or_none():
    objective = objective_of(make_tasks(5, 8, n_features=2), LogCosh(), GradientSteps(0.3))
    theta = np.zeros(3)
    assert certify(objective, theta, None) is None
    for wrong in ("quick", 1, ["fast"]):
        with pytest.raises(ValueError, match="certificate must be one of 'fast', 'full', 'branch'"):
            certify(objective, theta, wrong)
    model = MAMLRegressor(loss="log_cosh", certificate=None).fit(make_tasks(5, 8))
    assert model.gap_certificate_ is None
    assert model.certify(make_tasks(5, 8)).meta_loss > 0


def test_more_effort_is_never_worse_and_proves_a_gentle_rule_exact():
    objective = objective_of(make_tasks(8, 10, n_features=2, seed=3), LogCosh(), GradientSteps(0.1))
    result = solve(objective, np.zeros(3))
    fast, full, branch = (certify(objective, result.theta, e) for e in ("fast", "full", "branch"))
    assert branch.bound <= full.bound <= fast.bound
    assert full.route == "Theorem 4"
    assert full.exact
    assert dict(full.routes)["Corollary 5"] < dict(full.routes)["Theorem 1"]


def test_branch_and_bound_proves_what_regions_do_not():
    """Two parameters, long steps: a grid finds nothing lower than the fit, nor can anything."""
    tasks = make_tasks(4, 5, n_features=1, seed=0)
    objective = objective_of(tasks, LogCosh(), GradientSteps(2.0, cap=False), 0.05)
    theta = solve(objective, np.zeros(2)).theta
    full, branch = (certify(objective, theta, effort) for effort in ("full", "branch"))
    assert full.bound > 0.03
    assert branch.route == "branch and bound"
    assert branch.exact
    line = np.linspace(-4, 4, 33)
    grid = [objective.value(theta + np.array([a, b])) for a in line for b in line]
    least = objective.value(theta)
    assert branch.lower_bound <= least <= min(grid) + 1e-15
    aside = certify(objective, np.add(theta, [0.1, -0.1]), "branch")
    assert aside.lower_bound <= least


def test_tasks_of_unlike_sizes_are_certified_as_tightly():
    """Stacked, the smaller ones have rows of padding."""
    tasks = [
        (X[: 10 - i % 3], y[: 10 - i % 3]) for i, (X, y) in enumerate(make_tasks(8, 10, seed=3))
    ]
    objective = objective_of(tasks, LogCosh(), GradientSteps(0.02))
    assert any((objective.risks(i)[0].weights == 0).any() for i in range(len(objective.blocks)))
    theta = solve(objective, np.zeros(6)).theta
    fast, full = (certify(objective, theta, effort) for effort in ("fast", "full"))
    assert full.exact
    assert dict(fast.routes)["Theorem 1, relaxed"] < 0.5 * dict(fast.routes)["query minima"]


def test_proximal_rows_are_exact_where_no_row_moves_far():
    tasks = make_tasks(8, 10, n_features=3, seed=3)
    for loss in (LogCosh(), Poisson()):
        objective = objective_of(tasks, loss, Proximal(300.0, np.ones(4)), 0.01)
        certificate = certify(objective, solve(objective, np.zeros(4)).theta)
        assert certificate.route == "Theorem 3"
        assert certificate.exact


@pytest.mark.parametrize("effort", ["fast", "full", "branch"])
def test_slopes_without_a_bound_leave_theorem_3_alone(effort):
    """Where rows of counts move too far for it nothing else is tried, and warnings are errors."""
    tasks = [(X, np.round(np.exp(0.3 * y))) for X, y in make_tasks(8, 6, n_features=2, seed=3)]
    objective = objective_of(tasks, Poisson(), Proximal(0.02, np.ones(3)), 0.01)
    certificate = certify(objective, np.zeros(3), effort)
    assert dict(certificate.routes).keys() == {"Theorem 1", "query minima"}
    assert np.isfinite(certificate.bound)


def test_too_many_rows_for_an_effort_are_skipped_with_a_word(monkeypatch):
    small = EFFORTS["fast"]._replace(max_work=10.0)
    monkeypatch.setitem(EFFORTS, "fast", small)
    objective = objective_of(make_tasks(5, 8, n_features=2), LogCosh(), GradientSteps(0.3))
    certificate = certify(objective, np.zeros(3))
    assert any("too many support rows or steps" in note for note in certificate.notes)
    assert certificate.route in ("Theorem 1", "query minima")
    assert "note: too many" in str(certificate)


@pytest.mark.parametrize("effort", ["fast", "full"])
@pytest.mark.parametrize("spread", [1e-6, 1e-10, 1e-12])
def test_columns_that_are_nearly_the_same_do_not_break_the_bound(spread, effort):
    rng, tasks = np.random.default_rng(0), []
    for _ in range(5):
        x = rng.normal(size=8)
        tasks.append((1 + spread * x[:, None], 1 + x + 0.3 * rng.normal(size=8)))
    objective = objective_of(tasks, LogCosh(), GradientSteps(0.5))

    def line(at):  # intercept and slope of x itself, in the parameters of its column
        return objective.value(np.array([at[0] / spread, at[1] - at[0] / spread]))

    best = minimize(line, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-9}).fun
    certificate = certify(objective, np.array([0.0, 1.0]), effort)
    assert certificate.lower_bound <= best
    assert certificate.rounding >= 1e-16 / spread


class Turnless(InformedSoftplus):
    def slope_turn(self, y):
        return None


def test_rounds_that_cannot_begin_say_why():
    tasks = [(X, (y > 0) * 1.0) for X, y in make_tasks(6, 9, n_features=2, seed=5)]
    rule, theta = GradientSteps(0.5, 2), np.array([0.3, -0.1, 0.2])
    turnless = certify(objective_of(tasks, Turnless(), rule), theta, "full")
    assert any("does not say where its slope turns" in note for note in turnless.notes)
    assert turnless.route == "Theorem 1, relaxed"
    for X, _ in tasks:
        X[4:, 1] = 0.0  # query rows do not see the second feature
    blind = objective_of(tasks, LogLoss(), rule, episodes={"support": 4, "split": "first"})
    endless = certify(blind, theta, "full")
    assert any("no ball holds all minimisers" in note for note in endless.notes)


@pytest.mark.parametrize("loss", ["gamma", "poisson", "tweedie"])
@pytest.mark.filterwarnings("ignore:GaussNewton stopped")  # at a loss that is rounding
def test_deviances_round_as_their_terms_do_where_these_cancel(loss):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        tasks = [(np.tile(rng.normal(size=2), (4, 1)), np.full(4, rng.normal())) for _ in range(3)]
        rule = GradientSteps(0.5, 2, relative=True)
        objective = objective_of(tasks, LOSSES[loss](), rule)
        theta = GaussNewton().minimize(objective, objective.origin()).theta
        certificate = certify(objective, theta)
        values = [objective.value(theta + 1e-8 * rng.normal(size=3)) for _ in range(50)]
        assert min(values) >= certificate.lower_bound
        assert certificate.bound < 1e-13


@pytest.mark.parametrize("loss", [SquaredError(), LogCosh(), Poisson()], ids=repr)
def test_what_an_evaluation_rounds_is_what_its_terms_say(loss):
    """The terms of L; those of predictions, ``|phi|' (|theta| + |theta_i|)``, once and squared."""
    tasks, theta = make_tasks(4, 6, n_features=2), np.array([0.3, -0.2, 0.1])
    tasks = [(X, np.round(np.abs(y))) for X, y in tasks]
    point = certified_point(objective_of(tasks, loss, NO_STEPS), theta)
    phi = np.column_stack([np.vstack([X for X, _ in tasks]), np.ones(24)])
    y, z = np.concatenate([y for _, y in tasks]), phi @ theta
    size = 2.0 * np.abs(phi) @ np.abs(theta)  # no step moves theta
    eps, unit = np.finfo(float).eps, 2 * (4 + np.sqrt(3)) * np.finfo(float).eps
    terms = np.abs(loss.value(y, z).mean())
    if not loss.constant_hessian:  # deviances are differences of terms of this size
        terms += (loss.hessian(y, z) * (1 + np.abs(z))).mean()
    slopes = np.abs(loss.gradient(y, z))
    wanted = 4 * eps * terms + unit * (slopes * size).mean() + unit**2 * (size**2).mean()
    assert point.rounding == pytest.approx(wanted, rel=1e-9, abs=0)
    risks = [(loss.gradient(t, X @ theta[:2] + theta[2]) ** 2).mean() for X, t in tasks]
    assert point.root_risks == pytest.approx(np.sqrt(risks).mean(), rel=1e-12)
    assert point.weight_norm == pytest.approx(np.sqrt(np.mean(risks)), rel=1e-12)


def test_what_collinear_columns_round_away_is_what_least_squares_says():
    """``extent_j = reach (A'A)^-1_jj ^1/2``, whatever the units of the columns of A are."""
    tasks, theta = make_tasks(4, 6, n_features=2), np.array([0.3, -0.2, 0.1])
    objective = objective_of(tasks, LogCosh(), NO_STEPS)
    even, units = np.random.default_rng(0).normal(size=(20, 3)), np.array([1e-6, 1.0, 1e6])
    extent = 2.5 * np.sqrt(np.diag(np.linalg.inv(even.T @ even))) / units
    X = np.vstack([X for X, _ in tasks])
    phi, y = np.column_stack([X, np.ones(24)]), np.concatenate([y for _, y in tasks])
    slopes = np.abs(np.tanh(phi @ theta - y))
    steepness, size = slopes @ np.abs(phi) / 24, np.sqrt(np.square(phi).mean(axis=0))
    unit = 2 * (4 + np.sqrt(3)) * np.finfo(float).eps
    expected = unit * steepness @ extent + (unit * size @ extent) ** 2
    found = far_rounding(objective, theta, even * units, 2.5)
    assert found == pytest.approx(expected, rel=1e-9, abs=0)
    wide = objective_of([(np.c_[X, 0 * y], y) for X, y in tasks], LogCosh(), NO_STEPS)
    psi = np.insert(even * units, 2, 0.0, axis=1)  # a column that no row sees rounds nothing
    found = far_rounding(wide, np.insert(theta, 2, 7.0), psi, 2.5)
    share = (4 + np.sqrt(4)) / (4 + np.sqrt(3))
    assert unit * share * steepness @ extent < found <= expected * share**2
    exact = objective_of([(X, X @ theta[:2] + theta[2]) for X, _ in tasks], LogCosh(), NO_STEPS)
    expected = (unit * size @ extent) ** 2  # where no row has a slope
    found = far_rounding(exact, theta, even * units, 2.5)
    assert found == pytest.approx(expected, rel=0.5, abs=0)


def test_slopes_that_are_not_orthogonal_to_the_features_prove_nothing():
    """Rows that all but coincide, of two classes: what little they differ by separates them."""
    features = np.array([[[0.0, 1.0], [1.0, 1e-6], [1.0, -1e-6]]])
    risk = Risk(LogLoss(), features, np.array([[1.0, 1.0, 0.0]]), np.full((1, 3), 1 / 3))
    attained = risk.value(np.array([[0.0, 1e9]]))
    problem = QueryMinima.of(risk)
    near = problem.project(np.array([[30.0, 3e-5, -3e-5]]))
    assert attained < 1e-100 < 0.4 < problem.value(near)
    for share in SEPARATED:  # the first row counts as separated, and the others' slopes add up
        assert problem.dual_without(near, share) <= attained
