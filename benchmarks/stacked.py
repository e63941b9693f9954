"""Fitted models as methods of `public_suite`: adapting to stacks of tasks, and their intervals."""

import json
from dataclasses import dataclass

import numpy as np
from public_suite import CACHE, SHOTS, fold_of_groups, pad, row_orders, split_rows

from sklearn_maml import MAMLRegressor

__all__ = ["Stacked", "calibrated_interval", "coverage", "kept"]


@dataclass(frozen=True)
class Stacked:
    """A fitted model that adapts to a stack of tasks at once."""

    model: MAMLRegressor

    def adapt(self, X_s, y_s, X_q, return_std=True):
        """Predictions and their standard deviations for query rows, each of shape (n, q)."""
        rows, labels = flat(X_s)
        tasks = self.model.adapt_tasks(rows, y_s.ravel(), groups=labels)
        rows, labels = flat(X_q)
        found = tasks.predict(rows, groups=labels, return_std=return_std)
        return np.reshape(found, (-1,) * return_std + X_q.shape[:2])

    def interval(self, X_s, y_s, X_q, share):
        """Calibrated intervals of query rows that hold this share, two ends of shape (n, q)."""
        rows, labels = flat(X_s)
        tasks = self.model.adapt_tasks(rows, y_s.ravel(), groups=labels)
        rows, labels = flat(X_q)
        ends = tasks.predict_interval(rows, share, groups=labels)
        return np.reshape(ends, (2, *X_q.shape[:2]))

    def adapt_predict(self, X_s, y_s, X_q):
        """As `public_suite` asks for it."""
        return self.adapt(X_s, y_s, X_q, return_std=False)


def flat(X):
    """Rows (n * m, d) of a stack of tasks (n, m, d), and their tasks."""
    return X.reshape(-1, X.shape[-1]), np.repeat(np.arange(len(X)), X.shape[1])


def normal_interval(model, X_s, y_s, X_q, quantile=1.6449):
    """Intervals of query rows that hold 90 % if errors are normal, two ends of shape (n, q)."""
    mean, std = model.adapt(X_s, y_s, X_q)
    return mean - quantile * std, mean + quantile * std


def calibrated_interval(model, X_s, y_s, X_q):
    """Those of ``predict_interval``."""
    return model.interval(X_s, y_s, X_q, 0.9)


def coverage(method, data, split, n_draws=5, interval=normal_interval):
    """The share of query rows of held-out groups inside their 90 % intervals, for each k."""
    fold, inside = fold_of_groups(data.groups), {k: [0, 0] for k in SHOTS}
    for held in range(5):
        train = fold != held
        model = method.fit(data.X[train], data.y[train], data.groups[train])
        padded = pad(data.X[~train], data.y[~train], data.groups[~train])
        for order in row_orders(padded, split, n_draws, [0, held]):
            for k in SHOTS:
                X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
                if len(X_s):
                    low, high = interval(model, X_s, y_s, X_q)
                    hits = (low < y_q) & (y_q < high) & valid
                    inside[k][0] += int(hits.sum())
                    inside[k][1] += int(valid.sum())
    return {k: hits / n for k, (hits, n) in inside.items() if n}


def kept(name, compute):
    """The finite result of `compute`, from a file if it is there; JSON turns keys to strings."""
    path = CACHE / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")  # a run that is stopped leaves no half of a file
        partial.write_text(json.dumps(compute(), allow_nan=False))
        partial.replace(path)
    return json.loads(path.read_text())
