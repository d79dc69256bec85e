"""The commands that answer from the atlas: audit, plan, explain, osv."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from zoo_hooks import render
from zoo_hooks.model import SEVERITIES
from zoo_hooks.releases import fixed_in
from zoo_hooks.tool import atlas, audit, explain, findings, installation, osv, plan, requirements, terminal
from zoo_hooks.tool.audit import Answer, Finding
from zoo_hooks.tool.pins import Asked, Unreadable, parsed

WORDS = "a release, such as transformers==5.24.0, or a pylock.toml, uv.lock, poetry.lock or requirements file"


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    command = _command(commands, _audit, "audit", "list known bugs of a set of releases, and what fixes each")
    command.add_argument("words", nargs="*", metavar="RELEASE", help=f"{WORDS}; default: what is installed")
    command.add_argument("--strict", action="store_true", help="exit with 1 for repaired bugs too")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0, for code scanning")
    form.add_argument("--github", action="store_true", help="print annotations for GitHub's runs")
    command = _command(commands, _plan, "plan", "show what an upgrade fixes and breaks, or the best releases")
    command.add_argument("words", nargs="+", metavar="RELEASE", help=WORDS)
    command.add_argument("--best", action="store_true", help="find the newest releases of these packages")
    command = _command(commands, _explain, "explain", "say which known bug caused a traceback")
    command.add_argument("file", nargs="?", help="a file with the traceback; default: standard input")
    command = commands.add_parser("osv", help="write the patches as OSV records", description=osv.__doc__)
    command.add_argument("folder", type=Path, help="the folder to write a file for each patch into")
    command.set_defaults(run=_osv)


def _command(commands: Any, run: Any, name: str, does: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--python", help="use the environment of this interpreter")
    if name != "explain":
        command.add_argument("-r", "--requirement", action="append", default=[], metavar="FILE",
                             help="a requirements or lock file")  # fmt: skip
    command.set_defaults(run=run)
    return command


def _audit(options: argparse.Namespace) -> int:
    asked = _asked(options, options.words)
    answer = audit.audit(asked, atlas.read(), _trouble(asked, options))
    if options.sarif:
        print(json.dumps(findings.sarif(answer, strict=options.strict), indent=2))
    elif options.github:
        sys.stdout.writelines(f"{line}\n" for line in findings.github(answer, strict=options.strict))
    elif options.json:
        terminal.show_json(answer.as_dict())
    else:
        _show(answer.findings)
        print(f"{asked.where}: {_count(answer)}")
    _notes(answer)
    return int(bool(answer.findings if options.strict else answer.left))


def _plan(options: argparse.Namespace) -> int:
    measured = atlas.read()
    if options.best:
        return _best(options, measured)
    now = _asked(options, [])
    upgrade = requirements.asked(options.words, [], audit.known(measured), options.python)
    if upgrade.pins.keys() <= {"python"}:
        raise Unreadable("; ".join(upgrade.notes) or f"{upgrade.where} pins no package that zoo-hooks knows")
    upgrade.pins.pop("python")
    planned = plan.plan(now, upgrade, measured, _trouble(now, options))
    parts = {"takes away": planned.gone, "brings": planned.brought, "keeps": planned.kept}
    if options.json:
        found = {part.replace(" ", "_"): [one.as_dict() for one in some] for part, some in parts.items()}
        terminal.show_json({"from": now.versions, "to": planned.after.asked.versions, **found,
                            "notes": planned.after.notes})  # fmt: skip
        return 0
    for part, some in parts.items():
        print(f"{part} {_bugs(some)}\n")
        _show(some)
    for name, answer in (("now", planned.before), ("then", planned.after)):
        print(f"{name}: {_count(answer)}")
    _notes(planned.after)
    return 0


def _best(options: argparse.Namespace, measured: atlas.Atlas) -> int:
    wanted = [parsed(word) for word in options.words]
    known = [one for one in wanted if measured.versions(canonicalize_name(one.name))]
    terminal.warn(*(f"no measurements of {one.name}; left out" for one in wanted if one not in known))
    if not known:
        raise Unreadable("no package is left to choose releases for")
    python = requirements.asked([], [], [], options.python).versions["python"]
    found = {name: plan.best(known, measured, python, allows) for name, (allows, _) in plan.BEST.items()}
    if options.json:
        terminal.show_json({name: one and one._asdict() for name, one in found.items()})
        return 0
    for name, one in found.items():
        print(f"{plan.BEST[name][1]}:\n    {one or 'there is none'}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    if options.file is None and sys.stdin.isatty():
        print("Paste the traceback, then press Ctrl-D.", file=sys.stderr)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    text = requirements.read(options.file, "replace") if options.file else sys.stdin.read()
    if not text.strip():
        raise Unreadable("there is no traceback to explain")
    trace = explain.read(text)
    asked = _asked(options, [])
    answer = audit.audit(asked, atlas.read(), _trouble(asked, options))
    found = explain.explained(trace)
    near = None if found else explain.nearest(trace)
    rows = [
        {name: getattr(one, name) for name in ("id", "title", "severity", "links")}
        | {"fixed_in": fixed_in(one), "why_not": explain.why_not(one, answer, trace)}
        for one in found
    ]
    if options.json:
        terminal.show_json({"error": trace.error, "bugs": rows, "nearest": near and near.id})
    elif rows:
        for row in rows:
            print(f"{row['id']}: {row['title']}\nzoo-hooks repairs it. Why it did not: {row['why_not']}")
            print(
                f"fixed in: {' or '.join(row['fixed_in']) or 'no release yet'}; zoo-hooks show {row['id']}\n"
            )
    else:
        print(f"no known bug matches this error{f'; the nearest is {near.id}: {near.title}' if near else ''}")
    return 0 if found else 1


def _osv(options: argparse.Namespace) -> int:
    try:
        count = osv.write(options.folder, atlas.read())
    except OSError as error:
        raise Unreadable(f"{options.folder} cannot be written: {error.strerror}") from None
    print(f"{count} records in {options.folder}")
    return 0


def _asked(options: argparse.Namespace, words: Iterable[str]) -> Asked:
    files = getattr(options, "requirement", [])
    asked = requirements.asked(words, files, audit.known(atlas.read()), options.python)
    if not asked.installed and not asked.pins.keys() - {"python"} and not asked.others:
        raise Unreadable("; ".join(asked.notes) or f"{asked.where} pins no package that zoo-hooks knows")
    return asked


def _trouble(asked: Asked, options: argparse.Namespace) -> str | None:
    """Why zoo-hooks is not active in the environment; None if it is, or if the question is not about one."""
    if not asked.installed:
        return None
    if options.python:
        return None if "zoo-hooks" in asked.pins else "zoo-hooks is not installed there"
    return installation.start_up_trouble()


def _show(some: list[Finding]) -> None:
    """A table for each severity."""
    for severity in SEVERITIES:
        rows = [one for one in some if one.patch.severity == severity]
        if rows:
            print(f"{severity}: {len(rows)}")
            terminal.show(render.Grid(("patch", "hooks", "bug", "fixed in"), [_row(one) for one in rows]))
            print()


def _row(one: Finding) -> tuple[str, ...]:
    basis = f" ({one.judgement.basis})" if one.judgement.basis else ""
    ends = " or ".join(fixed_in(one.patch)) or "no release yet"
    return one.patch.id, one.trouble or "repaired", one.patch.title + basis, ends


def _notes(answer: Answer) -> None:
    terminal.warn(*answer.notes)
    others = answer.asked.others
    plural = "" if others == 1 else "s"
    terminal.warn(f"there is no data about {others} other package{plural}" if others else None)


def _count(answer: Answer) -> str:
    return f"{_bugs(answer.findings)}, {len(answer.left)} of them not repaired by zoo-hooks"


def _bugs(some: list[Finding]) -> str:
    return f"{len(some)} known bug{'' if len(some) == 1 else 's'}"
