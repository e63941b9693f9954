"""Task families for tests: well-posed ones and every kind of ill-posed one."""

import numpy as np


def make_tasks(n_tasks, n_rows, transform=lambda X: X, n_features=5, seed=0):
    """Tasks whose targets are linear in untransformed features, with noise."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=n_features)
    tasks = []
    for _ in range(n_tasks):
        Z = rng.normal(size=(n_rows, n_features))
        y = Z @ (theta + rng.normal(size=n_features)) + rng.normal() + rng.normal(size=n_rows)
        tasks.append((transform(Z), y))
    return tasks


def rotated(condition, d=5):
    """Features with singular values from 1 down to 1 / condition, along no axis."""
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    return lambda Z: Z * np.geomspace(1, 1 / condition, d) @ rotation


WELL_POSED = {
    "plain": lambda: make_tasks(30, 20),
    "offset": lambda: make_tasks(30, 20, lambda Z: Z + 100.0),
    "wide tasks": lambda: make_tasks(60, 3),
    "condition 1e4": lambda: make_tasks(30, 20, rotated(1e4)),
}

ILL_POSED = {
    "duplicated columns": lambda: make_tasks(30, 20, lambda Z: np.hstack([Z, Z[:, :2]])),
    "more columns than rows": lambda: make_tasks(4, 5, n_features=40),
    "condition 1e10": lambda: make_tasks(30, 20, rotated(1e10)),
    "condition 1e14": lambda: make_tasks(30, 20, rotated(1e14)),
    "one-row tasks": lambda: make_tasks(30, 1),
    "constant columns": lambda: make_tasks(30, 20, lambda Z: np.c_[Z, np.full((20, 2), 3.0)]),
    "shared inputs": lambda: [(make_tasks(1, 20)[0][0], y) for _, y in make_tasks(30, 20)],
    "zero columns": lambda: make_tasks(30, 20, lambda Z: np.c_[Z, np.zeros((20, 1))]),
}

UNEQUAL_UNITS = {
    "units 1e-8 and 1e+8": lambda: make_tasks(30, 20, lambda Z: Z * [1e-8, 1, 1e8, 1, 1]),
}
