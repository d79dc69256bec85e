"""Tiny random models for the canaries, in the shapes that matter; nothing is downloaded."""

from __future__ import annotations

from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 0,
    "eos_token_id": None,
}
GEMMA4: dict[str, Any] = {
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 64,
}


def unshared_model(**config: Any) -> Any:
    """A causal language model in which no layer shares K/V, like Gemma-4 31B.

    Before transformers 5.5.0, which has no Gemma-4, a Gemma-3 whose config carries the attribute.
    Four layers, two of them with a sliding window of 8; fp32, in eval mode, the same weights
    each time.
    """
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if hasattr(transformers, "Gemma4ForCausalLM"):
            shape = transformers.Gemma4TextConfig(**{**SHAPE, **GEMMA4, **config})
            return transformers.Gemma4ForCausalLM(shape).eval()
        return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**{**SHAPE, **config})).eval()


def prompt(length: int = 12) -> Any:
    """Token ids of shape [1, length], int64."""
    import torch

    return torch.arange(2, 2 + length)[None] % SHAPE["vocab_size"]
