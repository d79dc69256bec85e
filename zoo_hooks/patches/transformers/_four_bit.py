"""Tiny models packed to 4 bits by bitsandbytes on the CPU, for the canaries; nothing is downloaded.

Its CPU kernels want inputs in multiples of 64 and outputs in multiples of 32.
"""

from __future__ import annotations

import tempfile
from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _tiny


def text_model(**more: Any) -> Any:
    """A Llama of one layer, which every release has."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        **more,
    )
    return _tiny._seeded(transformers.LlamaForCausalLM, config)  # noqa: SLF001 - its neighbour


def text_inputs() -> dict[str, Any]:
    """Twelve tokens."""
    return {"input_ids": _tiny.prompt()}


def vision_model() -> Any:
    """A Gemma-4 with a vision tower, patches of 8 by 8 pixels."""
    import transformers

    shape = {"hidden_size": 64, "head_dim": 16}
    kinds = ["sliding_attention", "full_attention"]
    layers = {"num_hidden_layers": 2, "num_kv_shared_layers": 0, "layer_types": kinds}
    config = transformers.Gemma4Config(
        text_config={**_tiny.TEXT, **_tiny.GEMMA4, **layers, **shape, "global_head_dim": 16},
        vision_config={**_tiny.VISION, **shape, "patch_size": 8},
        audio_config=None,
        **_tiny.TOKENS,
    )
    return _tiny._seeded(transformers.Gemma4ForConditionalGeneration, config)  # noqa: SLF001


def vision_inputs() -> dict[str, Any]:
    """Ten tokens, four of them one image of 16 patches."""
    import torch

    return _tiny.image_inputs() | {"pixel_values": torch.linspace(0, 1, 16 * 192).reshape(1, 16, 192)}


def unified_model() -> Any:
    """A Gemma-4 unified model with eyes and ears, patches of 8 by 8 pixels."""
    import transformers
    from transformers.models.gemma4_unified import modeling_gemma4_unified as unified

    kinds = ["sliding_attention", "full_attention"]
    shape = {"hidden_size": 64, "head_dim": 16, "global_head_dim": 16, "num_global_key_value_heads": 2}
    layers = {"num_hidden_layers": 2, "num_kv_shared_layers": 0, "layer_types": kinds}
    patches = {"patch_size": 4, "pooling_kernel_size": 2, "mm_posemb_size": 16}
    config = transformers.Gemma4UnifiedConfig(
        text_config={**_tiny.TEXT, **layers, **shape},
        vision_config={**patches, "mm_embed_dim": 64, "output_proj_dims": 64},
        audio_config={"audio_embed_dim": 64, "output_proj_dims": 64},
        **_tiny.TOKENS,
    )
    return _tiny._seeded(unified.Gemma4UnifiedForConditionalGeneration, config)  # noqa: SLF001


def unified_inputs() -> dict[str, Any]:
    """Ten tokens, four of them one image of 4 patches."""
    import torch

    return _tiny.image_inputs() | {
        "pixel_values": torch.linspace(0, 1, 4 * 192).reshape(1, 4, 192),
        "image_position_ids": torch.tensor([[[0, 0], [1, 0], [0, 1], [1, 1]]]),
    }


def unified_audio_inputs() -> dict[str, Any]:
    """Ten tokens, four of them a frame of audio each."""
    import torch

    return {
        "input_ids": torch.tensor([[2, 75, *[72] * 4, 76, 3, 4, 5]]),
        "input_features": torch.linspace(-1, 1, 4 * 64).reshape(1, 4, 64) ** 3,
        "input_features_mask": torch.ones(1, 4, dtype=torch.bool),
    }


def quantised(model: Any, skip: list[str] | None = None, **how: Any) -> Any:
    """The model as ``from_pretrained`` packs it to 4 bits, ``skip`` being ``llm_int8_skip_modules``."""
    import torch
    from transformers import BitsAndBytesConfig

    dtype = how.pop("dtype", torch.float32)
    how = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32, **how}
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skip, **how)
    return _loaded(model, quantization_config=config, dtype=dtype)


def reloaded(model: Any, skip: list[str] | None = None, **how: Any) -> Any:
    """The packed model saved with another skip list, if one is given, and loaded again."""
    kept = model.config.quantization_config.llm_int8_skip_modules
    model.config.quantization_config.llm_int8_skip_modules = skip or kept
    loaded = _loaded(model, **how)
    model.config.quantization_config.llm_int8_skip_modules = kept
    return loaded


def difference(one: Any, other: Any, inputs: dict[str, Any]) -> Figure:
    """Largest difference of the two models' logits; healthy if there is none."""
    import torch

    with torch.no_grad():
        gap = float((one(**inputs).logits - other(**inputs).logits).abs().max())
    return Figure(gap, healthy=gap == 0.0)


def _loaded(model: Any, **how: Any) -> Any:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, **{"dtype": torch.float32, **how})
