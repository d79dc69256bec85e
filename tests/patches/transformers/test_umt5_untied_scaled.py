"""UMT5 with a head of its own gives the logits of that head."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, UMT5Config, UMT5ForConditionalGeneration

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

PATCH = "transformers/umt5-untied-scaled"
SHAPE = {"vocab_size": 80, "d_model": 64, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
IDS = {"input_ids": _tiny.prompt(), "decoder_input_ids": _tiny.prompt()}


def untied(cls=UMT5ForConditionalGeneration, config=UMT5Config):
    return _tiny._seeded(cls, config(**SHAPE, tie_word_embeddings=False))


def scale(model):
    """What the logits are, over what the head makes of the last hidden state."""
    with torch.no_grad():
        output = model(**IDS, output_hidden_states=True)
        return (output.logits / model.lm_head(output.decoder_hidden_states[-1])).median().item()


def test_a_checkpoint_of_an_affected_release_is_read_rightly(measured):
    """Its logits are off by 0.875 there, or all wrong; with the repair by nothing."""
    row = measured(PATCH)
    assert row["with"] == 0.0
    assert (row["without"] >= 0.875) == (row["status"] == "APPLIED")


@pytest.mark.parametrize(("tied", "expected"), [({}, 0.125), ({"tie_word_embeddings": True}, 0.125),
                                                ({"tie_word_embeddings": False}, 1.0)])  # fmt: skip
def test_only_what_says_that_it_is_untied_is_not_scaled(tied, expected):
    """None of it changes which weights are shared: those of the encoder and the decoder."""
    model = _tiny._seeded(UMT5ForConditionalGeneration, UMT5Config(**SHAPE, **tied))
    assert scale(model) == pytest.approx(expected)
    assert torch.equal(model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight)


def test_it_is_kept_when_saved_copied_and_pickled(tmp_path):
    """Also through AutoModel, which makes the config before it imports the model."""
    model = untied()
    model.lm_head.weight = torch.nn.Parameter(torch.linspace(-1, 1, 80 * 64).sin().view(80, 64))
    with torch.no_grad():
        expected = model(**IDS).logits
        model.save_pretrained(tmp_path)
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
        assert torch.equal(again(**IDS).logits, expected)
        assert torch.equal(copy.deepcopy(model)(**IDS).logits, expected)
        assert torch.equal(pickle.load(io.BytesIO(pickle.dumps(model)))(**IDS).logits, expected)
    assert scale(again) == pytest.approx(1.0)


def test_subclasses_of_model_and_config():
    """A config that calls its parent's constructor, and a model that calls its parent's forward."""

    class Config(UMT5Config):
        pass

    class Model(UMT5ForConditionalGeneration):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    assert scale(untied(Model, Config)) == pytest.approx(1.0)


def test_what_the_model_holds_is_as_without_the_repair():
    """The width is in its dictionary, where undoing finds it."""
    model = untied()
    assert vars(model)["model_dim"] == 64
    applied = zoo_hooks.report()[PATCH].status.name == "APPLIED"
    assert model.model_dim == (1 if applied else 64)
    if applied:
        with zoo_hooks.disabled(PATCH):
            assert model.model_dim == 64


def test_it_compiles_into_one_graph():
    """``torch.compile(fullgraph=True)`` gives the same logits."""
    model = untied()
    with torch.no_grad():
        expected = model(**IDS, use_cache=False).logits
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.equal(compiled(**IDS, use_cache=False).logits, expected)
