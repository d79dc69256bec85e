"""Gemma-4 in mlx-vlm computes the same without a cache as with one, and as transformers."""

from __future__ import annotations

from mlx_shared_kv import SharedKV


class TestGemma4(SharedKV):
    name = "gemma4"
    no_cache = "mlx-vlm-gemma4-no-cache-shared-kv"
    offset = "mlx-vlm-gemma4-shared-kv-offset"
