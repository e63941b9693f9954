"""A user's own loss, rule and solver get gradient, exact fit and certificate unasked."""

import numpy as np
import pytest
from families import make_tasks
from foreign_parts import PreconditionedStep, SoftplusHinge, TrustRegion
from objectives import targets_for
from registered import examples
from small_parts import HalfSquaredError, Shift

from sklearn_maml import GradientSteps, MAMLRegressor
from sklearn_maml.adaptation import RULES
from sklearn_maml.losses import LOSSES
from sklearn_maml.model_selection.convergence import certified_path


def test_half_the_loss_is_the_same_fit_with_half_the_value_and_twice_the_step():
    tasks = make_tasks(20, 8)
    half = MAMLRegressor(0.04, 2, loss=HalfSquaredError()).fit(tasks)
    whole = MAMLRegressor(0.02, 2).fit(tasks)
    assert half.coef_ == pytest.approx(whole.coef_, rel=1e-10)
    assert half.meta_loss_ == pytest.approx(whole.meta_loss_ / 2, rel=1e-12)
    assert half.gap_certificate_.bound <= 1e-12
    wrong = whole.coef_ + 1.0
    half.coef_, whole.coef_ = wrong, wrong.copy()
    half.intercept_ = whole.intercept_
    a, b = half.certify(tasks), whole.certify(tasks)
    assert a.epsilon == pytest.approx(b.epsilon / 2, rel=1e-9)
    assert a.bound >= a.meta_loss - half.gap_certificate_.meta_loss


class OneStep(Shift):
    """A rule whose parameter has the name of one of the package's."""

    def __init__(self, inner_lr=1.0):
        self.inner_lr = inner_lr


def test_a_parameter_of_a_rule_may_have_any_name():
    tasks = make_tasks(20, 8)
    model = MAMLRegressor(adaptation=OneStep()).fit(tasks)
    assert not hasattr(model, "inner_lr_")
    assert model.adapt_tasks(tasks)[0].coef_.shape == (5,)


def test_a_refit_leaves_nothing_of_the_steps_of_the_fit_before():
    model = MAMLRegressor(GradientSteps().inner_lr).fit(make_tasks(20, 8))
    assert model.inner_lr_ == GradientSteps().inner_lr
    model.set_params(inner_lr=None, adaptation=Shift()).fit(make_tasks(20, 8))
    assert not hasattr(model, "inner_lr_")
    assert not hasattr(model, "capped_share_")


def test_a_shift_of_the_intercept_leaves_regression_within_tasks():
    tasks = make_tasks(20, 8)
    model = MAMLRegressor(adaptation=Shift()).fit(tasks)
    X = np.vstack([X - X.mean(axis=0) for X, _ in tasks])
    y = np.concatenate([y - y.mean() for _, y in tasks])
    assert model.coef_ == pytest.approx(np.linalg.lstsq(X, y, rcond=None)[0], rel=1e-9)
    assert model.gap_certificate_.bound <= 1e-12
    assert not hasattr(model, "inner_lr_")
    X_new, y_new = make_tasks(1, 5, seed=9)[0]
    adapted = model.adapt(X_new, y_new)
    assert np.mean(adapted.predict(X_new)) == pytest.approx(np.mean(y_new))


def test_another_solver_is_certified_by_what_it_returns():
    tasks = make_tasks(20, 8)
    rough = MAMLRegressor(0.02, solver=TrustRegion(max_iter=3)).fit(tasks)
    fine = MAMLRegressor(0.02, solver=TrustRegion()).fit(tasks)
    exact = MAMLRegressor(0.02).fit(tasks)
    gap = rough.meta_loss_ - exact.meta_loss_
    assert 0 < gap <= rough.gap_certificate_.bound
    assert rough.n_iter_ == 3
    assert fine.coef_ == pytest.approx(exact.coef_, rel=1e-6)


