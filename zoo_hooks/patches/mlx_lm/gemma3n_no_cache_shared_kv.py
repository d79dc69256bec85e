"""Gemma-3n in mlx-lm computes wrong logits without a cache, and trains on them.

Symptom
-------
Training starts at a loss that is far too high and gives wrong gradients, without any error: logits are
off by 2.3 in the random model of the canary, gradients of the K/V projections by more than 100%.

Cause
-----
The last layers use the K/V of earlier ones, and find them in the cache that both have. Training has no
cache, and each of these layers then makes its own K/V, with weights that were never trained for it.

Repair
------
Where no cache is given, a layer that makes K/V for others returns it, and a layer that uses it takes it
as an argument, so that eager mode, ``mx.compile`` and ``grad_checkpoint`` all differentiate through it.
The loop over the layers is upstream's own and runs on a view of the model, so the model is never touched.
Forwards with a cache, calls of single layers, subclasses that call their layers in another way, and
models whose layers share nothing are as they were.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_lm import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    return _shared_kv.no_cache_verdict(module, "LanguageModel", "Gemma3nDecoderLayer", "Gemma3nAttention")


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_without_cache(changes, module.LanguageModel, module.Gemma3nDecoderLayer)


def canary() -> Figure:
    return _shared_kv.no_cache_figure(_tiny.mlx_lm_gemma3n())


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-lm without a cache does not share K/V between layers",
    severity="silent wrong result",
    targets=("mlx_lm.models.gemma3n",),
    affects=("mlx-lm>=0.30.0",),
    links=(
        "https://github.com/ml-explore/mlx-lm/issues/1674",
        "https://github.com/ml-explore/mlx-lm/pull/1702",
    ),
    measures="errors without a cache: logits, K/V gradients, those checkpointed (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
