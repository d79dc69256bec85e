"""A padding mask keeps dots.ocr in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import dots_ocr_padding_mask


class TestDotsOcr(PaddingMask):
    patch = dots_ocr_padding_mask
