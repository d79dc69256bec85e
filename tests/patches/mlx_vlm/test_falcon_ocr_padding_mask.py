"""A mask keeps Falcon-OCR in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import TextMask

from zoo_hooks.patches.mlx_vlm import falcon_ocr_padding_mask


class TestFalconOcr(TextMask):
    patch = falcon_ocr_padding_mask
