"""Environments with given releases, over one shared base with torch. Each is built once and kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import tomllib
import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atlas import ROOT

ENVIRONMENTS = ROOT / ".tox"
BASE = ENVIRONMENTS / "base"
CELLS = ENVIRONMENTS / "cells"
UV = uv.find_uv_bin()
TABLE: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "cells.toml").read_text())
FROM_BASE = ("accelerate", "bitsandbytes", "numpy", "torch", "triton")
"""What cells take from the base, unless they are about it: it is large, or built for what is there."""


class Conflict(Exception):
    """These releases cannot be installed together; the message is the resolver's reason."""


def python(releases: Mapping[str, str], day: date) -> Path:
    """The interpreter of a cell with these releases, all else as of that day; Conflict if it cannot be."""
    rows = [TABLE.get(name, {}) for name in releases]
    shared = [BASE, *(ENVIRONMENTS / row["over"] for row in rows if "over" in row)]
    for environment in shared:
        if not (environment / "bin" / "python").exists():
            sys.exit(f"atlas: {environment} is not there; tox run -e {environment.name} makes it")
    releases = {name: version for name, version in releases.items() if name != "torch"}  # it is the base's
    cell = CELLS / "_".join(f"{name}-{version}" for name, version in sorted(releases.items()))
    interpreter = cell / "bin" / "python"
    if (cell / "built").exists():
        return interpreter
    pins = resolved([f"{name}=={version}" for name, version in releases.items()], day)
    _run(UV, "venv", "--quiet", "--clear", "--python", BASE / "bin" / "python", cell)
    (site,) = cell.glob("lib/python*/site-packages")
    sites = [str(one) for other in shared for one in other.glob("lib/python*/site-packages")]
    (site / "zz_base.pth").write_text("\n".join([*sites, ""]))
    words: list[str] = []
    variables = dict(os.environ)
    for name in releases:
        if (needed := TABLE.get(name, {}).get("source")) is not None:
            words += ["--no-build-isolation-package", name, "--no-binary", name]
            pins.append(f"{name}=={releases[name]}")
            variables |= needed
    install = (UV, "pip", "install", "--quiet", "--no-deps", "--python", interpreter)
    _run(*install, *words, *pins, env=variables)
    (cell / "built").touch()
    return interpreter


def resolved(requirements: Iterable[str], day: date) -> list[str]:
    """Pins of all that an environment over the base has to have itself; Conflict if there is no such set."""
    wishes = list(requirements)
    named = [canonicalize_name(Requirement(wish).name) for wish in wishes]
    wishes = [wish for wish, name in zip(wishes, named, strict=True) if "source" not in TABLE.get(name, {})]
    without = set(FROM_BASE).difference(named)
    for name in named:
        row = TABLE.get(name, {})
        wishes += [more for more in row.get("with", []) if Requirement(more).name not in named]
        without.update(row.get("without", []))
    try:
        said = _run(
            UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", BASE / "bin/python",
            "--exclude-newer", str(day + timedelta(days=2)), "-", input="\n".join(wishes),
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise Conflict(_reason(error.stderr)) from None
    pins = [line for line in said.splitlines() if line and not line.startswith(("#", "-"))]
    names = {pin: canonicalize_name(Requirement(pin).name) for pin in pins}
    return [
        pin
        for pin, name in names.items()
        if name not in without and not name.startswith(("cuda-", "nvidia-"))
    ]


def _reason(said: str) -> str:
    words = " ".join(said.split("hint:", maxsplit=1)[0].split())
    return re.sub(r"^.*?(cause:|╰─▶)\s*", "", words)[:300]


def _run(*command: str | Path, **options: Any) -> str:
    words = list(map(str, command))
    run = subprocess.run(words, capture_output=True, text=True, check=True, **options)
    return str(run.stdout)
