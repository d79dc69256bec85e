"""Gemma-4's MLPs in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import importlib
import types

import pytest
import torch
from half_mlp import HALF, HalfMLP, error, states

pytest.importorskip("transformers.models.gemma4")

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_mlp_fp16

PATCH = "gemma4-mlp-fp16"


class TestText(HalfMLP):
    """Gemma4TextMLP."""

    patch = PATCH

    def fresh(self):
        return _tiny.shared_model().model.layers[0].mlp

    def test_low_rank_adapters_and_4_bit_weights(self):
        """PEFT's LoRA and bitsandbytes' Linear4bit on down_proj: finite, and close to float32."""
        peft = pytest.importorskip("peft")
        made = torch.nn.Module()
        made.mlp = self.mlp(1000)
        config = peft.LoraConfig(
            r=4, target_modules=["gate_proj", "up_proj", "down_proj"], init_lora_weights=False
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            adapted = peft.get_peft_model(made, config).base_model.model.mlp
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.data *= 0.1
        expected = adapted(states())
        assert error(adapted.half()(states().half()), expected) < 3e-3
        bitsandbytes = pytest.importorskip("bitsandbytes")
        quantised = self.mlp(1000).half()
        down = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compute_dtype=HALF, quant_type="nf4")
        down.load_state_dict({"weight": quantised.down_proj.weight})
        quantised.down_proj = down.to("cpu")
        given = states().half()
        gate = quantised.act_fn(quantised.gate_proj(given).float()) * quantised.up_proj(given).float()
        weight = bitsandbytes.functional.dequantize_4bit(down.weight.data, down.weight.quant_state).float()
        assert error(quantised(given), gate @ weight.reshape(32, 64).T) < 2e-3


class TestVision(HalfMLP):
    """Gemma4VisionMLP, whose projections do not clip, as in 26B-A4B and 31B."""

    patch = PATCH

    def fresh(self):
        return _tiny.multimodal_model().model.vision_tower.encoder.layers[0].mlp

    def test_a_projection_that_clips_is_given_what_it_would_clip(self):
        """As in E2B and E4B: products saturate, so that the bounds act on what they are meant for."""
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
        assert made(states().half()).isfinite().all()


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
    """In float16 and under its autocast, and finite where its MLP's output does not fit either."""
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
    assert conditioning(40000).half()(states().half() * 50, states().half()).isfinite().all()


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
    """The state of the generator is the same; a forward that does something else is UNKNOWN."""
    before = torch.get_rng_state()
    module = importlib.import_module(gemma4_mlp_fp16.PATCH.targets[0])
    assert gemma4_mlp_fp16.probe(module).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)
    other = types.SimpleNamespace(forward=lambda self, x: self.down_proj(self.gate_proj(x)))
    for known in (module.Gemma4VisionMLP, other):
        one = types.SimpleNamespace(Gemma4TextMLP=other, Gemma4VisionMLP=known)
        assert gemma4_mlp_fp16.probe(one).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
