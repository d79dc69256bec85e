"""StaticCache of a model that shares no K/V layers has a layer for each of the model's."""

from __future__ import annotations

import pytest
from zero_shared import A4B, DENSE, generate

import zoo_hooks
from zoo_hooks.patches.transformers._zero_shared import held

PATCH = "transformers/cache-static-zero-shared"


@pytest.mark.parametrize("shape", [DENSE, A4B], ids=["31B", "26B-A4B"])
def test_greedy_decoding_with_a_static_cache_equals_that_without_a_cache(shape):
    """All 24 tokens are the same."""
    cached = generate(shape, cache_implementation="static", disable_compile=True)
    assert cached.sequences.tolist() == generate(shape, use_cache=False).sequences.tolist()


def test_sliding_layers_hold_the_window_and_no_more():
    """The static cache reserves 8 tokens for a sliding layer, and the whole length for a full one."""
    output = generate(DENSE, cache_implementation="static", disable_compile=True)
    lengths = [layer.keys.shape[-2] for layer in held(output).layers]
    assert lengths[0] == lengths[2] == 8
    assert lengths[1] == lengths[3] >= 23


def test_without_the_repair_an_affected_release_raises(measured):
    """The symptom on a release that is affected, none on one that is not."""
    row = measured(PATCH)
    if row["status"] == "APPLIED":
        assert row["without"].startswith("IndexError")
    else:
        assert row["without"] == 0


def test_it_can_be_switched_off_in_this_process():
    """An A/B run: inside the block an affected release has its bug back, after it not."""
    from transformers import StaticCache
    from zero_shared import config

    applied = zoo_hooks.report()[PATCH].status.name == "APPLIED"
    with zoo_hooks.disabled(PATCH):
        assert len(StaticCache(config=config(), max_cache_len=16).layers) == (0 if applied else 4)
    assert len(StaticCache(config=config(), max_cache_len=16).layers) == 4
