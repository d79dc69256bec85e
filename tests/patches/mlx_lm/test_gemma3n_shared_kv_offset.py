"""Gemma-3n in mlx-lm with a cache, as in generation, is that of transformers."""

from __future__ import annotations

from mlx_shared_kv import WithCache


class TestGemma3n(WithCache):
    name = "mlx_lm_gemma3n"
    no_cache = "mlx_lm/gemma3n-no-cache-shared-kv"
    offset = "mlx_lm/gemma3n-shared-kv-offset"
