"""Random effects of tasks: against the closed form, and curvature by finite differences."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_maml
from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.losses import LOSSES

RNG = np.random.default_rng(0)
SIZES = RNG.integers(3, 12, size=30)
PEOPLE = np.repeat([f"p{i}" for i in range(30)], SIZES)
X = RNG.normal([1.0, -2.0], [1.0, 3.0], size=(len(PEOPLE), 2))
OWN = np.repeat(RNG.normal(size=(30, 3)) * [1.0, 0.3, 2.0], SIZES, axis=0)
LINE = (X * ([1.0, 0.5] + OWN[:, :2])).sum(axis=1) + OWN[:, 2]
Y = LINE + 0.5 * RNG.normal(size=len(X))
DESIGN = np.column_stack([X, np.ones(len(X))])
SIGMA = np.array([[1.0, 0.1, 0.3], [0.1, 0.09, 0.0], [0.3, 0.0, 4.0]])


def fit(rule=None, y=Y, groups=PEOPLE, **parameters):
    return MAMLRegressor(adaptation=rule, random_state=0, **parameters).fit(X, y, groups=groups)


def theta_of(model):
    return np.append(model.coef_, model.intercept_)


def rows_of(i):
    return f"p{i}" == PEOPLE


def posterior_by_hand(model, sigma, residual_variance, i):
    """Mean and covariance of a task's deviation: a regression with a normal prior."""
    design, rest = DESIGN[rows_of(i)], (Y - DESIGN @ theta_of(model))[rows_of(i)]
    covariance = np.linalg.inv(np.linalg.inv(sigma) + design.T @ design / residual_variance)
    return covariance @ design.T @ rest / residual_variance, covariance


def test_deviations_and_errors_of_a_given_covariance_are_the_closed_form():
    noise = 0.3
    model = fit(Proximal(1.0, SIGMA / noise, noise=noise))
    effects = model.random_effects()
    assert effects.features == ("x0", "x1", "intercept")
    assert_array_equal(effects.tasks, [f"p{i}" for i in range(30)])
    for i in range(30):
        mean, covariance = posterior_by_hand(model, SIGMA, noise, i)
        assert_allclose(effects.deviations[i], mean, rtol=1e-6, atol=1e-9)
        assert_allclose(effects.standard_errors[i], np.sqrt(np.diagonal(covariance)), rtol=1e-8)


def test_errors_of_a_learned_model_are_those_of_its_covariance_and_strength():
    model = fit()
    found = model.learned_
    assert found.strength != 1.0
    effects = model.random_effects()
    for i in range(5):
        sigma = found.covariance / found.strength
        mean, covariance = posterior_by_hand(model, sigma, found.residual_variance, i)
        assert_allclose(effects.deviations[i], mean, rtol=1e-6, atol=1e-9)
        assert_allclose(effects.standard_errors[i], np.sqrt(np.diagonal(covariance)), rtol=1e-6)


def test_the_errors_are_those_of_the_deviations_in_data_from_the_model():
    rng, n = np.random.default_rng(1), 2000
    rows = np.column_stack([rng.normal(size=4 * n), np.ones(4 * n)])
    own = rng.normal(size=(n, 2)) * [0.5, 2.0]
    y = np.einsum("nd,nd->n", rows, np.add([1.0, 3.0], np.repeat(own, 4, axis=0)))
    y += rng.normal(size=4 * n)
    model = MAMLRegressor(random_state=0).fit(rows[:, :1], y, groups=np.repeat(np.arange(n), 4))
    effects = model.random_effects()
    wrong = effects.deviations + theta_of(model) - [1.0, 3.0] - own
    assert_allclose(np.mean((wrong / effects.standard_errors) ** 2, axis=0), 1.0, rtol=0.1)


def test_adding_the_meta_parameters_gives_the_parameters_of_the_tasks():
    model = fit()
    deviations = model.random_effects().deviations
    assert_allclose(deviations[:, :2] + model.coef_, model.task_coef_)
    assert_allclose(deviations[:, 2] + model.intercept_, model.task_intercept_)


def test_only_the_effects_that_may_differ_are_in_the_table():
    effects = fit(Proximal(1.0, random_effects=[1])).random_effects()
    assert effects.features == ("x1", "intercept")
    assert effects.deviations.shape == effects.standard_errors.shape == (30, 2)
    assert fit(Proximal(1.0, random_effects="intercept")).random_effects().features == (
        "intercept",
    )
    assert fit(fit_intercept=False).random_effects().features == ("x0", "x1")


def test_adapted_tasks_have_the_same_effects_and_a_list_is_numbered():
    model = fit()
    ours, adapted = model.random_effects(), model.adapt_tasks(X, Y, groups=PEOPLE).random_effects()
    assert_allclose(adapted.deviations, ours.deviations)
    assert_allclose(adapted.standard_errors, ours.standard_errors)
    tasks = [(X[rows_of(i)], Y[rows_of(i)]) for i in range(3)]
    listed = model.adapt_tasks(tasks).random_effects()
    assert_array_equal(listed.tasks, [0, 1, 2])
    assert_allclose(listed.deviations, ours.deviations[:3])


