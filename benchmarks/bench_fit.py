"""What a fit costs beyond the arithmetic that it needs: time and memory against two floors.

The floors solve the same problem, check and certify nothing: ten lines of numpy (batched products
for the adapted rows, Gram matrix, Cholesky factor), and scikit-learn's ridge regression on these
rows. CPU seconds on one BLAS thread, medians of interleaved runs in one process; then adapting;
then peak memory, each in a process of its own. Run ``python benchmarks/bench_fit.py``.
"""

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from sklearn_maml import MAMLRegressor, MAMLRegressorCV

# (tasks, support rows, query rows, features), steps, a length that caps no task, and the wanted
# multiple of the floor.
CASES = (
    ((100, 10, 10, 20), 1, 5e-3, 5.0),
    ((1_000, 10, 10, 64), 1, 5e-3, 2.0),
    ((1_000, 10, 10, 64), 5, 5e-3, 1.5),
    ((10_000, 20, 20, 128), 1, 5e-3, 1.4),
    ((500, 5, 5, 1_000), 1, 5e-4, 1.4),
)
SEARCHES = (((1_000, 20, 64), 5), ((300, 10, 1_000), 5), ((1_000, 20, 64), "leave-one-task-out"))
# Rows a task where the support is small: cost must be linear in them.
TALL = (1_000, 10_000, 100_000)


def make(n_tasks, n_rows, n_features):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tasks * n_rows, n_features))
    y = X @ rng.normal(size=n_features) + rng.normal(size=len(X))
    return X, y, np.repeat(np.arange(n_tasks), n_rows)


def floor(X, y, shape, inner_lr, n_steps):
    """The same fit, by nothing but the arithmetic that it needs."""
    n, m, _, _ = shape
    rows, y = np.c_[X, np.ones(len(X))].reshape(n, -1, X.shape[1] + 1), y.reshape(n, -1)
    F, Phi, step = rows[:, :m], rows[:, m:], 2 * inner_lr / m
    S, R = F @ F.swapaxes(1, 2) * step, Phi @ F.swapaxes(1, 2) * step
    C = np.eye(m)
    for _ in range(n_steps - 1):
        C = np.eye(m) + C - S @ C
    R = R @ C if n_steps > 1 else R
    design = (Phi - R @ F).reshape(-1, rows.shape[2])
    target = (y[:, m:] - (R @ y[:, :m, None])[..., 0]).ravel()
    return cho_solve(cho_factor(design.T @ design), design.T @ target)


def methods(shape, n_steps, inner_lr):
    """What is timed, by name, from X, y, groups and the same as a list of tasks."""
    model = MAMLRegressor(inner_lr, n_steps, support=shape[1], split="first")
    capped = MAMLRegressor(0.1, n_steps, support=shape[1], split="first")
    auto = MAMLRegressor("auto", n_steps, support=shape[1], split="first")
    return {
        "numpy": lambda X, y, groups, tasks: floor(X, y, shape, inner_lr, n_steps),
        "ridge": lambda X, y, groups, tasks: Ridge(solver="cholesky").fit(X, y),
        "list": lambda X, y, groups, tasks: model.fit(tasks),
        "groups": lambda X, y, groups, tasks: model.fit(X, y, groups=groups),
        "capped": lambda X, y, groups, tasks: capped.fit(X, y, groups=groups),
        "auto": lambda X, y, groups, tasks: auto.fit(X, y, groups=groups),
    }


def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def medians(calls, n_runs):
    """Median seconds of each call, and of its ratio to the first, from interleaved runs."""
    for call in calls:
        call()
    times = np.array([[seconds(call) for call in calls] for _ in range(n_runs)])
    return np.median(times, axis=0), np.median(times / times[:, :1], axis=0)


