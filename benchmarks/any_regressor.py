"""Any regressor made few-shot, against what else combines trees and groups.

    python benchmarks/few_shot_suite.py --any-regressor

The learned rule on the raw columns, on splines of the continuous ones, on a cross-fitted prediction
of boosting beside the raw columns (`PooledPrediction`), on both, and on what held-out tasks choose
of these, with a prediction of what they leave over or without (``pooled=``); boosting with a
shrunken mean residual for each group; and, where they are installed, GPBoost (Sigrist, JMLR 2022),
with a random intercept or with random slopes of all columns that vary, its rounds chosen by cross-
validation over groups, and MERF (Hajjem et al. 2014), a forest with a random intercept. Nothing is
tuned for a data set. Data: the sets of `public_suite` but Chem97, whose rows are more than those of
all others, and sixteen more. An hour the first time;
``--split`` in two shells takes half of that.
"""

import logging
import time
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from baselines import BoostingWithOffset, MixedModel, Standardizer, blup, varies_within_groups
from public_suite import NAMES, Ratios, Source, evaluate, evaluate_cached, load, print_table
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_union
from sklearn.preprocessing import SplineTransformer
from stacked import Stacked, calibrated_interval, coverage, kept

from sklearn_maml import MAMLRegressor, PooledPrediction

__all__ = ["show_any_regressor"]

# Beside those of `public_suite`; most of these curve, the last three hardly.
MORE = (
    Source("nlme", "Soybean", "weight", "Plot", ("Time",), ("Variety", "Year"), order="Time"),
    Source("nlme", "Spruce", "logSize", "Tree", ("days",), ("plot",), order="days"),
    Source("datasets", "Loblolly", "height", "Seed", ("age",), order="age"),
    Source("nlme", "Dialyzer", "rate", "Subject", ("pressure",), ("QB",), order="pressure"),
    Source("datasets", "Theoph", "conc", "Subject", ("Time", "Wt"), order="Time"),
    Source("carData", "Blackmore", "exercise", "subject", ("age",), ("group",), order="age"),
    Source("geepack", "dietox", "Weight", "Pig", ("Time", "Start"), ("Evit", "Cu"), order="Time"),
    Source("plm", "Cigar", "sales", "state", ("year", "price", "ndi"), order="year"),
    Source("MASS", "Sitka", "size", "tree", ("Time",), ("treat",), order="Time"),
    Source("nlme", "BodyWeight", "weight", "Rat", ("Time",), ("Diet",), order="Time"),
    Source("datasets", "Orange", "circumference", "Tree", ("age",), order="age"),
    Source("plm", "Grunfeld", "inv", "firm", ("value", "capital"), order="year"),
    Source("plm", "EmplUK", "emp", "firm", ("wage", "capital", "output", "year"), order="year"),
    Source(
        "plm",
        "Gasoline",
        "lgaspcar",
        "country",
        ("lincomep", "lrpmg", "lcarpcap", "year"),
        order="year",
    ),
    Source("plm", "Produc", "gsp", "state", ("pcap", "pc", "emp", "unemp", "year"), order="year"),
    Source("nlme", "MathAchieve", "MathAch", "School", ("SES", "MEANSES"), ("Sex", "Minority")),
)


def splines(X):
    """Splines of the columns with more than four values; the others as they are."""
    curved = np.array([len(np.unique(column)) > 4 for column in X.T])
    bent = SplineTransformer(4, knots="quantile", extrapolation="linear")
    return make_column_transformer(
        (bent, np.flatnonzero(curved)), ("passthrough", np.flatnonzero(~curved))
    )


def featurizer(kind, X):
    """What the learned rule is linear in: "raw", "splines", "prediction" or "both"."""
    if kind == "both":
        return make_union(PooledPrediction(passthrough=False), splines(X))
    return {"raw": None, "splines": splines(X), "prediction": PooledPrediction()}[kind]


@dataclass(frozen=True)
class AnyRegressor:
    """The learned rule on one kind of features, or on the "chosen" one."""

    kind: str
    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        if self.kind == "chosen":
            given = {"pooled": HistGradientBoostingRegressor(random_state=0)}
        else:
            given = {"featurizer": featurizer(self.kind, X)}
        model = MAMLRegressor(**given, split=self.split, random_state=0)
        return Stacked(model.fit(X, y, groups=groups))


