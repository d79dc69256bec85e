"""Llama-4 raises TypeError when it generates with a static cache.

Symptom
-------
``generate(cache_implementation="static")`` raises ``TypeError: create_chunked_causal_mask() got an
unexpected keyword argument 'block_sequence_ids'``. This happens with Llama-4 and with any model that has
``chunked_attention`` layers.

Cause
-----
For a static cache, ``generate`` makes the attention masks in advance. From 5.9.0 on it passes
``block_sequence_ids`` to the functions that make them. All of these functions were given this argument,
except the one for chunked attention.

Repair
------
The function accepts the argument if it is None, as it is for all text, and ignores it. For any other value,
upstream's own error is raised. From 5.20.0 on the function accepts the argument itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tiny

MAKER, TABLE, BLOCKS = (
    "create_chunked_causal_mask",
    "LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING",
    "block_sequence_ids",
)


def probe(module: ModuleType) -> Verdict:
    if not hasattr(module, MAKER):
        return Verdict.FIXED
    handed_on, taken, others = (
        {*inspect.signature(getattr(module, name)).parameters}
        for name in ("create_masks_for_generate", MAKER, "create_sliding_window_causal_mask")
    )
    if BLOCKS in taken or BLOCKS not in handed_on | others:
        return Verdict.FIXED
    return Verdict.AFFECTED if BLOCKS in handed_on and others - {BLOCKS} == taken else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    original, table = getattr(module, MAKER), getattr(module, TABLE)
    taking = _taking(original)
    changes.rebind(original, taking)
    changes.rebind(table, {kind: taking if make is original else make for kind, make in table.items()})


def _taking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def make(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get(BLOCKS, original) is None:
            del kwargs[BLOCKS]
        return original(*args, **kwargs)

    return make


def canary() -> Figure:
    import transformers

    shape = {key: value for key, value in _tiny.TEXT.items() if key != "sliding_window"}
    config = transformers.Llama4TextConfig(
        **shape, num_hidden_layers=4, intermediate_size_mlp=64, num_local_experts=2, attention_chunk_size=8
    )
    model = _tiny._seeded(transformers.Llama4ForCausalLM, config)  # noqa: SLF001
    how = {"max_new_tokens": 8, "do_sample": False, "disable_compile": True}
    grown = model.generate(_tiny.prompt(), **how)
    count = int((model.generate(_tiny.prompt(), cache_implementation="static", **how) != grown).sum())
    return Figure(count, healthy=count == 0)


PATCH = Patch(
    module=__name__,
    title="Llama-4 raises TypeError with a static cache",
    severity="crash",
    symptoms=("create_chunked_causal_mask() got an unexpected keyword argument 'block_sequence_ids'",),
    targets=("transformers.masking_utils",),
    affects=("transformers>=5.9.0,<5.20.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/masking_utils.py",),
    measures="tokens that differ between a static and a dynamic cache, of 8 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