def report_fits(n_runs):
    print("CPU seconds of a fit with its certificate, in multiples of the numpy floor")
    names = list(methods(CASES[0][0], 1, 0.1))
    print(f"{'tasks, support, query, features; steps':<40}" + "".join(f"{m:>13}" for m in names))
    for shape, n_steps, inner_lr, wanted in CASES:
        n, m, q, d = shape
        X, y, groups = make(n, m + q, d)
        tasks = [(X[i : i + m + q], y[i : i + m + q]) for i in range(0, len(X), m + q)]
        data = X, y, groups, tasks
        calls = [partial(f, *data) for f in methods(shape, n_steps, inner_lr).values()]
        times, ratios = medians(calls, n_runs if n < 5_000 else max(3, n_runs // 3))
        cells = [f"{1e3 * times[0]:10.2f} ms"] + [f"{ratio:12.2f}x" for ratio in ratios[1:]]
        print(f"{f'{shape}; {n_steps}':<40}" + "".join(cells) + f"   wanted {wanted}x", flush=True)
    print()


def report_adapting(n_runs):
    X, y, groups = make(1_000, 20, 20)
    for name, model in (("gradient step", MAMLRegressor(0.01)), ("learned rule", MAMLRegressor())):
        model.fit(X, y, groups=groups)

        def one(model=model):
            model.adapt(X[:5], y[:5]).predict(X[5:20])

        def block(model=model):
            model.adapt_tasks(X, y, groups=groups)

        one(), block()
        single = np.median([seconds(one) for _ in range(50 * n_runs)])
        many = np.median([seconds(block) for _ in range(3 * n_runs)]) / 1_000
        print(f"adapt + predict of one task, {name}: {1e6 * single:.0f} us (wanted: below 300)")
        print(f"adapt_tasks, {name}: {1e6 * many:.2f} us a task (wanted: below 3 for steps)")
    print()


def report_searching(n_runs):
    print("search of 10 penalties and refit, in fits")
    for shape, cv in SEARCHES:
        X, y, groups = make(*shape)
        one = MAMLRegressor("auto", alpha=0.1, support=0.5, random_state=0)
        search = MAMLRegressorCV(n_steps=[1], alphas=np.geomspace(1e-4, 10, 10), cv=cv)
        calls = [partial(m.fit, X, y, groups=groups) for m in (one, search)]
        times, ratios = medians(calls, max(1, n_runs // 3))
        print(f"{shape!s:<18} cv={cv!s:<20} {times[0]:6.3f} s {times[1]:6.3f} s {ratios[1]:5.1f}x")
    print()


def report_memory():
    print("peak memory beyond the input, MiB (wanted: at most the input's size + 300)")
    for k, (shape, _, _, _) in enumerate(CASES):
        n, m, q, d = shape
        cells = [f"{form} {measured(f'{form} {k}')[1]:5.0f}" for form in ("list", "groups")]
        print(f"{shape!s:<24}" + "   ".join(cells) + f"   input {8 * n * (m + q) * d / 2**20:5.0f}")
    print("two tasks, support=5, 5 columns; and a learned rule on ten tasks: rows a task")
    for n_rows in TALL:
        for form, n_tasks in (("small support", 2), ("learned", 10)):
            used, peak = measured(f"{form} {n_rows}")
            size = 8 * n_tasks * n_rows * 5 / 2**20
            print(f"{n_rows:>8} {form:<14} {used:7.2f} s {peak:6.0f} MiB   input {size:4.0f} MiB")


def measured(what):
    """CPU seconds and peak MiB beyond the input of one fit, in a process of its own."""
    command = [sys.executable, __file__, "--measure", what]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used, peak = map(float, out.split())
    return used, peak


def measure(what):
    form, number = what.rsplit(" ", 1)
    if form in ("list", "groups"):
        shape, n_steps, inner_lr, _ = CASES[int(number)]
        n, m, q, d = shape
        X, y, groups = make(n, m + q, d)
        tasks = [(X[i : i + m + q], y[i : i + m + q]) for i in range(0, len(X), m + q)]
        fit = methods(shape, n_steps, inner_lr)[form]
        run = lambda: fit(X, y, groups, tasks)  # noqa: E731
    else:
        X, y, groups = make(2 if form == "small support" else 10, int(number), 5)
        given = {"inner_lr": 0.01, "support": 5} if form == "small support" else {}
        run = lambda: MAMLRegressor(**given, random_state=0).fit(X, y, groups=groups)  # noqa: E731
    MAMLRegressor(random_state=0).fit(*make(20, 5, 3)[:2], groups=np.repeat(np.arange(20), 5))
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    before = resident_memory("VmRSS")
    used = seconds(run)
    print(used, resident_memory("VmHWM") - before)


def resident_memory(which):
    """VmRSS (now) or VmHWM (the peak) of this process in MiB."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[which].split()[0]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="interleaved runs for each case")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with threadpool_limits(1):
        if arguments.measure:
            measure(arguments.measure)
            return
        report_fits(arguments.runs)
        report_adapting(arguments.runs)
        report_searching(arguments.runs)
        report_memory()


if __name__ == "__main__":
    main()
