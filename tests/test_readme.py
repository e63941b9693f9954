"""What the README and the documentation show: code runs, top to bottom, and prints what it says."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    if "```python\n" in path.read_text(encoding="utf-8")
)
# A block of code and, where a block of text follows at once, what it prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")
MOST_BYTES = 60 * 1024


def assert_the_same(printed, shown):
    """The same words, and the same numbers but for what another machine rounds otherwise."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    numbers = [np.array(NUMBER.findall(text), dtype=float) for text in (printed, shown)]
    np.testing.assert_allclose(*numbers, rtol=5e-3, atol=0.011)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_runs_and_prints_what_the_page_shows(
    page, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        # The newlines put the page's own line numbers into a traceback.
        exec(compile("\n" * line + block[1], page, "exec"), namespace)
        printed = capsys.readouterr().out
        if block[2] is not None:
            assert_the_same(printed, block[2])


def test_the_readme_is_among_the_pages():
    assert "README.md" in PAGES


def test_badges_tell_the_truth():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = {
        name: (ROOT / "docs" / "_static" / f"{name}.svg").read_text(encoding="utf-8")
        for name in ("licence", "python")
    }
    assert f">{project['license']}<" in shown["licence"]
    assert f">{project['requires-python'].replace('>=', '≥ ')}<" in shown["python"]


def test_output_that_is_not_what_the_page_shows_is_noticed():
    assert_the_same("mean [82.3 53.8]\n", "mean [82.31  53.8]")
    for shown in ("mean [83.0 53.8]", "means [82.3 53.8]", "mean [82.3]"):
        with pytest.raises(AssertionError):
            assert_the_same("mean [82.3 53.8]\n", shown)


def test_files_that_the_readme_shows_are_there_and_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert shown
    for path in shown:
        assert (ROOT / path).stat().st_size <= MOST_BYTES
