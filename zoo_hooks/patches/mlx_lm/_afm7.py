"""Shared code of the AFM7 patches for mlx-lm and mlx-vlm."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict, symptom
from zoo_hooks.patches.mlx_lm import _tiny
from zoo_hooks.patches.mlx_lm._linked import Unmoved

Call = Callable[..., Any]
CONFIG: dict[str, Any] = {
    "model_type": "afm7",
    "vocab_size": 96,
    "hidden_dim": 32,
    "num_layers": 4,
    "num_kv_reuse_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
}


class _Turned:
    """Stands in for a layer's rotary embedding, and always rotates by the offset that it was created with."""

    def __init__(self, rope: Any, offset: Any) -> None:
        self._rope = rope
        self._offset = offset

    def __call__(self, x: Any, **_: Any) -> Any:
        return self._rope(x, offset=self._offset)


def _turned(layer: Any, offset: Any) -> Any:
    """A view of a layer that reuses K/V, which rotates its queries by this offset."""
    view = copy.copy(layer)
    view.self_attn = copy.copy(layer.self_attn)
    view.self_attn.rope = _Turned(layer.self_attn.rope, offset)
    return view


def verdict(module: ModuleType) -> Verdict:
    """Tell which offset the layers that reuse K/V rotate by, if a row of a batch begins with padding."""
    backbone: Any = getattr(module, "AFMModel", None)
    attention: Any = getattr(module, "KVReuseAttention", None)
    caches: Any = sys.modules.get(getattr(getattr(module, "KVCache", None), "__module__", ""))
    if not (isinstance(backbone, type) and isinstance(attention, type) and hasattr(caches, "BatchKVCache")):
        return Verdict.UNKNOWN
    import mlx.core as mx

    seen: list[Any] = []

    def rope(x: Any, offset: Any = 0) -> Any:
        seen.append(offset)
        return x

    class Layer(SimpleNamespace):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return attention.__call__(self.self_attn, *args, **kwargs)

    def layer(x: Any, *_: Any, cache: Any) -> Any:
        cache.update_and_fetch(x[:, None], x[:, None])
        return x

    part = SimpleNamespace(n_heads=1, scale=1.0, rope=rope, q_proj=_same, q_norm=_same, out_proj=_same)
    model = SimpleNamespace(embedding=lambda _: mx.zeros((1, 2, 4)), output_norm=_same)
    model.layers, model.kv_reuse_layers = [layer], [Layer(self_attn=part)]
    call: Call = backbone.__call__
    with symptom(ValueError, "too many values to unpack", by=call):
        call(model, mx.zeros((1, 2), dtype=mx.int32), cache=[caches.BatchKVCache([1])])
        return Verdict.FIXED if isinstance(seen[0], mx.array) else Verdict.AFFECTED
    return Verdict.AFFECTED


def _same(x: Any) -> Any:
    return x


def share_in_batches(changes: Changes, backbone: Any) -> None:
    """Give the layers that reuse K/V the K and V of a batch's cache, and the offset of each row."""

    def make(original: Call) -> Call:
        position = list(inspect.signature(original).parameters).index("cache") - 1

        def in_batches(self: Any, *args: Any, **kwargs: Any) -> Any:
            cache: Any = args[position] if len(args) > position else kwargs.get("cache")
            offset: Any = getattr(cache[-1], "offset", 0) if cache else 0
            if isinstance(offset, int):
                return original(self, *args, **kwargs)
            offset = offset + 0  # the cache moves its own in place
            self = copy.copy(self)  # the model that users hold is never touched
            self.kv_reuse_layers = [_turned(layer, offset) for layer in self.kv_reuse_layers]
            cache = [*cache[:-1], Unmoved(cache[-1], offset)]
            if len(args) > position:
                return original(self, *args[:position], cache, *args[position + 1 :], **kwargs)
            return original(self, *args, **kwargs | {"cache": cache})

        return in_batches

    changes.wrap(backbone, "__call__", make)


def figure(model: Any, batch_cache: Callable[[list[int]], Any]) -> Figure:
    """Canary: compare a prompt, and one step after it, alone and as a padded row of a batch."""
    import mlx.core as mx

    tokens, short, pad = _tiny.prompt(8, 2), 3, 5
    padded = mx.concatenate([mx.zeros((1, pad), dtype=tokens.dtype), tokens[1:, :short]], axis=1)
    cache = [batch_cache([0, pad]) for _ in range(CONFIG["num_layers"] - CONFIG["num_kv_reuse_layers"])]
    prompt = _tiny.logits(model, mx.concatenate([tokens[:1], padded]), cache)
    step = _tiny.logits(model, tokens[:, short : short + 1], cache)
    alone = _tiny.logits(model, tokens[1:, : short + 1])
    first = mx.concatenate([tokens[:1], tokens[:1, short : short + 1]], axis=1)
    whole = abs(mx.concatenate([prompt[:1], step[:1]], axis=1) - _tiny.logits(model, first)).max().item()
    gap = abs(mx.concatenate([prompt[1:, pad:], step[1:]], axis=1) - alone).max().item()
    return Figure(f"{whole:.3g}, {gap:.3g}", healthy=max(whole, gap) < _tiny.SMALL)
