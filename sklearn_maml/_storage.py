"""Values as JSON and arrays: numbers and text, and parts that are named in a table; never code.

What is read is looked at, never run: a class is looked up by its name in the table of the reader,
and its fields become what they say.
"""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

__all__ = ["pack", "unpack"]

# Kinds of arrays that need no pickle: numbers, booleans, text, times.
PLAIN_KINDS = "biufUSmM"

# What stands for a type that a field declares; numbers may be those of numpy.
DECLARED = {Any: object, bool: bool | np.bool_, float: Real, int: Integral}

# What ``int | None`` and ``Optional[int]`` are made by.
UNIONS = type(int | None), Union

# What floats that JSON does not have are called.
INFINITE = {"inf": np.inf, "-inf": -np.inf}


def pack(value, classes):
    """A value as a dictionary of arrays: "json", the bytes of a text, and those it points to.

    Parameters
    ----------
    value : object
        Of None, booleans, numbers, text, arrays of these, lists, tuples, mappings from text, and
        instances of `classes`.
    classes : dict of str to type
        Made again from what ``vars`` of an instance says, as dataclasses and estimators are.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    TypeError
        Naming what holds a value of another type.
    """
    arrays = {}
    names = {cls: name for name, cls in classes.items()}
    tree = _packed(value, "it", names, arrays)
    text = json.dumps(tree, allow_nan=False)
    return {"json": np.frombuffer(text.encode(), dtype=np.uint8), **arrays}


def _packed(value, where, names, arrays):
    """What JSON says of a value; its arrays are added to `arrays`."""
    if value is None or isinstance(value, str | bool):
        return str(value) if isinstance(value, np.str_) else value
    if type(value) in names:
        fields = value.get_params(deep=False) if hasattr(value, "get_params") else _fields(value)
        name = names[type(value)]
        return {"class": name, "fields": _packed_items(fields, name, names, arrays)}
    if isinstance(value, Mapping):
        return {"mapping": _packed_items(value, where, names, arrays)}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(v, f"an entry of {where}", names, arrays) for v in value]}
    if isinstance(value, np.ndarray) and value.dtype == object:
        entries = [_packed(v, f"an entry of {where}", names, arrays) for v in value.ravel()]
        return {"objects": entries, "shape": list(value.shape)}
    if isinstance(value, float) and np.isinf(value):
        return {"infinite": "inf" if value > 0 else "-inf"}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in PLAIN_KINDS:
        return _packed_array(value, where, arrays)
    if type(value) in (int, float):
        _check_finite(np.asarray(value), where)
        return value
    raise TypeError(f"{where} is of type {type(value).__name__}")


def _fields(value):
    """What a dataclass holds; what it computed of that is computed again."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _packed_items(items, owner, names, arrays):
    return {name: _packed(v, f"{name} of {owner}", names, arrays) for name, v in items.items()}


def _packed_array(value, where, arrays):
    _check_finite(value, where)
    key = f"array_{len(arrays)}"
    arrays[key] = np.asarray(value)
    return {"scalar" if isinstance(value, np.generic) else "array": key}


def _check_finite(array, what):
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{what} holds NaN or infinity")


def unpack(arrays, classes):
    """The value that `pack` was given.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    classes : dict of str to type

    Returns
    -------
    object

    Raises
    ------
    ValueError
        Saying what is missing, or is not as `pack` writes it.
    """
    if "json" not in arrays:
        raise ValueError("the entry 'json' is missing")
    text = _read_array(arrays, "json")
    try:
        return _unpacked(json.loads(text.tobytes().decode()), arrays, classes)
    except RecursionError:
        raise ValueError("the entry 'json' is nested too deeply") from None


def _unpacked(tree, arrays, classes):
    """The value that a part of the JSON says."""
    if tree is None or isinstance(tree, str | bool | Integral):
        return tree
    if isinstance(tree, Real) and np.isfinite(tree):
        return tree
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{str(tree)[:60]!r} stands where a value is expected")
    kind = min(tree)  # "class" before "fields", "objects" before "shape"
    if kind not in READERS or len(tree) != 1 + (kind in ("class", "objects")):
        raise ValueError(f"{sorted(tree)[:3]} is no kind of value")
    return READERS[kind](tree, arrays, classes)


def _read_list(tree, arrays, classes):
    (values,) = tree.values()
    if not isinstance(values, list):
        raise ValueError(f"a list is expected; got {type(values).__name__}")
    return [_unpacked(value, arrays, classes) for value in values]


def _read_objects(tree, arrays, classes):
    values = _read_list({"objects": tree["objects"]}, arrays, classes)
    if not all(value is None or np.isscalar(value) for value in values):
        raise ValueError("an array of objects may hold numbers and text only")
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(_read_list({"list": tree.get("shape")}, arrays, classes))


def _read_mapping(tree, arrays, classes):
    (items,) = tree.values()
    if not isinstance(items, dict):
        raise ValueError(f"a mapping is expected; got {type(items).__name__}")
    return {name: _unpacked(value, arrays, classes) for name, value in items.items()}


def _read_part(tree, arrays, classes):
    name, fields = tree["class"], _read_mapping({"fields": tree.get("fields")}, arrays, classes)
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"{name!r} is no part that this version knows")
    cls = classes[name]
    hints = get_type_hints(cls) if is_dataclass(cls) else {}
    for field, hint in hints.items():
        if field in fields and not _is_of(fields[field], hint):
            raise ValueError(f"{field} of a {name} is of type {type(fields[field]).__name__}")
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"a {name} is not made of {sorted(fields)}: {error}") from None


def _is_of(value, hint):
    """Whether a value, and each entry of a tuple, is of the type that a field declares."""
    parts = get_args(hint)
    if get_origin(hint) in UNIONS:
        return any(_is_of(value, part) for part in parts)
    declared = get_origin(hint) or hint
    truth = isinstance(value, bool) and declared in (int, float)
    if truth or not isinstance(value, DECLARED.get(declared, declared)):
        return False
    if declared is not tuple or not parts:
        return True
    if parts[-1] is Ellipsis:
        parts = parts[:1] * len(value)
    return len(value) == len(parts) and all(map(_is_of, value, parts))


def _read_array(arrays, key):
    if not isinstance(key, str) or key not in arrays:
        raise ValueError(f"the array {key!r} is missing")
    array = arrays[key]
    if array.dtype.kind not in PLAIN_KINDS:
        raise ValueError(f"the array {key!r} has the dtype {array.dtype}, which is not plain")
    _check_finite(array, f"the array {key!r}")
    return array


def _read_infinite(tree, arrays, classes):
    if tree["infinite"] not in ("inf", "-inf"):
        raise ValueError(f"{tree['infinite']!r} is not infinite")
    return INFINITE[tree["infinite"]]


READERS = {
    "array": lambda tree, arrays, _: _read_array(arrays, tree["array"]),
    "class": _read_part,
    "infinite": _read_infinite,
    "list": _read_list,
    "mapping": _read_mapping,
    "objects": _read_objects,
    "scalar": lambda tree, arrays, _: _read_array(arrays, tree["scalar"])[()],
    "tuple": lambda tree, arrays, classes: tuple(_read_list(tree, arrays, classes)),
}
