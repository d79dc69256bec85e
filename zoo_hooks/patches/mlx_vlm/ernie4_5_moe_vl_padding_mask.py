"""ERNIE 4.5 VL in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training ERNIE 4.5 VL on one text at a time is not causal: each token attends to
the tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 10. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``Ernie4_5Model`` creates the causal mask only if it gets no mask.
Otherwise it passes the given mask to its layers, in place of the causal mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
``Ernie4_5Model`` combines a mask of shape [batch, length] with the causal mask, if there is no KV cache or
an empty one. No token attends to padding, neither on the left nor on the right, and each token always
attends to itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _tiny


def _model() -> Any:
    from mlx_vlm.models import ernie4_5_moe_vl as family

    text = family.TextConfig(
        model_type="ernie",
        rope_scaling={"type": "default", "mrope_section": [1, 1, 2]},
        moe_num_experts=[4, 4],
        moe_intermediate_size=[16, 16],
        moe_k=2,
        moe_layer_start_index=[1, 1],
        moe_layer_end_index=[2, 2],
        moe_num_shared_experts=1,
        **_causal.TEXT,
    )
    vision = family.VisionConfig(
        model_type="DFNRope_vision_transformer", depth=1, embed_dim=16, hidden_size=16, num_heads=2
    )
    config = family.ModelConfig(
        text_config=text,
        vision_config=vision,
        model_type="ernie4_5_moe_vl",
        im_patch_id=90,
        hidden_size=32,
        pixel_hidden_size=16,
        vocab_size=96,
    )
    return _tiny.filled(family.Model(config))


PATCH = _causal.Row(
    module=__name__,
    family="ERNIE 4.5 VL",
    target="mlx_vlm.models.ernie4_5_moe_vl.language",
    backbone="Ernie4_5Model",
    model=_model,
    affects="mlx-vlm>=0.4.0",
).patch()
