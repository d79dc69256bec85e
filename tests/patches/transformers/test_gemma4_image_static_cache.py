"""Gemma-4 sees an image with a static cache as it does with one that grows."""

from __future__ import annotations

import pytest
from static_masks import StaticMasks

from zoo_hooks.patches.transformers import _static_masks, _tiny
from zoo_hooks.patches.transformers.gemma4_image_static_cache import PATCH

pytest.importorskip(PATCH.targets[0], reason="came later")


class TestGemma4(StaticMasks):
    patch = PATCH.id

    def model(self):
        return _static_masks.seeing_model()

    def inputs(self):
        return _tiny.image_inputs()
