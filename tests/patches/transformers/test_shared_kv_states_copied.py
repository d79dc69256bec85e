"""Layers share K/V also where FSDP2 or accelerate stands between them."""

from __future__ import annotations

import types

import pytest
import torch
import transformers
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from half_mlp import alone  # noqa: F401 - a fixture
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, shared_kv_states_copied

pytest.importorskip("transformers.models.gemma4.modeling_gemma4")
PATCH = "transformers/shared-kv-states-copied"
FAMILIES = {"gemma3n": _tiny.gemma3n_model, "gemma4": lambda: _tiny.shared_model(**_tiny.PER_LAYER_INPUTS)}
if hasattr(transformers.models, "gemma4_unified"):
    FAMILIES["gemma4_unified"] = _tiny.unified_model
family = pytest.mark.parametrize("made", FAMILIES.values(), ids=FAMILIES)


def applied():
    return zoo_hooks.report()[PATCH].status.name == "APPLIED"


def hooked(model):
    for layer in model.model.layers:
        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    return model


def offloaded(model):
    cpu_offload(model, execution_device=torch.device("cpu"))
    return model


@family
@pytest.mark.parametrize("prepare", [hooked, offloaded])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_with_hooks_of_accelerate_the_logits_are_those_without(made, prepare, use_cache):
    """As ``device_map`` and ``cpu_offload`` put them on the layers."""
    expected = made()(_tiny.prompt(), use_cache=use_cache).logits
    assert torch.equal(prepare(made())(_tiny.prompt(), use_cache=use_cache).logits, expected)


@family
def test_with_fsdp2_and_mixed_precision_logits_and_gradients_are_those_of_one_process(made, alone):  # noqa: F811
    """A group of one; each gradient."""
    plain, sharded = made().train(), made().train()
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    policy = MixedPrecisionPolicy(param_dtype=torch.float32)
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(sharded, mesh=mesh, mp_policy=policy)
    for model in (plain, sharded):
        model(_tiny.prompt(), labels=_tiny.prompt(), use_cache=False).loss.backward()
    seen = dict(sharded.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(seen[name].grad.full_tensor(), parameter.grad, msg=name)


@family
@torch.no_grad()
def test_a_model_without_them_is_as_it_was(made):
    """The same logits with and without the repair."""
    model = made()
    expected = model(_tiny.prompt(), use_cache=False).logits
    with zoo_hooks.disabled(PATCH):
        assert torch.equal(model(_tiny.prompt(), use_cache=False).logits, expected)


@torch.no_grad()
def test_a_model_compiles_to_one_graph():
    """With the logits that it has."""
    model = FAMILIES["gemma4"]()
    expected = model(_tiny.prompt(), use_cache=False).logits
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(_tiny.prompt(), use_cache=False).logits, expected, atol=1e-5)


def test_the_view_writes_into_the_dictionary_and_moves_it():
    """What is put into either is seen in both."""
    own = {}
    view = shared_kv_states_copied.Shared(own)
    view["a"] = torch.ones(1), torch.zeros(1)
    assert own["a"] is view["a"]
    assert view.to("meta", non_blocking=True) is view
    assert [one.device.type for one in own["a"]] == ["meta", "meta"]


def test_the_probe_leaves_unknown_code_alone():
    """A module whose layers are not found is UNKNOWN; one that does not share in this way is FIXED."""

    class OtherAttention:
        def forward(self, shared_kv_states):
            return self.is_kv_shared_layer, shared_kv_states

    assert (
        shared_kv_states_copied.probe(types.SimpleNamespace(OtherAttention=OtherAttention)).name == "UNKNOWN"
    )
    assert shared_kv_states_copied.probe(types.SimpleNamespace()).name == "FIXED"


def test_without_the_repair_an_affected_release_raises(measured):
    """The canary's figure: a KeyError without, no difference with."""
    row = measured(PATCH)
    assert str(row["without"]).startswith("KeyError") == applied()
    assert row["with"] == 0.0
