"""The meta-objective against loops over tasks, and against differences."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn
from families import make_tasks
from objectives import make_objective, objective_of, stacked_risk
from reference import meta_loss, with_ones

from sklearn_maml import MAMLRegressor, MAMLRegressorCV, Proximal
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.features import Features
from sklearn_maml._tasks.stacks import Blocks, Tasks
from sklearn_maml.adaptation import GradientSteps, step_length
from sklearn_maml.losses import LOSSES, LogCosh


def as_episode(X, y):
    return (with_ones(X), y), (with_ones(X), y)


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
def test_the_value_is_the_mean_query_loss_after_adapting(n_steps):
    tasks = make_tasks(9, 6, n_features=3)
    theta = np.random.default_rng(0).normal(size=4)
    expected = meta_loss(theta, [as_episode(*task) for task in tasks], 0.02, n_steps)
    value, _ = make_objective(tasks, 0.02, n_steps).value_and_gradient(theta)
    assert value == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_first_rows_as_support_are_the_papers_split(shots):
    tasks = make_tasks(9, 6, n_features=3)
    theta = np.random.default_rng(0).normal(size=4)
    episodes = [
        ((with_ones(X)[:shots], y[:shots]), (with_ones(X)[shots:], y[shots:])) for X, y in tasks
    ]
    objective = make_objective(tasks, 0.02, 2, episodes={"support": shots, "split": "first"})
    value, _ = objective.value_and_gradient(theta)
    assert value == pytest.approx(meta_loss(theta, episodes, 0.02, 2), rel=1e-13)


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("episodes", [{}, {"support": 2}, {"support": (1, 3), "n_episodes": 2}])
def test_the_gradient_is_the_derivative_of_the_value(episodes, alpha, n_steps):
    objective = make_objective(make_tasks(9, 6), 0.05, n_steps, alpha=alpha, episodes=episodes)
    rng = np.random.default_rng(0)
    theta, h = rng.normal(size=6), 1e-5
    _, gradient = objective.value_and_gradient(theta)
    for v in rng.normal(size=(4, 6)):
        up, down = (objective.value_and_gradient(theta + s * h * v)[0] for s in (1, -1))
        assert gradient @ v == pytest.approx((up - down) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_risk_has_the_gradient_and_hessian_of_its_value(loss):
    risk, rng = stacked_risk(LOSSES[loss](), m=7, n_tasks=3), np.random.default_rng(1)
    theta, V, h = rng.normal(size=(3, 4)), rng.normal(size=(3, 2, 4)), 1e-5
    for e in np.eye(4):
        up, down = theta + h * e, theta - h * e
        slope = (risk.value(up) - risk.value(down)) / (2 * h)
        np.testing.assert_allclose(risk.gradient(theta) @ e, slope, rtol=1e-6, atol=1e-9)
        curvature = (risk.gradient(up) - risk.gradient(down)) / (2 * h)
        products = np.einsum("nkd,nd->nk", V, curvature)
        np.testing.assert_allclose(risk.hessian_dot(theta, V) @ e, products, rtol=1e-6, atol=1e-8)


def test_the_last_evaluation_is_not_repeated():
    objective = make_objective(make_tasks(5, 6))
    theta = np.ones(6)
    _, first = objective.value_and_gradient(theta)
    assert objective.value_and_gradient(theta.copy())[1] is first
    assert objective.value_and_gradient(2 * theta)[1] is not first


def test_verbose_prints_each_evaluation_and_silence_is_the_default(capsys):
    tasks = make_tasks(5, 6)
    MAMLRegressor("auto").fit(tasks)
    MAMLRegressorCV([0.01, 0.1], alphas=[0.0, 1.0]).fit(tasks)
    assert capsys.readouterr().out == ""
    MAMLRegressor("auto", verbose=1).fit(tasks)
    assert capsys.readouterr().out.count("meta-loss") >= 2


def test_an_objective_that_is_varied_is_silent_unless_it_is_told_otherwise(capsys):
    objective, theta = replace(make_objective(make_tasks(5, 6)), verbose=1), np.ones(6)
    for other in (objective.vary(), objective.penalised(objective.penalty)):
        other.value_and_gradient(theta)
    assert capsys.readouterr().out == ""
    for other in (objective.vary(verbose=1), objective.penalised(objective.penalty, verbose=1)):
        other.value_and_gradient(theta)
    assert capsys.readouterr().out.count("meta-loss") == 2


def test_relative_step_shares_count_tasks_by_weight():
    X, y = make_tasks(1, 6)[0]
    model = MAMLRegressor(inner_lr=0.1).fit([(X, y, 1.0), (100 * X, y, 3.0)])
    assert model.capped_share_ == pytest.approx(0.75)
    assert model.inner_lr_ == 0.1


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("loss", ["squared_error", "pseudo_huber"])
def test_how_steps_are_capped_is_found_once_where_rows_have_no_room(loss, first_order, monkeypatch):
    calls, found = [], step_length.largest_eigenvalue

    def counted(gram, **settings):
        calls.append(len(gram))
        return found(gram, **settings)

    monkeypatch.setattr(step_length, "largest_eigenvalue", counted)
    tasks = [task for m in (3, 9, 27, 81) for task in make_tasks(2, m, seed=m)]
    settings = {"loss": loss, "adaptation": GradientSteps(5.0, 2, first_order=first_order)}
    results = []
    for memory in (1024, 0):
        calls.clear()
        with sklearn.config_context(working_memory=memory):
            model = MAMLRegressor(certificate=None, **settings).fit(tasks)
            results.append(model)
        assert sum(calls) == len(tasks), memory
    np.testing.assert_array_equal(results[0].coef_, results[1].coef_)
    np.testing.assert_array_equal(results[0].task_coef_, results[1].task_coef_)


def test_a_sum_over_blocks_leaves_what_blocks_keep_as_it_is():
    tasks = [task for m in (3, 9, 27, 81) for task in make_tasks(2, m, seed=m)]
    objective, theta = make_objective(tasks, 0.02, 2), np.ones(6)
    assert len(objective.blocks) == 4

    def kept(linearization):
        squares = linearization.adapted_gradients
        linearization.__dict__.setdefault("kept", squares)
        return (linearization.__dict__["kept"],)

    (once,), (again,) = (objective.reduce(kept, theta) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    expected = sum(kept(objective.linearize(i, theta))[0] for i in range(4))
    np.testing.assert_allclose(once, expected, rtol=1e-14)


def test_a_risk_counts_rows_that_weigh_something_or_as_it_is_told():
    risk = stacked_risk(LOSSES["squared_error"](), m=6, n_tasks=5)  # the first has padding
    assert risk.n_rows.tolist() == [5, 6, 6, 6, 6]
    assert risk.take([0, 3]).n_rows.tolist() == [5, 6]
    told = replace(risk, size=np.array([9, 8, 7, 6, 5]))
    assert told.take([0, 3]).n_rows.tolist() == [9, 6]


def unlike_tasks():
    """Sizes that fall and rise, so that blocks hold tasks in another order, and rows of padding."""
    sizes = [9, 3, 81, 8, 2, 27, 80, 10, 3]
    return [make_tasks(1, m, n_features=3, seed=i)[0] for i, m in enumerate(sizes)]


def test_adapted_parameters_come_in_the_order_of_the_tasks():
    tasks, theta = unlike_tasks(), np.array([0.3, -0.2, 0.1, 0.4])
    objective = make_objective(tasks, 0.02, 2)
    assert len(objective.blocks) > 1
    found, _ = objective.adapted(theta)
    alone = [make_objective([task], 0.02, 2).adapted(theta)[0][0] for task in tasks]
    np.testing.assert_allclose(found, alone, rtol=1e-10)


@pytest.mark.parametrize("episodes", [{}, {"support": 1, "n_episodes": 3}], ids=["all", "drawn"])
def test_query_predictions_have_weights_that_add_up_to_those_of_their_tasks(episodes):
    """``b_j`` times the rows of the task, so 1 for a row on average, times ``n p_i``."""
    rng, tasks = np.random.default_rng(0), unlike_tasks()
    weights = rng.integers(1, 9, size=len(tasks)).astype(float)
    weights[4] = 0.0
    rows = [rng.uniform(0.5, 2.0, size=len(y)) for _, y in tasks]
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    codes = np.repeat(np.arange(len(tasks)), [len(r) for r in rows])
    given = Tasks.from_codes(y, codes, np.concatenate(rows), weights)
    features = Features(X, intercept=True)
    objective = replace(
        make_objective(tasks, 0.02), blocks=Blocks(given, features, Episodes(**episodes))
    )
    found = objective.query_predictions(np.array([0.3, -0.2, 0.1, 0.4]))
    share = len(tasks) * weights / weights.sum()
    for i, (row, (_, targets)) in enumerate(zip(rows, tasks, strict=True)):
        own = found.weight[found.task == i]
        if not weights[i]:
            assert not len(own)
            continue
        if episodes:  # each draw has all rows but one
            assert own.sum() == pytest.approx((len(row) - 1) * share[i], rel=1e-12)
            continue
        np.testing.assert_allclose(np.sort(own), np.sort(row / row.mean() * share[i]), rtol=1e-12)
        np.testing.assert_array_equal(np.sort(found.truth[found.task == i]), np.sort(targets))


def test_query_predictions_of_several_targets_have_a_row_for_each():
    tasks = [(X, np.column_stack([y, 2 * y, -y])) for X, y in unlike_tasks()]
    theta = np.arange(12.0).reshape(3, 4)
    found = make_objective(tasks, 0.02).query_predictions(theta)
    n_rows = sum(len(y) for _, y in tasks)
    assert found.truth.shape == found.predicted.shape == (3, n_rows)
    assert found.weight.shape == found.task.shape == (n_rows,)
    np.testing.assert_array_equal(found.truth[1], 2 * found.truth[0])


def test_what_rows_tell_of_several_targets_comes_task_by_task():
    """Where a loss is not as curved everywhere, each target has information of its own."""
    tasks = [(X, np.column_stack([y, 0.1 * y])) for X, y in unlike_tasks()]
    objective = objective_of(tasks, LogCosh(), Proximal(1.0, np.ones(4)))
    theta = np.zeros((2, 4))
    theta_i, told = objective.adapted(theta)
    assert theta_i.shape == (9, 2, 4)
    assert told.shape[:2] == (9, 2)
    for i, task in enumerate(tasks):
        alone = objective_of([task], LogCosh(), Proximal(1.0, np.ones(4))).adapted(theta)[1]
        np.testing.assert_allclose(told[i], alone[0], rtol=1e-6, atol=1e-9)
