"""The same problems by this package and by its peers: CPU seconds, and how good the answer is.

    python benchmarks/compare_peers.py          # eight minutes
    python benchmarks/compare_peers.py --quick  # smaller problems: below two minutes
    python benchmarks/compare_peers.py --keep   # also what docs/benchmarks.md shows

Each peer of `peers` has a process of its own, one core and one thread. Its seconds are those of the
CPU, so that what else the machine does counts for nobody; R counts its own. Imports are apart, and
so is what a first call takes beyond later ones (compilation, for JAX). Fits of less than a second
are repeated for a second (an eighth of it if --quick), and their time is the mean. A peer that
takes more than the limit on one problem, all in, is stopped, and not asked for larger ones. The
loss is computed here, from what a peer returns, and shown as what it is above the least of all.

Needs the ``test`` extra, and for those who are compared ``pip install 'sklearn_maml[peer]' glmm
mixedlm-rs`` and R with lme4; who is missing is named.
"""

# ruff: noqa: E402 - threads are limited before numpy is imported
import os

for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "RAYON_NUM", "POLARS_MAX"):
    os.environ[f"{name}_THREADS"] = "1"

import argparse
import importlib
import multiprocessing
import platform
import re
import resource
import signal
import subprocess
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from peers import META_PEERS, MIXED_PEERS, MetaProblem, MixedProblem

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = "## The figures\n"
META = {
    "one step": MetaProblem(1_000, 20, 30, 1),
    "five steps": MetaProblem(1_000, 20, 30, 5),
    "wide": MetaProblem(200, 20, 1_000, 1),
}
QUICK_META = {
    "one step": MetaProblem(200, 20, 20, 1),
    "five steps": MetaProblem(200, 20, 20, 5),
    "wide": MetaProblem(40, 20, 200, 1),
}
MIXED = {f"{n:,}": MixedProblem(n) for n in (100, 1_000, 10_000, 100_000)}
KINDS = {"meta": META_PEERS, "mixed": MIXED_PEERS}
VERSIONS = ("sklearn_maml", "numpy", "scipy", "jax", "torch", "glmm", "mixedlm-rs", "statsmodels")
LIMIT, QUICK_LIMIT = 60, 8
ENOUGH = 1 / 60  # of the limit, for which fits are repeated: clocks tick in milliseconds
ROUNDING = 1e-12  # a relative excess that is none


# --------------------------------------------------------------------------------------------------
# One peer, one process


def seconds(call):
    """CPU seconds of one call in this process, and what it returns."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def measured(peer, problem, enough):
    """Seconds of a fit, and of the first call beyond it, and the loss reached."""
    solve = peer.solver(problem)
    if peer.module == "lme4":
        loss = problem.loss(solve())
        return {"fit": solve.seconds, "first": 0.0, "imports": solve.imports, "loss": loss}
    first, solution = seconds(solve)
    fits, start = 0, time.process_time()
    while not fits or time.process_time() - start < enough:
        solution, fits = solve(), fits + 1
    fit = (time.process_time() - start) / fits
    return {"fit": fit, "first": max(first - fit, 0.0), "loss": float(problem.loss(solution))}


def in_child(connection, kind, index, problems, limit):
    """Send what is measured of each problem; the kernel ends this process at the limit."""
    peer = KINDS[kind][index]
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    imports = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: the loss tells
        if peer.module != "lme4":
            imports, _ = seconds(lambda: importlib.import_module(peer.module))
        for problem in problems:
            end = int(time.process_time()) + limit
            resource.setrlimit(resource.RLIMIT_CPU, (end, hard))
            try:
                found = {"imports": imports} | measured(peer, problem, ENOUGH * limit)
            except TimeoutError:  # of a program that the peer runs
                return
            except Exception as error:  # a table has room for any
                found = type(error).__name__
            connection.send(found)


def solved(kind, index, problems, limit):
    """What a peer's process finds, by problem: figures, or a word on why there are none."""
    peer = KINDS[kind][index]
    if peer.missing():
        return dict.fromkeys(problems, "not installed")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    values = list(problems.values())
    child = context.Process(target=in_child, args=(sender, kind, index, values, limit))
    child.start()
    sender.close()
    found = {}
    try:
        for name in problems:
            found[name] = receiver.recv()
    except EOFError:  # the child was ended
        pass
    child.join()
    end = f"> {limit} s" if child.exitcode in (0, -signal.SIGXCPU) else f"exit {child.exitcode}"
    return dict.fromkeys(problems, end) | found


def compared(kind, problems, limit):
    """By problem and peer what is found, with the excess of the loss over the least of all."""
    table = {name: {} for name in problems}
    for index, peer in enumerate(KINDS[kind]):
        for name, found in solved(kind, index, problems, limit).items():
            table[name][peer.name] = found
            what = found if isinstance(found, str) else f"{found['fit']:.3g} s"
            print(f"{kind}, {name}: {peer.name}: {what}", flush=True)
    for row in table.values():
        figures = [found for found in row.values() if isinstance(found, dict)]
        least = min((found["loss"] for found in figures), default=None)
        for found in figures:
            found["excess"] = max(found["loss"] - least, 0.0)
            found["relative"] = found["excess"] / abs(least)
    return table


# --------------------------------------------------------------------------------------------------
# Tables


