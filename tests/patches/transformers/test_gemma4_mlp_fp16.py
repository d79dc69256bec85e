"""Gemma-4's MLPs in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import importlib
import inspect
import types
from importlib.util import find_spec

import half_mlp
import pytest
import torch
from conftest import python
from half_mlp import HALF, HalfMLP, alone, error, states, world  # noqa: F401 - fixtures

pytest.importorskip("transformers.models.gemma4")

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_mlp_fp16

PATCH = "transformers/gemma4-mlp-fp16"
OPTIONS = {
    "all projections": True,
    "rank-stabilised": True,
    "DoRA": True,
    "dropout": True,
    "bias=all": True,
    "PiSSA": True,
    "OLoRA": True,
    "orthogonal": True,
    "QALoRA": True,
    "KaSA": True,
    "MiCA": True,
    "bias": False,
    "VeLoRA": False,
    "MonteCLoRA": False,
    "BD-LoRA": False,
}
"""Of LoRA, and whether down_proj is known to be linear with it."""


def lora_options():
    """Of these, those that the installed peft has."""
    import peft
    from peft.tuners.lora import config

    names = ["gate_proj", "up_proj", "down_proj"]
    options = {
        "all projections": {"target_modules": names},
        "rank-stabilised": {"use_rslora": True},
        "DoRA": {"use_dora": True},
        "dropout": {"lora_dropout": 0.5},
        "bias=all": {"bias": "all"},
        "QALoRA": {"use_qalora": True, "qalora_group_size": 16},
        "bias": {"lora_bias": True},
    }
    starts = {"PiSSA": "pissa", "OLoRA": "olora", "orthogonal": "orthogonal", "MiCA": "mica"}
    options |= {name: {"init_lora_weights": start} for name, start in starts.items()}
    configs = {
        "KaSA": ("kasa_config", "KasaConfig", {}),
        "VeLoRA": ("velora_config", "VeloraConfig", {}),
        "MonteCLoRA": ("monteclora_config", "MontecloraConfig", {}),
        "BD-LoRA": ("use_bdlora", "BdLoraConfig", {"target_modules_bd_b": ["down_proj"], "nblocks": 2}),
    }
    for name, (field, kind, how) in configs.items():
        options[name] = {field: getattr(config, kind)(**how)} if hasattr(config, kind) else {field: None}
    known = inspect.signature(peft.LoraConfig).parameters
    values = str(known["init_lora_weights"].annotation)
    return {
        name: how
        for name, how in options.items()
        if all(
            field in known and value is not None and (field != "init_lora_weights" or value in values)
            for field, value in how.items()
        )
    }


LORA = lora_options() if find_spec("peft") else {}


class TestText(HalfMLP):
    """Gemma4TextMLP."""

    patch = PATCH

    def fresh(self):
        return _tiny.shared_model().model.layers[0].mlp

    @pytest.mark.parametrize("name", LORA)
    def test_adapters_are_right_or_left_as_upstream_has_them(self, name):
        """LoRA with each option that adds to it or changes it; a bias that it adds counts once."""
        import peft

        model = torch.nn.Module()
        model.mlp = self.mlp(1000, out=0.1)
        how = {"r": 4, "target_modules": ["down_proj"], "init_lora_weights": False, **LORA[name]}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = peft.get_peft_model(model, peft.LoraConfig(**how)).eval().base_model.model.mlp
        for part, parameter in made.named_parameters():
            if "lora_" in part:
                parameter.data *= 0.1
            if part.endswith("bias"):
                parameter.data.fill_(300)
        expected = made(states())
        made.half()
        if OPTIONS[name]:
            assert error(made(states().half()), expected) < 2e-3
        else:
            self.same_as_upstream(made)

    def test_what_an_adapter_computes_in_its_own_way_is_left_as_upstream_has_it(self):
        """A variant of LoRA that is not known, with parts that are."""
        peft = pytest.importorskip("peft")

        class Adds:
            def forward(self, _, *, result, **__):
                return result + 300

        model = torch.nn.Module()
        model.mlp = self.mlp(1000).half()
        made = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj"])).base_model.model.mlp
        made.down_proj.lora_variant["default"] = Adds()
        self.same_as_upstream(made)

    @pytest.mark.parametrize("adapted", [False, True])
    @pytest.mark.parametrize("bits", [4, 8])
    def test_packed_weights_are_right(self, bits, adapted):
        """bitsandbytes' 4 and 8 bits on down_proj, with LoRA on it and without."""
        bitsandbytes = pytest.importorskip("bitsandbytes")
        model = torch.nn.Module()
        model.mlp = made = self.mlp(1000).half()
        kind, how = bitsandbytes.nn.Linear8bitLt, {"has_fp16_weights": False}
        if bits == 4:
            kind, how = bitsandbytes.nn.Linear4bit, {"compute_dtype": HALF, "quant_type": "nf4"}
        down = kind(64, 32, bias=False, **how)
        down.load_state_dict({"weight": made.down_proj.weight})
        made.down_proj = down.to("cpu")
        if adapted:
            peft = pytest.importorskip("peft")
            config = peft.LoraConfig(target_modules=["down_proj"])
            made = peft.get_peft_model(model, config).base_model.model.mlp
        given = states().half()
        gate = made.act_fn(made.gate_proj(given).float()) * made.up_proj(given).float()
        # what the layer makes of products that fit
        expected = made.down_proj((gate / 1024).half()).float() * 1024
        assert error(made(given), expected) < (2e-3 if bits == 4 else 2e-2)


