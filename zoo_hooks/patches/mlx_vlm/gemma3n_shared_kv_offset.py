"""Gemma-3n in mlx-vlm computes wrong logits with a KV cache: queries are rotated by a wrong offset.

Symptom
-------
Generation, and any other forward pass with a KV cache, gives wrong logits. No error is raised. In a random
model, logits are off by about 1 on a scale of 3. For a prompt, the positions of the queries are too high by
the length of the prompt. For each later token, the position is too high by one.

Cause
-----
The layers that use the K/V of earlier layers read ``cache.offset`` to rotate their queries. By then, the
layer that made the K/V has stored it in the cache. This has moved the offset past the tokens of the current
forward pass.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
The attention of these layers sees the cache with an offset that is lower by the number of tokens in the
current forward pass. In a batch, every layer sees offsets that do not move. The other attributes of the
cache, and the cache itself, are not changed.

Batches of more than one row raise an error in 0.4.4. zoo-hooks does not repair this; 0.5.0 has fixed it.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    return _shared_kv.offset_verdict(module, "Gemma3Model", "Gemma3nAttention")


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_with_unmoved_offset(changes, module.Gemma3nAttention)


def canary() -> Figure:
    return _shared_kv.offset_figure(_tiny.gemma3n())


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-vlm rotates queries of layers that share K/V by a moved offset",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma3n.language",),
    affects=("mlx-vlm>=0.4.1",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/gemma3n/language.py",
        "https://github.com/ml-explore/mlx-lm/pull/1396",
    ),
    measures="errors of logits with a KV cache: of the prompt, of later tokens (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
