"""A fitted model as a file of numbers and text: what is in it, how it is written and read.

The file is a NumPy archive (.npz) of plain arrays, one of them JSON. There is no pickle in it and
no code; the parts of a model are found by their names in `PARTS`.
"""

import sys
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from threading import get_native_id

import numpy as np
from sklearn.base import is_classifier

from sklearn_maml._component import check_number
from sklearn_maml._estimators.plan import check_parameters
from sklearn_maml._estimators.prediction import theta_of
from sklearn_maml._intervals.calibration import Calibration
from sklearn_maml._intervals.temperature import Temperature
from sklearn_maml._learning.learned_metric import LearnedMetric
from sklearn_maml._learning.step_lengths import LearnedSteps
from sklearn_maml._storage import pack, unpack
from sklearn_maml._tasks.episodes import Episodes
from sklearn_maml._tasks.labels import TaskIndex
from sklearn_maml.adaptation import RULES
from sklearn_maml.adaptation.doubt import Doubt
from sklearn_maml.adaptation.prior import Metric, Noise, Starts
from sklearn_maml.adaptation.rule import AdaptationRule
from sklearn_maml.adaptation.standardization import Standardization
from sklearn_maml.adaptation.task_noise import TaskNoise
from sklearn_maml.certificate.gap_certificate import Curve, GapCertificate
from sklearn_maml.losses import LOSSES
from sklearn_maml.losses.loss import Loss
from sklearn_maml.solvers import SOLVERS

__all__ = ["read_model", "write_model"]

# Readers know one format; one that says things otherwise has another number.
FORMAT = 1

COMPONENTS = {*LOSSES.values(), *RULES.values(), *SOLVERS.values()}
DATA = {Calibration, Curve, Episodes, GapCertificate, LearnedMetric, LearnedSteps}
PRIOR = {Doubt, Metric, Noise, Standardization, Starts, TaskNoise, Temperature}
PARTS = {cls.__name__: cls for cls in COMPONENTS | DATA | PRIOR}

NOTHING = type(None)

# What a fitted model is made of, and of which types.
REQUIRED = {
    "coef_": np.ndarray,
    "intercept_": Real | np.ndarray,
    "loss_": Loss,
    "featurizer_": NOTHING,
    "adaptation_": AdaptationRule,
    "learned_": LearnedMetric | LearnedSteps | NOTHING,
    "n_tasks_": Integral,
    "task_ids_": np.ndarray,
    "task_coef_": np.ndarray | NOTHING,
    "task_intercept_": np.ndarray | NOTHING,
    "n_iter_": Integral,
    "meta_loss_": Real,
    "meta_losses_": np.ndarray,
    "gap_certificate_": GapCertificate | NOTHING,
    "calibration_": Calibration | NOTHING,
    "n_features_in_": Integral,
    "_alpha": Real,
    "_episodes": Episodes,
    "_has_intercept": bool,
    "_information": np.ndarray | NOTHING,
    "_judging": Episodes,
    "_n_rows": np.ndarray | NOTHING,
    "_start": np.ndarray,
    "_untold": bool,
}
OPTIONAL = {
    "inner_lr_": Real | np.ndarray,
    "capped_share_": Real,
    "feature_names_in_": np.ndarray,
    "classes_": np.ndarray,
}
KNOWN = REQUIRED | OPTIONAL


def write_model(model, path):
    """Write a fitted model; see `MetaLearner.save`."""
    kind = type(model).__name__
    if model.featurizer_ is not None:
        raise TypeError(
            f"save writes numbers and text only, and a featurizer is code: {model.featurizer_!r}. "
            "Store the model with skops (skops.io.dump, which asks what to trust) or pickle; or "
            "transform X before fit, and save the featurizer by its own means."
        )
    state = {
        "format": FORMAT,
        "class": kind,
        "versions": _versions(),
        "parameters": model.get_params(deep=False),
        "fitted": {name: getattr(model, name) for name in KNOWN if hasattr(model, name)},
    }
    try:
        arrays = pack(state, PARTS)
    except TypeError as error:
        raise TypeError(
            f"save writes numbers, text and the package's own parts: {error}. Give it as one of "
            "these (random_state= an int, labels of tasks text or numbers), or store the model "
            "with skops or pickle."
        ) from None
    except ValueError as error:
        raise ValueError(f"This {kind} cannot be saved: {error}; fit it again.") from None
    with _replaced(_checked(path)) as file:
        np.savez_compressed(file, **arrays)


def _checked(path):
    """The path; a number would be a file that is open already."""
    if not (isinstance(path, str) or hasattr(path, "__fspath__")):
        raise TypeError(f"path must be text or a path; got {path!r}.")
    return path


