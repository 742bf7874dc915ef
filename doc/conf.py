"""Sphinx configuration: ``sphinx-build -W -b html doc doc/_build/html``."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the examples train tiny networks

import chart  # noqa: E402
import tables  # noqa: E402

from skdeepcluster import __version__  # noqa: E402

tables.write(HERE / "generated")
chart.write(HERE / "generated")

project = "skdeepcluster"
author = "The skdeepcluster developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/*.inc"]
default_role = "code"

autosummary_generate = True
autodoc_typehints = "none"
# the templates list the methods; numpydoc would list those of every base class
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"benchmarks",
    "within_subsection_order": "FileNameSortKey",
    "reset_argv": "tables.quick",
    "download_all_examples": False,
    "show_memory": False,
    "abort_on_example_error": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skdeepcluster {version}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"start": [], "changelog": []}
