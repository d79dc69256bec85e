"""Reading the ``dtype`` of a KV cache layer raises AttributeError.

Symptom
-------
``cache.layers[0].dtype`` raises ``AttributeError: 'DynamicLayer' object has no attribute 'dtype'``.
``StaticLayer`` and all subclasses of the two raise the same error under their own names.

Cause
-----
From 4.56.0 up to 5.23.0 a cache layer stored the dtype of the first keys that it received. Release 5.24.0
removed this attribute without a deprecation. The layer now has two dtypes, that of its tensor of keys and
that of its tensor of values.

Repair
------
``DynamicLayer`` and ``StaticLayer`` have the attribute again. It is the dtype of the keys. Before a layer
has any keys, it raises the same AttributeError. A layer that sets its own ``dtype``, as third-party layers
do, keeps that value.
"""

from __future__ import annotations

import dis
import inspect
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
    layer: Any = getattr(module, "DynamicLayer", None)
    if not hasattr(layer, "lazy_initialization"):
        return Verdict.FIXED  # before 4.56 a layer has no dtype to lose, before 4.54 a cache no layers
    if any("dtype" in vars(kind) for kind in layer.__mro__):
        return Verdict.FIXED
    steps = dis.get_instructions(inspect.unwrap(layer.lazy_initialization))
    kept = {step.argval for step in steps if step.opname == "STORE_ATTR"}
    if "dtype" in kept:
        return Verdict.FIXED
    return Verdict.AFFECTED if "keys" in kept else Verdict.UNKNOWN


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
    title="KV cache layers have lost their dtype attribute",
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
    measures="dtype of a cache layer that holds bfloat16 (expected: torch.bfloat16)",
    probe=probe,
    repair=repair,
    canary=canary,
)
