"""Moonshine Streaming adds its positions to the output of the encoder once."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("transformers.models.moonshine_streaming")

import torch

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny
from zoo_hooks.patches.transformers.moonshine_streaming_inputs_changed import small_model

PATCH = "transformers/moonshine-streaming-inputs-changed"
IDS = _tiny.prompt(4)
AUDIO = (torch.linspace(-40, 40, 4800).sin() * torch.linspace(0, 1, 4800)).view(1, -1)
STATES = torch.linspace(-1, 1, 6 * 32).sin().view(1, 6, 32)


def loud_model():
    """With weights that are large enough for the tokens to depend on the audio."""
    model, random = small_model(), torch.Generator().manual_seed(1)
    for value in model.parameters():
        if value.dim() > 1:
            value.data.normal_(0, 0.3, generator=random)
    return model


def test_the_tensor_of_the_caller_stays_as_it_is(measured):
    row = measured(PATCH)
    assert row["with"] == 0.0
    assert (row["without"] > 0.01) == (row["status"] == "APPLIED")


def test_without_a_cache_the_same_tokens_are_generated():
    """Most of them were others."""
    model = loud_model()
    with torch.no_grad():
        seen = [
            model.generate(AUDIO, max_new_tokens=12, min_new_tokens=12, do_sample=False, use_cache=cache)
            for cache in (True, False)
        ]
    assert torch.equal(*seen)
    assert len({*seen[0][0].tolist()}) > 4


def test_the_output_of_the_encoder_can_be_used_again():
    """It is also what the model returns as that, and the logits of upstream's first call."""
    model = loud_model()
    with torch.no_grad():
        states = model.model.encoder(AUDIO)
        before = states.last_hidden_state.clone()
        first, second = (model(encoder_outputs=states, decoder_input_ids=IDS) for _ in range(2))
        with zoo_hooks.disabled(PATCH):
            expected = model(AUDIO, decoder_input_ids=IDS)
    assert torch.equal(states.last_hidden_state, before)
    assert torch.equal(first.encoder_last_hidden_state, before)
    assert torch.equal(first.logits, expected.logits)
    assert torch.equal(first.logits, second.logits)


def test_the_decoder_may_be_called_in_other_ways():
    """In a copy, and as a subclass that calls its parent."""
    decoder = small_model().model.decoder

    class Decoder(type(decoder)):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    other = Decoder(decoder.config).eval()
    other.load_state_dict(decoder.state_dict())
    before = STATES.clone()
    with torch.no_grad():
        seen = [
            decoder(input_ids=IDS, encoder_hidden_states=STATES),
            copy.deepcopy(decoder)(input_ids=IDS, encoder_hidden_states=STATES),
            other(input_ids=IDS, encoder_hidden_states=STATES),
        ]
    assert all(torch.equal(one.last_hidden_state, seen[0].last_hidden_state) for one in seen)
    assert torch.equal(STATES, before)


def test_gradients_are_those_of_upstream():
    def gradients():
        model = small_model().train()
        model(AUDIO, decoder_input_ids=IDS, use_cache=False).logits.square().sum().backward()
        return [value.grad for value in model.parameters()]

    with zoo_hooks.disabled(PATCH):
        expected = gradients()
    assert all(
        one is other is None or torch.equal(one, other)
        for one, other in zip(gradients(), expected, strict=True)
    )
