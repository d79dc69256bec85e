"""Tables for people: on a terminal, in a pipe, in a notebook."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo_hooks import releases

STYLES = {
    "APPLIED": "green",
    "DRY_RUN": "cyan",
    "FAILED": "bold red",
    "UNKNOWN": "bold yellow",
    "PENDING": "dim",
    "SKIPPED": "dim",
    "repaired": "green",
    "not needed": "dim",
}
ACTIVE = ("APPLIED", "DRY_RUN")


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A table whose cells take the style of the status that they name."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        made.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    return made


def status_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Rows of a report."""
    return table(
        ("patch", "installed", "status", "why", "retired by"),
        (
            (
                row["id"],
                row["version"] or "no",
                row["status"],
                row["reason"] + (" (late: imported before zoo-hooks)" if row["late"] else ""),
                _upgrades(row["retired_by"]) if row["status"] in ACTIVE else "",
            )
            for row in rows
        ),
    )


def _upgrades(names: Iterable[str]) -> str:
    # One that is there already: its package was not loaded yet when the probe looked for it.
    seen = [f"{name} ({has} is installed)" if (has := releases.met(name)) else name for name in names]
    return " or ".join(seen) or "no release yet"


def text(made: Table, width: int = 120) -> str:
    """The table as plain text, ``width`` columns at most."""
    file = _Text()
    Console(file=file, width=width, color_system=None).print(made)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


class _Text(io.StringIO):
    """A text for standard output: its rules are drawn with what that can encode."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def html(made: Table) -> str:
    """The table as an HTML element."""
    import html as escape

    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape.escape(c)}</{tag}>" for c in cells) + "</tr>"

    head = row((str(column.header) for column in made.columns), "th")
    body = [row(map(str, cells), "td") for cells in zip(*(c.cells for c in made.columns), strict=True)]
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"
