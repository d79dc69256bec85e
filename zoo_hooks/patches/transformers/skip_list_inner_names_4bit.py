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

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _calls, _four_bit


def probe(_: ModuleType) -> Verdict:
    from transformers.quantizers import quantizers_utils

    if not hasattr(quantizers_utils, "should_convert_module"):
        return Verdict.FIXED  # before 5.0 bitsandbytes had its own way to match names
    packed = quantizers_utils.should_convert_module("model.vision_tower.proj", ["vision_tower"])
    return Verdict.AFFECTED if packed else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module.Bnb4BitHfQuantizer, "_process_model_before_weight_loading", _process)


def _process(original: Callable[..., Any]) -> Callable[..., Any]:
    find = _calls.first_argument(original)

    def process(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = self.quantization_config.llm_int8_skip_modules or []
        paths = _paths(find(args, kwargs), given)
        if not paths <= set(given):
            self.quantization_config = copy.copy(self.quantization_config)
            self.quantization_config.llm_int8_skip_modules = [*given, *sorted(paths - set(given))]
        return original(self, *args, **kwargs)

    return process


def _paths(model: Any, names: list[str]) -> set[str]:
    """Paths of the modules that hold others and whose own name, or last names, are given."""
    holders = [path for path, module in model.named_modules() if next(module.children(), None) is not None]
    return {path for path in holders for name in names if path.endswith("." + name)}


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
