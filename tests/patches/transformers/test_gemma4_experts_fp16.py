"""Gemma-4's experts in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import pickle
import types

import pytest
import torch
from conftest import child
from half_mlp import HALF, bits, error, states

pytest.importorskip("transformers.models.gemma4")

from transformers.integrations import moe

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma4_experts_fp16

PATCH = "gemma4-experts-fp16"
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
def test_an_output_that_does_not_fit_saturates(way, routing, factor):
    """Never NaN nor infinite, also with routing weights above 1; zero only if experts oppose each other."""
    made = experts(way, 40000)
    outputs = torch.einsum("tki,tkhi->tkh", products(made, states()), made.down_proj[CHOSEN])
    agree = outputs.sign().sum(1).abs() == 2
    seen = made.half()(states().half(), CHOSEN, factor * WEIGHTS.to(routing))
    assert seen.isfinite().all()
    far = agree & (outputs.abs().amin(1) > 65520)
    assert far.any()
    assert torch.equal(seen[far].sign(), outputs.sum(1)[far].sign().half())
    assert (seen[far].abs() > 50000).all()


@every_way
def test_one_expert_saturates_at_the_largest_number_with_its_sign(way):
    """65504 times its routing weight."""
    made = experts(way, 40000)
    alone, chosen = torch.ones(8, 1), CHOSEN[:, :1]
    expected = run(made, states(), alone, chosen)
    too_large = expected.abs() > 65520
    assert too_large.any()
    seen = run(made.half(), states().half(), alone, chosen)
    assert torch.equal(seen[too_large], (expected[too_large].sign() * 65504).half())
    assert seen.isfinite().all()


@every_way
def test_opposite_outputs_of_two_experts_with_large_weights_are_not_nan(way):
    """Each of them infinite when weighted, in float16."""
    made = experts(way).half()
    made.gate_up_proj.data.fill_(2.0)
    made.down_proj.data.fill_(1.0)
    made.down_proj.data[1] = -1.0
    given, chosen = torch.ones(1, 32).half(), CHOSEN[:1]
    for routing in (HALF, torch.float32):
        for weights, least in (([7.0, 5.0], 0), ([7.0, 0.0], 65504)):
            seen = made(given, chosen, torch.tensor([weights], dtype=routing))
            assert seen.isfinite().all()
            assert seen.min() >= least


@every_way
def test_projections_that_overflow_themselves_saturate_too(way):
    """gelu(-infinity) would be NaN; the output is finite."""
    made = experts(way, 400000).half()
    assert not torch.einsum("th,eoh->teo", states().half(), made.gate_up_proj).isfinite().all()
    seen = run(made, states().half())
    assert seen.isfinite().all()
    assert (seen != 0).any(-1).all()


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
    """Also with subnormal products, signed zeros, and in bfloat16 and float32 at any size."""
    made = experts(way, loud if dtype is HALF else 10 * loud).to(dtype)
    given = states().to(dtype)
    given[0] *= 1e-4
    given[1] = -0.0
    seen = {}
    for side in ("with", "without"):
        made.zero_grad()
        x, weights = given.clone().requires_grad_(), WEIGHTS.clone().to(routing or dtype).requires_grad_()
        with zoo_hooks.disabled(PATCH) if side == "without" else contextlib.nullcontext():
            y = made(x, CHOSEN, weights)
        assert y.isfinite().all()
        (y * torch.linspace(-1, 1, 32).to(dtype)).sum().backward()
        seen[side] = [bits(t) for t in (y, x.grad, weights.grad, *(p.grad for p in made.parameters()))]
    for mine, plain in zip(seen["with"], seen["without"], strict=True):
        assert torch.equal(mine, plain)


@every_way
def test_with_routing_weights_above_1_only_subnormal_results_may_round_otherwise(way):
    """By 2**-24 times the weight at most."""
    made = experts(way, 100).half()
    for routing, gap in ((torch.float32, 0.0), (HALF, 4 * 2.0**-24)):
        seen = made(states().half(), CHOSEN, 4 * WEIGHTS.to(routing))
        with zoo_hooks.disabled(PATCH):
            plain = made(states().half(), CHOSEN, 4 * WEIGHTS.to(routing))
        differs = seen != plain
        assert ((seen.float() - plain.float()).abs() <= gap).all()
        assert (plain[differs].abs() < 4 * 2.0**-14).all()


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


@every_way
def test_the_tensor_parallel_shard_of_an_expert_saturates_and_is_not_scaled(way):
    """Outputs are summed over the ranks, so all must have one scale."""
    made = experts(way, 1000).half()
    made.gate_up_proj.data = made.gate_up_proj.data[:, torch.arange(32) % 16 < 8].contiguous()
    made.down_proj.data = made.down_proj.data[:, :, :8].contiguous()
    given = states().half()
    full = products(made, given)
    expected = torch.einsum("tki,tkhi,tk->th", full.clamp(-65504, 65504).float(),
                            made.down_proj[CHOSEN].float(), WEIGHTS)  # fmt: skip
    assert not full.isfinite().all()
    assert error(run(made, given), expected) < 2e-3


@every_way
def test_what_expert_parallelism_gives_to_other_ranks_adds_nothing(way):
    """As it marks them: an index behind the last expert, with a weight of 0."""
    if way == "grouped_mm" and "masked_fill" not in inspect.getsource(moe.grouped_mm_experts_forward):
        way = "batched_mm"  # 5.5 multiplies what it finds in memory by 0, with or without the repair
    made = experts(way, 1000).half()
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
    for patch in (PATCH, "gemma4-mlp-fp16"):
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
        with zoo_hooks.disabled("gemma4-experts-fp16"):
            import transformers.models.diffusion_gemma.modeling_diffusion_gemma
            assert moe._batched_linear is before
        assert {one.status.name for one in ledger.of_patch("gemma4-experts-fp16")} == {"APPLIED"}
        assert len(ledger.of_patch("gemma4-experts-fp16")) == 2
        assert moe._batched_linear.__wrapped__ is before
        zoo_hooks.revert("gemma4-experts-fp16")
        assert moe._batched_linear is before
    """)


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
    """The state of the generator is the same; experts that ask for no implementation are UNKNOWN."""
    before = torch.get_rng_state()
    module = importlib.import_module(gemma4_experts_fp16.PATCH.targets[0])
    assert gemma4_experts_fp16.probe(module).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)

    class Own(module.Gemma4TextExperts):
        def forward(self, hidden_states, *_):
            return torch.full_like(hidden_states, float("inf"))

    assert gemma4_experts_fp16.probe(types.SimpleNamespace(Gemma4TextExperts=Own)).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
