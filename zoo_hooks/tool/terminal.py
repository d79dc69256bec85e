"""The output of commands: progress, tables and warnings; and a clean exit."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Generator
from contextlib import nullcontext
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from zoo_hooks import render

SCHEMA = 1
"""The number of the JSON format. It changes when programs that read the JSON have to change."""
LINES = 10
"""How many of the latest results are shown while the rest is awaited."""
INTERRUPTED = 128 + signal.SIGINT


def ending_well(run: Callable[[Any], int], options: Any) -> int:
    """Run a command. Returns its exit status, or the usual one if Ctrl-C or a closed pipe ends it."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ended)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        status = run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _ended(number: int, _: Any) -> None:
    sys.exit(128 + number)  # through what stops the children


def with_progress(
    results: Generator[Any, None, None], total: int, doing: str, line: Callable[[Any], str] | None = None
) -> tuple[list[Any], bool]:
    """The results, and whether Ctrl-C ended the run early.

    On a terminal the latest results are shown as lines made by ``line``.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(doing, total=total)
    found: list[Any] = []
    with Live(bar, console=console, transient=True) if console.is_terminal else nullcontext() as live:
        try:
            for one in results:
                found.append(one)
                bar.advance(task)
                if live and line:
                    seen = Text("\n".join(map(line, found[-LINES:])), no_wrap=True, overflow="ellipsis")
                    live.update(Group(seen, bar))
        except KeyboardInterrupt:
            results.close()
            return found, True
    return found, False


def show(grid: render.Grid) -> None:
    """Print records, in colours only on a terminal."""
    console = Console()
    if console.is_terminal:
        console.print(render.drawn(grid, console.width))
    else:
        print(render.text(grid))


def folded(text: str, hang: int = 0, file: TextIO | None = None) -> str:
    """A text whose paragraphs fit the terminal, as it is where there is none; code and lists stay."""
    if not (file or sys.stdout).isatty():
        return text
    width = shutil.get_terminal_size().columns
    blocks = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        head = lines[:2] if len(lines) > 1 and set(lines[1]) == {"-"} else []
        rest = lines[len(head) :]
        if not any(line.startswith((" ", "- ")) for line in rest):
            rest = textwrap.wrap(
                " ".join(rest),
                width,
                subsequent_indent=" " * hang,
                break_long_words=False,
                break_on_hyphens=False,
            )
        blocks.append("\n".join([*head, *rest]))
    return "\n\n".join(blocks)


def show_json(data: dict[str, Any]) -> None:
    """Print an answer for programs."""
    print(json.dumps({"schema": SCHEMA} | data, indent=2))


def warn(*messages: str | list[str] | None) -> None:
    """Print warnings to standard error."""
    for message in messages:
        if message:
            print(folded(f"zoo-hooks: {message}", file=sys.stderr), file=sys.stderr)
