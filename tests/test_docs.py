"""What the documentation's pages are made of: all that is public, and formulas that render."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
from matplotlib.image import imread

import sklearn_maml

ROOT = Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/**/*.md"))
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")


def formulas(path):
    """The TeX of a page: of what is displayed, and of what stands in a line."""
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    return [(a or b, bool(a)) for a, b in FORMULA.findall(text)]


def page_of(formulas, tmp_path, script="''"):
    """A page of formulas with the documentation's KaTeX, and what a script makes of it."""
    static = (ROOT / "docs" / "_static" / "katex").as_uri()
    body = "".join(
        f'<div class="tex{" display" * shown}">{html.escape(tex)}</div>' for tex, shown in formulas
    )
    page = tmp_path / "page.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><link rel="stylesheet" '
        f'href="{static}/katex.min.css"><script src="{static}/katex.min.js"></script>'
        f'<script src="{static}/render.js"></script><body>{body}<pre id="out"></pre>'
        f"<script>window.onload = () => document.fonts.ready.then(() => "
        f"{{ out.textContent = {script} }})</script>",
        encoding="utf-8",
    )
    return page


def chromium(page, *options):
    """What headless Chromium prints of a page."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=20000", f"--user-data-dir={page.parent}/user", *options]
    run = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    return run.stdout


def rendered(formulas, tmp_path, script):
    """What a script says of formulas, after they are rendered."""
    dump = chromium(page_of(formulas, tmp_path, script), "--dump-dom")
    return html.unescape(re.search(r'<pre id="out">(.*?)</pre>', dump, re.DOTALL)[1])


def bands(tex, tmp_path):
    """The ink of a formula on a screenshot: (left, right) of each band of rows, from the top."""
    picture = tmp_path / "picture.png"
    page = page_of([(r"\Huge " + tex, False)], tmp_path)
    chromium(page, f"--screenshot={picture}", "--window-size=300,200")
    ink = imread(picture)[..., :3].min(axis=2) < 0.5
    rows = np.flatnonzero(ink.any(axis=1))
    found = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [tuple(np.flatnonzero(ink[band].any(axis=0))[[0, -1]]) for band in found]


def test_every_public_module_is_on_the_api_page():
    listed = re.findall(r"^ {3}(sklearn_maml[.\w]*)$", (ROOT / "docs/api.md").read_text(), re.M)
    public = [m.name for m in iter_modules(sklearn_maml.__path__) if not m.name.startswith("_")]
    assert sorted(listed) == sorted(["sklearn_maml", *(f"sklearn_maml.{m}" for m in public)])


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/plot_*.py")), ids=lambda p: p.stem)
def test_an_example_ends_with_how_to_read_its_figure(example):
    *_, last = example.read_text(encoding="utf-8").split("# %%\n")
    assert last.startswith("# How to read it: ")


def test_code_and_tests_that_the_theory_page_names_are_there():
    rows = re.findall(r"^\| .*? \| (.*?) \| (.*?) \|$", (ROOT / "docs/theory.md").read_text(), re.M)
    code = {name for row in rows for name in re.findall(r"`([/\w]+\.py)`", row[0])}
    tests = {name for row in rows for name in re.findall(r"`([/\w]+\.py)`", row[1])}
    assert len(code) > 8
    assert len(tests) > 8
    for name in code:
        assert list(ROOT.glob(f"sklearn_maml/**/{name}"))
    for name in tests:
        assert (ROOT / "tests" / name).exists()


@in_a_browser
def test_every_formula_is_one_that_katex_knows(tmp_path):
    found = [formula for page in PAGES for formula in formulas(page)]
    assert len(found) > 300
    errors = "[...document.querySelectorAll('.katex-error')].map(e => e.title).join('\\n')"
    assert rendered(found, tmp_path, errors) == ""
    assert "ParseError" in rendered([(r"\frac{1}", True)], tmp_path, errors)


@in_a_browser
def test_corollary_1_has_its_bars_its_sum_and_its_subscripts(tmp_path):
    (corollary,) = [tex for page in PAGES for tex, _ in formulas(page) if r"2 \bar R \inf" in tex]
    script = """JSON.stringify(['.katex-accent', '.op-symbol', '.msupsub'].map(c =>
        [...document.querySelectorAll(c)].map(e => e.textContent.replace(/\\u200b/g, ''))))"""
    barred, symbols, subscripts = json.loads(rendered([(corollary, True)], tmp_path, script))
    assert barred == ["Rˉ", "uˉ", "Rˉ"]
    assert symbols == ["∑"]
    assert {"η", "ρ", "i"} <= set(subscripts)


@in_a_browser
@pytest.mark.parametrize("letter", ["R", "u"])
def test_a_bar_is_seen_above_its_letter(letter, tmp_path):
    assert len(bands(letter, tmp_path)) == 1
    bar, below = bands(rf"\bar {letter}", tmp_path)
    assert below[0] <= bar[0] < bar[1] <= below[1] + 1
