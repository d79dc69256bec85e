"""A padding mask keeps GLM-OCR in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import glm_ocr_padding_mask


class TestGlmOcr(PaddingMask):
    patch = glm_ocr_padding_mask
