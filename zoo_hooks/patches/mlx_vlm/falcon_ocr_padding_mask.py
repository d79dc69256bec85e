"""Falcon-OCR in mlx-vlm has no causal mask for a text, and uses the padding mask in its place.

Symptom
-------
With mlx-vlm's trainers, training Falcon-OCR on one text at a time is not causal: each token attends to the
tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 1.2. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.
The same happens to a text without any mask and without a KV cache.

Cause
-----
The model creates a mask only for a prompt with images. Since 0.5.0 it also creates one if there is a
KV cache.
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
    return _falcon.model("falcon_ocr")


PATCH = _causal.Row(
    module=__name__,
    family="Falcon-OCR",
    target="mlx_vlm.models.falcon_ocr.language",
    backbone="FalconOCRTransformerModel",
    model=_model,
    affects="mlx-vlm>=0.4.3",
    examine=_falcon.verdict,
    keep=_falcon.keep_causal,
).patch()
