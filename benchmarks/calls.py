"""One wrapped call beside the plain one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from paired import Pair, nanoseconds, pair
from table import Table

from zoo_hooks.changes import Changes

GOAL = 1.0  # microseconds more than the plain call


class Plain:
    """Has a method that does nothing."""

    def method(self, _value: object) -> None:
        """Do nothing."""


def pass_through(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a wrapper that takes what comes and hands it on."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def _method(rounds: int) -> Pair:
    plain = Plain.method
    changes = Changes()
    changes.wrap(Plain, "method", pass_through)
    wrapped = Plain.method
    changes.undo()
    statement, own = "call(own, 1)", Plain()
    return pair(
        nanoseconds(statement, 5000, call=plain, own=own),
        nanoseconds(statement, 5000, call=wrapped, own=own),
        rounds,
    )


def _constructor(name: str, patch: str, arguments: str, rounds: int) -> Pair:
    """A cache's constructor, repaired on every release, for a model that shares no layers."""
    import transformers
    from transformers import cache_utils

    cache = getattr(cache_utils, name)
    plain = cache.__init__
    changes = Changes()
    importlib.import_module(f"zoo_hooks.patches.transformers.{patch}").repair(cache_utils, changes)
    wrapped = cache.__init__
    changes.undo()
    config = transformers.LlamaConfig(num_hidden_layers=4)
    statement, own = f"init(own, {arguments})", cache.__new__(cache)
    return pair(
        nanoseconds(statement, 500, init=plain, own=own, config=config),
        nanoseconds(statement, 500, init=wrapped, own=own, config=config),
        rounds,
    )


def table(rounds: int) -> Table:
    """Time a wrapped method that does nothing, and the caches' constructors."""
    results = [("a method that does nothing", _method(rounds))]
    note = f"Medians of {rounds} pairs."
    if find_spec("transformers") is None or find_spec("torch") is None:
        note += " transformers or torch is not installed, so the caches are missing."
    else:
        for name, patch, arguments in (
            ("DynamicCache", "cache_dynamic_zero_shared", "config=config"),
            ("StaticCache", "cache_static_zero_shared", "config=config, max_cache_len=16"),
        ):
            result = _constructor(name, patch, arguments, rounds)
            results.append((f"{name}, 4 layers, without the attribute", result))
    return Table(
        "One wrapped call",
        note,
        ("call", "plain µs", "wrapped µs", "more µs", "goal", "ratio"),
        [(name, r.plain / 1e3, r.ours / 1e3, r.more / 1e3, GOAL, r.ratio) for name, r in results],
    )
