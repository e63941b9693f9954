"""Choose the inner loop behind ``MAMLRegressor(inner_lr="auto")``: step, steps, intercept.

Every candidate is one untuned setting for all data sets of `public_suite`, in both protocols
(support rows at random, and the first rows where rows have an order), k = 1, 3, 5 and 10. The score
is the geometric mean, over all cells (data set, protocol, k), of the mean squared error relative to
a random-slope mixed model; beside it stands the worst cell. Two kinds of step, in coordinates in
which features are centred and of unit size and the intercept is stepped ``intercept_step`` times as
far:

- fixed: the same length eta for every task, capped at 1 / lambda, with lambda just above the
  largest eigenvalue of that support set's Hessian;
- relative: c / lambda, task by task, with c such that all steps together leave a share
  ``remainder`` of theta in the steepest direction: (1 - c)^n_steps = remainder.

Two kinds of training: ``support="all"`` (each task is its own support and query), and episodes with
1, 3, 5 and 10 support rows, drawn as the protocol draws them.

    python benchmarks/bench_defaults.py               # the tables; goes on where it stopped
    python benchmarks/bench_defaults.py --n-draws 20  # as many draws as the suite; slower

Needs the ``test`` extra, and eight minutes the first time; a change of the package's code makes all
cells stale.
"""

import argparse
import itertools
from dataclasses import dataclass, replace

import numpy as np
import public_suite as suite
from baselines import MixedModel, Standardizer

import sklearn_maml
from sklearn_maml import GradientSteps, MAMLRegressor, SquaredError
from sklearn_maml._objective.risk import Risk
from sklearn_maml.adaptation import Standardization

N_STEPS = (1, 2, 5, 10)
INTERCEPT_STEPS = (1, 4, 8, 16, 32)
ETAS = (0.02, 0.05, 0.1, 0.5)
REMAINDERS = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Candidate:
    """One setting of the inner loop, and the method that the suite evaluates.

    Attributes
    ----------
    kind : {"fixed", "relative"}
    step : float
        eta, or the remainder.
    n_steps : int
    intercept_step : float
    support : {"all", "mixed"}
    split : {"random", "first"}
        How episodes are drawn; of no account with support="all".
    standardize : bool
        False steps on the raw features.
    """

    kind: str
    step: float
    n_steps: int
    intercept_step: float
    support: str = "all"
    split: str = "random"
    standardize: bool = True

    def __str__(self):
        name = {"fixed": "eta", "relative": "remainder"}[self.kind]
        return (
            f"{name}={self.step:<5g} K={self.n_steps:<3d} intercept_step={self.intercept_step:<3g}"
        )

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        rule = self._rule(X, groups)
        episodes = {}
        if self.support == "mixed":
            episodes = {"support": list(suite.SHOTS), "split": self.split, "random_state": 0}
            _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
            kept = sizes[rows] > 1  # one row cannot be split
            X, y, groups = X[kept], y[kept], groups[kept]
        model = MAMLRegressor(adaptation=rule, **episodes).fit(X, y, groups=groups)
        return _Adapter(model.adaptation_, np.append(model.coef_, model.intercept_))

    def _rule(self, X, groups):
        scaler = Standardizer.fit(X, groups)
        mean, scale = np.append(scaler.mean, 1.0), np.append(scaler.scale, 0.0)
        scale[np.isinf(scale)] = 0.0
        if not self.standardize:
            mean, scale = np.zeros_like(mean), np.ones_like(scale)
        coordinates = Standardization.from_moments(mean, scale, True, self.intercept_step)
        relative = self.kind == "relative"
        step = 1 - self.step ** (1 / self.n_steps) if relative else self.step
        return GradientSteps(step, self.n_steps, relative=relative, coordinates=coordinates)


@dataclass(frozen=True, eq=False)
class _Adapter:
    """The fitted rule, applied to a stack of tasks in one call."""

    rule: GradientSteps
    theta: np.ndarray

    def adapt_predict(self, X_s, y_s, X_q):
        """Shapes (n, k, d), (n, k), (n, q, d); see `public_suite`."""
        weights = np.full(y_s.shape, 1 / y_s.shape[1])
        theta, _ = self.rule.adapt(self.theta, Risk(SquaredError(), _with_ones(X_s), y_s, weights))
        return (_with_ones(X_q) @ theta[..., None])[..., 0]


