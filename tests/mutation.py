"""Break the package on purpose, one place at a time, and see whether the tests notice.

``python tests/mutation.py solvers certificate/point.py --sample 40 --seed 0`` draws 40 mutants of
each named folder (or of the files named in it), runs for each the quickest tests that reach the
mutated line until one fails, shows each survivor as a diff, and ends with a table of scores. A
survivor is a test that is missing, or another way to write the same, or a choice of speed or
tightness: these are listed with their reasons in `equivalent_mutants.txt`, and are not run. For a
mutant tests are run that take up to ``--seconds`` together, and what a test finds computed already
it does not reach: before believing a survivor, run its test files on it.

The tests of a folder are those of `TESTS`. They are run once unmutated, under coverage, to learn
how long each takes and which lines it reaches. Each run is a fork of a process that has imported
all but the package, and sees a copy of the package: nothing here is broken.
"""

import argparse
import ast
import bisect
import contextlib
import difflib
import importlib
import itertools
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import coverage
import pytest

HERE = Path(__file__).parent
HOUSE = HERE.parent / "sklearn_maml"
EQUIVALENT = HERE / "equivalent_mutants.txt"
NUMBER = re.compile(r"\b\d[\d._]*(?:e[+-]?\d+)?|[()]|(?<![\w)\]] )-")
TESTS = {
    "_objective": "objective quadratic gauss_newton_hessian task_sums stacked inner_loop blocks "
    "adaptation offsets intervals descent solvers solvers_coordinates solvers_losses",
    "adaptation": "adaptation adaptation_losses inner_loop default offsets learned_adaptation",
    "_learning": "learned_adaptation wide mixed_moments decrement quasi_likelihood reml "
    "intercept_only task_noise scoring",
    "certificate": "certificate certificate_losses certificate_scalars certificate_lemmas "
    "certificate_convexity certificate_attack",
    "solvers": "solvers solvers_losses solvers_coordinates descent progress",
    "_intervals": "intervals",
    "losses": "losses offsets newton",
    "_tasks": "blocks tasks streaming",
    "_linalg.py": "stacked adaptation_losses inner_loop",
    "_parallel.py": "parallel faults",
    "_estimators": "feature_choice maml",
}
ALWAYS = "fitting invariances docstrings"
WARM = {"numpy", "scipy", "sklearn", "joblib", "pandas", "mpmath", "polars"}  # imported once
SWAPS = defaultdict(list)
for one, other in (
    *[(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Lt, ast.GtE), (ast.Gt, ast.LtE)],
    *[(ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn), (ast.And, ast.Or)],
    *[(ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Mult, ast.Pow), (ast.BitOr, ast.BitAnd)],
    *[("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all")],
):
    SWAPS[one].append(other)
    SWAPS[other].append(one)


def changed(node, **fields):
    return type(node)(**vars(node) | fields)


def variants(node):
    """What may stand in the place of a node, as nodes."""
    match node:
        case ast.Compare(ops=[op]):
            yield from (changed(node, ops=[other()]) for other in SWAPS[type(op)])
        case ast.BinOp(op=op) | ast.BoolOp(op=op) | ast.AugAssign(op=op):
            yield from (changed(node, op=other()) for other in SWAPS[type(op)])
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield changed(node, body=orelse, orelse=body)
        case ast.Constant(value=bool(value)):
            yield changed(node, value=not value)
        case ast.Constant(value=int(value)):
            yield from (changed(node, value=value + step) for step in (1, -1))
        case ast.Constant(value=float(value)):
            others = {2 * value, value / 2, value + 1.0} - {value}
            yield from (changed(node, value=other) for other in sorted(others))
        case ast.Call(func=ast.Name(id=name) as f):
            yield from (changed(node, func=changed(f, id=other)) for other in SWAPS[name])
        case ast.Call(func=ast.Attribute(attr=name) as f):
            yield from (changed(node, func=changed(f, attr=other)) for other in SWAPS[name])
    match node:
        case ast.Expr(ast.Constant()) | ast.Assign([ast.Name() | ast.Tuple(), *_]):
            pass  # a docstring; what a NameError would tell
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Break():
            yield ast.Pass()


