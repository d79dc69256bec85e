"""Gemma-3n in mlx-vlm computes wrong logits without a KV cache, and trains on them.

Symptom
-------
Training starts at a loss that is far too high and uses wrong gradients. No error is raised. In the canary's
random model, logits are off by 2.3, and gradients of the K/V projections by more than 100%.

Cause
-----
The last layers use the K/V of earlier layers, and read it from the KV cache that both share. Training has
no cache. Each of these layers then computes its own K/V, with weights that were never trained for it.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
If no cache is given, a layer that makes K/V for others returns it, and a layer that uses it receives it as
an argument. Eager mode, ``mx.compile`` and ``grad_checkpoint`` therefore all differentiate through it. The
loop over the layers is upstream's own and runs on a view of the model, so the model itself is never
changed.

zoo-hooks leaves alone forward passes with a cache, calls of single layers, subclasses that call their
layers in another way, and models whose layers share nothing.

Batches of more than one row raise an error in 0.4.4. zoo-hooks does not repair this; 0.5.0 has fixed it.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    return _shared_kv.no_cache_verdict(module, "Gemma3Model", "Gemma3nDecoderLayer", "Gemma3nAttention")


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_without_cache(changes, module.Gemma3Model, module.Gemma3nDecoderLayer)


def canary() -> Figure:
    return _shared_kv.no_cache_figure(_tiny.gemma3n())


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-vlm does not share K/V between layers without a KV cache",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma3n.language",),
    affects=("mlx-vlm>=0.4.1",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/gemma3n/language.py",
        "https://github.com/unslothai/unsloth-zoo/pull/1275",
    ),
    measures=(
        "errors without a KV cache: logits, K/V gradients, checkpointed K/V gradients (expected: below 1e-4)"
    ),
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
