"""Molmo2 sees an image with a static cache as it does with one that grows."""

from __future__ import annotations

import pytest
from static_masks import StaticMasks

from zoo_hooks.patches.transformers import _static_masks, _tiny
from zoo_hooks.patches.transformers.molmo2_image_static_cache import PATCH

pytest.importorskip(PATCH.targets[0], reason="came later")


class TestMolmo2(StaticMasks):
    patch = PATCH.id

    def model(self):
        return _static_masks.molmo2_model()

    def inputs(self):
        return {"input_ids": _tiny.prompt(), "mm_token_type_ids": (_tiny.prompt() < 8).long()}
