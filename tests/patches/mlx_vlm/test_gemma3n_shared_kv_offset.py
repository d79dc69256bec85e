"""Gemma-3n in mlx-vlm with a cache, as in generation, is that of transformers."""

from __future__ import annotations

from mlx_shared_kv import WithCache

from zoo_hooks import releases


class TestGemma3n(WithCache):
    name = "gemma3n"
    no_cache = "mlx_vlm/gemma3n-no-cache-shared-kv"
    offset = "mlx_vlm/gemma3n-shared-kv-offset"
    batches = releases.version("mlx_vlm") != "0.4.4"  # which takes one row only
