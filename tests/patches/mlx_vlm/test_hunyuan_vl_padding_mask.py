"""A padding mask keeps HunyuanVL in mlx-vlm causal: alone, in batches, in a trainer's loss."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_padding import LENGTH, ONES, PaddingMask, largest

from zoo_hooks.patches.mlx_vlm import _tiny, hunyuan_vl_padding_mask


class TestHunyuanVl(PaddingMask):
    patch = hunyuan_vl_padding_mask

    @pytest.mark.parametrize("side", ["right"])
    def test_a_padded_batch_is_each_row_alone(self, model, side):
        """Not on the left: the norms after the rotation make logits depend on absolute positions."""
        super().test_a_padded_batch_is_each_row_alone(model, side)

    def test_it_compiles(self, model):
        """The text model; the class around it looks at tokens on the host."""
        text, tokens = model.language_model.model, _tiny.prompt(LENGTH, 2)
        mask = mx.concatenate([ONES, ONES.at[:, 9:].add(-1)])
        compiled = mx.compile(lambda t, m: text(t, mask=m))
        assert largest(compiled(tokens, mask), text(tokens, mask=mask)) < 1e-5
