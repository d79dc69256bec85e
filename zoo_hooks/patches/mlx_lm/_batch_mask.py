"""Masks that are created from the list of caches, which ignores padding, instead of from one cache."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict

Call = Callable[..., Any]


def verdict(module: ModuleType, kind: str, model: SimpleNamespace) -> Verdict:
    """Tell whether a class of the module asks the first cache for its mask; ``model`` stands in for self."""
    import mlx.core as mx

    owner: Any = getattr(module, kind, None)
    if not (isinstance(owner, type) and hasattr(module, "create_attention_mask")):
        return Verdict.UNKNOWN
    asked: list[Any] = []
    cache = SimpleNamespace(make_mask=lambda *some, **_: asked.append(some), offset=0)
    owner.__call__(model, mx.zeros((1, 2), dtype=mx.int32), cache=[cache])
    return Verdict.FIXED if asked else Verdict.AFFECTED


def ask_the_first(changes: Changes, module: ModuleType) -> None:
    """Create the mask from the first cache of the list."""

    def make(original: Call) -> Call:
        def of_first(h: Any, cache: Any = None, *args: Any, **kwargs: Any) -> Any:
            return original(h, cache[0] if isinstance(cache, list) and cache else cache, *args, **kwargs)

        return of_first

    changes.wrap(module, "create_attention_mask", make)
