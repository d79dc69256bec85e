"""The command ``zoo-hooks``."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

import zoo_hooks
from zoo_hooks import catalogue, releases, render, settings
from zoo_hooks.model import Patch
from zoo_hooks.tool import ask, atlas, audit, environment, installation, requirements, state, terminal
from zoo_hooks.tool.pins import Unreadable

FIELD = 11
"""Columns that the names of fields take."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, 1 if a check fails, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return terminal.ending_well(options.run, options)
    except (catalogue.UnknownPatch, Unreadable) as error:
        terminal.warn(str(error.args[0]))
        return 2


class _Parser(argparse.ArgumentParser):
    """Suggests the nearest command for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            typed, _, known = message.partition("invalid choice: ")[2].partition(" (choose from ")
            names = known.rstrip(")").replace("'", "").split(", ")
            near = difflib.get_close_matches(typed.strip("'"), names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            message = f"there is no command {typed}; {hint}Commands: {', '.join(names)}"
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zoo-hooks",
        description="Repairs known bugs between ML libraries while they are imported.",
        epilog=f"ZOO_HOOKS: {settings.FORMS}. ZOO_HOOKS_STRICT=1: errors of a patch are raised.",
    )
    parser.add_argument("--version", action="version", version=zoo_hooks.__version__)
    parser.set_defaults(run=_greet, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    state.add(commands)
    for run, name, does, ids in (
        (_list, "list", "list patches: severity, bug, first release with it, and what fixes it", "*"),
        (_show, "show", "show the case report of a patch", "+"),
    ):
        command = commands.add_parser(name, help=does, description=does)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
        command.add_argument("ids", nargs=ids, metavar="ID", help="patch ids or patterns: peft, gemma4-*")
        if run is _list:
            command.add_argument("--upstream", action="append", default=[], metavar="NAME",
                                 help="only patches of this library")  # fmt: skip
        command.set_defaults(run=run)
    ask.add(commands)
    environment.add(commands)
    return parser


def _greet(options: argparse.Namespace) -> int:
    trouble = installation.start_up_trouble()
    state = trouble or "active in every Python process of this environment"
    print(f"zoo-hooks {zoo_hooks.__version__}: {state}\n")
    options.parser.print_help()
    return 0


def _list(options: argparse.Namespace) -> int:
    patches = catalogue.select([*options.ids, *options.upstream]) or catalogue.everything()
    if options.json:
        terminal.show_json({"patches": [_record(patch) for patch in patches]})
    else:
        terminal.show(render.Grid(
            ("patch", "severity", "bug", "first seen", "fixed in"),
            [(p.id, p.severity, p.title, _first_seen(p), _fixed_in(p)) for p in patches],
        ))  # fmt: skip
    return 0


def _show(options: argparse.Namespace) -> int:
    patches = catalogue.select(options.ids)
    if options.json:
        records = [_record(patch) for patch in patches]
        terminal.show_json(records[0] if len(records) == 1 else {"patches": records})
        return 0
    for number, patch in enumerate(patches):
        print("\n\n" * bool(number), end="")
        _show_one(patch)
    return 0


def _show_one(patch: Patch) -> None:
    fields = [
        ("severity", patch.severity),
        ("affects", ", ".join(patch.affects)),
        ("first seen", _first_seen(patch)),
        ("fixed in", _fixed_in(patch)),
        ("targets", ", ".join(patch.targets)),
        ("measures", patch.measures),
        *(("symptom", symptom) for symptom in patch.symptoms),
    ]
    print(terminal.folded(f"{patch.id}: {patch.title}"), end="\n\n")
    for name, text in fields:
        print(terminal.folded(f"{name:<{FIELD}}{text}", FIELD))
    for link in patch.links:  # whole, so that a terminal can open it
        print(f"{'link':<{FIELD}}{link}")
    print(f"\n{terminal.folded(catalogue.case_report(patch))}")
    print(f"\n{terminal.folded(f'here: {_conclusion(patch)}')}")


def _conclusion(patch: Patch) -> str:
    """The installed releases of the patch's packages, and whether these have the bug."""
    measured = atlas.read()
    asked = requirements.asked([], [], audit.known(measured), None)
    judgement = audit.judge(patch, asked.versions, measured)
    if judgement is None:
        missing = [name for name in sorted(releases.claimed_upstreams(patch)) if not releases.version(name)]
        return f"not affected: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    off = installation.start_up_trouble() or settings.read().refusal(patch.id)
    found = f"affected; {off or 'zoo-hooks repairs it'}" if judgement.verdict in audit.BUG else "not affected"
    basis = f" ({judgement.basis})" if judgement.basis else ""
    return f"{atlas.words(judgement.releases)}: {found}{basis}"


def _record(patch: Patch) -> dict[str, Any]:
    about = ("id", "upstream", "title", "severity", "symptoms", "targets", "affects", "links", "measures")
    return {name: getattr(patch, name) for name in (*about, "when", "requires")} | {
        "first_seen": atlas.read().first_seen(patch.id),
        "fixed_in": releases.fixed_in(patch),
        "case": catalogue.case_report(patch),
    }


def _first_seen(patch: Patch) -> str:
    first = atlas.read().first_seen(patch.id)
    return atlas.words(first) if first else "never measured"


def _fixed_in(patch: Patch) -> str:
    return " or ".join(releases.fixed_in(patch)) or "no release yet"
