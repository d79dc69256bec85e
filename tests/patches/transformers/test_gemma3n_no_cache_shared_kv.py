"""Gemma-3n computes the same without a cache as with one, also in training."""

from __future__ import annotations

import pytest
import torch
import transformers
from no_cache_shared_kv import LEAST, NoCacheSharedKV, with_cache
from shared_kv import cosine, gradients
from transformers.models.gemma3n import modeling_gemma3n as gemma3n

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny


class TestGemma3n(NoCacheSharedKV):
    """The causal language model."""

    patch = "transformers/gemma3n-no-cache-shared-kv"
    name = "gemma3n"


@pytest.fixture
def multimodal(monkeypatch):
    """Makes models that see and hear, without towers, for these need timm; they are given text alone."""
    make = gemma3n.AutoModel.from_config

    def from_config(config, **kwargs):
        return make(config, **kwargs) if "text" in config.model_type else torch.nn.Identity()

    def build():
        config = transformers.Gemma3nConfig(
            text_config=_tiny.gemma3n_model().config.to_dict(),
            vision_config={"hidden_size": 32, "vocab_size": 8, "vocab_offset": 88, "architecture": "none"},
            audio_config={"hidden_size": 32, "vocab_size": 8, "vocab_offset": 80},
        )
        return _tiny._seeded(transformers.Gemma3nForConditionalGeneration, config)

    monkeypatch.setattr(gemma3n.AutoModel, "from_config", from_config)
    return build


def test_the_multimodal_model_needs_no_cache_either(multimodal):
    """Logits bit for bit; off by 0.35 without the repair where that is applied."""
    model, ids = multimodal(), _tiny.prompt()
    with torch.no_grad():
        cached = model(input_ids=ids, use_cache=True).logits
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, cached)
        affected = zoo_hooks.report()[TestGemma3n.patch].status.name == "APPLIED"
        with zoo_hooks.disabled(TestGemma3n.patch):
            wrong = model(input_ids=ids, use_cache=False).logits
    assert ((wrong - cached).abs().max() > 0.1) == affected


def test_the_multimodal_model_trains_under_checkpointing(multimodal):
    """Gradients of the text model are those with a cache and no checkpointing."""

    def step(model, **more):
        model.train()(input_ids=_tiny.prompt(), labels=_tiny.prompt(), **more).loss.backward()
        return gradients(model)

    expected = step(multimodal(), **with_cache())
    model = multimodal()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={})
    assert cosine(expected, step(model, use_cache=False)) >= LEAST
