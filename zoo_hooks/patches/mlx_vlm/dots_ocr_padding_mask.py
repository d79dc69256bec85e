"""dots.ocr in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training dots.ocr with mlx-vlm's trainers on one text at a time is not causal: every token sees those that
it should predict. In the random model of the canary the last token moves earlier logits by 1.1, and no
error is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``Qwen2Model`` makes the causal mask only where it is handed none, and gives the layers this one
instead. It is the text model of llava_bunny, which hands on no mask itself.

No issue of mlx-vlm's is known for this family.

Repair
------
``Qwen2Model`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty one;
no padding is attended to, on either side, and a token always sees itself. Other masks, and None, pass
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
    return _causal.verdict(module, "Qwen2Model")


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.Qwen2Model)


def canary() -> Figure:
    return _causal.figure(_model())


def _model() -> Any:
    from mlx_vlm.models import dots_ocr as family

    text = family.TextConfig(
        model_type="dots_ocr", max_position_embeddings=64, attention_bias=True, **_causal.TEXT
    )
    vision = family.VisionConfig(
        model_type="dots_vit", embed_dim=16, num_hidden_layers=1, num_attention_heads=2, **_causal.VISION
    )
    config = family.ModelConfig(
        text_config=text, vision_config=vision, model_type="dots_ocr", image_token_id=90, vocab_size=96
    )
    return _tiny.filled(family.Model(config))


PATCH = Patch(
    module=__name__,
    title="dots.ocr in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.llava_bunny.language",),
    targets=("mlx_vlm.models.llava_bunny.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/llava_bunny/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
