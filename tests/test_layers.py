"""Who may import whom: folders stand on floors, and a module imports only from floors below.

The floors are those of CONTRIBUTING.md. Inside a folder imports go in one direction.
"""

import ast
from pathlib import Path

import pytest

import sklearn_maml

HOUSE = Path(sklearn_maml.__file__).parent
FLOORS = {
    "_cached": 1,
    "_component": 1,
    "_linalg": 1,
    "_memory": 1,
    "_parallel": 1,
    "_progress": 1,
    "_report": 1,
    "_storage": 1,
    "_typing": 1,
    "_tasks": 2,
    "losses": 3,
    "datasets": 3,
    "ntk": 3,
    "pooled_prediction": 3,
    "_task_newton": 3,
    "_objective": 4,
    "adaptation": 5,
    "solvers": 5,
    "certificate": 5,
    "_intervals": 6,
    "_learning": 6,
    "_estimators": 7,
    "checks": 8,
    "model_selection": 8,
    "displays": 9,
}
MODULES = sorted(path for path in HOUSE.rglob("*.py") if path != HOUSE / "__init__.py")


def room(path):
    """The folder, or the module beside the folders, that a file belongs to."""
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def name_of(path):
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path):
    """(module, names, column) of each import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module, [alias.name for alias in node.names], node.col_offset
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.col_offset


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_come_from_floors_below(path):
    for imported, names, column in imports(path):
        package, _, inside = imported.partition(".")
        if package == "sklearn_maml":
            assert inside, "nobody imports the face"
            other = inside.split(".")[0]
            assert other == room(path) or FLOORS[other] < FLOORS[room(path)], (imported, names)
            assert not [n for n in names if n.startswith("_")], "private names stay at home"
        if package in ("matplotlib", "pandas", "polars"):
            assert column > 0, "optional packages are imported where they are used"


def test_every_room_has_a_floor():
    assert {room(path) for path in MODULES} == set(FLOORS)


def test_no_folder_imports_in_a_circle():
    for folder in {path.parent for path in MODULES} - {HOUSE}:
        inside = {name_of(p): {m for m, _, _ in imports(p)} for p in folder.glob("*.py")}
        left = {
            n: {m.removeprefix("sklearn_maml.") for m in ms} & set(inside)
            for n, ms in inside.items()
        }
        while left:
            free = [name for name, needs in left.items() if not needs & set(left)]
            assert free, f"a circle among {sorted(left)}"
            left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_longer_than_400_lines(path):
    assert path.read_text().count("\n") <= 400


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_are_declared_and_exist(path):
    loaded = __import__(f"sklearn_maml.{name_of(path)}", fromlist=["__all__"])
    if path.name != "__init__.py" or not room(path).startswith("_"):
        assert all(hasattr(loaded, name) for name in loaded.__all__)
