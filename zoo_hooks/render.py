"""Answers for people: on a terminal, in a pipe, in a notebook."""

from __future__ import annotations

import io
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zoo_hooks import releases

STYLES = {
    "APPLIED": "green",
    "GUARD": "cyan",
    "DRY_RUN": "cyan",
    "FAILED": "bold red",
    "OVERWRITTEN": "bold yellow",
    "UNKNOWN": "bold yellow",
    "PENDING": "dim",
    "SKIPPED": "dim",
    "repaired": "green",
    "not needed": "dim",
    "DOES NOT HOLD": "bold red",
    "NO SYMPTOM": "bold red",
}
WORDS = {
    "APPLIED": "repaired",
    "GUARD": "on guard",
    "NOT_NEEDED": "not needed",
    "FAILED": "failed",
    "UNKNOWN": "unknown",
    "OVERWRITTEN": "overwritten",
    "DRY_RUN": "would be repaired",
    "SKIPPED": "switched off",
    "PENDING": "not imported",
}
"""The word for each status in a sentence."""
ALWAYS = ("APPLIED", "NOT_NEEDED", "FAILED")
"""Statuses whose number is shown even if it is 0."""
ATTENTION = ("FAILED", "UNKNOWN", "OVERWRITTEN")
ACTIVE = ("APPLIED", "DRY_RUN")
WIDE = 140
"""Columns that a table needs to fold few cells; in a narrower window details stand under their headline."""


class Grid(NamedTuple):
    """Records; the first ``heads`` of their columns make the headline of each where a table has no room."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    heads: int = 2


def statuses(rows: Iterable[Mapping[str, Any]]) -> Grid:
    """Rows of a report, those that need attention first, then what is repaired, then guards."""
    order = (*ATTENTION, *ACTIVE, "GUARD")
    chosen = sorted(rows, key=lambda row: order.index(state(row)) if state(row) in order else len(order))
    return Grid(
        ("patch", "status", "installed", "why", "fixed in"),
        [
            (
                row["id"],
                "GUARD" if state(row) == "GUARD" else row["status"],
                row["version"] or "no",
                row["reason"] + (" (late: imported before zoo-hooks)" if row["late"] else ""),
                _upgrades(row["fixed_in"]) if row["status"] in ACTIVE else "",
            )
            for row in chosen
        ],
        heads=3,
    )


def state(row: Mapping[str, Any]) -> str:
    """The status of a row, but GUARD for a guard that is APPLIED, and NOT_INSTALLED."""
    if row["missing"] and row["status"] in ("PENDING", "SKIPPED"):
        return "NOT_INSTALLED"
    return "GUARD" if row["guard"] and row["status"] == "APPLIED" else str(row["status"])


def is_shown(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is shown unasked: what needs attention, then what is repaired; no guards."""
    return row["status"] in ATTENTION or (row["status"] in ACTIVE and not row["guard"])


def counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many patches have each status, how many are guards, and of how many a library is not installed."""
    found = Counter(state(row).lower() for row in rows)
    return {name.lower(): found[name.lower()] for name in WORDS} | {"not_installed": found["not_installed"]}


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """The answer in one line: ``11 repaired, 7 not needed, 0 failed; 38 are for libraries that are ...``."""
    found = counts(rows)
    absent = found.pop("not_installed")
    words = [
        f"{found[name.lower()]} {word}"
        for name, word in WORDS.items()
        if name in ALWAYS or found[name.lower()]
    ]
    return ", ".join(words) + elsewhere(absent)


def elsewhere(count: int) -> str:
    """The end of a sentence, about patches for libraries that are not installed."""
    verb = "is" if count == 1 else "are"
    return f"; {count} {verb} for libraries that are not installed" if count else ""


def _upgrades(names: Iterable[str]) -> str:
    # One that is there already: its package was not loaded yet when the probe looked for it.
    seen = [f"{name} ({has} is installed)" if (has := releases.met(name)) else name for name in names]
    return " or ".join(seen) or "no release yet"


def drawn(grid: Grid, width: int) -> RenderableType:
    """A table, or where that has no room one record under the other."""
    if width < WIDE:
        return Group(*_records(grid))
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(grid.columns):
        made.add_column(column, overflow="fold", no_wrap=number < grid.heads)
    for row in grid.rows:
        made.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    return made


def _records(grid: Grid) -> Iterator[RenderableType]:
    for row in grid.rows:
        yield Text("  ").join(Text(cell, STYLES.get(cell, "bold")) for cell in row[: grid.heads] if cell)
        pairs = zip(grid.columns[grid.heads :], row[grid.heads :], strict=True)
        details = [
            cell if column in ("why", "bug") else f"{column}: {cell}" for column, cell in pairs if cell
        ]
        yield Padding(Text("; ".join(details)), (0, 0, 0, 4))


def text(grid: Grid, width: int | None = None) -> str:
    """The records as plain text; ``width`` columns at most, by default those of the window, or 120."""
    width = width or shutil.get_terminal_size((120, 0)).columns
    file = _Text()
    Console(file=file, width=width, color_system=None).print(drawn(grid, width))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


class _Text(io.StringIO):
    """A text for standard output: its rules are drawn with what that can encode."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def html(headline: str, grid: Grid, links: Mapping[str, str]) -> str:
    """The answer as an HTML element: one line, then the records, whose ids have the links that are given."""
    import html as escape

    colours = {"green": "#1a7f37", "bold red": "#cf222e", "bold yellow": "#9a6700", "cyan": "#0969da"}

    def cell(words: str) -> str:
        safe = escape.escape(words)
        if words in links:
            safe = f'<a href="{escape.escape(links[words])}">{safe}</a>'
        colour = colours.get(STYLES.get(words, ""))
        style = "text-align:left;vertical-align:top" + (f";color:{colour};font-weight:600" if colour else "")
        return f'<td style="{style}">{safe}</td>'

    head = "".join(f'<th style="text-align:left">{escape.escape(name)}</th>' for name in grid.columns)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in grid.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if grid.rows else ""
    return f"<div><strong>zoo-hooks: {escape.escape(headline)}</strong>{table}</div>"
