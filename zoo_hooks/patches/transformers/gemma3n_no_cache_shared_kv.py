"""Gemma-3n without a cache computes wrong logits.

Symptom
-------
With ``use_cache=False``, or under gradient checkpointing, Gemma-3n E2B and E4B give wrong logits. No error,
no warning: training starts at a loss that is far too high, and learns to make up for it.

Cause
-----
The last layers use the K/V of earlier ones, and are handed them as ``past_key_values.shared_layers``.
Without a cache they find none, and compute their own, with weights that were never trained for it.
Checkpointing takes the cache of a layer away, which comes to the same.

Repair
------
Each forward of the text model hands its layers a carrier of its own, which stores the shared K/V
and nothing else; where there is no cache the attention uses it in its place. It stays a keyword of
the layers, so that the recompute of checkpointing finds it, and goes with the graph. Checkpointing
becomes non-reentrant for these models, also inside models of another class, which is told once:
reentrant, it gives wrong gradients where layers share K/V (``transformers/gemma4-reentrant-checkpointing``).

The projections that these layers have of their own, and do not use, stay: they are what a checkpoint of
this release holds. In training they are run over no tokens at all, so that they, and adapters on them,
get gradients of zeros, as plain DistributedDataParallel demands, with a cache too. Otherwise forwards with
a cache are as they were.
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
    title="Gemma-3n without a cache computes wrong logits where layers share K/V",
    severity="silent wrong result",
    targets=("transformers.models.gemma3n.modeling_gemma3n",),
    affects=("transformers>=4.56.0,<5.6.0",),
    links=(
        "https://github.com/huggingface/transformers/pull/39764",
        "https://github.com/huggingface/transformers/pull/45312",
    ),
    measures="largest difference of logits without and with a cache (expected: 0.0)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,
)
