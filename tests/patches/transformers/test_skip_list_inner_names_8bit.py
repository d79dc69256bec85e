"""Names on the skip list of 8-bit packing that stand inside a path are honoured."""

from __future__ import annotations

import pytest
import torch
from transformers import BitsAndBytesConfig

import zoo_hooks
from zoo_hooks.patches.transformers import _four_bit
from zoo_hooks.patches.transformers.skip_list_inner_names_8bit import PATCH as RECORD

bitsandbytes = pytest.importorskip("bitsandbytes")
target = pytest.importorskip(RECORD.targets[0])
PATCH = "transformers/skip-list-inner-names-8bit"
LIST = ["lm_head", "self_attn"]


def affected():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def packed(model):
    return {name for name, module in model.named_modules() if type(module) is bitsandbytes.nn.Linear8bitLt}


def quantised(skip, config=None):
    config = config or BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return _four_bit._loaded(_four_bit.text_model(), quantization_config=config, dtype=torch.float32)


def same(one, other):
    return _four_bit.difference(one, other, _four_bit.text_inputs()).value == 0.0


def test_without_the_repair_an_affected_release_packs_them(measured):
    """Four modules inside ``self_attn`` without it, none with it."""
    row = measured(PATCH)
    assert row["without"] == (4 if affected() else 0)
    assert row["with"] == 0


def test_what_was_saved_loads_with_and_without_the_repair():
    """The saved list has the full paths."""
    model = quantised(LIST)
    assert same(_four_bit.reloaded(model), model)
    with zoo_hooks.disabled(PATCH):
        loaded = _four_bit.reloaded(model)
    assert packed(loaded) == packed(model)
    assert same(loaded, model)


def test_a_checkpoint_that_was_packed_by_its_list_loads():
    """As transformers 4 has saved it, without the full paths: it raised in its first forward."""
    model = quantised(["lm_head", "model.layers.0.self_attn"])
    loaded = _four_bit.reloaded(model, LIST)
    assert packed(loaded) == packed(model)
    assert same(loaded, model)


def test_a_checkpoint_that_was_packed_against_its_list_loads_as_it_was_packed():
    """Packed before the repair, with a list that was passed over."""
    model = quantised(["lm_head"])
    loaded = _four_bit.reloaded(model, LIST)
    assert packed(loaded) == packed(model)
    assert same(loaded, model)


def test_the_users_config_is_not_touched():
    """Neither the object nor its list, which may be used for another model."""
    given = list(LIST)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=given)
    before = config.to_dict()
    quantised(None, config)
    assert config.llm_int8_skip_modules is given
    assert config.to_dict() == before
    assert given == LIST


@pytest.mark.parametrize("names", [None, ["lm_head"], ["o_proj"], ["model.layers.0"], ["attn"]])
def test_other_lists_are_as_without_the_repair(names):
    """No list, names that match already, and parts of a name: the same modules are packed."""
    repaired = quantised(names)
    assert repaired.config.quantization_config.llm_int8_skip_modules == names
    with zoo_hooks.disabled(PATCH):
        assert packed(quantised(names)) == packed(repaired)


def test_only_an_affected_release_is_touched():
    """On the others the method is upstream's own."""
    method = target.Bnb8BitHfQuantizer._process_model_before_weight_loading
    assert hasattr(method, "__wrapped__") == affected()
