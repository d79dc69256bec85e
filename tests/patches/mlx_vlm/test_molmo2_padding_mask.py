"""A padding mask keeps Molmo2 in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import molmo2_padding_mask


class TestMolmo2(PaddingMask):
    patch = molmo2_padding_mask