def mutants(path):
    """(path, lines that a test must reach, mutated source) of each mutant of a file."""
    source = path.read_bytes()
    starts = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]

    def walk(node, lines):
        if isinstance(node, ast.stmt):
            last = node.lineno if hasattr(node, "body") else node.end_lineno
            lines = range(node.lineno, last + 1)
        if hasattr(node, "lineno"):
            first = starts[node.lineno - 1] + node.col_offset
            last = starts[node.end_lineno - 1] + node.end_col_offset
            for other in variants(node):
                text = ast.unparse(other)
                text = f"({text})" if isinstance(node, ast.expr) else text
                yield path, lines, source[:first] + text.encode() + source[last:]
        if isinstance(node, ast.JoinedStr | ast.Raise):  # what an error says
            return
        match node:
            case ast.keyword(arg="strict"):  # that lengths agree is true or an error
                return
            case ast.FunctionDef(name="examples"):  # what tests try
                return
            case ast.keyword(arg="axis", value=ast.UnaryOp(operand=operand)):  # 1 is -1 of matrices
                yield from walk(operand, lines)
                return
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        yield from walk(child, lines)

    yield from walk(ast.parse(source), range(0))


def change(path, mutant):
    """(lines of a file, lines of its mutant), as far as they differ, each as one."""
    before, after = path.read_text().splitlines(), mutant.decode().splitlines()
    differ = list(difflib.unified_diff(before, after, lineterm="", n=0))[2:]
    return tuple(" ".join(" ".join(d[1:] for d in differ if d[0] == s).split()) for s in "-+")


def equivalents():
    """{(path, before): lines that may stand there instead}, of the listed mutants."""
    listed, path, before = defaultdict(set), None, None
    for line in EQUIVALENT.read_text().splitlines():
        match line[:2]:
            case "= ":
                path = line[2:]
                source = " ".join((HOUSE / path).read_text().split())
            case "- ":
                before = line[2:]
                if before not in source:
                    sys.exit(f"{EQUIVALENT.name}: {path} has no longer {before!r}")
            case "+ ":
                listed[path, before].add(line[2:])
    return listed


def is_equivalent(listed, path, mutant):
    before, after = change(path, mutant)
    instead = listed.get((str(path.relative_to(HOUSE)), before), set())
    same_but_for_numbers = NUMBER.sub("", after) == NUMBER.sub("", before)
    return after in instead or ("*" in instead and same_but_for_numbers)


