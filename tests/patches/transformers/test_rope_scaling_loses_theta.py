"""A config keeps its theta when its rope_scaling is set."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

import zoo_hooks
from zoo_hooks.patches.transformers.rope_scaling_loses_theta import PATCH

pytestmark = pytest.mark.skipif(
    zoo_hooks.report()[PATCH.id].status.name == "NOT_NEEDED", reason="a theta has a place of its own"
)
LINEAR = {"rope_type": "linear", "factor": 4.0}


def config():
    return LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 500000.0})


def test_the_theta_stays_also_when_saved(tmp_path):
    """And what was set is not changed itself."""
    some, value = config(), dict(LINEAR)
    some.rope_scaling = value
    some.save_pretrained(tmp_path)
    for one in (some, LlamaConfig.from_pretrained(tmp_path)):
        assert one.rope_parameters == {**LINEAR, "rope_theta": 500000.0}
    assert value == LINEAR


def test_a_theta_that_is_set_is_taken():
    """And a None, too."""
    some = config()
    some.rope_scaling = {**LINEAR, "rope_theta": 7.0}
    assert some.rope_parameters["rope_theta"] == 7.0
    some.rope_scaling = None
    assert some.rope_parameters is None
