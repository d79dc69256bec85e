"""UDOP cannot be trained with frozen embeddings and checkpointing, and changes ``inputs_embeds``.

Symptom
-------
``RuntimeError: a leaf Variable that requires grad is being used in an in-place operation`` is raised in
training with frozen embeddings after ``enable_input_require_grads()``. peft calls this for gradient
checkpointing, and ``gradient_checkpointing_enable()`` calls it too. A caller that passes ``inputs_embeds``
gets no error, but its tensor is changed: a second call with it gives other logits. In the canary's random
model they differ by 0.28.

Cause
-----
The encoder adds the image to the embeddings of the tokens in place. It also adds the layout in place.
PyTorch refuses that for a leaf of the graph, which the output of frozen embeddings is after
``enable_input_require_grads()``.

Repair
------
Both are added to a copy, if the caller passed the embeddings or if they are such a leaf.
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
    from transformers import UdopConfig, UdopForConditionalGeneration

    config = UdopConfig(
        vocab_size=80,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        image_size=16,
        patch_size=8,
        max_2d_position_embeddings=64,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    more = {
        "pixel_values": _inputs_changed.pixels(),
        "bbox": torch.linspace(0, 1, 32).view(1, 8, 4),
        "attention_mask": torch.ones(1, 8, dtype=torch.long),
        "decoder_input_ids": _tiny.prompt(8),
    }
    return _tiny._seeded(UdopForConditionalGeneration, config), more  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="UDOP changes inputs_embeds in place, which fails under checkpointing with frozen embeddings",
    target="transformers.models.udop.modeling_udop",
    line=208,
    affects="transformers>=4.50.0",
    holders=("UdopStack",),
    writes="inputs_embeds +=",
    table=lambda stack: stack.embed_tokens,
    canary=canary,
).patch()
