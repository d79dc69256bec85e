"""Gemma-3n in mlx-vlm computes the same without a cache as with one, and as transformers."""

from __future__ import annotations

from mlx_shared_kv import SharedKV

from zoo_hooks import ledger


class TestGemma3n(SharedKV):
    name = "gemma3n"
    no_cache = "mlx-vlm-gemma3n-no-cache-shared-kv"
    offset = "mlx-vlm-gemma3n-shared-kv-offset"
    # 0.4.4 has two bugs more: its layers have no sliding window, and it takes one row only.
    batches = ledger.version("mlx_vlm") != "0.4.4"
    length = 12 if batches else 8
