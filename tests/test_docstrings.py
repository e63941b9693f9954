"""Every public name has a docstring that numpydoc finds whole, with an example that runs.

The examples are run by pytest itself, with the other doctests.
"""

import re
from ast import literal_eval
from dataclasses import is_dataclass
from importlib import import_module
from inspect import getdoc, getmembers, isclass, signature
from pkgutil import iter_modules

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

import sklearn_maml

# What is not asked of anybody, and why not.
OFF = {
    "ES01": "where a summary says all, nothing is to be added",
    "SA01": "the API pages are in topics: what is to be seen also is beside it",
    "SS05": "a function may be named by what it returns",
    "PR04": "X, y and groups are described once, by `fit`: elsewhere they are 'as in fit'",
    "PR07": "a name and a type may say all",
    "PR08": "a description may begin with a symbol",
    "RT02": "a value that is returned may have a name",
    "RT03": "a type may say all",
}
# Nor of methods: the class has the example; those of parts are described by their base class.
OFF_METHODS = OFF.keys() | {"EX01", "PR01", "RT01"}

found = [m.name for m in iter_modules(sklearn_maml.__path__) if not m.name.startswith("_")]
modules = [import_module(f"sklearn_maml.{name}") for name in found]
PUBLIC = {
    getattr(module, name): f"{module.__name__}.{name}"
    for module in [*modules, sklearn_maml]
    for name in module.__all__
    if callable(getattr(module, name))
}
# Nobody builds these by hand, but everybody reads them.
PUBLIC |= {
    getattr(import_module(module), name): f"{module}.{name}"
    for module, name in (
        ("sklearn_maml._learning.learned_metric", "LearnedMetric"),
        ("sklearn_maml._estimators.task_effects", "TaskEffects"),
    )
}
METHODS = sorted(
    f"{path}.{name}"
    for thing, path in PUBLIC.items()
    if isclass(thing)
    for name, member in getmembers(thing, lambda m: callable(m) or isinstance(m, property))
    if not name.startswith("_")
    and str(getattr(getattr(member, "fget", member), "__module__", "")).startswith("sklearn_maml")
)


def faults(path, off):
    """What numpydoc finds wrong with a docstring."""
    return [error for error in validate(path)["errors"] if error[0] not in off]


@pytest.mark.parametrize("thing", PUBLIC, ids=PUBLIC.values())
def test_public_docstrings_are_whole(thing):
    # What a data class holds is told under Attributes.
    holds = is_dataclass(thing) or hasattr(thing, "_fields")
    assert faults(PUBLIC[thing], OFF.keys() | ({"PR01"} if holds else set())) == []


@pytest.mark.parametrize("path", METHODS)
def test_methods_have_docstrings_that_numpydoc_can_read(path):
    assert faults(path, OFF_METHODS) == []


def test_a_docstring_that_is_not_whole_is_noticed():
    assert {code for code, _ in faults("sklearn_maml.datasets.check_int", OFF)} >= {"EX01"}
    assert {code for code, _ in faults("pytest.PytestWarning", OFF)} == {"EX01"}


CALLED = [thing for thing in PUBLIC if not (isclass(thing) and issubclass(thing, Warning))]


@pytest.mark.parametrize("thing", CALLED, ids=PUBLIC.get)
def test_defaults_are_those_that_docstrings_tell(thing):
    parameters, told = signature(thing).parameters, {}
    for part in NumpyDocString(getdoc(thing))["Parameters"]:
        default = re.search(r"default=(.+)$", part.type)
        if default and "pi" not in default[1]:
            told |= {name.strip(): literal_eval(default[1]) for name in part.name.split(",")}
    assert {name: parameters[name].default for name in told} == told
    if isclass(thing) and all(p.default is not p.empty for p in parameters.values()):
        made = vars(thing())
        assert {name: made[name] for name in told if name in made} == told
