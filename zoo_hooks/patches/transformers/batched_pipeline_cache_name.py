"""A pipeline with a batch size above 1 fails on outputs that call the KV cache ``past_key_values``.

Symptom
-------
A pipeline with ``batch_size`` above 1 raises ``TypeError: 'DynamicCache' object is not subscriptable``.
This happens if the pipeline's own ``_forward`` returns a dict with the key ``past_key_values``. It also
happens if the model returns a third-party output with a field of that name.

Cause
-----
The iterator that splits a batch into rows must skip the KV cache. From 5.24.0 on it skips only the key
``cache`` and no longer ``past_key_values``.

Repair
------
The iterator skips the cache under both names. The output of the whole batch is not modified and keeps its
cache.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

_NEW, _OLD = "cache", "past_key_values"


def probe(module: ModuleType) -> Verdict:
    iterator = module.PipelineIterator

    import torch

    batch = {"logits": torch.zeros(2, 1), _NEW: [1, 2], _OLD: [1, 2]}
    one = next(iter(iterator([batch], lambda given: given, {}, loader_batch_size=2)))
    # up to 4.55 it passes by neither
    return Verdict.AFFECTED if _OLD in one and _NEW not in one else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.PipelineIterator, "loader_batch_item", _passing)


def _passing(original: Callable[..., Any]) -> Callable[..., Any]:
    def loader_batch_item(self: Any) -> Any:
        batch = self._loader_batch_data
        # not asked for by ``in``: outputs of transformers answer to the old name too
        if isinstance(batch, dict) and dict.__contains__(batch, _OLD):
            rest = {name: value for name, value in batch.items() if name != _OLD}
            self._loader_batch_data = type(batch)(rest)
        return original(self)

    return loader_batch_item


def canary() -> Figure:
    import torch
    from transformers.cache_utils import DynamicCache
    from transformers.pipelines.pt_utils import PipelineIterator

    batch = {"logits": torch.zeros(2, 1), _OLD: DynamicCache()}
    rows = list(PipelineIterator([batch], lambda given: given, {}, loader_batch_size=2))
    return Figure(len(rows), healthy=[*map(list, rows)] == [["logits"], ["logits"]])


PATCH = Patch(
    module=__name__,
    title="Batched pipelines fail on outputs that call the KV cache past_key_values",
    severity="crash",
    symptoms=("'DynamicCache' object is not subscriptable @ loader_batch_item",),
    targets=("transformers.pipelines.pt_utils",),
    affects=("transformers>=5.24.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/pipelines/pt_utils.py#L96-L97",
    ),
    measures="rows that a pipeline makes of a batch of two with a KV cache (expected: 2)",
    probe=probe,
    repair=repair,
    canary=canary,
)
