"""Gemma-3's text MLP in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import types

import half_mlp
import torch
import transformers
from half_mlp import HalfMLP, alone, world  # noqa: F401 - fixtures
from transformers.models.gemma3 import modeling_gemma3

from zoo_hooks.patches.transformers import _tiny, gemma3_mlp_fp16

PATCH = "transformers/gemma3-mlp-fp16"


class TestGemma3(HalfMLP):
    """Gemma3MLP, which EmbeddingGemma has too."""

    patch = PATCH

    def fresh(self):
        config = transformers.Gemma3TextConfig(**_tiny.TEXT, num_hidden_layers=1)
        return _tiny._seeded(transformers.Gemma3ForCausalLM, config).model.layers[0].mlp


def test_the_probe_uses_no_random_numbers_and_leaves_unknown_code_alone():
    """The state of the generator is the same; a forward of others is FIXED if it is right, or UNKNOWN."""
    before = torch.get_rng_state()
    assert gemma3_mlp_fp16.probe(modeling_gemma3).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)
    hands_on, is_right = half_mlp.others(modeling_gemma3.Gemma3MLP.forward.__wrapped__)
    for forward, verdict in ((hands_on, "UNKNOWN"), (is_right, "FIXED")):
        one = types.SimpleNamespace(Gemma3MLP=types.SimpleNamespace(forward=forward))
        assert gemma3_mlp_fp16.probe(one).name == verdict


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
