"""Muse Glimmer packed to 4 or 8 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.models.muse_glimmer.modeling_muse_glimmer")


class TestPacked(packed_cast.PackedCast):
    """MuseGlimmerVisionPatchEmbedder, whose layer is ``patch_embedding``."""

    patch = "transformers/muse-glimmer-patch-embedding-packed"
    kind = "MuseGlimmerVisionPatchEmbedder"
    layer = "patch_embedding"
