"""A padding mask keeps ERNIE 4.5 VL in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import ernie4_5_moe_vl_padding_mask


class TestErnie45MoeVl(PaddingMask):
    patch = ernie4_5_moe_vl_padding_mask
