"""What very many tasks cost: seconds, tasks a second and memory as their number grows.

Each measurement is a process of its own. Rows are read from memory-mapped files where that is said;
memory is what the process holds beyond what it held before the fit, without the pages of these
files, sampled each hundredth of a second. Seconds are CPU time, one BLAS thread. Run ``python
benchmarks/bench_scale.py``: about five minutes, and 3 GB of disk; ``--quick`` takes half a minute.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from sklearn_maml import MAMLRegressor

# Tasks x rows x features, by case; the quick ones are a tenth, and the largest left out.
GROWTH = (10_000, 100_000, 1_000_000)
STREAMED, LEARNED, GROUPS = (10, 32), (10, 8), (4, 3)
RULES = {"steps": {"inner_lr": "auto"}, "learned": {}}
MiB = 2**20


# --------------------------------------------------------------------------------------------------
# Data


def sizes_of(kind, n_tasks, n_rows):
    """Equal sizes, or ragged ones of the same sum: from 1 to 1,000, with a long tail."""
    if kind == "equal":
        return np.full(n_tasks, n_rows)
    rng = np.random.default_rng(1)
    sizes = np.clip(rng.pareto(1.2, n_tasks) * n_rows / 5 + 1, 1, 1000).astype(int)
    cut = np.searchsorted(np.cumsum(sizes), n_tasks * n_rows)
    return sizes[:cut]


def make(sizes, n_features, folder=None):
    """X, y and the task of each row; memory-mapped files of a folder, if there is one."""
    rng, n_rows = np.random.default_rng(0), int(sizes.sum())
    X, y = np.empty((n_rows, n_features)), np.empty(n_rows)
    if folder is not None:
        X = np.lib.format.open_memmap(Path(folder) / "X.npy", "w+", float, X.shape)
        y = np.lib.format.open_memmap(Path(folder) / "y.npy", "w+", float, y.shape)
    stops, theta = np.cumsum(sizes), rng.normal(size=n_features)
    step = 10_000
    for start in range(0, len(sizes), step):
        some = sizes[start : start + step]
        rows = slice(stops[start] - sizes[start], stops[min(start + step, len(sizes)) - 1])
        X[rows] = rng.normal(size=(int(some.sum()), n_features))
        own = np.repeat(rng.normal(size=(len(some), n_features)), some, axis=0)
        y[rows] = (X[rows] * (theta + 0.3 * own)).sum(axis=1) + rng.normal(size=int(some.sum()))
    groups = np.repeat(np.arange(len(sizes)), sizes)
    if folder is None:
        return X, y, groups
    del X, y  # written; read again, and nothing can be written to it
    return *(np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in "Xy"), groups


# --------------------------------------------------------------------------------------------------
# One measurement, in a process of its own


def held():
    """What this process holds, in bytes, without the pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak:
    """The largest of what the process holds while a block of code runs, beyond what it held."""

    def __enter__(self):
        self.before, self.most, self._running = held(), 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while self._running:
            self.most = max(self.most, held() - self.before)
            time.sleep(0.01)

    def __exit__(self, *exception):
        self._running = False
        self._thread.join()


def measure(case):
    """Fit as a case says; returns seconds of CPU and of the clock, bytes held, bytes of data."""
    sizes = sizes_of(case["sizes"], case["tasks"], case["rows"])
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        X, y, groups = make(sizes, case["features"], folder if case["streamed"] else None)
        if case["labels"] == "text":
            groups = np.char.add("patient ", groups.astype(str))
        model = MAMLRegressor(random_state=0, n_jobs=case["jobs"], **RULES[case["rule"]])
        model.fit(np.array(X[:1000]), np.array(y[:1000]), groups=groups[:1000])  # imports and BLAS
        with Peak() as peak:
            began, clock = time.process_time(), time.perf_counter()
            model.fit(X, y, groups=groups)
            spent = time.process_time() - began, time.perf_counter() - clock
    return {
        "cpu": spent[0],
        "clock": spent[1],
        "peak": peak.most,
        "data": X.nbytes + y.nbytes,
        "n_tasks": len(sizes),
    }


def measured(rule, n_tasks, shape, **more):
    """`measure` in another process."""
    case = {"rule": rule, "tasks": n_tasks, "rows": shape[0], "features": shape[1]}
    case |= {"sizes": "equal", "labels": "numbers", "streamed": False, "jobs": None} | more
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


# --------------------------------------------------------------------------------------------------
# Tables


def tell(name, found):
    """Print a row."""
    print(
        f"{name:<58}{found['cpu']:>8.2f} s{found['n_tasks'] / found['cpu']:>11,.0f} tasks/s"
        f"{found['peak'] / MiB:>8.0f} MiB{found['peak'] / found['data']:>7.2f} x data",
        flush=True,
    )
    return found


def growth(rule, shape, counts):
    """The same shape with more and more tasks, from memory-mapped files."""
    for n_tasks in counts:
        name = f"{rule}, {n_tasks:,} tasks x {shape[0]} rows x {shape[1]} features"
        tell(name, measured(rule, n_tasks, shape, streamed=True))


def compare(what, first, second, by="cpu"):
    """Print one measurement in units of another."""
    print(f"{what:<58}{second[by] / first[by]:>8.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tasks")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        print(json.dumps(measure(json.loads(chosen.case))))
        return
    part = 10 if chosen.quick else 1
    counts = GROWTH[:-1] if chosen.quick else GROWTH
    print("Streamed from memory-mapped files")
    for rule, shape in (("steps", STREAMED), ("learned", LEARNED)):
        growth(rule, shape, counts)
    print("\nHeld in memory")
    n_tasks = GROWTH[-1] // part
    name = f"learned, {n_tasks:,} groups x {GROUPS[0]} rows x {GROUPS[1]} features"
    tell(name, measured("learned", n_tasks, GROUPS))
    equal = {}
    n_tasks = GROWTH[1] // part
    for rule in RULES:
        equal[rule] = tell(f"{rule}, {n_tasks:,} equal tasks", measured(rule, n_tasks, LEARNED))
        ragged = measured(rule, n_tasks, LEARNED, sizes="ragged")
        tell(f"{rule}, ragged tasks of as many rows", ragged)
        compare("  ragged / equal", equal[rule], ragged)
    text = tell("steps, labels of text", measured("steps", n_tasks, LEARNED, labels="text"))
    compare("  text / numbers", equal["steps"], text)
    one, two = (measured("steps", n_tasks, STREAMED, jobs=jobs) for jobs in (1, 2))
    compare("seconds by the clock, one job / two", two, one, by="clock")


if __name__ == "__main__":
    main()
