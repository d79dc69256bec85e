"""Gemma-3n in mlx-vlm 0.4.1 to 0.4.4 does not apply its sliding window.

Symptom
-------
Logits are wrong for texts that are longer than ``sliding_window``. No error is raised. This happens in
training, and for the prompt in generation. In the canary's random model, with a window of 8 and a text of
12 tokens, logits are off by 2.5.

Cause
-----
The sliding-window layers get the same mask as the layers without a window. Their KV caches drop keys that
are older than the window, so generating one token at a time gives correct results.

Repair
------
The language model passes on a list of caches. In this list, the caches of the sliding-window layers now
create a mask that excludes keys older than the window.

zoo-hooks leaves alone masks that the caller passes, texts that fit into the window, the caches of batches,
and layers without a window. It also leaves alone direct calls of ``Gemma3Model``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _shared_kv, _tiny

_CACHE = 3  # among the arguments after self


class _Caches(list[Any]):
    """Caches, or Nones, of which those of the sliding layers make a mask with a window."""

    def __init__(self, caches: list[Any], first: int, window: int) -> None:
        super().__init__(caches)
        self._first = first
        self._window = window

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Sliding(found[0], self._window) if key == slice(self._first, None) else found


class _Sliding:
    """Stands in for the caches of which a mask is made."""

    def __init__(self, cache: Any, window: int) -> None:
        self._cache = cache
        self._window = window

    def make_mask(self, new: int, **_: Any) -> Any:
        """The mask for ``new`` tokens, where the cache keeps the last of those before."""
        import mlx.core as mx

        old = getattr(self._cache, "offset", 0)
        of_batch = not isinstance(old, int)
        if not of_batch:
            old = min(old, getattr(self._cache, "max_size", old + 1) - 1)
        if new == 1 or of_batch or old + new <= self._window:
            return "causal" if new > 1 else None
        queries, keys = mx.arange(old, old + new)[:, None], mx.arange(old + new)
        return (keys <= queries) & (queries < keys + self._window)


def probe(module: ModuleType) -> Verdict:
    model = _shared_kv.Code(getattr(module, "Gemma3Model", None))
    outer = _shared_kv.Code(getattr(module, "LanguageModel", None))
    if "sliding_window" in model.names or "windowed" in outer.ours:
        return Verdict.FIXED
    known = {"create_attention_mask", "first_sliding_idx", "first_full_idx"} <= {*model.names}
    return Verdict.AFFECTED if known and "cache" in outer.parameters else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def windowed(self: Any, *args: Any, **kwargs: Any) -> Any:
            caches = args[_CACHE] if len(args) > _CACHE else kwargs.get("cache")
            model = self.model
            caches = [None] * len(model.layers) if caches is None else caches
            caches = _Caches(caches, model.first_sliding_idx, model.config.sliding_window)
            if len(args) > _CACHE:
                return original(self, *args[:_CACHE], caches, *args[_CACHE + 1 :], **kwargs)
            return original(self, *args, **kwargs | {"cache": caches})

        return windowed

    changes.wrap(module.LanguageModel, "__call__", make)


def canary() -> Figure:
    import mlx.core as mx

    model, tokens = _tiny.gemma3n(num_kv_shared_layers=0), _tiny.prompt()
    cache = model.make_cache()  # which drops old keys by itself after each token
    steps = [_tiny.logits(model, tokens[:, at : at + 1], cache) for at in range(tokens.shape[1])]
    expected = mx.concatenate(steps, axis=1)
    found = [_tiny.logits(model, tokens, cache) for cache in (None, model.make_cache())]
    gaps = [abs(one - expected).max().item() for one in found]
    return Figure(", ".join(f"{gap:.3g}" for gap in gaps), healthy=max(gaps) < _tiny.SMALL)


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-vlm does not apply its sliding window, so longer texts are wrong",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma3n.language",),
    affects=("mlx-vlm>=0.4.1,<0.5.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/pull/1030",
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.4.4/mlx_vlm/models/gemma3n/language.py",
    ),
    measures=(
        "errors of logits beyond the window: without a KV cache, of a prompt with one (expected: below 1e-4)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
