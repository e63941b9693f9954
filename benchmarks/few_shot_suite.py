"""Few-shot prediction on nine public data sets and on sinusoids: ``adaptation="learned"``, untuned.

    python benchmarks/few_shot_suite.py               # tables, and a picture beside this file
    python benchmarks/few_shot_suite.py --no-splines  # without the curved features
    python benchmarks/few_shot_suite.py --any-regressor  # boosting made few-shot, and nothing else

One fit per data set and fold serves every number of shots, and nothing is tuned by hand: the same
arguments everywhere, but for ``split="first"`` where the first rows are the support. Errors on the
public data are relative to those of a random-slope mixed model by REML (statsmodels; lme4 maximises
the same likelihood). Protocol and data: `public_suite`. Sinusoids: the benchmark of Finn, Abbeel &
Levine, ICML 2017, section 5.1.

Needs the ``test`` extra; about ten minutes the first time, half of it baselines. Finished cells are
kept in ``benchmarks/.cache``: a run that was stopped goes on where it was.
"""

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from any_regressor import show_any_regressor
from baselines import MixedModel, baselines
from public_suite import (
    PROTOCOLS,
    SHOTS,
    Ratios,
    code_digest,
    evaluate_cached,
    load_all,
    print_table,
)
from sklearn.decomposition import PCA
from sklearn.kernel_approximation import RBFSampler
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler
from stacked import Stacked, coverage, kept

import sklearn_maml
from sklearn_maml import MAMLRegressor, NTKFeatures, Proximal
from sklearn_maml.datasets import make_sinusoid_tasks

CURVED = ("gapminder", "Milk", "ChickWeight")
CODE = code_digest(sklearn_maml) + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
CODE = hashlib.sha256(CODE.encode()).hexdigest()


@dataclass(frozen=True)
class Learned:
    """``MAMLRegressor(adaptation="learned")``; with splines of each feature if `n_knots`."""

    split: str = "random"
    n_knots: int = 0

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        splines = SplineTransformer(self.n_knots, knots="quantile", extrapolation="linear")
        model = MAMLRegressor(
            adaptation="learned",
            featurizer=splines if self.n_knots else None,
            split=self.split,
            random_state=0,
        )
        return Stacked(model.fit(X, y, groups=groups))


# --------------------------------------------------------------------------------------------------
# Public data


def tables(split, splines):
    """Ratios to the mixed model of each method, by name, and what methods had to say."""
    methods = {"learned": Learned(split), **baselines(split)}
    if splines:
        methods["learned, splines"] = Learned(split, n_knots=4)
    ratios, notes = {name: Ratios() for name in methods}, []
    for data in load_all():
        if split == "first" and not data.ordered:
            continue
        reference, _ = evaluate_cached(MixedModel(), data, split)
        for name, method in methods.items():
            if name == "learned, splines" and data.name not in CURVED:
                continue
            code = CODE if isinstance(method, Learned) else ""
            mse, said = evaluate_cached(method, data, split, code=code)
            if not all(np.isfinite(values).all() for values in mse.values()):
                raise FloatingPointError(f"{name} is not finite on {data.name}, {split}.")
            ratios[name].add(data.name, mse, reference)
            notes += [f"{name}, {data.name}: {text}" for text in said]
    return ratios, notes


def show(title, ratios, notes):
    """Print the table of one protocol; splines have one of their own."""
    print(f"\n{title}")
    curved = ratios.pop("learned, splines", None)
    print_table(ratios, notes)
    if curved is not None:
        straight = Ratios({cell: ratios["learned"].cells[cell] for cell in curved.cells})
        print("\nwhere curves bend: splines of each feature")
        print_table({"learned": straight, "learned, splines": curved})


# --------------------------------------------------------------------------------------------------
# Coverage of 90 % intervals


def show_coverage(split):
    """Print the coverage on each data set."""
    print(f"\nCoverage of 90 % intervals, {split} support rows")
    print(f"{'data set':14s}" + "".join(f"{'k = ' + str(k):>9s}" for k in SHOTS))
    for data in load_all():
        if split == "random" or data.ordered:
            found = kept(
                f"coverage-{data.name}-{split}-{CODE[:20]}",
                lambda data=data: coverage(Learned(split), data, split),
            )
            cells = (f"{found[str(k)]:9.3f}" if str(k) in found else " " * 9 for k in SHOTS)
            print(f"{data.name:14s}" + "".join(cells))


# --------------------------------------------------------------------------------------------------
# Sinusoids


def lines(n_tasks, n_samples, noise, seed):
    """Lines ``y = a x + b`` with a and b uniform on (-3, 3), x on (-5, 5)."""
    rng = np.random.default_rng(seed)
    tasks = []
    for a, b in rng.uniform(-3, 3, size=(n_tasks, 2)):
        X = rng.uniform(-5, 5, size=(n_samples, 1))
        tasks.append((X, a * X[:, 0] + b + noise * rng.normal(size=n_samples)))
    return tasks


def family(name, n_tasks, n_samples, noise, seed):
    """Tasks of one family: "sinusoids", or "mixed" with as many lines."""
    if name == "sinusoids":
        return make_sinusoid_tasks(n_tasks, n_samples, noise=noise, random_state=seed)
    half = n_tasks // 2
    waves = make_sinusoid_tasks(half, n_samples, noise=noise, random_state=seed)
    return waves + lines(n_tasks - half, n_samples, noise, seed)


def family_basis(name, X):
    """Functions that span a family, at X (m, 1): shape (m, 2) or (m, 4)."""
    waves = np.column_stack([np.sin(X), np.cos(X)])
    return waves if name == "sinusoids" else np.column_stack([waves, X, np.ones(len(X))])


