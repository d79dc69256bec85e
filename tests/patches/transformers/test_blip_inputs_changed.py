"""BLIP leaves the embeddings that it gets as they are."""

from __future__ import annotations

import pytest
from inputs_changed import Inputs
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from zoo_hooks.patches.transformers import _tiny
from zoo_hooks.patches.transformers.blip_inputs_changed import small_model


class TestBlipText(Inputs):
    """The text model alone, which takes embeddings and cannot use checkpoints."""

    patch = "transformers/blip-inputs-changed"
    layers = "query"
    checkpoints = False

    def make(self):
        return _tiny._seeded(BlipTextLMHeadModel, small_model()[0].config.text_config), {}


@pytest.mark.parametrize("checkpoints", [False, True])
def test_frozen_embeddings_can_be_trained_upon(checkpoints):
    """With an image, gradients of the text layers are those without ``enable_input_require_grads``."""
    gradients = []
    for requires in (False, True):
        model, more = small_model()
        model.train()
        for name, value in model.named_parameters():
            value.requires_grad_("query" in name)
        if requires:
            model.enable_input_require_grads()
        if requires and checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        ids = _tiny.prompt(8)
        model(input_ids=ids, labels=ids, **more).loss.backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() < 1e-6
        assert one.abs().max() > 0
