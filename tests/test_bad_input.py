"""Bad data get an error that says what was got, what to do and which task; never a number."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_maml import GradientSteps, MAMLRegressor, Proximal

RNG = np.random.default_rng(0)
TASKS = [(RNG.normal(size=(5, 2)), RNG.normal(size=5)) for _ in range(4)]
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
G = np.repeat(list("abcd"), 5)
FRAMES = [(pd.DataFrame(A, columns=["u", "v"]), b) for A, b in TASKS]
BAD = [np.nan, np.inf, -np.inf]
MODEL = MAMLRegressor("auto").fit(TASKS)


def spoilt(values, bad):
    """A copy with one bad entry in the 4th row."""
    out = np.array(values)
    out[3] = bad
    return out


def refuses(message, call, error=ValueError):
    with pytest.raises(error, match=message):
        call()


# NaN and infinity


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        np.float32,
        lambda A: A.astype(object),
        np.ndarray.tolist,
        np.asfortranarray,
        sp.csr_array,
        sp.csc_matrix,
        pd.DataFrame,
        lambda A: pd.DataFrame(A).astype("Float64"),
        pl.DataFrame,
    ],
)
def test_a_value_of_x_that_is_not_finite_is_refused_with_its_task(form, bad):
    word = "NaN" if np.isnan(bad) else "infinity"
    tasks = [*TASKS, (spoilt(X[:5], bad), Y[:5])]
    message = rf"Task 4: X contains {word} \(row 3 of that task\); remove or impute"
    refuses(message, lambda: MAMLRegressor("auto").fit([(form(A), b) for A, b in tasks]))
    flat = np.concatenate([X, tasks[-1][0]]), np.append(Y, Y[:5])
    message = message.replace("4", "e", 1)
    refuses(
        message, lambda: MAMLRegressor("auto").fit(form(flat[0]), flat[1], groups=[*G, *"eeeee"])
    )


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("form", [np.asarray, list, pd.Series, pl.Series])
def test_a_target_that_is_not_finite_is_refused_with_its_task(form, bad):
    y = form(spoilt(Y, bad))
    refuses(r"Task a: y contains .* \(row 3", lambda: MAMLRegressor("auto").fit(X, y, groups=G))
    tasks = [TASKS[0], (X[:5], form(spoilt(Y[:5], bad)))]
    refuses(r"Task 1: y contains .* \(row 3", lambda: MAMLRegressor("auto").fit(tasks))


@pytest.mark.parametrize("bad", BAD)
def test_weights_that_are_not_finite_are_refused(bad):
    weight = spoilt(np.ones(20), bad)
    message = "sample_weight contains|Negative values"
    refuses(message, lambda: MAMLRegressor("auto").fit(X, Y, groups=G, sample_weight=weight))
    refuses(message, lambda: MAMLRegressor("auto").fit(TASKS, sample_weight=weight[:4]))
    tasks = [TASKS[0], (X[:5], Y[:5], weight[:5])]
    refuses("Task 1: weights must be finite and not neg", lambda: MAMLRegressor("auto").fit(tasks))


@pytest.mark.parametrize("bad", BAD)
def test_featurizer_output_that_is_not_finite_is_refused(bad):
    featurizer = FunctionTransformer(lambda A: np.where(A > 1, bad, A))
    assert X.max() > 1
    model = MAMLRegressor("auto", featurizer=featurizer)
    refuses("featurizer output contains", lambda: model.fit(TASKS))
    model.fit([(np.minimum(A, 1), b) for A, b in TASKS])
    for call in (model.adapt, model.score):
        refuses("featurizer output contains", lambda call=call: call(X, Y))
    refuses("featurizer output contains", lambda: model.predict(X))


def test_a_featurizer_may_take_missing_values_in_both_forms_of_data():
    tasks = [(spoilt(A, np.nan), b) for A, b in TASKS]
    model = MAMLRegressor("auto", featurizer=make_pipeline(SimpleImputer(), StandardScaler()))
    flat = np.concatenate([A for A, _ in tasks])
    np.testing.assert_array_equal(
        model.fit(tasks).coef_,
        MAMLRegressor(**model.get_params(False)).fit(flat, Y, groups=G).coef_,
    )


# Shapes and forms of X and y


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (([],), "empty list of tasks; at least one"),
        (((),), "empty list of tasks; at least one"),
        (([TASKS[0], (X[:0], Y[:0])],), "Task 1 has no rows; leave it out"),
        (([TASKS[0], (X[:, :1], Y)],), "Task 1 has 1 columns but task 0 has 2"),
        (([TASKS[0], (X, Y[:3])],), "Task 1: X has 20 rows but y has 3"),
        (([TASKS[0], list(TASKS[1])],), "Task 1: expected a tuple .* got list"),
        (([list(task) for task in TASKS],), "pass a list of .* tuples"),
        ((iter(TASKS),), "requires y to be passed, but the target y is None; pass a list"),
        ((dict(enumerate(TASKS)),), "requires y to be passed"),
        ((X,), "requires y to be passed"),
        (([A for A, _ in TASKS],), "requires y to be passed"),
        (([A for A, _ in TASKS], [b for _, b in TASKS]), "a list of tables, .* list of .X, y. tup"),
        (([X[:3], X[:2]], [Y[:3], Y[:2]]), "a list of tables, .* list of .X, y. tuples"),
        ((TASKS, Y), "y must be None when X is a list of .X, y. tuples"),
        ((X, Y[:4]), "X has 20 rows but y has 4; give one target a row"),
        ((X[0], Y[:2]), "Expected 2D array"),
        ((np.ones((3, 2, 2)), Y[:3]), "dim 3"),
        ((X[:0], Y[:0]), "0 sample"),
        ((X[:, :0], Y), "0 feature"),
        ((pd.DataFrame(), Y[:0]), "at least one row and one column"),
        ((X, np.ones((20, 1, 1))), "dim 3"),
        ((X, np.ones((20, 0))), "0 feature"),
        (([(A, np.ones((5, 0))) for A, _ in TASKS],), "0 feature"),
        ((X + 0j, Y), "Complex data not supported"),
        ((X, Y + 0j), "Complex data not supported"),
        (([(A + 0j, b) for A, b in TASKS],), "Complex data not supported"),
    ],
)
def test_data_of_the_wrong_form_are_refused(data, message):
    refuses(message, lambda: MAMLRegressor("auto").fit(*data))


DATES = pd.Series(pd.date_range("2020", periods=20))
NOT_NUMBERS = [
    Y.astype(object),
    Y.astype(str),
    ["1.5"] * 20,
    [None] * 20,
    np.full(20, b"1"),
    pd.Series(["1"] * 20),
    pd.Series(["1"] * 20, dtype="category"),
    pd.Series(range(20), dtype="category"),
    pl.Series(["1"] * 20),
    pl.Series(["1"] * 20, dtype=pl.Categorical),
    pd.DataFrame({"y": ["1"] * 20}),
    pl.DataFrame({"y": ["1"] * 20}),
    DATES,
    DATES.dt.tz_localize("UTC"),
    DATES - DATES[0],
    pl.Series(DATES.to_list()),
    DATES.to_numpy(),
    dict.fromkeys(range(20)),
    set(range(20)),
]


@pytest.mark.parametrize("y", NOT_NUMBERS, ids=lambda y: f"{type(y).__name__}")
def test_targets_that_are_not_numbers_are_refused_even_if_they_look_like_them(y):
    message = "y must be numeric, got dtype"
    refuses(message, lambda: MAMLRegressor("auto").fit(X, y, groups=G))
    refuses(message, lambda: MODEL.adapt(X, y))
    refuses(message, lambda: MODEL.score(X, y))
    if not isinstance(y, dict | set):
        refuses("Task 0: y must be numeric; got dtype", lambda: MAMLRegressor("auto").fit([(X, y)]))


@pytest.mark.parametrize(
    "table",
    [
        DATES.to_frame("u"),
        pd.DataFrame({"v": Y, "u": DATES}),
        pd.DataFrame({"u": DATES - DATES[0]}),
        pd.DataFrame({"u": DATES.dt.tz_localize("UTC")}),
        pl.DataFrame({"v": Y, "u": DATES.to_list()}),
        DATES.to_frame("u").to_numpy(),
    ],
)
def test_dates_in_x_are_refused_unless_a_featurizer_makes_numbers_of_them(table):
    where = "column 'u'" if hasattr(table, "columns") else "X"
    refuses(f"{where} holds dates or dur", lambda: MAMLRegressor("auto").fit(table, Y, groups=G))
    refuses(f"{where} holds dates or durations", lambda: MAMLRegressor("auto").fit([(table, Y)]))
    featurizer = FunctionTransformer(lambda A: np.ones((A.shape[0], 1)))
    MAMLRegressor("auto", featurizer=featurizer).fit(table, Y, groups=G)


@pytest.mark.parametrize("where", ["X", "y", "groups", "sample_weight"])
def test_masked_entries_are_refused_rather_than_used(where):
    data = {"X": X, "y": Y, "groups": G, "sample_weight": np.ones(20)}
    data[where] = np.ma.masked_array(data[where], mask=np.zeros_like(data[where], dtype=bool))
    MAMLRegressor("auto").fit(**data)
    data[where][3] = np.ma.masked
    refuses(f"{where} is a masked array with masked", lambda: MAMLRegressor("auto").fit(**data))


@pytest.mark.parametrize("huge", [1e80, 1e160, 1e300])
def test_numbers_whose_squares_would_overflow_are_refused_rather_than_fitted(huge):
    for adaptation in (None, GradientSteps(0.1)):
        model = MAMLRegressor(adaptation=adaptation)
        refuses("Features must be at most", lambda m=model: m.fit(X * [1, huge], Y, groups=G))
        refuses("Targets must be zero or between", lambda m=model: m.fit(X, Y * huge, groups=G))
    for method in (MODEL.adapt, MODEL.score):
        refuses("Targets must be zero or between", lambda method=method: method(X, Y * huge))
    for method in (MODEL.score, MODEL.certify):
        refuses("Features must be at", lambda method=method: method(X * huge, Y, groups=G))
    refuses("Features must be at most", lambda: MODEL.adapt(X * huge, Y))


@pytest.mark.parametrize(
    "rule", [GradientSteps(1e6, 50), GradientSteps(1e160), GradientSteps(10, 50)]
)
def test_uncapped_steps_that_overflow_are_refused_rather_than_fitted(rule):
    refuses(
        "Overflow: .*cap=True",
        lambda: MAMLRegressor(adaptation=rule.set_params(cap=False)).fit(TASKS),
    )


@pytest.mark.parametrize("metric", ["auto", "identity"])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.filterwarnings("ignore:GaussNewton stopped")
def test_a_strength_that_is_lost_beside_rows_that_are_the_same_is_refused(metric, seed):
    """Half of each task's rows are the other half: their products have no inverse."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(-1, 2, size=(40, 6)).astype(float), 2, axis=0)
    counts, groups = rng.poisson(np.exp(rows[:, 0])), np.repeat(np.arange(20), 4)
    rule = Proximal(1e-30, metric=metric)
    model = MAMLRegressor(loss="poisson", adaptation=rule, support="all")
    refuses("Overflow: .*lost to rounding", lambda: model.fit(rows, counts, groups=groups))


