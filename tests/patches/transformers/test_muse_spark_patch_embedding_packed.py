"""Muse Spark packed to 4 or 8 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.models.muse_spark.modeling_muse_spark")


class TestPacked(packed_cast.PackedCast):
    """MuseSparkVisionPatchEmbedder, whose layer is ``patch_embedding``."""

    patch = "transformers/muse-spark-patch-embedding-packed"
    kind = "MuseSparkVisionPatchEmbedder"
    layer = "patch_embedding"
