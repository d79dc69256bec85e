"""LoRA on Gemma-4's clipped projections: train, save, reload, second adapter, merge."""

from __future__ import annotations

import pytest
import torch
from conftest import child, python

import zoo_hooks

target = pytest.importorskip("transformers.models.gemma4.modeling_gemma4", reason="came with 5.5.0")
peft = pytest.importorskip("peft")
from zoo_hooks.patches.transformers import _tiny  # noqa: E402 - needs what is asked for above

PATCH = "peft/gemma4-clippable-linear-lora"
NAMES = ["q_proj", "v_proj"]
INPUTS = {"vision": _tiny.image_inputs, "audio": _tiny.audio_inputs}
every_tower = pytest.mark.parametrize("tower", INPUTS)


def adapted(names=NAMES, **config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        given = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False, **config)
        return peft.get_peft_model(_tiny.multimodal_model(), given)


def logits(model, tower="vision"):
    with torch.no_grad():
        return model(**INPUTS[tower]()).logits


def projection(model, tower="vision"):
    part = model.get_base_model() if hasattr(model, "get_base_model") else model
    part = getattr(part.model, f"{tower}_tower")
    return getattr(part, "encoder", part).layers[0].self_attn.q_proj


def keys(model):
    return {name for name, _ in model.named_parameters() if "lora_" in name}


def test_without_the_repair_targeting_by_name_raises(measured):
    """``ValueError: Target module Gemma4ClippableLinear(...) is not supported``."""
    row = measured(PATCH)
    assert row["without"].startswith("ValueError: Target module Gemma4ClippableLinear")
    assert row["with"] < 1e-4


@every_tower
def test_a_training_step_saved_is_the_same_in_a_fresh_process(tower, tmp_path):
    """The adapters of the towers learn, and a child that loads them computes equal logits."""
    model = adapted().train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = projection(model, tower).linear.lora_B["default"].weight.detach().clone()
    model(**INPUTS[tower]()).logits.square().mean().backward()
    optimiser.step()
    assert not torch.equal(before, projection(model, tower).linear.lora_B["default"].weight)
    model.eval().save_pretrained(tmp_path)
    torch.save(logits(model, tower), tmp_path / "logits")
    python(f"""
        import torch
        from peft import PeftModel
        from zoo_hooks.patches.transformers import _tiny
        model = PeftModel.from_pretrained(_tiny.multimodal_model(), {str(tmp_path)!r}).eval()
        with torch.no_grad():
            seen = model(**_tiny.{INPUTS[tower].__name__}()).logits
            assert torch.equal(seen, torch.load({str(tmp_path / "logits")!r}))
    """)


@every_tower
def test_a_second_adapter_and_merging(tower):
    """Two adapters differ, switching goes back and forth, and merging the second keeps its logits."""
    model = adapted()
    first = logits(model, tower)
    model.add_adapter("second", peft.LoraConfig(r=3, target_modules=NAMES, init_lora_weights=False))
    model.set_adapter("second")
    second = logits(model, tower)
    assert projection(model, tower).linear.lora_A["second"].out_features == 3
    assert not torch.allclose(first, second)
    model.set_adapter("default")
    assert torch.equal(logits(model, tower), first)
    model.set_adapter("second")
    merged = model.merge_and_unload()
    assert not keys(merged)
    assert type(projection(merged, tower)) is target.Gemma4ClippableLinear
    assert torch.allclose(logits(merged, tower), second, atol=1e-4)


def test_the_clipping_still_acts():
    """What the adapter adds is clipped too: no output goes beyond the wrapper's bound."""
    wrapper = projection(adapted())
    assert type(wrapper) is target.Gemma4ClippableLinear
    wrapper.use_clipped_linears = True
    for name, bound in {"input_min": -1.0, "input_max": 1.0, "output_min": -0.01, "output_max": 0.01}.items():
        setattr(wrapper, name, torch.tensor(bound))
    inputs = torch.linspace(-50, 50, 32)[None]
    with torch.no_grad():
        assert wrapper.linear(inputs.clamp(-1, 1)).abs().max() > 0.01
        assert wrapper(inputs).abs().max() == torch.tensor(0.01)
        assert torch.equal(wrapper(inputs), wrapper(inputs.clamp(-1, 1)))