@contextmanager
def _replaced(path):
    """A file to write, which takes the place of another one when all is written, or never does."""
    path = Path(path).resolve()
    if path.exists() and not path.is_file():  # a pipe or a device, which nothing can replace
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.{get_native_id()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _versions():
    return {name: sys.modules[name].__version__ for name in ("sklearn_maml", "numpy", "sklearn")}


def read_model(path, kinds):
    """The model that a file holds.

    Parameters
    ----------
    path : str or path-like
    kinds : tuple of type
        What it may be a model of.

    Raises
    ------
    ValueError
        If the file is not one of `write_model`, or not whole.
    """
    with open(_checked(path), "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                state = unpack(dict(archive), PARTS)
            return _model(state, {kind.__name__: kind for kind in kinds})
        except Exception as error:  # of numpy, zipfile, zlib, json: whatever a stranger's bytes do
            raise ValueError(
                f"{path} is not a model that save wrote, or was changed since: {error}."
            ) from None


def _model(state, kinds):
    """The model that is described; what does not fit raises."""
    header = {"format": Integral, "class": str, "versions": dict, "parameters": dict}
    _check_entries("file", state, header | {"fitted": dict})
    if state["format"] != FORMAT:
        raise ValueError(
            f"it has format {state['format']}, by {state['versions']}; this version "
            f"reads format {FORMAT}"
        )
    if state["class"] not in kinds:
        raise ValueError(f"it holds a {state['class']!r}; expected one of {sorted(kinds)}")
    fitted = state["fitted"]
    _check_entries("fitted", fitted, REQUIRED, OPTIONAL)
    model = kinds[state["class"]](**state["parameters"])
    check_parameters(model)
    if is_classifier(model) != ("classes_" in fitted):
        raise ValueError(f"classes_ is there, or missing, in a {state['class']}")
    for name, value in fitted.items():
        setattr(model, name, value)
    for name in KNOWN.keys() - {"task_ids_", "feature_names_in_", "classes_"}:
        if getattr(getattr(model, name, None), "dtype", np.dtype(float)).kind not in "iuf":
            raise ValueError(f"{name} must hold numbers")
    for part in (model.loss_, model.adaptation_, model._episodes, model._judging):
        getattr(part, "validate", getattr(part, "check", None))()
    _check_shapes(model)
    model._known = TaskIndex(() if model.task_coef_ is None else model.task_ids_)
    return model


def _check_entries(what, entries, required, optional=None):
    """Raise unless there are exactly the entries there should be, each of its type."""
    known = required | (optional or {})
    if not isinstance(entries, dict):
        raise ValueError(f"{what} is no table of entries")
    missing, unknown = sorted(set(required) - set(entries)), sorted(set(entries) - set(known))
    if missing or unknown:
        raise ValueError(f"{what} lacks the entries {missing}; it has unknown ones: {unknown}")
    for name, value in entries.items():
        if not isinstance(value, known[name]):
            raise ValueError(f"{name} is of type {type(value).__name__}")


def _check_shapes(model):
    """Raise where parameters of tasks are not as those of the model."""
    d = theta_of(model).shape[-1]
    model.adaptation_.posterior(d)  # of a metric for other parameters none is made
    special = (model.task_column is not None) + (model.offset_column is not None)
    n_columns = model.n_features_in_ - special
    if model.coef_.shape[-1] != n_columns:
        raise ValueError(f"coef_ has {model.coef_.shape[-1]} entries for {n_columns} columns")
    if is_classifier(model):
        labels = model.classes_
        ascend = labels.ndim == 1 and np.array_equal(np.unique(labels), labels)
        if not ascend or len(labels) != (len(model.coef_) if model.coef_.ndim > 1 else 2):
            raise ValueError(f"classes_ are {labels!r} for coef_ of shape {model.coef_.shape}")
    check_number("alpha", model._alpha)
    if model._start.shape != theta_of(model).shape:
        raise ValueError(f"_start has the shape {model._start.shape}")
    if np.shape(getattr(model, "inner_lr_", 0.0)) not in ((), (d,)):
        raise ValueError(f"inner_lr_ is not of {d} parameters")
    if np.shape(getattr(model, "feature_names_in_", model.n_features_in_ * [""])) != (
        model.n_features_in_,
    ):
        raise ValueError(f"feature_names_in_ are not {model.n_features_in_}")
    if model.task_ids_.shape != (model.n_tasks_,):
        raise ValueError(f"task_ids_ has the shape {model.task_ids_.shape}")
    _check_tasks(model, d)


def _check_tasks(model, d):
    """Raise where what is known of tasks is not of as many as there are."""
    parts = {name: getattr(model, name) for name in ("task_coef_", "task_intercept_", "_n_rows")}
    information = model._information
    if model.task_coef_ is None:
        if any(part is not None for part in (*parts.values(), information)):
            raise ValueError("it knows something of tasks that have no names")
        return
    shapes = (model.coef_.shape, model.coef_.shape[:-1], ())
    for (name, part), shape in zip(parts.items(), shapes, strict=True):
        if np.shape(part) != (model.n_tasks_, *shape):
            raise ValueError(f"{name} is not of {model.n_tasks_} tasks")
    if (model._n_rows < 0).any():
        raise ValueError("_n_rows must not be negative")
    if len(set(model.task_ids_.tolist())) < model.n_tasks_:
        raise ValueError("task_ids_ are the same for two tasks")
    if information is not None:
        if len(information) != model.n_tasks_:
            raise ValueError(f"_information is not of {model.n_tasks_} tasks")
        model.adaptation_.posterior(d, information.reshape(-1, information.shape[-1])[:1])
