"""MiniMax-Text in mlx-vlm takes a batch's padding mask for its attention mask.

Symptom
-------
Training MiniMax with mlx-vlm's trainers on one text at a time is not causal: every token sees those that it
should predict. In the random model of the canary the last token moves earlier logits by 2.3, and no error
is raised. With two texts in a batch ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` of shape [batch, length], ones with zeros for padding, as
``mask``. ``MiniMaxModel`` makes the causal mask only where it is handed none, and gives the layers this one
instead. It took no notice of a mask before pull request 1913.

No issue of mlx-vlm's is known for this family.

Repair
------
``MiniMaxModel`` adds the causal mask to a mask of [batch, length] where there is no cache, or an empty one;
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
    return _causal.verdict(module, "MiniMaxModel")


def repair(module: ModuleType, changes: Changes) -> None:
    _causal.keep_causal(changes, module.MiniMaxModel)


def canary() -> Figure:
    return _causal.figure(_model())


def _model() -> Any:
    from mlx_vlm.models import minimax as family

    config = family.ModelConfig(
        model_type="minimax",
        max_position_embeddings=64,
        num_experts_per_tok=2,
        num_local_experts=4,
        shared_intermediate_size=48,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        rotary_dim=4,
        head_dim=8,
        **_causal.TEXT,
    )
    return _tiny.filled(family.Model(config))


PATCH = Patch(
    module=__name__,
    title="MiniMax-Text in mlx-vlm takes a padding mask for its attention mask, and is not causal",
    severity="silent wrong result",
    symptoms=("[broadcast_shapes] @ mlx_vlm.models.minimax.language",),
    targets=("mlx_vlm.models.minimax.language",),
    affects=("mlx-vlm>=0.6.14",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/minimax/language.py",
        "https://github.com/Blaizzy/mlx-vlm/pull/1913",
        "https://github.com/unslothai/unsloth-zoo/pull/963",
    ),
    measures="how far the last token moves earlier logits; errors of all, two rows (expected: 0, below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
