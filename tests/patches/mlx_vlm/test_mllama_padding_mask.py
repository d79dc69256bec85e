"""A padding mask keeps Llama 3.2 Vision in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import mllama_padding_mask


class TestMllama(PaddingMask):
    patch = mllama_padding_mask
