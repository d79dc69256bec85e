"""AFM7 in mlx-lm misplaces the rows of a batch that begin with padding, or raises on any batch.

Symptom
-------
A prompt that is shorter than its neighbors in a batch gets a different text than the same prompt alone. No
error is raised. This happens with ``batch_generate`` and with mlx-lm's server, which combines requests into
a batch. In the canary's random model, logits are off by 0.5 on a scale of 3.

Before mlx-lm 0.32.0, any batch raises ``ValueError: too many values to unpack (expected 2)``.

Cause
-----
The last layers of AFM7 use the K/V of the layer before them. For rotary embeddings, these layers use the
number of keys in the KV cache as the offset of their queries. In a batch, this number includes the keys of
padding, and each row needs its own offset.

Before 0.32.0, the K/V are read from the ``state`` of the cache. In a batch, the state contains more than K
and V.

No upstream issue is known. docs/upstream-reports.md contains a report.

Repair
------
With the KV cache of a batch, these layers rotate their queries by the offsets that the cache had before the
forward pass. They read only K and V from its state. The loop over the layers is upstream's own and runs on
a view of the model.

Forward passes without a cache, or with the cache of a single text, are not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches.mlx_lm import _afm7, _tiny


def probe(module: ModuleType) -> Verdict:
    return _afm7.verdict(module)


def repair(module: ModuleType, changes: Changes) -> None:
    _afm7.share_in_batches(changes, module.AFMModel)


def canary() -> Figure:
    from mlx_lm.models import afm7
    from mlx_lm.models.cache import BatchKVCache

    return _afm7.figure(_tiny.filled(afm7.Model(afm7.ModelArgs(**_afm7.CONFIG))), BatchKVCache)


PATCH = Patch(
    module=__name__,
    title="AFM7 in mlx-lm rotates the queries of padded rows of a batch by a wrong offset, or raises",
    severity="silent wrong result",
    symptoms=("too many values to unpack @ mlx_lm.models.afm7",),
    targets=("mlx_lm.models.afm7",),
    affects=("mlx-lm>=0.30.0",),
    links=("https://github.com/ml-explore/mlx-lm/blob/v0.32.2/mlx_lm/models/afm7.py",),
    measures="errors of logits in a batch: of a full row, of a padded row (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
