"""GraniteMoe and DBRX add the loss that balances their experts."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny

PATCH = "transformers/moe-router-logits-unrecorded"
SHAPE = {
    **{key: value for key, value in _tiny.TEXT.items() if key not in {"head_dim", "sliding_window"}},
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
SHARED = {**SHAPE, "shared_intermediate_size": 32}
MAMBA = {"mamba_n_heads": 8, "mamba_d_state": 8, "layer_types": ["attention", "mamba"]}
FAMILIES = {
    "GraniteMoe": SHAPE,
    "GraniteMoeShared": SHARED,
    "GraniteMoeHybrid": {**SHARED, **MAMBA},
    "GraniteMoeSWA": SHAPE,
    "Dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "vocab_size": 80,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
}
FAMILIES = {name: shape for name, shape in FAMILIES.items() if hasattr(transformers, f"{name}Config")}
IDS = _tiny.prompt()
ASKED = {"output_router_logits": True}
WITH = {"input_ids": IDS, "labels": IDS}


def made(name, **more):
    config = getattr(transformers, f"{name}Config")(**{**FAMILIES[name], **more})
    return _tiny._seeded(getattr(transformers, f"{name}ForCausalLM"), config)


def test_a_step_of_training_raises_without_the_repair(measured):
    """Or gives the loss of both parts, with the repair and on a good release."""
    row = measured(PATCH)
    assert row["with"] == 0.0
    raises = str(row["without"]).startswith("AttributeError: 'int' object has no attribute 'to'")
    assert raises == (row["status"] == "APPLIED")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_balances_the_experts(name):
    """As the logits of its routers ask for it, and as much as the config says."""
    model = made(name)
    plain, output = model(**WITH), model(**WITH, **ASKED)
    assert [one.shape for one in output.router_logits] == [(IDS.numel(), 4)] * 2
    right = inspect.getmodule(type(model)).load_balancing_loss_func(output.router_logits, 4, 2, None)
    assert torch.equal(output.aux_loss, right)
    weight = vars(model).get("router_aux_loss_coef", vars(model).get("moe_loss_weight"))
    assert torch.allclose(output.loss, plain.loss + weight * right)
    assert torch.equal(output.logits, plain.logits)
    assert plain.router_logits is None
    output.aux_loss.backward()
    (gradient,) = {value.grad for key, value in model.named_parameters() if ".0." in key and "router" in key}
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_it_may_stand_in_the_config_or_anywhere_in_the_call(name):
    """What the call says goes before what the config says."""
    model = made(name, **ASKED)
    expected = model(**WITH).loss
    names = [*inspect.signature(model.forward).parameters]
    values = {"input_ids": IDS, "labels": IDS, **ASKED}
    before = [values.get(each) for each in names[: names.index("output_router_logits") + 1]]
    assert torch.equal(made(name)(*before).loss, expected)
    unasked = model(**WITH, output_router_logits=False)
    assert unasked.aux_loss is None
    assert torch.equal(unasked.loss, made(name)(**WITH).loss)
    assert torch.equal(copy.deepcopy(model)(**WITH).loss, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_subclasses_and_checkpointed_layers(name):
    """A subclass that calls the forward of its parent; and gradients are those without checkpointing."""
    cls = getattr(transformers, f"{name}ForCausalLM")

    class Model(cls):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    plain = made(name, **ASKED)
    model = Model(plain.config)
    model.load_state_dict(plain.state_dict())
    model.train()
    model.gradient_checkpointing_enable()
    loss = model(**WITH, use_cache=False).loss
    expected = plain(**WITH, use_cache=False).loss
    assert torch.allclose(loss, expected)
    loss.backward()
    expected.backward()
    for (key, one), (_, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), key
        assert one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-6), key


def test_a_hybrid_without_experts_answers_as_before():
    """It has no router, so nothing is recorded. Releases that record by themselves raise IndexError."""
    if zoo_hooks.report()[PATCH].status.name != "APPLIED":
        pytest.skip("upstream records")
    model = made("GraniteMoeHybrid", num_local_experts=0)
    output = model(IDS, **ASKED)
    assert (output.router_logits, output.aux_loss) == (None, 0)
    assert torch.equal(output.logits, model(IDS).logits)
