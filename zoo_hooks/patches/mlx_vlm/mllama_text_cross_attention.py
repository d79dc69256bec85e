"""Llama 3.2 Vision in mlx-vlm runs its image cross-attention on texts without an image.

Symptom
-------
Logits of a text without an image are wrong and not causal: each token attends to later tokens. No error is
raised. In the canary's random model, changing the last token moves earlier logits by 0.1 and more.
Generated text continues from a prompt that was read wrongly. Training on texts can see the tokens that it
should predict.

Cause
-----
Some layers attend to an image. If there is no image, neither in the call nor in the KV cache, transformers
skips these layers. mlx-vlm runs them, and makes K and V from the queries of the text. The first half of the
heads becomes K, the second half becomes V, and there is no mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
A layer that attends to an image returns its input if there is no image, neither in the call nor in its
cache. Forward passes with an image, and the steps after them, are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _causal, _tiny

_CACHE = 3  # among the arguments after the hidden states


class _Reached(Exception):
    """The probe has seen what it wants."""


def probe(module: ModuleType) -> Verdict:
    kind: Any = getattr(module, "MllamaCrossAttentionDecoderLayer", None)
    if not isinstance(kind, type):
        return Verdict.UNKNOWN

    def attend(**_: Any) -> None:
        raise _Reached

    layer, hidden = SimpleNamespace(input_layernorm=lambda x: x, cross_attn=attend), object()
    with suppress(_Reached):
        given = kind.__call__(layer, hidden, cross_attention_states=None)
        return Verdict.FIXED if given is hidden else Verdict.UNKNOWN
    return Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def with_image(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            image = args[0] if args else kwargs.get("cross_attention_states")
            if image is None:
                cache = args[_CACHE] if len(args) > _CACHE else kwargs.get("cache")
                if getattr(cache, "keys", None) is None:
                    return hidden_states
            return original(self, hidden_states, *args, **kwargs)

        return with_image

    changes.wrap(module.MllamaCrossAttentionDecoderLayer, "__call__", make)


def canary() -> Figure:
    import mlx.core as mx
    from mlx_vlm.models.mllama.config import TextConfig
    from mlx_vlm.models.mllama.language import LanguageModel

    text = TextConfig(cross_attention_layers=[1], max_position_embeddings=64, **_causal.TEXT)
    model, tokens = _tiny.filled(LanguageModel(text)), _tiny.prompt(12)
    other = mx.concatenate([tokens[:, :-1], tokens[:, -1:] + 1], axis=1)
    found = model(tokens).logits
    moved = abs(found - model(other).logits)[:, :-1].max().item()
    model.model.layers = model.model.layers[:1]  # the second is the one that attends to images
    gap = abs(found - model(tokens).logits).max().item()
    return Figure(f"{moved:.3g}, {gap:.3g}", healthy=max(moved, gap) < _tiny.SMALL)


PATCH = Patch(
    module=__name__,
    title="Llama 3.2 Vision in mlx-vlm runs its image cross-attention on texts without an image",
    severity="silent wrong result",
    targets=("mlx_vlm.models.mllama.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/mllama/language.py",
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/models/mllama/modeling_mllama.py",
    ),
    measures=(
        "change of earlier logits when the last token changes; error against a model without the "
        "image layer (expected: 0)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
)
