"""Tiny random models for the canaries of adapters; nothing is downloaded.

All have the same weights each time; the caller's random state is kept.
"""

from __future__ import annotations

from typing import Any

SIZES = {
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def llama(kind: str = "LlamaForCausalLM", **more: Any) -> Any:
    import transformers

    return _seeded(getattr(transformers, kind), transformers.LlamaConfig(**SIZES | more))


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    return _seeded(MixtralForCausalLM, MixtralConfig(**SIZES, num_local_experts=2))


def _seeded(kind: Any, config: Any) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()
