"""Pictures show the numbers of the model; progress and notebooks' views."""

import ast
import inspect
import io
import logging
import re
from importlib.util import find_spec

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sklearn_maml
from sklearn_maml import (
    AdaptedRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MAMLRegressorCV,
    NTKFeatures,
    Proximal,
    few_shot_curve,
)
from sklearn_maml._objective.risk import Risk
from sklearn_maml.adaptation import RULES, GradientSteps
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.displays import (
    ConvergenceDisplay,
    FewShotCurveDisplay,
    GapCertificateDisplay,
    IntervalDisplay,
    TaskEffectsDisplay,
)
from sklearn_maml.losses import LOSSES, SquaredError
from sklearn_maml.model_selection.baselines import OwnRidge
from sklearn_maml.solvers import SGD, SOLVERS, GradientDescent, Solver, SolverResult

matplotlib.use("Agg")
TASKS = make_linear_tasks(n_tasks=40, n_samples=15, n_features=3, random_state=0)
KNOWN, NEW = TASKS[:25], TASKS[25:]


@pytest.fixture(scope="module")
def model():
    return MAMLRegressor("auto", support=5, random_state=0).fit(KNOWN)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def lines(display):
    """What is drawn, by label: (x, y)."""
    handles, labels = display.ax_.get_legend_handles_labels()
    drawn = [h.lines[0] if hasattr(h, "lines") else h for h in handles]
    return {label: line.get_data() for label, line in zip(labels, drawn, strict=True)}


def test_the_certificate_is_drawn_with_its_two_terms_and_its_best_radius(model):
    certificate = model.certify(NEW)
    display = GapCertificateDisplay(certificate).plot()
    drawn = lines(display)
    radii, bounds = drawn["bound on the gap"]
    np.testing.assert_allclose(bounds, [certificate.at(radius) for radius in radii])
    terms = [values[1] for label, values in drawn.items() if "×" in label]
    total = np.nansum(terms, axis=0) + certificate.slack + certificate.rounding
    np.testing.assert_allclose(bounds, total, rtol=1e-12)
    (best,) = [values for label, values in drawn.items() if label.startswith("best R")]
    assert (best[0][0], best[1][0]) == (certificate.radius, certificate.bound)
    assert certificate.bound <= 1.001 * bounds.min()  # its best radius is one of a grid
    low, high = display.ax_.get_ylim()
    assert low < certificate.bound < high


def test_a_term_outside_the_picture_is_said_to_be_there(model):
    display = GapCertificateDisplay.from_estimator(model)
    assert display.certificate is model.gap_certificate_
    assert any("below this picture" in label for label in lines(display))


def test_a_certificate_of_zero_meta_loss_can_be_drawn():
    zero = [(X_t, np.zeros(len(X_t))) for X_t, _ in TASKS]
    display = GapCertificateDisplay.from_estimator(MAMLRegressor("auto").fit(zero))
    assert display.certificate.bound == 0
    display.figure_.savefig(io.BytesIO())


def test_the_curve_is_drawn_beside_what_one_would_do_otherwise(model):
    X, y = (np.concatenate(part) for part in zip(*KNOWN, strict=True))
    pooled = LinearRegression().fit(X, y)
    display = FewShotCurveDisplay.from_estimator(model, NEW, supports=[0, 2, 6], pooled=pooled)
    drawn = lines(display)
    curve = few_shot_curve(model, NEW, supports=[0, 2, 6])
    np.testing.assert_allclose(drawn["adapted"], [[0, 2, 6], curve.mean])
    prior = np.mean([np.mean((model.predict(X_t) - y_t) ** 2) for X_t, y_t in NEW])
    np.testing.assert_allclose(drawn["meta-parameters, unadapted"][1], prior)
    one_for_all = np.mean([np.mean((pooled.predict(X_t) - y_t) ** 2) for X_t, y_t in NEW])
    np.testing.assert_allclose(drawn["pooled fit"][1], one_for_all)
    assert drawn["ridge on the task's rows alone"][0].tolist() == [2, 6]
    assert FewShotCurveDisplay.from_estimator(model, NEW, supports=[0]).own is None


