"""Cosmos3 Edge packed to 4 or 8 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.models.cosmos3_edge.modeling_cosmos3_edge")


class TestPacked(packed_cast.PackedCast):
    """Cosmos3EdgeVisionEmbeddings, whose layer is ``patch_embedding``."""

    patch = "transformers/cosmos3-edge-patch-embedding-packed"
    kind = "Cosmos3EdgeVisionEmbeddings"
    layer = "patch_embedding"
