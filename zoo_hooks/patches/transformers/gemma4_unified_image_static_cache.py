"""Gemma-4 unified that generates with a static cache masks an image as if it were text.

Symptom
-------
With ``generate(cache_implementation="static")`` or ``"offloaded_static"`` a Gemma-4 unified model whose
image tokens see each other (``use_bidirectional_attention="vision"``) reads an image from left to right. No
error: logits and tokens differ from those with any other cache. Answers about places in an image are the
first to be wrong.

Cause
-----
For a cache of fixed size ``generate`` makes the masks before the forward pass. It takes
``mm_token_type_ids``, which say where images are, from inputs into which they have not been put yet, and so
hands on None.

Repair
------
``prepare_inputs_for_generation`` makes the masks of a prompt that has such types once more, with them.
Prompts without types, other caches and later steps are as without the repair, and so is a prompt that is
read in chunks.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _four_bit, _static_masks


def probe(module: ModuleType) -> Verdict:
    return _static_masks.verdict(module.Gemma4UnifiedForConditionalGeneration, module)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(
        module.Gemma4UnifiedForConditionalGeneration,
        "prepare_inputs_for_generation",
        _static_masks.with_types,
    )


def canary() -> Figure:
    return _static_masks.difference(_static_masks.unified_seeing_model(), _four_bit.unified_inputs())


PATCH = Patch(
    module=__name__,
    title="Gemma-4 unified with a static cache masks images causally",
    severity="silent wrong result",
    targets=("transformers.models.gemma4_unified.modeling_gemma4_unified",),
    affects=("transformers>=5.10.0,<5.23.0",),
    links=(
        "https://github.com/unslothai/unsloth/pull/10903",
        "https://github.com/huggingface/transformers/blob/v5.22.2/src/transformers/generation/utils.py#L739",
    ),
    measures="difference of the first logits between a static cache and one that grows (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
