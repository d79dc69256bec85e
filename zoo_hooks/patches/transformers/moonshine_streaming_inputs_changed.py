"""Moonshine Streaming adds its positions to the encoder's output again in each decoding step without a cache.

Symptom
-------
``generate(use_cache=False)`` gives another text than ``generate()``, without an error. A caller that passes
``encoder_outputs`` finds its tensor changed, and a second call with it gives other logits. In the canary's
random model 0.07 are added to the tensor. In one with larger weights, 11 of 12 generated tokens differ.

Cause
-----
The decoder adds position embeddings to ``encoder_hidden_states`` in place. Without a KV cache, each step
reads them from the same tensor. With one, only the first step does.

Repair
------
The position embeddings are added to a copy. ``encoder_last_hidden_state`` of the result then is the output
of the encoder, without the position embeddings of the decoder.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _inputs_changed, _tiny


def canary() -> Figure:
    """Give the decoder a tensor, and look at it afterwards."""
    import torch

    decoder = small_model().model.decoder
    given = torch.linspace(-1, 1, 6 * 32).sin().view(1, 6, 32)
    return _inputs_changed.figure(decoder, "encoder_hidden_states", given, input_ids=_tiny.prompt(8))


def small_model() -> Any:
    from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration

    shape = {
        key: _inputs_changed.TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")
    }
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    config = MoonshineStreamingConfig(
        **shape,
        vocab_size=80,
        encoder_config={**shape, "sliding_windows": [[16, 4], [16, 4]]},
        decoder_start_token_id=1,
        max_position_embeddings=64,
    )
    return _tiny._seeded(MoonshineStreamingForConditionalGeneration, config)  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="Moonshine Streaming adds its positions to the encoder's output again in each step without a cache",
    target="transformers.models.moonshine_streaming.modeling_moonshine_streaming",
    line=820,
    affects="transformers>=5.2.0",
    holders=("MoonshineStreamingDecoder",),
    argument="encoder_hidden_states",
    writes="encoder_hidden_states +=",
    canary=canary,
).patch()
