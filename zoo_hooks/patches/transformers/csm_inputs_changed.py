"""CSM cannot be trained with frozen embeddings and checkpointing.

Symptom
-------
``RuntimeError: a view of a leaf Variable that requires grad is being used in an in-place operation`` is
raised in training with frozen embeddings after ``enable_input_require_grads()``. peft calls this for gradient
checkpointing, and ``gradient_checkpointing_enable()`` calls it too. Before transformers 5.0.0 it only reaches
the depth decoder if it is called on that.

Cause
-----
The depth decoder replaces the embedding of the first codebook by the hidden state of the backbone, in place.
PyTorch refuses that for a leaf of the graph, which the output of frozen embeddings is after
``enable_input_require_grads()``.

Repair
------
The hidden state is written into a copy, if the embeddings are such a leaf.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.model import Figure
from zoo_hooks.patches.transformers import _inputs_changed, _tiny


def canary() -> Figure:
    """Train one step. The exception is the figure, if there is one."""
    model, more = small_model()
    trained = model.depth_decoder.model.layers[0].self_attn.q_proj.weight
    for weight in model.parameters():
        weight.requires_grad_(weight is trained)
    model.depth_decoder.enable_input_require_grads()
    model(**more).loss.backward()
    healthy = bool(trained.grad.abs().max() > 0)
    return Figure(healthy, healthy=healthy)


def small_model() -> Any:
    """A model and its inputs: six frames of four codebooks."""
    import torch
    from transformers import CsmConfig, CsmForConditionalGeneration

    shape = {**_inputs_changed.TEXT, "num_codebooks": 4, "num_key_value_heads": 2}
    tokens = {"audio_token_id": 75, "audio_eos_token_id": 76, "pad_token_id": 77, "bos_token_id": 78}
    config = CsmConfig(
        **shape,
        **tokens,
        text_vocab_size=80,
        codebook_pad_token_id=79,
        depth_decoder_config={**shape, "backbone_hidden_size": 32},
    )
    frames = 1 + torch.arange(24).view(1, 6, 4) * 7 % 70
    return _tiny._seeded(CsmForConditionalGeneration, config), {"input_ids": frames, "labels": frames}  # noqa: SLF001


PATCH = _inputs_changed.Row(
    module=__name__,
    title="CSM cannot be trained with frozen embeddings and gradient checkpointing",
    target="transformers.models.csm.modeling_csm",
    line=463,
    affects="transformers>=4.52.1",
    holders=("CsmDepthDecoderModel",),
    writes=_inputs_changed.SETS,
    argument="",
    table=lambda model: model.embed_tokens,
    canary=canary,
    severity="crash",
    measures="whether a gradient reaches a layer of the depth decoder (expected: True)",
).patch()
