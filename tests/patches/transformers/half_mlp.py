"""What must hold of a gated MLP in float16, for the tests of the patches that repair one."""

from __future__ import annotations

import collections
import contextlib
import copy
import inspect
import pickle
import types

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import zoo_hooks

HALF = torch.float16


class Doubled(torch.nn.Module):
    """A layer around a projection, as adapters are; it has no weight of its own to be reached into."""

    def __init__(self, base, computes=None):
        super().__init__()
        self.computes = computes
        self.base = base
        inner = getattr(base, "linear", base)
        self.more = torch.nn.Linear(inner.in_features, inner.out_features, bias=False)
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


def states(rows=8):
    return torch.linspace(-3, 3, rows * 32).reshape(rows, 32).half().float()


def error(seen, expected):
    seen, expected = seen.detach().double(), expected.detach().double()
    return float((seen - expected).norm() / expected.norm())


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])


def weight(layer):
    """That of a projection, or of the one that it holds."""
    return getattr(layer, "linear", layer).weight


class Count(TorchDispatchMode):
    """How often each operation runs inside."""

    def __init__(self):
        super().__init__()
        self.ran = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func] += 1
        return func(*args, **(kwargs or {}))


class HalfMLP:
    """Tests; a subclass names the patch and makes the MLP, from 32 to 64 features and back."""

    patch: str

    def fresh(self):
        raise NotImplementedError

    def mlp(self, loud=1.0, out=1.0):
        """It in float32, with gate and up projections louder by a factor, and its output."""
        made = self.fresh()
        generator = torch.Generator().manual_seed(0)
        for name, factor in {"gate_proj": loud, "up_proj": loud, "down_proj": out}.items():
            data = weight(getattr(made, name)).data
            data.normal_(0, 0.02, generator=generator).mul_(factor).copy_(data.half())
        return made

    def test_where_only_products_overflow_the_output_is_close_to_float32(self):
        """Products of 10**4 to 5 * 10**5: a relative error below 0.001, as where nothing overflows."""
        made = self.mlp(1000)
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
    def test_the_largest_products_that_there_can_be_are_close_too(self, loud):
        """Projections of up to 65504, products of up to 4 * 10**9, scaled down by down_proj."""
        made = self.mlp(loud, out=1e-5 if loud > 2000 else 0.1)
        expected = made(states())
        given = made.act_fn(made.gate_proj(states())).abs().max()
        assert given < 65504
        assert error(made.half()(states().half()), expected) < 2e-3

    def test_an_output_that_does_not_fit_saturates_with_its_sign(self):
        """Never NaN, never infinite, never zero: 65504 where float32 has more."""
        made = self.mlp(3000)
        expected = made(states())
        too_large = expected.abs() > 65520
        assert too_large.any()
        seen = made.half()(states().half())
        assert seen.isfinite().all()
        assert torch.equal(seen[too_large], (expected[too_large].sign() * 65504).half())
        assert (seen[expected.abs() > 1000] != 0).all()

    def test_projections_that_overflow_themselves_saturate_too(self):
        """gelu(-infinity) would be NaN; the output is finite, and large where float32 has it large."""
        made = self.mlp(400000)
        expected = made(states())
        made = made.half()
        assert not made.gate_proj(states().half()).isfinite().all()
        seen = made(states().half())
        assert seen.isfinite().all()
        assert (seen[expected.abs() > 1e6].abs() > 1000).all()

    def test_nan_is_not_hidden(self):
        """A NaN in the input is one in the output, in its own token only."""
        given = states().half()
        given[3, 0] = float("nan")
        seen = self.mlp(1000).half()(given)
        assert seen[3].isnan().all()
        assert seen[[0, 1, 2, 4, 5, 6, 7]].isfinite().all()

    @pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("loud", [1e-3, 1, 100, 340])
    def test_where_nothing_overflows_outputs_and_gradients_are_bit_identical(self, dtype, loud):
        """Also with subnormal products, signed zeros, and in bfloat16 and float32 at any size."""
        made = self.mlp(loud if dtype is HALF else 10 * loud).to(dtype)
        given = states().to(dtype)
        given[0] *= 1e-4
        given[1] = -0.0
        seen = {}
        for side in ("with", "without"):
            made.zero_grad()
            x = given.clone().requires_grad_()
            with zoo_hooks.disabled(self.patch) if side == "without" else contextlib.nullcontext():
                y = made(x)
            assert y.isfinite().all()
            (y * torch.linspace(-1, 1, 32).to(dtype)).sum().backward()
            seen[side] = [bits(t) for t in (y, x.grad, *(p.grad for p in made.parameters()))]
        for mine, plain in zip(seen["with"], seen["without"], strict=True):
            assert torch.equal(mine, plain)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_other_dtypes_run_the_operations_of_upstream_and_no_more(self, dtype):
        """Forward and backward, in bfloat16 and float32; in float16 it does run more."""
        made = self.mlp(1000)

        def ran(kind):
            x = states().to(kind).requires_grad_()
            made.to(kind).zero_grad()
            with Count() as count:
                made(x).sum().backward()
            return count.ran

        seen, half = ran(dtype), ran(HALF)
        with zoo_hooks.disabled(self.patch):
            assert ran(dtype) == seen
            assert ran(HALF).total() < half.total()

    def test_the_border_is_exact(self):
        """Products that round to 65504 are computed as upstream does it; the next is scaled."""
        made = self.mlp().half()
        made.act_fn = torch.nn.Identity()
        weight(made.down_proj).data.fill_(2.0**-10)
        factors = torch.tensor([[255.875, 256.0], [255.875, 255.875], [256.0, 256.0], [1.0, 65504.0]])
        for first, second in factors.half():
            made.gate_proj, made.up_proj = Fixed(first), Fixed(second)
            seen = made(states(2).half())
            with zoo_hooks.disabled(self.patch):
                plain = made(states(2).half())
            exact = float(first) * float(second) / 16
            if plain.isfinite().all():
                assert torch.equal(bits(seen), bits(plain))
            assert (seen.float() / exact - 1).abs().max() < 1e-3

    def test_gradients_are_finite_and_right_where_products_overflow(self):
        """Every parameter's and the input's gradient: cosine above 0.999, norm within 1 %."""
        grads = {}
        for dtype in (torch.float32, HALF):
            made = self.mlp(1000).to(dtype)
            x = states().to(dtype).requires_grad_()
            (made(x) * torch.linspace(-1e-3, 1e-3, 32).to(dtype)).sum().backward()
            grads[dtype] = [t.grad.flatten().double() for t in (x, *made.parameters())]
        for mine, right in zip(grads[HALF], grads[torch.float32], strict=True):
            assert mine.isfinite().all()
            assert torch.cosine_similarity(mine, right, dim=0) > 0.999
            assert float(mine.norm() / right.norm()) == pytest.approx(1, abs=0.01)

    def test_under_float16_autocast_it_is_close_to_float32(self):
        """float32 weights and inputs; the same bound as for plain float16."""
        made = self.mlp(1000)
        expected = made(states())
        with torch.autocast("cpu", dtype=HALF):
            seen = made(states())
        assert seen.dtype is HALF
        assert error(seen, expected) < 1e-3

    def test_a_wrapped_down_projection_is_used_as_it_is(self):
        """As with adapters: only called, with its own forward."""
        made = self.mlp(1000)
        made.down_proj = Doubled(made.down_proj)
        expected = made(states())
        assert error(made.half()(states().half()), expected) < 1e-3

    def test_a_down_projection_in_float32_keeps_its_dtype(self):
        """One that gives float32 for float16 still does."""
        made = self.mlp(1).half()
        made.down_proj = Doubled(torch.nn.Linear(64, 32, bias=False), torch.float32)
        assert made(states().half()).dtype is torch.float32

    def test_a_shard_of_a_token_saturates_and_is_not_scaled(self):
        """With tensor parallelism outputs are summed over the ranks, so all must have one scale."""
        made = self.mlp(1000).half()
        for name in ("gate_proj", "up_proj"):
            shard = weight(getattr(made, name))
            shard.data = shard.data[:32]
        shard = weight(made.down_proj)
        shard.data = shard.data[:, :32]
        given = states().half()
        product = (made.act_fn(made.gate_proj(given)) * made.up_proj(given)).clamp(-65504, 65504)
        assert torch.equal(made(given), made.down_proj(product))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("dtype", [HALF, torch.float32])
    def test_it_compiles_to_one_graph(self, backend, dtype):
        """``torch.compile(fullgraph=True)``, forward and backward, on loud and quiet tokens."""
        made = self.mlp(1000).to(dtype)
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

    def test_it_can_be_exported_and_batches_do_not_mix(self):
        """``torch.export`` gives the same; each token's output is that of the token alone."""
        made = self.mlp(1000).half()
        given = states().half()
        expected = made(given)
        assert torch.equal(torch.export.export(made, (given,)).module()(given), expected)
        for row in (0, 3, 7):
            assert error(made(given[row : row + 1]), expected[row : row + 1]) < 1e-3
        assert made(given[None]).shape == (1, *expected.shape)
        assert made(given[:0]).shape == (0, 32)

    def test_it_can_be_copied_and_pickled(self):
        """A deep copy and a pickle give the same in float16, scaled and not."""
        made = self.mlp(1000).half()
        expected = made(states().half())
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert torch.equal(other(states().half()), expected)

    def test_the_class_looks_as_it_did(self):
        """A plain function with upstream's name and signature."""
        kind = type(self.fresh())
        assert isinstance(kind.forward, types.FunctionType)
        seen = inspect.signature(kind.forward), kind.forward.__qualname__
        repaired = kind.forward
        with zoo_hooks.disabled(self.patch):
            assert seen == (inspect.signature(kind.forward), kind.forward.__qualname__)
            assert kind.forward is not repaired
