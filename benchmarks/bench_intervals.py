"""Intervals for new groups on 21 public data sets: how often they hold, and how wide they are.

    python benchmarks/bench_intervals.py            # both protocols, about eight minutes
    python benchmarks/bench_intervals.py --quick    # four small data sets

Protocol: that of `public_suite`, five draws of random rows, and the first rows of series.
A cell is a data set and a number of support rows. Rows inside are counted over all rows of held-out
groups; widths are geometric means over cells relative to the normal interval of a model that takes
its meta-parameters and covariances for known. Methods:

- calibrated: `predict_interval`, conformal over tasks
- signed: the same with ``signed=True``
- normal: of ``predict(return_std=True)``
- task noise: `predict_interval` with ``Proximal(task_noise="auto")``
- Student's t: that model's own interval, by `return_std` and the quantiles of its rule
- plug-in: normal with ``Proximal(doubt=None)``, the width that others are relative to
- REML plug-in: a mixed model as lme4 has it, normal with its residual variance and condVar
- MixedLM: the same by statsmodels, where that is installed: random intercepts and slopes of all
  features that vary within groups, which are standardised first; not of Chem97, whose 2,410 groups
  take it many minutes
- pooled split: gradient boosting on half of the groups, absolute residuals of the others' rows, as
  crepes does (those of ``crepes.WrapRegressor`` differ by one order statistic at most)
- MAPIE: the same by ``mapie.regression.SplitConformalRegressor``, where that is installed
- group alone: the k rows of the group, Student's t about their mean; for k above 1

Needs the ``test`` extra.
"""

import argparse
import warnings
from collections import defaultdict
from importlib.util import find_spec

import numpy as np
from public_suite import (
    NAMES,
    PROTOCOLS,
    SHOTS,
    Source,
    fold_of_groups,
    load,
    pad,
    row_orders,
    split_rows,
)
from scipy.stats import t
from sklearn.ensemble import HistGradientBoostingRegressor

from sklearn_maml import MAMLRegressor, Proximal

COVERAGES = (0.5, 0.9, 0.95)
N_DRAWS = 5
QUICK = ("Milk", "Oxboys", "Orthodont", "sleepstudy")
ENOUGH = 20  # groups, for the worst cell
FIFTY = 50  # groups, for the last column of widths
MANY = 1000  # groups, for MixedLM
SHOWN = ("calibrated", "task noise", "normal", "plug-in")  # of each data set
# Conformal intervals: their name, that of the model, and whether they are signed.
CALIBRATED = (
    ("calibrated", "normal", False),
    ("signed", "normal", True),
    ("task noise", "Student's t", False),
)
MORE = (
    Source("nlme", "BodyWeight", "weight", "Rat", ("Time",), ("Diet",), order="Time"),
    Source("nlme", "RatPupWeight", "weight", "Litter", ("Lsize",), ("sex", "Treatment")),
    Source("nlme", "Soybean", "weight", "Plot", ("Time",), ("Variety", "Year"), order="Time"),
    Source("nlme", "Spruce", "logSize", "Tree", ("days",), order="days"),
    Source("nlme", "Dialyzer", "rate", "Subject", ("pressure", "QB"), order="index"),
    Source("nlme", "Glucose2", "glucose", "Subject", ("Time",)),
    Source("datasets", "Loblolly", "height", "Seed", ("age",), order="age"),
    Source("mlmRev", "Hsb82", "mAch", "school", ("cses", "meanses"), ("sector", "minrty")),
    Source("mlmRev", "Early", "cog", "id", ("age",), ("trt",), order="age"),
    Source("geepack", "dietox", "Weight", "Pig", ("Time",), ("Cu",), order="Time"),
    Source("MASS", "Sitka", "size", "tree", ("Time",), ("treat",), order="Time"),
    Source("plm", "Cigar", "sales", "state", ("price", "cpi", "ndi"), order="year"),
)


def fits(data, train, split):
    """The models of one fold."""
    rows = data.X[train], data.y[train]
    given = {"split": split, "random_state": 0, "certificate": None}
    groups = data.groups[train]
    model = MAMLRegressor(**given).fit(*rows, groups=groups)
    own = MAMLRegressor(adaptation=Proximal(task_noise="auto"), **given).fit(*rows, groups=groups)
    plain = MAMLRegressor(adaptation=Proximal(doubt=None), **given).fit(*rows, groups=groups)
    mixed = Proximal(1.0, "full", starts=None)
    found = MAMLRegressor(adaptation=mixed, **given).fit(*rows, groups=groups).learned_
    noise = float(np.ravel(found.residual_variance)[0])
    mixed.set_params(noise=noise, doubt=None)
    reml = MAMLRegressor(adaptation=mixed, **given).fit(*rows, groups=groups)
    few = len(np.unique(groups)) <= MANY and find_spec("statsmodels")
    peer = mixed_lm(*rows, groups) if few else None
    return model, own, plain, reml, pooled_split(*rows, groups), peer


