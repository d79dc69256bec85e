"""Gemma-4 E2B and E4B in mlx-vlm with a cache rotates queries of layers that share K/V by a wrong offset.

Symptom
-------
Generation, and any other forward with a cache, gives wrong logits without any error (off by about 1 on a
scale of 3 in a random model). For a prompt its length is added to the position of each query, and one
for each token after it.

Cause
-----
The layers that use the K/V of earlier ones read ``cache.offset`` to rotate their queries. The layer that
made the K/V has by then put them into the cache, which moved the offset past the tokens of this forward.
It came with pull request 901, since which these layers read the cache.
A cache of a batch has one offset a row in an array that it moves in place, so that queries of the layers that
make K/V are wrong too.

Repair
------
The attention of these layers sees the cache with an offset that is as many tokens lower as this forward
has; of a batch every layer sees one that stays. All else of the cache, and the cache itself, is as it was.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_vlm import _shared_kv, _tiny


def probe(module: ModuleType) -> Verdict:
    return _shared_kv.offset_verdict(module, "Gemma4TextModel", "Attention")


def repair(module: ModuleType, changes: Changes) -> None:
    _shared_kv.share_with_unmoved_offset(changes, module.Attention)


def canary() -> Figure:
    return _shared_kv.offset_figure(_tiny.gemma4())


PATCH = Patch(
    module=__name__,
    title="Gemma-4 E2B and E4B in mlx-vlm with a cache rotates queries of shared layers by a moved offset",
    severity="silent wrong result",
    targets=("mlx_vlm.models.gemma4.language",),
    affects=("mlx-vlm>=0.4.4,<0.5.0",),
    links=(
        "https://github.com/Blaizzy/mlx-vlm/pull/901",
        "https://github.com/Blaizzy/mlx-vlm/blob/v0.4.4/mlx_vlm/models/gemma4/language.py",
    ),
    measures="errors of logits with a cache: of the prompt, of the tokens after it (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # after the repair it would see the wrapper by its name
)
