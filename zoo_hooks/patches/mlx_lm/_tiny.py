"""Tiny models for the canaries, and figures of them; nothing is downloaded, nothing is random.

All are fp32, with weights that depend on their names alone, so that they are the same on each release.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

LAYERS = ["sliding_attention", "sliding_attention", "full_attention"] * 2
TEXT: dict[str, Any] = {
    "num_hidden_layers": 6,
    "num_kv_shared_layers": 3,
    "layer_types": LAYERS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "sliding_window": 8,
    "max_position_embeddings": 128,
    "final_logit_softcapping": 30.0,
}
ROPE: dict[str, Any] = {
    "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0, "partial_rotary_factor": 1.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
}
GEMMA4: dict[str, Any] = {**TEXT, "global_head_dim": 8, "use_double_wide_mlp": False, "rope_parameters": ROPE}
GEMMA3N: dict[str, Any] = {
    **TEXT,
    "altup_num_inputs": 2,
    "altup_coef_clip": 120.0,
    "altup_correct_scale": True,
    "altup_active_idx": 0,
    "laurel_rank": 4,
    "activation_sparsity_pattern": [0.0] * 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
}
SMALL = 1e-4


def gemma4(**config: Any) -> Any:
    """The language model of mlx-vlm's Gemma-4, with six layers; the last three use earlier K/V."""
    family = import_module("mlx_vlm.models.gemma4")
    return filled(family.LanguageModel(family.TextConfig(**GEMMA4 | config)))


def gemma4_with_towers(**config: Any) -> Any:
    """mlx-vlm's Gemma-4 with a vision tower of one layer."""
    family = import_module("mlx_vlm.models.gemma4")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "position_embedding_size": 16}
    tokens = {"image_token_id": 90, "audio_token_id": 91}
    text = family.TextConfig(**GEMMA4 | config)
    shape = family.ModelConfig(text_config=text, vision_config=family.VisionConfig(**vision), **tokens)
    return filled(family.Model(shape))


def gemma3n(**config: Any) -> Any:
    """The language model of mlx-vlm's Gemma-3n, with six layers; the last three use earlier K/V."""
    family = import_module("mlx_vlm.models.gemma3n.config")
    shape = {**GEMMA3N, "model_type": "gemma3n_text", "intermediate_size": [64] * 6, **config}
    return filled(import_module("mlx_vlm.models.gemma3n.language").LanguageModel(family.TextConfig(**shape)))


def gemma3n_with_towers(**config: Any) -> Any:
    """mlx-vlm's Gemma-3n; its towers are large, and have no weights until they are used."""
    family = import_module("mlx_vlm.models.gemma3n")
    text = {**GEMMA3N, "model_type": "gemma3n_text", "intermediate_size": [64] * 6, **config}
    shape = family.ModelConfig(
        text_config=family.TextConfig(**text),
        vision_config=family.VisionConfig(vocab_size=4, vocab_offset=88),
        audio_config=family.AudioConfig(vocab_size=4, vocab_offset=92),
        model_type="gemma3n",
        vocab_size=96,
        image_token_id=90,
        audio_token_id=94,
    )
    model = family.Model(shape)
    filled(model.language_model)
    return model


def mlx_lm_gemma3n(**config: Any) -> Any:
    """The language model of mlx-lm's Gemma-3n, with six layers; the last three use earlier K/V."""
    family = import_module("mlx_lm.models.gemma3n")
    return filled(
        family.LanguageModel(family.TextConfig(**GEMMA3N | {"model_type": "gemma3n_text"} | config))
    )


def filled(model: Any) -> Any:
    """The model, filled with weights."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    def fill(name: str, weight: Any) -> Any:
        key = mx.random.key(zlib.crc32(name.removeprefix("model.").encode()))
        noise = mx.random.normal(weight.shape, key=key)
        return 1 + 0.1 * noise if "norm" in name or weight.ndim == 1 else 0.15 * noise

    model.update(tree_map_with_path(fill, model.parameters()))
    return model


def prompt(length: int = 12, batch: int = 1) -> Any:
    """Token ids of shape [batch, length], int32."""
    import mlx.core as mx

    return (7 * mx.arange(batch)[:, None] + 5 * mx.arange(length)[None] + 2) % 60


def logits(model: Any, tokens: Any, cache: Any = None) -> Any:
    """The logits of a model of mlx-lm, or of mlx-vlm, whose output is an object."""
    output = model(tokens, cache=cache)
    return getattr(output, "logits", output)


def loss(model: Any, tokens: Any, cache: Any = None) -> Any:
    """Mean cross-entropy of the next token."""
    from mlx import nn

    return nn.losses.cross_entropy(logits(model, tokens, cache)[:, :-1], tokens[:, 1:]).mean()


def kv_gradients(model: Any, tokens: Any, cache: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Gradients of the K and V projections, by name."""
    from mlx import nn
    from mlx.utils import tree_flatten

    _, gradients = nn.value_and_grad(model, lambda some: loss(some, tokens, cache()))(model)
    named = dict(tree_flatten(gradients))
    return {name: named[name] for name in sorted(named) if "k_proj" in name or "v_proj" in name}


def error(expected: dict[str, Any], seen: dict[str, Any]) -> float:
    """Largest difference of a gradient, relative to the largest entry of the expected gradient."""
    return max(
        float(abs(seen[name] - right).max() / abs(right).max())
        for name, right in expected.items()
        if bool(right.any())
    )


def checkpoint(layers: list[Any]) -> None:
    """Checkpoint these layers as the trainers do, but no other layers of their class."""
    import mlx.core as mx

    kind = type(layers[0])
    call = kind.__call__

    def checkpointed(layer: Any, *args: Any, **kwargs: Any) -> Any:
        def inner(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            layer.update(parameters)
            return call(layer, *args, **kwargs)

        return mx.checkpoint(inner)(layer.trainable_parameters(), *args, **kwargs)

    subclass = type(kind.__name__, (kind,), {"__call__": checkpointed})
    for layer in layers:
        layer.__class__ = subclass


def minicpm3() -> Any:
    """mlx-lm's MiniCPM3, with two layers."""
    family = import_module("mlx_lm.models.minicpm3")
    shape = {"hidden_size": 32, "dim_model_base": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    rope = {"long_factor": [1.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 128}
    rest = {"q_lora_rank": 16, "kv_lora_rank": 16, "rms_norm_eps": 1e-6, "vocab_size": 96, "scale_depth": 1.4}
    rest |= {"scale_emb": 1.0, "max_position_embeddings": 128, "rope_theta": 10_000.0}
    some: dict[str, Any] = {"rope_scaling": {"type": "longrope", **rope}, "tie_word_embeddings": False}
    return filled(family.Model(family.ModelArgs(model_type="minicpm3", **shape, **heads, **rest, **some)))