def mixed_lm(X, y, groups):
    """A function from stacks of support and query rows to mean and deviation, (n, q).

    What MixedLM has estimated is taken for known: the mean of the normal distribution of a group's
    effects given its rows, and their variance and the residual's. None where it does not end.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    centre, scale = X.mean(axis=0), X.std(axis=0)
    scale[scale == 0] = 1.0

    def design(X):
        return np.concatenate([np.ones((*X.shape[:-1], 1)), (X - centre) / scale], axis=-1)

    F = design(X)
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    varies = (F[first][number] != F).any(axis=0)
    varies[0] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged is told below
        try:
            found = MixedLM(y, F, groups, F[:, varies]).fit(reml=True)
        except np.linalg.LinAlgError as error:
            print(f"MixedLM: {error}")
            return None
    if not found.converged:
        print("MixedLM: a fit has not converged")
    theta, noise = found.fe_params, found.scale
    covariance = np.zeros((F.shape[1],) * 2)
    covariance[np.ix_(varies, varies)] = found.cov_re

    def predict(X_s, y_s, X_q):
        F, phi = design(X_s), design(X_q)
        beside = F @ covariance
        among = beside @ np.swapaxes(F, 1, 2) + noise * np.eye(F.shape[1])
        gain = np.swapaxes(np.linalg.solve(among, beside @ np.swapaxes(phi, 1, 2)), 1, 2)
        mean = phi @ theta + (gain @ (y_s - F @ theta)[..., None])[..., 0]
        known = (gain * (phi @ np.swapaxes(beside, 1, 2))).sum(axis=-1)
        return mean, np.sqrt(noise + np.maximum((phi @ covariance * phi).sum(-1) - known, 0.0))

    return predict


def pooled_split(X, y, groups):
    """One boosted model for all, the quantiles of its errors on other groups' rows, and MAPIE's."""
    fold = fold_of_groups(groups, n_folds=2)
    model = HistGradientBoostingRegressor(random_state=0).fit(X[fold == 0], y[fold == 0])
    errors = np.sort(np.abs(y[fold == 1] - model.predict(X[fold == 1])))
    n = len(errors)
    half = [errors[min(n, int(np.ceil(c * (n + 1)))) - 1] for c in COVERAGES]
    if not find_spec("mapie"):
        return model, np.array(half), None
    from mapie.regression import SplitConformalRegressor

    peer = SplitConformalRegressor(model, confidence_level=COVERAGES, prefit=True)
    return model, np.array(half), peer.conformalize(X[fold == 1], y[fold == 1])


def intervals(models, X_s, y_s, X_q):
    """(low, high) of each method, (n, q, n_coverages), and the densities of those that have one."""
    model, noisy, plain, reml, (boosted, half, mapie), peer = models
    n, q, d = X_q.shape
    support, query = X_s.reshape(-1, d), X_q.reshape(-1, d)
    own, other = np.repeat(np.arange(n), X_s.shape[1]), np.repeat(np.arange(n), q)
    k, found, density = X_s.shape[1], {}, {}

    def keep(name, mean, std, freedom=np.inf):
        """Intervals and density of Student's t of a standard deviation; by default the normal."""
        shrunk = 1.0 if np.isinf(freedom) else np.sqrt(1.0 - 2.0 / freedom)
        reach = std[:, None] * shrunk * t.ppf(0.5 + 0.5 * np.array(COVERAGES), freedom)
        found[name] = mean[:, None] - reach, mean[:, None] + reach
        density[name] = t(freedom, mean.reshape(n, q), shrunk * std.reshape(n, q))

    named = ("normal", model), ("Student's t", noisy), ("plug-in", plain), ("REML plug-in", reml)
    for name, fitted in named:
        adapted = fitted.adapt_tasks(support, y_s.ravel(), groups=own)
        mean, std = adapted.predict(query, groups=other, return_std=True)
        learned = fitted.adaptation_.task_noise
        keep(name, mean, std, np.inf if learned is None else learned.freedom + k)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*too few for a coverage")
            for kind, of, signed in CALIBRATED:
                if of == name:
                    found[kind] = adapted.predict_interval(
                        query, COVERAGES, groups=other, signed=signed
                    )
    if peer is not None:
        keep("MixedLM", *(part.reshape(-1) for part in peer(X_s, y_s, X_q)))
    mean = boosted.predict(query)[:, None]
    found["pooled split"] = mean - half, mean + half
    if mapie is not None:
        found["MAPIE"] = tuple(np.moveaxis(mapie.predict_interval(query)[1], 1, 0))
    if k > 1:
        reach = t.ppf(0.5 + 0.5 * np.array(COVERAGES), k - 1) * np.sqrt(1.0 + 1.0 / k)
        mean, spread = y_s.mean(axis=1), y_s.std(axis=1, ddof=1)
        sides = [(mean[:, None] + sign * spread[:, None] * reach)[other] for sign in (-1, 1)]
        found["group alone"] = tuple(sides)
    return {
        name: [side.reshape(n, q, -1) for side in sides] for name, sides in found.items()
    }, density