def oracle(name, noise):
    """The best linear prediction by one who knows the family, its mean and its covariance."""
    many = make_sinusoid_tasks(100_000, 1, return_parameters=True, random_state=7)[1]
    amplitude, phase = many.T
    coefs = np.column_stack([amplitude * np.cos(phase), -amplitude * np.sin(phase)])
    if name == "mixed":
        rng = np.random.default_rng(7)
        both = np.zeros((2 * len(coefs), 4))
        both[: len(coefs), :2] = coefs
        both[len(coefs) :, 2:] = rng.uniform(-3, 3, size=coefs.shape)
        coefs = both
    mean, cov = coefs.mean(axis=0), np.cov(coefs.T)

    def predict(X_s, y_s, X_q):
        F, G = family_basis(name, X_s), family_basis(name, X_q)
        inner = F @ cov @ F.T + max(noise**2, 1e-9) * np.eye(len(F))
        return G @ (mean + cov @ F.T @ np.linalg.solve(inner, y_s - F @ mean))

    return predict


def tangent(activation):
    """The tangent features of 500 hidden units, or rather their first 15 principal components.

    A full covariance of all 1,500 is out of reach, and a task of 20 rows tells of fewer than 20.
    """
    network = NTKFeatures(500, activation=activation, random_state=0)
    return make_pipeline(StandardScaler(), network, PCA(15, random_state=0))


FEATURIZERS = {
    "splines": SplineTransformer(12),
    "RBFSampler": RBFSampler(gamma=0.3, n_components=40, random_state=0),
    "NTK, relu": tangent("relu"),
    "NTK, erf": tangent("erf"),
}


def sinusoids(name, noise):
    """Mean query error on 600 new tasks, noise-free query targets, by method and shots."""
    train, test = family(name, 1000, 20, noise, 0), family(name, 600, 110, 0.0, 1)
    predictors, seconds = {"oracle": _each(oracle(name, noise))}, {}
    for kind, featurizer in FEATURIZERS.items():
        start = time.perf_counter()
        rule = Proximal(metric="full")
        model = MAMLRegressor(featurizer=featurizer, adaptation=rule, random_state=0).fit(train)
        seconds[kind] = time.perf_counter() - start
        predictors[kind] = Stacked(model).adapt_predict
    found = {kind: {} for kind in predictors}
    X, y = (np.stack(part) for part in zip(*test, strict=True))
    for k in (5, 10):
        y_s = y[:, :k] + noise * np.random.default_rng(k).normal(size=(len(y), k))
        for kind, predict in predictors.items():
            found[kind][k] = float(np.mean((predict(X[:, :k], y_s, X[:, k:]) - y[:, k:]) ** 2))
    return {"mse": found, "seconds": seconds}


def _each(predict):
    """A function of a stack of tasks from one of a single task."""
    return lambda *tasks: np.stack([predict(*task) for task in zip(*tasks, strict=True)])


def show_sinusoids():
    """Print the error of each method on each family."""
    print(
        "\nSinusoids: query MSE from 1,000 training tasks of 20 rows (a MAML network in Finn et al."
    )
    print("2017 reads 0.6 and 0.33 after 1 and 10 steps with 5 shots, 0.34 and 0.11 with 10)")
    for name in ("sinusoids", "mixed"):
        for noise in (0.0, 0.3):
            found = kept(f"{name}-{noise}-{CODE[:20]}", lambda n=name, s=noise: sinusoids(n, s))
            for kind, mse in found["mse"].items():
                took = found["seconds"].get(kind)
                print(
                    f"{name:10s} noise {noise:3.1f}  {kind:12s} 5 shots {mse['5']:.3g}, "
                    f"10 shots {mse['10']:.3g}" + (f"   ({took:.0f} s)" if took else "")
                )


# --------------------------------------------------------------------------------------------------
# The picture


def draw(found, path):
    """Ratios of all cells, one column of points a method, one panel a protocol."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(11, 4), sharey=True, layout="constrained")
    for axis, (split, ratios) in zip(np.atleast_1d(axes), found.items(), strict=True):
        names = [name for name in ratios if name not in ("mixed model", "learned, splines")]
        for i, name in enumerate(names):
            values = np.array(list(ratios[name].cells.values()))
            spread = np.linspace(-0.25, 0.25, len(values))
            axis.scatter(i + spread, values, s=14, color="C0" if name == "learned" else "0.6")
            axis.hlines(ratios[name].geometric_mean, i - 0.35, i + 0.35, color="black", lw=2)
        axis.axhline(1.0, color="C3", lw=1, zorder=0)
        axis.set(yscale="log", title=f"{split} support rows")
        axis.set_xticks(range(len(names)), names, rotation=20)
    np.atleast_1d(axes)[0].set_ylabel("MSE relative to a mixed model")
    figure.savefig(path, dpi=120)
    print(f"\npicture: {path.name}")


def main():
    """Run all parts, one after the other."""
    parser = argparse.ArgumentParser(description="Few-shot suite of sklearn_maml.")
    parser.add_argument("--split", choices=PROTOCOLS, nargs="*", default=PROTOCOLS)
    parser.add_argument("--no-splines", action="store_true")
    parser.add_argument("--any-regressor", action="store_true")
    arguments = parser.parse_args()
    if arguments.any_regressor:
        for split in arguments.split:
            show_any_regressor(split, CODE)
        return
    found = {}
    for split in arguments.split:
        ratios, notes = tables(split, not arguments.no_splines)
        found[split] = dict(ratios)
        show(f"MSE relative to the mixed model, {split} support rows", ratios, notes)
        show_coverage(split)
    show_sinusoids()
    import matplotlib

    matplotlib.use("Agg")
    draw(found, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
