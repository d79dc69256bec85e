"""A padding mask keeps MiniMax-Text in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import minimax_padding_mask


class TestMinimax(PaddingMask):
    patch = minimax_padding_mask
