"""A batched pipeline passes by the cache, by whichever name an output calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from others import affected
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.pipelines.pt_utils import PipelineIterator

import zoo_hooks
from zoo_hooks.patches.transformers import _foreign

PATCH = "transformers/batched-pipeline-cache-name"


@dataclass
class Output(CausalLMOutputWithPast):
    """Has the inherited field again."""

    past_key_values: Any = None


def rows(batch):
    return list(PipelineIterator([batch], lambda given: given, {}, loader_batch_size=2))


def cache():
    return _foreign.llama()(torch.arange(4).reshape(2, 2), use_cache=True).past_key_values


def test_each_row_has_all_but_the_cache():
    """Of dicts, of outputs of transformers, and of those of others, which stay of their class."""
    logits = torch.arange(4.0).reshape(2, 2)
    for batch in (
        {"logits": logits, "past_key_values": cache()},
        CausalLMOutputWithPast(logits=logits, past_key_values=cache()),
        Output(logits=logits, past_key_values=cache()),
    ):
        first, second = rows(batch)
        assert type(first) is type(batch)
        assert list(first) == list(second) == ["logits"]
        assert first["logits"].equal(logits[:1])
        assert second["logits"].equal(logits[1:])
        assert "past_key_values" in batch


def test_what_has_no_cache_is_handed_on_as_it_is():
    """By identity, and also what is no dict."""
    given = {"logits": torch.zeros(2, 1), "names": ["a", "b"]}
    iterator = PipelineIterator([given], lambda batch: batch, {}, loader_batch_size=2)
    assert [row["names"] for row in iterator] == ["a", "b"]
    assert iterator._loader_batch_data is None or iterator._loader_batch_data is given
    assert rows(torch.zeros(2, 3))[0].shape == (1, 3)


def test_a_pipeline_of_ones_own_runs_in_batches():
    """With a model of others, and with a dict."""

    class Own(transformers.Pipeline):
        def _sanitize_parameters(self, **_):
            return {}, {}, {}

        def preprocess(self, start):
            return {"input_ids": torch.arange(start, start + 2)[None]}

        def _forward(self, given):
            output = self.model(**given, use_cache=True)
            return {"logits": output.logits, "past_key_values": output.past_key_values}

        def postprocess(self, output):
            return tuple(output["logits"].shape)

    pipeline = Own(model=_foreign.llama(), tokenizer=None, device="cpu")
    batched = PipelineIterator([{"input_ids": torch.arange(4).reshape(2, 2)}], pipeline.forward, {}, 2)
    assert [pipeline.postprocess(row) for row in batched] == [(1, 2, 64)] * 2


def test_the_symptom_is_back_while_it_is_disabled():
    """On an affected release; on others nothing changes."""
    batch, mended = {"logits": torch.zeros(2, 1), "past_key_values": cache()}, affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        if mended:
            with pytest.raises(TypeError, match="'DynamicCache' object is not subscriptable"):
                rows(batch)
        else:
            assert len(rows(batch)) == 2
