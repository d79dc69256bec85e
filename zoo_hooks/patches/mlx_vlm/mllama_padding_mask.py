"""Llama 3.2 Vision in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training Llama 3.2 Vision (mllama) on one text at a time is not causal: each token
attends to the tokens that it should predict. No error is raised. In the canary's random model, changing the
last token moves earlier logits by 0.42. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is
raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``MllamaTextModel`` creates the causal mask only if it gets no mask.
Otherwise it passes the given mask to its layers, in place of the causal mask.

Pull request 763 described this and was closed. docs/upstream-reports.md contains a report.

Repair
------
``MllamaTextModel`` combines a mask of shape [batch, length] with the causal mask, if there is no KV cache
or an empty one. No token attends to padding, neither on the left nor on the right, and each token always
attends to itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _tiny


def _model() -> Any:
    from mlx_vlm.models import mllama as family

    text = family.TextConfig(cross_attention_layers=[1], max_position_embeddings=64, **_causal.TEXT)
    vision = family.VisionConfig(
        image_size=28,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_global_layers=1,
        intermediate_layers_indices=[0],
        vision_output_dim=32,
        max_num_tiles=1,
        supported_aspect_ratios=[[1, 1]],
        **_causal.VISION,
    )
    config = family.ModelConfig(text_config=text, vision_config=vision, model_type="mllama")
    model = _tiny.filled(family.Model(config))
    model.language_model.model.layers[1].cross_attn_attn_gate *= 0  # a text without an image
    return model


PATCH = _causal.Row(
    module=__name__,
    family="Llama 3.2 Vision",
    target="mlx_vlm.models.mllama.language",
    backbone="MllamaTextModel",
    model=_model,
    affects="mlx-vlm>=0.4.0",
).patch()
