"""Kosmos-2 cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised in
training on images with frozen embeddings after ``enable_input_require_grads()``, which peft calls for
gradient checkpointing. A caller that passes ``inputs_embeds`` gets no error, but its tensor is changed: it
contains the image afterwards.

Cause
-----
The text model writes the image into the embeddings of the tokens. PyTorch refuses that for a leaf of the
graph, which the output of frozen embeddings is after ``enable_input_require_grads()``.

Repair
------
The image is written into a copy, if the caller passed the embeddings or if they are such a leaf.
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
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

    text: dict[str, Any] = {
        "vocab_size": 80,
        "embed_dim": 32,
        "layers": 2,
        "ffn_dim": 64,
        "attention_heads": 4,
    }
    text |= {"max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0}
    config = Kosmos2Config(text_config=text, vision_config=_inputs_changed.VISION, latent_query_num=3)
    place = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0]])
    more = {"pixel_values": _inputs_changed.pixels(), "image_embeds_position_mask": place}
    return _tiny._seeded(Kosmos2ForConditionalGeneration, config), more  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="Kosmos-2 changes inputs_embeds in place, which fails under checkpointing with frozen embeddings",
    target="transformers.models.kosmos2.modeling_kosmos2",
    line=938,
    affects="transformers>=4.50.0",
    holders=("Kosmos2TextTransformer",),
    method="forward_embedding",
    writes=_inputs_changed.SETS,
    table=lambda model: model.embed_tokens,
    canary=canary,
).patch()
