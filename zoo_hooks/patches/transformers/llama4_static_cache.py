"""Llama-4 cannot generate with a static cache.

Symptom
-------
``generate(cache_implementation="static")`` of a Llama-4, or of any model with ``chunked_attention`` layers,
raises ``TypeError: create_chunked_causal_mask() got an unexpected keyword argument 'block_sequence_ids'``.

Cause
-----
The masks that ``generate`` makes ahead for such a cache take ``block_sequence_ids`` from 5.9.0 on. All
functions that make one were given the argument but that for chunks.

Repair
------
The function takes the argument where it is None, as it is for all text, and does without. Where it says
something upstream's own error stands. From 5.20.0 on the function takes it itself.
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
    maker = getattr(module, MAKER, None)
    if maker is None or BLOCKS not in inspect.signature(module.create_masks_for_generate).parameters:
        return Verdict.FIXED
    return Verdict.FIXED if BLOCKS in inspect.signature(maker).parameters else Verdict.AFFECTED


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
    title="Llama-4 with a static cache raises TypeError",
    severity="crash",
    symptoms=("create_chunked_causal_mask() got an unexpected keyword argument 'block_sequence_ids'",),
    targets=("transformers.masking_utils",),
    affects=("transformers>=5.9.0,<5.20.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/masking_utils.py",),
    measures="tokens that differ between a static cache and one that grows (of 8; expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