@pytest.mark.parametrize("n_targets", [0, 2])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_solver_that_asks_for_hessian_products_gets_what_others_find(loss, n_targets):
    rng, tasks = np.random.default_rng(2), []
    for X, y in make_tasks(12, 8):
        y = np.column_stack([y, rng.normal(size=8)]) if n_targets else y
        tasks.append((X, targets_for(LOSSES[loss](), y)))
    parts = {"inner_lr": "auto", "loss": loss, "alpha": 0.01}
    peer = MAMLRegressor(**parts).fit(tasks)
    model = MAMLRegressor(**parts, solver=TrustRegion()).fit(tasks)
    assert model.meta_loss_ == pytest.approx(peer.meta_loss_, rel=1e-8)
    drawn = certified_path(model, tasks, None, None, None)
    np.testing.assert_allclose(drawn[0], model.meta_losses_, rtol=1e-12)
    assert np.isfinite(drawn[1]).all()


LABELS = [(X, (y > np.median(y)).astype(float)) for X, y in make_tasks(20, 8)]
STEP = PreconditionedStep(np.diag([0.1, 0.2, 0.3, 0.2, 0.1, 0.5]))


@pytest.mark.parametrize("rule", [{"adaptation": STEP}, {"inner_lr": 0.1}], ids=["foreign", "own"])
@pytest.mark.parametrize("loss", SoftplusHinge.examples(), ids=repr)
def test_a_loss_with_a_numerical_dual_is_fitted_and_certified(loss, rule):
    parts = {"loss": loss, "alpha": 0.01, **rule}
    model = MAMLRegressor(**parts, solver=TrustRegion()).fit(LABELS)
    peer = MAMLRegressor(**parts).fit(LABELS)
    assert model.meta_loss_ == pytest.approx(peer.meta_loss_, rel=1e-6)
    rough = MAMLRegressor(**parts, solver=TrustRegion(max_iter=1)).fit(LABELS)
    gap = rough.meta_loss_ - peer.meta_loss_
    assert 0 < gap <= rough.gap_certificate_.bound
    assert peer.gap_certificate_.bound <= 0.05 * peer.meta_loss_


def test_a_step_by_a_given_matrix_is_minimised_exactly_and_certified():
    tasks = make_tasks(20, 8)
    model = MAMLRegressor(adaptation=STEP).fit(tasks)
    design, target = [], []
    for X, y in tasks:  # theta_i = (I - M H) theta + M b, with H = 2/n F'F and b = 2/n F'y
        F = np.column_stack([X, np.ones(len(y))])
        moved = F @ STEP.matrix @ F.T * 2 / len(y)
        design.append(F - moved @ F)
        target.append(y - moved @ y)
    expected = np.linalg.lstsq(np.vstack(design), np.concatenate(target), rcond=None)[0]
    assert np.append(model.coef_, model.intercept_) == pytest.approx(expected, rel=1e-9)
    assert model.gap_certificate_.bound <= 1e-12


def test_a_rule_with_a_required_argument_can_be_registered(monkeypatch):
    monkeypatch.setitem(RULES, "preconditioned", PreconditionedStep)
    tried = [parameter.values[0] for parameter in examples(RULES)]
    assert sum(isinstance(rule, PreconditionedStep) for rule in tried) == 2
    with pytest.raises(ValueError, match=r"pass an instance, adaptation=Precon.*\(matrix=\.\.\.\)"):
        MAMLRegressor(adaptation="preconditioned").fit(LABELS)


def test_a_matrix_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="matrix has 3 rows but there are 6 parameters"):
        MAMLRegressor(adaptation=PreconditionedStep(np.eye(3))).fit(LABELS)
    with pytest.raises(
        ValueError, match=r"matrix must be a positive definite matrix; got \[1.0, 2"
    ):
        MAMLRegressor(adaptation=PreconditionedStep([1.0, 2.0, 3.0])).fit(LABELS)


def test_labels_that_a_loss_does_not_know_are_refused():
    with pytest.raises(ValueError, match=r"needs labels from 0 to 1; got -1 to 1"):
        MAMLRegressor(loss=SoftplusHinge()).fit([(X, 2 * y - 1) for X, y in LABELS])
    with pytest.raises(ValueError, match="smoothing must be positive; got 0"):
        MAMLRegressor(loss=SoftplusHinge(0.0)).fit(LABELS)


def test_a_rule_instance_is_left_as_it_was():
    rule = GradientSteps(0.02, 3)
    model = MAMLRegressor(adaptation=rule).fit(make_tasks(20, 8))
    assert model.adaptation_ is not rule
    assert rule.get_params()["n_steps"] == 3
