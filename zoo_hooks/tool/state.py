"""The commands that import what is installed: status, check, verify."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, releases, render, reports
from zoo_hooks.model import Patch
from zoo_hooks.tool import installation, survey, terminal

RESULTS = ("DOES NOT HOLD", "NO SYMPTOM", "repaired", "repaired by another patch")
"""The results that verify shows, in this order; --all shows the rest."""


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    for run, name, does in (
        (_status, "status", "show the status of each patch in this environment"),
        (_verify, "verify", "measure each bug without and with its repair"),
        (_check, "check", "for CI: exit with 1 if a patch is FAILED, UNKNOWN or OVERWRITTEN"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        command.add_argument("ids", nargs="*", metavar="ID", help="patch ids or patterns: peft, gemma4-*")
        if run is not _check:
            command.add_argument("--all", action="store_true", help="also show what needs no attention")
        else:
            command.add_argument("--require", action="append", default=[], metavar="ID",
                                 help="exit with 1 unless this patch is APPLIED or NOT_NEEDED")  # fmt: skip
        command.set_defaults(run=run)


def _status(options: argparse.Namespace) -> int:
    rows, broken, interrupted = _surveyed(options.ids)
    trouble = installation.start_up_trouble()
    misfits = list(releases.misfits(catalogue.upstreams()))
    if options.json:
        found = {"start_up": trouble, "misfits": misfits, "broken": broken, **_figures(rows), "patches": rows}
        terminal.show_json(found)
    else:
        terminal.warn(*broken)
        print(terminal.folded(render.summary(rows)))
        here = rows if options.ids else [row for row in rows if render.state(row) != "NOT_INSTALLED"]
        shown = here if options.ids or options.all else [row for row in here if render.is_shown(row)]
        _show(render.statuses(shown), len(here) - len(shown))
        terminal.warn(trouble, *misfits)
    return terminal.INTERRUPTED if interrupted else 0


def _check(options: argparse.Namespace) -> int:
    required = {patch_id for word in options.require for patch_id in catalogue.named(word)}
    rows, broken, interrupted = _surveyed(options.ids and [*options.ids, *required])
    trouble = installation.start_up_trouble()
    damaged = installation.damaged_files()
    bad = [row for row in rows if row["status"] in render.ATTENTION]
    unmet = [
        f"{row['id']} is {row['status']}: {row['reason']}"
        for row in rows
        if row["id"] in required and row["status"] not in ("APPLIED", "NOT_NEEDED")
    ]
    if options.json:
        found = {"start_up": trouble, "damaged": damaged, "broken": broken, "unmet": unmet}
        terminal.show_json({**found, **_figures(rows), "patches": bad})
    else:
        terminal.warn(*damaged, *broken, *unmet)
        here = any(render.state(row) != "NOT_INSTALLED" for row in rows)
        print(terminal.folded(render.summary(rows) if here else _none(rows)))
        _show(render.statuses(bad))
        terminal.warn(trouble)
    if interrupted:
        return terminal.INTERRUPTED
    return 1 if bad or trouble or damaged or broken or unmet else 0


def _none(rows: list[dict[str, Any]]) -> str:
    names = sorted({name for row in rows for name in row["missing"]})
    return f"0 of {len(rows)} apply here: none of {', '.join(names)} is installed"


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of the rows, and the versions."""
    versions = {row["upstream"]: row["version"] for row in rows if row["version"]}
    versions |= {"python": platform.python_version(), "zoo-hooks": zoo_hooks.__version__}
    return {"counts": render.counts(rows), "versions": versions}


def _verify(options: argparse.Namespace) -> int:
    asked = catalogue.select(options.ids) or catalogue.everything()
    missing = {patch.id: names for patch in asked if (names := _missing(patch))}
    chosen = [patch for patch in asked if patch.id not in missing]
    began = time.monotonic()
    rows, interrupted = terminal.with_progress(survey.verify(chosen), len(chosen), "measuring", _line)
    rows.sort(key=lambda row: RESULTS.index(row["result"]) if row["result"] in RESULTS else len(RESULTS))
    bad = [row["id"] for row in rows if row["result"].isupper()]
    absent = (
        [] if interrupted else [_absent(patch, missing[patch.id]) for patch in asked if patch.id in missing]
    )
    trouble = installation.start_up_trouble()
    if options.json:
        terminal.show_json({"start_up": trouble, "interrupted": interrupted, "patches": rows + absent})
    else:
        print(terminal.folded(f"{_answer(rows, len(absent))}; {time.monotonic() - began:.0f} s"))
        eyes = rows + absent if options.ids or options.all else [r for r in rows if r["result"] in RESULTS]
        hidden = len(rows) - sum(row in rows for row in eyes)
        columns = ("id", "result", "without", "with", "measures")
        cells = [tuple("" if row[name] is None else str(row[name]) for name in columns) for row in eyes]
        headers = ("patch", "result", "without", "with zoo-hooks", "what is measured")
        _show(render.Grid(headers, cells), hidden)
        terminal.warn(trouble)
        terminal.warn(bad and f"these repairs do not hold: {', '.join(bad)}")
        terminal.warn(f"interrupted after {len(rows)} of {len(chosen)}" if interrupted else None)
    if interrupted:
        return terminal.INTERRUPTED
    return 1 if bad or trouble else 0


def _line(row: Mapping[str, Any]) -> str:
    return f"{row['result']:<14} {row['id']}: {row['without']} -> {row['with']}"


def _answer(rows: list[dict[str, Any]], absent: int) -> str:
    repaired = sum(row["result"].startswith("repaired") for row in rows)
    failed = sum(row["result"].isupper() for row in rows)
    needless = sum(row["result"] == "not needed" for row in rows)
    lacking = len(rows) - repaired - failed - needless
    words = [f"{repaired} repaired", f"{needless} not needed", f"{failed} failed"]
    words += [f"{lacking} for parts that the installed releases lack"] if lacking else []
    return ", ".join(words) + render.elsewhere(absent)


def _absent(patch: Patch, missing: list[str]) -> dict[str, Any]:
    """The row of a patch that cannot be measured here."""
    unknown = dict.fromkeys(("version", "without", "with", "status", "trace"))
    result = f"cannot run here: {' and '.join(missing)} not installed"
    about = {"id": patch.id, "upstream": patch.upstream, "measures": patch.measures}
    return {**about, **unknown, "result": result}


def _missing(patch: Patch) -> list[str]:
    claimed = sorted(releases.claimed_upstreams(patch))
    return [name for name in claimed if not find_spec(name.replace("-", "_"))]


def _show(grid: render.Grid, more: int = 0) -> None:
    if grid.rows:
        print()
        terminal.show(grid)
    if more:
        print(f"\n--all shows {more} more")


def _surveyed(ids: list[str]) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Rows of the report, upstreams that cannot be imported, and whether this was interrupted."""
    wanted = {patch_id for word in ids for patch_id in catalogue.named(word)}
    asked = {patch_id.partition("/")[0] for patch_id in wanted} or catalogue.upstreams()
    upstreams = [u for u in catalogue.upstreams() if u in asked and find_spec(u)]
    results = survey.statuses(upstreams, wanted)
    found, interrupted = terminal.with_progress(results, len(upstreams), "importing")
    rows = [row for some, _ in found for row in some]
    rows += [row for row in reports.report().as_dict() if row["upstream"] not in upstreams]
    broken = [trouble for _, trouble in found if trouble]
    return [row for row in rows if not wanted or row["id"] in wanted], broken, interrupted
