"""Gemma-4 in mlx-vlm with a cache, as in generation, is that of transformers."""

from __future__ import annotations

from mlx_shared_kv import WithCache


class TestGemma4(WithCache):
    name = "gemma4"
    no_cache = "mlx_vlm/gemma4-no-cache-shared-kv"
    offset = "mlx_vlm/gemma4-shared-kv-offset"
