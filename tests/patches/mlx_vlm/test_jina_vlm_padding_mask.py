"""A padding mask keeps Jina VLM in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

from mlx_padding import PaddingMask

from zoo_hooks.patches.mlx_vlm import jina_vlm_padding_mask


class TestJinaVlm(PaddingMask):
    patch = jina_vlm_padding_mask
