"""BLIP cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised in
training with frozen embeddings after ``enable_input_require_grads()``, which peft calls for gradient
checkpointing. A caller that passes ``inputs_embeds`` to the text model gets no error, but its tensor is
changed: a second call with it gives other logits. In the canary's random model they differ by 0.17.

Cause
-----
``BlipTextEmbeddings`` adds the position embeddings to the embeddings of the tokens in place. PyTorch refuses
that for a leaf of the graph, which the output of frozen embeddings is after ``enable_input_require_grads()``.

Repair
------
The position embeddings are added to a copy, if the caller passed the embeddings or if they are such a leaf.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _inputs_changed, _tiny


def canary() -> Figure:
    from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

    model = _tiny._seeded(BlipTextLMHeadModel, small_model()[0].config.text_config)  # noqa: SLF001
    return _inputs_changed.figure(model)


def small_model() -> Any:
    """A model that describes images and, besides tokens, its inputs."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    ends = {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "is_decoder": True}
    text = {**_inputs_changed.TEXT, **ends, "encoder_hidden_size": 32}
    config = BlipConfig(text_config=text, vision_config={**_inputs_changed.VISION, "initializer_range": 0.02})
    model = _tiny._seeded(BlipForConditionalGeneration, config)  # noqa: SLF001
    return model, {"pixel_values": _inputs_changed.pixels()}


PATCH = _inputs_changed.Row(
    module=__name__,
    title="BLIP changes inputs_embeds in place, which fails under checkpointing with frozen embeddings",
    target="transformers.models.blip.modeling_blip_text",
    line=86,
    affects="transformers>=4.50.0",
    holders=("BlipTextEmbeddings",),
    writes="embeddings +=",
    table=lambda embeddings: embeddings.word_embeddings,
    canary=canary,
).patch()
