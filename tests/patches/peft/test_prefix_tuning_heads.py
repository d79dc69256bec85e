"""Prefix tuning for classification and question answering, where the cache has its new name."""

from __future__ import annotations

import contextlib
import inspect
import types

import peft
import pytest
import torch
import transformers
from conftest import recorded
from prompts import METHODS, SIZES, TEXT, VIRTUAL, config, trained
from torch._dynamo.testing import CompileCounter

import zoo_hooks
from zoo_hooks.model import Verdict
from zoo_hooks.patches.peft import prefix_tuning_heads as patch

PATCH = "peft/prefix-tuning-heads"
MODULE = peft.peft_model
KINDS = [getattr(MODULE, name) for name in patch.KINDS]
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with transformers 5.24 and later")

LLAMA = transformers.LlamaConfig(**SIZES, num_labels=2, pad_token_id=0)
BERT = transformers.BertConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=64,
    initializer_range=0.2, num_labels=2, is_decoder=True, add_cross_attention=False,
)  # fmt: skip
TASKS = {
    "SEQ_CLS": ("ForSequenceClassification", {"labels": torch.tensor([1])}),
    "TOKEN_CLS": ("ForTokenClassification", {"labels": torch.ones_like(TEXT)}),
    "QUESTION_ANS": (
        "ForQuestionAnswering",
        {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([3])},
    ),
}
MASK = torch.ones_like(TEXT)
WHOLE = torch.ones(1, VIRTUAL + TEXT.shape[1])


def model(task, method="prefix", family="Llama"):
    torch.manual_seed(0)
    kind = getattr(transformers, family + TASKS[task][0])
    base = kind({"Llama": LLAMA, "Bert": BERT}[family]).eval()
    return trained(peft.get_peft_model(base, config(method, task)))


def learnt(some):
    return {name: weight.grad for name, weight in some.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", [name for name in ("prefix", "cartridge") if name in METHODS])
def test_loss_and_gradients_are_those_of_the_same_keys_and_values_as_a_cache(method, task):
    """Without the repair it raises, in upstream's words."""
    labels = TASKS[task][1]
    seen, expected = model(task, method), model(task, method)
    with zoo_hooks.disabled(PATCH), pytest.raises(ValueError, match="Model does not support past key values"):
        seen(TEXT, attention_mask=MASK, **labels)
    loss = seen(TEXT, attention_mask=MASK, **labels).loss
    loss.backward()
    prefix = expected.get_prompt(1)
    right = expected.get_base_model()(TEXT, attention_mask=WHOLE, cache=prefix, **labels).loss
    right.backward()
    assert loss.equal(right)
    assert learnt(seen).keys() == learnt(expected).keys() > set()
    assert all(learnt(seen)[name].equal(grad) for name, grad in learnt(expected).items())


@pytest.mark.parametrize("task", TASKS)
def test_a_model_whose_backbone_alone_takes_a_cache(task):
    """BERT's heads do not; the prefix goes to its backbone, and changes the logits."""
    some = model(task, family="Bert")
    assert "cache" not in inspect.signature(some.base_model.forward).parameters
    one, other = (some(TEXT, attention_mask=MASK, **TASKS[task][1]) for _ in range(2))
    assert one[1].equal(other[1])
    some.prompt_encoder["default"].embedding.weight.data.mul_(-1)
    assert not some(TEXT, attention_mask=MASK, **TASKS[task][1])[1].allclose(one[1], atol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_it_compiles_to_one_graph(task):
    """With the loss of eager."""
    some, labels = model(task), TASKS[task][1]
    labels = {**labels, "return_dict": True}  # peft before 0.20 asks its config for it, which logs
    torch._dynamo.reset()
    graphs = CompileCounter()
    whole = torch.compile(some, fullgraph=True, backend=graphs)
    with torch.no_grad():
        loss = some(TEXT, attention_mask=MASK, **labels).loss
        assert torch.allclose(whole(TEXT, attention_mask=MASK, **labels).loss, loss, atol=1e-6)
    assert graphs.frame_count == 1


def test_others_see_the_signature_as_it_is():
    """Only peft's module asks another one, which has all else that the real one has."""
    forward = transformers.LlamaForSequenceClassification.forward
    assert "past_key_values" not in inspect.signature(forward).parameters
    seen = MODULE.inspect.signature(forward)
    assert {"cache", "past_key_values"} <= set(seen.parameters)
    assert MODULE.inspect.isfunction is inspect.isfunction
    plain = MODULE.inspect.signature(torch.nn.Module.register_buffer)
    assert plain == inspect.signature(torch.nn.Module.register_buffer)
    with zoo_hooks.disabled(PATCH):
        assert MODULE.inspect is inspect


def stand_in(*kinds):
    return types.SimpleNamespace(**dict(zip(patch.KINDS, kinds, strict=True)))


def test_a_peft_that_asks_for_the_new_name_is_left_alone():
    """One that passes the cache by it; what one that fails raises goes to the engine."""

    class New:
        def _prefix_tuning_forward(self, **_):
            if "cache" in inspect.signature(self.base_model.forward).parameters:
                return self.base_model(cache=self.get_prompt(1))
            raise ValueError("Model does not support past key values")

    class Failing:
        def _prefix_tuning_forward(self, **_):
            raise ValueError("Model does not support past key values")

    with zoo_hooks.disabled(PATCH):
        assert patch.probe(stand_in(New, New, New)) is Verdict.FIXED
        assert patch.probe(stand_in(New, *KINDS[1:])) is Verdict.AFFECTED
        with pytest.raises(ValueError, match="past key values"):
            patch.probe(stand_in(Failing, *KINDS[1:]))
    assert patch.probe(stand_in(New, *KINDS[1:])) is Verdict.FIXED  # New still sees the new name


def test_a_peft_that_can_make_no_prefix_is_left_alone(monkeypatch):
    """As 0.17.1, which asks for a method that transformers 5 has no more; it raises before."""

    def get_prompt(_):
        return transformers.DynamicCache.from_legacy_cache(())

    with zoo_hooks.disabled(PATCH):
        assert patch.probe(MODULE) is Verdict.AFFECTED
        monkeypatch.setattr(MODULE.PeftModel, "get_prompt", get_prompt)
        assert patch.probe(MODULE) is Verdict.FIXED
        assert patch.canary().healthy


def asks_for_either(function, original=inspect.signature):
    """What another tool makes ``signature`` in peft's module."""
    given = original(function)
    if "past_key_values" in given.parameters or "cache" not in given.parameters:
        return given
    named = [
        one.replace(name="past_key_values") if one.name == "cache" else one
        for one in given.parameters.values()
    ]
    return given.replace(parameters=named)


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_repair_before_or_after_does_no_harm(first, monkeypatch):
    """One of the same kind; before us it is seen."""
    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        own.setattr(
            MODULE, "inspect", types.SimpleNamespace(**{**vars(inspect), "signature": asks_for_either})
        )
        assert patch.probe(MODULE) is Verdict.FIXED
        assert patch.canary().healthy
