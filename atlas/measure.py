"""Asks the command ``zoo-hooks`` of this checkout, in a cell, what it sees of patches there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from atlas import ROOT
from zoo_hooks import catalogue
from zoo_hooks.releases import claimed_upstreams
from zoo_hooks.tool.atlas import Seen

LONGEST = 60
"""Characters of a figure that are kept."""
MEANING = {"APPLIED": "AFFECTED", "NOT_NEEDED": "FIXED", "UNKNOWN": "UNKNOWN", "FAILED": "FAILED"}
SITE = "/venv/lib/python3.11/site-packages/"
PLACES = {
    rf"{tempfile.gettempdir()}/(tmp[^/]+/)+": SITE,
    r"/[^\s'\"]*/site-packages/": SITE,
    r"/(?!venv/)[^\s'\"]*/lib/python3\.\d+/": "/usr/lib/python3.11/",
}
"""Paths of a machine in what upstreams say, and what is recorded in place of them."""
VERSIONS = """
import json, platform, sys
from importlib.metadata import distributions
found = {one.name: one.version.partition("+")[0] for one in reversed(list(distributions()))}
print(json.dumps([platform.python_version(), found]))
"""


def probed(cell: Path, patches: Iterable[str], digests: dict[str, str]) -> dict[str, Seen]:
    """What the probe of each patch says in a cell; patches whose upstreams are not all there are left out."""
    python, there = _versions(cell)
    distributions = {
        patch: sorted(map(canonicalize_name, claimed_upstreams(catalogue.get(patch)))) for patch in patches
    }
    here = [patch for patch, names in distributions.items() if all(name in there for name in names)]
    rows = {row["id"]: row for row in _asked(cell, "status", here)["patches"]} if here else {}
    seen = {}
    for patch in here:
        own = canonicalize_name(patch.partition("/")[0])
        releases: dict[str, str] = {own: there[own]}
        releases |= {name: there[name] for name in distributions[patch] if name != own}
        status, reason = rows[patch]["status"], rows[patch]["reason"]
        verdict = MEANING.get(status) or ("ABSENT" if _is_absent(patch, reason) else "UNKNOWN")
        if verdict in ("UNKNOWN", "FAILED"):
            print(f"  {patch} on {releases}: {status}, {reason}", flush=True)
        seen[patch] = Seen(releases, verdict, None, None, digests[patch], python, _today())
    return seen


def with_figures(cell: Path, seen: dict[str, Seen], *, traces: bool = True) -> dict[str, Seen]:
    """The same with the canary's figures, without and with the hooks.

    A canary that does not show what the probe says makes the verdict FAILED. With ``traces``, tracebacks of
    new crashes are written.
    """
    found = dict(seen)
    asked = [patch for patch, one in seen.items() if one.verdict in ("AFFECTED", "FIXED")]
    for row in _asked(cell, "verify", asked)["patches"] if asked else ():
        one = seen[row["id"]]
        if row["result"].startswith("cannot run here"):
            continue
        right = {"AFFECTED": ("repaired",), "FIXED": ("not needed", "repaired by another patch")}
        raises = row["without"] == row["with"] and "Error: " in str(
            row["with"]
        )  # nothing that it could measure
        holds = row["result"] in right[one.verdict] or (one.verdict == "FIXED" and raises)
        if not holds:
            print(f"  {row['id']} on {one.releases}: {one.verdict}, but {row}", flush=True)
        if traces and holds and one.verdict == "AFFECTED" and row["trace"]:
            _keep(row["id"], row["trace"])
        found[row["id"]] = one._replace(
            verdict=one.verdict if holds else "FAILED",
            without=_short(row["without"]),
            repaired=_short(row["with"]),
        )
    return found


def _keep(patch: str, trace: str) -> None:
    """Record the error that a bug raises, without source lines and paths, unless one is there."""
    file = ROOT / "tests" / "tracebacks" / f"{patch.replace('/', '__')}.txt"
    if file.exists() or not catalogue.get(patch).symptoms:
        return
    noise = ("    ", '  File "<', f'  File "{ROOT}/zoo_hooks/')
    lines = [line for line in trace.splitlines() if not line.startswith(noise)]
    file.write_text(_anywhere("\n".join([*lines, ""])), encoding="utf-8")
    print(f"  written: {file.relative_to(ROOT)}", flush=True)


def _is_absent(patch: str, reason: str) -> bool:
    """Tell whether a patch is pending for a module that these releases of its upstreams do not have."""
    record = catalogue.get(patch)
    upstreams = {name.replace("-", "_") for name in claimed_upstreams(record)}
    roots = "|".join({module.partition(".")[0] for module in (*record.targets, *record.requires)} | upstreams)
    return bool(re.search(rf"No module named '({roots})\b|waits for|({roots}) \S+ has no ", reason))


def _versions(cell: Path) -> tuple[str, dict[str, str]]:
    said = subprocess.run([cell, "-c", VERSIONS], capture_output=True, text=True, check=True, env=_clean())
    python, found = json.loads(said.stdout)
    return python, {canonicalize_name(name): version for name, version in found.items()}


def _asked(cell: Path, command: str, patches: list[str]) -> Any:
    run = subprocess.run(
        [cell, "-m", "zoo_hooks", command, "--json", *patches],
        capture_output=True, text=True, check=False, env=_clean(), cwd=ROOT,
    )  # fmt: skip
    if not run.stdout:
        raise RuntimeError(f"{command} in {cell}: exit status {run.returncode}\n{run.stderr}")
    return json.loads(run.stdout)


def _clean() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("ZOO_HOOKS", "PYTHON"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _short(figure: Any) -> str:
    text = f"{figure:.3g}" if isinstance(figure, float) else _anywhere(" ".join(str(figure).split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _anywhere(text: str) -> str:
    """The same as another machine would print it."""
    for place, instead in PLACES.items():
        text = re.sub(place, instead, text)
    return text


def _today() -> str:
    return datetime.now(tz=timezone.utc).date().isoformat()
