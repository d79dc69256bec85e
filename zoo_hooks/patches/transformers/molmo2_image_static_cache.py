"""With a static cache, Molmo2 masks the tokens of an image causally, as if they were text.

Symptom
-------
Molmo2 lets the tokens of an image attend to each other. With ``generate(cache_implementation="static")`` or
``"offloaded_static"`` it reads images and frames from left to right instead. This happens when the prompts
of a batch are padded, or when attention is eager. For a single prompt without eager attention, Molmo2 makes
the correct masks itself. There is no error, but logits and tokens differ from those with any other cache.

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
    return _static_masks.verdict(module.Molmo2ForConditionalGeneration, module)


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(
        module.Molmo2ForConditionalGeneration, "prepare_inputs_for_generation", _static_masks.with_types
    )


def canary() -> Figure:
    ids = _tiny.prompt()
    padded = {"input_ids": ids, "attention_mask": (ids > 2).long(), "mm_token_type_ids": (ids < 8).long()}  # noqa: PLR2004
    return _static_masks.difference(_static_masks.molmo2_model(), padded)


PATCH = Patch(
    module=__name__,
    title="Molmo2 masks images causally with a static cache",
    severity="silent wrong result",
    targets=("transformers.models.molmo2.modeling_molmo2",),
    affects=("transformers>=5.20.0,<5.23.0",),
    links=(
        "https://github.com/unslothai/unsloth/pull/10903",
        "https://github.com/huggingface/transformers/blob/v5.22.2/src/transformers/generation/utils.py#L739",
    ),
    measures="largest difference of the first token's logits, static against dynamic cache (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
