"""Gemma-3n in mlx-lm computes the same without a cache as with one, and as transformers."""

from __future__ import annotations

from mlx_shared_kv import SharedKV


class TestGemma3n(SharedKV):
    name = "mlx_lm_gemma3n"
    no_cache = "mlx-lm-gemma3n-no-cache-shared-kv"
    offset = "mlx-lm-gemma3n-shared-kv-offset"
