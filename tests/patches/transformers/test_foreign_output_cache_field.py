"""Outputs of others keep their field past_key_values, and are outputs of transformers' in all else."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import transformers
from others import affected, one_process, tokens, wrong
from torch._dynamo.testing import CompileCounter
from torch.utils import _pytree
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import ModelOutput

import zoo_hooks
from zoo_hooks import notices
from zoo_hooks.changes import Changes
from zoo_hooks.patches.transformers import _foreign, _tiny, foreign_output_cache_field

PATCH = "transformers/foreign-output-cache-field"


@dataclass
class Own(ModelOutput):
    """Has a field of its own, as gliner's."""

    loss: Any = None
    logits: Any = None
    past_key_values: Any = None


@dataclass
class Again(CausalLMOutputWithPast):
    """Has the inherited field again."""

    past_key_values: Any = None
    extra: Any = None


@dataclass
class Below(Again):
    """Is derived from such a class."""

    more: Any = None


@dataclass
class State(ModelOutput):
    """Has the other old name."""

    logits: Any = None
    cache_params: Any = None


OLD = {Own: "past_key_values", Again: "past_key_values", Below: "past_key_values", State: "cache_params"}
every = pytest.mark.parametrize("kind", OLD, ids=lambda kind: kind.__name__)


def made(kind, cache=None):
    return kind(logits=torch.ones(1), **{OLD[kind]: transformers.DynamicCache() if cache is None else cache})


def answering(kind):
    """A Llama that puts what it computes into such an output, and counts the tokens."""

    class Answering(transformers.LlamaForCausalLM):
        computed = 0

        def forward(self, input_ids=None, **kwargs):
            self.computed += input_ids.shape[1]
            output = super().forward(input_ids, **kwargs)
            return kind(logits=output.logits, past_key_values=output.past_key_values)

    return _foreign.llama(Answering)


@every
def test_it_holds_what_it_is_given(kind):
    """As attribute, by key and by place; listed under its name, once."""
    cache, old = transformers.DynamicCache(), OLD[kind]
    output = made(kind, cache)
    assert getattr(output, old) is output[old] is output.get(old) is output[1] is cache
    assert list(output) == list(output.keys()) == list(dict(output)) == ["logits", old]
    assert old in output
    assert len(output.to_tuple()) == 2


@every
def test_its_fields_are_those_that_were_written(kind):
    """In the order that they had: what is there again stays in its place."""
    names = {
        Own: ["loss", "logits", "past_key_values"],
        Again: ["loss", "logits", "past_key_values", "hidden_states", "attentions", "extra"],
        Below: ["loss", "logits", "past_key_values", "hidden_states", "attentions", "extra", "more"],
        State: ["logits", "cache_params"],
    }[kind]
    assert [field.name for field in fields(kind)] == list(inspect.signature(kind).parameters) == names
    in_order = kind(*range(1, 1 + len(names)))
    assert dataclasses.astuple(in_order) == tuple(range(1, 1 + len(names)))
    assert repr(made(kind)).count("DynamicCache") == 1


@pytest.mark.skipif(not affected(PATCH), reason="this release knows no other name")
@every
def test_transformers_finds_the_cache_by_the_new_name(kind):
    """As attribute, by key and by argument; setting it there sets the field."""
    cache = transformers.DynamicCache()
    for output in (made(kind, cache), kind(logits=torch.ones(1), cache=cache)):
        assert output.cache is output["cache"] is output.get("cache") is getattr(output, OLD[kind]) is cache
        assert "cache" in output
        output.cache = None
        assert getattr(output, OLD[kind]) is None
        output["cache"] = 3
        assert output[OLD[kind]] == getattr(output, OLD[kind]) == 3


@pytest.mark.parametrize("kind", [Own, Again, Below], ids=lambda kind: kind.__name__)
def test_generate_goes_on_from_it(kind):
    """Tokens are right, and each is computed once, with an assistant too."""
    model = answering(kind)
    assert wrong(model) == 0
    assert model.computed == 12 + 7
    assert wrong(model, assistant_model=answering(kind)) == 0


def test_the_symptom_is_back_while_it_is_disabled():
    """For classes that are made within; what was made before stays. Nothing changes without the bug."""
    mended = affected(PATCH)
    with zoo_hooks.disabled(PATCH):

        @dataclass
        class Within(CausalLMOutputWithPast):
            past_key_values: Any = None

        assert (Within(past_key_values=1).past_key_values is None) == mended
        if mended:

            @dataclass
            class Alone(ModelOutput):
                past_key_values: Any = None

            with pytest.raises(TypeError, match="unexpected keyword argument 'cache'"):
                Alone(past_key_values=1)
        assert made(Again).past_key_values is not None