def test_a_single_number_for_a_column_of_targets_is_refused():
    refuses("at least 1 dim", lambda: MAMLRegressor("auto").fit(X, 1.0), TypeError)


# Groups and weights


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA])
@pytest.mark.parametrize("form", [list, pd.Series, lambda g: np.array(g, dtype=object)])
def test_missing_groups_are_refused_everywhere(form, missing):
    groups = form([*G[:7], missing, *G[8:]])
    for method in (MAMLRegressor("auto").fit, MODEL.score, MODEL.certify):
        refuses("row 7 has no label. Drop", lambda method=method: method(X, Y, groups=groups))


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (G[:-1], ValueError, "groups has 19 labels but X has 20 rows"),
        ([[g] for g in G], TypeError, "hashable labels; row 0 has"),
        (G[:, None], ValueError, r"one label a row; got shape \(20, 1\)"),
        (pd.DataFrame({"g": G}), ValueError, r"one label a row; got shape \(20, 1\)"),
        ("u" * 20, ValueError, "one label a row; got str"),
        (set(range(20)), ValueError, "one label a row; got set"),
        (iter(G), ValueError, "one label a row; got "),
    ],
)
def test_groups_of_the_wrong_form_are_refused(groups, error, message):
    refuses(message, lambda: MAMLRegressor("auto").fit(X, Y, groups=groups), error)


