"""Gemma-4's text MLP in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pickle
import types

import pytest
import torch

pytest.importorskip("transformers.models.gemma4")


import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_mlp_fp16

PATCH = "gemma4-mlp-fp16"
HALF = torch.float16


class Doubled(torch.nn.Module):
    """A layer around a projection, as adapters are; it has no weight of its own to be reached into."""

    def __init__(self, base, computes=None):
        super().__init__()
        self.computes = computes
        self.base = base
        self.more = torch.nn.Linear(base.in_features, base.out_features, bias=False)
        torch.nn.init.constant_(self.more.weight, 1e-3)

    def forward(self, x):
        x = x.to(self.computes or x.dtype)
        return self.base(x) + self.more(x)


class Fixed(torch.nn.Module):
    """A projection that gives one value."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value.expand(*x.shape[:-1], 64)


def mlp(loud=1.0, out=1.0):
    """A tiny MLP in float32 whose gate and up projections are louder by a factor, and its output."""
    made = _tiny.shared_model().model.layers[0].mlp
    for name, factor in {"gate_proj": loud, "up_proj": loud, "down_proj": out}.items():
        weight = getattr(made, name).weight
        weight.data = (weight.data * factor).half().float()
    return made


def states(rows=8):
    return torch.linspace(-3, 3, rows * 32).reshape(rows, 32).half().float()


def error(seen, expected):
    return float((seen.double() - expected.double()).norm() / expected.double().norm())


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def test_where_only_products_overflow_the_output_is_close_to_float32():
    """Products of 10**4 to 5 * 10**5: a relative error below 0.001, as where nothing overflows."""
    made = mlp(1000)
    products = made.act_fn(made.gate_proj(states())) * made.up_proj(states())
    rows = products.abs().amax(-1) > 65520
    assert 0 < rows.sum() < len(rows)
    expected = made(states())
    assert expected.abs().max() < 65504
    seen = made.half()(states().half())
    assert seen.dtype is HALF
    assert error(seen[rows], expected[rows]) < 1e-3
    assert error(seen[~rows], expected[~rows]) < 1e-3


@pytest.mark.parametrize("loud", [2000, 10000, 40000])
def test_the_largest_products_that_there_can_be_are_close_too(loud):
    """Projections of up to 65504, products of up to 4 * 10**9, scaled down by down_proj."""
    made = mlp(loud, out=1e-5 if loud > 2000 else 0.1)
    expected = made(states())
    given = made.act_fn(made.gate_proj(states())).abs().max()
    assert given < 65504
    assert error(made.half()(states().half()), expected) < 2e-3


def test_an_output_that_does_not_fit_saturates_with_its_sign():
    """Never NaN, never infinite, never zero: 65504 where float32 has more."""
    made = mlp(3000)
    expected = made(states())
    too_large = expected.abs() > 65520
    assert too_large.any()
    seen = made.half()(states().half())
    assert seen.isfinite().all()
    assert torch.equal(seen[too_large], (expected[too_large].sign() * 65504).half())
    assert (seen[expected.abs() > 1000] != 0).all()


def test_projections_that_overflow_themselves_saturate_too():
    """gelu(-infinity) would be NaN; the output is finite, and large where float32 has it large."""
    made = mlp(400000)
    expected = made(states())
    made = made.half()
    assert not made.gate_proj(states().half()).isfinite().all()
    seen = made(states().half())
    assert seen.isfinite().all()
    assert (seen[expected.abs() > 1e6].abs() > 1000).all()


