"""Gemma-4's experts in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import math
import os
import pickle
import sys
import types
from pathlib import Path

import half_layers
import half_mlp
import pytest
import torch
from conftest import child
from half_mlp import HALF, bits, error, kept, states, without
from torch._subclasses import FakeTensorMode

pytest.importorskip("transformers.models.gemma4")

from transformers.integrations import moe

import zoo_hooks
from zoo_hooks.patches.transformers import _half_experts, _tiny, gemma4_experts_fp16

PATCH = "transformers/gemma4-experts-fp16"
HERE = str(Path(__file__).parent)
every_way = pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
graph_ways = pytest.mark.parametrize("way", ["batched_mm", "grouped_mm"])
CHOSEN = torch.tensor([[0, 1], [1, 3], [2, 0], [3, 2], [0, 3], [1, 2], [0, 2], [3, 1]])
WEIGHTS = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.9375, 0.0625], [0.25, 0.625]] * 2)


def experts(way, loud=1.0, out=1.0):
    """Four of 32 features in float32, with gate and up projections louder by a factor, and their output."""
    made = _tiny.unshared_model(**_tiny.EXPERTS).model.layers[0].experts
    made.config._experts_implementation = way
    generator = torch.Generator().manual_seed(0)
    for name, factor in {"gate_up_proj": loud, "down_proj": out}.items():
        data = getattr(made, name).data
        data.normal_(0, 0.02, generator=generator).mul_(factor).copy_(data.half())
    return made


def run(made, given, weights=WEIGHTS, chosen=CHOSEN):
    """With routing weights in the dtype of the states, as releases up to 5.12 have them."""
    return made(given, chosen[: len(given)], weights[: len(given)].to(given.dtype))


def products(made, given):
    """Of all experts in float32, by token, slot and feature."""
    gate, up = torch.einsum("th,tkoh->tko", given, made.gate_up_proj[CHOSEN]).chunk(2, -1)
    return made.act_fn(gate) * up


@every_way
@pytest.mark.parametrize("routing", [HALF, torch.float32])
def test_where_only_products_overflow_the_output_is_close_to_float32(way, routing):
    """Products of 10**4 to 5 * 10**5: a relative error below 0.001, as where nothing overflows."""
    made = experts(way, 1000)
    rows = products(made, states()).abs().amax((1, 2)) > 65520
    assert 0 < rows.sum() < len(rows)
    expected = run(made, states())
    assert expected.abs().max() < 65504
    seen = made.half()(states().half(), CHOSEN, WEIGHTS.to(routing))
    assert seen.dtype is HALF
    assert error(seen[rows], expected[rows]) < 1e-3
    assert error(seen[~rows], expected[~rows]) < 1e-3


@every_way
@pytest.mark.parametrize("loud", [2000, 10000, 40000])
def test_the_largest_products_that_there_can_be_are_close_too(way, loud):
    """Products of up to 10**9, scaled down by down_proj."""
    made = experts(way, loud, out=1e-5 if loud > 2000 else 0.1)
    expected = run(made, states())
    assert error(run(made.half(), states().half()), expected) < 3e-3


@every_way
@pytest.mark.parametrize("routing", [HALF, torch.float32])
@pytest.mark.parametrize("factor", [1, 8])
def test_what_does_not_fit_is_not_finite_and_what_is_finite_is_right(way, routing, factor):
    """Outputs of experts, before and after they are weighted, and their sums."""
    made = experts(way, 3000)
    expected = made(states(), CHOSEN, factor * WEIGHTS)
    seen = made.half()(states().half(), CHOSEN, factor * WEIGHTS.to(routing)).float()
    finite = seen.isfinite()
    assert finite.any()
    assert not finite.all()
    assert not finite[expected.abs() > 1.01 * 65520].any()
    assert ((seen - expected).abs()[finite] < 2e-3 * expected.abs().max()).all()


@every_way
def test_the_output_of_one_expert_that_does_not_fit_is_infinite_with_its_sign(way):
    """As upstream rounds any other."""
    made = experts(way, 40000)
    alone, chosen = torch.ones(8, 1), CHOSEN[:, :1]
    expected = run(made, states(), alone, chosen)
    too_large = expected.abs() > 1.01 * 65520
    assert too_large.any()
    seen = run(made.half(), states().half(), alone, chosen).float()
    assert torch.equal(seen[too_large], expected[too_large].sign() * float("inf"))


@every_way
def test_a_projection_that_does_not_fit_itself_leaves_its_token_as_upstream_has_it(way):
    """Not one value of it is finite; tokens beside it are close to float32."""
    made, given = experts(way, 400000), states()
    given[::2] /= 20000
    expected = run(made, given)
    made.half()
    projected = torch.einsum("th,tkoh->tko", given.half(), made.gate_up_proj[CHOSEN])
    lost = ~projected.isfinite().all((1, 2))
    assert lost.any()
    assert not lost[::2].any()
    seen = run(made, given.half())
    assert not seen[lost].isfinite().any()
    assert error(seen[::2], expected[::2]) < 2e-3


@every_way
def test_nan_is_not_hidden(way):
    """A NaN in the input is one in the output, in its own token only."""
    given = states().half()
    given[3, 0] = float("nan")
    seen = run(experts(way, 1000).half(), given)
    assert seen[3].isnan().all()
    assert seen[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()


@every_way
@pytest.mark.parametrize("routing", [None, torch.float32])
@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loud", [1e-3, 1, 100, 340])
def test_where_nothing_overflows_outputs_and_gradients_are_bit_identical(way, dtype, loud, routing):
    """Also with subnormal products, signed zeros, weights above 1; in bfloat16 and float32 at any size."""
    made = experts(way, loud if dtype is HALF else 10 * loud).to(dtype)
    given = states().to(dtype)
    given[0] *= 1e-4
    given[1] = -0.0
    seen = {}
    for side in ("with", "without"):
        made.zero_grad()
        x, weights = given.clone().requires_grad_(), (4 * WEIGHTS).to(routing or dtype).requires_grad_()
        with zoo_hooks.disabled(PATCH) if side == "without" else contextlib.nullcontext():
            y = made(x, CHOSEN, weights)
        assert y.isfinite().all()
        (y * torch.linspace(-1, 1, 32).to(dtype)).sum().backward()
        seen[side] = [bits(t) for t in (y, x.grad, weights.grad, *(p.grad for p in made.parameters()))]
    for mine, plain in zip(seen["with"], seen["without"], strict=True):
        assert torch.equal(mine, plain)


@every_way
def test_gradients_are_finite_and_right_where_products_overflow(way):
    """Every parameter's and the input's gradient: cosine above 0.999, norm within 1 %."""
    grads = {}
    for dtype in (torch.float32, HALF):
        made = experts(way, 1000).to(dtype)
        x, weights = states().to(dtype).requires_grad_(), WEIGHTS.clone().to(dtype).requires_grad_()
        (made(x, CHOSEN, weights) * torch.linspace(-1e-3, 1e-3, 32).to(dtype)).sum().backward()
        grads[dtype] = [t.grad.flatten().double() for t in (x, weights, *made.parameters())]
    for mine, right in zip(grads[HALF], grads[torch.float32], strict=True):
        assert mine.isfinite().all()
        assert torch.cosine_similarity(mine, right, dim=0) > 0.999
        assert float(mine.norm() / right.norm()) == pytest.approx(1, abs=0.01)


@every_way
def test_under_float16_autocast_it_is_close_to_float32(way):
    """float32 weights and inputs; the same bound as for plain float16."""
    made = experts(way, 1000)
    expected = run(made, states())
    with torch.autocast("cpu", dtype=HALF):
        seen = run(made, states())
    assert error(seen, expected) < 1e-3


def changed(change, way):
    """Experts that overflow, with something else than upstream's between their projections."""
    made = experts(way, 1000).half()
    if change == "weights of another class":
        made.down_proj = torch.nn.Parameter(made.down_proj.data.as_subclass(half_layers.Other))
    elif change == "biases":
        made.has_bias = True
        made.gate_up_proj_bias = torch.ones(4, 32).half()
        made.down_proj_bias = torch.full((4, 32), 300.0).half()
    else:

        def gate(self, given):
            first, second = given.chunk(2, -1)
            return self.act_fn(first).clamp(max=7) * second + 1

        if change == "a gate of the subclass":
            made.__class__ = type("Own", (type(made),), {"_apply_gate": gate})
        else:
            made._apply_gate = types.MethodType(gate, made)
    return made


