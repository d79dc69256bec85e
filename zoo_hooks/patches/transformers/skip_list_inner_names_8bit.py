"""The skip list of 8-bit packing ignores a name that stands inside a path.

Symptom
-------
``BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_tower"])`` packs the vision tower all
the same and says nothing. Checkpoints packed with transformers 4 by such a list raise in their first forward:
``'Parameter' object has no attribute 'CB'``.

Cause
-----
Up to 4.57 a name matched anywhere in a module's path. ``should_convert_module`` of 5.0 matches at its start
and its end only, and the path begins with ``model.``. It is the cause of ``skip-list-inner-names-4bit``.

Repair
------
Before the modules are converted, the quantiser's list gains the full paths of those that a given name stands
inside of. They are saved with the model, so that it also loads without this repair; the config that the user
made is not touched. A checkpoint that holds packed weights inside of such a module was made with its name
ignored, and is loaded as without the repair. This is seen in safetensors only.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _four_bit, _skip_list


def probe(_: ModuleType) -> Verdict:
    return _skip_list.verdict()


def repair(module: ModuleType, changes: Changes) -> None:
    process = _skip_list.with_paths(".SCB")
    changes.wrap(module.Bnb8BitHfQuantizer, "_process_model_before_weight_loading", process)


def canary() -> Figure:
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "self_attn"])
    model = _four_bit._loaded(  # noqa: SLF001 - its neighbour
        _four_bit.text_model(), quantization_config=config, dtype=torch.float32
    )
    packed = [m for m in model.model.layers[0].self_attn.modules() if type(m).__name__ == "Linear8bitLt"]
    return Figure(len(packed), healthy=not packed)


PATCH = Patch(
    module=__name__,
    title="the skip list of 8-bit packing ignores names inside a path",
    severity="silent wrong result",
    symptoms=("'Parameter' object has no attribute 'CB' @ bitsandbytes.nn.modules",),
    targets=("transformers.quantizers.quantizer_bnb_8bit",),
    affects=("transformers>=5.0.0rc1", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/pull/42455",
        "https://github.com/1038lab/ComfyUI-JoyCaption/pull/53",
    ),
    measures="packed modules inside one that is on the skip list, of 4 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
