"""A padding mask keeps Idefics3 and SmolVLM in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import idefics3_padding_mask


class TestIdefics3(PaddingMask):
    patch = idefics3_padding_mask