@graph_ways
@pytest.mark.parametrize(
    "change", ["weights of another class", "biases", "a gate of the subclass", "a gate of the instance"]
)
def test_experts_that_compute_something_else_are_left_as_upstream_has_them(way, change):
    """Never a finite wrong number, and a gate of one's own is asked."""
    made = changed(change, way)
    seen = run(made, states().half())
    assert not torch.equal(seen, run(experts(way, 1000).half(), states().half()))
    with zoo_hooks.disabled(PATCH):
        torch.testing.assert_close(run(made, states().half()), seen, rtol=0, atol=0, equal_nan=True)


@every_way
def test_adapters_and_subclasses_are_right(way):
    """LoRA on the parameters, and a forward that asks upstream's."""
    peft = pytest.importorskip("peft")
    model = torch.nn.Module()
    model.experts = made = experts(way, 1000)

    class Sub(type(made)):
        def forward(self, *given):
            return super().forward(*given)

    made.__class__ = Sub
    names = ["experts.gate_up_proj", "experts.down_proj"]
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=names, init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, config).base_model.model.experts
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data *= 0.1
    expected = run(adapted, states())
    assert error(run(adapted.half(), states().half()), expected) < 3e-3
    with zoo_hooks.disabled(PATCH):
        assert not run(adapted, states().half()).isfinite().all()


