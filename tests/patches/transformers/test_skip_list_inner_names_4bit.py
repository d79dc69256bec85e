"""Names on the skip list of 4-bit packing that stand inside a path are honoured."""

from __future__ import annotations

import pytest
import torch
from transformers import BitsAndBytesConfig

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit
from zoo_hooks.patches.transformers.skip_list_inner_names_4bit import PATCH as RECORD

bitsandbytes = pytest.importorskip("bitsandbytes")
target = pytest.importorskip(RECORD.targets[0])
PATCH = "transformers/skip-list-inner-names-4bit"
GEMMA4 = hasattr(__import__("transformers"), "Gemma4ForConditionalGeneration")


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def packed(model):
    return {name for name, module in model.named_modules() if type(module) is bitsandbytes.nn.Linear4bit}


def test_without_the_repair_an_affected_release_packs_them(measured):
    """Four modules inside ``self_attn`` without it, none with it."""
    row = measured(PATCH)
    assert row["without"] == (4 if affected() else 0)
    assert row["with"] == 0


@pytest.mark.skipif(not GEMMA4, reason="Gemma-4 came with 5.5.0")
def test_the_patch_embedder_of_gemma_4_is_skipped_with_its_tower():
    """The list says ``vision_tower``: nothing in it is packed; it loads again and gives the same logits."""
    model = _four_bit.quantised(_four_bit.vision_model(), ["lm_head", "vision_tower"])
    assert packed(model)
    assert not [name for name in packed(model) if "vision_tower" in name]
    loaded = _four_bit.reloaded(model)
    assert packed(loaded) == packed(model)
    assert _four_bit.difference(model, loaded, _four_bit.vision_inputs()).value == 0.0


def test_what_was_saved_loads_without_the_repair_too():
    """The saved list has the full paths."""
    model = _four_bit.quantised(_four_bit.text_model(), ["lm_head", "self_attn"])
    if affected():
        with zoo_hooks.disabled(PATCH):
            loaded = _four_bit.reloaded(model)
        assert packed(loaded) == packed(model)
        assert _four_bit.difference(model, loaded, _four_bit.text_inputs()).value == 0.0


def test_a_checkpoint_that_was_packed_against_its_list_loads():
    """Packed before the repair, with a list that was passed over: it runs as it was packed."""
    model = _four_bit.quantised(_four_bit.text_model())
    if affected():
        loaded = _four_bit.reloaded(model, ["lm_head", "self_attn"])
        assert packed(loaded) == packed(model)
        assert _four_bit.difference(model, loaded, _four_bit.text_inputs()).value == 0.0


def test_the_users_config_is_not_touched():
    """Neither the object nor its list, which may be used for another model."""
    given = ["lm_head", "self_attn"]
    config = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=given)
    before = config.to_dict()
    _four_bit._loaded(_four_bit.text_model(), quantization_config=config)
    assert config.llm_int8_skip_modules is given
    assert config.to_dict() == before
    assert given == ["lm_head", "self_attn"]


@pytest.mark.parametrize("names", [None, ["lm_head"], ["o_proj"], ["model.layers.0"], ["attn"]])
def test_other_lists_are_as_without_the_repair(names):
    """No list, names that match already, and parts of a name: the same modules are packed."""
    repaired = _four_bit.quantised(_four_bit.text_model(), names)
    assert repaired.config.quantization_config.llm_int8_skip_modules == names
    if affected():
        with zoo_hooks.disabled(PATCH):
            plain = _four_bit.quantised(_four_bit.text_model(), names)
        assert packed(plain) == packed(repaired)
        assert torch.equal(plain.lm_head.weight, repaired.lm_head.weight)


def test_only_an_affected_release_is_touched():
    """On the others the method is upstream's own."""
    method = target.Bnb4BitHfQuantizer._process_model_before_weight_loading
    assert hasattr(method, "__wrapped__") == affected()
