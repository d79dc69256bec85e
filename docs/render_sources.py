"""Renders what other files say of the patches: the targets, the patches of each, mypy's list of upstreams."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from zoo_hooks.model import Patch

ROOT = Path(__file__).resolve().parents[1]
START_UP = ROOT / "zoo_hooks" / "__init__.py"
BY_TARGET = ROOT / "zoo_hooks" / "targets.py"
PROJECT = ROOT / "pyproject.toml"
BESIDE = ("mlx", "numpy", "pypi_simple", "safetensors", "tokenizers", "torchcodec", "uv")
"""Packages that are imported too, and are not there where types are checked."""


def with_targets(source: str, patches: Iterable[Patch]) -> str:
    """The start-up module with the targets of these patches."""
    patches = list(patches)
    every = {target for patch in patches for target in patch.targets}
    early = {target for patch in patches for target in patch.targets if patch.when == "before"}
    roots: dict[str, list[str]] = {}
    for target in sorted(every):
        roots.setdefault(target.partition(".")[0], []).append(target)
    lines = "".join(
        f'    "{root}": (\n' + "".join(f'        " {name} "\n' for name in names) + "    ),\n"
        for root, names in roots.items()
    )
    source = _replaced(source, r"(^TARGETS = \{\n).*?(^\})", lines)
    lines = "".join(f'        "{target}",\n' for target in sorted(early))
    return _replaced(source, r"(^BEFORE = frozenset\(\n    \{\n).*?(^    \})", lines)


def with_patches(source: str, patches: Iterable[Patch]) -> str:
    """The module that says which patches a target has, of those in the folder of its upstream."""
    found: dict[str, list[str]] = {}
    for patch in patches:
        for target in patch.targets:
            if target.partition(".")[0] == patch.upstream:
                found.setdefault(target, []).append(patch.module.rpartition(".")[2])
    lines = "".join(
        f'    "{target}": "{" ".join(sorted(names))}",\n' for target, names in sorted(found.items())
    )
    return _replaced(source, r"(^PATCHES = \{\n).*?(^\})", lines)


def with_untyped(project: str, patches: Iterable[Patch]) -> str:
    """The project's file with the packages whose types mypy is not to look for."""
    names = sorted({patch.upstream for patch in patches} | set(BESIDE))
    lines, line = [], " "
    for name in names:
        if len(line) + len(name) > 100:  # noqa: PLR2004 - as wide as the file
            lines, line = [*lines, line], " "
        line += f' "{name}.*",'
    return _replaced(
        project, r"(\[\[tool\.mypy\.overrides\]\]\nmodule = \[\n).*?(^\])", "\n".join([*lines, line, ""])
    )


FILES = {START_UP: with_targets, BY_TARGET: with_patches, PROJECT: with_untyped}


def write(patches: Iterable[Patch]) -> None:
    """Renew the files; an unchanged one is not touched."""
    patches = list(patches)
    for file, render in FILES.items():
        text = file.read_text(encoding="utf-8")
        if (made := render(text, patches)) != text:
            file.write_text(made, encoding="utf-8")


def _replaced(text: str, between: str, new: str) -> str:
    made, times = re.subn(
        between, lambda match: match[1] + new + match[2], text, flags=re.MULTILINE | re.DOTALL
    )
    if times != 1:
        raise ValueError(f"{between} is there {times} times")
    return made
