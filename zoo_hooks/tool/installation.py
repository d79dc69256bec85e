"""Checks of the installation of zoo-hooks itself."""

from __future__ import annotations

import base64
import csv
import hashlib
import site
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import zoo_hooks


def start_up_trouble() -> str | None:
    """Say why zoo-hooks is not active at the start of Python; None if it is."""
    if zoo_hooks.switched_off():
        return "ZOO_HOOKS switches zoo-hooks off"
    if zoo_hooks.installed():
        return None
    places = [Path(place) for place in [*site.getsitepackages(), site.getusersitepackages()]]
    files = [place / "zoo_hooks.pth" for place in places if (place / "zoo_hooks.pth").exists()]
    if sys.flags.no_site:
        why = "Python was started with -S, so it reads no .pth files"
    elif not files:
        why = (
            f"there is no zoo_hooks.pth in {' or '.join(map(str, places))}; after pip install --target, in "
            "zip files and in copied packages it is missing, or lies where Python does not read it"
        )
    elif any("zoo_hooks.init" in file.read_text(errors="replace") for file in files):
        why = f"{files[0]} is there, but Python did not run it"
    else:
        why = f"{files[0]} has been overwritten"
    return (
        f"zoo-hooks is not active at the start of Python: {why}. Reinstall zoo-hooks, or begin the "
        "script with: import zoo_hooks; zoo_hooks.activate()"
    )


def damaged_files() -> list[str]:
    """A message for each file of zoo-hooks that was changed or removed after the installation."""
    import importlib_metadata

    try:
        distribution = importlib_metadata.distribution("zoo-hooks")
    except importlib_metadata.PackageNotFoundError:
        return []  # copied, or on PYTHONPATH: there is nothing to compare with
    damaged = []
    for name, digest, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        file = Path(str(distribution.locate_file(name)))
        method, _, expected = digest.partition("=")
        if not digest:  # bytecode, and the record itself
            continue
        if not file.is_file():
            damaged.append(f"{file} is missing; reinstall zoo-hooks")
        elif _digest(file, method) != expected:
            damaged.append(f"{file} was changed after the installation; reinstall zoo-hooks")
    return damaged


def look() -> dict[str, Any]:
    """Whether zoo-hooks is active in this Python and undamaged, and what else runs at its start."""
    return {
        "version": zoo_hooks.__version__,
        "trouble": start_up_trouble(),
        "damaged": damaged_files(),
        "starts": starts(),
    }


def starts() -> list[str]:
    """Files of this environment that run code at each start of Python."""
    places = dict.fromkeys(Path(place) for place in (*site.getsitepackages(), site.getusersitepackages()))
    files = [file for place in places for file in sorted(place.glob("*.pth")) if _runs_code(file)]
    custom = [find_spec(name) for name in ("sitecustomize", "usercustomize")]
    return [*map(str, files), *(str(spec.origin) for spec in custom if spec)]


def _runs_code(file: Path) -> bool:
    lines = file.read_text(errors="replace").splitlines()
    return any(line.startswith(("import ", "import\t")) for line in lines)


def _digest(file: Path, method: str) -> str:
    return base64.urlsafe_b64encode(hashlib.new(method, file.read_bytes()).digest()).rstrip(b"=").decode()