def test_through_a_pipeline_effects_are_per_unit_of_the_features_that_the_model_sees():
    frame = pd.DataFrame(X, columns=["age", "dose"])
    scaler = StandardScaler().set_output(transform="pandas")
    pipe = make_pipeline(scaler, MAMLRegressor(adaptation=Proximal(1.0), random_state=0))
    pipe.fit(frame, Y, mamlregressor__groups=PEOPLE)
    effects = sklearn_maml.adapt_tasks(pipe, frame, Y, groups=PEOPLE).random_effects()
    assert effects.features == ("age", "dose", "intercept")
    plain = fit(Proximal(1.0)).random_effects()
    scaled = plain.deviations[:, :2] * X.std(axis=0)
    assert_allclose(effects.deviations[:, :2], scaled, rtol=1e-2, atol=1e-3)
    expected = plain.standard_errors[:, :2] * X.std(axis=0)
    assert_allclose(effects.standard_errors[:, :2], expected, rtol=1e-3)


def test_every_target_has_effects_of_its_own():
    both = np.column_stack([Y, 3.0 * Y])
    effects = fit(y=both).random_effects()
    assert effects.deviations.shape == effects.standard_errors.shape == (30, 2, 3)
    assert_allclose(effects.deviations[:, 1], 3.0 * effects.deviations[:, 0], rtol=1e-6)
    assert_allclose(effects.standard_errors[:, 1], 3.0 * effects.standard_errors[:, 0], rtol=1e-6)
    frame = effects.to_frame()
    assert list(frame.columns[:4]) == ["x0_0", "se_x0_0", "x1_0", "se_x1_0"]
    assert_allclose(frame["se_intercept_1"], effects.standard_errors[:, 1, 2])


# -- other losses ----------------------------------------------------------------------------------


def penalised(loss, y, rule, theta):
    """What a task's parameters minimise, as minus a log density: its Hessian is the precision."""
    inverse = np.linalg.inv(rule.metric.covariance)

    def value(design, targets, own):
        told = loss.value(targets, design @ own).sum()
        return told + rule.strength * (own - theta) @ inverse @ (own - theta)

    return value


def hessian_by_differences(value, at, h=1e-3):
    steps = h * np.eye(len(at))
    return np.array(
        [
            [
                sum(s * t * value(at + s * a + t * b) for s in (1, -1) for t in (1, -1))
                for a in steps
            ]
            for b in steps
        ]
    ) / (4 * h * h)


def test_errors_of_two_classes_are_the_curvature_of_the_penalised_likelihood():
    labels = RNG.uniform(size=len(LINE)) < 1.0 / (1.0 + np.exp(-LINE))
    model = MAMLClassifier(random_state=0).fit(X, labels, groups=PEOPLE)
    effects, rule = model.random_effects(), model.adaptation_
    value = penalised(model.loss_, labels, rule, theta_of(model))
    for i in (0, 7, 21):
        own = np.append(model.task_coef_[i], model.task_intercept_[i])
        rows = DESIGN[rows_of(i)], labels[rows_of(i)].astype(float)
        precision = hessian_by_differences(lambda at, rows=rows: value(*rows, at), own)
        expected = np.sqrt(np.diagonal(np.linalg.inv(precision)))
        assert_allclose(effects.standard_errors[i], expected, rtol=1e-4)
        assert_allclose(effects.deviations[i], own - theta_of(model))


def test_each_of_three_classes_has_the_errors_of_its_own_curvature():
    labels = np.digitize(LINE, [-1.0, 2.0])
    rule = Proximal(0.5, SIGMA)
    effects = MAMLClassifier(adaptation=rule).fit(X, labels, groups=PEOPLE).random_effects()
    assert effects.standard_errors.shape == (30, 3, 3)
    for k in range(3):
        one = MAMLClassifier(adaptation=rule).fit(X, labels == k, groups=PEOPLE).random_effects()
        assert_allclose(effects.standard_errors[:, k], one.standard_errors, rtol=1e-4)
        assert_allclose(effects.deviations[:, k], one.deviations, rtol=1e-3, atol=1e-5)


def test_errors_of_counts_take_the_dispersion_that_was_learned():
    rng = np.random.default_rng(3)
    counts = rng.poisson(np.exp(np.clip(0.3 * LINE, -3.0, 4.0)))
    model = fit(y=counts, loss="poisson")
    effects, found = model.random_effects(), model.learned_
    value = penalised(model.loss_, counts, model.adaptation_, theta_of(model))
    own = np.append(model.task_coef_[0], model.task_intercept_[0])
    rows = DESIGN[rows_of(0)], counts[rows_of(0)].astype(float)
    precision = hessian_by_differences(lambda at: value(*rows, at), own)
    # A square is half curved as the loss: the residual variance of squares is half a dispersion.
    expected = np.sqrt(2.0 * found.residual_variance * np.diagonal(np.linalg.inv(precision)))
    assert_allclose(effects.standard_errors[0], expected, rtol=1e-4)


