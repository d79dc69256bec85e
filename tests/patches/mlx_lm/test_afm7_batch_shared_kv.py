"""Batches of AFM7 in mlx-lm are each text alone."""

from __future__ import annotations

from mlx_batches import Batches
from mlx_lm.models import afm7

from zoo_hooks.patches.mlx_lm import _afm7, _tiny


class TestAfm7(Batches):
    patch = "mlx_lm/afm7-batch-shared-kv"
    caches = "mlx_lm.models.cache"
    raises = "too many values to unpack (expected 2)"

    def make(self):
        return _tiny.filled(afm7.Model(afm7.ModelArgs(**_afm7.CONFIG)))
