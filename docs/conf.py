"""Sphinx's configuration. What is rendered from the code is rendered before the pages are read."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import render_catalogue
from sphinx.application import Sphinx

import zoo_hooks

render_catalogue.write_generated()

project = "zoo-hooks"
author = "the zoo-hooks contributors"
release = version = zoo_hooks.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "generated"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # so that pages can link to each other's sections
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
html_theme = "furo"
html_static_path = ["_static"]
html_title = f"zoo-hooks {release}"


def setup(app: Sphinx) -> None:
    """Only the atlas page loads what it needs."""
    app.connect("html-page-context", _with_assets)


def _with_assets(app: Sphinx, page: str, *_: object) -> None:
    if page == "atlas":
        app.add_css_file("atlas.css")
        app.add_js_file("atlas.js", loading_method="defer")
