"""Molmo2 that generates with a static cache masks an image as if it were text.

Symptom
-------
With ``generate(cache_implementation="static")`` or ``"offloaded_static"`` a Molmo2, whose image tokens see
each other, reads images and frames from left to right where the prompts of a batch are padded, or attention
is eager. No error: logits and tokens differ from those with any other cache. Of a single prompt it makes
the right masks itself.

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
    title="Molmo2 with a static cache masks images causally",
    severity="silent wrong result",
    targets=("transformers.models.molmo2.modeling_molmo2",),
    affects=("transformers>=5.20.0,<5.23.0",),
    links=(
        "https://github.com/unslothai/unsloth/pull/10903",
        "https://github.com/huggingface/transformers/blob/v5.22.2/src/transformers/generation/utils.py#L739",
    ),
    measures="difference of the first logits between a static cache and one that grows (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
