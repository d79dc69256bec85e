"""Gemma-3n in mlx-lm without a cache, as in training, is that of transformers."""

from __future__ import annotations

from mlx_shared_kv import WithoutCache


class TestGemma3n(WithoutCache):
    name = "mlx_lm_gemma3n"
    no_cache = "mlx_lm/gemma3n-no-cache-shared-kv"
    offset = "mlx_lm/gemma3n-shared-kv-offset"
