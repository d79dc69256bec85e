"""A padding mask keeps Cohere Compass in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import cohere_compass_padding_mask


class TestCohereCompass(PaddingMask):
    patch = cohere_compass_padding_mask
