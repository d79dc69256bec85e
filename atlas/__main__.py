"""The command ``python -m atlas``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import atlas
from atlas import cells, measure
from atlas.book import CLAIMED, Book, Task, merged, pair
from atlas.digests import digests_at
from zoo_hooks.tool.atlas import Seen


def main() -> int:
    """Measure, and write the file; returns 1 if anything is UNKNOWN or FAILED, or not as it was recorded."""
    options = _parser().parse_args()
    book = Book()
    book.only_checks = getattr(options, "check", False)
    if options.command == "cell":
        return _run(book, [_task(options.requirements)], options.j)
    if options.command == "changed":
        before, bad, done = digests_at(options.base) if options.base else None, 0, None
        while (tasks := list(book.stale(before))) and tasks != done:  # edges move
            bad, done = bad | _run(book, tasks, options.j), tasks
        return bad
    since = date.min if options.command == "all" else options.since
    upstreams = getattr(options, "upstreams", None) or list(cells.TABLE)
    return _run(book, book.missing(upstreams, since), options.j) | _run(
        book, book.without_figures(), options.j
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
    for command in (new, changed, every, cell):
        command.add_argument("-j", type=int, default=1, metavar="N", help="cells at a time")
    return parser


def _day(text: str) -> date:
    return date.fromisoformat(f"{text}-01" if text.count("-") == 1 else text)


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
    with ThreadPoolExecutor(jobs) as pool:
        # What was interrupted has each release once before it has pairs.
        ordered = sorted(merged(tasks), key=lambda task: len(task.releases))
        running = {pool.submit(_measured, book, task): task for task in ordered}
        try:
            for number, done in enumerate(as_completed(running), 1):
                task = running[done]
                said, wrong = _keep(book, task, done.result())
                print(
                    f"{number}/{len(running)} {task}: {'; '.join(said + wrong) or 'nothing new'}", flush=True
                )
                bad += wrong
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return 1 if bad else 0


def _measured(book: Book, task: Task) -> dict[str, Seen] | cells.Conflict:
    try:
        cell = cells.python(task.releases, book.day(task.releases))
    except cells.Conflict as conflict:
        return conflict
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{task}: {error.stderr[-2000:]}") from error
    seen = measure.probed(cell, task.patches, book.digests)
    return measure.with_figures(cell, seen) if task.figures else seen


def _keep(book: Book, task: Task, result: dict[str, Seen] | cells.Conflict) -> tuple[list[str], list[str]]:
    """Write what was seen; returns what of it is news, and what is wrong.

    News are bugs that came or went with these releases. Wrong are UNKNOWN and FAILED, and a verdict unlike
    the one that was recorded for the same releases.
    """
    if isinstance(result, cells.Conflict):
        book.atlas.conflicts[pair(task.releases)] = str(result)
        book.write()
        return [f"cannot be installed together: {result}"], []
    news: dict[str, list[str]] = {}
    wrong = []
    for patch, row in result.items():
        recorded = [one.verdict for one in book.atlas.of(patch) if one.releases == row.releases]
        book.atlas.put(patch, row)
        rows = book.atlas.of(patch)
        earlier = rows[rows.index(row) - 1].verdict if rows[0] is not row else "ABSENT"
        if row.verdict in ("UNKNOWN", "FAILED"):
            wrong.append(f"{patch} is {row.verdict}")
        elif recorded and recorded != [row.verdict]:
            wrong.append(f"{patch} is {row.verdict}, not {recorded[0]}")
        elif not recorded and "AFFECTED" in (row.verdict, earlier) and row.verdict != earlier:
            news.setdefault("came" if row.verdict == "AFFECTED" else "went", []).append(patch)
    book.write()
    return [f"{kind}: {', '.join(patches)}" for kind, patches in news.items()], wrong


if __name__ == "__main__":
    sys.exit(main())
