"""Falcon models of mlx-vlm, which create a mask only for images; mostly not even a causal one for text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.mlx_vlm import _causal, _padding, _tiny

Call = Callable[..., Any]
SHAPE = {"dim": 32, "ffn_dim": 48, "head_dim": 8, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
TOKENS = {"image_cls_token_id": 91, "img_end_id": 92, "img_id": 90, "max_seq_len": 64, "vocab_size": 96}
NONE = dict.fromkeys(("_full_attn_mask", "_pos_hw", "_position_ids", "_rope_delta", "_rope_deltas"))
SMALL = ("coord_enc_dim", "coord_dec_dim", "coord_out_dim", "size_enc_dim", "size_dec_dim", "size_out_dim")


class _Stack(SimpleNamespace):
    """Stands in for a text model, and runs the forward pass of its class."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.kind.__call__(self, *args, **kwargs)


def verdict(module: ModuleType, backbone: str) -> Verdict:
    """Tell whether layers get no mask for a text, or a mask of [batch, length]."""
    kind, owner = getattr(module, backbone, None), getattr(module, "LanguageModel", None)
    if not isinstance(kind, type) or not isinstance(owner, type):
        return Verdict.UNKNOWN
    import mlx.core as mx

    seen: list[Any] = []
    hidden = mx.zeros((2, 3, 4))

    def layer(x: Any, mask: Any = None, **_: Any) -> Any:
        seen.append(mask)
        return x

    part: Any = _causal.Same(weight=hidden)
    text = _Stack(kind=kind, layers=[layer], norm=part, cos_1d=hidden[0], sin_1d=hidden[0], embed_tokens=part)
    model = SimpleNamespace(model=text, lm_head=part, args=SimpleNamespace(tie_word_embeddings=False), **NONE)
    tokens = mx.zeros((2, 3), dtype=mx.int32)
    for mask in (None, tokens):
        owner.__call__(model, tokens, inputs_embeds=hidden, mask=mask)
    if len(seen) != 2:  # noqa: PLR2004
        return Verdict.UNKNOWN
    none, padding = seen
    return Verdict.AFFECTED if none is None or padding is tokens else Verdict.FIXED


def keep_causal(changes: Changes, module: ModuleType, _: str) -> None:
    """Give texts a causal mask, and combine a mask of [batch, length] with the mask that the model has."""

    def make(original: Call) -> Call:
        names = [*inspect.signature(original).parameters][1:]

        def causal(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            mask, cache = given.get("mask"), given.get("cache")
            of: Any = given[names[0]] if given.get("inputs_embeds") is None else given["inputs_embeds"]
            own = given.get("attention_mask_4d", getattr(self, "_full_attn_mask", None))
            length = of.shape[1] if of.ndim > 1 else 1
            if mask is None and own is None and length > 1:
                given["mask"] = _of_text(length, cache)
            elif getattr(mask, "shape", None) == of.shape[:2] and _causal.is_empty(cache):
                own = "causal" if own is None else own[:, :, :length, :length]
                given["mask"] = _padding.without_padding(own, mask, length)
            return original(self, **given)

        return causal

    changes.wrap(module.LanguageModel, "__call__", make)


def _of_text(length: int, cache: Any) -> Any:
    import mlx.core as mx

    if cache is None or cache[0] is None:
        return _padding.without_padding("causal", mx.ones((1, length)), length)
    return cache[0].make_mask(length, return_array=True, window_size=None)


def model(family: str, **config: Any) -> Any:
    """A model of two layers; the rotations, which are among its weights, stay as they are."""
    home = import_module(f"mlx_vlm.models.{family}")
    made = home.Model(home.ModelConfig.from_dict(SHAPE | TOKENS | config))
    text = made.language_model.model
    rotations = [("cos_1d", text.cos_1d), ("sin_1d", text.sin_1d)]
    _tiny.filled(made)
    text.load_weights(rotations, strict=False)
    return made
