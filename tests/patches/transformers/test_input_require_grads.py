"""Input embeddings get their hook, and parts without embeddings are passed by."""

from __future__ import annotations

import pytest
import torch
import transformers

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, input_require_grads

PATCH = "transformers/input-require-grads"


def gemma3(**text):
    config = transformers.Gemma3Config(
        text_config={**_tiny.TEXT, "num_hidden_layers": 2, **text},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
        },
        mm_tokens_per_image=4,
    )
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def test_a_model_with_a_vision_tower_passes_gradients_to_its_input_embeddings():
    """With all weights frozen the embeddings' output requires a gradient; switched off, no more."""
    model = gemma3()
    model.requires_grad_(requires_grad=False)
    model.enable_input_require_grads()
    assert model(input_ids=_tiny.prompt()).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(input_ids=_tiny.prompt()).logits.requires_grad


def test_without_the_repair_an_affected_release_raises():
    """The symptom on the release candidates, none elsewhere."""
    affected = zoo_hooks.report()[PATCH].status.name == "APPLIED"
    model = gemma3()
    with zoo_hooks.disabled(PATCH):
        if affected:
            with pytest.raises(NotImplementedError):
                model.enable_input_require_grads()
        else:
            model.enable_input_require_grads()


@pytest.mark.parametrize("raised", [NotImplementedError, TypeError])
def test_an_error_that_is_not_that_of_the_part_says_nothing(raised, monkeypatch):
    """The method itself raises: that is not the symptom, though it may be of the same type."""

    def enable(self):
        raise raised("not for this model")

    with zoo_hooks.disabled(PATCH), monkeypatch.context() as changed:
        changed.setattr(transformers.PreTrainedModel, "enable_input_require_grads", enable)
        with pytest.raises(raised):  # which the engine takes for UNKNOWN
            input_require_grads.probe(transformers.modeling_utils)


def test_a_better_body_is_never_replaced():
    """On every other release the method is the upstream's own."""
    affected = zoo_hooks.report()[PATCH].status.name == "APPLIED"
    method = transformers.PreTrainedModel.enable_input_require_grads
    assert hasattr(method, "__wrapped__") == affected


def test_importing_transformers_keeps_the_random_state():
    """The probe builds two models without weights, and draws no number."""
    from conftest import python

    code = (
        "import torch; torch.manual_seed(3); import transformers.modeling_utils; print(torch.rand(1).item())"
    )
    assert python(code) == python(code, ZOO_HOOKS="0")
    assert torch.is_grad_enabled()
