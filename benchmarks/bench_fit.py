"""What a fit costs: CPU time against two floors, adapting, searching, memory and growth with rows.

The first floor is a dozen lines of numpy that solve the same problem, and neither check nor certify
anything; the second is ridge regression on the same rows. Medians of paired runs, one BLAS thread.
Run ``python benchmarks/bench_fit.py`` on an idle machine: about two minutes, fewer with ``--runs``.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits

from sklearn_maml import GradientSteps, MAMLRegressor, MAMLRegressorCV, Proximal

# (tasks, support rows, query rows, features, steps) and what a fit may cost, in floors.
SHAPES = {
    (100, 10, 10, 20, 1): 5.0,
    (1_000, 10, 10, 64, 1): 2.0,
    (1_000, 10, 10, 64, 5): 1.5,
    (10_000, 20, 20, 128, 1): 1.4,
    (500, 5, 5, 1_000, 1): 1.4,
}
SEARCHED, FOLDS = ((1_000, 20, 64), (300, 10, 1_000)), (5, "leave-one-task-out")
# Rules that are learned, and penalties, searched by five folds.
RULES = {
    "full, by REML": [Proximal(metric="full")],
    "three by REML": [
        Proximal(metric="full"),
        Proximal(metric="diagonal", criterion="reml"),
        Proximal(metric="intercept", criterion="reml"),
    ],
    "diagonal, by query loss": [Proximal(metric="diagonal")],
    "metric and strength given": [Proximal(1.0, np.eye(9))],
}
ALPHAS_OF_RULES = [0.0, 0.01, 0.1]
ROWS = (1_000, 10_000, 100_000)
WANTED_ADAPT, WANTED_TASK, WANTED_MEMORY = 300.0, 3.0, 300.0


# --------------------------------------------------------------------------------------------------
# Data and fits


def make(n_tasks, n_rows, n_features):
    """Rows of one linear model with noise: X, y and the task of each row."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tasks * n_rows, n_features))
    y = X @ rng.normal(size=n_features) + rng.normal(size=len(X))
    return X, y, np.repeat(np.arange(n_tasks), n_rows)


def as_list(X, y, n_tasks):
    """The same rows as a list of tasks, each in memory of its own."""
    parts = zip(np.split(X, n_tasks), np.split(y, n_tasks), strict=True)
    return [(rows.copy(), targets.copy()) for rows, targets in parts]


def solve_by_numpy(X, y, shape, inner_lr):
    """The meta-parameters of uncapped gradient steps on the first rows of equal tasks."""
    n_tasks, m, _, _, n_steps = shape
    phi = np.c_[X, np.ones(len(X))].reshape(n_tasks, -1, X.shape[1] + 1)
    y = y.reshape(n_tasks, -1)
    support, query = phi[:, :m], phi[:, m:]
    step = 2 * inner_lr / m
    turned = support.transpose(0, 2, 1)
    inside, across, power = step * support @ turned, step * query @ turned, np.eye(m)
    for _ in range(n_steps - 1):  # I + (I - S) + (I - S)^2 + ... of S, a step seen from its rows
        power = np.eye(m) + power - inside @ power
    across = across @ power if n_steps > 1 else across
    design = (query - across @ support).reshape(-1, X.shape[1] + 1)
    target = (y[:, m:] - (across @ y[:, :m, None])[..., 0]).ravel()
    return cho_solve(cho_factor(design.T @ design), design.T @ target)


def methods(shape):
    """What is compared on a shape: functions without arguments, the floor first."""
    n_tasks, m, n_query, d, n_steps = shape
    X, y, groups = make(n_tasks, m + n_query, d)
    tasks, inner_lr = as_list(X, y, n_tasks), 0.5 / d

    def maml(inner_lr, **parts):
        return MAMLRegressor(inner_lr, n_steps, support=m, split="first", **parts)

    def uncapped():
        rule = GradientSteps(inner_lr, n_steps, cap=False)
        return MAMLRegressor(adaptation=rule, support=m, split="first")

    return {
        "numpy": lambda: solve_by_numpy(X, y, shape, inner_lr),
        "ridge": lambda: Ridge(solver="cholesky").fit(X, y),
        "list": lambda: maml(inner_lr).fit(tasks),
        "groups": lambda: maml(inner_lr).fit(X, y, groups=groups),
        "cap=False": lambda: uncapped().fit(X, y, groups=groups),
        "capped": lambda: maml(100 * inner_lr).fit(X, y, groups=groups),
        "auto": lambda: maml("auto").fit(X, y, groups=groups),
    }


