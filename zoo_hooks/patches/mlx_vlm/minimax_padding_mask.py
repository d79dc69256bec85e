"""MiniMax-Text in mlx-vlm uses the padding mask as its attention mask, so training is not causal.

Symptom
-------
With mlx-vlm's trainers, training MiniMax on one text at a time is not causal: each token attends to the
tokens that it should predict. No error is raised. In the canary's random model, changing the last token
moves earlier logits by 2.3. With two texts in a batch, ``ValueError: [broadcast_shapes]`` is raised.

Cause
-----
The trainers pass their ``attention_mask`` as the argument ``mask``. It has the shape [batch, length], and
contains ones, with zeros for padding. ``MiniMaxModel`` creates the causal mask only if it gets no mask.
Otherwise it passes the given mask to its layers, in place of the causal mask. Before pull request 1913, the
class ignored the mask.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
``MiniMaxModel`` combines a mask of shape [batch, length] with the causal mask, if there is no KV cache or
an empty one. No token attends to padding, neither on the left nor on the right, and each token always
attends to itself. Other masks, and None, are passed on unchanged.

In a batch with as many rows as tokens, a mask of shape [length, length] cannot be distinguished from a
padding mask. It is treated as a padding mask. To avoid this, pass such a mask with four dimensions.
"""

from __future__ import annotations

from typing import Any

from zoo_hooks.patches.mlx_vlm import _causal, _tiny


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


PATCH = _causal.Row(
    module=__name__,
    family="MiniMax-Text",
    target="mlx_vlm.models.minimax.language",
    backbone="MiniMaxModel",
    model=_model,
    affects="mlx-vlm>=0.6.14",
    pulls=(1913,),
).patch()
