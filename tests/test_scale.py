"""What very many tasks may cost: in numbers that are kept, not in seconds, which are noisy."""

import numpy as np

from sklearn_maml import MAMLRegressor
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
        lambda moments, *rest: kept.append(moments) or fit_reml(moments, *rest),
    )
    MAMLRegressor(random_state=0).fit(X, y, groups=groups)
    assert sum(products.size for products, _ in kept[0].parts) == 50 * (9 * 10 // 2 + 9) < X.size


def test_labels_of_many_tasks_are_looked_up_only_where_rows_are_predicted():
    X, y, groups = many_tasks(200, 4, 2)
    model = MAMLRegressor("auto").fit(X, y, groups=groups)
    assert "at" not in vars(model._known)
    model.predict(X[:4], groups=groups[:4])
    assert len(model._known.at) == 200