def test_a_loss_of_unknown_dispersion_needs_a_mixed_model():
    model = fit(Proximal(1.0, SIGMA), y=np.exp(0.1 * Y), loss="log_cosh")
    with pytest.raises(ValueError, match=r"LogCosh.*leaves the dispersion of rows free"):
        model.random_effects()


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "log_loss"])
def test_every_loss_has_effects_after_a_fit_with_its_defaults(loss):
    effects = fit(y=np.exp(0.1 * Y), loss=loss).random_effects()
    assert np.isfinite(effects.standard_errors).all()


# -- what cannot be had ----------------------------------------------------------------------------


def test_gradient_steps_have_no_standard_errors_and_say_what_to_do():
    model = MAMLRegressor("auto").fit(X, Y, groups=PEOPLE)
    with pytest.raises(ValueError, match=r"such as adaptation='learned'; GradientSteps does not"):
        model.random_effects()


def test_tasks_without_names_are_to_be_adapted_to():
    tasks = [(X[rows_of(i)], Y[rows_of(i)]) for i in range(10)]
    with pytest.raises(ValueError, match=r"knows no task by name.*adapt_tasks\(...\)"):
        MAMLRegressor().fit(tasks).random_effects()


def test_one_task_has_no_random_effects_but_a_variance_of_zero_is_an_answer():
    with pytest.raises(ValueError, match="there are none: one task does not show how tasks differ"):
        fit(groups=np.zeros(len(X))).random_effects()
    with pytest.raises(ValueError, match="there are none: as given"):
        fit(Proximal(1.0, np.zeros(3))).random_effects()
    alike = fit(Proximal(1.0, random_effects="intercept"), y=np.tile([0.0, 1.0], len(X))[: len(X)])
    assert alike.learned_.singular
    assert_allclose(alike.random_effects().deviations, 0.0, atol=1e-10)
    assert_allclose(alike.random_effects().standard_errors, 0.0, atol=1e-6)


def test_what_was_too_much_to_keep_is_said(monkeypatch):
    from sklearn_maml._objective import meta_objective

    monkeypatch.setattr(meta_objective, "KEPT_INFORMATION", 10)
    with pytest.raises(ValueError, match=r"3 parameters that differ .* more than 128 MiB"):
        fit().random_effects()


def test_a_rule_of_ones_own_gives_errors_by_its_posterior():
    class Doubtful(AdaptationRule):
        """Tasks do not move, but for all one knows their intercepts might."""

        affine = True

        def adapt(self, theta, risk):
            return theta + 0.0 * risk.features[..., 0, :], lambda V: V

        def information(self, risk):
            return risk.n_rows[..., None].astype(float)

        def posterior(self, n_parameters, information=None):
            n = np.zeros(1) if information is None else information[:, 0]
            unknown = np.zeros((len(n), 1, n_parameters))
            unknown[:, 0, -1] = 1.0 / np.sqrt(1.0 + n)
            return unknown

        def uncertainty(self, n_parameters, information=None):
            unknown = self.posterior(n_parameters, information)
            return np.full(len(unknown), 4.0), unknown

    effects = fit(Doubtful()).random_effects()
    assert effects.features == ("intercept",)
    assert_allclose(effects.standard_errors[:, 0], 2.0 / np.sqrt(1.0 + SIZES))


# -- how it is shown -------------------------------------------------------------------------------


def test_the_table_is_a_frame_indexed_by_tasks():
    effects = fit().random_effects()
    frame = effects.to_frame()
    assert frame.index.name == "task"
    assert list(frame.columns) == ["x0", "se_x0", "x1", "se_x1", "intercept", "se_intercept"]
    assert_allclose(frame.loc["p3", "x1"], effects.deviations[3, 1])
    assert_allclose(frame.loc["p3", "se_x1"], effects.standard_errors[3, 1])


def test_what_is_printed_has_a_line_a_task_and_says_how_many_more():
    effects = fit().random_effects()
    title, header, first, *_ = repr(effects).splitlines()
    assert title == "Random effects of 30 task(s), about the meta-parameters"
    assert header.split() == ["task", "x0", "s.e.", "x1", "s.e.", "intercept", "s.e."]
    numbers = np.column_stack([effects.deviations[0], effects.standard_errors[0]]).ravel()
    assert first.split() == ["p0", *(f"{number:.4g}" for number in numbers)]
    many = fit(groups=np.arange(len(X)) // 4).random_effects()
    assert str(many).splitlines()[-1].strip() == f"({len(many.tasks) - 30} more: see to_frame)"


def test_in_a_notebook_it_is_a_table_with_labels_escaped():
    html = fit(groups=np.char.add("<b>", PEOPLE)).random_effects()._repr_html_()
    assert html.count("<tr>") == 31
    assert "<td>&lt;b&gt;p0</td>" in html
