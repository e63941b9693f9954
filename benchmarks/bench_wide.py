"""Wide features in place of trees: splines, random Fourier, Nystroem and tangent features.

    python benchmarks/bench_wide.py                  # both protocols
    python benchmarks/bench_wide.py --split first --picture cells.svg

What ``docs/wide_features.md`` shows. The default rule on the raw columns; on splines of the
continuous ones; on the raw columns beside 20 random features of the standardised ones, or beside
the principal components of 50; on what held-out tasks choose of raw, splines and a cross-fitted
prediction of boosting (``pooled=``). Above 15 random effects the default chooses between two
structures of Sigma; "low rank" is ``Proximal(metric="low_rank")``. Errors are relative to those of
a mixed model with random slopes. Nothing is tuned for a data set.

Data: the sets of `public_suite` and `any_regressor` with 80 to 600 rows; beyond, a fit with 50
features as they are takes up to 20 s. Random support rows are drawn twice. A quarter of an hour the
first time on a core that is free, and a second when all cells are kept.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from any_regressor import MORE, splines
from baselines import MixedModel
from public_suite import NAMES, PROTOCOLS, Ratios, code_digest, evaluate_cached, load
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from stacked import Stacked

import sklearn_maml
from sklearn_maml import MAMLRegressor, NTKFeatures, Proximal

MOST_ROWS = 600
MANY_GROUPS = 20
TOO_MUCH = 1.05
N_DRAWS = 2
KEEP = 0.99  # of the variance of the random features, by their principal components
LEFT_OUT = ("Chem97", "NOxEmissions", "Exam", "MathAchieve", "Orange")


def sampler(kind, n_features, X):
    """So many random features of standardised columns; of tangent features as many as fit."""
    if kind == "tangent":
        n_hidden = max(1, round(n_features / (X.shape[1] + 2)))
        return NTKFeatures(n_hidden, activation="erf", random_state=0)
    if kind == "Fourier":
        return RBFSampler(gamma="scale", n_components=n_features, random_state=0)
    return Nystroem(n_components=min(n_features, len(X)), random_state=0)


@dataclass(frozen=True)
class Wide:
    """The learned rule on one kind of features.

    ``kind`` is "raw", "splines", "pooled", "Fourier", "Nystroem" or "tangent"; of the last three
    there are ``n_features`` beside the raw columns, or their principal components with a share
    ``keep`` of the variance.
    """

    kind: str
    n_features: int = 0
    metric: str = "auto"
    keep: float | None = None
    split: str = "random"

    def model(self, X):
        """The estimator for these rows."""
        given = {"adaptation": Proximal(metric=self.metric)}
        if self.kind == "pooled":
            given |= {"pooled": HistGradientBoostingRegressor(random_state=0)}
        elif self.kind == "splines":
            given |= {"featurizer": splines(X)}
        elif self.kind != "raw":
            steps = [StandardScaler(), sampler(self.kind, self.n_features, X)]
            steps += [PCA(self.keep)] if self.keep else []
            given |= {"featurizer": make_union("passthrough", make_pipeline(*steps))}
        return MAMLRegressor(**given, split=self.split, random_state=0)

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        started = time.process_time()
        fitted = self.model(X).fit(X, y, groups=groups)
        seconds = time.process_time() - started
        return Noted(fitted, f"{fitted.learned_.metric} {seconds:.3f}")


@dataclass(frozen=True)
class Noted(Stacked):
    """With the structure of Sigma that was learned, and the CPU seconds of the fit."""

    note: str


def methods(split):
    """The methods that are compared, by name."""
    found = {
        "raw columns": Wide("raw"),
        "splines": Wide("splines"),
        "splines, low rank": Wide("splines", metric="low_rank"),
        "pooled= (boosting)": Wide("pooled"),
    }
    kinds = ("Fourier", "Nystroem", "tangent")
    found |= {f"20 {kind}": Wide(kind, 20) for kind in kinds}
    found |= {f"50 {kind}, PCA": Wide(kind, 50, keep=KEEP) for kind in ("Fourier", "tangent")}
    return {name: Wide(**(vars(method) | {"split": split})) for name, method in found.items()}


def show(split, code):
    """Print the table of one protocol.

    Returns
    -------
    cells : dict of str to list of float
        Ratios of each method on the sets with `MANY_GROUPS` groups or more.
    """
    sources = [name for name in NAMES if name not in LEFT_OUT]
    sources += [source for source in MORE if source.item not in LEFT_OUT]
    wanted = [data for data in map(load, sources) if len(data.y) <= MOST_ROWS]
    wanted = [data for data in wanted if split == "random" or data.ordered]
    n_groups = {data.name: len(np.unique(data.groups)) for data in wanted}
    compared = methods(split)
    ratios, notes = {name: Ratios() for name in compared}, {name: [] for name in compared}
    for data in sorted(wanted, key=lambda data: (n_groups[data.name] < MANY_GROUPS, len(data.y))):
        reference, _ = evaluate_cached(MixedModel(), data, split, n_draws=N_DRAWS)
        for name, method in compared.items():
            mse, said = evaluate_cached(method, data, split, code=code, n_draws=N_DRAWS)
            ratios[name].add(data.name, mse, reference)
            notes[name] += [note.split()[2:] for note in said]
    print(f"\n{split} rows as support, {len(wanted)} sets with at most {MOST_ROWS} rows")
    print(f"{'':24s}{'20 groups or more':>24s}{'all':>24s}{'s of a fit':>16s}  structures")
    for name, found in ratios.items():
        many = [v for (data, _), v in found.cells.items() if n_groups[data] >= MANY_GROUPS]
        seconds = np.array([float(said[-1]) for said in notes[name]])
        structures = [said[0] for said in notes[name]]
        counts = [f"{s} {structures.count(s)}" for s in sorted(set(structures))]
        print(
            f"{name:24s}{tail(many):>24s}{tail(list(found.cells.values())):>24s}"
            f"{np.median(seconds):8.2f}{seconds.max():8.1f}  {', '.join(counts)}"
        )
    worst = {name: found.worst for name, found in ratios.items()}
    print("worst cells: " + "; ".join(f"{name}: {c[0]} k={c[1]}" for name, (_, c) in worst.items()))
    return {
        name: [v for (data, _), v in found.cells.items() if n_groups[data] >= MANY_GROUPS]
        for name, found in ratios.items()
    }


def tail(cells):
    """Geometric mean, worst, and how many of the cells are above 1.05."""
    mean = np.exp(np.mean(np.log(cells)))
    above = sum(value > TOO_MUCH for value in cells)
    return f"{mean:.3f} {max(cells):.2f} {above}/{len(cells)}"


def draw(tables, path):
    """A picture of the tables: all cells of each method, and their geometric means."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "wide", "svg.fonttype": "none"}  # the same file each time
    figure, axes = plt.subplots(1, len(tables), figsize=(9, 4), sharey=True, layout="constrained")
    for ax, (split, cells) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        for at, values in enumerate(cells.values()):
            ax.plot(values, np.full(len(values), at), "o", color="C0", alpha=0.35, ms=4)
            ax.plot(np.exp(np.mean(np.log(values))), at, "|", color="C3", ms=16, mew=2.5)
        ax.axvline(1.0, color="0.5", lw=1)
        ax.set(xscale="log", xlabel="error / mixed model's", title=f"{split} rows as support")
        ax.set_yticks(range(len(cells)), list(cells))
    ax.invert_yaxis()
    figure.savefig(path, metadata={"Date": None})


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=PROTOCOLS, action="append")
    parser.add_argument("--picture", help="a file to draw the cells into")
    options = parser.parse_args()
    code, tables = code_digest(sklearn_maml), {}
    for split in options.split or PROTOCOLS:
        tables[split] = show(split, code)
    if options.picture:
        draw(tables, options.picture)


if __name__ == "__main__":
    main()
