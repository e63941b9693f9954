"""What SECURITY.md says: no code is made of data, nothing is loaded or fetched, pickles of earlier
releases load.
"""

import ast
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.lib import NumpyVersion
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import InconsistentVersionWarning

import sklearn_maml
from sklearn_maml import MAMLClassifier, MAMLRegressor

HOUSE = Path(sklearn_maml.__file__).parent
MODULES = sorted(HOUSE.rglob("*.py"))
DATA = Path(__file__).parent / "data"

# -- the package's own code -----------------------------------------------------------------------

# All that the package imports. What makes code of text, reads files or opens connections is not
# among it, and is to be thought about before it is added.
STANDARD = {
    "abc",
    "collections",
    "contextlib",
    "contextvars",
    "copy",
    "dataclasses",
    "functools",
    "heapq",
    "html",
    "inspect",
    "itertools",
    "json",
    "logging",
    "math",
    "numbers",
    "operator",
    "queue",
    "sys",
    "threading",
    "time",
    "typing",
    "warnings",
}
OTHERS = {"joblib", "matplotlib", "numpy", "pandas", "polars", "scipy", "sklearn", "threadpoolctl"}
ALLOWED = STANDARD | OTHERS | {"sklearn_maml"}
# Parts of those that read files or fetch data.
READERS = {"scipy.io", "scipy.datasets", "sklearn.datasets", "numpy.ctypeslib", "numpy.f2py"}
# Functions that run text, or read, write or unpickle files, by name or as a method.
CALLS = {
    *("eval", "exec", "compile", "__import__", "import_module", "open", "breakpoint"),
    *("load", "loads", "dump", "dumps", "save", "savez", "memmap", "fromfile", "tofile"),
    *("loadtxt", "genfromtxt", "fromregex", "read_pickle", "to_pickle", "read_csv", "system"),
    *("popen", "urlopen", "savefig", "load_library"),
}


def offences(source):
    """What a module's source does that the package must not do."""
    for node in ast.walk(ast.parse(source)):
        imported = []
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in imported:
            reads = any(f"{name}.".startswith(f"{reader}.") for reader in READERS)
            if name.split(".")[0] not in ALLOWED or reads or name.split(".")[-1] in CALLS:
                yield f"imports {name}"
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            if called in CALLS or (called == "query" and node.args):
                yield f"calls {called}"


# Two modules write and read files of numbers and text, and unpickle nothing.
EXEMPT = {
    "_storage.py": {"calls dumps", "calls loads"},
    "_estimators/stored.py": {"calls open", "calls load", "imports pathlib.Path"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_no_module_runs_text_or_loads_or_fetches_anything(path):
    found = set(offences(path.read_text(encoding="utf-8")))
    assert found == EXEMPT.get(path.relative_to(HOUSE).as_posix(), set())


def test_what_is_read_from_files_is_json_and_plain_arrays_never_a_pickle():
    storage = (HOUSE / "_storage.py").read_text()
    assert storage.count("json.loads(") == storage.count("loads(") == 1
    stored = (HOUSE / "_estimators" / "stored.py").read_text()
    assert stored.count("np.load(file, allow_pickle=False)") == stored.count("load(") == 1


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from socket import socket",
        "import urllib.request",
        "from joblib import load",
        "import joblib; joblib.load(path)",
        "from sklearn.datasets import fetch_openml",
        "import scipy.io",
        "import os; os.system('ls')",
        "from importlib import import_module",
        "eval('1')",
        "exec('pass')",
        "builtins.eval('1')",
        "frame.query('a > 1')",
        "np.load(path, allow_pickle=True)",
        "open(path)",
    ],
)
def test_such_code_would_be_found(source):
    assert list(offences(source))


# -- what users hand over -------------------------------------------------------------------------

RNG = np.random.default_rng(0)
TAG = "<script>alert(1)</script>"
TABLE = pd.DataFrame(RNG.normal(size=(48, 2)), columns=[TAG, "b"])
LABELS = np.repeat([f"{TAG} {i}" for i in range(8)], 6)
Y = TABLE[TAG].to_numpy() + np.repeat(RNG.normal(size=8), 6) + 0.1 * RNG.normal(size=48)


