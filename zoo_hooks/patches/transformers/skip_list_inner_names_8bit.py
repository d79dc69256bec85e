"""The skip list of 8-bit packing ignores names in the middle of a module's path.

Symptom
-------
``BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_tower"])`` packs the vision tower
anyway, without a warning. Checkpoints that transformers 4 packed with such a list raise ``'Parameter'
object has no attribute 'CB'`` in their first forward pass.

Cause
-----
Up to 4.57, a name matched anywhere in a module's path. ``should_convert_module`` of 5.0 matches only at the
start and at the end of the path, and the path begins with ``model.``. ``skip-list-inner-names-4bit`` has
the same cause.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
Before the modules are converted, zoo-hooks adds full paths such as ``model.vision_tower`` to the
quantiser's list. It adds one for each module that contains other modules and whose path ends with a name on
the list. The paths are saved with the model, so the model also loads without this repair. The user's config
object is not changed. A checkpoint with packed weights inside such a module was packed with the name
ignored, and loads as without the repair. zoo-hooks detects such a checkpoint only if it consists of
safetensors files.
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
    title="The skip list of 8-bit packing ignores names in the middle of a module's path",
    severity="silent wrong result",
    symptoms=("'Parameter' object has no attribute 'CB' @ bitsandbytes.nn.modules",),
    targets=("transformers.quantizers.quantizer_bnb_8bit",),
    affects=("transformers>=5.0.0rc1", "bitsandbytes>=0.46.1"),
    links=(
        "https://github.com/huggingface/transformers/pull/42455",
        "https://github.com/1038lab/ComfyUI-JoyCaption/pull/53",
    ),
    measures="modules packed to 8 bits inside a module on the skip list, of 4 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