class Watch:
    """A pytest plugin: runs chosen tests in their order, or notes what each takes and reaches."""

    def __init__(self, chosen=None, cover=None):
        self.chosen, self.cover, self.seconds = chosen, cover, defaultdict(float)

    def pytest_collection_modifyitems(self, items):
        if self.chosen:
            named = {item.nodeid: item for item in items}
            items[:] = [named[name] for name in self.chosen if name in named]

    def pytest_runtest_logstart(self, nodeid):
        if self.cover:
            self.cover.switch_context(nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration


def run(package, tests, learn, sender):
    """In a fork: run tests against a copy of the package, and send what was learned."""
    os.setsid()
    sys.path.insert(0, str(package.parent))
    os.environ |= {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = not learn
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    files = {str(HERE.parent / test.split("::")[0]) for test in tests}
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--rootdir={HERE.parent}"]
    cover = coverage.Coverage(source=[str(package)], data_file=None, config_file=False)
    with cover.collect() if learn else contextlib.nullcontext():
        watch = Watch(None, cover) if learn else Watch(tests)
        failed = pytest.main([*sorted(files), *options], plugins=[watch])
    reach, data = {}, cover.get_data()
    for name in data.measured_files():
        for line, reached in data.contexts_by_lineno(name).items():
            reach[Path(name).relative_to(package), line] = reached
    warm = [name for name in sys.modules if name.split(".")[0] in WARM]
    sender.send((dict(watch.seconds), reach, warm) if learn else None)
    os._exit(failed)


def forked(package, tests, learn=False, limit=None):
    """The exit code of `run` in a fork (None if it took too long), and what it sent."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=run, args=(package, tests, learn, sender))
    process.start()
    sent = receiver.recv() if learn else None
    process.join(limit)
    code = process.exitcode
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its workers too
    process.join()
    return code, sent


def draw(parts, size, chance):
    """So many mutants of each folder, in random order."""
    every = defaultdict(list)
    for path in sorted({HOUSE / part for part in parts}):
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            every[file.relative_to(HOUSE).parts[0]] += mutants(file)
    drawn = [m for some in every.values() for m in chance.sample(some, min(size, len(some)))]
    return chance.sample(drawn, len(drawn))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="+", help="folders and files, relative to the package")
    parser.add_argument("--sample", type=int, default=40, help="how many mutants of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests, for a mutant")
    given = parser.parse_args()
    # One thread of BLAS would hide whether limits on it are lifted.
    os.environ |= {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "2", "MPLBACKEND": "agg"}
    drawn = draw(given.parts, given.sample, random.Random(given.seed))
    folders = {path.relative_to(HOUSE).parts[0] for path, *_ in drawn}
    names = {name for folder in folders for name in f"{TESTS[folder]} {ALWAYS}".split()}
    counts, listed = Counter(), equivalents()
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch, HOUSE.name)
        shutil.copytree(HOUSE, package, ignore=shutil.ignore_patterns("__pycache__"))
        failed, learned = forked(package, [f"tests/test_{name}.py" for name in names], learn=True)
        seconds, reach, warm = learned
        for module in warm:
            importlib.import_module(module)
        if failed or forked(package, sorted(seconds, key=seconds.get)[:50])[0]:
            sys.exit("The tests fail without any mutant: mend them first.")
        for path, lines, mutant in drawn:
            place = path.relative_to(HOUSE)
            if is_equivalent(listed, path, mutant):
                counts[place.parts[0], "equivalent"] += 1
                continue
            reached = set().union(*(reach.get((place, line), []) for line in lines))
            if "" in reached:  # at import: then what reaches the file
                reached = set().union(*(some for (file, _), some in reach.items() if file == place))
            tests = sorted(reached & set(seconds), key=seconds.get)
            spent = list(itertools.accumulate(seconds[test] for test in tests))
            tests = tests[: max(1, bisect.bisect(spent, given.seconds))]
            (package / place).write_bytes(mutant)
            limit = 30 + 3 * sum(map(seconds.get, tests))
            tests = sorted(tests, key=lambda test: test.split("::")[0])  # files set up once
            code = forked(package, tests, limit=limit)[0] if tests else 0
            shutil.copyfile(path, package / place)
            verdict = "killed" if code != 0 else "survived" if tests else "untested"
            counts[place.parts[0], verdict] += 1
            late = ", out of time" if code is None else ""
            print(f"{verdict} {place}:{lines[0]} ({len(tests)} tests{late})", flush=True)
            if code == 0:
                before, after = path.read_text().splitlines(), mutant.decode().splitlines()
                print(*list(difflib.unified_diff(before, after, lineterm="", n=1))[2:], sep="\n")
    print(f"\nsample {given.sample}, seed {given.seed}")
    print(f"{'':<14}killed  survived  untested  equivalent  score")
    for folder in sorted(folders):
        each = [counts[folder, v] for v in ("killed", "survived", "untested", "equivalent")]
        score = each[0] / max(1, sum(each[:3]))
        print("{:<14}{:>6}{:>10}{:>10}{:>12}{:>7.0%}".format(folder, *each, score))


if __name__ == "__main__":
    main()