def table_of(header, rows):
    """A table in Markdown: the first column to the left, the others to the right."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def digits(value):
    """A time of two digits, in seconds; none below a millisecond."""
    return f"{value:.{2 if value >= 1 else 3 if value >= 0.01 else 4}f}"


def excess(found, what):
    """What of the loss is too much; 0 where it is rounding."""
    return f"{found[what]:.0e}" if found["relative"] > ROUNDING else "0"


def meta_tables(table, problems):
    """A table for each problem."""
    header = ["solved by", "fit, s", "sklearn_maml is", "first call, more s", "loss above least"]
    for name, row in table.items():
        p = problems[name]
        shape = f"{p.n_tasks:,} tasks of {p.n_rows} rows and {p.n_features:,} features"
        steps = f"{p.n_steps} inner step{'s' if p.n_steps > 1 else ''}"
        yield f"**{name.capitalize()}**: {shape}, {steps}.\n"
        ours, rows = row[META_PEERS[0].name], []
        for peer, found in row.items():
            cells = [found, "", "", ""]
            if isinstance(found, dict):
                times = "" if found is ours else pace(found["fit"] / ours["fit"])
                cells = [digits(found["fit"]), times, digits(found["first"])]
                cells.append(excess(found, "relative"))
            rows.append([peer, *cells])
        yield table_of(header, rows)


def pace(ratio):
    """How much faster, or slower, this package is."""
    if 1 / 1.1 < ratio < 1.1:
        return "as fast"
    times = f"{max(ratio, 1 / ratio):.{int(max(ratio, 1 / ratio) < 10)}f} x"
    return f"{times} faster" if ratio > 1 else f"**{times} slower**"


def mixed_tables(table):
    """Seconds, and -2 log restricted likelihood above the least, by number of groups."""
    header = ["REML by", *(f"{name} groups" for name in table)]

    def rows(cell):
        for peer in MIXED_PEERS:
            found = [row[peer.name] for row in table.values()]
            yield [peer.name, *(f if isinstance(f, str) else cell(f) for f in found)]

    yield "**Mixed models**: groups of 5 rows, seconds of a fit.\n"
    yield table_of(header, rows(lambda found: digits(found["fit"])))
    yield "What is reached: -2 log restricted likelihood, above the least of all.\n"
    yield table_of(header, rows(lambda found: excess(found, "excess")))


def import_table(*tables):
    """Seconds of imports: the largest of the processes of one package."""
    most = {}
    for peer, found in (item for table in tables for row in table.values() for item in row.items()):
        if isinstance(found, dict):
            package = peer.split(",")[0]
            most[package] = max(most.get(package, 0.0), found["imports"])
    yield "**Imports**, beyond numpy (lme4: with the start of R).\n"
    yield table_of(["package", "s"], ([name, digits(value)] for name, value in most.items()))


def circumstances():
    """Date, machine and versions, on one line."""
    cpu = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    told = [f"{datetime.now(UTC):%d %B %Y}", model[1] if model else platform.machine()]
    told += [f"{os.cpu_count()} cores, one of them used", f"Python {platform.python_version()}"]
    for name in VERSIONS:
        try:
            told.append(f"{name} {version(name)}")
        except importlib.metadata.PackageNotFoundError:
            told.append(f"without {name}")
    if not MIXED_PEERS[3].missing():
        asks = "cat(format(getRversion()), 'with lme4', format(packageVersion('lme4')))"
        told.append("R " + subprocess.check_output(["Rscript", "-e", asks], text=True))
    return ", ".join(told) + ".\n"


# --------------------------------------------------------------------------------------------------
# The picture


def draw(meta, mixed, path):
    """Seconds of mixed models by number of groups; of MAML, a dot a fit, a line to the first."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "0", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    for k, peer in enumerate(peer.name for peer in MIXED_PEERS):
        at = {int(n.replace(",", "")): row[peer] for n, row in mixed.items()}
        at = {n: found["fit"] for n, found in at.items() if isinstance(found, dict)}
        axes[0, 0].loglog(list(at), list(at.values()), "o-", color=f"C{k}", label=peer, ms=3)
    axes[0, 0].set(title="Mixed models", xlabel="groups of 5 rows", ylabel="CPU seconds of a fit")
    axes[0, 0].set_ylim(top=1e3)  # room for names
    axes[0, 0].legend(frameon=False, fontsize=7, loc="upper left")
    for ax, (name, row) in zip(axes.flat[1:], meta.items(), strict=True):
        for k, (_, found) in enumerate(row.items()):
            if isinstance(found, dict):
                ax.plot([found["fit"], found["fit"] + found["first"]], [k, k], "-", color=f"C{k}")
                ax.plot(found["fit"], k, "o", color=f"C{k}", ms=5)
        ax.set(title=f"MAML, {name}", xscale="log", xlim=(3e-3, 10), ylim=(len(row) - 0.5, -0.5))
        ax.set_yticks(range(len(row)), list(row))
        ax.set_xlabel("CPU seconds: a fit (dot) to the first")
    for ax in axes.flat:
        ax.minorticks_off()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller problems, and a lower limit")
    parser.add_argument("--keep", action="store_true", help="write what docs/benchmarks.md shows")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # JAX has no other way to be told
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    limit = QUICK_LIMIT if options.quick else LIMIT
    problems = QUICK_META if options.quick else META
    groups = dict(list(MIXED.items())[:3]) if options.quick else MIXED
    meta, mixed = compared("meta", problems, limit), compared("mixed", groups, limit)
    parts = [circumstances(), *meta_tables(meta, problems), *mixed_tables(mixed)]
    text = "\n".join([*parts, *import_table(meta, mixed)])
    print("\n" + text)
    if options.keep:
        page = DOCS / "benchmarks.md"
        page.write_text(page.read_text().split(RESULTS)[0] + RESULTS + "\n" + text)
        draw(meta, mixed, DOCS / "_static" / "compare_peers.svg")


if __name__ == "__main__":
    main()
