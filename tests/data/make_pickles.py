"""Store fitted models, and what they answer, for tests/test_security.py.

    python tests/data/make_pickles.py

Run it once for each release, with the oldest scikit-learn and numpy that it supports and with the
newest: it writes ``<package>-sklearn<version>.pkl`` and a ``.json`` of answers beside this file.
What is there already stays: those are the models of users.
"""

import json
import pickle
from pathlib import Path

import numpy as np
import sklearn

import sklearn_maml
from sklearn_maml import MAMLClassifier, MAMLRegressor

__all__ = ["FOLDER", "answers"]

FOLDER = Path(__file__).parent

# Numbers without a generator, whose stream another version of numpy may change.
ROWS = np.arange(48)
X = np.column_stack([np.sin(3.0 * ROWS), np.cos(5.0 * ROWS)])
GROUPS = np.repeat([f"task {i}" for i in range(8)], 6)
LEVEL = np.repeat(np.sin(np.arange(8.0)), 6)
Y = X @ [1.0, -2.0] + LEVEL * (1.0 + X[:, 0]) + 0.1 * np.sin(7.0 * ROWS)
CLASSES = np.where(Y + 0.5 * np.cos(11.0 * ROWS) > 0, "yes", "no")


def fitted():
    """The models, by name."""
    regressors = {"regressor": MAMLRegressor(random_state=0), "steps": MAMLRegressor("auto", 2)}
    classifiers = {"classifier": MAMLClassifier(random_state=0), "logits": MAMLClassifier(0.5, 2)}
    models = {name: model.fit(X, Y, groups=GROUPS) for name, model in regressors.items()}
    models |= {name: model.fit(X, CLASSES, groups=GROUPS) for name, model in classifiers.items()}
    models["adapted"] = models["regressor"].adapt(X[:4], Y[:4])
    models["tasks"] = models["steps"].adapt_tasks(X, Y, groups=GROUPS)
    return models


def answers(name, model):
    """What a model says: of known tasks, of unknown ones, of one it adapts to; lists of numbers."""
    if name == "adapted":
        found = model.predict(X[:8], return_std=True)
    elif name == "tasks":
        found = [model.predict(X, groups=GROUPS)]
    elif name in ("classifier", "logits"):
        adapted = model.adapt(X[:5], CLASSES[:5])
        found = [model.predict_proba(X[::5], groups=GROUPS[::5]), adapted.predict_proba(X[:8])]
        found += [model.predict_proba(X[:3]), (model.predict(X) == "yes").astype(float)]
    else:
        adapted = model.adapt(X[:5], Y[:5])
        found = [model.predict(X[::5], groups=GROUPS[::5]), adapted.predict(X[:8])]
        found += [model.predict(X[:3]), [model.certify(X, Y, groups=GROUPS).meta_loss]]
    return [np.asarray(numbers).tolist() for numbers in found]


if __name__ == "__main__":
    models = fitted()
    path = FOLDER / f"{sklearn_maml.__version__}-sklearn{sklearn.__version__}"
    with open(f"{path}.pkl", "xb") as file:  # protocol 4 is read by every Python since 3.4
        pickle.dump(models, file, protocol=4)
    with open(f"{path}.json", "x") as file:
        json.dump({name: answers(name, model) for name, model in models.items()}, file)
