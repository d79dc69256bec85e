"""Parts of others that take past_key_values get the cache, however they came into the model."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from types import MethodType

import pytest
import torch
import transformers
from others import affected, future_warnings, wrong
from torch._dynamo.testing import CompileCounter
from transformers.generation.utils import GenerationMixin
from transformers.models.llama import modeling_llama

import zoo_hooks
from zoo_hooks.patches.transformers import _cache_name, _foreign, _tiny

PATCH = "transformers/replaced-part-cache-name"
NEW = _cache_name.taken(GenerationMixin.prepare_inputs_for_generation)
Own = _foreign.attention()

if not hasattr(transformers, "Gemma3nForCausalLM"):
    pytest.skip("layers of this release hand on past_key_value", allow_module_level=True)


class Handing(torch.nn.Module):
    """Hands everything on to the attention that it stands for, and counts."""

    seen = 0

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(
        self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **more
    ):
        self.seen += past_key_values is not None
        given = {"position_embeddings": position_embeddings, "attention_mask": attention_mask, **more}
        return self.inner(hidden_states, past_key_values=past_key_values, **given)


def own_forward():
    """What people put in the place of LlamaAttention.forward."""

    def forward(self, hidden_states, position_embeddings=None, past_key_values=None, **_):
        part = torch.nn.Module()
        part.inner = self
        return Own.forward(part, hidden_states, position_embeddings, past_key_values)

    return forward


def own_layer():
    """A class of layers that are none of transformers'."""

    class Layer(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.attend = inner, own_forward()

        def forward(self, hidden_states, past_key_values=None, position_embeddings=None, **_):
            inner, normed = self.inner, self.inner.input_layernorm(hidden_states)
            attended = self.attend(inner.self_attn, normed, position_embeddings, past_key_values)[0]
            hidden_states = hidden_states + attended
            return hidden_states + inner.mlp(inner.post_attention_layernorm(hidden_states))

    return Layer


def model_with(kind):
    """A Llama in whose layers attention is of a class."""
    model = _foreign.llama()
    for layer in model.model.layers:
        layer.self_attn = kind(layer.self_attn)
    return model


def set_in_list(model):
    kind = own_layer()
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = kind(layer)


def new_list(model):
    kind = own_layer()
    model.model.layers = torch.nn.ModuleList([kind(layer) for layer in model.model.layers])


def behind_torch(model):  # as unpickling does
    kind = _foreign.attention()
    for layer in model.model.layers:
        layer._modules["self_attn"] = kind(layer.self_attn)


def bound(model):
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(own_forward(), layer.self_attn)


def partial(model):  # as accelerate's hooks do
    for layer in model.model.layers:
        method = MethodType(own_forward(), layer.self_attn)
        layer.self_attn.forward = functools.update_wrapper(functools.partial(method), method)


def wrapped(model):  # as fully sharded models have it
    class Wrapper(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            return self.inner(*args, **kwargs)

    behind_torch(model)
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = Wrapper(layer)


WAYS = [set_in_list, new_list, behind_torch, bound, partial, wrapped]


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.__name__)
def test_generate_finds_what_was_replaced(how):
    """Layers in lists, modules that were unpickled, functions that were set, and what is in wrappers."""
    model = _foreign.llama()
    how(model)
    assert wrong(model) == 0


def test_generate_finds_a_class_whose_forward_was_replaced(monkeypatch):
    """The class is one of transformers', its function is not."""
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", own_forward())
    assert wrong(_foreign.llama()) == 0


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_attention_that_is_set_in_a_layer_sees_the_cache(cache):
    """In each step of generate; tokens are those of a plain Llama without one."""
    how = {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
    model = model_with(Handing)
    assert wrong(model, **how) == 0
    assert [layer.self_attn.seen for layer in model.model.layers] == [8, 8]


@torch.no_grad()
def test_attention_that_is_set_in_a_layer_needs_no_generate():
    """A loop of one's own goes on from the cache."""
    kind = _foreign.attention()
    model, ids, more = model_with(kind), _tiny.prompt(), _tiny.prompt(1)
    cache = model(ids, use_cache=True).past_key_values
    assert cache.get_seq_length() == 12
    logits = model(more, **{NEW: cache}).logits
    expected = _foreign.llama()(torch.cat([ids, more], 1)).logits[:, -1:]
    assert torch.allclose(logits, expected, atol=1e-4)


def test_the_symptom_is_back_while_it_is_disabled():
    """On releases without the bug nothing changes."""
    model, mended = model_with(_foreign.attention()), affected(PATCH)
    with zoo_hooks.disabled(PATCH):
        assert (wrong(model) > 0) == mended
        assert (wrong(model_with(_foreign.attention())) > 0) == mended
    assert wrong(model) == 0


def test_what_is_transformers_own_is_left_alone():
    """No function of a Llama is another one after generate, and a layer's attributes are set as ever."""
    model = _foreign.llama()
    assert wrong(model) == 0
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not hasattr(type(module).forward, "zoo_hooks_switch")
    layer = model.model.layers[0]
    layer.note = 3
    layer.extra = torch.nn.Parameter(torch.ones(1))
    assert layer.note == 3
    assert dict(layer.named_parameters())["extra"] is layer.extra


def test_a_part_that_nobody_calls_so_is_left_alone():
    """In a layer of others, which hands the cache on by the name that its parts know."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Part(torch.nn.Module):
        def forward(self, past_key_values=None, **_):
            return past_key_values

    class Whole(GradientCheckpointingLayer):
        def forward(self, past_key_values=None):
            return self.part(past_key_values=past_key_values)

    layer = Whole()
    layer.part = Part()
    assert not hasattr(Part.forward, "zoo_hooks_switch")
    assert layer(past_key_values=3) == 3


def test_signatures_copies_and_pickles_stay():
    """A model with such parts is copied and pickled with them, and a bound function is one of its module."""
    model = model_with(Handing)
    assert wrong(model) == 0
    assert list(inspect.signature(Handing.forward).parameters)[4] == "past_key_values"
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other.model.layers[0].self_attn) is Handing
        assert wrong(other) == 0
    bound(plain := _foreign.llama())
    assert wrong(plain) == 0
    other = copy.deepcopy(plain)
    assert other.model.layers[0].self_attn.forward.__self__ is other.model.layers[0].self_attn
    assert wrong(other) == 0


def test_it_gets_no_warning_that_it_would_not_get_without():
    """Upstream warns of the old name in what the part hands on, with the repair and without."""
    model = model_with(Handing)
    with_repair = future_warnings(lambda: _foreign.generate(model))
    with zoo_hooks.disabled(PATCH):
        without = future_warnings(lambda: _foreign.generate(model))
    assert with_repair <= without


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torch_compile_makes_one_graph_of_it():
    """Of a model with such parts, called as generate calls it."""
    torch._dynamo.reset()
    graphs, model, ids = CompileCounter(), model_with(Own), _tiny.prompt()
    cache = transformers.DynamicCache(config=model.config)
    logits = torch.compile(model, fullgraph=True, backend=graphs)(ids, **{NEW: cache}, use_cache=True).logits
    assert torch.allclose(logits, _foreign.llama()(ids).logits, atol=1e-4)
    assert cache.get_seq_length() == 12
    assert graphs.frame_count == 1


@torch.no_grad()
def test_a_layer_that_keeps_something_is_one_graph():
    """What a forward sets in a layer of transformers' passes by the repair, also when it is compiled."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    class Keeping(GradientCheckpointingLayer):
        kept = None

        def forward(self, hidden):
            self.kept = hidden * 2
            return hidden + self.kept

    torch._dynamo.reset()
    layer, graphs = Keeping(), CompileCounter()
    whole = torch.compile(layer, fullgraph=True, backend=graphs)
    assert whole(torch.ones(1)).item() == 3
    assert layer.kept.item() == 2
    assert graphs.frame_count == 1