def check_floor(theta, model):
    """The floor solves the problem that the package solves, or there is nothing to compare."""
    assert model.capped_share_ == 0.0
    np.testing.assert_allclose(np.append(model.coef_, model.intercept_), theta, rtol=1e-7)


# --------------------------------------------------------------------------------------------------
# Time


def seconds(call):
    """CPU seconds of one call: with one BLAS thread a busy machine disturbs them least."""
    start = time.process_time()
    call()
    return time.process_time() - start


def paired(calls, n_runs):
    """CPU seconds of each call, shape (n_runs, n_calls), in turn within each run."""
    return np.array([[seconds(call) for call in calls] for _ in range(n_runs)])


def report_fits(n_runs):
    print("CPU time of a fit with its certificate, in multiples of numpy's (and of ridge's)")
    head = f"{'tasks, rows, columns, steps':<30}{'numpy':>11}{'ridge':>8}"
    names = ("list", "groups", "cap=False", "capped", "auto")
    print(head + "".join(f"{name:>16}" for name in names) + "  wanted", flush=True)
    for shape, wanted in SHAPES.items():
        calls = methods(shape)
        check_floor(calls["numpy"](), calls["groups"]())
        times = paired(list(calls.values()), n_runs)
        floors, ridges = (np.median(times / times[:, [k]], axis=0) for k in (0, 1))
        line = f"{shape!s:<30}{1e3 * np.median(times[:, 0]):8.1f} ms{floors[1]:8.2f}"
        cells = "".join(f"{a:8.2f} ({b:5.2f})" for a, b in zip(floors[2:], ridges[2:], strict=True))
        print(f"{line}{cells}{wanted:8.1f}", flush=True)
    print()


def report_adapting(n_runs):
    X, y, groups = make(1_000, 20, 20)
    data = make(10_000, 20, 20)
    for name, model in {
        "gradient steps": MAMLRegressor(0.02),
        "learned": MAMLRegressor(random_state=0),
    }.items():
        model.fit(X, y, groups=groups)

        def one(model=model):
            return model.adapt(X[:5], y[:5]).predict(X[5:20])

        def many(model=model):
            return model.adapt_tasks(data[0], data[1], groups=data[2])

        single = 1e6 * np.median(paired([one], 50 * n_runs))
        task = 1e6 * np.median(paired([many], n_runs)) / 10_000
        print(f"{name}: adapt + predict of one task {single:.0f} us (wanted: {WANTED_ADAPT:.0f});")
        print(f"  adapt_tasks {task:.2f} us a task (wanted: {WANTED_TASK:.0f})", flush=True)
    print()


def report_searching(n_runs):
    print("search of 10 penalties and refit against one fit with the same steps and splits")
    for shape, cv in product(SEARCHED, FOLDS):
        X, y, groups = make(*shape)
        one = MAMLRegressor(0.02, alpha=0.1, support=0.5, random_state=0)
        grid = {"inner_lrs": [0.02], "n_steps": [1], "alphas": np.geomspace(1e-4, 10, 10)}
        search = MAMLRegressorCV(**grid, cv=cv, support=0.5, random_state=0)
        calls = [partial(m.fit, X, y, groups=groups) for m in (one, search)]
        fit, whole = np.median(paired(calls, n_runs), axis=0)
        print(f"{shape!s:<18} cv={cv!s:<20} {fit:6.3f} s {whole:6.3f} s {whole / fit:5.1f}x")
    print()


