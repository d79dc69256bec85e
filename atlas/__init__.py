"""Measures every patch on real releases of its upstreams, and writes ``zoo_hooks/atlas.json``.

A tool of this repository, not of the package: ``python -m atlas --help``.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
