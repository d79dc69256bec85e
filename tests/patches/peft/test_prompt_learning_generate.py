"""Generation with prompt learning, where transformers hands on the cache by its new name."""

from __future__ import annotations

import contextlib
import inspect
import textwrap
import threading
import types

import peft
import prompts
import pytest
import torch
from conftest import recorded
from prompts import METHODS, WAYS, generate, outcome, prompted, recomputed

import zoo_hooks
from zoo_hooks.changes import Changes
from zoo_hooks.model import Verdict
from zoo_hooks.patches.peft import prompt_learning_generate as patch

PATCH = "peft/prompt-learning-generate"
MODULE = peft.peft_model
KINDS = (MODULE.PeftModelForCausalLM, MODULE.PeftModelForSeq2SeqLM)
pytestmark = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="only with transformers 5.24 and later")


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_those_of_the_forward_pass_and_without_the_repair_they_are_not(method, name):
    """Every method of prompt learning; the forward pass over the whole text uses no cache."""
    model = prompted(name, method)
    assert generate(model).equal(recomputed(model))
    with zoo_hooks.disabled(PATCH):
        assert not generate(model).equal(recomputed(model))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_each_way_to_generate_is_as_on_a_model_that_hands_on_the_old_name(method, way):
    """Where peft raises there, with a static cache for one, it raises the same here."""
    with zoo_hooks.disabled(PATCH):
        expected = outcome(way, prompted("llama", method, old=True))
    assert outcome(way, prompted("llama", method)) == expected
    assert outcome(way, prompted("llama", method, old=True)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_logits_of_gpt2_are_as_on_a_model_that_hands_on_the_old_name(method):
    """And without the repair they are not."""
    with zoo_hooks.disabled(PATCH):
        expected = outcome("logits", prompted("gpt2", method, old=True))
        assert outcome("logits", prompted("gpt2", method)) != expected
    assert outcome("logits", prompted("gpt2", method)) == expected


@pytest.mark.skipif(
    "_prepare_encoder_decoder_kwargs_for_generation" in inspect.getsource(KINDS[1].__init__),
    reason="this peft asks such models for a method that transformers has no more",
)
@pytest.mark.parametrize("way", ["logits", "beams", "sampling", "padded", "no cache", "without adapter"])
def test_a_prefix_of_an_encoder_decoder_model_has_its_effect(way):
    """As on one that hands on the old name; without the repair the logits are those without a prefix."""
    with zoo_hooks.disabled(PATCH):
        expected = outcome(way, prompted("bart", "prefix", old=True))
        assert way != "logits" or outcome(way, prompted("bart", "prefix")) != expected
    assert outcome(way, prompted("bart", "prefix")) == expected


def test_a_subclass_and_its_overrides_see_the_model_itself():
    """What they keep on it stays, and nothing of ours is there."""

    class Mine(peft.PeftModelForCausalLM):
        def prepare_inputs_for_generation(self, *args, **kwargs):
            self.seen = [*getattr(self, "seen", []), type(self)]
            return super().prepare_inputs_for_generation(*args, **kwargs)

        def get_prompt(self, *args, **kwargs):
            self.asked = getattr(self, "asked", 0) + 1
            return super().get_prompt(*args, **kwargs)

    model = prompts.trained(Mine(prompts.base("llama"), prompts.config("prompt")))
    names = set(vars(model))
    expected = recomputed(model)
    asked = model.asked
    assert generate(model).equal(expected)
    assert model.seen == [Mine] * prompts.STEPS
    assert model.asked == asked + 1
    assert set(vars(model)) == names | {"seen", "asked"}


def test_models_generate_at_once_in_threads():
    """Each with the tokens that it gives alone."""
    models = [prompted("llama", method) for method in ("prompt", "prefix") for _ in range(2)]
    alone, together = [generate(model).tolist() for model in models], {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: generate(models[n]).tolist()}))
        for n in range(len(models))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[n] for n in range(len(models))] == alone


def test_two_adapters_and_a_ddp_module():
    """The one that is active has its prompt; DDP's module is the model."""
    model = prompted("llama", "prompt")
    model.add_adapter("other", prompts.config("prompt"))
    first = generate(model)
    model.set_adapter("other")
    assert generate(model).equal(recomputed(model))
    model.set_adapter("default")
    assert generate(model).equal(first)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert generate(torch.nn.parallel.DistributedDataParallel(model).module).equal(first)
    finally:
        torch.distributed.destroy_process_group()


