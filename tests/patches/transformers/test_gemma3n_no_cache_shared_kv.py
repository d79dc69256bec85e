"""Gemma-3n computes the same without a cache as with one, also in training."""

from __future__ import annotations

from no_cache_shared_kv import NoCacheSharedKV


class TestGemma3n(NoCacheSharedKV):
    """The causal language model."""

    patch = "gemma3n-no-cache-shared-kv"
    name = "gemma3n"
