"""A config takes a whole number for a float, and nothing else that it refused."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from transformers import AutoConfig, BertConfig, DeepseekV3Config, PretrainedConfig

import zoo_hooks

PATCH = "transformers/config-int-for-float"
STRICT = hasattr(PretrainedConfig, "__validators__")


def test_without_the_repair_an_affected_release_refuses(measured):
    """The error names the field; with the repair, and before 5.4.0, the value is that of the file."""
    row = measured(PATCH)
    assert row["with"] == 1
    if row["status"] == "APPLIED":
        assert "'routed_scaling_factor' expected float, got int" in row["without"]
    else:
        assert row["without"] == 1


def test_it_stays_what_it_was(tmp_path):
    """In the file that is saved too, and in copies."""
    config = {"model_type": "deepseek_v3", "routed_scaling_factor": 1, "rms_norm_eps": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = AutoConfig.from_pretrained(tmp_path)
    made.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    for one in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(one.routed_scaling_factor) is int
        assert (one.routed_scaling_factor, one.rms_norm_eps) == (1, 0)
    assert type(saved["routed_scaling_factor"]) is int


def test_it_can_be_set_and_passed_and_stand_in_a_subclass():
    class Config(DeepseekV3Config):
        pass

    config = Config(routed_scaling_factor=2)
    config.routed_scaling_factor = 3
    config.initializer_range = 1
    assert (config.routed_scaling_factor, config.initializer_range) == (3, 1)
    assert BertConfig(layer_norm_eps=1).layer_norm_eps == 1


@pytest.mark.skipif(not STRICT, reason="nothing is checked")
@pytest.mark.parametrize("value", ["1", None, True, [1.0], 1j])
def test_all_else_is_refused_as_before(value):
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    with pytest.raises(StrictDataclassFieldValidationError, match="routed_scaling_factor"):
        DeepseekV3Config(routed_scaling_factor=value)
    with pytest.raises(StrictDataclassFieldValidationError, match="vocab_size"):
        DeepseekV3Config(vocab_size=1.0)


def test_it_can_be_switched_off():
    if zoo_hooks.report()[PATCH].status.name != "APPLIED":
        pytest.skip("nothing to switch off")
    with zoo_hooks.disabled(PATCH), pytest.raises(Exception, match="expected float, got int"):
        DeepseekV3Config(routed_scaling_factor=1)
    assert DeepseekV3Config(routed_scaling_factor=1).routed_scaling_factor == 1
