"""Time and memory of fit + certificate against ridge regression on the same pooled rows.

Prints medians of paired runs in one process, then the peak memory of each in a process of its own,
then what adapting and a cross-validated search cost. Run ``python benchmarks/bench_fit.py`` on an
idle machine.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge

from sklearn_maml import MAMLRegressor, MAMLRegressorCV
from sklearn_maml._estimators.prediction import theta_of
from sklearn_maml._objective.risk import Risk
from sklearn_maml._tasks.stacks import BLOCK_ELEMENTS
from sklearn_maml._tasks.tables import read_one_task, read_rows

SHAPES = ((100, 20, 20), (1_000, 20, 64), (10_000, 40, 128), (500, 10, 1_000))
SEARCHES = (((1_000, 20, 64), 5), ((300, 10, 1_000), 5), ((1_000, 20, 64), "leave-one-task-out"))
WANTED_TIME, WANTED_MEMORY = 3.0, 300.0


def make(n_tasks, n_rows, n_features):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tasks * n_rows, n_features))
    y = X @ rng.normal(size=n_features) + rng.normal(size=len(X))
    return X, y, np.repeat(np.arange(n_tasks), n_rows)


def fit_ridge(X, y, groups):
    return Ridge(solver="cholesky").fit(X, y)


def fit_maml(X, y, groups, n_jobs=None):
    return MAMLRegressor(n_jobs=n_jobs).fit(X, y, groups=groups)


def fit_maml_two_jobs(X, y, groups):
    return fit_maml(X, y, groups, n_jobs=2)


METHODS = {"ridge": fit_ridge, "maml": fit_maml, "maml, n_jobs=2": fit_maml_two_jobs}


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired_times(shape, n_runs):
    """Seconds of each method, shape (n_runs, n_methods), in turn within each run."""
    data = make(*shape)
    for method in METHODS.values():
        method(*data)
    return np.array(
        [[seconds(lambda m=m: m(*data)) for m in METHODS.values()] for _ in range(n_runs)]
    )


def peak_memory(method, shape):
    """MiB above the input at the peak of one fit, in a process of its own."""
    command = [sys.executable, __file__, "--measure", method, *map(str, shape)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure(method, shape):
    data = make(*shape)
    METHODS[method](*make(20, 5, 3))  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = resident_memory("VmRSS")
    METHODS[method](*data)
    print(resident_memory("VmHWM") - before)


def resident_memory(which):
    """VmRSS (now) or VmHWM (the peak) of this process in MiB."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[which].split()[0]) / 1024


def median_ratio(times, column):
    return np.median(times[:, column] / times[:, 0])


def report_fits(n_runs):
    print(f"{'tasks, rows, features':<22}" + "".join(f"{m:>24}" for m in METHODS))
    for shape in SHAPES:
        times = paired_times(shape, n_runs)
        cells = [
            f"{1e3 * np.median(times[:, i]):10.1f} ms ({median_ratio(times, i):.2f}x)"
            for i in range(len(METHODS))
        ]
        print(f"{shape!s:<22}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print(f"wanted: at most {WANTED_TIME:.0f}x the time of ridge\n")
    print("peak memory beyond the input, MiB")
    for shape in SHAPES:
        size = 8 * np.prod(shape) / 2**20
        cells = [f"{peak_memory(method, shape):24.0f}" for method in METHODS]
        print(f"{shape!s:<22}" + "".join(cells) + f"   (input {size:.0f})", flush=True)
    print(f"wanted: at most the input's size + {WANTED_MEMORY:.0f} MiB\n")


def report_adapting(n_runs):
    X, y, groups = make(1_000, 20, 20)
    model = fit_maml(X, y, groups)
    one = [seconds(lambda: model.adapt(X[:5], y[:5]).predict(X[5:20])) for _ in range(50 * n_runs)]
    checks = [
        seconds(lambda: (read_one_task(model, X[:5], y[:5], None), read_rows(model, X[5:20])))
        for _ in range(50 * n_runs)
    ]
    beyond = 1e6 * (np.median(one) - np.median(checks))
    print(f"adapt + predict of one task: {1e6 * np.median(one):.0f} us, of which input validation")
    print(f"  {1e6 * np.median(checks):.0f} us; beyond it {beyond:.0f} us (wanted: below 300 us)")
    n_tasks, m, d = 10_000, 20, 20
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_tasks, m, d + 1))
    weights = np.full((n_tasks, m), 1 / m)
    square = rng.normal(size=(d + 1, d + 1))
    targets, theta = rng.normal(size=(n_tasks, m)), theta_of(model)

    def adapt(size):
        for i in range(0, n_tasks, size):
            part = slice(i, i + size)
            risk = Risk(model.loss_, features[part], targets[part], weights[part])
            model.adaptation_.adapt(theta, risk)

    stack = BLOCK_ELEMENTS // (m * (d + 1))
    times = [
        (
            seconds(lambda: features @ square),
            seconds(lambda: adapt(stack)),
            seconds(lambda: adapt(n_tasks)),
        )
        for _ in range(5 * n_runs)
    ]
    product, stacks, whole = np.median(times, axis=0)
    print(f"{n_tasks} tasks of {m} x {d}; one matrix product takes {1e3 * product:.1f} ms")
    print(f"  in the package's stacks of {stack}: {1e3 * stacks:.1f} ms, {stacks / product:.1f}x")
    print(f"  as one stack: {1e3 * whole:.1f} ms, {whole / product:.1f}x (wanted: below 10x)")


def report_searching(n_runs):
    print("search of 10 penalties and refit against one fit")
    for shape, cv in SEARCHES:
        X, y, groups = make(*shape)
        one = MAMLRegressor(alpha=0.1, support=0.5, random_state=0)
        search = MAMLRegressorCV(n_steps=[1], alphas=np.geomspace(1e-4, 10, 10), cv=cv)
        times = [
            [seconds(partial(m.fit, X, y, groups=groups)) for m in (one, search)]
            for _ in range(n_runs)
        ]
        fit, whole = np.median(times, axis=0)
        print(f"{shape!s:<18} cv={cv!s:<20} {fit:6.3f} s {whole:6.3f} s {whole / fit:5.1f}x")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="paired runs for each shape")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        method, *shape = arguments.measure
        measure(method, tuple(map(int, shape)))
        return
    report_fits(arguments.runs)
    report_adapting(arguments.runs)
    report_searching(arguments.runs)


if __name__ == "__main__":
    main()
