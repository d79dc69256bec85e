"""A padding mask keeps Youtu-VL in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import youtu_vl_padding_mask


class TestYoutuVl(PaddingMask):
    patch = youtu_vl_padding_mask