@every
def test_copies_pickles_and_trees_keep_it(kind):
    """Deep copies, pickles and pytrees, by which DDP looks into outputs."""
    output = made(kind, torch.ones(2))
    leaves, tree = _pytree.tree_flatten(output)
    assert len(leaves) == 2
    for other in (
        copy.deepcopy(output),
        pickle.loads(pickle.dumps(output)),
        _pytree.tree_unflatten(leaves, tree),
    ):
        assert type(other) is kind
        assert list(other) == list(output)
        assert getattr(other, OLD[kind]).equal(torch.ones(2))


@pytest.mark.parametrize("kind", [Own, Again, Below], ids=lambda kind: kind.__name__)
def test_torch_compile_and_export_make_one_graph_of_it(kind):
    """Of a module that returns one and asks it as transformers does."""

    class Module(torch.nn.Module):
        def forward(self, hidden, cache=None):
            output = kind(logits=hidden * 2, past_key_values=cache)
            return output if output.get("past_key_values") is not None else output.logits

    torch._dynamo.reset()
    graphs, hidden = CompileCounter(), torch.ones(1)
    whole = torch.compile(Module(), fullgraph=True, backend=graphs)
    assert whole(hidden).item() == 2
    assert whole(hidden, hidden).past_key_values is hidden
    assert graphs.frame_count == 2
    program = torch.export.export(Module(), (hidden, hidden)).module()
    assert list(program(hidden, hidden)) == ["logits", "past_key_values"]


def test_ddp_trains_a_model_that_returns_it():
    """Three steps with default arguments; gradients are those without DDP."""

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, hidden):
            return Again(logits=self.linear(hidden), past_key_values=hidden)

    torch.manual_seed(0)
    module, hidden = Module(), torch.ones(1, 2)
    module(hidden).logits.sum().backward()
    expected = module.linear.weight.grad.clone()
    with one_process():
        for static in (False, True):
            parallel = torch.nn.parallel.DistributedDataParallel(module, static_graph=static)
            for _ in range(3):
                module.zero_grad()
                parallel(hidden).logits.sum().backward()
                assert module.linear.weight.grad.equal(expected)


def test_classes_that_need_nothing_are_left_alone():
    """Those of transformers, those that only add fields, and those that have both names themselves."""

    @dataclass
    class Adding(CausalLMOutputWithPast):
        extra: Any = None

    @dataclass
    class Both(ModelOutput):
        cache: Any = None
        past_key_values: Any = None

    for kind in (Adding, Both, CausalLMOutputWithPast, BaseModelOutputWithPast):
        assert "_replace_old_cache_name" not in vars(kind)
    cache = transformers.DynamicCache()
    assert Adding(past_key_values=cache).past_key_values is cache
    assert CausalLMOutputWithPast(past_key_values=cache).past_key_values is cache


@pytest.mark.skipif(not affected(PATCH), reason="nothing is repaired on this release")
def test_classes_that_are_there_already(caplog):
    """A field of its own is repaired; of one that is there again it is told what to do."""
    with zoo_hooks.disabled(PATCH):

        @dataclass
        class EarlyOwn(ModelOutput):
            logits: Any = None
            past_key_values: Any = None

        @dataclass
        class EarlyAgain(CausalLMOutputWithPast):
            past_key_values: Any = None

        changes = Changes()
        with caplog.at_level("INFO", "zoo_hooks"):
            foreign_output_cache_field.repair(transformers.modeling_outputs, changes)
        changes.undo()
    assert EarlyOwn(past_key_values=1).past_key_values == EarlyOwn(cache=1).cache == 1
    said = [record.message for record in caplog.records]
    assert sum("EarlyAgain" in words and "make it again" in words for words in said) == 1
    assert not any("EarlyOwn" in words for words in said)
    del EarlyAgain


@pytest.mark.skipif(not affected(PATCH), reason="nothing is repaired on this release")
def test_nothing_is_told_of_a_class_that_the_probe_made():
    """It is still there when the repair looks for classes that were made before."""
    with zoo_hooks.disabled(PATCH):
        foreign_output_cache_field.probe(transformers.modeling_outputs)
        there, changes = [*_foreign.subclasses(ModelOutput)], Changes()
        foreign_output_cache_field.repair(transformers.modeling_outputs, changes)
        changes.undo()
    assert any(issubclass(kind, foreign_output_cache_field._Quiet) for kind in there)
    assert not [words for words in notices._said if words.startswith("zoo-hooks: Output ")]


def test_a_manual_loop_goes_on_from_it():
    """As the canary, with the output of a class of its own."""
    model, step, cache = answering(Again), _tiny.prompt(), None
    seen = []
    for _ in range(8):
        output = model(step, use_cache=True, **({} if cache is None else {"past_key_values": cache}))
        cache, step = output.past_key_values, output.logits[:, -1:].argmax(-1)
        seen.append(step)
    assert torch.cat(seen, 1).equal(tokens(_foreign.llama(), use_cache=False)[:, 12:])
    assert model.computed == 12 + 7
