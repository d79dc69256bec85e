"""Gemma-4 computes the same without a cache as with one, also in training and with images."""

from __future__ import annotations

import pytest
from no_cache_shared_kv import NoCacheSharedKV
from shared_kv import MODELS

here = pytest.mark.skipif("gemma4" not in MODELS, reason="no Gemma-4 before transformers 5.5.0")


@here
class TestGemma4(NoCacheSharedKV):
    """The causal language model, with per-layer inputs."""

    patch = "transformers/gemma4-no-cache-shared-kv"
    name = "gemma4"


@here
class TestMultimodal(NoCacheSharedKV):
    """The model that sees and hears; training is with an image."""

    patch = "transformers/gemma4-no-cache-shared-kv"
    name = "gemma4-multimodal"
