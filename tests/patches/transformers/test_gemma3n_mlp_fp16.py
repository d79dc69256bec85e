"""Gemma-3n's text MLP in float16: right where a product overflows, untouched where none does."""

from __future__ import annotations

import contextlib
import types

import half_mlp
import pytest
import torch
from half_mlp import HALF, HalfMLP, alone, bits, error, states, world  # noqa: F401 - fixtures
from transformers.models.gemma3n import modeling_gemma3n

import zoo_hooks
from zoo_hooks.patches.transformers import _tiny, gemma3n_mlp_fp16

PATCH = "transformers/gemma3n-mlp-fp16"


class TestDense(HalfMLP):
    """Gemma3nTextMLP as in the layers without sparsity."""

    patch = PATCH

    def fresh(self):
        return _tiny.gemma3n_model().model.layers[0].mlp


def sparse(loud=1.0):
    """Of a token's gates only those above a quantile of 0.95 count, as in the first ten layers."""
    made = TestDense().mlp(loud)
    made.activation_sparsity = 0.95
    return made


def test_with_sparse_gates_it_is_as_close_to_float32_as_where_nothing_overflows():
    """A few percent of an output are lost to the differences that make it sparse, loud or not."""
    errors = []
    for loud in (100, 1500):
        made = sparse(loud)
        expected = made(states())
        seen = made.half()(states().half())
        with zoo_hooks.disabled(PATCH):
            assert made(states().half()).isfinite().all() == (loud == 100)
        errors.append(error(seen, expected))
    assert errors[1] < 0.02
    assert errors[1] < 2 * errors[0]


def test_with_sparse_gates_a_projection_that_does_not_fit_leaves_its_token_as_upstream_has_it():
    """One infinite gate makes the mean and deviation of its token NaN, and no other's."""
    made = sparse(400000)
    given = states()
    given[::2] /= 20000
    expected = made(given)
    made.half()
    lost = ~made.gate_proj(given.half()).isfinite().all(-1)
    assert lost.any()
    assert not lost[::2].any()
    seen = made(given.half())
    assert seen[lost].isnan().all()
    assert error(seen[::2], expected[::2]) < 0.02


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
def test_with_sparse_gates_outputs_and_gradients_are_bit_identical_where_nothing_overflows(dtype):
    """Outputs, and the gradients of the input and of each parameter."""
    made = sparse(100).to(dtype)
    seen = []
    for names in ([], [PATCH]):
        made.zero_grad()
        x = states().to(dtype).requires_grad_()
        with zoo_hooks.disabled(*names) if names else contextlib.nullcontext():
            y = made(x)
        y.sum().backward()
        seen.append([bits(t) for t in (y, x.grad, *(p.grad for p in made.parameters()))])
    for mine, plain in zip(*seen, strict=True):
        assert torch.equal(mine, plain)


def test_with_sparse_gates_it_compiles_to_one_graph():
    """``torch.compile(fullgraph=True)``, in float16."""
    made = sparse(1500).half()
    torch._dynamo.reset()
    compiled = torch.compile(made, fullgraph=True, backend="eager")
    assert torch.equal(compiled(states().half()), made(states().half()))


def test_the_probe_uses_no_random_numbers_and_leaves_unknown_code_alone():
    """The state of the generator is the same; a forward of others is FIXED if it is right, or UNKNOWN."""
    before = torch.get_rng_state()
    assert gemma3n_mlp_fp16.probe(modeling_gemma3n).name == "FIXED"
    assert torch.equal(torch.get_rng_state(), before)
    hands_on, is_right = half_mlp.others(modeling_gemma3n.Gemma3nTextMLP.forward.__wrapped__)
    for forward, verdict in ((hands_on, "UNKNOWN"), (is_right, "FIXED")):
        one = types.SimpleNamespace(Gemma3nTextMLP=types.SimpleNamespace(forward=forward))
        assert gemma3n_mlp_fp16.probe(one).name == verdict
    other = types.SimpleNamespace(forward=lambda self, x: self.down_proj(self.gate_proj(x)))
    assert gemma3n_mlp_fp16.probe(types.SimpleNamespace(Gemma3nTextMLP=other)).name == "UNKNOWN"


def test_without_the_repair_an_affected_release_overflows(measured):
    """The canary's figure: not a number without, the rounding of float16 with."""
    row = measured(PATCH)
    assert str(row["without"]) == "nan"
    assert row["with"] < 0.002
