"""A fitted model as a small file: it answers as before, to the last bit, and runs nothing."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import StandardScaler
from small_parts import HalfSquaredError
from small_tasks import NEW_X, NEW_Y, TASKS, G, X, Y

from sklearn_maml import (
    GradientDescent,
    GradientSteps,
    MAMLClassifier,
    MAMLRegressor,
    Proximal,
    load_model,
)
from sklearn_maml._storage import pack, unpack
from sklearn_maml.adaptation.prior import Metric

NAMES = np.array([f"task {i}" for i in range(5)])[G]
FRAME = pd.DataFrame(X, columns=["dose", "age", "site"])
TWO = np.column_stack([Y, -2 * Y + X[:, 0]])
REGRESSORS = {
    "default": (MAMLRegressor(random_state=0), (X, Y, NAMES)),
    "frame": (MAMLRegressor(random_state=0), (FRAME, Y, NAMES)),
    "objects": (MAMLRegressor(random_state=0), (X, Y, NAMES.astype(object))),
    "two targets": (MAMLRegressor(random_state=0), (X, TWO, G)),
    "steps": (MAMLRegressor("auto", 3, support=[1, 2]), (X, Y, G)),
    "learned steps": (MAMLRegressor(adaptation=GradientSteps("learn"), support=2), (X, Y, G)),
    "query": (MAMLRegressor(adaptation=Proximal(metric="diagonal"), support=2), (X, Y, G)),
    "task noise": (MAMLRegressor(adaptation=Proximal(task_noise=4.0)), (X, TWO, G)),
    "given": (MAMLRegressor(adaptation=Proximal(0.5, np.ones(4)), support=2), (X, Y, G)),
    "one task": (MAMLRegressor(), (X, Y, np.zeros(len(Y)))),
    "counts": (MAMLRegressor(loss="poisson", alpha=0.1), (X, np.rint(np.abs(Y)), G)),
    "offsets": (MAMLRegressor(offset_column=1), (np.insert(X, 1, 0.5, axis=1), Y, G)),
    "infinite": (MAMLRegressor(0.1, 2, loss="log_cosh", certificate=None), (X, Y, G)),
}


def saved(model, folder):
    path = folder / "model.npz"
    model.save(path)
    return path


def answers(model, rows, std=True):
    """What a regressor says of known tasks, of new ones, and of one that it adapts to."""
    y = np.stack([NEW_Y] * 2, axis=1) if model.coef_.ndim == 2 else np.abs(NEW_Y)
    new = rows[:8]
    many = model.adapt_tasks([(new[:3], y[:3]), (new[3:8], y[3:8])])
    yield model.predict(rows, groups=model.task_ids_[np.zeros(len(X), dtype=int)])
    yield model.adapt(new, y).predict(rows)
    yield many.predict(new, groups=np.zeros(8, dtype=int))
    yield model.score([(new, y)])
    if std:
        yield from model.predict(rows, groups=np.resize(model.task_ids_, len(X)), return_std=True)
        yield from model.adapt(new, y).predict(rows, return_std=True)
        effects = many.random_effects()
        yield from (effects.deviations, effects.standard_errors)
        yield model.random_effects().standard_errors


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")
@pytest.mark.parametrize(("model", "data"), REGRESSORS.values(), ids=REGRESSORS)
def test_a_loaded_model_gives_the_same_bits(model, data, tmp_path):
    rows, y, groups = data
    model.set_params(random_state=0).fit(rows, y, groups=groups)
    path = saved(model, tmp_path)
    loaded = load_model(path)
    std = type(model.adaptation_) is Proximal and model.loss_.constant_hessian
    std = std and model.learned_.varies.any() and len(model.task_ids_) > 1
    for one, other in zip(answers(model, rows, std), answers(loaded, rows, std), strict=True):
        assert_array_equal(one, other)
    assert str(loaded.gap_certificate_) == str(model.gap_certificate_)
    assert str(loaded.learned_) == str(model.learned_)
    assert loaded.adaptation_.get_params().keys() == model.adaptation_.get_params().keys()
    assert vars(loaded).keys() == vars(model).keys()
    assert path.stat().st_size < 45_000  # most of it quantiles of errors
    loaded.fit(rows, y, groups=groups)  # its parameters are those of the model
    assert_array_equal(loaded.coef_, model.coef_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_loaded_classifier_gives_the_same_bits(tmp_path):
    labels = np.where(Y > 5, "high", "low")
    model = MAMLClassifier(random_state=0, solver="lbfgs").fit(X, labels, groups=G)
    loaded = load_model(saved(model, tmp_path))
    assert_array_equal(loaded.predict_proba(X, groups=G), model.predict_proba(X, groups=G))
    for one in (model, loaded):
        one.adapted = one.adapt(NEW_X, labels[:8])
    assert_array_equal(loaded.adapted.predict_proba(X), model.adapted.predict_proba(X))
    assert_array_equal(loaded.predict(X), model.predict(X))
    effects = loaded.random_effects()
    assert_array_equal(effects.standard_errors, model.random_effects().standard_errors)


def test_a_model_of_unnamed_tasks_loads_without_names(tmp_path):
    model = MAMLRegressor(random_state=0).fit(TASKS)
    loaded = load_model(saved(model, tmp_path))
    assert loaded.task_coef_ is None
    assert_array_equal(loaded.predict(NEW_X), model.predict(NEW_X))
    with pytest.raises(ValueError, match="knows no task by name"):
        loaded.predict(NEW_X, groups=np.zeros(8))


def test_a_model_adapts_in_another_process_without_the_training_data(tmp_path):
    model = MAMLRegressor(random_state=0).fit(FRAME, Y, groups=NAMES)
    path = saved(model, tmp_path)
    code = (
        "import sys, numpy as np, pandas as pd; from sklearn_maml import load_model\n"
        f"new = pd.DataFrame({NEW_X.tolist()}, columns=['dose', 'age', 'site'])\n"
        f"adapted = load_model(sys.argv[1]).adapt(new[:5], {NEW_Y[:5].tolist()})\n"
        "print([part.tolist() for part in adapted.predict(new, return_std=True)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    new = pd.DataFrame(NEW_X.tolist(), columns=FRAME.columns)  # in memory as there
    expected = model.adapt(new[:5], NEW_Y[:5]).predict(new, return_std=True)
    assert json.loads(run.stdout) == [part.tolist() for part in expected]


def test_a_file_of_a_thousand_tasks_takes_three_hundred_bytes_a_task(tmp_path):
    rng = np.random.default_rng(0)
    rows, groups = rng.normal(size=(4000, 3)), np.repeat(np.arange(1000), 4)
    slopes = 1.0 + np.repeat(rng.normal(size=(1000, 3)), 4, axis=0)
    y = (slopes * rows).sum(axis=1) + np.repeat(rng.normal(size=1000), 4) + rng.normal(size=4000)
    model = MAMLRegressor(random_state=0).fit(rows, y, groups=groups)
    # theta_i; what random_effects needs, 1 + 4 * 4 numbers; and 4 * 4 more for the doubt of Sigma.
    assert saved(model, tmp_path).stat().st_size < 1000 * 8 * (4 + 17 + 16) + 30_000


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "groups", "named"),
    [
        ({"featurizer": StandardScaler()}, G, "a featurizer is code: StandardScaler"),
        ({"loss": HalfSquaredError()}, G, "loss of .* is of type HalfSquaredError"),
        ({"random_state": np.random.RandomState(0)}, G, "random_state of .* RandomState"),
        ({}, pd.to_datetime(["2020-01-01"] * 15 + ["2021-01-01"] * 23, utc=True), "Timestamp"),
    ],
    ids=["featurizer", "loss", "random_state", "labels"],
)
def test_what_is_code_is_not_saved(parameters, groups, named, tmp_path):
    if "Timestamp" in named:
        groups = np.array(list(groups), dtype=object)
    model = MAMLRegressor(n_steps=1, **parameters).fit(X, Y, groups=groups)
    with pytest.raises(TypeError, match=named) as raised:
        model.save(tmp_path / "model.npz")
    assert "skops" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_learning_rate_that_is_a_function_is_not_saved(tmp_path):
    solver = GradientDescent(learning_rate=lambda k: 0.01, max_iter=1, tol=1e9)
    model = MAMLRegressor(0.01, solver=solver, random_state=0).fit(TASKS)
    with pytest.raises(TypeError, match="learning_rate of GradientDescent is of type function"):
        model.save(tmp_path / "model.npz")


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    model, path = MAMLRegressor(random_state=0).fit(TASKS), tmp_path / "model.npz"
    model.save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space left"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_the_file_behind_it_is_replaced(tmp_path):
    model, path, link = MAMLRegressor(random_state=0).fit(TASKS), tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"something else")
    link.symlink_to(path)
    model.save(link)
    assert link.is_symlink()
    assert_array_equal(load_model(path).coef_, model.coef_)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    model, pipe = MAMLRegressor(random_state=0).fit(TASKS), tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as executor:
        read = executor.submit(pipe.read_bytes)
        model.save(pipe)
        (tmp_path / "copy").write_bytes(read.result(timeout=10))
    assert pipe.is_fifo()
    assert_array_equal(load_model(tmp_path / "copy").coef_, model.coef_)


def test_an_unfitted_or_broken_model_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        MAMLRegressor().save(tmp_path / "model.npz")
    model = MAMLRegressor(n_steps=1).fit(TASKS)
    model.coef_[0] = np.nan
    with pytest.raises(ValueError, match=r"coef_ of .* holds NaN or infinity; fit it again"):
        model.save(tmp_path / "model.npz")


# -- hostile files --------------------------------------------------------------------------------

HONEST = MAMLRegressor(random_state=0).fit(X, Y, groups=NAMES)


class Bomb:
    """Whose unpickling would be seen."""

    gone_off = False

    def __reduce__(self):
        return setattr, (Bomb, "gone_off", True)


def contents(folder, model=HONEST):
    with np.load(saved(model, folder), allow_pickle=False) as file:
        return dict(file)


def rewritten(folder, change, model=HONEST):
    """A file whose JSON was changed."""
    arrays = contents(folder, model)
    tree = json.loads(arrays["json"].tobytes())
    entries = tree["mapping"]
    change(entries, entries["fitted"]["mapping"], arrays)
    arrays["json"] = np.frombuffer(json.dumps(tree).encode(), dtype=np.uint8)
    path = folder / "changed.npz"
    np.savez(path, **arrays)
    return path


def set_array(name, value):
    def change(entries, fitted, arrays):
        arrays[fitted[name]["array"]] = value

    return change


def put(where, name, value):
    def change(entries, fitted, arrays):
        {"file": entries, "fitted": fitted}[where][name] = value

    return change


def drop(where, name):
    return lambda entries, fitted, arrays: {"file": entries, "fitted": fitted}[where].pop(name)


def nested(entries, fitted, arrays):
    tree = {"list": []}
    for _ in range(200):
        tree = {"list": [tree]}
    entries["class"] = tree


def set_part(part, field, value):
    """Another value of a field of a part, wherever in the file the part is."""

    def change(entries, fitted, arrays):
        (fields,) = (found["fields"] for found in parts_of(entries, part))
        if isinstance(value, np.ndarray):
            arrays[fields[field]["array"]] = value
        else:
            fields[field] = value

    return change


def parts_of(tree, name):
    if isinstance(tree, dict) and tree.get("class") == name:
        yield tree
    for value in tree.values() if isinstance(tree, dict) else tree if type(tree) is list else ():
        yield from parts_of(value, name)


CHANGES = {
    "an array of pickles": (set_array("coef_", np.array([Bomb()])), "allow_pickle=False"),
    "NaN": (set_array("coef_", np.full(3, np.nan)), "holds NaN or infinity"),
    "complex numbers": (set_array("coef_", np.ones(3, complex)), "not plain"),
    "another length": (set_array("coef_", np.ones(2)), "for 3 parameters, but|3, but|are 3"),
    "tasks of another shape": (set_array("task_coef_", np.ones((4, 3))), "not of 5 tasks"),
    "other names": (set_array("task_ids_", np.arange(4)), "task_ids_ has the shape"),
    "a name twice": (set_array("task_ids_", np.zeros(5, int)), "the same for two tasks"),
    "sizes of other tasks": (set_array("_n_rows", np.ones(4)), "_n_rows is not of 5 tasks"),
    "negative sizes": (set_array("_n_rows", -np.ones(5)), "must not be negative"),
    "sizes of text": (set_array("_n_rows", np.array(["a"] * 5)), "_n_rows must hold numbers"),
    "no sizes": (put("fitted", "_n_rows", None), "_n_rows is not of 5 tasks"),
    "no task parameters": (put("fitted", "task_coef_", None), "tasks that have no names"),
    "information of other tasks": (
        set_array("_information", HONEST._information[:3]),
        "_information is not of 5 tasks",
    ),
    "other information": (set_array("_information", HONEST._information[:, :3]), "reshape"),
    "another start": (set_array("_start", np.zeros(2)), "_start has the shape"),
    "a negative penalty": (put("fitted", "_alpha", -1.0), "alpha must be a finite number >= 0"),
    "lengths of other parameters": (
        lambda entries, fitted, arrays: fitted.update(inner_lr_=fitted["meta_losses_"]),
        "inner_lr_ is not of 4 parameters",
    ),
    "too few names": (
        put("fitted", "feature_names_in_", {"objects": ["a"], "shape": [1]}),
        "feature_names_in_ are not 3",
    ),
    "losses of text": (set_array("meta_losses_", np.array(["a"])), "meta_losses_ must hold num"),
    "another format": (put("file", "format", 2), "it has format 2, by .* reads format 1"),
    "no format": (drop("file", "format"), r"file lacks the entries \['format'\]"),
    "no theta": (drop("fitted", "coef_"), r"fitted lacks the entries \['coef_'\]"),
    "a method": (put("fitted", "predict", 1), r"unknown ones: \['predict'\]"),
    "another type": (put("fitted", "loss_", "squared_error"), "loss_ is of type str"),
    "another class": (put("file", "class", "os.system"), "holds a 'os.system'; expected one of"),
    "classes": (put("fitted", "classes_", {"objects": [0, 1], "shape": [2]}), "classes_ is there"),
    "no table": (put("file", "fitted", 3), "fitted is of type int"),
    "unknown part": (
        put("fitted", "loss_", {"class": "builtins.exec", "fields": {}}),
        "'builtins.exec' is no part",
    ),
    "unknown field": (
        put("fitted", "loss_", {"class": "SquaredError", "fields": {"run": "me"}}),
        r"a SquaredError is not made of \['run'\]",
    ),
    "a bad field": (
        put("fitted", "_episodes", {"class": "Episodes", "fields": {"support": "most"}}),
        "support must be",
    ),
    "no such array": (put("fitted", "coef_", {"array": "coef"}), "the array 'coef' is missing"),
    "a part for an object": (
        put("fitted", "task_ids_", {"objects": [{"list": []}], "shape": [1]}),
        "numbers and text only",
    ),
    "no list": (put("fitted", "coef_", {"list": 3}), "a list is expected; got int"),
    "no fields": (put("fitted", "coef_", {"mapping": []}), "a mapping is expected; got list"),
    "no kind": (put("fitted", "coef_", {"pickle": "cos"}), "no kind of value"),
    "no value": (put("fitted", "meta_loss_", []), "stands where a value is expected"),
    "NaN in JSON": (put("fitted", "meta_loss_", float("nan")), "a value is expected"),
    "no infinity": (put("fitted", "meta_loss_", {"infinite": "nan"}), "is not infinite"),
    "a negative variance": (set_part("Noise", "variance", -np.ones(1)), "cannot be negative"),
    "no numbers": (set_part("Noise", "shots", np.array(["a"])), "shots must hold numbers"),
    "shots in a heap": (set_part("Calibration", "shots", np.zeros(6)), "shots must ascend"),
    "no quantiles": (set_part("Calibration", "absolute", np.ones((0, 513))), "absolute must"),
    "doubt below zero": (set_part("Doubt", "times", -1.0), "times be positive"),
    "a bound of text": (set_part("GapCertificate", "bound", "x"), "bound of a GapCertificate is"),
    "a route of text": (
        set_part("GapCertificate", "routes", {"tuple": [{"tuple": ["a", "b"]}]}),
        "routes of a GapCertificate is of type tuple",
    ),
    "deep": (nested, "class is of type list"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_refused_and_runs_nothing(change, message, tmp_path):
    with pytest.raises(ValueError, match=f"changed since: .*({message})"):
        load_model(rewritten(tmp_path, change))
    assert not Bomb.gone_off


@pytest.mark.parametrize("classes", [[1, 0], [0], [0, 1, 2], [[0, 1]]])
def test_classes_that_are_not_those_of_the_coefficients_are_refused(classes, tmp_path):
    model = MAMLClassifier(random_state=0).fit(X, np.sign(Y - 0.01), groups=NAMES)
    change = set_array("classes_", np.array(classes))
    with pytest.raises(ValueError, match=r"classes_ are .* for coef_ of shape"):
        load_model(rewritten(tmp_path, change, model))


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("Temperature", "value", np.zeros(6), "A temperature must be positive"),
        ("Temperature", "value", np.ones(5), "value must hold numbers, one entry for each"),
        ("Temperature", "shots", np.ones(6), "shots must ascend"),
        ("Calibration", "temperature", 2, "temperature of a Calibration is of type int"),
    ],
)
def test_temperatures_that_scores_cannot_have_are_refused(part, field, value, message, tmp_path):
    model = MAMLClassifier(random_state=0).fit(X, np.sign(Y - 0.01), groups=NAMES)
    assert len(model.calibration_.temperature.value) == 6
    with pytest.raises(ValueError, match=message):
        load_model(rewritten(tmp_path, set_part(part, field, value), model))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("freedom", np.array([4.0, 2.0]), "must be above 2"),
        ("freedom", np.array(["a", "b"]), "must be numbers"),
        ("freedom", np.full((2, 2), 4.0), "one a target"),
        ("variance", np.ones(3), "one a target"),
        ("variance", np.zeros(2), "variances positive"),
        ("freedom", None, "freedom of a TaskNoise is"),
    ],
)
def test_a_noise_of_tasks_that_cannot_be_is_refused(field, value, message, tmp_path):
    model = MAMLRegressor(adaptation=Proximal(task_noise=4.0)).fit(X, TWO, groups=G)
    with pytest.raises(ValueError, match=message):
        load_model(rewritten(tmp_path, set_part("TaskNoise", field, value), model))


def test_a_pickle_is_refused_and_runs_nothing(tmp_path):
    path = tmp_path / "model.npz"
    for content in (pickle.dumps(Bomb()), b"", b"PK\x03\x04", b"\x93NUMPY", b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a model that save wrote"):
            load_model(path)
    np.save(path.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match="is not a model that save wrote"):
        load_model(path.with_suffix(".npy"))
    np.savez(path, coef_=np.ones(3))
    with pytest.raises(ValueError, match="the entry 'json' is missing"):
        load_model(path)
    assert not Bomb.gone_off
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.npz")
    for call in (load_model, HONEST.save):
        with pytest.raises(TypeError, match="path must be text or a path; got 3"):
            call(3)


def test_a_model_of_steps_needs_as_many_parameters_as_columns(tmp_path):
    model = MAMLRegressor(n_steps=1).fit(X, Y, groups=G)
    path = rewritten(tmp_path, set_array("coef_", np.ones(2)), model)
    with pytest.raises(ValueError, match="coef_ has 2 entries for 3 columns"):
        load_model(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / "model.npz", json=np.frombuffer(b"3", dtype=np.uint8))
    with pytest.raises(ValueError, match="file is no table of entries"):
        load_model(tmp_path / "model.npz")


def test_json_that_is_too_deep_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    text = ('{"list": [' * 100_000 + "]}" * 100_000).encode()
    np.savez_compressed(path, json=np.frombuffer(text, dtype=np.uint8))
    with pytest.raises(ValueError, match="nested too deeply"):
        load_model(path)


def test_bytes_that_were_turned_over_raise_one_kind_of_error_or_change_nothing_that_is_read(
    tmp_path,
):
    whole = saved(HONEST, tmp_path).read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "changed.npz"
    said = []
    for _ in range(150):
        content = bytearray(whole)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content[: len(content) - int(rng.integers(2)) * 40])
        try:
            assert_array_equal(load_model(path).coef_, HONEST.coef_)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("is not a model that save wrote" in message for message in said)


# -- values ---------------------------------------------------------------------------------------

VALUES = {
    "none": None,
    "float": 0.1,
    "infinity": -np.inf,
    "a numpy infinity": np.float64(np.inf),
    "a numpy int": np.int32(7),
    "text": np.str_("a"),
    "a large int": 2**70,
    "lists": [1, (2.5, "b"), []],
    "mapping": {"a": np.arange(3), "b": {"c": True}},
    "objects": np.array([["a", None], [2, 0.5]], dtype=object),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_come_back_as_they_were(value):
    with io.BytesIO() as file:
        np.savez(file, **pack(value, {}))
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            found = unpack(dict(archive), {})
    if isinstance(value, np.ndarray):
        assert found.dtype == value.dtype
        assert_array_equal(found, value)
    elif isinstance(value, dict):
        assert_array_equal(found.pop("a"), value["a"])
        assert found == {"b": {"c": True}}
    else:
        assert found == value
        assert isinstance(found, type(value)) or isinstance(value, np.str_ | np.float64)


@pytest.mark.parametrize("value", [float("nan"), np.array([np.inf]), [np.float64("nan")]])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        pack(value, {})


@pytest.mark.parametrize("value", [1j, {1, 2}, np.array([Bomb()]), Metric(np.eye(2)), Bomb])
def test_values_of_other_types_are_refused(value):
    with pytest.raises(TypeError, match="it is of type"):
        pack(value, {})


def test_an_archive_holds_arrays_of_one_kind_only(tmp_path):
    with zipfile.ZipFile(saved(HONEST, tmp_path)) as archive:
        assert all(Path(name).suffix == ".npy" for name in archive.namelist())
        assert b"pickle" not in b"".join(archive.read(name) for name in archive.namelist())