def test_ranks_by_pattern_go_by_the_targeted_name():
    """``rank_pattern`` and ``alpha_pattern`` for ``q_proj`` reach the projections of the towers."""
    inner = projection(adapted(rank_pattern={"q_proj": 5}, alpha_pattern={"q_proj": 20})).linear
    assert (inner.r["default"], inner.lora_alpha["default"]) == (5, 20)


@every_tower
@pytest.mark.parametrize("names", ["all-linear", r".*(vision|audio)_tower.*\.q_proj\.linear"])
def test_what_worked_is_as_without_the_repair(names, tower):
    """Naming ``.linear`` and all-linear: the same adapters with the same values, bit for bit."""
    with zoo_hooks.disabled(PATCH):
        plain = adapted(names)
    repaired = adapted(names)
    assert keys(plain) == keys(repaired)
    assert torch.equal(logits(plain, tower), logits(repaired, tower))


TUNERS = {
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=2, target_r=1, total_step=10, target_modules=NAMES),
    "DoRA": lambda: peft.LoraConfig(r=2, use_dora=True, target_modules=NAMES),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=8, target_modules=NAMES),
    "HRA": lambda: peft.HRAConfig(r=2, target_modules=NAMES),
    "IA3": lambda: peft.IA3Config(target_modules=NAMES, feedforward_modules=[]),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=NAMES),
    "LoKr": lambda: peft.LoKrConfig(r=2, target_modules=NAMES),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4, r=0, target_modules=NAMES),
    "VeRA": lambda: peft.VeraConfig(r=2, target_modules=NAMES),
}


@pytest.mark.parametrize("tuner", TUNERS)
def test_other_methods_adapt_them_too(tuner):
    """What they adapt is inside the wrapper, gets gradients, and merges into equal logits."""
    model = peft.get_peft_model(_tiny.multimodal_model(), TUNERS[tuner]())
    assert isinstance(projection(model), target.Gemma4ClippableLinear)
    assert hasattr(projection(model).linear, "base_layer")
    model.train()(**_tiny.image_inputs()).logits.square().mean().backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and "vision_tower" in name}
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.01)
    expected = logits(model.eval())
    assert (logits(model.merge_and_unload()) - expected).abs().max() < 1e-4


def test_an_adapter_with_a_bias_trains():
    """It does not merge, as on every projection without a bias; peft says so."""
    model = adapted(lora_bias=True).train()
    model(**_tiny.image_inputs()).logits.square().mean().backward()
    assert projection(model).linear.lora_B["default"].bias.grad.any()


def test_custom_modules_of_a_config_come_first():
    """A class registered for the wrapper gets the wrapper, not what is in it."""
    seen = []

    class Mine(torch.nn.Module, peft.tuners.lora.LoraLayer):
        def __init__(self, base_layer, *_args, **_kwargs):
            seen.append(type(base_layer))
            raise LookupError("enough seen")

    config = peft.LoraConfig(target_modules=NAMES)
    config._register_custom_module({target.Gemma4ClippableLinear: Mine})
    with pytest.raises(LookupError):
        peft.get_peft_model(_tiny.multimodal_model(), config)
    assert seen == [target.Gemma4ClippableLinear]


@pytest.mark.parametrize("order", ["peft, transformers.models.gemma4.modeling_gemma4",
                                   "transformers.models.gemma4.modeling_gemma4, peft"])  # fmt: skip
def test_either_upstream_may_come_first(order):
    """It is applied at whichever comes last, draws no random numbers, and imports no peft by itself."""
    child(f"""
        import sys, torch, zoo_hooks, transformers
        assert "peft.tuners" not in sys.modules
        state = torch.get_rng_state()
        import {order}
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        assert torch.equal(state, torch.get_rng_state())
    """)
