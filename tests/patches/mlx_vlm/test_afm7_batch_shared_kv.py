"""Batches of AFM7 in mlx-vlm are each text alone."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import pytest
from mlx_batches import Batches

from zoo_hooks.patches.mlx_lm import _afm7, _tiny


@pytest.mark.skipif(not find_spec("mlx_vlm.models.afm7"), reason="this release has no AFM7")
class TestAfm7(Batches):
    patch = "mlx_vlm/afm7-batch-shared-kv"
    caches = "mlx_vlm.models.cache"
    raises = "too many values to unpack (expected 2)"

    def make(self):
        family = import_module("mlx_vlm.models.afm7.language")
        return _tiny.filled(family.LanguageModel(family.ModelConfig(**_afm7.CONFIG)))