def test_intervals_are_drawn_for_the_rows_that_follow_those_adapted_to():
    model = MAMLRegressor(random_state=0).fit(KNOWN)
    X, y = NEW[0]
    display = IntervalDisplay.from_estimator(model, X, y, shots=[1, 4], coverage=0.8, feature=1)
    drawn = lines(display)
    for i, k in enumerate([1, 4]):
        adapted, order = model.adapt(X[:k], y[:k]), k + np.argsort(X[k:, 1])
        x, mean = drawn[f"after {k} row{'s' * i}"]
        np.testing.assert_array_equal(x, X[order, 1])
        np.testing.assert_array_equal(mean, adapted.predict(X)[order])
        expected = adapted.predict_interval(X, 0.8)
        np.testing.assert_array_equal((display.low[i], display.high[i]), expected)
        corners = display.ax_.collections[i].get_paths()[0].vertices
        for side in expected:
            assert set(side[order]) <= set(corners[:, 1])
    np.testing.assert_array_equal(drawn["rows adapted to"], (X[:4, 1], y[:4]))
    np.testing.assert_array_equal(drawn["rows to come"], (X[4:, 1], y[4:]))
    assert display.ax_.get_title() == "80% intervals of a new task"


def test_a_curve_takes_rows_with_a_task_column_and_a_pooled_pipeline():
    def flat(tasks):
        X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
        frame = pd.DataFrame(X, columns=["a", "b", "c"])
        return frame.assign(store=np.repeat([f"s{i}" for i in range(len(tasks))], 15)), y

    class Means(Ridge):
        def predict(self, X):
            return super().predict(X[["a", "b", "c"]])

    frame, y = flat(KNOWN)
    pipe = make_pipeline("passthrough", MAMLRegressor("auto", task_column="store")).fit(frame, y)
    pooled = Means().fit(frame[["a", "b", "c"]], y)
    by_column = FewShotCurveDisplay.from_estimator(pipe, *flat(NEW), pooled=pooled)
    listed = FewShotCurveDisplay.from_estimator(
        MAMLRegressor("auto").fit(KNOWN),
        NEW,
        pooled=Ridge().fit(frame[["a", "b", "c"]].to_numpy(), y),
    )
    np.testing.assert_allclose(by_column.curve.mean, listed.curve.mean)
    assert by_column.pooled == pytest.approx(listed.pooled)


def test_large_errors_of_few_rows_do_not_flatten_the_rest(model):
    far = [(X_t, y_t + 100.0) for X_t, y_t in KNOWN]
    display = FewShotCurveDisplay.from_estimator(
        MAMLRegressor("auto").fit(far), [(X_t, y_t + 100.0) for X_t, y_t in NEW], supports=[0, 5]
    )
    assert display.ax_.get_yscale() == "linear"
    display.own.task_errors[:] *= 1000
    assert display.plot().ax_.get_yscale() == "log"


@pytest.mark.parametrize("intercept", [True, False])
def test_the_fit_on_the_rows_alone_is_that_of_ridge(intercept):
    X, y = NEW[0]
    rows = np.column_stack([X, np.ones(len(X))]) if intercept else X
    risk = Risk(SquaredError(), rows[None], y[None], np.full((1, len(y)), 1 / len(y)))
    theta, pullback = OwnRidge(intercept).adapt(np.zeros(rows.shape[1]), risk)
    own = Ridge(alpha=1.0, fit_intercept=intercept).fit(X, y)
    np.testing.assert_allclose(rows @ theta[0], own.predict(X), rtol=1e-6)
    assert not pullback(rows[None]).any()


def test_convergence_is_drawn_above_the_certified_bound(model):
    display = ConvergenceDisplay.from_estimator(model)
    drawn = lines(display)
    steps, values = drawn["meta-loss"]
    assert steps.tolist() == list(range(model.n_iter_ + 1))
    np.testing.assert_array_equal(values, model.meta_losses_)
    assert values[-1] == pytest.approx(model.meta_loss_)
    assert values[0] == pytest.approx(
        MAMLRegressor("auto", support=5, random_state=0).fit(KNOWN).meta_losses_[0]
    )
    assert (values >= model.gap_certificate_.lower_bound).all()
    far = ConvergenceDisplay([1e6, 3.0, 1.0], 0.9).plot()
    assert far.ax_.get_yscale() == "log"


