"""Molmo2 in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training Molmo2 with mlx-vlm's trainers on one text at a time is not causal: every token sees those that it
should predict. In the random model of the canary the last token moves earlier logits by 1.4, and no error
is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``Molmo2Transformer`` makes the causal mask only where it is handed none, and gives the layers
this one instead.

No issue of mlx-vlm's is known for this family.

Repair
------
``Molmo2Transformer`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty
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
    return _causal.verdict(module, "Molmo2Transformer")


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.Molmo2Transformer)


def canary() -> Figure:
    return _causal.figure(_model())


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


PATCH = Patch(
    module=__name__,
    title="Molmo2 in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.molmo2.language",),
    targets=("mlx_vlm.models.molmo2.language",),
    affects=("mlx-vlm>=0.4.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/molmo2/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
