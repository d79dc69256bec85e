"""Shared by the two cache patches: a constructor that sees no ``num_kv_shared_layers`` of zero."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.model import Verdict
from zoo_hooks.patches import _calls

CACHE = ("cache", "past_key_values")
"""Names that a cache has; the second one is deprecated where there are both."""


class _WithoutZero:
    """Stands in for a config inside a cache's constructor, which keeps no reference to it.

    It reads like the config, except that a ``num_kv_shared_layers`` of 0 or None is absent.
    """

    def __init__(self, config: Any) -> None:
        self._config = config

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        text = self._config.get_text_config(*args, **kwargs)
        return text if getattr(text, "num_kv_shared_layers", True) else _WithoutZero(text)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._config, name)
        if name == "num_kv_shared_layers" and not value:
            raise AttributeError(name)
        return value


def constructor(original: Callable[..., None]) -> Callable[..., None]:
    """Make a cache's ``__init__`` that hands ``original`` a config without the zero."""
    position = list(inspect.signature(original).parameters).index("config") - 1

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("config") is not None:
            kwargs["config"] = _WithoutZero(kwargs["config"])
        elif len(args) > position and args[position] is not None:
            args = (*args[:position], _WithoutZero(args[position]), *args[position + 1 :])
        original(self, *args, **kwargs)

    return init


def held(values: Any) -> Any:
    """Return the cache that an output or arguments hold, by the name that it has there; None without one."""
    return next((values[name] for name in CACHE if name in values), None)


def knows_sharing(module: ModuleType) -> bool:
    """Tell whether caches read ``num_kv_shared_layers``, which came with this layer in 4.56.0."""
    return hasattr(module, "DynamicSlidingWindowLayer")


def verdict(module: ModuleType, cache: str, **arguments: Any) -> Verdict:
    """Build the cache for a config with four layers of which none is shared, and count them."""
    if not knows_sharing(module):
        return Verdict.FIXED
    cache_class = getattr(module, cache)
    if "config" not in inspect.signature(cache_class).parameters:
        return Verdict.UNKNOWN
    config_class = getattr(module, "PreTrainedConfig", None) or module.PretrainedConfig
    kinds = ["full_attention"] * 4  # those with a window are made with tensors
    config = config_class(num_hidden_layers=4, num_kv_shared_layers=0, layer_types=kinds)
    with _calls.in_place_of_torchs(tensor=lambda *_, **__: None):  # a counter, in a layer of fixed size
        layers = len(cache_class(config=config, **arguments).layers)
    return {0: Verdict.AFFECTED, 4: Verdict.FIXED}.get(layers, Verdict.UNKNOWN)
