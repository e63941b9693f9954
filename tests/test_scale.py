"""What very many tasks may cost: in numbers that are kept, not in seconds, which are noisy."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn
from numpy.testing import assert_array_equal
from sklearn.decomposition import TruncatedSVD
from sklearn.random_projection import SparseRandomProjection

from sklearn_maml import MAMLClassifier, MAMLRegressor, MAMLRegressorCV
from sklearn_maml._learning.reml import fit_reml


def many_tasks(n_tasks, n_rows, n_features):
    """X, y and the task of each row."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tasks * n_rows, n_features))
    own = np.repeat(rng.normal(size=(n_tasks, n_features)), n_rows, axis=0)
    return (
        X,
        (X * (1.0 + own)).sum(axis=1) + rng.normal(size=len(X)),
        np.repeat(np.arange(n_tasks), n_rows),
    )


def test_the_likelihood_keeps_half_of_the_products_of_each_task(monkeypatch):
    """Of ten rows of eight features and an intercept fewer numbers than these are."""
    X, y, groups = many_tasks(50, 10, 8)
    kept = []
    monkeypatch.setattr(
        "sklearn_maml._learning.random_effects.fit_reml",
        lambda moments, *rest, tol: kept.append(moments) or fit_reml(moments, *rest, tol=tol),
    )
    MAMLRegressor(random_state=0).fit(X, y, groups=groups)
    assert sum(products.size for products, _ in kept[0].parts) == 50 * (9 * 10 // 2 + 9) < X.size


def test_labels_of_many_tasks_are_looked_up_only_where_rows_are_predicted():
    X, y, groups = many_tasks(200, 4, 2)
    model = MAMLRegressor("auto").fit(X, y, groups=groups)
    assert "at" not in vars(model._known)
    model.predict(X[:4], groups=groups[:4])
    assert len(model._known.at) == 200


@pytest.mark.parametrize(
    "model",
    [
        MAMLRegressor(),
        MAMLRegressor("auto"),
        MAMLRegressorCV(inner_lrs=["auto"]),
        MAMLClassifier(),
    ],
    ids=["learned", "steps", "search", "classes"],
)
def test_sparse_rows_of_too_many_columns_are_refused_at_once(model):
    X = sp.random(1000, 100_000, density=1e-3, format="csr", random_state=0)
    y, groups = np.arange(1000) % 3 % 2, np.repeat(np.arange(100), 10)
    words = r"100,000 features are too many.* x 100,001 numbers.*TruncatedSVD"
    tracemalloc.start()
    with pytest.raises(ValueError, match=words):
        model.fit(X, y, groups=groups)
    assert tracemalloc.get_traced_memory()[1] < 1e8 / 4
    tracemalloc.stop()


def test_too_many_columns_are_projected_as_the_error_says():
    X = sp.random(200, 20_000, density=1e-2, format="csr", random_state=0)
    y, groups = np.random.default_rng(0).normal(size=200), np.repeat(np.arange(20), 10)
    for featurizer in (TruncatedSVD(5, random_state=0), SparseRandomProjection(5, random_state=0)):
        model = MAMLRegressor(featurizer=featurizer, random_state=0).fit(X, y, groups=groups)
        assert model.coef_.shape == (5,)


def test_few_sparse_rows_of_many_columns_are_fitted_by_a_given_rule_as_dense_ones():
    X = sp.random(40, 2000, density=0.01, format="csr", random_state=0)
    y, groups = np.random.default_rng(0).normal(size=40), np.repeat(np.arange(8), 5)
    sparse, dense = (MAMLRegressor("auto").fit(rows, y, groups=groups) for rows in (X, X.toarray()))
    assert_array_equal(sparse.coef_, dense.coef_)


def test_parameters_of_many_tasks_are_held_once():
    """Beside them there are blocks of 2 MiB each, and a number a row for its task."""
    X, y, groups = many_tasks(60_000, 2, 30)
    with sklearn.config_context(working_memory=1):
        tracemalloc.start()
        model = MAMLRegressor(0.1, certificate=None).fit(X, y, groups=groups)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert model.task_coef_.shape == (60_000, 30)
    assert peak < 2.0 * 60_000 * 31 * 8
