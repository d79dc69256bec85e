"""AFM7 in mlx-lm misplaces the rows of a batch that begin with padding, or raises on any batch.

Symptom
-------
``batch_generate`` and mlx-lm's server, which puts requests into one batch, give another text for a prompt
that is shorter than its neighbours than for that prompt alone, without any error: logits are off by 0.5 on
a scale of 3 in the random model of the canary. Before mlx-lm 0.32.0 any batch raises ``ValueError: too many
values to unpack (expected 2)``.

Cause
-----
The last layers of AFM7 use the K/V of the layer before them. They take the number of keys that the cache
holds for the offset of their queries, but in a batch the keys of padding are among them, and each row has
an offset of its own. Before 0.32.0 the K/V are read off the cache's ``state``, which in a batch is more
than K and V.

No issue of mlx-lm's is known.

Repair
------
With a cache of a batch these layers rotate by the offsets that the cache had before the forward, and the
K/V alone are read off its state. The loop over the layers is upstream's own and runs on a view of the
model. Forwards without a cache or with one of a single text are as they were.
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
    measures="errors of logits of a batch: of a full row, of a padded one (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
