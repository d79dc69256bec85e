"""Gemma-4 merges audio features of another dtype than that of its embeddings.

Symptom
-------
A forward with audio raises ``RuntimeError: masked_scatter_: expected self and source to have same
dtypes but got Float and Half``, where the audio tower and the embeddings differ in dtype: under
autocast, or with parts of the model in float32.

Cause
-----
``Gemma4Model.forward`` moves image and video features to device and dtype of the embeddings, and
audio features to the device only.

Repair
------
While ``forward`` runs, ``get_audio_features`` gives its features in the dtype of the embeddings.
Callers of ``get_audio_features`` itself get what they always got.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.transformers import _tiny

HEALTHY = 0.01


class _For(NamedTuple):
    """Stands for the input features on the way from forward to get_audio_features."""

    features: Any
    dtype: Any


def probe(module: ModuleType) -> Verdict:
    code = inspect.unwrap(module.Gemma4Model.forward).__code__
    last = max(line for _, _, line in code.co_lines() if line)
    source = "".join(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : last])
    if "get_audio_features(input_features, input_features_mask, return_dict=True)" not in source:
        return Verdict.UNKNOWN
    if "audio_features.to(inputs_embeds.device, inputs_embeds.dtype)" in source:
        return Verdict.FIXED
    moved = "audio_features.to(inputs_embeds.device)" in source
    return Verdict.AFFECTED if moved else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def model(original: Callable[..., Any]) -> Callable[..., Any]:
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

    def audio(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_audio_features(self: Any, input_features: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(input_features, _For):
                return original(self, input_features, *args, **kwargs)
            output = original(self, input_features.features, *args, **kwargs)
            if output.pooler_output.dtype is not input_features.dtype:
                output["pooler_output"] = output.pooler_output.to(input_features.dtype)
            return output

        return get_audio_features

    changes.wrap(module.Gemma4Model, "forward", model)
    changes.wrap(module.Gemma4Model, "get_audio_features", audio)


def canary() -> Figure:
    import torch

    model = _tiny.multimodal_model()
    given = _tiny.audio_inputs()
    with torch.no_grad():
        expected = model(**given).logits
        model.model.audio_tower.half()
        model.model.embed_audio.half()
        error = (model(**given).logits - expected).norm() / expected.norm()
    return Figure(round(float(error), 5), healthy=bool(error < HEALTHY))


PATCH = Patch(
    module=__name__,
    title="Gemma-4 merges audio features of another dtype than that of its embeddings",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.15.0",),
    links=(
        "https://github.com/huggingface/transformers/pull/47482",
        "https://github.com/unslothai/unsloth/issues/7224",
    ),
    measures="relative error of the logits, audio tower in float16, against float32 (right: < 0.01)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
