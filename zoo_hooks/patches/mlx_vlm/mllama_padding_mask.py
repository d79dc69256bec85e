"""Llama 3.2 Vision in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training Llama 3.2 Vision (mllama) with mlx-vlm's trainers on one text at a time is not causal: every token
sees those that it should predict. In the random model of the canary the last token moves earlier logits by
0.42, and no error is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``MllamaTextModel`` makes the causal mask only where it is handed none, and gives the layers this
one instead.

No issue of mlx-vlm's is known for this family.

Repair
------
``MllamaTextModel`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty
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
    return _causal.verdict(module, "MllamaTextModel")


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.MllamaTextModel)


def canary() -> Figure:
    return _causal.figure(_model())


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


PATCH = Patch(
    module=__name__,
    title="Llama 3.2 Vision in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.mllama.language",),
    targets=("mlx_vlm.models.mllama.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/mllama/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
