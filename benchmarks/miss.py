"""An import that nobody watches: the time that the finder takes to say no."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

from paired import nanoseconds, pair
from table import Table

import zoo_hooks

STATEMENT = "find('package.module', None, None)"


class EmptyFinder:
    """Finds nothing."""

    def find_spec(self, _name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Say no."""
        return None


def table(rounds: int) -> Table:
    """Time our finder beside one that does nothing."""
    zoo_hooks.init()
    ours = [finder for finder in sys.meta_path if finder.find_spec.__module__ == "zoo_hooks"]
    if not ours:
        return Table("Unwatched import", "ZOO_HOOKS switches the finder off")
    result = pair(
        nanoseconds(STATEMENT, 5000, find=EmptyFinder().find_spec),
        nanoseconds(STATEMENT, 5000, find=ours[0].find_spec),
        rounds,
    )
    return Table(
        "Unwatched import",
        f"Time of one finder's miss; medians of {rounds} pairs.",
        ("finder", "empty ns", "ours ns", "more ns", "ratio"),
        [("find_spec", round(result.plain), round(result.ours), round(result.more), result.ratio)],
    )