def cells(data, split):
    """Of each k and method: the share inside (n_coverages), and the log of the mean width."""
    fold, sums = fold_of_groups(data.groups), defaultdict(lambda: np.zeros((2, len(COVERAGES))))
    whole = True
    rows, scores = defaultdict(int), defaultdict(float)
    for held in range(5):
        train = fold != held
        models = fits(data, train, split)
        whole &= models[-1] is not None
        padded = pad(data.X[~train], data.y[~train], data.groups[~train])
        for order in row_orders(padded, split, N_DRAWS, [0, held]):
            for k in SHOTS:
                X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
                if not len(X_s):
                    continue
                found, densities = intervals(models, X_s, y_s, X_q)
                rows[k] += valid.sum()
                for name, (low, high) in found.items():
                    inside = (low <= y_q[..., None]) & (y_q[..., None] <= high)
                    sums[k, name] += [inside[valid].sum(axis=0), (high - low)[valid].sum(axis=0)]
                for name, density in densities.items():
                    scores[k, name] += density.logpdf(y_q)[valid].sum()
    if not whole:  # MixedLM is left out of data sets that it could not fit
        sums = {key: found for key, found in sums.items() if key[1] != "MixedLM"}
    inside = {key: (hits / rows[key[0]], np.log(width)) for key, (hits, width) in sums.items()}
    return inside, {key: total / rows[key[0]] for key, total in scores.items()}


def show(split, names, every):
    """Print the table of one protocol."""
    table, likelihood = defaultdict(list), defaultdict(list)
    print(f"\n{split} rows; 90 % intervals, k = 1, 3, 5, 10: {' | '.join(SHOWN)}")
    for source in names:
        data = load(source)
        if split == "first" and not data.ordered:
            continue
        found, scores = cells(data, split)
        n_groups = len(np.unique(data.groups))
        line = ""
        for name in SHOWN:
            line += " ".join(f"{found[k, name][0][1]:.2f}" for k in SHOTS if (k, name) in found)
            line += " | "
        print(f"{data.name:14s}{n_groups:5d} groups  {line}", flush=True)
        for (k, name), (inside, width) in found.items():
            table[name].append((n_groups, inside, width - found[k, "plug-in"][1]))
        for (k, name), score in scores.items():
            likelihood[name].append(score - scores[k, "plug-in"])
    print(f"\n{'':14s}{'inside, mean over cells':>26s}{'worst cell':>22s}{'width':>24s}")
    head = "".join(f"{100 * c:8.0f}" for c in COVERAGES)
    print(f"{'':14s}{head}{head}{head}  90, {FIFTY} groups  log likelihood")
    for name in (name for name in every if name in table):
        n_groups, inside, width = (np.array(part) for part in zip(*table[name], strict=True))
        worst = inside[n_groups >= ENOUGH].min(axis=0)
        parts = (inside.mean(axis=0), worst, np.exp(width.mean(axis=0)))
        line = "".join(f"{value:8.3f}" for part in parts for value in part)
        many = np.exp(width[n_groups >= FIFTY, COVERAGES.index(0.9)].mean())
        told = f"{np.mean(likelihood[name]):+16.3f}" if name in likelihood else ""
        print(f"{name:14s}{line}{many:15.3f}{told}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    names = QUICK if parser.parse_args().quick else (*NAMES, *MORE)
    methods = ["calibrated", "signed", "task noise", "normal", "Student's t", "plug-in"]
    methods += ["REML plug-in", "MixedLM", "pooled split", "MAPIE", "group alone"]
    if not find_spec("mapie"):
        print("MAPIE is left out: it is not installed (pip install mapie)")
    for protocol in PROTOCOLS:
        show(protocol, names, methods)