def test_groups_beside_a_list_of_tasks_are_refused():
    for method in (MAMLRegressor("auto").fit, MODEL.score, MODEL.certify):
        refuses("groups must be None when X is a list", lambda m=method: m(TASKS, groups=G))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(20), "Negative values"),
        (np.zeros(20), "zero"),
        ((G != "b").astype(float), "Task b: all sample weights are zero; leave the task out"),
        (np.ones(19), "19"),
        (np.ones((20, 1)), "1D"),
        (["a"] * 20, "could not convert"),
        (np.ones(20) * 1j, "Complex"),
        (np.full(20, 1e308), "Only their ratios matter"),
        (np.full(20, 1e-320), "Only their ratios matter"),
    ],
)
def test_weights_of_rows_that_are_wrong_are_refused(weight, message):
    refuses(message, lambda: MAMLRegressor("auto").fit(X, Y, groups=G, sample_weight=weight))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(4), "Negative values"),
        (np.zeros(4), "zero"),
        (np.ones(20), "one number a task: 4; got 20. Weights of rows go into the tuples"),
        ([[1], [1, 2]], "one number a task: 4; got 2"),
        ([np.ones(5)] * 4, "1D"),
        (np.full(4, 1e308), "Only their ratios matter"),
    ],
)
def test_weights_of_tasks_that_are_wrong_are_refused(weight, message):
    refuses(message, lambda: MAMLRegressor("auto").fit(TASKS, sample_weight=weight))


def test_tasks_that_all_weigh_zero_are_refused():
    refuses(
        "All tasks have weight zero", lambda: MAMLRegressor("auto").fit([(X, Y, 0), (X, Y, 0.0)])
    )
