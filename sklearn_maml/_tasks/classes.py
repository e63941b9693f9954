"""Class labels and what stands for them: 0 / 1 targets, scores, probabilities.

Two classes are one score, the log odds of the second; more are one score a class, its log odds
against the rest.
"""

from numbers import Real

import numpy as np
from scipy.special import expit
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from sklearn_maml._tasks.lists import is_missing, refuse_masked, refuse_mixed

__all__ = [
    "check_kind",
    "codes_of",
    "distinct",
    "most_probable",
    "probabilities",
    "read_classes",
    "targets_of",
]


def read_classes(y):
    """Class labels as an array (m,), without missing ones.

    Raises
    ------
    ValueError
        If a label is missing, or `y` looks like numbers that are to be predicted.
    """
    refuse_masked(y, "y")
    refuse_mixed(y)
    y = column_or_1d(y, warn=True)
    if y.dtype == object and any(map(is_missing, y)):
        raise ValueError("y contains None or NaN; every row needs a class.")
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def distinct(y, owner):
    """The sorted classes of labels (m,); `owner` is who needs at least two of them."""
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"{owner} needs at least 2 classes; got {len(classes)} class: {classes}. Fit it on "
            "tasks that hold more; a single task may hold only one."
        )
    return classes


def check_kind(y, classes):
    """Raise where labels are text and the classes numbers, or so: none can be equal."""
    if len(y) and _kind(y) != _kind(classes):
        raise ValueError(
            f"y holds labels such as {y[0]!r} ({type(y[0]).__name__}), but the classes that fit "
            f"has seen are {classes} ({type(classes[0]).__name__}); give labels of that type."
        )


def _kind(labels):
    """What labels are: "text", "number", or numpy's letter for another kind of array."""
    if labels.dtype.kind in "US" or all(isinstance(label, str | bytes) for label in labels):
        return "text"
    numbers = labels.dtype.kind in "biuf" or all(isinstance(label, Real) for label in labels)
    return "number" if numbers else labels.dtype.kind


def targets_of(y, classes):
    """0 / 1 targets (m,) for the second of two classes, or (m, K), one column a class.

    Raises
    ------
    ValueError
        For a label that is none of the classes.
    """
    check_kind(y, classes)
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(f"y holds labels {unknown} that fit has not seen; known are {classes}.")
    code = np.searchsorted(classes, y)
    if len(classes) == 2:
        return code.astype(float)
    return (code[:, None] == np.arange(len(classes))).astype(float)


def codes_of(targets):
    """Positions of the classes, shape (m,), from targets: the inverse of `targets_of`."""
    return most_probable(targets - 0.5)


def most_probable(scores):
    """Positions of the most probable classes, shape (m,), from scores (m,) or (m, K)."""
    return (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)


def probabilities(scores, temperature=1.0):
    """Probabilities of two classes (m, 2) from scores (m,), or of K from scores (m, K).

    More than two are the probabilities of each class against the rest, divided by their sum. Scores
    are divided by the temperature first, a number or one a row (m,).
    """
    scores = (scores.T / temperature).T
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    # Divided by the largest first, so that scores far below 0 do not all become 0.
    log_odds = -np.logaddexp(0.0, -scores)
    shares = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
