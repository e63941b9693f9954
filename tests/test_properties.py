"""What holds for all problems, over random ones: sizes, scales, offsets, ranks, weights, steps.

Through the estimators alone, as a user would. ``SKLEARN_MAML_EXAMPLES=2000`` tries so many of each.
"""

import os
import warnings
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from objectives import targets_for
from scipy.linalg import lstsq
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import MAMLRegressor, SingleTaskWarning
from sklearn_maml._estimators.objectives import objective_on
from sklearn_maml.adaptation import RULES
from sklearn_maml.losses import LOSSES

N_EXAMPLES = int(os.environ.get("SKLEARN_MAML_EXAMPLES", "200"))
many = settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # problems are small as they are: to shrink them takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# Rules of three parameters, two features and an intercept.
RULE_EXAMPLES = [rule for cls in dict.fromkeys(RULES.values()) for rule in cls.examples()]
SPLITS = (
    {},
    {"support": 1, "split": "first"},
    {"support": 0.5},
    {"support": [0, 2], "n_episodes": 2},
)


@st.composite
def problems(draw, scales=(-8.0, 8.0), offsets=(0.0, 9.0)):
    """Tasks (X, y, weights) of two features, well-posed or not in several ways at once."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(3, 7), min_size=2, max_size=5))
    scale = 10.0 ** np.array([draw(st.floats(*scales)) for _ in range(2)])
    offset = draw(st.sampled_from([0.0, 1.0])) * 10.0 ** draw(st.floats(*offsets))
    defect = draw(st.sampled_from(["none", "collinear", "constant", "zero", "repeated rows"]))
    tasks = []
    for size in sizes:
        Z = rng.normal(size=(size, 2))
        y = Z @ rng.normal(size=2) + rng.normal() + 0.3 * rng.normal(size=size)
        if defect == "collinear":
            Z[:, 1] = -2.0 * Z[:, 0]
        elif defect == "constant":
            Z[:, 1] = 1.0
        elif defect == "zero":
            Z[:, 1] = 0.0
        elif defect == "repeated rows":
            Z[1:], y[1:] = Z[0], y[0]
        weight = rng.uniform(0.2, 2.0, size) * (rng.uniform(size=size) < 0.9)
        weight[:3] = np.maximum(weight[:3], 0.1)  # rows enough to be split
        tasks.append(((Z + offset) * scale, y, weight))
    return tasks


def fitted(tasks, loss, rule, split, **more):
    """A model, or None where the package says in words why it cannot be had."""
    loss = LOSSES[loss]()
    tasks = [(X, targets_for(loss, y), weight) for X, y, weight in tasks]
    model = MAMLRegressor(loss=loss, adaptation=rule, random_state=0, **split, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingleTaskWarning)
        try:
            return model.fit(tasks), tasks
        except ValueError as error:
            # Steps that are not capped diverge in these units: that is said, not a number.
            if not any(word in str(error) for word in ("verflow", "diverge", "only finite")):
                raise
            return None, tasks


@many
@given(
    problems(),
    st.sampled_from(sorted(LOSSES)),
    st.sampled_from(RULE_EXAMPLES),
    st.sampled_from(SPLITS),
    st.sampled_from([0.0, 1e-6, 1.0]),
    st.integers(0, 1000),
)
def test_no_other_parameters_are_below_the_lower_bound(tasks, loss, rule, split, alpha, seed):
    model, tasks = fitted(tasks, loss, rule, split, alpha=alpha)
    assume(model is not None)
    certificate = model.gap_certificate_
    assert np.isfinite(model.meta_loss_)
    assert certificate.bound >= 0.0  # not NaN
    assert certificate.lower_bound <= model.meta_loss_
    rng, theta = np.random.default_rng(seed), np.append(model.coef_, model.intercept_)
    objective = objective_on(model, tasks, None, None, None, model._episodes)
    size = np.abs([X.max(axis=0) for X, _, _ in tasks]).max(axis=0)
    size = np.where(size > 0, size, 1.0)
    with np.errstate(all="ignore"):
        for reach in (1e-9, 1e-6, 1e-3, 1.0):  # in units of predictions
            value = objective.value(theta + reach * rng.normal(size=3) / np.append(size, 1.0))
            assert not value < certificate.lower_bound


@many
@given(
    problems(scales=(-1.0, 1.0), offsets=(0.0, 1.0)),  # else what is read off has no digits left
    st.sampled_from([rule for rule in RULE_EXAMPLES if not rule.first_order]),
    st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_the_squared_loss_is_least_as_lstsq_has_it(tasks, rule, alpha):
    """J_i and the offset of each task are read off `adapt`, which is affine; then one lstsq."""
    model, tasks = fitted(tasks, "squared_error", rule, {}, alpha=alpha)
    assume(model is not None)
    design, target = [], []
    for X, y, weight in tasks:
        base, *ends = (adapted_predictions(model, (X, y, weight), e) for e in _ORIGIN_AND_AXES)
        root = np.sqrt(weight / weight.sum() / len(tasks))
        design.append(root[:, None] * np.column_stack([end - base for end in ends]))
        target.append(root * (y - base))
    design = np.concatenate([*design, np.sqrt(alpha) * np.eye(3)[:2]])
    target = np.concatenate([*target, np.zeros(2)])
    scale = np.maximum(np.sqrt(np.square(design).sum(axis=0)), 1e-300)
    best = lstsq(design / scale, target, cond=1e-8)[0]  # below, what was read off is rounding
    least = np.square(design / scale @ best - target).sum()
    largest = np.square(target).sum()
    bound = model.gap_certificate_.bound  # rounding, which adapting may enlarge
    assert model.meta_loss_ <= least * (1 + 1e-6) + 1e-9 * largest + bound


_ORIGIN_AND_AXES = np.vstack([np.zeros(3), np.eye(3)])


def adapted_predictions(model, task, theta):
    """Predictions for a task's rows after adapting to them from theta."""
    X, y, weight = task
    other = deepcopy(model)
    other.coef_, other.intercept_ = theta[:2], float(theta[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # steps that diverge, in some units
        warnings.simplefilter("ignore", SingleTaskWarning)
        return other.adapt(X, y, sample_weight=weight).predict(X)


@many
@given(
    problems(scales=(-2.0, 2.0), offsets=(0.0, 2.0)),
    st.sampled_from(["squared_error", "pseudo_huber", "log_cosh"]),
    st.sampled_from(RULE_EXAMPLES),
    st.randoms(use_true_random=False),
)
def test_layout_order_and_type_of_the_data_change_nothing(tasks, loss, rule, random):
    model, tasks = fitted(tasks, loss, rule, {})
    assume(model is not None and model.gap_certificate_.bound <= 1e-6 * (1 + model.meta_loss_))
    mixed = list(tasks)
    random.shuffle(mixed)
    strange = []
    for X, y, weight in mixed:
        order = np.array(random.sample(range(len(y)), len(y)))
        wide = np.empty((2, 2 * len(y)))  # columns first, every second number
        wide[:, ::2] = X[order].T
        strange.append((wide[:, ::2].T, y[order].tolist(), list(weight[order])))
    again, _ = fitted_as_is(strange, loss, rule)
    scale = 1e-6 * (1.0 + abs(model.meta_loss_))
    assert again.meta_loss_ == pytest.approx(model.meta_loss_, rel=1e-6, abs=scale)


def fitted_as_is(tasks, loss, rule):
    """A model fitted on tasks whose targets suit the loss already."""
    model = MAMLRegressor(loss=LOSSES[loss](), adaptation=rule, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(tasks), tasks
