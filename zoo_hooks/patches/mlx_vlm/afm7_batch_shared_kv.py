"""AFM7 in mlx-vlm raises on any batch, and would misplace the rows that begin with padding.

Symptom
-------
With AFM7, ``batch_generate`` and mlx-vlm's server, which combines requests into a batch, raise
``ValueError: too many values to unpack (expected 2)``.

Cause
-----
The last layers of AFM7 use the K/V of the layer before them. They read the K/V from the ``state`` of that
layer's KV cache. In a batch, the state contains more than K and V.

For rotary embeddings, these layers use the number of keys in the KV cache as the offset of their queries.
In a batch, this number includes the keys of padding, and each row needs its own offset.

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
from zoo_hooks.patches.mlx_vlm import _afm7, _tiny


def probe(module: ModuleType) -> Verdict:
    return _afm7.verdict(module)


def repair(module: ModuleType, changes: Changes) -> None:
    _afm7.share_in_batches(changes, module.AFMModel)


def canary() -> Figure:
    from mlx_vlm.models.afm7.language import LanguageModel, ModelConfig
    from mlx_vlm.models.cache import BatchKVCache

    model = _tiny.filled(LanguageModel(ModelConfig(**_afm7.CONFIG)))
    return _afm7.figure(model, BatchKVCache)


PATCH = Patch(
    module=__name__,
    title="AFM7 in mlx-vlm raises on a batch, whose KV cache holds more than K and V",
    severity="crash",
    symptoms=("too many values to unpack @ mlx_vlm.models.afm7.language",),
    targets=("mlx_vlm.models.afm7.language",),
    affects=("mlx-vlm>=0.6.14",),
    links=("https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/afm7/language.py",),
    measures="errors of logits in a batch: of a full row, of a padded row (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
