"""Batches of MiniCPM3 in mlx-lm are each text alone."""

from __future__ import annotations

from mlx_batches import Batches

from zoo_hooks.patches.mlx_lm import _tiny


class TestMiniCpm3(Batches):
    patch = "mlx_lm/minicpm3-batch-mask"
    caches = "mlx_lm.models.cache"

    def make(self):
        return _tiny.minicpm3()
