"""Falcon Perception in mlx-vlm has no causal mask for a text, and uses the padding mask in its place.

Symptom
-------
With mlx-vlm's trainers, training Falcon Perception on one text at a time is not causal: each token attends
to the tokens that it should predict. No error is raised. In the canary's random model, changing the last
token moves earlier logits by 1.2. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.
The same happens to a text without any mask, also in ``generate``, which reads a prompt without a causal
mask.

Cause
-----
The model creates a mask only for a prompt with images.
The trainers pass their padding mask of shape [batch, length] as the argument ``mask``. The layers use it in
place of the model's own mask, with images too.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
A text without a mask gets the causal mask. A mask of shape [batch, length] is combined with the mask of the
images, or with the causal mask, if there is no KV cache or an empty one. No token attends to padding, and
each token always attends to itself. Other masks are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _falcon


def _model() -> Any:
    return _falcon.model("falcon_perception", num_segm_layers=1, **dict.fromkeys(_falcon.SMALL, 16))


PATCH = _causal.Row(
    module=__name__,
    family="Falcon Perception",
    target="mlx_vlm.models.falcon_perception.language",
    backbone="FalconPerceptionTransformerModel",
    model=_model,
    affects="mlx-vlm>=0.4.3",
    examine=_falcon.verdict,
    keep=_falcon.keep_causal,
).patch()
