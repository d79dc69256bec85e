"""Gemma-4 in mlx-vlm without a cache, as in training, is that of transformers."""

from __future__ import annotations

import pytest
from conftest import recorded
from mlx_shared_kv import WithoutCache, trained, trainers


class TestGemma4(WithoutCache):
    name = "gemma4"
    no_cache = "mlx_vlm/gemma4-no-cache-shared-kv"
    offset = "mlx_vlm/gemma4-shared-kv-offset"


@pytest.mark.parametrize("how", ["eager", "checkpointed"])
@pytest.mark.parametrize("trainer", trainers())
def test_lora_in_mlx_vlms_own_trainer_has_the_gradients_of_eager_mode(how, trainer):
    """Each of three steps, within 1e-4; without the hooks they are off by more than the gradients."""
    right = trained("gemma4", how, trainer)
    wrong = trained("gemma4", how, trainer, ZOO_HOOKS="0")
    print(f"gemma4, LoRA, {trainer}, {how}: {max(wrong):.2g} without, {max(right):.2g} with the hooks")
    assert max(right) < 1e-4
    assert (min(wrong) > 1) == (
        any(recorded(patch) == "AFFECTED" for patch in (TestGemma4.no_cache, "mlx_vlm/gemma4-padding-mask"))
    )
