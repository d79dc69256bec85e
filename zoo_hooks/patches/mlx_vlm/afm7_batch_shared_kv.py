"""AFM7 in mlx-vlm raises on any batch, and would misplace the rows that begin with padding.

Symptom
-------
``batch_generate`` and mlx-vlm's server, which puts requests into one batch, raise ``ValueError: too many
values to unpack (expected 2)`` with AFM7.

Cause
-----
The last layers of AFM7 use the K/V of the layer before them, which are read off the ``state`` of its cache.
In a batch that is more than K and V. These layers also take the number of keys that the cache holds for the
offset of their queries, but in a batch the keys of padding are among them, and each row has an offset of
its own.

No issue of mlx-vlm's is known.

Repair
------
With a cache of a batch K and V alone are read off its state, and these layers rotate by the offsets that
the cache had before the forward. The loop over the layers is upstream's own and runs on a view of the
model. Forwards without a cache or with one of a single text are as they were.
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
    title="AFM7 in mlx-vlm raises on a batch, whose cache holds more than K and V",
    severity="crash",
    symptoms=("too many values to unpack @ mlx_vlm.models.afm7.language",),
    targets=("mlx_vlm.models.afm7.language",),
    affects=("mlx-vlm>=0.6.14",),
    links=("https://github.com/Blaizzy/mlx-vlm/blob/v0.7.10/mlx_vlm/models/afm7/language.py",),
    measures="errors of logits of a batch: of a full row, of a padded one (expected: below 1e-4)",
    probe=probe,
    repair=repair,
    canary=canary,
)
