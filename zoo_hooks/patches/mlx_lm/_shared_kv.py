"""Shared code of the patches for MLX models that share K/V between layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict
from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_lm._linked import SHARED_KV, Held, Unmoved, linked

_CACHE = 2  # a layer's x and mask stand before its cache
Call = Callable[..., Any]


class Code:
    """What can be read from the code of a class's ``__call__``, or of any other object in its place.

    Like ``inspect.signature``, it looks through wrappers that set ``__wrapped__``.
    """

    def __init__(self, kind: Any) -> None:
        self.ours: set[str] = set()
        """Names of our wrappers around it."""
        self.foreign = False
        """Whether there are others around it."""
        self.parameters: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.globals: dict[str, Any] | None = None
        """Of the module in which it stands."""
        function = inspect.getattr_static(kind, "__call__", None) if isinstance(kind, type) else None
        seen: set[FunctionType] = set()
        while isinstance(function, FunctionType) and "__wrapped__" in vars(function) and function not in seen:
            seen.add(function)
            if str(function.__globals__.get("__name__")).startswith("zoo_hooks.patches."):
                self.ours.add(function.__code__.co_name)
            else:
                self.foreign = True
            function = vars(function)["__wrapped__"]
        if isinstance(function, FunctionType):
            code = function.__code__
            self.parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            self.names = code.co_names
            self.globals = function.__globals__


def no_cache_verdict(module: ModuleType, backbone: str, layer: str, attention: str) -> Verdict:
    """Tell whether layers share K/V only through the cache, and therefore not without one."""
    model, part = Code(getattr(module, backbone, None)), Code(getattr(module, attention, None))
    if _passes_kv(model, part) or "without_cache" in model.ours:
        return Verdict.FIXED
    call = Code(getattr(module, layer, None))
    if call.foreign or call.globals is not model.globals:
        # Checkpointed already, for instance: K/V would be handed on outside of what is differentiated.
        return Verdict.UNKNOWN
    if "layer_idx_to_cache_idx" in model.names and "is_kv_shared_layer" in part.names:
        return Verdict.AFFECTED
    return Verdict.UNKNOWN


def offset_verdict(module: ModuleType, backbone: str, attention: str) -> Verdict:
    """Tell whether layers that use shared K/V read the cache's offset after it has moved."""
    model, part = Code(getattr(module, backbone, None)), Code(getattr(module, attention, None))
    if _passes_kv(model, part) or "offset" in part.parameters or "with_cache" in part.ours:
        return Verdict.FIXED
    if "layer_idx_to_cache_idx" in model.names and {"is_kv_shared_layer", "offset"} <= {*part.names}:
        return Verdict.AFFECTED
    return Verdict.UNKNOWN


def _passes_kv(model: Code, attention: Code) -> bool:
    return "shared_kv_sink" in model.parameters or SHARED_KV in attention.parameters


def share_without_cache(changes: Changes, backbone: Any, layer: Any) -> None:
    """Pass K/V from layer to layer in a forward pass without a cache."""
    changes.wrap(layer, "__call__", _keeping)
    layer_call = vars(layer)["__call__"]

    def make(original: Call) -> Call:
        position = _position(original)

        def without_cache(self: Any, *args: Any, **kwargs: Any) -> Any:
            cache = args[position] if len(args) > position else kwargs.get("cache")
            if cache is None or all(entry is None for entry in cache):
                self = linked(self, layer_call)
            return original(self, *args, **kwargs)

        return without_cache

    changes.wrap(backbone, "__call__", make)


def share_with_unmoved_offset(changes: Changes, attention: Any) -> None:
    """Let the layers that use shared K/V rotate by the offset at which the K/V were made."""

    def make(original: Call) -> Call:
        def with_cache(self: Any, x: Any, mask: Any = None, cache: Any = None) -> Any:
            if cache is not None:
                offset = cache.offset
                of_batch = not isinstance(offset, int)  # it counts in an array, which it moves in place
                if not self.is_kv_shared_layer:
                    cache = Unmoved(cache, offset + 0) if of_batch else cache
                elif of_batch or offset >= x.shape[1]:  # a marker that stands in for a cache stays at 0
                    cache = Unmoved(cache, offset - x.shape[1])
            return original(self, x, mask, cache)

        return with_cache

    changes.wrap(attention, "__call__", make)


def _position(function: Call) -> int:
    """Position of ``cache`` among the arguments after self."""
    return list(inspect.signature(function).parameters).index("cache") - 1


def _keeping(original: Call) -> Call:
    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if SHARED_KV not in kwargs:
            return original(self, *args, **kwargs)
        held = Held(kwargs.pop(SHARED_KV))
        given = held.state is not None
        hidden = original(self, *args[:_CACHE], held, *args[_CACHE + 1 :], **kwargs)
        return hidden if given else (hidden, held.state)

    return keeping


def no_cache_figure(model: Any) -> Figure:
    """Canary of the no-cache patches: compare with a forward pass whose caches stay at offset 0."""

    def caches() -> list[Held]:
        return [Held() for _ in model.layers]

    tokens = _tiny.prompt()
    expected = _tiny.kv_gradients(model, tokens, caches)
    gap = abs(_tiny.logits(model, tokens, caches()) - _tiny.logits(model, tokens)).max().item()
    eager = _tiny.error(expected, _tiny.kv_gradients(model, tokens))
    _tiny.checkpoint(model.layers)
    under = _tiny.error(expected, _tiny.kv_gradients(model, tokens))
    return Figure(f"{gap:.3g}, {eager:.3g}, {under:.3g}", healthy=max(gap, eager, under) < _tiny.SMALL)


def offset_figure(model: Any) -> Figure:
    """Canary of the offset patches: compare with a forward pass whose caches stay at offset 0."""
    import mlx.core as mx

    tokens, prefix = _tiny.prompt(8), 5  # a window full, so that no cache has thrown any away
    expected = _tiny.logits(model, tokens, [Held() for _ in model.layers])
    cache = model.make_cache()
    start = _tiny.logits(model, tokens[:, :prefix], cache)
    steps = [_tiny.logits(model, tokens[:, at : at + 1], cache) for at in range(prefix, tokens.shape[1])]
    prefill = abs(start - expected[:, :prefix]).max().item()
    decode = abs(mx.concatenate(steps, axis=1) - expected[:, prefix:]).max().item()
    return Figure(f"{prefill:.3g}, {decode:.3g}", healthy=max(prefill, decode) < _tiny.SMALL)
