"""A padding mask keeps LLaVA in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import llava_padding_mask


class TestLlava(PaddingMask):
    patch = llava_padding_mask
