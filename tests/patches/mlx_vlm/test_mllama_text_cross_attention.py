"""Llama 3.2 Vision in mlx-vlm reads a text without an image as transformers does."""

from __future__ import annotations

from contextlib import nullcontext

import mlx.core as mx
import pytest
from mlx_vlm.models.cache import KVCache
from mlx_vlm.models.mllama.config import TextConfig
from mlx_vlm.models.mllama.language import LanguageModel

import zoo_hooks
from zoo_hooks.patches.mlx_vlm import _causal, _tiny

PATCH = "mlx_vlm/mllama-text-cross-attention"
IMAGE = mx.random.normal((1, 5, 32), key=mx.random.key(1))


@pytest.fixture(scope="module")
def model():
    text = TextConfig(cross_attention_layers=[1], max_position_embeddings=64, **_causal.TEXT)
    return _tiny.filled(LanguageModel(text))


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def without():
    return zoo_hooks.disabled(PATCH) if applied() else nullcontext()


def largest(one, other):
    return abs(one - other).max().item()


def text_layers_alone(model, tokens):
    """What transformers computes: a layer that attends to images is left out."""
    kept = model.model.layers
    model.model.layers = kept[:1]
    logits = model(tokens).logits
    model.model.layers = kept
    return logits


@pytest.mark.parametrize("cached", [False, True])
def test_logits_of_a_text_are_those_without_the_layer(model, cached):
    """Bit for bit, of a prompt and of steps; without the repair they are off by more than 0.1."""
    tokens = _tiny.prompt(8)
    expected = text_layers_alone(model, tokens)

    def found():
        if not cached:
            return model(tokens).logits
        cache = [KVCache() for _ in model.layers]
        parts = [tokens[:, :5], tokens[:, 5:6], tokens[:, 6:]]
        return mx.concatenate([model(part, cache=cache).logits for part in parts], axis=1)

    right = largest(found(), expected)
    with without():
        wrong = largest(found(), expected)
    print(f"logits of a text, cached {cached}: {wrong:.2g} without, {right:.2g} with the hooks")
    assert right < 1e-5
    assert (wrong > 0.1) == applied()


def test_a_text_is_causal(model):
    """The last token moves no earlier logit."""
    tokens = _tiny.prompt(8)
    other = mx.concatenate([tokens[:, :-1], tokens[:, -1:] + 1], axis=1)
    assert largest(model(tokens).logits[:, :-1], model(other).logits[:, :-1]) == 0


@pytest.mark.parametrize("cached", [False, True])
def test_a_text_with_an_image_is_as_it_was(model, cached):
    """Bit for bit, the image by place or by keyword."""
    tokens, layer = _tiny.prompt(8), model.layers[1]
    hidden = mx.random.normal((1, 4, 32), key=mx.random.key(2))

    def outputs():
        cache = [KVCache() for _ in model.layers] if cached else None
        logits = model(tokens, cache=cache, cross_attention_states=IMAGE).logits
        return logits, layer(hidden, IMAGE), layer(hidden_states=hidden, cross_attention_states=IMAGE)

    right = outputs()
    with without():
        assert all(mx.array_equal(*pair) for pair in zip(outputs(), right, strict=True))
    assert largest(right[1], layer(hidden, None)) > 0.1
