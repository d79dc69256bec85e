"""Finishes an environment of the matrix and runs its tests, as ``tests/cells.toml`` says: ``tox -e NAME``.

tox has made it, with zoo-hooks as its wheel installs it. More words are handed to each run of pytest.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TABLE: dict[str, Any] = tomllib.loads((ROOT / "tests" / "cells.toml").read_text())
DEFAULT = {
    "label": "matrix",
    "with": [],
    "over": ["base"],
    "env": {},
    "before": [],
    "run": ["{verdicts}"],
}


def cells() -> dict[str, dict[str, Any]]:
    """The row of each cell, with what goes without saying."""
    return {
        name: {"releases": _releases(name), **DEFAULT, **row}
        for row in TABLE["cells"]
        for names in row["names"]
        for name in _expanded(names)
    }


def _expanded(names: str) -> list[str]:
    """Each text that braces with alternatives stand for."""
    parts = [part.split(",") for part in re.split(r"[{}]", names)]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _releases(name: str) -> list[str]:
    """``peft-0.19.1-transformers-5.24.0`` as requirements."""
    return [f"{name}=={version}" for name, version in re.findall(r"([a-z][a-z-]*?)-(\d[^-]*)", name)]


def main() -> int:
    """Exit status 1 if anything that is run has another one than 0."""
    name, *words = sys.argv[1:]
    row = cells()[name]
    os.environ.pop("UV_CONFIG_FILE", None)  # with which nothing that a release needs would be resolved
    places = {key: os.environ[f"CELL_{key.upper()}"] for key in ("tmp", "work")}
    places["name"] = name.partition("-")[0]
    places |= {key: text.format(**places) for key, text in TABLE["short"].items()}
    environ = {**os.environ, **{key: text.format(**places) for key, text in row["env"].items()}}

    if not row["over"]:  # it brings its own pytest, and what zoo-hooks needs
        own = ["importlib-metadata", "packaging", "rich"]
        _run(["uv", "pip", "install", "--group", "test", *own], environ)
    _share([Path(places["work"], other) for other in row["over"]])
    if wishes := row["releases"] + row["with"]:
        sys.path.append(str(ROOT))
        from atlas.cells import resolved

        _run(["uv", "pip", "install", "--no-deps", *resolved(wishes, TABLE["day"])], environ)
    for what in row["before"]:
        tool, version = what.split()
        _run(shlex.split(TABLE["install"][tool].format(version=version, **places)), environ)

    statuses = []
    for line in row["run"]:
        command = shlex.split(line.format(**places))
        environ.pop("PYTHONPATH", None)
        if command[0].startswith("PYTHONPATH="):
            environ["PYTHONPATH"] = command.pop(0).partition("=")[2]
        more = words if command[0] == "pytest" else []
        statuses.append(_run([*command, *more], environ, check=False))
    return int(any(statuses))


def _share(environments: list[Path]) -> None:
    """Let this environment import what these have, after what it has itself."""
    sites = [site for one in environments for site in one.glob("[Ll]ib/**/site-packages")]
    assert len(sites) == len(environments), f"make {environments} first"
    own = next(Path(sys.prefix).glob("[Ll]ib/**/site-packages"))
    (own / "zz_base.pth").write_text("".join(f"{site}\n" for site in sites))
    sys.path += map(str, sites)


def _run(command: list[str], environ: dict[str, str], *, check: bool = True) -> int:
    program = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest"]}
    print("$", shlex.join(command), flush=True)
    return subprocess.run(
        [*program.get(command[0], [command[0]]), *command[1:]], cwd=ROOT, env=environ, check=check
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