@every_way
def test_the_shards_of_tensor_parallelism_are_right_together(way):
    """Each scales what it sees, for it undoes that before outputs are summed over the processes."""
    whole = experts(way, 1000)
    expected = run(whole, states())
    whole.half()
    total = 0
    for part in (torch.arange(16) < 8, torch.arange(16) >= 8):
        made = copy.deepcopy(whole)
        made.gate_up_proj = torch.nn.Parameter(whole.gate_up_proj[:, part.repeat(2)])
        made.down_proj = torch.nn.Parameter(whole.down_proj[:, :, part])
        total = total + run(made, states().half())
    assert error(total, expected) < 1e-3


def test_two_processes_that_are_tensor_parallel_are_right_with_experts_and_else_as_upstream(tmp_path):
    """As transformers loads them: experts close to float32, MLPs NaN; without the repairs both are."""
    code = f"import half_parallel; half_parallel.main({str(tmp_path)!r})"
    only = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}  # a fork would wait for OpenMP's threads
    child(code, PYTHONPATH=os.pathsep.join([HERE, *sys.path]), **only)
    for rank in (0, 1):
        seen = json.loads((tmp_path / str(rank)).read_text())
        assert all(map(math.isnan, seen["without"].values()))
        assert math.isnan(seen["with"].pop("mlp"))
        assert max(seen["with"].values()) < 1e-3


@every_way
def test_what_expert_parallelism_gives_to_other_ranks_adds_nothing(way):
    """As it marks them: an index behind the last expert, with a weight of 0."""
    if way == "grouped_mm" and "masked_fill" not in inspect.getsource(moe.grouped_mm_experts_forward):
        way = "batched_mm"  # 5.5 multiplies what it finds in memory by 0, with or without the repair
    made = experts(way, 1000).half()
    if way == "eager" and "num_classes=self.num_experts)" in inspect.getsource(
        inspect.unwrap(type(made).forward)
    ):
        made = experts("batched_mm", 1000).half()  # 5.5 raises there, with or without the repair
    made._is_expert_parallel = True  # 5.23.0 asks for it
    given, chosen, weights = states().half(), CHOSEN.clone(), WEIGHTS.clone()
    chosen[:, 1], weights[:, 1] = 4, 0
    seen = run(made, given, weights, chosen)
    expected = run(made, given, weights[:, :1], chosen[:, :1])
    assert torch.equal(seen, expected)


@graph_ways
@pytest.mark.parametrize("dtype", [HALF, torch.float32])
def test_it_compiles_to_one_graph(way, dtype):
    """``torch.compile(fullgraph=True)`` on loud and quiet tokens; backward too, where upstream's does."""
    made = experts(way, 1000).to(dtype)
    results = {}
    for backend in ("none", "eager", "aot_eager"):
        torch._dynamo.reset()
        x = states().to(dtype).requires_grad_(way == "batched_mm")
        with contextlib.nullcontext() if x.requires_grad else torch.no_grad():
            one = made if backend == "none" else torch.compile(made, fullgraph=True, backend=backend)
            results[backend] = [run(one, x)]
        if x.requires_grad:
            results[backend][0].float().mean().backward()
            results[backend].append(x.grad)
    for backend in ("eager", "aot_eager"):
        assert all(map(torch.equal, results[backend], results["none"]))


