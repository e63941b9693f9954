"""Stages of a fit are told of; warnings point to the line of the user that led to them."""

import logging
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import sklearn_maml
from sklearn_maml import GradientSteps, MAMLRegressor, Proximal, SingleTaskWarning
from sklearn_maml._progress import report, stage, telling, warn_user
from sklearn_maml.datasets import make_linear_tasks

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 2)), RNG.normal(size=12)
TASKS = [(X[:6], Y[:6]), (X[6:], Y[6:])]
ONE = MAMLRegressor("auto").fit(X, Y)
UNCAPPED = MAMLRegressor(adaptation=GradientSteps(2.0, cap=False))
with warnings.catch_warnings(action="ignore"):
    DIVERGING = UNCAPPED.fit(TASKS)


@pytest.mark.parametrize(
    ("call", "category"),
    [
        (lambda: UNCAPPED.fit(TASKS), ConvergenceWarning),  # behind scikit-learn's decorator
        (lambda: DIVERGING.adapt(X, Y), ConvergenceWarning),
        (lambda: DIVERGING.adapt_tasks(TASKS), ConvergenceWarning),
        (lambda: ONE.adapt(X, Y), SingleTaskWarning),
        (lambda: sklearn_maml.adapt(ONE, X, Y), SingleTaskWarning),  # two functions deep
    ],
)
def test_a_warning_points_to_the_line_outside_of_the_package_that_called_it(call, category):
    with pytest.warns(category) as caught:
        call()
    place = [(w.filename, w.lineno) for w in caught if w.category is category]
    assert place == [(__file__, call.__code__.co_firstlineno)]


def test_a_package_whose_name_only_begins_alike_is_a_place_to_point_to():
    line = compile("warn_user('text', UserWarning)", "elsewhere.py", "exec")
    with pytest.warns(UserWarning, match="text") as caught:
        exec(line, {"__name__": "sklearn_maml_extension", "warn_user": warn_user})
    assert caught[0].filename == "elsewhere.py"


# Stages

MANY = make_linear_tasks(n_tasks=25, random_state=0)
STAGES = ["reading", "metric", "strength", "theta", "certificate", "intervals"]


def lines_of(model, caplog, tasks=MANY):
    """What a verbose fit logs."""
    with caplog.at_level(logging.INFO, logger="sklearn_maml"):
        model.set_params(verbose=1).fit(tasks)
    return [record.message for record in caplog.records]


@pytest.mark.parametrize("loss", ["squared_error", "log_cosh"])
def test_a_verbose_fit_tells_its_stage_iteration_and_seconds(loss, caplog):
    lines = lines_of(MAMLRegressor(loss=loss, random_state=0), caplog)
    done = [line.split()[0] for line in lines if " done: " in line]
    assert done == STAGES
    told = [re.match(r"(\w+) (\d+), (\d+\.\d\d) s: .", line) for line in lines]
    told = [found.groups() for found in told if found]
    assert [name for name in STAGES if name in {t[0] for t in told}] == STAGES[1:4]
    for name in STAGES[1:4]:
        numbers = [int(number) for stage, number, _ in told if stage == name]
        assert numbers == sorted(set(numbers))
    seconds = [float(time) for *_, time in told]
    assert seconds == sorted(seconds)


def test_what_is_learned_by_the_query_loss_is_one_stage(caplog):
    """The scale from which a diagonal is sought is part of the metric."""
    model = MAMLRegressor(adaptation=Proximal(metric="intercept", criterion="query"))
    lines = lines_of(model.set_params(loss="log_cosh", random_state=0), caplog)
    assert [line.split()[0] for line in lines if " done: " in line] == STAGES


def test_a_fit_that_fails_leaves_no_stage_behind(caplog):
    with pytest.raises(ValueError, match="empty list"):
        MAMLRegressor().fit([])
    with caplog.at_level(logging.DEBUG, logger="sklearn_maml"):
        report("of no fit")
        with stage("theta"):
            report("of none either")
    assert [record.message for record in caplog.records] == ["of no fit", "of none either"]


def test_a_stage_within_another_is_part_of_it(caplog):
    model = MAMLRegressor(verbose=True)
    with caplog.at_level(logging.INFO, logger="sklearn_maml"), telling(model, None, None, 5):
        with stage("outer"), stage("inner"):
            report("text")
        report("between stages", verbose=True)
    first, second, third = (record.message for record in caplog.records)
    assert re.fullmatch(r"outer 1, \d+\.\d\d s: text", first)
    assert re.fullmatch(r"outer done: 1 iterations, \d+\.\d\d s", second)
    assert third == "between stages"


def test_fits_in_several_threads_do_not_hear_of_one_another(caplog):
    def fit(k):
        return MAMLRegressor(random_state=0, verbose=1).fit(MANY).meta_loss_

    with caplog.at_level(logging.INFO, logger="sklearn_maml"), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(fit, range(2))
    assert first == second
    done = [r.message.split()[0] for r in caplog.records if " done: " in r.message]
    assert sorted(done) == sorted(2 * STAGES)
    numbers = [r.message.split(",")[0] for r in caplog.records if r.message.startswith("theta 1,")]
    assert len(numbers) == 2
