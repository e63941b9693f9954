"""The Python code shown in the README and the documentation runs, top to bottom, file by file."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    if "```python\n" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace = {}
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, block.start(1))
        # The newlines put the page's own line numbers into a traceback.
        exec(compile("\n" * line + block[1], page, "exec"), namespace)


def test_the_readme_is_among_the_pages():
    assert "README.md" in PAGES
