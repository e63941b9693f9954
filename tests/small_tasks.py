"""Five small tasks, the models that the package's own checks fit to them, and how to compare."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from sklearn_maml import MAMLRegressor

RNG = np.random.default_rng(3)
SIZES = [7, 4, 9, 6, 12]
TASKS = []
for size in SIZES:
    A = RNG.normal([0, 3, -1], [1, 2, 0.5], (size, 3))
    TASKS.append((A, A @ [1, -1, 2] + RNG.normal() * A[:, 0] + RNG.normal(size=size) + 5))
X, Y = (np.concatenate(part) for part in zip(*TASKS, strict=True))
G = np.repeat(np.arange(5), SIZES)
NEW_X, NEW_Y = RNG.normal(size=(8, 3)), RNG.normal(size=8)
MODELS = {
    "auto": MAMLRegressor("auto"),
    "five steps": MAMLRegressor(0.05, 5),
    "no intercept": MAMLRegressor(n_steps=2, fit_intercept=False),
    "ridge": MAMLRegressor("auto", alpha=0.3),
    "first rows": MAMLRegressor("auto", support=2, split="first"),
    "a share": MAMLRegressor("auto", support=0.5, split="first"),
    "scaled": MAMLRegressor("auto", featurizer=StandardScaler()),
}
EXACT = {name: MODELS[name] for name in MODELS if isinstance(MODELS[name].support, str)}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
exact_models = pytest.mark.parametrize("model", EXACT.values(), ids=EXACT)


def theta(model):
    return np.append(model.coef_, model.intercept_)


def fit(model, *data, **more):
    return clone(model).fit(*data, **more)


def assert_same_fit(one, other, rtol=1e-10):
    """Equal to rounding: these problems have condition numbers below 1e4."""
    np.testing.assert_allclose(theta(one), theta(other), rtol=rtol, atol=rtol)
    assert one.meta_loss_ == pytest.approx(other.meta_loss_, rel=rtol)
