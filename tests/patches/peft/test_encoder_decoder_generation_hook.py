"""Encoder-decoder models are wrapped, trained and generate; nothing calls what was given back."""

from __future__ import annotations

import contextlib

import pytest
import torch
import transformers
from conftest import recorded
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.peft import encoder_decoder_generation_hook as patch

PATCH = "peft/encoder-decoder-generation-hook"
pytestmark = pytest.mark.skipif(
    recorded(PATCH) != "AFFECTED", reason="neither peft nor transformers needs it"
)
TASK = "SEQ_2_SEQ_LM"
CONFIGS = {
    "lora": LoraConfig(task_type=TASK, r=2, target_modules=["q", "v"], init_lora_weights=False),
    "prompt": PromptTuningConfig(task_type=TASK, num_virtual_tokens=2),
    "prefix": PrefixTuningConfig(task_type=TASK, num_virtual_tokens=2),
}
TEXT = torch.tensor([[3, 4, 5]])
HOW = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


def t5():
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("method", CONFIGS)
def test_a_model_is_wrapped_trained_saved_and_generates(method, tmp_path):
    """Without the repair it cannot be wrapped."""
    with zoo_hooks.disabled(PATCH), pytest.raises(AttributeError, match=patch.NAME):
        get_peft_model(t5(), CONFIGS[method])
    model = get_peft_model(t5(), CONFIGS[method])
    model(input_ids=TEXT, labels=TEXT).loss.backward()
    assert any(weight.grad is not None for weight in model.parameters())
    model.eval().save_pretrained(tmp_path)
    tokens = model.generate(input_ids=TEXT, **HOW)
    assert PeftModel.from_pretrained(t5(), tmp_path).eval().generate(input_ids=TEXT, **HOW).equal(tokens)


def test_the_base_model_generates_as_before():
    """Before it is wrapped, and after the adapter has generated."""
    base = t5()
    expected = base.generate(input_ids=TEXT, **HOW)
    model = get_peft_model(base, LoraConfig(task_type=TASK, r=2, target_modules=["q"]))
    assert model.generate(input_ids=TEXT, **HOW).equal(expected)
    with model.disable_adapter():
        assert model.generate(input_ids=TEXT, **HOW).equal(expected)
    assert model.unload().generate(input_ids=TEXT, **HOW).equal(expected)


def test_who_calls_it_is_told():
    """It returns nothing that could be taken for a result."""
    with pytest.raises(NotImplementedError, match=r"T5ForConditionalGeneration.*is gone"):
        getattr(t5(), patch.NAME)(TEXT, {})


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_method_before_or_after_does_no_harm(first, monkeypatch):
    """It is seen, or takes the place of ours."""
    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        own.setattr(transformers.GenerationMixin, patch.NAME, lambda *_: None, raising=False)
        assert patch.probe(patch) is Verdict.FIXED
        assert patch.canary().healthy
