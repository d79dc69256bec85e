"""Batches of Phixtral in mlx-lm are each text alone."""

from __future__ import annotations

from mlx_batches import Batches

from zoo_hooks.patches.mlx_lm import phixtral_batch_mask


class TestPhixtral(Batches):
    patch = "mlx_lm/phixtral-batch-mask"
    caches = "mlx_lm.models.cache"

    def make(self):
        return phixtral_batch_mask._model()
