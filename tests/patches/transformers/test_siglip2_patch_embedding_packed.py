"""SigLIP2 packed to 4 or 8 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.models.siglip2.modeling_siglip2")


class TestPacked(packed_cast.PackedCast):
    """Siglip2VisionEmbeddings, whose layer is ``patch_embedding``."""

    patch = "transformers/siglip2-patch-embedding-packed"
    kind = "Siglip2VisionEmbeddings"
    layer = "patch_embedding"
