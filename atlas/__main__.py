"""The command ``python -m atlas``."""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import atlas
from atlas import cells, measure, skeleton
from atlas.book import CLAIMED, Book, Task, merged, pair
from atlas.digests import digests_at
from zoo_hooks import catalogue
from zoo_hooks.tool.atlas import Seen


def main() -> int:
    """Measure, and write the file; returns 1 if anything is UNKNOWN or FAILED, or not as it was recorded."""
    options = _parser().parse_args()
    if options.command == "patch":
        print(*skeleton.write(options.id, options.target), sep="\n")
        print("fill them in as CONTRIBUTING.md says, and follow its other steps")
        return 0
    book = Book()
    book.only_checks = getattr(options, "check", False)
    only = getattr(options, "only", None)
    if options.command == "cell":
        return _run(book, _limited([_task(options.requirements)], only), options.j)
    if options.command == "changed":
        before, bad, done = digests_at(options.base) if options.base else None, 0, None
        while (tasks := list(book.stale(before))) and tasks != done:  # edges move
            bad, done = bad | _run(book, tasks, options.j), tasks
        return bad
    since = date.min if options.command == "all" else options.since
    upstreams = getattr(options, "upstreams", None) or list(cells.TABLE)
    return _run(book, _limited(book.missing(upstreams, since), only), options.j) | _run(
        book, _limited(book.without_figures(), only), options.j
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m atlas", description=atlas.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    new = commands.add_parser("new", help="releases of upstreams that came out after the newest measured one")
    new.add_argument("--since", type=_day, metavar="YYYY-MM", help="and those that are missing, since then")
    changed = commands.add_parser("changed", help="what a change to patches has made stale, by digest")
    changed.add_argument("--base", metavar="REV", help="only patches that are not as in this commit")
    every = commands.add_parser("all", help="all that is missing or stale; goes on where it was interrupted")
    every.add_argument("upstreams", nargs="*", metavar="UPSTREAM", help=f"of {', '.join(cells.TABLE)}")
    cell = commands.add_parser("cell", help="one cell, as in transformers==5.24.0 peft==0.21.2")
    cell.add_argument("--check", action="store_true", help="compare, and leave the file as it is")
    cell.add_argument("requirements", nargs="+", metavar="NAME==VERSION")
    for command in (every, cell):
        command.add_argument(
            "--only", type=_id, action="append", metavar="ID", help="measure this patch only"
        )
    patch = commands.add_parser("patch", help="write the files of a new patch, to be filled in")
    patch.add_argument("id", metavar="UPSTREAM/BUG")
    patch.add_argument("target", metavar="MODULE", help="the module in which the bug stands")
    for command in (new, changed, every, cell):
        command.add_argument("-j", type=int, default=1, metavar="N", help="cells at a time")
    return parser


def _day(text: str) -> date:
    return date.fromisoformat(f"{text}-01" if text.count("-") == 1 else text)


def _id(text: str) -> str:
    try:
        return catalogue.get(text).id
    except catalogue.UnknownPatch as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _limited(tasks: Iterable[Task], only: list[str] | None) -> Iterator[Task]:
    for task in tasks:
        patches = [patch for patch in task.patches if only is None or patch in only]
        if patches:
            yield task._replace(patches=patches)


def _task(requirements: list[str]) -> Task:
    releases: dict[str, str] = {}
    for text in requirements:
        try:
            wanted = Requirement(text)
            (pin,) = wanted.specifier
        except (InvalidRequirement, ValueError):
            sys.exit(f"atlas: {text!r} is not of the form NAME==VERSION")
        releases[canonicalize_name(wanted.name)] = pin.version
    return Task(releases, [patch for patch, names in CLAIMED.items() if names & set(releases)], figures=True)


def _run(book: Book, tasks: Iterable[Task], jobs: int) -> int:
    """Measure cell by cell, and keep each result at once."""
    bad: list[str] = []
    known = {patch: [row.releases for row in rows] for patch, rows in book.atlas.patches.items()}
    with ThreadPoolExecutor(jobs) as pool:
        # What was interrupted has each release once before it has pairs.
        ordered = sorted(merged(tasks), key=lambda task: len(task.releases))
        running = {pool.submit(_measured, book, task): task for task in ordered}
        try:
            for number, done in enumerate(as_completed(running), 1):
                task = running[done]
                try:
                    wrong = _keep(book, task, done.result())
                except RuntimeError as error:  # the other cells are measured all the same
                    wrong = [f"{task} could not be measured: {error}"]
                print(f"{number}/{len(running)} {task}: {'; '.join(wrong) or 'done'}", flush=True)
                bad += wrong
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for line in news(book, known):
        print(line)
    return 1 if bad else 0


def _measured(book: Book, task: Task) -> dict[str, Seen] | cells.Conflict:
    try:
        cell = cells.python(task.releases, book.day(task.releases))
    except cells.Conflict as conflict:
        return conflict
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{task}: {error.stderr[-2000:]}") from error
    seen = measure.probed(cell, task.patches, book.digests)
    return measure.with_figures(cell, seen, traces=not book.only_checks) if task.figures else seen


def _keep(book: Book, task: Task, result: dict[str, Seen] | cells.Conflict) -> list[str]:
    """Write what was seen; returns what is wrong of it.

    That is UNKNOWN and FAILED, and a verdict unlike the one that was recorded for the same releases.
    """
    wrong = []
    if isinstance(result, cells.Conflict):
        book.atlas.conflicts[pair(task.releases)] = str(result)
        result = {}
    for patch, row in result.items():
        recorded = [one.verdict for one in book.atlas.of(patch) if one.releases == row.releases]
        book.atlas.put(patch, row)
        if row.verdict in ("UNKNOWN", "FAILED"):
            wrong.append(f"{patch} is {row.verdict}")
        elif recorded and recorded != [row.verdict]:
            wrong.append(f"{patch} is {row.verdict}, not {recorded[0]}")
    book.write()
    return wrong


def news(book: Book, known: dict[str, list[dict[str, str]]]) -> Iterator[str]:
    """A line for each set of releases, of those not known before, with which bugs came or went."""
    found: dict[str, dict[str, list[str]]] = {}
    for patch, rows in book.atlas.patches.items():
        for earlier, row in itertools.pairwise(rows):
            changes = earlier.verdict != row.verdict and "AFFECTED" in (earlier.verdict, row.verdict)
            if changes and row.releases not in known.get(patch, []):
                kind = "came" if row.verdict == "AFFECTED" else "went"
                found.setdefault(pair(row.releases), {}).setdefault(kind, []).append(patch)
    for releases, kinds in found.items():
        for kind, patches in kinds.items():
            yield f"{releases}: {kind} {', '.join(patches)}"


if __name__ == "__main__":
    sys.exit(main())
