"""Types of the public face: every signature is whole, and what a type checker sees is true."""

import inspect
import subprocess
import sys
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from pkgutil import iter_modules
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_overloads, get_type_hints

import numpy as np
import pytest
import typed_user
from numpy.typing import NDArray

import sklearn_maml

PUBLIC = [m.name for m in iter_modules(sklearn_maml.__path__) if not m.name.startswith("_")]
MODULES = ["sklearn_maml", *(f"sklearn_maml.{name}" for name in PUBLIC)]
SPECIAL = {"__init__", "__call__", "__getitem__", "__iter__", "__len__", "__add__", "__float__"}
OBJECTS = {
    f"{getattr(module, name).__module__}.{name}": getattr(module, name)
    for module in map(import_module, MODULES)
    for name in module.__all__
    if callable(getattr(module, name))
}


def function_of(attribute):
    """The function behind a method, a property or what a decorator made of them, or None."""
    if isinstance(attribute, classmethod | staticmethod):
        attribute = attribute.__func__
    for slot in ("fget", "func", "fn"):  # of a property, a cached one, and of `available_if`
        attribute = getattr(attribute, slot, attribute)
    attribute = inspect.unwrap(attribute)
    return attribute if inspect.isfunction(attribute) else None


def public_functions():
    """Functions, and methods, own or inherited, of the package's own public names, each once."""
    found = {}
    for owner in OBJECTS.values():
        own = [owner]
        if inspect.isclass(owner):
            names = [n for n in dir(owner) if not n.startswith("_") or n in SPECIAL]
            own = [inspect.getattr_static(owner, name) for name in names]
        for function in map(function_of, own):
            # A data class' constructor has the types of its fields.
            if function is not None and function.__module__.startswith("sklearn_maml"):
                found[f"{function.__module__}.{function.__qualname__}"] = function
    return found


FUNCTIONS = public_functions()


def test_all_kinds_of_functions_are_looked_at():
    for name in (
        "model_selection.pipelines.adapt",
        "_estimators.meta_learner.MetaLearner.fit",
        "_estimators.adapted_tasks.AdaptedTasks.predict_set",
        "_estimators.fitted_in_parts.FittedInParts.from_statistics",
        "certificate.gap_certificate.GapCertificate.lower_bound",
        "losses.loss.Loss.value",
    ):
        assert f"sklearn_maml.{name}" in FUNCTIONS
    assert function_of(cached_property(len)) is None
    assert function_of(0) is None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_and_every_result_has_a_type(name):
    function = FUNCTIONS[name]
    for signed in (function, *get_overloads(function)):
        signature = inspect.signature(signed)
        assert signature.return_annotation is not signature.empty
        for parameter in signature.parameters.values():
            if parameter.name not in ("self", "cls"):
                assert parameter.annotation is not parameter.empty, parameter.name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_types_are_names_that_exist(name):
    function = FUNCTIONS[name]
    for signed in (function, *get_overloads(function)):
        assert get_type_hints(signed)


def test_the_package_says_that_it_is_typed():
    assert (resources.files(sklearn_maml) / "py.typed").is_file()


def is_of(value, kind):
    """Whether a value is of a type: a class, an array's, a tuple's, or one of several."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(is_of(value, part) for part in parts)
    if not isinstance(value, origin):
        return False
    if origin is tuple:
        return len(value) == len(parts) and all(map(is_of, value, parts))
    if origin is np.ndarray:
        (scalar,) = get_args(parts[1])
        return scalar is Any or np.issubdtype(value.dtype, scalar)
    return True


def test_is_of_can_say_no():
    floats = NDArray[np.float64]
    assert is_of(np.ones(2), floats)
    assert is_of((np.ones(2), np.ones(2)), tuple[floats, floats])
    assert is_of(None, int | None)
    for value, kind in (
        (np.ones(2, int), floats),
        (1.0, floats),
        ((np.ones(2), 1.0), tuple[floats, floats]),
        ((np.ones(2),), tuple[floats, floats]),
        ("a", int | None),
    ):
        assert not is_of(value, kind)


def test_what_the_users_script_gets_is_of_the_types_that_it_asserts(monkeypatch):
    seen = []

    def assert_type(value, kind):
        seen.append(kind)
        assert is_of(value, kind), (value, kind)

    monkeypatch.setattr(typed_user, "assert_type", assert_type)
    typed_user.main()
    assert len(seen) == Path(typed_user.__file__).read_text().count("    assert_type(")


def test_mypy_agrees_with_the_users_script_and_finds_a_word_that_is_none(tmp_path):
    pytest.importorskip("mypy")
    script = Path(typed_user.__file__)
    wrong = tmp_path / "wrong.py"
    right, typo = "MAMLRegressor(random_state=0)", 'MAMLRegressor(split="frist")'
    wrong.write_text(script.read_text().replace(right, typo, 1))
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "--strict"]
    # Of scikit-learn and scipy, which have no types, nothing is known.
    untyped = ["--ignore-missing-imports", "--follow-imports", "silent"]
    for file, code in ((script, 0), (wrong, 1)):
        found = subprocess.run(
            [*command, *untyped, str(file)], capture_output=True, text=True, cwd=tmp_path
        )
        assert found.returncode == code, found.stdout + found.stderr
    assert found.stdout.count(" error: ") == 1
    assert 'Argument "split" to "MAMLRegressor"' in found.stdout