@dataclass(frozen=True)
class GPBoost:
    """Boosted trees with Gaussian random effects, fitted together; held-out groups by BLUP.

    Targets are standardised: without that 200 rounds hardly move where they are large, and it is
    40 to 80 times as far off as a mixed model.
    """

    slopes: bool = False
    most_rounds: int = 500

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        import gpboost

        centre, scale = y.mean(), y.std()
        y = (y - centre) / scale
        varying = varies_within_groups(X, groups) & self.slopes
        standardizer = Standardizer.fit(X, groups)

        def design(X):
            return standardizer.design(X)[..., np.concatenate([[True], varying])]

        def effects():
            Z = {"group_rand_coef_data": design(X)[:, 1:]} if varying.any() else {}
            many = {"ind_effect_group_rand_coef": [1] * varying.sum()} if varying.any() else {}
            exact = {"likelihood": "gaussian", "matrix_inversion_method": "cholesky"}
            return gpboost.GPModel(group_data=groups, **exact, **Z, **many)

        options = {"learning_rate": 0.1, "max_depth": 6, "min_data_in_leaf": 20, "verbose": 0}
        options |= {"leaves_newton_update": True, "num_threads": 1, "seed": 0}
        rounds = gpboost.cv(
            options,
            gpboost.Dataset(X.copy(), y),
            gp_model=effects(),
            num_boost_round=self.most_rounds,
            early_stopping_rounds=10,
            folds=list(GroupKFold(min(5, len(np.unique(groups)))).split(X, y, groups)),
            metric="mse",
            use_gp_model_for_validation=False,  # groups that are held out have no effects
            verbose_eval=False,
        )
        n_rounds = len(rounds[next(iter(rounds))])
        mixed = effects()
        trees = gpboost.train(options, gpboost.Dataset(X.copy(), y), n_rounds, gp_model=mixed)
        noise, *variances = np.ravel(mixed.get_cov_pars(format_pandas=False))[: 2 + varying.sum()]

        def fixed(X):
            flat = X.reshape(-1, X.shape[-1])
            return trees.predict(flat, ignore_gp_model=True).reshape(X.shape[:-1])

        def adapt_predict(X_s, y_s, X_q):
            zero = np.zeros(1 + varying.sum())
            residual = (y_s - centre) / scale - fixed(X_s)
            effect = blup(design(X_s), residual, zero, np.diag(variances), noise)
            return centre + scale * (fixed(X_q) + (design(X_q) @ effect[..., None])[..., 0])

        return _Fitted(adapt_predict)


@dataclass(frozen=True)
class Merf:
    """A mixed-effects random forest with a random intercept; held-out groups by BLUP."""

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        import pandas as pd
        from merf import MERF

        logging.getLogger("merf").setLevel(logging.WARNING)  # it tells each iteration
        centre, scale = y.mean(), y.std()
        forest = RandomForestRegressor(100, min_samples_leaf=5, random_state=0)
        mixed = MERF(fixed_effects_model=forest, max_iterations=10)
        mixed.fit(X, np.ones((len(y), 1)), pd.Series(groups), (y - centre) / scale)
        between, noise = mixed.D_hat_history[-1], float(mixed.sigma2_hat_history[-1])

        def fixed(X):
            flat = X.reshape(-1, X.shape[-1])
            return mixed.trained_fe_model.predict(flat).reshape(X.shape[:-1])

        def adapt_predict(X_s, y_s, X_q):
            residual = (y_s - centre) / scale - fixed(X_s)
            ones = np.ones((*X_s.shape[:-1], 1))
            effect = blup(ones, residual, np.zeros(1), between, noise)
            return centre + scale * (fixed(X_q) + effect)

        return _Fitted(adapt_predict)


@dataclass(frozen=True)
class _Fitted:
    adapt_predict: object


LEARNED = ("chosen", "raw", "splines", "prediction", "both")
COVERED = ("chosen", "raw", "prediction")


def methods(split):
    """All methods of one protocol, by name."""
    found = {f"learned, {kind}": AnyRegressor(kind, split) for kind in LEARNED}
    found["boosting, offset"] = BoostingWithOffset()
    if find_spec("gpboost"):
        found |= {"GPBoost": GPBoost(), "GPBoost, slopes": GPBoost(slopes=True)}
    if find_spec("merf"):
        found["MERF"] = Merf()
    return found


