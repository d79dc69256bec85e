"""Gemma-3n in mlx-lm with a cache rotates queries of layers that share K/V by a wrong offset.

Symptom
-------
Generation, and any other forward with a cache, gives wrong logits without any error (off by about 1 on a
scale of 3 in a random model). For a prompt its length is added to the position of each query, and one
for each token after it.

Cause
-----
The layers that use the K/V of earlier ones read ``cache.offset`` to rotate their queries. The layer that
made the K/V has by then put them into the cache, which moved the offset past the tokens of this forward.
With a cache of a batch ``ValueError: too many values to unpack`` is raised: its state is more than K and V.

Repair
------
The attention of these layers sees the cache with an offset that is as many tokens lower as this forward
has, and of the state K and V alone. All else of the cache, and the cache itself, is as it was.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_lm import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    return _shared_kv.offset_verdict(module, "LanguageModel", "Gemma3nAttention")


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_with_unmoved_offset(changes, module.Gemma3nAttention)


def canary() -> Figure:
    return _shared_kv.offset_figure(_tiny.mlx_lm_gemma3n())


PATCH = Patch(
    module=__name__,
    title="Gemma-3n in mlx-lm with a cache rotates queries of shared layers by a moved offset",
    severity="silent wrong result",
    symptoms=("too many values to unpack @ mlx_lm.models.gemma3n",),
    targets=("mlx_lm.models.gemma3n",),
    affects=("mlx-lm>=0.30.0,<0.32.0",),
    links=(
        "https://github.com/ml-explore/mlx-lm/issues/1384",
        "https://github.com/ml-explore/mlx-lm/pull/1396",
    ),
    measures="errors of logits with a cache: of the prompt, of the tokens after it (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
