"""What a patch is made of, in a word, so that a change of it is known to need a new measurement."""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

_parsed = functools.cache(ast.parse)
PATCHES = Path(__file__).parents[1] / "zoo_hooks" / "patches"
PREFIX = "zoo_hooks.patches."
TOLD = ("title", "affects", "links", "measures", "severity", "symptoms", "guard")
"""Fields of a record that are told to people, and decide nothing."""


def digests(folder: Path = PATCHES) -> dict[str, str]:
    """Twelve hexadecimal digits by the id of each patch: of its module, and of the helpers that it imports.

    Docstrings, those of names too, and fields of the record that only people read do not count.
    """
    found = {}
    for file in sorted(folder.glob("*/[!_]*.py")):
        parts = sorted(_closure(file, folder))
        text = "\n".join(line for part in parts for line in _code(part))
        patch = f"{file.parent.name}/{file.stem.replace('_', '-')}"
        found[patch] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return found


def digests_at(revision: str) -> dict[str, str]:
    """The same as of a commit; CalledProcessError if git knows no such commit."""
    packed = subprocess.run(
        ["git", "archive", revision, str(PATCHES.relative_to(PATCHES.parents[1]))],
        cwd=PATCHES.parents[1], capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
        return digests(Path(folder, "zoo_hooks", "patches"))


def _code(file: Path) -> Iterator[str]:
    """Lines of a module that have an effect on what is measured."""
    source = file.read_text(encoding="utf-8")
    told: set[int] = set()
    for node in ast.walk(_parsed(source)):
        if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) or (
            isinstance(node, ast.keyword) and node.arg in TOLD
        ):  # a docstring, of a name too
            told.update(_lines(node))
    for number, line in enumerate(source.splitlines(), 1):
        if number not in told and line.strip():
            yield line


def _lines(node: ast.stmt | ast.keyword) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _closure(file: Path, folder: Path) -> set[Path]:
    found, waiting = set(), [file]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += _imported(one, folder)
    return found


def _imported(file: Path, folder: Path) -> Iterator[Path]:
    for node in ast.walk(_parsed(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            helper = folder / f"{name.removeprefix(PREFIX).replace('.', '/')}.py"
            if name.startswith(PREFIX) and helper.is_file():
                yield helper