def test_nan_is_not_hidden():
    """A NaN in the input is one in the output, in its own token only."""
    given = states().half()
    given[3, 0] = float("nan")
    seen = mlp(1000).half()(given)
    assert seen[3].isnan().all()
    assert seen[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loud", [1e-3, 1, 100, 340])
def test_where_nothing_overflows_outputs_and_gradients_are_bit_identical(dtype, loud):
    """Also with subnormal products, signed zeros, and in bfloat16 and float32 at any size."""
    made = mlp(loud if dtype is HALF else 10 * loud).to(dtype)
    given = states().to(dtype)
    given[0] *= 1e-4
    given[1] = -0.0
    seen = {}
    for side in ("with", "without"):
        made.zero_grad()
        x = given.clone().requires_grad_()
        with zoo_hooks.disabled(PATCH) if side == "without" else contextlib.nullcontext():
            y = made(x)
        assert y.isfinite().all()
        (y * torch.linspace(-1, 1, 32).to(dtype)).sum().backward()
        seen[side] = [bits(t) for t in (y, x.grad, *(p.grad for p in made.parameters()))]
    for mine, plain in zip(seen["with"], seen["without"], strict=True):
        assert torch.equal(mine, plain)


def test_the_border_is_exact():
    """Products that round to 65504 are computed as upstream does it; the next is scaled."""
    made = _tiny.shared_model().model.layers[0].mlp.half()
    made.act_fn = torch.nn.Identity()
    made.down_proj.weight.data.fill_(2.0**-10)
    factors = torch.tensor([[255.875, 256.0], [255.875, 255.875], [256.0, 256.0], [1.0, 65504.0]])
    for first, second in factors.half():
        made.gate_proj, made.up_proj = Fixed(first), Fixed(second)
        seen = made(states(2).half())
        with zoo_hooks.disabled(PATCH):
            plain = made(states(2).half())
        exact = float(first) * float(second) / 16
        if plain.isfinite().all():
            assert torch.equal(bits(seen), bits(plain))
        assert (seen.float() / exact - 1).abs().max() < 1e-3


def test_gradients_are_finite_and_right_where_products_overflow():
    """Every parameter's and the input's gradient: cosine above 0.999, norm within 1 %."""
    grads = {}
    for dtype in (torch.float32, HALF):
        made = mlp(1000).to(dtype)
        x = states().to(dtype).requires_grad_()
        (made(x) * torch.linspace(-1e-3, 1e-3, 32).to(dtype)).sum().backward()
        grads[dtype] = [t.grad.flatten().double() for t in (x, *made.parameters())]
    for mine, right in zip(grads[HALF], grads[torch.float32], strict=True):
        assert mine.isfinite().all()
        assert torch.cosine_similarity(mine, right, dim=0) > 0.999
        assert float(mine.norm() / right.norm()) == pytest.approx(1, abs=0.01)


def test_under_float16_autocast_it_is_close_to_float32():
    """float32 weights and inputs; the same bound as for plain float16."""
    made = mlp(1000)
    expected = made(states())
    with torch.autocast("cpu", dtype=HALF):
        seen = made(states())
    assert seen.dtype is HALF
    assert error(seen, expected) < 1e-3


def test_a_wrapped_down_projection_is_used_as_it_is():
    """As with adapters: only called, with its own forward."""
    made = mlp(1000)
    made.down_proj = Doubled(made.down_proj)
    expected = made(states())
    assert error(made.half()(states().half()), expected) < 1e-3


def test_a_down_projection_in_float32_keeps_its_dtype():
    """One that gives float32 for float16 still does."""
    made = mlp(1).half()
    made.down_proj = Doubled(torch.nn.Linear(64, 32, bias=False), torch.float32)
    assert made(states().half()).dtype is torch.float32


def test_low_rank_adapters_and_4_bit_weights():
    """PEFT's LoRA and bitsandbytes' Linear4bit on down_proj: finite, and close to float32."""
    peft = pytest.importorskip("peft")
    made = torch.nn.Module()
    made.mlp = mlp(1000)
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
    quantised = mlp(1000).half()
    down = bitsandbytes.nn.Linear4bit(64, 32, bias=False, compute_dtype=HALF, quant_type="nf4")
    down.load_state_dict({"weight": quantised.down_proj.weight})
    quantised.down_proj = down.to("cpu")
    given = states().half()
    gate = quantised.act_fn(quantised.gate_proj(given).float()) * quantised.up_proj(given).float()
    weight = bitsandbytes.functional.dequantize_4bit(down.weight.data, down.weight.quant_state).float()
    assert error(quantised(given), gate @ weight.reshape(32, 64).T) < 2e-3


def test_a_shard_of_a_token_saturates_and_is_not_scaled():
    """With tensor parallelism outputs are summed over the ranks, so all must have one scale."""
    made = mlp(1000).half()
    for name in ("gate_proj", "up_proj"):
        layer = getattr(made, name)
        layer.weight.data = layer.weight.data[:32]
    made.down_proj.weight.data = made.down_proj.weight.data[:, :32]
    given = states().half()
    product = (made.act_fn(made.gate_proj(given)) * made.up_proj(given)).clamp(-65504, 65504)
    assert torch.equal(made(given), made.down_proj(product))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dtype", [HALF, torch.float32])
def test_it_compiles_to_one_graph(backend, dtype):
    """``torch.compile(fullgraph=True)``, forward and backward, on loud and quiet tokens."""
    made = mlp(1000).to(dtype)
    torch._dynamo.reset()
    compiled = torch.compile(made, fullgraph=True, backend=backend)
    results = []
    for run in (made, compiled):
        x = states().to(dtype).requires_grad_()
        y = run(x)
        y.float().mean().backward()
        results.append((y, x.grad))
    for mine, plain in zip(*results, strict=True):
        assert torch.equal(mine, plain)


def test_it_can_be_exported_and_batches_do_not_mix():
    """``torch.export`` gives the same; each token's output is that of the token alone."""
    made = mlp(1000).half()
    given = states().half()
    expected = made(given)
    assert torch.equal(torch.export.export(made, (given,)).module()(given), expected)
    for row in (0, 3, 7):
        assert error(made(given[row : row + 1]), expected[row : row + 1]) < 1e-3
    assert made(given[None]).shape == (1, *expected.shape)
    assert made(given[:0]).shape == (0, 32)


def test_models_can_be_copied_and_pickled():
    """A deep copy and a pickle of a whole model in float16 give the same logits."""
    model = _tiny.unshared_model().half()
    with torch.no_grad():
        expected = model(_tiny.prompt()).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(_tiny.prompt()).logits, expected)


@pytest.mark.parametrize("target", gemma4_mlp_fp16.PATCH.targets)
def test_the_class_looks_as_it_did(target):
    """A plain function with upstream's name and signature, in each of the families."""
    module = pytest.importorskip(target)
    mlp_class = getattr(module, gemma4_mlp_fp16._name(module))
    assert isinstance(mlp_class.forward, types.FunctionType)
    seen = inspect.signature(mlp_class.forward), mlp_class.forward.__qualname__
    repaired = mlp_class.forward
    with zoo_hooks.disabled(PATCH):
        assert seen == (inspect.signature(mlp_class.forward), mlp_class.forward.__qualname__)
        assert mlp_class.forward is not repaired


def test_the_probe_uses_no_random_numbers_and_leaves_unknown_code_alone():
    """The state of the generator is the same; a forward that does something else is UNKNOWN."""
    before = torch.get_rng_state()
    module = importlib.import_module(gemma4_mlp_fp16.PATCH.targets[0])
    assert gemma4_mlp_fp16.probe(module).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)
    other = types.SimpleNamespace(forward=lambda self, x: self.down_proj(self.gate_proj(x)))
    assert gemma4_mlp_fp16.probe(types.SimpleNamespace(Gemma4TextMLP=other)).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
