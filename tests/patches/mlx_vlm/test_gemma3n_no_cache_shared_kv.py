"""Gemma-3n in mlx-vlm without a cache, as in training, is that of transformers."""

from __future__ import annotations

import pytest
from conftest import recorded
from mlx_shared_kv import WithoutCache, trained, trainers

from zoo_hooks import releases


class TestGemma3n(WithoutCache):
    name = "gemma3n"
    no_cache = "mlx_vlm/gemma3n-no-cache-shared-kv"
    offset = "mlx_vlm/gemma3n-shared-kv-offset"
    batches = releases.version("mlx_vlm") != "0.4.4"  # which takes one row only


@pytest.mark.parametrize("how", ["eager", "checkpointed"])
@pytest.mark.parametrize("trainer", trainers())
def test_lora_in_mlx_vlms_own_trainer_has_the_gradients_of_eager_mode(how, trainer):
    """Each of three steps, within 1e-4; without the hooks they are off by more than the gradients."""
    right = trained("gemma3n", how, trainer)
    wrong = trained("gemma3n", how, trainer, ZOO_HOOKS="0")
    print(f"gemma3n, LoRA, {trainer}, {how}: {max(wrong):.2g} without, {max(right):.2g} with the hooks")
    assert max(right) < 1e-4
    assert (min(wrong) > 1) == (recorded(TestGemma3n.no_cache) == "AFFECTED")
