"""Gemma-4 unified sees an image with a static cache as it does with one that grows."""

from __future__ import annotations

import pytest
from static_masks import StaticMasks

from zoo_hooks.patches.transformers import _four_bit, _static_masks
from zoo_hooks.patches.transformers.gemma4_unified_image_static_cache import PATCH

pytest.importorskip(PATCH.targets[0], reason="came later")


class TestGemma4Unified(StaticMasks):
    patch = PATCH.id

    def model(self):
        return _static_masks.unified_seeing_model()

    def inputs(self):
        return _four_bit.unified_inputs()
