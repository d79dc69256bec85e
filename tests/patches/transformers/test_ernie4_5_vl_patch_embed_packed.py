"""Ernie 4.5 VL packed to 4 or 8 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
models = pytest.importorskip("transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe")


class TestPacked(packed_cast.PackedCast):
    """Ernie4_5_VLMoePatchEmbed, whose layer is ``proj``."""

    patch = "transformers/ernie4-5-vl-patch-embed-packed"
    kind = next(name for name in vars(models) if name.endswith("PatchEmbed"))
    layer = "proj"
