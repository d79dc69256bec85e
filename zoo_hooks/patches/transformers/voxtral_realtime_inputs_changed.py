"""Voxtral Realtime cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised after
``enable_input_require_grads()``, which peft calls for gradient checkpointing. Passing ``inputs_embeds`` that
require gradients raises it too. A caller that passes ``inputs_embeds`` of another kind gets no error, but its
tensor is changed: the audio is added to it, and a second call with it adds the audio again.

Cause
-----
The model adds the audio to the embeddings of the tokens in place. PyTorch refuses that for a tensor that is a
leaf of the graph. The output of frozen embeddings becomes one by ``enable_input_require_grads()``.

No upstream issue is known. docs/upstream-reports-torch.md contains a report.

Repair
------
The audio is added to a copy, if the caller passed the embeddings or if they are such a leaf.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _inputs_changed, _tiny


def canary() -> Figure:
    model, more = small_model()
    return _inputs_changed.figure(model, **more)


def small_model() -> Any:
    """A model and, besides tokens, its inputs."""
    import torch
    from transformers import VoxtralRealtimeConfig, VoxtralRealtimeForConditionalGeneration

    text = {key: value for key, value in _tiny.TEXT.items() if key not in {"sliding_window", "eos_token_id"}}
    audio = {**text, "num_key_value_heads": 4, "num_mel_bins": 16}
    config = VoxtralRealtimeConfig(
        text_config={**text, "num_hidden_layers": 2}, audio_config={**audio, "num_hidden_layers": 2}
    )
    frames = torch.linspace(-1, 1, 16 * 64).sin().view(1, 16, 64)
    more = {"input_features": frames, "num_delay_tokens": 4, "use_cache": False}
    return _tiny._seeded(VoxtralRealtimeForConditionalGeneration, config), more  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="Voxtral Realtime changes inputs_embeds in place, which fails under checkpointing of adapters",
    target="transformers.models.voxtral_realtime.modeling_voxtral_realtime",
    line=973,
    affects="transformers>=5.2.0",
    holders=("VoxtralRealtimeModel", "VoxtralRealtimeForConditionalGeneration"),
    writes="inputs_embeds +=",
    table=lambda model: model.get_input_embeddings(),
    canary=canary,
).patch()
