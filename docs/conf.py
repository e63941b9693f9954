"""Sphinx configuration; the build needs no network."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import sklearn_maml

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sklearn_maml"
author = "The sklearn_maml developers"
copyright = f"2026, {author}"
version = release = sklearn_maml.__version__

extensions = ["mathml", "myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_maml"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["math.css"]
html_show_sourcelink = False
html_sidebars = {path.stem: [] for path in Path(__file__).parent.glob("*.md") if path.stem != "api"}
html_theme_options = {"show_prev_next": False, "navbar_end": ["theme-switcher"]}

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

# The API pages list what each public module names in __all__, and nothing else.
names = [m.name for m in iter_modules(sklearn_maml.__path__) if not m.name.startswith("_")]
modules = ["sklearn_maml", *(f"sklearn_maml.{name}" for name in names)]
public = {module: import_module(module).__all__ for module in modules}
# What `sklearn_maml` exports too has one page, there; two pages of one object are an error.
top = set(public["sklearn_maml"])
autosummary_context = {
    "own": {m: public[m] if m == "sklearn_maml" else sorted(set(public[m]) - top) for m in modules},
    "shared": {m: [] if m == "sklearn_maml" else sorted(set(public[m]) & top) for m in modules},
}
numpydoc_show_class_members = False


def skip_request_method(app, what, name, obj, skip, options):
    """Leave out what scikit-learn's base classes define or generate, such as set_fit_request."""
    generated = name.startswith("set_") and name.endswith("_request")
    return skip or generated or str(getattr(obj, "__module__", "")).startswith("sklearn.") or None


def setup(app):
    app.connect("autodoc-skip-member", skip_request_method)
