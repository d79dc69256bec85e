"""A mask keeps Falcon Perception in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

import pytest
from mlx_padding import TextMask

from zoo_hooks.patches.mlx_vlm import falcon_perception_padding_mask


class TestFalconPerception(TextMask):
    patch = falcon_perception_padding_mask

    def test_it_compiles(self, model):
        """It does not, with the hooks or without: upstream evaluates within the forward pass."""
        with pytest.raises(ValueError, match="eval"):
            super().test_it_compiles(model)
