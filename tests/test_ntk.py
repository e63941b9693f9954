"""NTKFeatures: scikit-learn's checks, differences of the network itself, the arc-cosine kernel."""

import numpy as np
import pytest
from families import make_tasks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_maml import MAMLRegressor, NTKFeatures
from sklearn_maml.ntk import ACTIVATIONS


@parametrize_with_checks([NTKFeatures(10, activation=name) for name in ACTIVATIONS])
def test_scikit_learn_estimator_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_are_the_gradient_of_the_network(activation):
    X = np.random.default_rng(0).normal(size=(5, 3))
    model = NTKFeatures(7, activation=activation, random_state=0).fit(X)
    a, W = model.output_weights_, model.hidden_weights_

    def network(weights):
        outer, hidden = weights[:7], weights[7:].reshape(7, 4).T
        at = np.column_stack([X, np.ones(5)]) @ hidden
        return ACTIVATIONS[activation][0](at) @ outer / np.sqrt(7)

    weights, h = np.concatenate([a, W.T.ravel()]), 1e-6
    columns = [(network(weights + h * e) - network(weights - h * e)) / (2 * h) for e in np.eye(35)]
    np.testing.assert_allclose(model.transform(X), np.transpose(columns), atol=1e-8)


def test_the_relu_kernel_converges_to_the_arc_cosine_kernel():
    X = np.random.default_rng(1).normal(size=(6, 3))
    rows = np.column_stack([X, np.ones(6)])
    norms = np.linalg.norm(rows, axis=1)
    products = rows @ rows.T
    angle = np.arccos(np.clip(products / np.outer(norms, norms), -1, 1))
    arc = np.outer(norms, norms) * (np.sin(angle) + (np.pi - angle) * np.cos(angle))
    exact = (arc + products * (np.pi - angle)) / (2 * np.pi)
    errors = []
    for m in (100, 10_000, 400_000):
        phi = NTKFeatures(m, random_state=0).fit_transform(X)
        errors.append(np.abs(phi @ phi.T - exact).max() / exact.max())
    assert errors[1] < 0.1
    assert errors[2] < 0.01
    assert errors[0] > errors[1] > errors[2]


def test_a_wide_network_is_a_featurizer():
    tasks = make_tasks(10, 8, n_features=3)
    narrow = MAMLRegressor("auto", featurizer=NTKFeatures(2, random_state=0)).fit(tasks)
    wide = MAMLRegressor("auto", featurizer=NTKFeatures(60, random_state=0)).fit(tasks)
    assert wide.meta_loss_ < narrow.meta_loss_
    assert len(wide.coef_) == 300
    assert wide.featurizer_.get_feature_names_out().shape == (300,)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"n_hidden": 0}, ValueError),
        ({"n_hidden": 1.5}, TypeError),
        ({"n_hidden": True}, TypeError),
        ({"activation": "sigmoid"}, ValueError),
    ],
)
def test_bad_parameters_are_named(parameters, error):
    (name,) = parameters
    with pytest.raises(error, match=f"^{name} must be"):
        NTKFeatures(**parameters).fit(np.ones((3, 2)))
