"""What the patches of quantisers share that pass over names inside a path on their skip list."""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

from zoo_hooks.model import Verdict
from zoo_hooks.patches import _calls


def verdict() -> Verdict:
    """Ask the function by which all quantisers match names."""
    from transformers.quantizers import quantizers_utils

    if not hasattr(quantizers_utils, "should_convert_module"):
        return Verdict.FIXED  # before 5.0 bitsandbytes had its own way to match names
    packed = quantizers_utils.should_convert_module("model.vision_tower.proj", ["vision_tower"])
    return Verdict.AFFECTED if packed else Verdict.FIXED


def with_paths(packed: str = "") -> Callable[[Any], Callable[..., Any]]:
    """Make ``_process_model_before_weight_loading`` skip modules whose own name, or last names, are given.

    A checkpoint that holds something ``packed`` inside a module of a name was made with that name passed
    over, and is loaded so. Where that is not told, any is.
    """

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        find = _calls.first_argument(original)

        def process(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = self.quantization_config.llm_int8_skip_modules or []
            told = given and packed and self.pre_quantized
            keys = _keys(kwargs.get("checkpoint_files")) if told else []
            there = [f".{key}" for key in keys if key.endswith(packed)]
            names = [name for name in given if not any(f".{name}." in key for key in there)]
            paths = paths_of(find(args, kwargs), names)
            if not paths <= set(given):
                self.quantization_config = copy.copy(self.quantization_config)
                self.quantization_config.llm_int8_skip_modules = [*given, *sorted(paths - set(given))]
            return original(self, *args, **kwargs)

        return process

    return make


def paths_of(model: Any, names: list[str]) -> set[str]:
    """Paths of the modules that hold others and whose own name, or last names, are given."""
    holders = [path for path, module in model.named_modules() if next(module.children(), None) is not None]
    return {path for path in holders for name in names if path.endswith("." + name)}


def _keys(files: list[str] | None) -> list[str]:
    """Names of the tensors in a checkpoint's files."""
    safe_open = import_module("safetensors").safe_open
    keys: list[str] = []
    for file in files or []:
        if str(file).endswith(".safetensors"):
            with safe_open(file, framework="pt") as opened:
                keys += opened.keys()
    return keys