@pytest.mark.parametrize(
    "parts",
    [
        {"solver": GradientDescent(tol=1e-4)},
        {"solver": SGD(n_epochs=60, random_state=0)},
        {"loss": "log_cosh", "solver": "lbfgs"},
        {"loss": "log_cosh", "alpha": 0.1},
    ],
)
def test_with_the_tasks_the_lower_bound_is_drawn_by_iteration(parts):
    model = MAMLRegressor(support=5, random_state=0, **parts).fit(KNOWN)
    display = ConvergenceDisplay.from_estimator(model, KNOWN)
    drawn = lines(display)
    np.testing.assert_allclose(drawn["meta-loss"][1], model.meta_losses_, rtol=1e-10)
    bounds = display.lower_bounds
    assert (np.diff(bounds) >= 0).all()
    if "loss" not in parts:  # the query minima bound the others, wherever the solver is
        assert bounds[0] < 0
        assert bounds[0] < bounds[-1]
    assert bounds[-1] >= model.gap_certificate_.lower_bound - 1e-8
    best = MAMLRegressor(
        support=5, random_state=0, **{k: v for k, v in parts.items() if k != "solver"}
    )
    assert (bounds <= best.fit(KNOWN).meta_loss_ + 1e-12).all()
    (drawn_bounds,) = [values[1] for label, values in drawn.items() if "lower bound" in label]
    np.testing.assert_array_equal(drawn_bounds, bounds)


def test_of_a_solver_without_a_callback_start_and_end_are_certified():
    class FirstOrder(Solver):
        """A step of gradient descent that does not evaluate where it stops, and tells nobody."""

        def minimize(self, objective, theta):
            value, gradient = objective.value_and_gradient(theta)
            step = theta - 1e-3 * gradient
            return SolverResult(step, 1, True, (value, objective.exact().vary().n_parameters))

    model = MAMLRegressor("auto", solver=FirstOrder()).fit(KNOWN)
    bounds = ConvergenceDisplay.from_estimator(model, KNOWN).lower_bounds
    start = MAMLRegressor("auto").fit(KNOWN)
    start.coef_, start.intercept_ = 0 * start.coef_, 0.0
    known = [start.certify(KNOWN).lower_bound, model.gap_certificate_.lower_bound]
    np.testing.assert_allclose(bounds, np.maximum.accumulate(known))


def test_convergence_through_a_pipeline_with_groups_and_weights():
    X, y = (np.concatenate(part) for part in zip(*KNOWN, strict=True))
    groups, weight = np.repeat(np.arange(25), 15), np.linspace(1, 2, len(y))
    given = {"groups": groups, "sample_weight": weight}
    pipe = make_pipeline(StandardScaler(), MAMLRegressor("auto"))
    pipe.fit(X, y, **{f"mamlregressor__{name}": value for name, value in given.items()})
    display = ConvergenceDisplay.from_estimator(pipe, X, y, **given)
    np.testing.assert_allclose(display.values, pipe[-1].meta_losses_, rtol=1e-10)
    with pytest.raises(ValueError, match=r"but it was .* in fit; pass the tasks"):
        ConvergenceDisplay.from_estimator(pipe, X, y, groups=groups)


def test_a_bound_by_another_route_is_not_drawn_on_the_curve():
    model = MAMLRegressor("auto", loss="pseudo_huber", alpha=1e-3, support=5, random_state=0).fit(
        KNOWN
    )
    certificate = model.gap_certificate_
    assert certificate.route not in ("Theorem 1", "Corollary 1")
    drawn = lines(GapCertificateDisplay.from_estimator(model))
    (label,) = [label for label in drawn if label.startswith(f"reported, by {certificate.route}")]
    assert set(drawn[label][1]) == {certificate.bound}
    assert not [label for label in drawn if label.startswith("best R")]


@pytest.mark.parametrize("display", [GapCertificateDisplay, ConvergenceDisplay])
def test_a_fit_without_a_certificate_has_none_to_draw(display):
    model = MAMLRegressor("auto", certificate=None).fit(KNOWN)
    with pytest.raises(ValueError, match="was fitted with certificate=None"):
        display.from_estimator(model)


def test_displays_draw_on_axes_that_are_given(model):
    figure, axes = plt.subplots(1, 3)
    displays = [
        GapCertificateDisplay.from_estimator(model, ax=axes[0]),
        FewShotCurveDisplay.from_estimator(model, NEW, ax=axes[1]),
        ConvergenceDisplay.from_estimator(model, ax=axes[2]),
    ]
    for display, ax in zip(displays, axes, strict=True):
        assert display.ax_ is ax
        assert display.figure_ is figure
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title()


