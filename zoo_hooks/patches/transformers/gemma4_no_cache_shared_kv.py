"""Gemma-4 E2B and E4B compute wrong logits without a KV cache.

Symptom
-------
With ``use_cache=False``, or under gradient checkpointing, Gemma-4 E2B and E4B give wrong logits. On a
random model they are off by 3.2 on a scale of 4.7. There is no error and no warning. Training starts at a
loss that is far too high, and the model learns to compensate for the wrong logits.

Cause
-----
The last layers reuse the K/V of earlier layers, and read them from ``past_key_values.shared_layers``.
Without a cache they find none. They then compute their own K/V with weights that were never trained for it.
Gradient checkpointing has the same effect, because it removes the cache of a layer.

Repair
------
Each forward of the text model passes its layers a carrier object that stores the shared K/V and nothing
else. Where there is no cache, the attention uses the carrier in its place. The carrier is a keyword
argument of the layers, so the recompute of checkpointing finds it. It is freed with the autograd graph.

Gradient checkpointing becomes non-reentrant for these models, even if they are part of a model of another
class, and a warning is logged once. Reentrant checkpointing gives wrong gradients where layers share K/V
(``transformers/gemma4-reentrant-checkpointing``).

The layers that reuse K/V also have K/V projections of their own, which they do not use. These projections
stay, because checkpoints of this release contain them. In training they run on zero tokens, with a cache
too. So they, and adapters on them, get gradients of zeros, which plain DistributedDataParallel requires.
Otherwise, forwards with a cache do not change.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch
from zoo_hooks.patches.transformers import _shared_kv, _tiny

probe = _shared_kv.no_cache_verdict


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_without_cache(
        changes, module.Gemma4TextModel, module.Gemma4TextAttention, module.PreTrainedModel
    )


def canary() -> Figure:
    difference = _shared_kv.no_cache_difference(_tiny.shared_model(**_tiny.PER_LAYER_INPUTS))
    return Figure(difference, healthy=difference == 0)


PATCH = Patch(
    module=__name__,
    title="Gemma-4 without a cache computes wrong logits where layers share K/V",
    severity="silent wrong result",
    targets=("transformers.models.gemma4.modeling_gemma4",),
    affects=("transformers>=5.5.0,<5.5.2",),
    links=(
        "https://github.com/huggingface/transformers/issues/45242",
        "https://github.com/huggingface/transformers/pull/45312",
    ),
    measures="largest difference between logits without and with a KV cache (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
