"""ERNIE 4.5 VL in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training ERNIE 4.5 VL with mlx-vlm's trainers on one text at a time is not causal: every token sees those
that it should predict. In the random model of the canary the last token moves earlier logits by 10, and no
error is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``Ernie4_5Model`` makes the causal mask only where it is handed none, and gives the layers this
one instead.

No issue of mlx-vlm's is known for this family.

Repair
------
``Ernie4_5Model`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty
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
    return _causal.verdict(module, "Ernie4_5Model")


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.Ernie4_5Model)


def canary() -> Figure:
    return _causal.figure(_model())


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


PATCH = Patch(
    module=__name__,
    title="ERNIE 4.5 VL in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.ernie4_5_moe_vl.language",),
    targets=("mlx_vlm.models.ernie4_5_moe_vl.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/ernie4_5_moe_vl/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