class TestVision(HalfMLP):
    """Gemma4VisionMLP, whose projections do not clip, as in 26B-A4B and 31B."""

    patch = PATCH

    def fresh(self):
        return _tiny.multimodal_model().model.vision_tower.encoder.layers[0].mlp

    def test_a_projection_that_clips_is_given_what_it_would_clip(self):
        """As in E2B and E4B, where the bounds act on what they are meant for: right, and upstream's own."""
        made = self.mlp(1000)
        down = made.down_proj
        down.use_clipped_linears = True
        for name, bound in {"input": 3000.0, "output": 500.0}.items():
            for side, sign in {"min": -1, "max": 1}.items():
                down.register_buffer(f"{name}_{side}", torch.tensor(sign * bound))
        expected = made(states())
        seen = made.half()(states().half())
        assert error(seen, expected) < 1e-3
        with zoo_hooks.disabled(PATCH):
            assert torch.equal(made(states().half()), seen)
        down.input_max.fill_(float("inf"))
        self.same_as_upstream(made)


class TestUnified(HalfMLP):
    """Gemma4UnifiedTextMLP."""

    patch = PATCH

    def fresh(self):
        pytest.importorskip("transformers.models.gemma4_unified")
        return _tiny.unified_model().model.layers[0].mlp


class TestDiffusion(HalfMLP):
    """DiffusionGemmaText4MLP."""

    patch = PATCH

    def fresh(self):
        pytest.importorskip("transformers.models.diffusion_gemma")
        return _tiny.diffusion_model().model.decoder.layers[0].mlp


def conditioning(loud=1.0):
    """DiffusionGemma's self-conditioning in float32, with gate and up projections louder by a factor."""
    pytest.importorskip("transformers.models.diffusion_gemma")
    made = _tiny.diffusion_model().model.decoder.self_conditioning
    for layer in (made.gate_proj, made.up_proj):
        layer.weight.data.mul_(loud)
    return made.half().float()