# -- random effects -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned():
    X, y = (np.concatenate(part) for part in zip(*KNOWN, strict=True))
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    return MAMLRegressor(random_state=0).fit(frame, y, groups=np.repeat(range(len(KNOWN)), 15))


def bars(ax):
    """What is drawn on a panel, by its height: (left, middle, right) and whether in colour."""
    drawn = {}
    for collection, line in zip(ax.collections, ax.lines[1:], strict=True):
        for (start, end), middle in zip(collection.get_segments(), line.get_xdata(), strict=True):
            drawn[start[1]] = (start[0], middle, end[0]), line.get_color() == "tab:blue"
    return [drawn[place] for place in sorted(drawn)]


def test_effects_are_drawn_sorted_with_intervals_and_the_tasks_labels(learned):
    display = TaskEffectsDisplay.from_estimator(learned)
    effects = learned.random_effects()
    names = [ax.get_title().partition(":")[0] for ax in display.axes_]
    assert names == list(effects.features) == ["a", "b", "c", "intercept"]
    for ax, middle, error in zip(
        display.axes_, effects.deviations.T, effects.standard_errors.T, strict=True
    ):
        order = np.argsort(middle)
        places, colored = zip(*bars(ax), strict=True)
        expected = [middle - 1.96 * error, middle, middle + 1.96 * error]
        np.testing.assert_allclose(places, np.transpose(expected)[order])
        apart = np.abs(middle) > 1.96 * error
        assert list(colored) == apart[order].tolist()
        assert ax.get_title().endswith(f": {apart.sum()} of 25 apart from 0")
        assert [label.get_text() for label in ax.get_yticklabels()] == [*map(str, order)]
    assert display.figure_ is display.axes_[0].figure


def test_effects_that_are_named_are_drawn_in_that_order(learned):
    display = TaskEffectsDisplay.from_estimator(learned, feature=["intercept", "b"])
    assert [ax.get_title().split(":")[0] for ax in display.axes_] == ["intercept", "b"]
    figure, ax = plt.subplots()
    display = TaskEffectsDisplay.from_estimator(learned, feature="b", ax=ax)
    assert display.axes_.tolist() == [ax]
    assert display.figure_ is figure
    for feature in ("d", ["a", "d"], []):
        with pytest.raises(ValueError, match=r"must name random effects, which are \['a', 'b'"):
            TaskEffectsDisplay.from_estimator(learned, feature=feature)


def test_effects_are_drawn_on_axes_that_are_given_one_a_panel(learned):
    _, axes = plt.subplots(2, 2)
    display = TaskEffectsDisplay.from_estimator(learned, ax=axes)
    assert display.axes_.tolist() == axes.ravel().tolist()
    with pytest.raises(ValueError, match="one Axes for each of the 4 effects to draw; got 2"):
        display.plot(ax=axes[0])
    with pytest.raises(TypeError, match="must be matplotlib Axes or None; got str"):
        display.plot(ax="here")


def test_effects_of_pipelines_searches_and_adapted_tasks_are_drawn(learned):
    X, y = (np.concatenate(part) for part in zip(*KNOWN, strict=True))
    frame = pd.DataFrame(X).assign(task=np.repeat(range(len(KNOWN)), 15))
    grid = {"alpha": [0.0, 1.0]}
    search = GridSearchCV(MAMLRegressor(random_state=0, task_column="task"), grid, cv=2)
    pipe = make_pipeline("passthrough", search).fit(frame.rename(columns=str), y)
    display = TaskEffectsDisplay.from_estimator(pipe)
    best = pipe[-1].best_estimator_.random_effects()
    np.testing.assert_array_equal(display.effects.deviations, best.deviations)
    adapted = learned.adapt_tasks([(pd.DataFrame(X, columns=["a", "b", "c"]), y) for X, y in NEW])
    assert len(bars(TaskEffectsDisplay.from_estimator(adapted).axes_[0])) == len(NEW)


def test_many_tasks_are_drawn_without_labels_and_every_target_has_panels():
    tasks = make_linear_tasks(n_tasks=70, n_samples=6, n_features=1, random_state=0)
    both = [(X_t, np.column_stack([y_t, -y_t])) for X_t, y_t in tasks]
    adapted = MAMLRegressor(random_state=0).fit(both).adapt_tasks(both)
    display = TaskEffectsDisplay.from_estimator(adapted)
    titles = [ax.get_title().split(":")[0] for ax in display.axes_]
    assert titles == ["x0 0", "intercept 0", "x0 1", "intercept 1"]
    assert not display.axes_[0].get_yticks().size


