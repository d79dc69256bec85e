"""Kosmos-2.5 packed to 4 bits sees its images."""

from __future__ import annotations

import packed_cast
import pytest

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers.models.kosmos2_5.modeling_kosmos2_5")


class TestPacked(packed_cast.PackedCast):
    """Kosmos2_5VisionMlp, whose layer is ``wo``."""

    patch = "transformers/kosmos2-5-vision-mlp-packed"
    kind = "Kosmos2_5VisionMlp"
    layer = "wo"
