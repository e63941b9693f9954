"""Sphinx configuration; the build needs no network."""

import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from numpydoc.xref import DEFAULT_LINKS

import sklearn_maml

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sklearn_maml"
author = "The sklearn_maml developers"
copyright = f"2026, {author}"
version = release = sklearn_maml.__version__

extensions = [
    "katex",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

# Equations are numbered by the page of the theory that they are on.
numfig = True

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_maml"
html_math_renderer = "katex"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_sidebars = {"index": []}
html_theme_options = {"navbar_end": ["theme-switcher"], "show_toc_level": 2}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The API pages list what each public module names in __all__, and nothing else, topic by topic.
TOPICS = {
    "sklearn_maml": "Estimators",
    "sklearn_maml.adaptation": "Adaptation rules",
    "sklearn_maml.losses": "Losses",
    "sklearn_maml.solvers": "Solvers",
    "sklearn_maml.certificate": "Certificates",
    "sklearn_maml.model_selection": "Judging and choosing",
    "sklearn_maml.displays": "Displays",
    "sklearn_maml.datasets": "Data",
    "sklearn_maml.ntk": "Features of a wide network",
    "sklearn_maml.pooled_prediction": "Features of any regressor",
    "sklearn_maml.checks": "Checks for parts of your own",
}
FIRST = ["MAMLRegressor", "MAMLClassifier", "MAMLRegressorCV"]
found = [m.name for m in iter_modules(sklearn_maml.__path__) if not m.name.startswith("_")]
modules = [*TOPICS, *sorted({f"sklearn_maml.{name}" for name in found} - set(TOPICS))]
public = {module: import_module(module).__all__ for module in modules}
# An object has one page. What `sklearn_maml` exports too is named by that shorter path, and listed
# with its topic.
top = set(public.pop("sklearn_maml")) - set(FIRST)
topical = {name for names in public.values() for name in names} - set(FIRST)
topics = {"sklearn_maml": {"sklearn_maml": [*FIRST, *sorted(top - topical)]}}
for module, names in public.items():
    own = topical.intersection(names)
    topics[module] = {"sklearn_maml": sorted(own & top), module: sorted(own - top)}
titles = {m: TOPICS.get(m) or import_module(m).__doc__.split(":")[0] for m in modules}
autosummary_context = {"titles": titles, "topics": topics}
autodoc_typehints = "none"  # docstrings say more
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
DEFAULT_LINKS.clear()  # they lead to other projects' pages, over the network
numpydoc_xref_aliases = {
    name: f"{module}.{name}" for t in topics.values() for module, ns in t.items() for name in ns
}
numpydoc_xref_ignore = "all"
default_role = "py:obj"

# Every example is run, once, by the build; what fails stops it.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "gallery_order.Order",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_maml",),
    "only_warn_on_example_error": False,
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1,
}


def skip_request_method(app, what, name, obj, skip, options):
    """Leave out what scikit-learn's base classes define or generate, such as set_fit_request."""
    generated = name.startswith("set_") and name.endswith("_request")
    return skip or generated or str(getattr(obj, "__module__", "")).startswith("sklearn.") or None


def setup(app):
    app.connect("autodoc-skip-member", skip_request_method)
