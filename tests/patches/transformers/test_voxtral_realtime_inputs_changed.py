"""Voxtral Realtime leaves the embeddings that it gets as they are."""

from __future__ import annotations

import copy
import inspect

import pytest

pytest.importorskip("transformers.models.voxtral_realtime")

import torch
from transformers import VoxtralRealtimeForConditionalGeneration

from zoo_hooks.patches.transformers import _tiny
from zoo_hooks.patches.transformers.voxtral_realtime_inputs_changed import small_model

PATCH = "transformers/voxtral-realtime-inputs-changed"
IDS = _tiny.prompt(8)
MORE = {
    "input_features": torch.linspace(-1, 1, 16 * 64).sin().view(1, 16, 64),
    "num_delay_tokens": 4,
    "use_cache": False,
}


def test_two_calls_with_the_same_embeddings_agree(measured):
    """They differ without the repair where the bug is, for the audio is added twice."""
    row = measured(PATCH)
    assert row["with"] == 0.0
    assert (row["without"] > 0.01) == (row["status"] == "APPLIED")


def test_embeddings_and_tokens_give_the_same_logits():
    """By keyword and by position, in copies and in a subclass that calls its parent."""

    class Model(VoxtralRealtimeForConditionalGeneration):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = small_model()
    other = Model(model.config).eval()
    other.load_state_dict(model.state_dict())
    embeds = model.get_input_embeddings()(IDS).detach()
    before = embeds.clone()
    names = [*inspect.signature(model.forward).parameters]
    values = {**MORE, "inputs_embeds": embeds}
    placed = [values.pop(name, None) for name in names[: names.index("inputs_embeds") + 1]]
    with torch.no_grad():
        expected = model(input_ids=IDS, **MORE).logits
        for one in (
            model(IDS, **MORE),
            model(inputs_embeds=embeds, **MORE),
            model(*placed, **values),
            copy.deepcopy(model)(IDS, **MORE),
            other(input_ids=IDS, **MORE),
        ):
            assert torch.equal(one.logits, expected)
    assert torch.equal(embeds, before)


def test_both_or_neither_is_refused_as_before():
    model = small_model()
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(input_ids=IDS, inputs_embeds=model.get_input_embeddings()(IDS), **MORE)
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model(**MORE)


def test_frozen_embeddings_can_be_trained_upon():
    """Gradients of a layer are the same with checkpointing and without, and reach given embeddings."""
    gradients = []
    for checkpoints in (False, True):
        model = small_model().train()
        for name, value in model.named_parameters():
            value.requires_grad_("q_proj" in name)
        if checkpoints:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model(input_ids=IDS, labels=IDS, **MORE).loss.backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    assert all(map(torch.allclose, *gradients))
    embeds = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model(inputs_embeds=embeds, labels=IDS, **MORE).loss.backward()
    assert embeds.grad.abs().max() > 0
