"""How a command talks: progress, tables, warnings, and an end that leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from zoo_hooks import render

SCHEMA = 1
"""Of all JSON that the commands print; another number where a program that reads it has to change."""
INTERRUPTED = 128 + signal.SIGINT


def ending_well(run: Callable[[Any], int], options: Any) -> int:
    """Run a command; returns its exit status, and that of a shell where Ctrl-C or a closed pipe ends it."""
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


def with_progress(results: Generator[Any, None, None], total: int, doing: str) -> tuple[list[Any], bool]:
    """What was found, and whether Ctrl-C ended it early."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    found: list[Any] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        try:
            for one in bar.track(results, total=total, description=doing):
                found.append(one)  # noqa: PERF402 - what is there is kept when it is interrupted
        except KeyboardInterrupt:
            results.close()
            return found, True
    return found, False


def show(table: Any) -> None:
    """Print a table, without colours where nobody looks."""
    console = Console()
    if console.is_terminal:
        console.print(table)
    else:
        print(render.text(table))


def show_json(data: dict[str, Any]) -> None:
    """Print an answer for programs."""
    print(json.dumps({"schema": SCHEMA} | data, indent=2))


def warn(*messages: str | list[str] | None) -> None:
    """Say what is wrong, if anything is."""
    for message in messages:
        if message:
            print(f"zoo-hooks: {message}", file=sys.stderr)
