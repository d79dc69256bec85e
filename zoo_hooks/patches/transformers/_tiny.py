"""Tiny random models for the canaries, in the shapes that matter; nothing is downloaded.

All are fp32 and in eval mode, with the same weights each time; the caller's random state is kept.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure

TEXT: dict[str, Any] = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "eos_token_id": None,
}
GEMMA4: dict[str, Any] = {
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 80,
}
PER_LAYER_INPUTS = {"hidden_size_per_layer_input": 8}
"""As E2B and E4B have them."""
EXPERTS = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
"""As 26B-A4B has them."""
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "patch_size": 4,
    "position_embedding_size": 16,
    "pooling_kernel_size": 2,
}
AUDIO: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "subsampling_conv_channels": (128, 4),
    "output_proj_dims": 32,
}
TOKENS = {
    "image_token_id": 70,
    "video_token_id": 71,
    "audio_token_id": 72,
    "boi_token_id": 73,
    "eoi_token_id": 74,
    "boa_token_id": 75,
    "eoa_token_index": 76,
}


def unshared_model(**config: Any) -> Any:
    """A causal language model in which no layer shares K/V, like Gemma-4 31B.

    Four layers, two of them with a sliding window of 8. Before transformers 5.5.0, which has no
    Gemma-4, a Gemma-3 whose config carries the attribute.
    """
    import transformers

    shape = {**_layers(4, 0), **config}
    if hasattr(transformers, "Gemma4ForCausalLM"):
        return shared_model(**shape)
    return _seeded(transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(**{**TEXT, **shape}))


def shared_model(**config: Any) -> Any:
    """A Gemma-4 causal language model of six layers, of which the last four share K/V, like E2B.

    Without per-layer inputs unless PER_LAYER_INPUTS is passed.
    """
    import transformers

    shape = {**TEXT, **GEMMA4, **_layers(6, 4), **config}
    return _seeded(transformers.Gemma4ForCausalLM, transformers.Gemma4TextConfig(**shape))


def gemma3n_model(**config: Any) -> Any:
    """A Gemma-3n causal language model of six layers, of which the last four share K/V, like E2B."""
    import transformers

    more = {"altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 6}
    shape = {**TEXT, **more, "vocab_size_per_layer_input": 80, **PER_LAYER_INPUTS, **_layers(6, 4), **config}
    return _seeded(transformers.Gemma3nForCausalLM, transformers.Gemma3nTextConfig(**shape))


def unified_model(**config: Any) -> Any:
    """A Gemma-4 unified causal language model of six layers, of which the last four share K/V."""
    from transformers.models.gemma4_unified import modeling_gemma4_unified as unified

    heads = {"global_head_dim": 8, "num_global_key_value_heads": 2}
    shape = {**TEXT, **heads, **_layers(6, 4), **config}
    return _seeded(unified.Gemma4UnifiedForCausalLM, unified.Gemma4UnifiedTextConfig(**shape))


def diffusion_model() -> Any:
    """A DiffusionGemma of four layers with experts, for blocks of eight tokens, that also sees."""
    import transformers

    config = transformers.DiffusionGemmaConfig(
        text_config={**TEXT, **GEMMA4, "num_global_key_value_heads": 2, **EXPERTS, **_layers(4, 0)},
        vision_config={"model_type": "gemma4_vision", **VISION},
        image_token_id=70,
        boi_token_id=73,
        eoi_token_id=74,
        canvas_length=8,
    )
    return _seeded(transformers.DiffusionGemmaForBlockDiffusion, config)


def multimodal_model(**text: Any) -> Any:
    """A Gemma-4 model like E2B with a vision and an audio tower, two layers each."""
    import transformers

    config = transformers.Gemma4Config(
        text_config={**TEXT, **GEMMA4, **PER_LAYER_INPUTS, **_layers(6, 4), **text},
        vision_config=VISION,
        audio_config=AUDIO,
        **TOKENS,
    )
    return _seeded(transformers.Gemma4ForConditionalGeneration, config)


def assistant() -> Any:
    """What guesses four tokens at a time for a Gemma-4, from its keys and values; all its layers share."""
    import transformers

    shape = {**TEXT, **GEMMA4, **_layers(2, 2), "vocab_size_per_layer_input": 0}
    text = transformers.Gemma4TextConfig(**shape)
    config = transformers.Gemma4AssistantConfig(text_config=text, backbone_hidden_size=32)
    model = _seeded(transformers.Gemma4AssistantForCausalLM, config)
    model.generation_config.num_assistant_tokens = 4  # some releases have no default for it
    return model


def assisted() -> Figure:
    """How many of eight tokens are the same with an assistant, or on releases that have none, without."""
    import transformers

    model, ids = unshared_model(sliding_window=32), prompt()
    how: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(ids, **how)
    if hasattr(transformers, "Gemma4AssistantConfig"):
        how["assistant_model"] = assistant()
    same = int((model.generate(ids, **how) == expected)[0, ids.shape[1] :].sum())
    return Figure(same, healthy=same == 8)  # noqa: PLR2004


def prompt(length: int = 12) -> Any:
    """Token ids of shape [1, length], int64."""
    import torch

    return torch.arange(2, 2 + length)[None] % 60


def image_inputs() -> dict[str, Any]:
    """Inputs of a multimodal model: 10 tokens, 4 of them one image of 16 patches of 4 by 4 pixels."""
    import torch

    grid = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy")
    ids = torch.tensor([[2, 73, 70, 70, 70, 70, 74, 3, 4, 5]])
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == TOKENS["image_token_id"]).long(),
        "pixel_values": torch.linspace(0, 1, 16 * 48).reshape(1, 16, 48),
        "image_position_ids": torch.stack(grid, -1).reshape(1, 16, 2),
    }


def audio_inputs() -> dict[str, Any]:
    """Inputs of a multimodal model: 14 tokens, 8 of them 32 frames of 128 mel features."""
    import torch

    return {
        "input_ids": torch.tensor([[2, 75, *[72] * 8, 76, 3, 4, 5]]),
        "input_features": torch.linspace(0, 1, 32 * 128).reshape(1, 32, 128),
        "input_features_mask": torch.ones(1, 32, dtype=torch.bool),
    }


def _layers(count: int, shared: int) -> dict[str, Any]:
    kinds = ["sliding_attention", "full_attention"] * (count // 2)
    return {"num_hidden_layers": count, "layer_types": kinds, "num_kv_shared_layers": shared}


def _seeded(model: Any, config: Any) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model(config).eval()