def report_rules(n_runs):
    print(
        "search of rules and 3 penalties by five folds, and refit, in fits of each candidate once"
    )
    head = f"{'500 tasks, 8 columns':<36}{'a fit each':>11}{'ours':>7}{'GridSearchCV':>14}"
    print(head, flush=True)
    for (name, rules), (n_rows, support) in product(RULES.items(), ((20, 0.5), (20, "auto"))):
        tasks = as_list(*make(500, n_rows, 8)[:2], 500)
        shared = {"support": support, "random_state": 0}
        grid, alphas = {"adaptation": rules}, ALPHAS_OF_RULES
        ours = MAMLRegressorCV(param_grid=grid, alphas=alphas, **shared)
        theirs = GridSearchCV(MAMLRegressor(**shared), grid | {"alpha": alphas}, cv=5)

        def one_each(rules=rules, alphas=alphas, shared=shared, tasks=tasks):
            for rule, alpha in product(rules, alphas):
                MAMLRegressor(adaptation=rule, alpha=alpha, **shared).fit(tasks)

        calls = [one_each, partial(ours.fit, tasks), partial(theirs.fit, tasks)]
        fits, *searches = np.median(paired(calls, n_runs), axis=0)
        of_ours, of_theirs = (search / fits for search in searches)
        line = f"{name}, support={support!r}"
        print(f"{line:<43}{fits:6.2f} s{of_ours:7.2f}{of_theirs:12.2f}", flush=True)
    print()


# --------------------------------------------------------------------------------------------------
# Memory, and growth with the number of rows


# Where few rows are adapted to, and many are predicted: cost must be linear in both.
GROWING = {
    "5 shots, 2 tasks": (lambda: MAMLRegressor(0.02, support=5, random_state=0), 2),
    "learned, 2 tasks": (lambda: MAMLRegressor(support=5, random_state=0), 2),
    "learned, 10 tasks": (lambda: MAMLRegressor(random_state=0), 10),
}


def measure(case, n_rows):
    """Print CPU seconds of a fit, and MiB above the input at its peak (Linux)."""
    if case == "shape":
        n_tasks, m, n_query, d, n_steps = list(SHAPES)[n_rows]
        model = MAMLRegressor(0.5 / d, n_steps, support=m, split="first")
        data = make(n_tasks, m + n_query, d)
    else:
        build, n_tasks = GROWING[case]
        model, data = build(), make(n_tasks, n_rows, 5)
    small = make(20, 25, 3)
    MAMLRegressor(0.02).fit(*small[:2], groups=small[2])  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident_memory("VmRSS")
    spent = seconds(lambda: model.fit(data[0], data[1], groups=data[2]))
    print(spent, resident_memory("VmHWM") - before, data[0].nbytes / 2**20)


def resident_memory(which):
    """VmRSS (now) or VmHWM (the peak) of this process in MiB."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[which].split()[0]) / 1024


def measured(case, n_rows):
    """CPU seconds, MiB above the input and MiB of input of a fit in a process of its own."""
    command = [sys.executable, __file__, "--measure", case, str(n_rows)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return map(float, output.split())


def report_memory():
    print(f"peak memory of a fit above its input (wanted: at most input + {WANTED_MEMORY:.0f} MiB)")
    for k, shape in enumerate(SHAPES):
        _, peak, size = measured("shape", k)
        print(f"{shape!s:<30}{peak:8.0f} MiB   input {size:.0f} MiB", flush=True)
    print()


def report_growth():
    print("growth with the rows of a task, 5 columns (wanted: linear, and memory as above)")
    for case in GROWING:
        for n_rows in ROWS:
            spent, peak, size = measured(case, n_rows)
            each = 1e6 * spent / (GROWING[case][1] * n_rows)
            line = f"{case:<20}{n_rows:>9,} rows{spent:9.3f} s{each:9.2f} us a row"
            print(f"{line}{peak:8.0f} MiB   input {size:.0f} MiB", flush=True)
    print()


PARTS = {
    "fits": report_fits,
    "adapting": report_adapting,
    "searching": report_searching,
    "rules": report_rules,
    "memory": lambda n_runs: report_memory(),
    "growth": lambda n_runs: report_growth(),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="paired runs of each comparison")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with threadpool_limits(1):
        if arguments.measure:
            measure(arguments.measure[0], int(arguments.measure[1]))
            return
        for part in arguments.parts:
            PARTS[part](arguments.runs)


if __name__ == "__main__":
    main()