def prepare(kind, prepared):
    """What a class of peft makes of what a base model has prepared, for adapters that are no prompt."""
    model = types.SimpleNamespace(
        active_peft_config=types.SimpleNamespace(peft_type="LORA", is_prompt_learning=False),
        base_model_prepare_inputs_for_generation=lambda *_, **__: prepared,
    )
    return kind.prepare_inputs_for_generation(model, "ids", attention_mask=None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("given", [("cache",), ("past_key_values",), ("cache", "past_key_values"), ()])
def test_every_key_comes_back_by_the_name_that_it_had(kind, given):
    """The new one, the old one of code from the Hub, both, or none."""
    values = {name: object() for name in given}
    assert prepare(kind, dict(values)) == values


def mended(kind, old='"past_key_values"', new='"cache"'):
    """The class with its method as upstream could write it."""
    method = inspect.unwrap(kind.prepare_inputs_for_generation)
    source = textwrap.dedent(inspect.getsource(method)).replace(old, new)
    scope = dict(vars(MODULE))
    exec(source, scope)
    return type(kind.__name__, (kind,), {"prepare_inputs_for_generation": scope[method.__name__]})


EITHER = 'next((name for name in ("cache", "past_key_values") if name in model_kwargs), "cache")'


def module(causal, seq2seq):
    return types.SimpleNamespace(PeftModelForCausalLM=causal, PeftModelForSeq2SeqLM=seq2seq)


@pytest.mark.parametrize("new", ['"cache"', EITHER], ids=["new", "either"])
def test_a_peft_that_asks_for_the_new_name_is_left_alone(new):
    """Or for either; and if it does so in one of its classes, only the other one is repaired."""
    both = [mended(kind, new=new) for kind in KINDS]
    assert patch.probe(module(*both)) is Verdict.FIXED
    changes, half = Changes(), module(both[0], mended(KINDS[1], new='"past_key_values"'))
    assert patch.probe(half) is Verdict.AFFECTED
    before = both[0].prepare_inputs_for_generation
    patch.repair(half, changes)
    assert patch.probe(half) is Verdict.FIXED
    assert both[0].prepare_inputs_for_generation is before


def test_what_the_probe_does_not_know_is_unknown():
    """A method that gives something else; what one raises goes to the engine, which makes it UNKNOWN."""

    class Failing:
        def prepare_inputs_for_generation(self, **_):
            raise KeyError("past_key_values")

    class Other:
        def prepare_inputs_for_generation(self, **_):
            return {"input_ids": None}

    assert patch.probe(module(Other, KINDS[1])) is Verdict.UNKNOWN
    with pytest.raises(KeyError):
        patch.probe(module(Failing, KINDS[1]))


def mend():
    """Another tool's repair, which changes the model for the time of a call."""
    for kind in KINDS:

        def prepare(self, *args, original=kind.prepare_inputs_for_generation, **kwargs):
            base = self.base_model_prepare_inputs_for_generation

            def renamed(*args, **kwargs):
                given = base(*args, **kwargs)
                if "cache" in given:
                    given["past_key_values"] = given.pop("cache")
                return given

            vars(self)["base_model_prepare_inputs_for_generation"] = renamed
            try:
                given = original(self, *args, **kwargs)
            finally:
                vars(self)["base_model_prepare_inputs_for_generation"] = base
            if "past_key_values" in given:
                given["cache"] = given.pop("past_key_values")
            return given

        kind.prepare_inputs_for_generation = prepare


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_another_tools_repair_before_or_after_does_no_harm(first, monkeypatch):
    """Before us it is seen, and nothing is left to repair."""
    with (
        zoo_hooks.disabled(PATCH) if first == "theirs" else contextlib.nullcontext(),
        monkeypatch.context() as own,
    ):
        for kind in KINDS:
            own.setattr(kind, patch.PREPARE, vars(kind)[patch.PREPARE])
        mend()
        assert patch.probe(MODULE) is Verdict.FIXED
        for method in ("prompt", "prefix"):
            model = prompted("llama", method)
            assert generate(model).equal(recomputed(model))
