"""Prompt tuning and its relatives on Gemma-4 with per-layer inputs: forward, training, generation, images."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from conftest import recorded

import zoo_hooks
from zoo_hooks.patches import _tiny as tiny_llama
from zoo_hooks.patches.transformers import _tiny

PATCH = "peft/gemma4-prompt-per-layer-inputs"
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="this release has no Gemma-4")
TASK, VIRTUAL, STEPS = "CAUSAL_LM", 3, 6
TEXT = torch.arange(3, 11)[None]
METHODS = {
    "prompt": peft.PromptTuningConfig(task_type=TASK, num_virtual_tokens=VIRTUAL),
    "p-tuning": peft.PromptEncoderConfig(task_type=TASK, num_virtual_tokens=VIRTUAL, encoder_hidden_size=16),
    "multitask": peft.MultitaskPromptTuningConfig(task_type=TASK, num_virtual_tokens=VIRTUAL, num_tasks=2),
    "cpt": peft.CPTConfig(
        task_type=TASK, cpt_token_ids=[5, 6, 7], cpt_mask=[1] * 3, cpt_tokens_type_mask=[1, 2, 3]
    ),
}
each_method = pytest.mark.parametrize("method", METHODS)


def base():
    return _tiny.shared_model(**_tiny.PER_LAYER_INPUTS)


def prompted(method, model=None):
    torch.manual_seed(1)
    model = peft.get_peft_model(model or base(), copy.deepcopy(METHODS[method])).eval()
    for weight in model.parameters():
        if weight.requires_grad:  # as after a step: no token's embedding
            weight.data += torch.randn_like(weight) / 10
    return model


def more(method):
    return {"task_ids": torch.zeros(1, dtype=torch.long)} if method == "multitask" else {}


def expected(model, method, text=TEXT):
    """Logits of the base model, which is handed both embeddings."""
    whole = model.get_base_model()
    ids = [5, 6, 7] if method == "cpt" else [whole.config.pad_token_id or 0] * VIRTUAL
    tokens = torch.cat([torch.tensor([ids]), text], dim=1)
    prompt = model.get_prompt(1, **more(method))
    embeds = torch.cat([prompt, whole.get_input_embeddings()(text)], dim=1)
    layers = whole.model.get_per_layer_inputs(tokens, None)
    return whole(inputs_embeds=embeds, per_layer_inputs=layers).logits


@each_method
def test_both_embeddings_are_handed_on(method):
    """With the mask and without, by position and by keyword. Without the repair it raises."""
    model = prompted(method)
    right = expected(model, method)
    for seen in (
        model(TEXT, **more(method)),
        model(input_ids=TEXT, attention_mask=torch.ones_like(TEXT), **more(method)),
    ):
        assert torch.allclose(seen.logits, right, atol=1e-5)
    with zoo_hooks.disabled(PATCH), pytest.raises(RuntimeError, match="do not exactly match the embedding"):
        model(TEXT, **more(method))


@each_method
def test_generation_gives_the_tokens_of_the_forward_pass(method):
    """With a cache and without one."""
    model, text = prompted(method), TEXT
    with torch.no_grad():
        for _ in range(STEPS):
            text = torch.cat([text, model(text, **more(method)).logits[:, -1:].argmax(-1)], dim=1)
    how = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, **more(method)}
    for use_cache in (True, False):
        mask = torch.ones_like(TEXT)
        assert model.generate(input_ids=TEXT, attention_mask=mask, use_cache=use_cache, **how).equal(text)


@pytest.mark.parametrize("method", ["prompt", "p-tuning"])
def test_the_prompt_alone_is_trained(method):
    """As with other models; and it is saved and loaded."""
    model = prompted(method).train()
    model(TEXT, labels=TEXT).loss.backward()
    learnt = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert learnt
    assert all("prompt_encoder" in name for name in learnt)


def test_what_is_not_text_has_the_padding_tokens_embedding():
    """As Gemma-4 has it without a prompt; its towers' models take both embeddings from 5.6 on."""
    model = prompted("prompt", _tiny.multimodal_model(**_tiny.PER_LAYER_INPUTS))
    inputs = _tiny.image_inputs()
    text = model.get_base_model().model.language_model
    seen, original = [], text.get_per_layer_inputs
    text.get_per_layer_inputs = lambda ids, embeds: seen.append(ids) or original(ids, embeds)
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
    ids, image = inputs["input_ids"], _tiny.TOKENS["image_token_id"]
    assert seen[0][:, VIRTUAL:].equal(ids.masked_fill(ids == image, 0))
    assert (ids == image).any()


def test_others_are_left_alone():
    """Prefix tuning and LoRA of the same model, other models, and embeddings alone."""
    prefix = peft.PrefixTuningConfig(task_type=TASK, num_virtual_tokens=VIRTUAL)
    lora = peft.LoraConfig(task_type=TASK, target_modules=["q_proj"])
    prompt = METHODS["prompt"]
    for make, config in (
        (base, prefix),
        (base, lora),
        (_tiny.shared_model, prompt),
        (tiny_llama.llama, prompt),
    ):
        torch.manual_seed(1)
        model = peft.get_peft_model(make(), copy.deepcopy(config)).eval()
        seen = model(TEXT).logits
        with zoo_hooks.disabled(PATCH):
            assert model(TEXT).logits.equal(seen)
    model = prompted("prompt")
    with pytest.raises(RuntimeError, match="do not exactly match the embedding"):
        model(inputs_embeds=model.get_input_embeddings()(TEXT))


def test_what_the_user_hands_over_is_used():
    """Also beside tokens."""
    model = prompted("prompt")
    layers = torch.zeros(1, VIRTUAL + TEXT.shape[1], 6, 8)
    assert not model(TEXT, per_layer_inputs=layers).logits.allclose(model(TEXT).logits, atol=1e-4)


def test_others_still_compile_to_one_graph():
    """LoRA on a Llama, with what is asked of each forward pass."""
    model = peft.get_peft_model(
        tiny_llama.llama(), peft.LoraConfig(task_type=TASK, target_modules=["q_proj"])
    ).eval()
    torch._dynamo.reset()
    whole = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        ids = torch.tensor([[1, 2, 3]])
        assert torch.allclose(
            whole(ids, return_dict=True).logits, model(ids, return_dict=True).logits, atol=1e-6
        )