# -- progress and notebooks -----------------------------------------------------------------------


def test_nothing_is_written_unless_asked(capfd, caplog):
    MAMLRegressor("auto").fit(KNOWN)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_verbose_prints_where_logging_is_not_configured(capfd):
    MAMLRegressor("auto", verbose=1).fit(KNOWN)
    MAMLRegressorCV(n_steps=[1], verbose=1).fit(KNOWN)
    out, err = capfd.readouterr()
    assert err == ""
    assert re.search(r"\[sklearn_maml\] theta 1, \d+\.\d\d s: meta-loss", out)
    assert re.search(r"\[sklearn_maml\] search 1, .* s: inner_lr=auto, n_steps=1: R2", out)


def test_verbose_uses_the_logging_that_is_configured(capfd, caplog):
    with caplog.at_level(logging.INFO, logger="sklearn_maml"):
        MAMLRegressor("auto", verbose=1).fit(KNOWN)
    assert all(r.name == "sklearn_maml" and r.levelno == logging.INFO for r in caplog.records)
    assert "meta-loss" in caplog.text
    assert capfd.readouterr() == ("", "")


def test_the_certificate_is_a_table_in_a_notebook(model):
    certificate = model.gap_certificate_
    html = certificate._repr_html_()
    for number in (f"{certificate.meta_loss:.6g}", f"{certificate.bound:.3g}"):
        assert number in html
    assert html.count("<tr>") == html.count("</tr>") == 9 + len(certificate.assumptions)
    other = MAMLRegressor("auto", loss="log_cosh").fit(KNOWN).gap_certificate_
    for name, bound in other.routes:
        assert f"by {name}" in other._repr_html_()
        assert f"{bound:.3g}" in other._repr_html_()


def test_estimators_are_drawn_in_a_notebook(model):
    assert "MAMLRegressor" in model._repr_html_()
    assert "AdaptedRegressor" in model.adapt(*NEW[0])._repr_html_()


VERSION = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
PARAMETERS_ARE_SHOWN, PARAMETERS_HAVE_TIPS = VERSION >= (1, 7), VERSION >= (1, 8)
SHOWN = [MAMLRegressor, MAMLClassifier, MAMLRegressorCV, AdaptedRegressor, NTKFeatures]
SHOWN += [*SOLVERS.values(), *RULES.values()]


@pytest.mark.parametrize("shown", SHOWN)
def test_every_parameter_is_documented_under_its_name_with_its_default(shown):
    for name, parameter in inspect.signature(shown).parameters.items():
        (kind,) = re.findall(rf"^{name} : (.+)$", inspect.getdoc(shown), re.MULTILINE)
        if parameter.default is not parameter.empty:
            (default,) = re.findall(r"default=(.+)", kind)
            assert ast.literal_eval(default) == parameter.default


def test_no_estimator_is_linked_to_a_page_of_scikit_learn(model):
    html = make_pipeline(StandardScaler(), MAMLRegressor("auto"))._repr_html_()
    links = re.findall(r'href="([^"#]+)', html)
    assert links
    assert {link.split("/")[0] for link in links if "MAML" in link or "maml" in link} == {"docs"}
    shown = [model, MAMLClassifier("auto"), MAMLRegressorCV(), NTKFeatures(), GradientDescent()]
    for estimator in [*shown, MAMLRegressor(adaptation=Proximal(), solver=SGD())]:
        html = estimator._repr_html_()
        (link,) = set(re.findall(r'href="([^"#]+)', html))
        assert link == f"docs/_build/generated/sklearn_maml.{type(estimator).__name__}.html"
        for name in estimator.get_params(deep=False) if PARAMETERS_ARE_SHOWN else ():
            assert name in html


@pytest.mark.parametrize("registry", [RULES, LOSSES, SOLVERS])
def test_what_is_linked_to_a_page_has_one(registry):
    for part in registry.values():
        assert getattr(sklearn_maml, part.__name__) is part


