"""Gemma-4 with shared K/V and without per-layer inputs runs."""

from __future__ import annotations

import pytest
import torch
from shared_kv import MODELS, backward

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny
from zoo_hooks.patches.transformers._zero_shared import held

PATCH = "transformers/gemma4-per-layer-inputs-off"
pytestmark = pytest.mark.skipif("gemma4" not in MODELS, reason="no Gemma-4 before transformers 5.5.0")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_prefill_equals_token_by_token(attention, keep):
    """All logits, the last, or the last three, as decoding one token at a time gives them."""
    some = _tiny.shared_model(attn_implementation=attention)
    some.set_attn_implementation(attention)
    cache, steps = None, []
    with torch.no_grad():
        for token in _tiny.prompt()[0]:
            output = some(token[None, None], past_key_values=cache, use_cache=True)
            cache = held(output)
            steps.append(output.logits)
        logits = some(_tiny.prompt(), logits_to_keep=keep).logits
    assert torch.allclose(logits, torch.cat(steps, 1)[:, -keep:], atol=1e-5)


def test_it_generates_and_trains():
    """Greedy decoding of 12 tokens, and a step of training that gives every MLP a gradient."""
    some = _tiny.shared_model()
    assert some.generate(_tiny.prompt(), max_new_tokens=12, do_sample=False).shape == (1, 24)
    seen, _ = backward(_tiny.shared_model())
    assert sum(name.endswith("mlp.down_proj.weight") for name in seen) == 6


def test_without_the_repair_an_affected_release_raises(measured):
    """The symptom on a release that is affected, none on one that is not."""
    row = measured(PATCH)
    if row["status"] == "APPLIED":
        assert row["without"].startswith("TypeError")
    else:
        assert row["without"] == 0


def test_models_with_per_layer_inputs_are_as_without_the_repair():
    """Bit for bit."""
    some = MODELS["gemma4"]()
    with torch.no_grad():
        repaired = some(_tiny.prompt(), logits_to_keep=1).logits
        with zoo_hooks.disabled(PATCH):
            assert some(_tiny.prompt(), logits_to_keep=1).logits.equal(repaired)


def test_it_compiles_into_one_graph():
    """``torch.compile(fullgraph=True)`` gives the same logits."""
    some = _tiny.shared_model()
    with torch.no_grad():
        expected = some(_tiny.prompt(), use_cache=False).logits
        torch._dynamo.reset()
        compiled = torch.compile(some, fullgraph=True, backend="eager")
        assert compiled(_tiny.prompt(), use_cache=False).logits.equal(expected)