def show_any_regressor(split, code):
    """Print ratios to the mixed model, how many cells are worse than it, coverage and seconds.

    Parameters
    ----------
    split : {"random", "first"}
    code : str
        A digest of the package, so that cells of an older version are not reused.
    """
    compared = methods(split)
    covered = {(kind, how): [] for kind in COVERED for how in ("normal", "calibrated")}
    ratios, seconds = {name: Ratios() for name in compared}, {kind: [] for kind in LEARNED}
    code = sha256((code + Path(__file__).read_text()).encode()).hexdigest()
    n_tasks, wanted = {}, (*(name for name in NAMES if name != "Chem97"), *MORE)
    for data in sorted(map(load, wanted), key=lambda data: len(data.y)):
        if split == "first" and not data.ordered:
            continue
        started = time.perf_counter()
        n_tasks[data.name] = len(np.unique(data.groups))
        reference, _ = evaluate_cached(MixedModel(), data, split)
        for name, method in compared.items():
            if isinstance(method, AnyRegressor):
                mse, inside, taken = _judged(method, data, split, code)
                for how, shares in inside.items():
                    covered[method.kind, how] += [(data.name, share) for share in shares]
                seconds[method.kind] += taken
            else:
                mse, _ = evaluate_cached(method, data, split)
            ratios[name].add(data.name, mse, reference)
        took = time.perf_counter() - started
        print(f"{data.name}: {len(data.y)} rows, {split}, {took:.0f} s", flush=True)
    print(f"\nMSE relative to the mixed model, {split} support rows")
    print_table(ratios)
    _print_tails(ratios, n_tasks)
    for (kind, how), found in covered.items():
        shares = [share for _, share in found]
        many = [share for name, share in found if n_tasks[name] >= 20]
        print(
            f"learned, {kind:12s}coverage of {how} 90 % intervals {_mean(shares):.3f}, least "
            f"{min(shares):.3f}; with 20 tasks or more {_mean(many):.3f}, least {min(many):.3f}"
        )
    for kind, values in seconds.items():
        median, most = np.median(values), max(values)
        print(f"learned, {kind:12s}CPU seconds of a fit: median {median:.2f}, most {most:.1f}")


def _print_tails(ratios, n_tasks):
    """How many cells are above 1.05; and of data with 20 tasks or more the mean and the worst."""
    for name, found in ratios.items():
        cells = found.cells.items()
        many = [value for (data, _), value in cells if n_tasks[data] >= 20]
        print(
            f"{name:20s}{len(cells)} cells, above 1.05: {sum(v > 1.05 for _, v in cells)}; with 20 "
            f"tasks or more {len(many)}, geometric mean {np.exp(np.mean(np.log(many))):.3f}, above "
            f"1.10: {sum(v > 1.1 for v in many)}, worst {max(many):.2f}"
        )


def _mean(values):
    """The geometric mean."""
    return np.exp(np.mean(np.log(values)))


@dataclass
class _Remembered:
    """A method that is fitted once to each set of groups, and the CPU seconds that this took."""

    method: AnyRegressor

    def __post_init__(self):
        self.models, self.seconds = {}, []

    def fit(self, X, y, groups):
        """As the method does, or has done."""
        key = groups.tobytes()
        if key not in self.models:
            started = time.process_time()
            self.models[key] = self.method.fit(X, y, groups)
            self.seconds.append(time.process_time() - started)
        return self.models[key]


def _judged(method, data, split, code):
    """Errors by number of shots and draw, shares inside 90 % intervals, and seconds of five fits.

    All of the same five fits.
    """

    def measured():
        once = _Remembered(method)
        mse, _ = evaluate(once, data, split)
        inside = {}
        if method.kind in COVERED:
            normal = coverage(once, data, split)
            calibrated = coverage(once, data, split, interval=calibrated_interval)
            inside = {"normal": list(normal.values()), "calibrated": list(calibrated.values())}
        mse = {k: list(values) for k, values in mse.items()}
        return {"mse": mse, "inside": inside, "seconds": once.seconds}

    found = kept(f"judged-{data.name}-{split}-{method.kind}-{code[:20]}", measured)
    mse = {int(k): np.array(values) for k, values in found["mse"].items()}
    return mse, found["inside"], found["seconds"]
