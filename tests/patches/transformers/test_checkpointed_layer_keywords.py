"""Layers that are called by keyword learn under reentrant checkpointing."""

from __future__ import annotations

import functools
import pickle
import types

import pytest
import torch
import transformers
from transformers.modeling_utils import PreTrainedModel

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, checkpointed_layer_keywords

target = pytest.importorskip("transformers.modeling_layers")
PATCH = "transformers/checkpointed-layer-keywords"
REENTRANT = {"use_reentrant": True}
LLAMA4 = issubclass(
    transformers.models.llama4.modeling_llama4.Llama4VisionEncoderLayer, target.GradientCheckpointingLayer
)  # from 4.53.0 on


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def llama4_vision():
    config = transformers.Llama4VisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=16,
        patch_size=4,
        vision_output_dim=32,
        projector_input_dim=32,
        projector_output_dim=32,
    )
    return _tiny._seeded(transformers.Llama4VisionModel, config).train()


class Layer(target.GradientCheckpointingLayer):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, hidden_states, other=None, scale=1.0):
        return (self.linear(hidden_states) * scale + (0 if other is None else other)).tanh()


class Model(PreTrainedModel):
    """Two layers; ``call`` says how each is called with the states and what else was encoded."""

    supports_gradient_checkpointing = True
    main_input_name = "states"

    def __init__(self, call):
        super().__init__(transformers.LlamaConfig())
        self.call, self.encoder = call, torch.nn.Linear(4, 4)
        self.layers = torch.nn.ModuleList([Layer(), Layer()])

    def forward(self, states):
        other = self.encoder(states).tanh()
        for layer in self.layers:
            states = self.call(layer, states, other)
        return states


CALLS = {
    "keyword": lambda layer, states, other: layer(hidden_states=states + other),
    "keywords": lambda layer, states, other: layer(other=other, scale=2.0, hidden_states=states),
    "one by keyword": lambda layer, states, other: layer(states, other=other, scale=2.0),
    "position": lambda layer, states, other: layer(states, other, 2.0),
}


def gradients(model, given, checkpointing):
    if checkpointing is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    output = model(given)
    getattr(output, "last_hidden_state", output).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def model(call):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Model(CALLS[call]).train()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", [{}, REENTRANT, {"use_reentrant": False}], ids=str)
def test_each_way_to_call_a_layer_gives_the_gradients_without_checkpointing(call, how):
    """By keyword, by position, and what the layer attends to by keyword."""
    given = torch.linspace(-1, 1, 12).reshape(3, 4)
    expected, seen = gradients(model(call), given, None), gradients(model(call), given, how)
    assert expected.keys() == seen.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(seen[name], grad, msg=name)


@pytest.mark.skipif(not LLAMA4, reason="its layers checkpoint by themselves from 4.53.0 on")
def test_all_of_llama_4s_vision_tower_learns():
    """Of 41 parameters 37 got no gradient."""
    pixels = torch.linspace(-1, 1, 3 * 256).reshape(1, 3, 16, 16)
    expected, seen = (gradients(llama4_vision(), pixels, how) for how in (None, REENTRANT))
    assert [name for name in expected if seen[name] is None] == []
    for name, grad in expected.items():
        torch.testing.assert_close(seen[name], grad, msg=name)
    if applied():
        with zoo_hooks.disabled(PATCH):
            plain = gradients(llama4_vision(), pixels, REENTRANT)
        assert len([name for name in plain if plain[name] is None]) == 37


def test_a_frozen_model_stays_without_gradients():
    """Nothing is handed on where nothing needs a gradient."""
    made = model("keyword").requires_grad_(requires_grad=False)
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs=REENTRANT)
    assert not made(torch.linspace(-1, 1, 4)).requires_grad


def test_what_is_not_reentrant_is_left_as_it_is():
    """The very function, and none where none was set; what is set lies in the layer as without us."""
    layer = Layer()
    assert not hasattr(layer, "_gradient_checkpointing_func")
    function = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    layer._gradient_checkpointing_func = function
    assert layer._gradient_checkpointing_func is function
    assert layer.__dict__["_gradient_checkpointing_func"] is function
    layer._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
    assert layer.__dict__["_gradient_checkpointing_func"] is torch.utils.checkpoint.checkpoint
    del layer._gradient_checkpointing_func
    assert not hasattr(layer, "_gradient_checkpointing_func")


def test_a_function_that_is_set_in_a_layer_itself_is_handed_tensors_too():
    """As DeepSpeed's, which takes what it runs and its inputs; its own keywords reach it."""
    handed, layer, given = [], Layer().train(), torch.ones(4, requires_grad=True)

    def own(run, *inputs):
        handed.append(inputs)
        return run(*inputs)

    layer._gradient_checkpointing_func, layer.gradient_checkpointing = own, True
    expected = layer(given)
    assert torch.equal(layer(hidden_states=given), expected)
    assert [len(inputs) for inputs in handed] == [1, 1]
    assert handed[1][0] is given


def test_a_wrapper_of_the_layer_before_and_after():
    """Others wrap the forward of a class or of one layer."""
    made = model("keyword")
    for layer in made.layers:
        layer.forward = functools.partial(layer.forward)
    given = torch.linspace(-1, 1, 4)
    expected = gradients(model("keyword"), given, None)
    for name, grad in gradients(made, given, REENTRANT).items():
        torch.testing.assert_close(grad, expected[name], msg=name)


def test_a_layer_is_pickled_with_its_function():
    """Its own, and not ours around it."""
    layer = Layer()
    layer._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
    again = pickle.loads(pickle.dumps(layer))
    assert again.__dict__["_gradient_checkpointing_func"] is torch.utils.checkpoint.checkpoint


def test_a_layer_that_does_not_checkpoint_compiles_to_one_graph():
    """And one that does, not reentrant, gives the same gradients compiled."""
    given = torch.linspace(-1, 1, 4)
    torch._dynamo.reset()
    compiled = torch.compile(model("keyword"), fullgraph=True, backend="eager")
    assert torch.allclose(compiled(given), model("keyword")(given))


def test_the_probe_leaves_unknown_code_alone():
    """A layer that gives something else is UNKNOWN; one that hands its keywords on is FIXED."""

    class Other(torch.nn.Module):
        def __call__(self, hidden_states):
            return hidden_states + 1

    class HandsOn(torch.nn.Module):
        def __call__(self, hidden_states):
            return self._gradient_checkpointing_func(self.forward, hidden_states)

    for kind, verdict in ((Other, "UNKNOWN"), (HandsOn, "FIXED")):
        module = types.SimpleNamespace(GradientCheckpointingLayer=kind)
        assert checkpointed_layer_keywords.probe(module).name == verdict


def test_without_the_repair_layers_get_no_gradient(measured):
    """Two of two; none with it."""
    row = measured(PATCH)
    assert row["without"] == (2 if applied() else 0)
    assert row["with"] == 0
