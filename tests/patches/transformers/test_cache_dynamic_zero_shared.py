"""DynamicCache of a model that shares no K/V layers keeps the sliding windows."""

from __future__ import annotations

import pytest
import torch
from zero_shared import A4B, DENSE, generate, model

from zoo_hooks.patches.transformers._zero_shared import held

PATCH = "transformers/cache-dynamic-zero-shared"


@pytest.mark.parametrize("shape", [DENSE, A4B], ids=["31B", "26B-A4B"])
def test_greedy_decoding_with_the_cache_equals_that_without(shape):
    """All 24 tokens are the same."""
    assert generate(shape).sequences.tolist() == generate(shape, use_cache=False).sequences.tolist()


@pytest.mark.parametrize("shape", [DENSE, A4B], ids=["31B", "26B-A4B"])
def test_the_cache_of_sliding_layers_is_bounded_by_the_window(shape):
    """After 24 tokens with a window of 8, a sliding layer holds 7 and a full one 23."""
    layers = held(generate(shape)).layers
    assert [layer.keys.shape[-2] for layer in layers] == [7, 23, 7, 23]


def test_without_the_repair_an_affected_release_holds_every_token(measured):
    """The symptom on a release that is affected, none on one that is not."""
    row = measured(PATCH)
    assert row["without"] == (23 if row["status"] == "APPLIED" else 7)


def test_a_compiled_forward_builds_the_same_cache_without_a_graph_break():
    """``torch.compile(fullgraph=True)`` of a forward that builds its cache inside, as on 5.14."""
    plain = model(DENSE)
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        expected = plain(input_ids=ids, use_cache=True)
        torch._dynamo.reset()
        output = torch.compile(plain, fullgraph=True, backend="eager")(input_ids=ids, use_cache=True)
    assert torch.equal(output.logits, expected.logits)
    lengths = [layer.keys.shape[-2] for layer in held(output).layers]
    assert lengths == [7, 12, 7, 12]