@graph_ways
def test_it_can_be_traced(way):
    """``torch.jit.trace``; what it recorded is right for other tokens."""
    made = experts(way, 1000).half()
    traced = torch.jit.trace(made, (states().half(), CHOSEN, WEIGHTS.half()))
    given = states().half().flip(0) / 2, CHOSEN.flip(0), WEIGHTS.half()
    assert torch.equal(traced(*given), made(*given))


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
def test_shapes_can_be_inferred_where_upstream_does(dtype):
    """On the meta device and with fake tensors; where it raises, the same is raised."""

    def outcome(way, device):
        made = experts(way).to(device, dtype)
        given = {"device": device} if device == "meta" else {}
        mode = FakeTensorMode(allow_non_fake_inputs=True) if device == "cpu" else contextlib.nullcontext()
        try:
            with mode:
                hidden = torch.empty(8, 32, dtype=dtype, **given)
                chosen, weights = torch.zeros(8, 2, dtype=torch.int64, **given), hidden[:, :2]
                return made(hidden, chosen, weights).shape
        except Exception as error:  # noqa: BLE001 - it is compared
            return type(error), str(error).partition("\n")[0]

    asked = [(way, device) for way in ("eager", "batched_mm", "grouped_mm") for device in ("meta", "cpu")]
    seen = [outcome(*one) for one in asked]
    assert seen[asked.index(("batched_mm", "meta"))] == (8, 32)
    with zoo_hooks.disabled(PATCH):
        assert seen == [outcome(*one) for one in asked]


@every_way
def test_it_keeps_no_more_for_the_backward_pass_than_upstream(way):
    """Of 512 tokens, in float16: at most 5 % more bytes."""
    made = experts(way).half()
    given = states(512).half(), CHOSEN.repeat(64, 1), WEIGHTS.repeat(64, 1).half()
    assert kept(made, *given) <= 1.05 * without(PATCH, kept, made, *given)


@pytest.mark.parametrize("dtype", [HALF, torch.float32])
def test_an_expert_at_a_time_it_compiles_in_parts(dtype):
    """As upstream, which asks which experts were chosen."""
    made = experts("eager", 1000).to(dtype)
    torch._dynamo.reset()
    compiled = torch.compile(made, backend="eager")
    assert torch.equal(run(compiled, states().to(dtype)), run(made, states().to(dtype)))


def test_what_is_not_multiplied_by_a_weight_is_upstreams():
    """A function of products that is not linear gets those, infinite as they may be."""
    gate, up = torch.tensor([[300.0, 1.0]]).half(), torch.tensor([[300.0, 2.0]]).half()
    product, weight = _half_experts.product_of(gate, up), torch.ones(1, 2).half() / 8
    linear = torch.nn.functional.linear
    assert linear(product, weight).item() == pytest.approx(90002 / 8, rel=1e-3)
    assert linear(product, weight, torch.ones(1).half()).item() == float("inf")
    assert torch.relu(product).tolist() == [[float("inf"), 2.0]]


@graph_ways
def test_it_can_be_exported(way):
    """``torch.export`` gives the same."""
    made = experts(way, 1000).half()
    given = states().half(), CHOSEN, WEIGHTS.half()
    assert torch.equal(torch.export.export(made, given).module()(*given), made(*given))


@every_way
def test_it_can_be_copied_and_pickled_and_batches_do_not_mix(way):
    """A deep copy and a pickle give the same; each token's output is that of the token alone."""
    made = experts(way, 1000).half()
    expected = run(made, states().half())
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(run(other, states().half()), expected)
    for row in (0, 3, 7):
        alone = made(states().half()[row : row + 1], CHOSEN[row : row + 1], WEIGHTS.half()[row : row + 1])
        assert error(alone, expected[row : row + 1]) < 1e-3


@every_way
@pytest.mark.parametrize("routing", [HALF, torch.float32])
def test_the_experts_of_diffusion_gemma_are_repaired_too(way, routing):
    """Close to float32 where products overflow, infinite or NaN without the repair."""
    pytest.importorskip("transformers.models.diffusion_gemma")
    made = _tiny.diffusion_model().model.decoder.layers[0].experts
    made.config._experts_implementation = way
    made.gate_up_proj.data.mul_(1000)
    made.half().float()
    assert products(made, states()).abs().max() > 65520
    expected = run(made, states())
    given = states().half(), CHOSEN, WEIGHTS.to(routing)
    assert error(made.half()(*given), expected) < 1e-3
    with zoo_hooks.disabled(PATCH):
        assert not made(*given).isfinite().all()


