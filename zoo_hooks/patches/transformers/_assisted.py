"""What the patches of assisted generation have in common: a model that has only a config, and its cache."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

from zoo_hooks.patches.transformers import _zero_shared

PREPARE = "_prepare_cache_for_generation"
ASSISTED = "assisted_generation"
"""Value of GenerationMode, whose members are strings."""


def stand_in(module: ModuleType, **more: Any) -> Any:
    """Return a model of one layer with a window of 8, and one without; it cannot run."""
    from transformers import configuration_utils

    kind = getattr(configuration_utils, "PreTrainedConfig", None) or configuration_utils.PretrainedConfig
    model = type("Model", (module.GenerationMixin,), {"_is_stateful": False, **more})()
    layers = ["sliding_attention", "full_attention"]
    model.config = kind(num_hidden_layers=2, sliding_window=8, layer_types=layers)
    return model


def prepare(module: ModuleType, model: Any, config: Any, mode: str | None, **model_kwargs: Any) -> Any:
    """Return the cache that ``generate`` would use; KeyError where it does not ask for the mode."""
    name = list(inspect.signature(getattr(module.GenerationMixin, PREPARE)).parameters)[3]
    given = {"generation_mode": mode and module.GenerationMode(mode), "assistant_model": None}[name]
    getattr(model, PREPARE)(config, model_kwargs, given, 1, 16)
    return cache_of(model_kwargs)


def cache_of(model_kwargs: dict[str, Any]) -> Any:
    """Return the cache of what is generated."""
    cache = _zero_shared.held(model_kwargs)
    return getattr(cache, "self_attention_cache", cache)  # beside which an encoder's is


def keeps_all(cache: Any) -> bool:
    """Tell whether a cache can be cropped; later releases let layers with a window record what they drop."""
    windows = [layer for layer in cache.layers if getattr(layer, "is_sliding", False)]
    return all(hasattr(layer, "activate_past_recording") for layer in windows)


def keep_all(cache: Any) -> None:
    """Let the layers that have a window keep every token from now on; what is lost is masked anyhow."""
    import torch
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            cache.layers[number] = DynamicLayer()
            if layer.get_seq_length():
                lost = (0, 0, layer.get_seq_length() - layer.keys.shape[-2], 0)
                states = (torch.nn.functional.pad(part, lost) for part in (layer.keys, layer.values))
                cache.layers[number].update(*states)
