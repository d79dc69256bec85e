"""GLM-OCR in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training GLM-OCR with mlx-vlm's trainers on one text at a time is not causal: every token sees those that it
should predict. In the random model of the canary the last token moves earlier logits by 6.7, and no error
is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``GlmOcrTextModel`` makes the causal mask only where it is handed none, and gives the layers this
one instead.

No issue of mlx-vlm's is known for this family.

Repair
------
``GlmOcrTextModel`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty
one; no padding is attended to, on either side, and a token always sees itself. Other masks, and None, pass
through. In a batch of as many rows as tokens a mask of [length, length] cannot be told from padding, and is
taken for it: give such a mask four dimensions.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _causal, _tiny


def probe(module: ModuleType) -> Verdict:
    return _causal.verdict(module, "GlmOcrTextModel", position_ids=0)


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.GlmOcrTextModel)


def canary() -> Figure:
    return _causal.figure(_model())


def _model() -> Any:
    from mlx_vlm.models import glm_ocr as family

    rope = {"mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0, "rope_theta": 10_000}
    text = family.TextConfig(head_dim=8, rope_parameters={"rope_type": "default", **rope}, **_causal.TEXT)
    vision = family.VisionConfig(depth=1, num_heads=2, image_size=28, out_hidden_size=32, **_causal.VISION)
    config = family.ModelConfig(
        text_config=text, vision_config=vision, image_token_id=90, video_token_id=91, vocab_size=96
    )
    return _tiny.filled(family.Model(config))


PATCH = Patch(
    module=__name__,
    title="GLM-OCR in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.glm_ocr.language",),
    targets=("mlx_vlm.models.glm_ocr.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/glm_ocr/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