def test_a_diffusion_gemma_overflows_without_either_repair():
    """All of it in float16, both sides with self-conditioning: relative error 0.003, NaN without."""
    pytest.importorskip("transformers.models.diffusion_gemma")
    made = _tiny.diffusion_model()
    for name, parameter in made.named_parameters():
        if "vision" not in name and any(part in name for part in ("gate_proj", "up_proj", "gate_up_proj")):
            parameter.data.mul_(1000)

    def logits():
        signal = torch.linspace(-3, 3, 8 * 80).reshape(1, 8, 80).to(made.dtype)
        canvas = {"decoder_input_ids": _tiny.prompt()[:, :8] + 1, "self_conditioning_logits": signal}
        with torch.no_grad():
            return made(input_ids=_tiny.prompt(), **canvas).logits

    expected = logits()
    made.half()
    assert error(logits(), expected) < 0.01
    for patch in (PATCH, "transformers/gemma4-mlp-fp16"):
        with zoo_hooks.disabled(patch):
            assert logits().isnan().all()


def test_what_both_families_share_is_changed_once_and_comes_back():
    """Also if one of them is imported while the patch is disabled."""
    pytest.importorskip("transformers.models.diffusion_gemma")
    child("""
        import zoo_hooks
        from transformers.integrations import moe
        from zoo_hooks import ledger
        before = moe._batched_linear
        import transformers.models.gemma4.modeling_gemma4
        assert moe._batched_linear is not before
        with zoo_hooks.disabled("transformers/gemma4-experts-fp16"):
            import transformers.models.diffusion_gemma.modeling_diffusion_gemma
            assert moe._batched_linear is before
        assert {one.status.name for one in ledger.of_patch("transformers/gemma4-experts-fp16")} == {"APPLIED"}
        assert len(ledger.of_patch("transformers/gemma4-experts-fp16")) == 2
        assert moe._batched_linear.__wrapped__ is before
        zoo_hooks.revert("transformers/gemma4-experts-fp16")
        assert moe._batched_linear is before
    """)


@every_way
def test_a_forward_that_was_kept_works_when_the_repair_is_undone(way):
    """As accelerate and tensor parallelism keep it: it is upstream's then."""
    made = experts(way, 1000).half()
    made.forward = made.forward
    assert run(made, states().half()).isfinite().all()
    with zoo_hooks.disabled(PATCH):
        assert not run(made, states().half()).isfinite().all()


def test_an_implementation_of_somebody_else_is_called_with_the_experts_themselves():
    """One that was registered; in float16 too, and its gate is upstream's own."""
    seen = []

    def theirs(self, hidden_states, top_k_index, top_k_weights):
        seen.append(self)
        return self._apply_gate(hidden_states)

    made = experts("theirs").half()
    assert type(made)._apply_gate is moe._default_apply_gate
    moe.ALL_EXPERTS_FUNCTIONS["theirs"] = theirs
    try:
        result = made(states().half(), CHOSEN, WEIGHTS)
    finally:
        del moe.ALL_EXPERTS_FUNCTIONS["theirs"]
    assert seen == [made]
    assert torch.equal(result, made.act_fn(states().half()[:, :16]) * states().half()[:, 16:])
    made.config._experts_implementation = "nobodys"
    with pytest.raises(KeyError):
        made(states().half(), CHOSEN, WEIGHTS)


def test_the_class_looks_as_it_did():
    """Plain functions with upstream's names and signatures, arguments by keyword too."""
    made = experts("eager", 1000).half()
    kind, given = type(made), states().half()
    assert isinstance(kind.forward, types.FunctionType)
    seen = inspect.signature(kind.forward), kind.forward.__qualname__
    repaired = kind.forward
    named = kind.forward(made, top_k_weights=WEIGHTS.half(), hidden_states=given, top_k_index=CHOSEN)
    assert torch.equal(named, run(made, given))
    with zoo_hooks.disabled(PATCH):
        assert seen == (inspect.signature(kind.forward), kind.forward.__qualname__)
        assert kind.forward is not repaired


def test_the_probe_uses_no_random_numbers_and_leaves_unknown_code_alone():
    """The state of the generator is the same; experts that ask for no implementation are UNKNOWN, and so
    are those with a forward of others.
    """
    before = torch.get_rng_state()
    module = importlib.import_module(gemma4_experts_fp16.PATCH.targets[0])
    assert gemma4_experts_fp16.probe(module).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)

    plain = module.Gemma4TextExperts.forward.__wrapped__
    hands_on = type("Others", (module.Gemma4TextExperts,), {"forward": half_mlp.others(plain)[0]})
    assert gemma4_experts_fp16.probe(types.SimpleNamespace(Gemma4TextExperts=hands_on)).name == "UNKNOWN"

    class Own(module.Gemma4TextExperts):
        def forward(self, hidden_states, *_):
            return torch.full_like(hidden_states, float("inf"))

    assert gemma4_experts_fp16.probe(types.SimpleNamespace(Gemma4TextExperts=Own)).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