if PARAMETERS_HAVE_TIPS:

    @pytest.mark.parametrize("shown", [MAMLRegressor, MAMLClassifier, MAMLRegressorCV])
    def test_parameters_have_tips(shown):
        tips = shown()._repr_html_().count('<span class="param-doc-description"')
        assert tips == len(inspect.signature(shown).parameters)


class Recorder:
    """A callback of scikit-learn 1.9 that counts what it is told."""

    def __init__(self):
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        fitted = ""  # what is fitted is told at the end of the whole, not of a stage
        if fitted_estimator is not None:
            model = getattr(fitted_estimator, "best_estimator_", fitted_estimator)
            fitted = f" with {model.n_tasks_} tasks"
        self.calls.append(f"end {context.task_name}{fitted}")

    def stages(self):
        """The calls of stages and of the whole, in turn; and how many iterations each had."""
        calls = [call for call in self.calls if "iteration" not in call]
        names = [call.split()[1] for call in calls if call.startswith("begin")]
        return calls, {name: self._iterations(name) for name in names}

    def _iterations(self, name):
        inside = self.calls[self.calls.index(f"begin {name}") :]
        return inside[: inside.index(f"end {name}")].count("end iteration") if name != "fit" else 0

    def teardown(self, estimator, context):
        self.calls.append("teardown")


if find_spec("sklearn.callback"):

    def test_callbacks_are_told_of_a_fit():
        recorder = Recorder()
        MAMLRegressor("auto").set_callbacks(recorder).fit(KNOWN)
        calls, iterations = recorder.stages()
        stages = ["reading", "theta", "certificate"]
        inside = [f"{when} {name}" for name in stages for when in ("begin", "end")]
        assert calls == ["setup", "begin fit", *inside, "end fit with 25 tasks", "teardown"]
        assert recorder.calls.count("begin iteration") == recorder.calls.count("end iteration")
        assert iterations["theta"] > 0

    @pytest.mark.parametrize("loss", ["squared_error", "log_cosh"])
    def test_callbacks_are_told_of_each_stage_of_learning(loss):
        recorder = Recorder()
        MAMLRegressor(loss=loss, random_state=0).set_callbacks(recorder).fit(KNOWN)
        _, iterations = recorder.stages()
        names = ["fit", "reading", "metric", "strength", "theta", "certificate", "intervals"]
        assert list(iterations) == names
        assert min(iterations[name] for name in ("metric", "strength", "theta")) > 1

    def test_callbacks_are_told_of_learned_steps_and_of_a_search():
        recorder = Recorder()
        rule = GradientSteps("learn")
        model = MAMLRegressor(adaptation=rule, random_state=0).set_callbacks(recorder)
        model.fit(KNOWN)
        names = ["fit", "reading", "lengths", "theta", "certificate", "intervals"]
        assert list(recorder.stages()[1]) == names
        recorder = Recorder()
        MAMLRegressorCV(n_steps=[1, 2]).set_callbacks(recorder).fit(KNOWN)
        iterations = recorder.stages()[1]
        assert list(iterations) == ["fit", "reading", "search", "theta", "certificate"]
        assert iterations["search"] >= 2

    def test_callbacks_are_torn_down_after_an_error():
        recorder = Recorder()
        with pytest.raises(ValueError, match="empty list"):
            MAMLRegressor("auto").set_callbacks(recorder).fit([])
        assert recorder.calls == ["setup", "begin fit", "begin reading", "teardown"]

    def test_callbacks_inside_a_search():
        recorder = Recorder()
        search = GridSearchCV(
            MAMLRegressor("auto").set_callbacks(recorder), {"n_steps": [1, 2]}, cv=2
        )
        search.fit(KNOWN)
        # Four of the search and one of the best candidate, of which each is a fit of its own.
        assert recorder.calls.count("begin fit") == 5
        assert recorder.calls.count("end theta") == 5
        MAMLRegressorCV(n_steps=[1]).set_callbacks().fit(KNOWN)

    if find_spec("rich"):

        def test_a_progress_bar_runs(capfd):
            from sklearn.callback import ProgressBar

            search = GridSearchCV(MAMLRegressor("auto"), {"n_steps": [1, 2]}, cv=2)
            search.set_callbacks(ProgressBar()).fit(KNOWN)
            assert "GridSearchCV" in capfd.readouterr().out

else:

    def test_callbacks_have_no_effect():
        assert not hasattr(MAMLRegressor("auto"), "set_callbacks")
