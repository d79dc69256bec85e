"""Gemma-3n computes wrong logits without a KV cache.

Symptom
-------
With ``use_cache=False`` or under gradient checkpointing, Gemma-3n E2B and E4B compute wrong logits. There
is no error and no warning. Training starts at a loss that is far too high, and the model learns to
compensate for the bug.

Cause
-----
The last layers use the K/V of earlier layers and read them from ``past_key_values.shared_layers``. Without
a cache they find none and compute their own K/V, with weights that were never trained for it. Gradient
checkpointing has the same effect, because it does not pass a cache to the layers.

Repair
------
In each forward pass the text model gives its layers a new carrier object. The carrier stores the shared K/V
and nothing else. Where there is no cache, the attention uses the carrier instead. It is passed as a keyword
argument of the layers, so that gradient checkpointing finds it in the recomputation. It is released
together with the autograd graph.

Checkpointing becomes non-reentrant for these models, also if they are part of a model of another class. A
warning about this is logged once. Reentrant checkpointing gives wrong gradients where layers share K/V
(``transformers/gemma4-reentrant-checkpointing``).

The layers that use shared K/V also have their own K/V projections, which they do not use. These projections
stay, because checkpoints of the affected releases contain them. In training they run on zero tokens, also
if there is a cache. So they, and adapters on them, get gradients of zeros, which plain
DistributedDataParallel requires. Otherwise forward passes with a cache do not change.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch
from zoo_hooks.patches.transformers import _shared_kv, _tiny

probe = _shared_kv.no_cache_verdict


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_without_cache(
        changes, module.Gemma3nTextModel, module.Gemma3nTextAttention, module.PreTrainedModel
    )


def canary() -> Figure:
    difference = _shared_kv.no_cache_difference(_tiny.gemma3n_model())
    return Figure(difference, healthy=difference == 0)


PATCH = Patch(
    module=__name__,
    title="Gemma-3n computes wrong logits without a KV cache where layers share K/V",
    severity="silent wrong result",
    targets=("transformers.models.gemma3n.modeling_gemma3n",),
    affects=("transformers>=4.56.0,<5.6.0",),
    links=(
        "https://github.com/huggingface/transformers/pull/39764",
        "https://github.com/huggingface/transformers/pull/45312",
    ),
    measures="largest difference between the logits with and without a KV cache (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
