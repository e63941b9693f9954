"""Estimators as skops files, featurizers and all: what a model with code in it is stored by."""

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.preprocessing import StandardScaler
from small_tasks import NEW_X, NEW_Y, TASKS, G, X, Y

import sklearn_maml
from sklearn_maml import MAMLClassifier, MAMLRegressor, MAMLRegressorCV, NTKFeatures

LABELS = np.where(Y > 5, "high", "low")
MODELS = {
    "regressor": MAMLRegressor(random_state=0).fit(TASKS),
    "steps": MAMLRegressor("auto", 2).fit(TASKS),
    "scaled": MAMLRegressor(n_steps=1, featurizer=StandardScaler()).fit(X, Y, groups=G),
    "ntk": MAMLRegressor(n_steps=1, featurizer=NTKFeatures(8, random_state=0)).fit(TASKS),
    "classifier": MAMLClassifier(n_steps=1).fit(X, LABELS, groups=G),
    "search": MAMLRegressorCV(alphas=[0.1, 1.0], cv=2, support=2, random_state=0).fit(TASKS),
}
MODELS["adapted"] = MODELS["regressor"].adapt(NEW_X, NEW_Y)
MODELS["adapted classifier"] = MODELS["classifier"].adapt(NEW_X, LABELS[:8])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_skops_stores_every_estimator_once_its_types_are_trusted(model):
    stored = skops.io.dumps(model)
    unknown = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("sklearn_maml.") for name in unknown)
    loaded = skops.io.loads(stored, trusted=unknown)
    assert_array_equal(loaded.predict(X), model.predict(X))


def test_adapted_tasks_are_no_estimator_but_are_stored_too():
    tasks = MODELS["steps"].adapt_tasks(TASKS)
    assert isinstance(tasks, sklearn_maml.AdaptedTasks)
    stored = skops.io.dumps(tasks)
    loaded = skops.io.loads(stored, trusted=skops.io.get_untrusted_types(data=stored))
    assert_array_equal(loaded.predict(X, groups=G), tasks.predict(X, groups=G))
