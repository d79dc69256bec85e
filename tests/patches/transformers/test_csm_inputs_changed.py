"""CSM can be trained upon frozen embeddings."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers.models.csm")

import torch

import zoo_hooks
from zoo_hooks.patches.transformers.csm_inputs_changed import small_model

PATCH = "transformers/csm-inputs-changed"


def train(*, requires=False, checkpoints=False, frozen=True):
    model, more = small_model()
    model.train()
    for name, value in model.named_parameters():
        layer = "q_proj" in name and "codec" not in name
        value.requires_grad_(layer or (not frozen and "embed" in name))
    if requires:
        model.enable_input_require_grads()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = model(**more, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(value.grad for value in model.parameters() if value.requires_grad)]


def test_a_step_of_training_runs(measured):
    row = measured(PATCH)
    assert row["with"] is True
    assert ("a view of a leaf Variable" in str(row["without"])) == (row["status"] == "APPLIED")


@pytest.mark.parametrize("checkpoints", [False, True])
def test_frozen_embeddings_can_be_trained_upon(checkpoints):
    """Loss and gradients are those without ``enable_input_require_grads``."""
    for one, other in zip(train(), train(requires=True, checkpoints=checkpoints), strict=True):
        assert torch.allclose(one, other, atol=1e-7)
        assert one.abs().max() > 0


def test_embeddings_that_are_trained_have_the_gradients_of_upstream():
    with zoo_hooks.disabled(PATCH):
        expected = train(frozen=False)
    for seen in (train(frozen=False), train(frozen=False, requires=True)):
        assert all(
            one is other is None or torch.equal(one, other) for one, other in zip(seen, expected, strict=True)
        )


def test_logits_are_those_of_upstream():
    model, more = small_model()
    with torch.no_grad():
        seen = model(**more)
        with zoo_hooks.disabled(PATCH):
            expected = model(**more)
    assert torch.equal(seen.logits, expected.logits)
    assert torch.equal(seen.depth_decoder_logits, expected.depth_decoder_logits)
