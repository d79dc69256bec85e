"""The skip list of 4-bit packing ignores a name that stands inside a path.

Symptom
-------
``BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["vision_tower"])`` packs the vision
tower all the same, with the patch embedder of Gemma-4 in it, and says nothing. Checkpoints packed
with transformers 4 by such a list do not run: their unpacked weights land in ``Linear4bit``.

Cause
-----
Up to 4.57 a name matched anywhere in a module's path. ``should_convert_module`` of 5.0 matches at
its start and its end only, and the path begins with ``model.``.

Repair
------
Before the modules are converted, the quantiser's list gains the full paths of those that a given
name stands inside of, such as ``model.vision_tower``. They are saved with the model, so that it
also loads without this repair; the config that the user made is not touched. A weight that the
checkpoint holds packed is still unpacked (``transformers/bare-linear-packed-4bit``).
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _four_bit, _skip_list


def probe(_: ModuleType) -> Verdict:
    return _skip_list.verdict()


def repair(module: ModuleType, changes: Changes) -> None:
    process = _skip_list.with_paths()
    changes.wrap(module.Bnb4BitHfQuantizer, "_process_model_before_weight_loading", process)


def canary() -> Figure:
    model = _four_bit.quantised(_four_bit.text_model(), ["lm_head", "self_attn"])
    packed = [m for m in model.model.layers[0].self_attn.modules() if type(m).__name__ == "Linear4bit"]
    return Figure(len(packed), healthy=not packed)


PATCH = Patch(
    module=__name__,
    title="the skip list of 4-bit packing ignores names inside a path",
    severity="silent wrong result",
    targets=("transformers.quantizers.quantizer_bnb_4bit",),
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
