"""With a static cache, Gemma-4 masks the tokens of an image causally, as if they were text.

Symptom
-------
Gemma-4 models with ``use_bidirectional_attention="vision"``, such as 12B, 26B-A4B and 31B, let the tokens
of an image attend to each other. With ``generate(cache_implementation="static")`` or ``"offloaded_static"``
they read an image from left to right instead. There is no error, but logits and tokens differ from those
with any other cache. Answers about places in an image are the first to be wrong.

Cause
-----
For a cache of fixed size, ``generate`` makes the attention masks before the forward pass. These masks
depend on ``mm_token_type_ids``, which say where images are. ``generate`` looks them up in the model's
inputs before it has added them there, so it passes None.

Repair
------
If a prompt comes with ``mm_token_type_ids``, ``prepare_inputs_for_generation`` makes the masks again, this
time from these types too. Nothing changes for prompts without these types, for other caches, for later
steps, and for prompts that are prefilled in chunks.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _static_masks, _tiny


def probe(module: ModuleType) -> Verdict:
    return _static_masks.verdict(module.Gemma4ForConditionalGeneration, module)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(
        module.Gemma4ForConditionalGeneration, "prepare_inputs_for_generation", _static_masks.with_types
    )


def canary() -> Figure:
    return _static_masks.difference(_static_masks.seeing_model(), _tiny.image_inputs())


PATCH = Patch(
    module=__name__,
    title="Gemma-4 masks images causally with a static cache",
    severity="silent wrong result",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.23.0",),
    links=(
        "https://github.com/unslothai/unsloth/pull/10903",
        "https://github.com/huggingface/transformers/blob/v5.22.2/src/transformers/generation/utils.py#L739",
    ),
    measures="largest difference of the first token's logits, static against dynamic cache (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
