"""Cohere Compass in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training Cohere Compass on one text at a time is not causal: each token attends to
the tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 1.3. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``TextModel`` creates the causal mask only if it gets no mask.
Otherwise it passes the given mask to its layers, in place of the causal mask and the sliding-window mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
Without a KV cache, the layers get their own causal or sliding-window mask, combined with the mask of shape
[batch, length]. The loop over the layers is upstream's own and runs on a view of the model. No token
attends to padding, and each token always attends to itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.mlx_vlm import _causal, _padding, _tiny


class _Layer:
    attention_type = "full_attention"

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, x: Any, mask: Any, *_: Any) -> Any:
        self.seen.append(mask)
        return x


def _examine(module: ModuleType, backbone: str) -> Verdict:
    kind: Any = getattr(module, backbone, None)
    if not isinstance(kind, type):
        return Verdict.UNKNOWN
    import mlx.core as mx

    layer, part = _Layer(), _causal.Same(position_selector=None, enabled=False)
    model = SimpleNamespace(layers=[layer], norm=part, rotary_emb=part)
    model.rotary_embeddings = {layer.attention_type: part}
    model.config = SimpleNamespace(layer_types=[layer.attention_type], sliding_window=8)
    tokens = mask = mx.ones((2, 3), dtype=mx.int32)
    kind.__call__(model, tokens, inputs_embeds=mx.zeros((2, 3, 4)), mask=mask)
    if len(layer.seen) != 1:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if layer.seen[0] is mask else Verdict.FIXED


def _keep(changes: Changes, module: ModuleType, backbone: str) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        names = [*inspect.signature(original).parameters][1:]

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            mask: Any = given.get("mask")
            if getattr(mask, "ndim", 0) != 2 or given.get("cache") is not None:  # noqa: PLR2004
                return original(self, *args, **kwargs)
            made: dict[Any, Any] = {}
            given["mask"], view = None, copy.copy(self)
            view.layers = [_padding.Masked(layer, mask, made) for layer in self.layers]
            return original(view, **given)

        return call

    changes.wrap(getattr(module, backbone), "__call__", make)


def _model() -> Any:
    from mlx_vlm.models import cohere_compass as family

    text = family.TextConfig(head_dim=8, sliding_window=8, **_causal.TEXT)
    sizes = {**_causal.VISION, "depth": 1, "num_heads": 2, "out_hidden_size": 32}
    vision = family.VisionConfig(num_position_embeddings=16, deepstack_visual_indexes=[0], **sizes)
    config = family.ModelConfig(text_config=text, vision_config=vision, image_token_id=90)
    return _tiny.filled(family.Model(config))


PATCH = _causal.Row(
    module=__name__,
    family="Cohere Compass",
    target="mlx_vlm.models.cohere_compass.language",
    backbone="TextModel",
    model=_model,
    affects="mlx-vlm>=0.6.13",
    examine=_examine,
    keep=_keep,
).patch()
