"""The candidates of a search: which parameters are tried, and which candidates share what."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sklearn.base import clone
from sklearn.model_selection import ParameterGrid

from sklearn_maml._component import check_number
from sklearn_maml._estimators.plan import make_plan
from sklearn_maml._estimators.regressor import MAMLRegressor

__all__ = ["Candidate", "alike", "read_candidates"]

# What `param_grid` may name, with parameters of their own behind two underscores.
SEARCHED = ("adaptation", "featurizer")

# Parameters of the model that have candidates of their own, by another name or the same.
OWN = {"inner_lr": "inner_lrs", "n_steps": "n_steps", "alpha": "alphas"}

# Candidates where no rule is named.
INNER_LRS, N_STEPS = ("auto",), (1, 5, 20)


class Candidate(NamedTuple):
    """What a search tries, checked.

    Attributes
    ----------
    params : dict
        As in `GridSearchCV`.
    model : MAMLRegressor
        With these parameters; it is not fitted.
    plan : Plan
        What they say.
    features : tuple
        The same where candidates have the same features.
    batch : tuple
        And where they are scored together: given rules that differ in the penalty alone, and all
        that are learned.
    """

    params: dict
    model: Any
    plan: Any
    features: tuple
    batch: tuple

    @property
    def given(self):
        """Whether the rule is given and the meta-loss a quadratic, so that tasks add up."""
        return _is_given(self.plan.rule)

    def told(self, *left_out):
        """Its parameters in words, in one line."""
        named = {name: value for name, value in self.params.items() if name not in left_out}
        return " ".join(", ".join(f"{name}={value}" for name, value in named.items()).split())


def read_candidates(grids, inner_lrs, n_steps, alphas, shared):
    """All candidates, in the order of `GridSearchCV`.

    Parameters
    ----------
    grids : dict or sequence of dict, or None
        `param_grid`.
    inner_lrs, n_steps, alphas : sequence
        Candidates, as in `MAMLRegressorCV`; the first two are None by default.
    shared : dict
        Other parameters of the model.

    Returns
    -------
    list of Candidate

    Raises
    ------
    ValueError, TypeError
        Naming the parameter.
    """
    grids = [{}] if grids is None else _read_grids(grids)
    loops = {
        "inner_lr": INNER_LRS if inner_lrs is None else inner_lrs,
        "n_steps": N_STEPS if n_steps is None else n_steps,
    }
    loops = {name: _listed(name, values) for name, values in loops.items()}
    penalties = _listed("alpha", alphas)
    for alpha in penalties:
        check_number("each of alphas", alpha)
    _refuse_overruled(grids, "adaptation", {"inner_lrs": inner_lrs, "n_steps": n_steps})
    _refuse_overruled(grids, "featurizer", {"featurizer": shared["featurizer"]})
    found = []
    for grid in grids:
        whole = grid | ({} if "adaptation" in grid else loops) | {"alpha": penalties}
        found += [_candidate(params, shared) for params in ParameterGrid(whole)]
    seed = found[0].plan.episodes.seed  # a RandomState would give each its own
    return [
        each._replace(plan=each.plan._replace(episodes=replace(each.plan.episodes, seed=seed)))
        for each in found
    ]


def alike(candidates, numbers, key):
    """Some of the candidates, by number, in groups with the same "features", or "batch"."""
    groups = {}
    for k in numbers:
        groups.setdefault(getattr(candidates[k], key), []).append(k)
    return list(groups.values())


def _candidate(params, shared):
    model = _model_of(params, shared)
    plan = make_plan(model)
    # The values of one grid are the same objects in all of its candidates.
    key = [(name, id(value)) for name, value in params.items() if name != "alpha"]
    features = tuple(part for part in key if _root(part[0]) == "featurizer")
    batch = (*key,) if _is_given(plan.rule) else (*features, "learned")
    return Candidate(params, model, plan, features, batch)


def _is_given(rule):
    return rule is None or (rule.affine and not rule.learnable and not rule.first_order)


def _model_of(params, shared):
    """The `MAMLRegressor` of a candidate; nothing of the search's own is in it.

    Parameters
    ----------
    params : dict
        The candidate's.
    shared : dict
        Other parameters of the model.
    """
    model = MAMLRegressor(**shared)
    plain = {name: value for name, value in params.items() if "__" not in name}
    model.set_params(**{name: clone(value, safe=False) for name, value in plain.items()})
    nested = {name: value for name, value in params.items() if "__" in name}
    for name in nested:
        root = _root(name)
        if not hasattr(getattr(model, root), "set_params"):
            raise ValueError(
                f"param_grid names {name!r}, but {root} is {getattr(model, root)!r}, which has no "
                f"parameters; give an instance that has, as {root!r} in the same dict"
                f"{' or featurizer=' if root == 'featurizer' else ''}."
            )
        if root not in plain:
            setattr(model, root, clone(getattr(model, root)))
    return model.set_params(**{name: clone(value, safe=False) for name, value in nested.items()})


def _root(name):
    return name.partition("__")[0]


def _listed(name, values):
    """Candidates for a parameter, as a list."""
    several = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    several = several and not isinstance(values, str | bytes | Mapping)
    if not several or getattr(values, "ndim", 1) != 1 or len(values) == 0:
        raise ValueError(f"{name} needs a sequence of candidates, one or more; got {values!r}.")
    return list(values)


def _read_grids(grids):
    """`param_grid` as a list of dicts of lists."""
    several = [grids] if isinstance(grids, Mapping) else grids
    listed = isinstance(several, Iterable) and not isinstance(several, str | bytes)
    several = list(several) if listed else []
    if not several or not all(isinstance(grid, Mapping) for grid in several):
        raise TypeError(
            "param_grid must be a dict from names of parameters to sequences of candidates, or a "
            f"list of such dicts, one or more; got {grids!r}."
        )
    for grid in several:
        for name in grid:
            _check_name(name)
    return [{name: _listed(name, values) for name, values in grid.items()} for grid in several]


def _check_name(name):
    """Raise for a parameter that is not searched here."""
    if name in OWN:
        raise ValueError(
            f"param_grid names {name!r}, whose candidates are those of {OWN[name]}=; give them "
            "there."
        )
    if not isinstance(name, str) or _root(name) not in SEARCHED:
        raise ValueError(
            f"param_grid names {name!r}, which this search does not try: it takes 'adaptation', "
            "'featurizer', and parameters of theirs, 'adaptation__...' and 'featurizer__...'. For "
            "others put a MAMLRegressor in a GridSearchCV."
        )


def _refuse_overruled(grids, root, given):
    """Raise for what was given, and has no effect, as all grids name something else instead."""
    for name, value in given.items():
        if value is not None and all(root in grid for grid in grids):
            raise ValueError(
                f"{name}={value!r} has no effect, as every dict of param_grid names {root!r}; "
                "leave it at None, or add a dict that does not."
            )