@pytest.mark.parametrize("show", ["learned_", "gap_certificate_", "random_effects"])
def test_names_of_columns_and_tasks_are_text_in_notebooks_never_markup(show):
    model = MAMLRegressor(random_state=0).fit(TABLE, Y, groups=LABELS)
    shown = getattr(model, show)
    shown = shown() if callable(shown) else shown
    assert "&lt;script&gt;alert" in shown._repr_html_() or show == "gap_certificate_"
    assert TAG not in shown._repr_html_()
    assert TAG not in model._repr_html_()


@pytest.mark.parametrize("text", ["__import__('os')", "os.system", "sklearn_maml.losses.Poisson"])
@pytest.mark.parametrize("parameter", ["loss", "adaptation", "solver"])
def test_a_part_is_looked_up_by_name_never_imported_or_run(parameter, text):
    with pytest.raises(ValueError, match="is not known; expected one of"):
        MAMLRegressor(**{parameter: text}).fit(TABLE, Y, groups=LABELS)


def test_a_model_names_its_training_tasks_but_keeps_no_row_and_what_it_adapts_to_names_none():
    model = MAMLRegressor(random_state=0).fit(TABLE, Y, groups=LABELS)
    stored = pickle.dumps(model)
    assert LABELS[-1].encode("utf-32-le") in stored  # as numpy has text
    for i in range(len(Y)):
        assert Y[i].tobytes() not in stored
        assert TABLE.to_numpy()[i].tobytes() not in stored
    new_y = Y[:4] + 1.0
    adapted = [model.adapt(TABLE[:4], new_y), model.adapt_tasks([(TABLE[:4], new_y)])]
    for each in adapted:
        stored = pickle.dumps(each)
        assert not any(f"{TAG} ".encode(code) in stored for code in ("utf-8", "utf-32-le"))


# -- pickles --------------------------------------------------------------------------------------

STORED = sorted(DATA.glob("*.pkl"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_pickles_of_this_and_earlier_releases_load_and_answer_as_then(path, monkeypatch):
    """By scikit-learn's leave, which warns of its own estimators only."""
    monkeypatch.syspath_prepend(DATA)
    from make_pickles import answers

    if b"numpy._core" in path.read_bytes() and NumpyVersion(np.__version__) < "1.26.0":
        with pytest.raises(ModuleNotFoundError, match="numpy"):  # as SECURITY.md says
            pickle.loads(path.read_bytes())
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        models = pickle.loads(path.read_bytes())
    expected = json.loads(path.with_suffix(".json").read_text())
    assert set(models) == set(expected)
    assert {MAMLRegressor, MAMLClassifier} < {type(model) for model in models.values()}
    for name, model in models.items():
        for then, now in zip(expected[name], answers(name, model), strict=True):
            assert_allclose(now, then, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_models_that_were_stored_before_intervals_were_calibrated_have_their_own(path, monkeypatch):
    monkeypatch.syspath_prepend(DATA)
    from make_pickles import CLASSES, GROUPS, X

    if b"numpy._core" in path.read_bytes() and NumpyVersion(np.__version__) < "1.26.0":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        models = pickle.loads(path.read_bytes())
    model, adapted = models["regressor"], models["adapted"]
    for each, given in ((model, {}), (model, {"groups": GROUPS}), (adapted, {})):
        mean, std = each.predict(X, return_std=True, **given)
        with pytest.warns(UserWarning, match="^0 calibration tasks are too few"):
            low, high = each.predict_interval(X, 0.9, **given)
        assert_allclose([mean - low, high - mean], np.tile(1.6448536269514722 * std, (2, 1)))
    with pytest.raises(ValueError, match="knows no intervals"):
        models["tasks"].predict_interval(X, groups=GROUPS)
    for given in ({}, {"groups": GROUPS}):
        with pytest.warns(UserWarning, match="^0 calibration tasks are too few"):
            found = models["classifier"].predict_set(X, 0.6, **given)
        largest = models["classifier"].predict(X, **given)
        assert found[np.arange(len(X)), (largest == "yes").astype(int)].all()
        assert found.sum(axis=1).max() == 2  # where neither class is as probable as 0.6
    exact = models["classifier"].recalibrate(X, CLASSES, groups=GROUPS)
    assert exact.calibration_.temperature is None
    assert_array_equal(exact.predict_proba(X), models["classifier"].predict_proba(X))


def test_pickles_are_there_and_small():
    assert len(STORED) >= 2
    assert sum(path.stat().st_size for path in DATA.iterdir() if path.is_file()) < 50_000