def test_self_conditioning_is_close_to_float32_where_products_overflow():
    """In float16 and under its autocast, and as upstream where its projection is not known to be linear."""
    made = conditioning(1000)
    products = made.act_fn(made.gate_proj(made.pre_norm(states()))) * made.up_proj(made.pre_norm(states()))
    assert products.abs().max() > 65520
    expected = made(states() * 50, states())
    with torch.autocast("cpu", dtype=HALF):
        assert error(made(states() * 50, states()), expected) < 2e-3
    seen = made.half()(inputs_embeds=states().half() * 50, self_conditioning_signal=states().half())
    assert seen.dtype is HALF
    assert error(seen, expected) < 2e-3
    with zoo_hooks.disabled(PATCH):
        assert not made(states().half(), states().half()).isfinite().all()
    made.down_proj.bias = torch.nn.Parameter(torch.full((32,), 300.0).half())
    given = states().half(), states().half()
    seen = made(*given)
    with zoo_hooks.disabled(PATCH):
        torch.testing.assert_close(made(*given), seen, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
def test_self_conditioning_is_bit_identical_where_nothing_overflows(dtype):
    """And compiles to one graph."""
    made = conditioning(1 if dtype is HALF else 1000).to(dtype)
    given = states().to(dtype), states().to(dtype) / 3
    seen = made(*given)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(made, fullgraph=True, backend="eager")(*given), seen)
    with zoo_hooks.disabled(PATCH):
        assert torch.equal(made(*given), seen)


def test_the_probe_uses_no_random_numbers_and_leaves_unknown_code_alone():
    """The state of the generator is the same; a forward of others is FIXED if it is right, or UNKNOWN."""
    before = torch.get_rng_state()
    module = importlib.import_module(gemma4_mlp_fp16.PATCH.targets[0])
    assert gemma4_mlp_fp16.probe(module).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)
    other = types.SimpleNamespace(forward=lambda self, x: self.down_proj(self.gate_proj(x)))
    hands_on, is_right = half_mlp.others(module.Gemma4TextMLP.forward.__wrapped__)
    for forward, verdict in ((hands_on, "UNKNOWN"), (is_right, "FIXED")):
        one = types.SimpleNamespace(Gemma4TextMLP=types.SimpleNamespace(forward=forward))
        assert gemma4_mlp_fp16.probe(one).name == verdict
    for known in (module.Gemma4VisionMLP, other):
        one = types.SimpleNamespace(Gemma4TextMLP=other, Gemma4VisionMLP=known)
        assert gemma4_mlp_fp16.probe(one).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002


def test_what_another_tool_has_put_over_it_is_told_and_activate_repairs_it_again():
    """A forward that is put in after the import, as Liger's; revert() gives that one back."""
    code = """
        import torch, zoo_hooks
        from transformers.models.gemma4 import modeling_gemma4 as target
        from zoo_hooks.patches.transformers import _half_mlp, _tiny

        def theirs(self, x):
            gelu = torch.nn.functional.gelu(self.gate_proj(x), approximate="tanh")
            return self.down_proj(gelu * self.up_proj(x))

        def healthy():
            return _half_mlp.figure(_tiny.shared_model().model.layers[0].mlp).healthy

        target.Gemma4TextMLP.forward = theirs
        print(zoo_hooks.report()["transformers/gemma4-mlp-fp16"].status.name, healthy())
        print(zoo_hooks.activate()["transformers/gemma4-mlp-fp16"].status.name, healthy())
        zoo_hooks.revert("transformers/gemma4-mlp-fp16")
        print(target.Gemma4TextMLP.forward is theirs)
    """
    assert python(code).split() == ["OVERWRITTEN", "False", "APPLIED", "True", "True"]


def test_a_forward_of_others_that_does_not_call_the_parts_is_not_replaced():
    """What it does cannot be seen, so that it would be lost."""
    code = """
        import zoo_hooks
        from transformers.models.gemma4 import modeling_gemma4 as target

        def fused(self, x):
            return x

        target.Gemma4TextMLP.forward = fused
        print(zoo_hooks.activate()["gemma4-mlp-fp16"].status.name, target.Gemma4TextMLP.forward is fused)
    """
    assert python(code).split() == ["UNKNOWN", "True"]
