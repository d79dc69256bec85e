"""The command ``zoo-hooks``."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, releases, render, reports, settings
from zoo_hooks.model import Patch
from zoo_hooks.tool import ask, atlas, installation, survey, terminal
from zoo_hooks.tool.pins import Unreadable


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 if something is wrong, 2 for misuse."""
    options = _parser().parse_args(arguments)
    try:
        return terminal.ending_well(options.run, options)
    except (catalogue.UnknownPatch, Unreadable) as error:
        terminal.warn(str(error.args[0]))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo-hooks",
        description="Repairs of known bugs between ML libraries, made as those are imported.",
        epilog=f"ZOO_HOOKS: {settings.FORMS}. ZOO_HOOKS_STRICT=1: errors of a patch are raised.",
    )
    parser.add_argument("--version", action="version", version=zoo_hooks.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run, name, does, ids in (
        (_status, "status", "what each patch does in this environment", "*"),
        (_verify, "verify", "measure each bug without and with its repair", "*"),
        (_list, "list", "all patches: severity, bug, first release with it, releases without", None),
        (_show, "show", "the case report of a patch", 1),
        (_check, "check", "exit with 1 if a patch is FAILED or UNKNOWN here, for CI", "*"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        if ids:
            command.add_argument(
                "ids", nargs=ids, metavar="ID", help="a patch's id, or several: peft, gemma4-*"
            )
        command.set_defaults(run=run)
    ask.add(commands)
    return parser


def _status(options: argparse.Namespace) -> int:
    rows, broken, interrupted = _surveyed(options.ids)
    trouble = installation.start_up_trouble()
    misfits = list(releases.misfits(catalogue.upstreams()))
    if options.json:
        found = {"start_up": trouble, "misfits": misfits, "broken": broken, "patches": rows}
        terminal.show_json(found)
    else:
        terminal.warn(*broken)
        terminal.show(render.status_table(rows))
        terminal.warn(trouble, *misfits)
    return terminal.INTERRUPTED if interrupted else 0


def _check(options: argparse.Namespace) -> int:
    rows, broken, interrupted = _surveyed(options.ids)
    trouble = installation.start_up_trouble()
    damaged = installation.damaged_files()
    bad = [row for row in rows if row["status"] in ("FAILED", "UNKNOWN", "OVERWRITTEN")]
    if options.json:
        found = {"start_up": trouble, "damaged": damaged, "broken": broken, "patches": bad}
        terminal.show_json(found)
    else:
        terminal.warn(*damaged, *broken)
        if bad:
            terminal.show(render.status_table(bad))
        print(f"{len(rows)} patches, {len(bad)} FAILED, UNKNOWN or OVERWRITTEN")
        terminal.warn(trouble)
    if interrupted:
        return terminal.INTERRUPTED
    return 1 if bad or trouble or damaged or broken else 0


def _verify(options: argparse.Namespace) -> int:
    absent = {patch.id: missing for patch in _chosen(options.ids) if (missing := _missing(patch))}
    chosen = [patch for patch in _chosen(options.ids) if patch.id not in absent]
    rows, interrupted = terminal.with_progress(survey.verify(chosen), len(chosen), "measuring")
    rows += (
        []
        if interrupted
        else [
            {
                "id": patch_id,
                "upstream": catalogue.get(patch_id).upstream,
                "version": None,
                "measures": catalogue.get(patch_id).measures,
                "without": None,
                "with": None,
                "status": None,
                "result": f"cannot run here: {' and '.join(missing)} not installed",
            }
            for patch_id, missing in absent.items()
        ]
    )
    trouble = installation.start_up_trouble()
    bad = [row["id"] for row in rows if row["result"].isupper()]
    if options.json:
        terminal.show_json({"start_up": trouble, "interrupted": interrupted, "patches": rows})
    else:
        columns = ("id", "measures", "without", "with", "result")
        terminal.show(render.table(
            ("patch", "what is measured", "without", "with zoo-hooks", "result"),
            (["" if row[column] is None else str(row[column]) for column in columns] for row in rows),
        ))  # fmt: skip
        terminal.warn(trouble)
        terminal.warn(bad and f"does not hold: {', '.join(bad)}")
        terminal.warn(f"interrupted after {len(rows)} of {len(chosen)}" if interrupted else None)
    if interrupted:
        return terminal.INTERRUPTED
    return 1 if bad or trouble else 0


def _missing(patch: Patch) -> list[str]:
    claimed = sorted(releases.claimed_upstreams(patch))
    return [name for name in claimed if not find_spec(name.replace("-", "_"))]


def _list(options: argparse.Namespace) -> int:
    patches = catalogue.everything()
    if options.json:
        terminal.show_json({"patches": [_record(patch) for patch in patches]})
    else:
        terminal.show(render.table(
            ("patch", "severity", "bug", "first seen", "retired by"),
            ((p.id, p.severity, p.title, _first_seen(p), _retired(p)) for p in patches),
        ))  # fmt: skip
    return 0


def _show(options: argparse.Namespace) -> int:
    patch = catalogue.get(options.ids[0])
    if options.json:
        terminal.show_json(_record(patch))
        return 0
    print(f"{patch.id}: {patch.title}\n")
    print(f"severity   {patch.severity}")
    print(f"affects    {', '.join(patch.affects)}")
    print(f"first seen {_first_seen(patch)}")
    print(f"retired by {_retired(patch)}")
    print(f"installed  {releases.version(patch.upstream) or 'no'}")
    print(f"targets    {', '.join(patch.targets)}")
    print(f"measures   {patch.measures}")
    for symptom in patch.symptoms:
        print(f"symptom    {symptom}")
    for link in patch.links:
        print(f"link       {link}")
    print(f"\n{catalogue.case_report(patch)}")
    return 0


def _record(patch: Patch) -> dict[str, Any]:
    about = ("id", "upstream", "title", "severity", "symptoms", "targets", "affects", "links", "measures")
    return {name: getattr(patch, name) for name in (*about, "when", "requires")} | {
        "first_seen": atlas.read().first_seen(patch.id),
        "retired_by": releases.retired_by(patch),
        "case": catalogue.case_report(patch),
    }


def _first_seen(patch: Patch) -> str:
    first = atlas.read().first_seen(patch.id)
    return atlas.words(first) if first else "never measured"


def _retired(patch: Patch) -> str:
    return " or ".join(releases.retired_by(patch)) or "no release yet"


def _chosen(ids: list[str]) -> list[Patch]:
    named = dict.fromkeys(patch_id for word in ids for patch_id in catalogue.named(word))
    return [catalogue.get(patch_id) for patch_id in named] or catalogue.everything()


def _surveyed(ids: list[str]) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Rows of the report, what is broken in the upstreams themselves, and whether that was interrupted."""
    wanted = {patch_id for word in ids for patch_id in catalogue.named(word)}
    asked = {patch_id.partition("/")[0] for patch_id in wanted} or catalogue.upstreams()
    upstreams = [u for u in catalogue.upstreams() if u in asked and find_spec(u)]
    found, interrupted = terminal.with_progress(survey.statuses(upstreams), len(upstreams), "importing")
    rows = [row for some, _ in found for row in some]
    rows += [row for row in reports.report().as_dict() if row["upstream"] not in upstreams]
    broken = [trouble for _, trouble in found if trouble]
    return [row for row in rows if not wanted or row["id"] in wanted], broken, interrupted
