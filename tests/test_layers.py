"""Who may import whom: a module imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import sklearn_maml

HOUSE = Path(sklearn_maml.__file__).parent
FLOORS = {
    "_coordinates": 0,
    "_mixed": 0,
    "_query_loss": 0,
    "_stacked": 0,
    "_gauss_newton": 0,
    "_overflow": 0,
    "_progress": 0,
    "_component": 1,
    "_tasks": 1,
    "_blocks": 1,
    "_classes": 1,
    "_objective": 1,
    "_quadratic": 1,
    "_descent": 1,
    "_newton": 1,
    "_query_minima": 2,
    "_row_steps": 1,
    "_steps": 1,
    "_metrics": 2,
    "losses": 2,
    "adaptation": 2,
    "solvers": 2,
    "certificate": 3,
    "_ridge_path": 2,
    "_rows": 2,
    "proximal": 3,
    "_fitted": 3,
    "_folds": 3,
    "datasets": 3,
    "ntk": 3,
    "_choices": 3,
    "_adapted": 4,
    "_meta_learner": 5,
    "model_selection": 5,
    "_classifier": 6,
    "_maml": 6,
    "_maml_cv": 7,
    "displays": 7,
}


def imports(path):
    """(module, names) of each import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module, [alias.name for alias in node.names], node.col_offset
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.col_offset


@pytest.mark.parametrize("module", sorted(FLOORS))
def test_imports_come_from_floors_below(module):
    for imported, names, column in imports(HOUSE / f"{module}.py"):
        package, _, name = imported.partition(".")
        if package == "sklearn_maml":
            assert name, "nobody imports the face"
            assert FLOORS[name] < FLOORS[module]
            assert not [n for n in names if n.startswith("_")], "private names stay at home"
        if package in ("matplotlib", "pandas", "polars"):
            assert column > 0, "optional packages are imported where they are used"


def test_every_module_has_a_floor():
    assert {path.stem for path in HOUSE.glob("*.py")} == {*FLOORS, "__init__"}


def test_public_names_are_declared_and_exist():
    for module in FLOORS:
        loaded = __import__(f"sklearn_maml.{module}", fromlist=["__all__"])
        assert all(hasattr(loaded, name) for name in loaded.__all__)
