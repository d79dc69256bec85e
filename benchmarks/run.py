"""Print what zoo-hooks costs: ``python benchmarks/run.py [table ...] [--json]``, by default all tables.

Run it with a Python in which zoo-hooks is installed. All tables but ``start``, ``miss``, ``imports`` and
``probes`` also want transformers and torch there; the last two measure the upstreams that they find;
``training`` takes some minutes and 4 GB. Figures are for reading; only the start-up count has a test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import calls
import forwards
import imports
import miss
import probes
import start
import training
from table import Table

TABLES = ("start", "miss", "calls", "imports", "probes", "forwards", "training")


def tables(chosen: list[str], pythons: list[str], rounds: int, pairs: int) -> Iterator[Table]:
    """Measure, one table after the other."""
    if "start" in chosen:
        yield from map(start.table, pythons)
    if "miss" in chosen:
        yield miss.table(rounds)
    if "calls" in chosen:
        yield calls.table(rounds)
    if "imports" in chosen:
        yield imports.table(pairs)
    if "probes" in chosen:
        yield probes.table(pairs)
    if "forwards" in chosen:
        yield forwards.table(rounds)
    if "training" in chosen:
        yield training.table(pairs)


def main() -> None:
    """Run from a shell."""
    parser = argparse.ArgumentParser(description="What zoo-hooks costs.")
    parser.add_argument("tables", nargs="*", metavar="table", help=f"of {', '.join(TABLES)}; default: all")
    parser.add_argument("--python", action="append", metavar="PATH", help="count the start of this Python")
    parser.add_argument("--rounds", type=int, default=300, help="pairs of timed loops (default: 300)")
    parser.add_argument("--pairs", type=int, default=15, help="pairs of processes and steps (default: 15)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    made = tables(
        options.tables or list(TABLES), options.python or [sys.executable], options.rounds, options.pairs
    )
    if options.json:
        print(json.dumps([table.as_json() for table in made], indent=2))
        return
    for table in made:
        print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
