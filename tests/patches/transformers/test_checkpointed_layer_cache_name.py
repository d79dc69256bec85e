"""Layers of others get no cache while they are checkpointed, and have right gradients."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from others import affected, one_process
from torch._dynamo.testing import CompileCounterWithBackend

import zoo_hooks
from zoo_hooks import notices
from zoo_hooks.changes import Changes
from zoo_hooks.patches.transformers import _foreign

modeling_layers = pytest.importorskip("transformers.modeling_layers")
from zoo_hooks.patches.transformers import checkpointed_layer_cache_name  # noqa: E402 - for the line above

PATCH = "transformers/checkpointed-layer-cache-name"
WAYS = [{"use_reentrant": True}, {"use_reentrant": False}]
every_way = pytest.mark.parametrize("how", WAYS, ids=["reentrant", "not"])


def gradients(model, how=None, whole=None):
    """Those of one step, checkpointed as is said."""
    model.zero_grad()
    model.train()
    if how is not None:
        model.gradient_checkpointing_enable(how)
    ids = torch.arange(8)[None]
    logits = (whole or model)(ids)
    torch.nn.functional.cross_entropy(logits[0], ids[0]).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def cosine(one, other):
    return float(torch.cosine_similarity(one, other, dim=0))


@every_way
def test_gradients_are_those_without_checkpointing(how):
    """With both kinds."""
    expected = gradients(_foreign.layered())
    assert gradients(_foreign.layered(), how).allclose(expected, rtol=1e-3, atol=1e-6)


@every_way
def test_the_symptom_is_back_while_it_is_disabled(how):
    """The reentrant kind is wrong, the other raises; on releases without the bug nothing changes."""
    expected, mended = gradients(_foreign.layered()), affected(PATCH)
    model = _foreign.layered()
    with zoo_hooks.disabled(PATCH):
        if mended and not how["use_reentrant"]:
            with pytest.raises(torch.utils.checkpoint.CheckpointError, match="different metadata"):
                gradients(model, how)
        else:
            assert (cosine(gradients(model, how), expected) < 0.99) == mended


def test_it_is_told_once(caplog):
    """Upstream warned of its own layers; what to write is said."""
    with caplog.at_level("INFO", "zoo_hooks"):
        model = _foreign.layered()
        for _ in range(2):
            gradients(model, WAYS[0])
    logged = [record.message for record in caplog.records if "use_cache=False" in record.message]
    said = [words for words in notices._said if "layered.<locals>.Layer is checkpointed" in words]
    assert len(logged) <= len(said) == affected(PATCH)


def test_without_gradients_and_without_checkpointing_it_keeps_its_cache():
    """As upstream has it: what is not computed again may write into its cache."""
    seen = []

    class Layer(modeling_layers.GradientCheckpointingLayer):
        def forward(self, hidden, past_key_values=None):
            seen.append(past_key_values)
            return hidden

    layer = Layer()
    layer._gradient_checkpointing_func = lambda function, *args: function(*args)
    layer(torch.ones(1), past_key_values=1)
    layer.gradient_checkpointing = True
    layer.eval()(torch.ones(1), past_key_values=2)
    assert seen == [1, 2]
    if affected(PATCH):
        layer._can_checkpoint_with_cache = True  # a layer that only reads it
        layer.train()(torch.ones(1), past_key_values=3)
        assert seen == [1, 2, 3]
        layer._can_checkpoint_with_cache = False
        with torch.no_grad():
            layer.train()(torch.ones(1), past_key_values=4)
        layer(torch.ones(1), past_key_values=5)
        layer(torch.ones(1, requires_grad=True), cache=6)
        layer.eval()(torch.ones(1), cache=7)
        assert seen[3:] == [4, None, None, 7]


def test_layers_of_transformers_are_left_alone():
    """They take the new name, and keep upstream's wrapper, which must be the outermost."""
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    assert not hasattr(LlamaDecoderLayer.forward, "zoo_hooks_switch")
    own = type(_foreign.layered().layers[0])
    assert own.forward.__code__ is LlamaDecoderLayer.forward.__code__ or not affected(PATCH)


@pytest.mark.skipif(not affected(PATCH), reason="nothing is repaired on this release")
def test_classes_that_are_there_already_are_repaired():
    """Upstream's wrapper stays outermost; what is undone is idle."""
    expected = gradients(_foreign.layered())
    with zoo_hooks.disabled(PATCH):
        early = _foreign.layered()
        changes = Changes()
        checkpointed_layer_cache_name.repair(modeling_layers, changes)
        assert cosine(gradients(early, WAYS[0]), expected) > 0.9999
        changes.undo()
        assert cosine(gradients(early, WAYS[0]), expected) < 0.99


@pytest.mark.skipif(not affected(PATCH), reason="nothing is repaired on this release")
def test_what_other_code_has_wrapped_since_keeps_its_wrapper():
    """As upstream has it such a layer is not checkpointed, so there is nothing to repair."""
    with zoo_hooks.disabled(PATCH):

        class Early(modeling_layers.GradientCheckpointingLayer):
            def forward(self, hidden, past_key_values=None):
                return past_key_values or hidden

        Early.forward = above = functools.wraps(Early.forward)(functools.partial(Early.forward))
        changes = Changes()
        checkpointed_layer_cache_name.repair(modeling_layers, changes)
        changes.undo()
    assert Early.forward is above


def test_copies_and_pickles_train():
    """Of a layer, whose class is found by name."""
    model = _foreign.layered()
    model.gradient_checkpointing_enable(WAYS[0])
    other = copy.deepcopy(model)
    assert gradients(other).allclose(gradients(_foreign.layered()), rtol=1e-3, atol=1e-6)
    assert pickle.loads(pickle.dumps(Named())).forward(torch.ones(1), torch.ones(1)) == 2


class Named(modeling_layers.GradientCheckpointingLayer):
    """Can be found by its name."""

    def forward(self, hidden, past_key_values=None):
        return (hidden * 2).sin() if past_key_values is None else hidden + past_key_values


def test_ddp_trains_it():
    """Three steps with default arguments, checkpointed without re-entrance."""
    expected, model = gradients(_foreign.layered()), _foreign.layered().train()
    model.gradient_checkpointing_enable(WAYS[1])
    with one_process():
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(3):
            assert gradients(model, whole=parallel).allclose(expected, rtol=1e-3, atol=1e-6)


@every_way
def test_torch_compile_makes_one_graph_of_a_layer(how):
    """In training, with a cache that it does not get where it is checkpointed."""
    torch._dynamo.reset()
    layer, graphs, cache = Named().train(), CompileCounterWithBackend("aot_eager"), torch.ones(1)
    layer._gradient_checkpointing_func = functools.partial(torch.utils.checkpoint.checkpoint, **how)
    whole, hidden = torch.compile(layer, fullgraph=True, backend=graphs), torch.ones(1, requires_grad=True)
    assert whole(hidden, past_key_values=cache).item() == 2
    layer.gradient_checkpointing = True
    if affected(PATCH):  # before, upstream's own warning breaks the graph
        output = whole(hidden, past_key_values=cache)
        assert output.equal((hidden * 2).sin())
        assert torch.autograd.grad(output, hidden)[0].equal((hidden * 2).cos() * 2)
    assert graphs.frame_count == 1 + affected(PATCH)
