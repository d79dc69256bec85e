"""Llama-4 generates with a static cache."""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import Llama4ForCausalLM, Llama4TextConfig, masking_utils

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

PATCH = "transformers/llama4-static-cache"


def model(attention):
    shape = {key: value for key, value in _tiny.TEXT.items() if key != "sliding_window"}
    more = {"num_hidden_layers": 4, "intermediate_size_mlp": 64, "num_local_experts": 2}
    config = Llama4TextConfig(**shape, **more, attention_chunk_size=8)
    config._attn_implementation = attention
    return _tiny._seeded(Llama4ForCausalLM, config)


def test_without_the_repair_an_affected_release_raises(measured):
    """TypeError there, no token that differs with the repair or elsewhere."""
    row = measured(PATCH)
    assert row["with"] == 0
    if row["status"] == "APPLIED":
        assert row["without"].startswith("TypeError: create_chunked_causal_mask()")
    else:
        assert row["without"] == 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("length", [5, 12])
def test_static_and_growing_caches_agree(attention, length):
    """A prompt of less than a chunk of 8 tokens, and one of more; the second row is padded."""
    some, ids = model(attention), _tiny.prompt(length).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    how = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "disable_compile": True}
    assert torch.equal(some.generate(ids, cache_implementation="static", **how), some.generate(ids, **how))


def test_all_names_of_the_function_are_the_same():
    """The one in the table of masks too, and it looks as upstream's does."""
    maker = masking_utils.create_chunked_causal_mask
    assert masking_utils.LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING["chunked_attention"] is maker
    assert next(iter(inspect.signature(maker).parameters)) == "config"


def test_blocks_that_are_asked_for_are_not_ignored():
    """Upstream's error stands there, for no mask of chunks with blocks is made."""
    if zoo_hooks.report()[PATCH].status.name != "APPLIED":
        pytest.skip("upstream takes them")
    with pytest.raises(TypeError, match="block_sequence_ids"):
        masking_utils.create_chunked_causal_mask(block_sequence_ids=torch.zeros(1, 2))
