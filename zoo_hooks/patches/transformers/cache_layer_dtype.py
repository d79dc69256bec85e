"""Layers of a cache have lost their ``dtype``.

Symptom
-------
``cache.layers[0].dtype`` raises ``AttributeError: 'DynamicLayer' object has no attribute 'dtype'``, and so
does a ``StaticLayer``'s and that of the layers derived from the two.

Cause
-----
From 4.56.0 up to 5.23.0 such a layer kept the dtype of the first keys that it was given. 5.24.0 keeps that
of keys and of values apart, each in its tensor, and no longer the attribute, without a word of deprecation.

Repair
------
Both classes have the attribute again: the dtype of the keys, once there are any, and before that the same
AttributeError. A layer that sets its own ``dtype``, as those of others do, has that.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


class _DtypeOfKeys:
    """No property, for what a layer has set itself comes before it."""

    def __get__(self, layer: Any, kind: type) -> Any:
        if getattr(layer, "keys", None) is None:
            message = f"{kind.__name__!r} object has no attribute 'dtype'"
            raise AttributeError(message)
        return layer.keys.dtype


def probe(module: ModuleType) -> Verdict:
    import torch

    if not hasattr(getattr(module, "DynamicLayer", None), "lazy_initialization"):
        return Verdict.FIXED  # before 4.56 a layer has no dtype to lose, before 4.54 a cache no layers
    layer = module.DynamicLayer()
    layer.update(*torch.zeros(2, 1, 1, 1, 1))
    return Verdict.FIXED if hasattr(layer, "dtype") else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    for layer in (module.DynamicLayer, module.StaticLayer):
        changes.replace(layer, "dtype", _DtypeOfKeys())


def canary() -> Figure:
    import torch
    from transformers import cache_utils

    if not hasattr(getattr(cache_utils, "DynamicLayer", None), "lazy_initialization"):
        return Figure("no layers with a dtype", healthy=True)
    layer = cache_utils.DynamicLayer()
    layer.update(*torch.zeros(2, 1, 1, 1, 1, dtype=torch.bfloat16))
    return Figure(str(layer.dtype), healthy=layer.dtype == torch.bfloat16)


PATCH = Patch(
    module=__name__,
    title="Layers of a cache have lost their dtype",
    severity="crash",
    symptoms=(
        "'DynamicLayer' object has no attribute 'dtype'",
        "'DynamicSlidingWindowLayer' object has no attribute 'dtype'",
        "'StaticLayer' object has no attribute 'dtype'",
        "'StaticSlidingWindowLayer' object has no attribute 'dtype'",
    ),
    targets=("transformers.cache_utils",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/cache_utils.py#L113-L117",
    ),
    measures="dtype of a layer that holds bfloat16 (expected: torch.bfloat16)",
    probe=probe,
    repair=repair,
    canary=canary,
)
