"""Sphinx configuration of the documentation. `make docs` builds it without a network."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "scaling-laws-lab"
author = "The scaling-laws-lab authors"
copyright = author
version = release = installed("scaling-laws-lab")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "generated",
    "mathml",
    "offline",
]
exclude_patterns = ["_ext", "**.ipynb_checkpoints"]
pygments_style = "tango"

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "off"  # `make notebooks` stores the outputs, and the tests run them again
nb_merge_streams = True

add_module_names = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
toc_object_entries = False
python_use_unqualified_type_names = True

copybutton_exclude = ".linenos, .gp, .go"
