"""LLaVA in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training LLaVA on one text at a time is not causal: each token attends to the
tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 0.7. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``Llama`` creates the causal mask only if it gets no mask. Otherwise
it passes the given mask to its layers, in place of the causal mask. Before pull request 1913, the class
ignored the mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
``Llama`` combines a mask of shape [batch, length] with the causal mask, if there is no KV cache or an empty
one. No token attends to padding, neither on the left nor on the right, and each token always attends to
itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _tiny


def _model() -> Any:
    from mlx_vlm.models import llava as family

    text = family.TextConfig(model_type="llama", rms_norm_eps=1e-6, **_causal.TEXT)
    vision = family.VisionConfig(
        model_type="clip_vision_model",
        image_size=28,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=16,
        vocab_size=96,
        **_causal.VISION,
    )
    config = family.ModelConfig(
        text_config=text, vision_config=vision, model_type="llava", image_token_index=90, vocab_size=96
    )
    return _tiny.filled(family.Model(config))


PATCH = _causal.Row(
    module=__name__,
    family="LLaVA",
    target="mlx_vlm.models.llava.language",
    backbone="Llama",
    model=_model,
    affects="mlx-vlm>=0.6.14",
    pulls=(1913,),
).patch()