def _with_ones(X):
    return np.concatenate([X, np.ones((*X.shape[:-1], 1))], axis=-1)


def candidates():
    """All settings that are compared, support and split apart."""
    grids = {"relative": REMAINDERS, "fixed": ETAS}
    for kind, steps in grids.items():
        for intercept_step, n_steps, step in itertools.product(INTERCEPT_STEPS, N_STEPS, steps):
            yield Candidate(kind, step, n_steps, intercept_step)
    for intercept_step, step in itertools.product(INTERCEPT_STEPS, ETAS):
        yield Candidate("fixed", step, 5, intercept_step, standardize=False)


def score(candidate, data, **options):
    """`suite.Ratios` of a candidate over both protocols, keys (data set, protocol, k)."""
    ratios = suite.Ratios()
    for split in suite.PROTOCOLS:
        for one in data:
            if split == "first" and not one.ordered:
                continue
            reference, _ = suite.evaluate_cached(MixedModel(), one, split)
            # with support="all" the episodes' split is of no account: one cached fit for both
            episodes = split if candidate.support == "mixed" else "random"
            method = replace(candidate, split=episodes)
            mse, _ = suite.evaluate_cached(method, one, split, **options)
            first = {k: reference[k][: len(values)] for k, values in mse.items()}
            ratios.add((one.name, split), mse, first)
    return ratios


def table(title, results, n_rows=5):
    """Print the best of one family by geometric mean, for each n_steps too, and by worst cell."""
    print(f"\n{title}\n{'':44s}{'geometric mean':>15s}{'worst':>10s}  worst cell")
    ranked = sorted(results, key=lambda c: results[c].geometric_mean)
    chosen = [(c, "") for c in ranked[:n_rows]]
    for n_steps in sorted({c.n_steps for c in ranked}):
        chosen += [(next(c for c in ranked if c.n_steps == n_steps), f"best of K={n_steps}")]
    chosen += [(min(results, key=lambda c: results[c].worst[0]), "smallest worst cell")]
    for candidate, note in chosen:
        worst, ((name, split), k) = results[candidate].worst
        cell = f"{name}, {split} rows, k={k}"
        mean = results[candidate].geometric_mean
        print(f"{candidate!s:44s}{mean:15.3f}{worst:10.2f}  {cell:36s}{note}")


def leave_one_data_set_out(results):
    """Geometric mean when each data set gets the setting that is best on the others."""
    keys = list(next(iter(results.values())).cells)
    logs = np.log([[ratios.cells[key] for key in keys] for ratios in results.values()])
    names = np.array([name for (name, _), _ in keys])
    held = [
        logs[logs[:, names != name].mean(axis=1).argmin(), names == name]
        for name in np.unique(names)
    ]
    return float(np.exp(np.concatenate(held).mean()))


def main():
    """Evaluate all candidates and print one table for each kind of training and step."""
    parser = argparse.ArgumentParser(description="Defaults of the inner loop of MAMLRegressor.")
    parser.add_argument("--n-draws", type=int, default=5)
    options = {"n_draws": parser.parse_args().n_draws, "code": suite.code_digest(sklearn_maml)}
    data = suite.load_all()
    for support in ("all", "mixed"):
        results = {}
        for candidate in candidates():
            candidate = replace(candidate, support=support)
            results[candidate] = score(candidate, data, **options)
        for kind, standardize in (("relative", True), ("fixed", True), ("fixed", False)):
            family = {
                c: r for c, r in results.items() if c.kind == kind and c.standardize == standardize
            }
            coordinates = "standardised" if standardize else "raw"
            table(f"support={support!r}, {kind} steps, {coordinates} features", family)
            out = leave_one_data_set_out(family)
            print(f"{'chosen on the other data sets':44s}{out:15.3f}")


if __name__ == "__main__":
    main()
