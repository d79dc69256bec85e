"""Shared by the patches of models that merge audio features into their input embeddings."""

from __future__ import annotations

import inspect
import linecache
import threading
from collections.abc import Callable
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict

CALL = "get_audio_features(input_features, input_features_mask, return_dict=True)"
CAST = (
    "audio_features.to(inputs_embeds.device, inputs_embeds.dtype)",
    "audio_output.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)",
)
HEALTHY = 0.01


class _Merging(threading.local):
    """What the forward that runs in this thread merges audio into; ``torch.compile`` traces it."""

    model: Any = None
    dtype: Any = None


_merging = _Merging()


def verdict(kind: Any) -> Verdict:
    """Tell whether the forward of a class of models moves audio features to the device alone."""
    code = inspect.unwrap(kind.forward).__code__
    last = max(line for _, _, line in code.co_lines() if line)
    source = "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])
    named = inspect.signature(kind.forward).parameters.keys()
    if CALL not in source or not {"input_features", "inputs_embeds"} <= named:
        return Verdict.UNKNOWN
    if any(cast in source for cast in CAST):
        return Verdict.FIXED
    moved = "audio_features.to(inputs_embeds.device)" in source
    return Verdict.AFFECTED if moved else Verdict.UNKNOWN


def merge_in_dtype(changes: Changes, kind: Any) -> None:
    """Give ``forward``, and nobody else, the audio features in the dtype of its embeddings."""
    changes.wrap(kind, "forward", _forward)
    changes.wrap(kind, "get_audio_features", _get_audio_features)


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(original).parameters)
    at_features, at_embeds = names.index("input_features") - 1, names.index("inputs_embeds") - 1

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        heard = args[at_features] if len(args) > at_features else kwargs.get("input_features")
        if heard is None:
            return original(self, *args, **kwargs)
        merged = args[at_embeds] if len(args) > at_embeds else kwargs.get("inputs_embeds")
        merged = self.get_input_embeddings().weight if merged is None else merged
        outer = _merging.model, _merging.dtype
        _merging.model, _merging.dtype = self, merged.dtype
        try:
            return original(self, *args, **kwargs)
        finally:
            _merging.model, _merging.dtype = outer

    return forward


def _get_audio_features(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_audio_features(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        features = getattr(output, "pooler_output", None)  # an override may ask for a tuple
        if _merging.model is self and features is not None and features.dtype is not _merging.dtype:
            output.pooler_output = features.to(_merging.dtype)
        return output

    return get_audio_features


def error_in_half(model: Any, given: dict[str, Any], *parts: str) -> Figure:
    """Relative error of the logits with some parts in float16, against float32."""
    import torch

    with torch.no_grad():
        expected = model(**given).logits
        for part in parts:
            getattr(model.model, part).half()
        error = (model(**given).logits - expected).norm() / expected.norm()
    return Figure(round(float(error), 5), healthy=bool(error < HEALTHY))
