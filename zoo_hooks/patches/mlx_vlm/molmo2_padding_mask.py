"""Molmo2 in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training Molmo2 on one text at a time is not causal: each token attends to the
tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 1.4. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``Molmo2Transformer`` creates the causal mask only if it gets no
mask. Otherwise it passes the given mask to its layers, in place of the causal mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
``Molmo2Transformer`` combines a mask of shape [batch, length] with the causal mask, if there is no KV cache
or an empty one. No token attends to padding, neither on the left nor on the right, and each token always
attends to itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _tiny


def _model() -> Any:
    from mlx_vlm.models import molmo2 as family

    text = family.TextConfig(head_dim=8, additional_vocab_size=4, **_causal.TEXT)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    tower = {"hidden_size": 16, "intermediate_size": 16, **heads}
    vision = family.VisionConfig(
        vit_config=family.config.VitConfig(num_hidden_layers=2, **tower),
        adapter_config=family.config.AdapterConfig(text_hidden_size=32, vit_layers=[-1, -2], **tower),
    )
    config = family.ModelConfig(text_config=text, vision_config=vision)
    return _tiny.filled(family.Model(config))


PATCH = _causal.Row(
    module=__name__,
    family="Molmo2",
    target="mlx_vlm.models.molmo2.language",
    backbone="Molmo2Transformer",
    model=_model,
    affects="mlx-vlm>=0.4.0",
).patch()
