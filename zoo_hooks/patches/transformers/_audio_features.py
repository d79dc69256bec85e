"""What the patches of models that merge audio features into their embeddings have in common."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from typing import Any, NamedTuple

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Verdict

CALL = "get_audio_features(input_features, input_features_mask, return_dict=True)"
CAST = (
    "audio_features.to(inputs_embeds.device, inputs_embeds.dtype)",
    "audio_output.pooler_output.to(inputs_embeds.device, inputs_embeds.dtype)",
)
HEALTHY = 0.01


class _For(NamedTuple):
    """Stands for the input features on the way from forward to get_audio_features."""

    features: Any
    dtype: Any


def verdict(kind: Any) -> Verdict:
    """Tell whether the forward of a class of models moves audio features to the device alone."""
    code = inspect.unwrap(kind.forward).__code__
    last = max(line for _, _, line in code.co_lines() if line)
    source = "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])
    if CALL not in source:
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
    features = names.index("input_features") - 1

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > features:  # given by position, as hardly anybody does
            kwargs.update(zip(names[features + 1 :], args[features:], strict=False))
            args = args[:features]
        given = kwargs.get("input_features")
        if given is not None:
            merged = kwargs.get("inputs_embeds")
            merged = self.get_input_embeddings().weight if merged is None else merged
            kwargs["input_features"] = _For(given, merged.dtype)
        return original(self, *args, **kwargs)

    return forward


def _get_audio_features(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_audio_features(self: Any, input_features: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input_features, _For):
            return original(self, input_features, *args, **kwargs)
        output = original(self, input_features.features, *args, **kwargs)
        if output.pooler_output.dtype is not input_features.dtype:
            output.pooler_output = output.pooler_output.to(input_features.dtype)
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
