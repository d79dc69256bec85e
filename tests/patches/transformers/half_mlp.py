"""What must hold of a gated MLP in float16, for the tests of the patches that repair one."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import inspect
import io
import pickle
import types
import warnings

import half_layers
import pytest
import torch
from torch import distributed
from torch._subclasses import FakeTensorMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.modules.module import register_module_forward_hook
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import zoo_hooks

HALF = torch.float16


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


def others(plain):
    """What others may have put in the place of a forward: one that hands on, and one that is right."""

    @functools.wraps(plain)
    def hands_on(self, *given, **named):
        return plain(self, *given, **named)

    def is_right(self, x):
        gate, up = self.act_fn(self.gate_proj(x)), self.up_proj(x)
        return (gate.float() * up.float() / 2**9).half() @ self.down_proj.weight.T * 2**9

    return hands_on, is_right


def without(patch, function, *given):
    """What a function gives without a patch."""
    with zoo_hooks.disabled(patch):
        return function(*given)


def kept(made, given, *more):
    """Bytes that one forward keeps for the backward pass."""
    seen = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = made(given.requires_grad_(), *more)
    del result
    return sum(seen.values())


class Count(TorchDispatchMode):
    """How often each operation runs inside."""

    def __init__(self):
        super().__init__()
        self.ran = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ran[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def world():
    """A mesh of two processes of which only this one exists: sums over both are what it has."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield distributed.device_mesh.init_device_mesh("cpu", (2,))
    distributed.destroy_process_group()


@pytest.fixture
def alone():
    """A group of one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


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

    def test_an_output_that_does_not_fit_is_infinite_with_its_sign(self):
        """As upstream rounds any other; what fits is close to float32 beside it."""
        made = self.mlp(3000)
        expected = made(states())
        seen = made.half()(states().half()).float()
        border = 65520
        fits, too_large = expected.abs() < 0.99 * border, expected.abs() > 1.01 * border
        assert torch.equal(seen[too_large], expected[too_large].sign() * float("inf"))
        assert ((seen - expected).abs()[fits] < 2e-3 * expected.abs().max()).all()
        assert too_large.any()

    def test_a_projection_that_does_not_fit_itself_leaves_its_token_as_upstream_has_it(self):
        """Not one value of it is finite; tokens beside it are close to float32."""
        made = self.mlp(400000)
        given = states()
        given[::2] /= 2000
        expected = made(given)
        made.half()
        projected = torch.cat([made.gate_proj(given.half()), made.up_proj(given.half())], -1)
        lost = ~projected.isfinite().all(-1)
        assert lost.any()
        assert not lost[::2].any()
        seen = made(given.half())
        assert not seen[lost].isfinite().any()
        assert error(seen[::2], expected[::2]) < 2e-3

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

    @pytest.mark.parametrize("change", half_layers.KNOWN, ids=lambda change: change.__name__)
    def test_a_down_projection_that_is_known_to_be_linear_is_scaled(self, change):
        """Close to float32; with accelerate's hooks of ``device_map`` and a weight as FSDP has it, too."""
        made = self.mlp(1000)
        expected = made(states())
        made.half()
        change(made)
        assert error(made(states().half()), expected) < 1e-3

    @pytest.mark.parametrize("change", half_layers.UNKNOWN, ids=lambda change: change.__name__)
    def test_any_other_is_given_what_upstream_gives_it(self, change):
        """Never a finite wrong number: the outputs and gradients of upstream, NaN where it has them."""
        made = self.mlp(1000)
        change(made)
        made.half()
        self.same_as_upstream(made)

    def test_a_hook_on_all_modules_leaves_it_as_upstream_has_it(self):
        """It may add to what a projection gives, too."""
        hook = register_module_forward_hook(
            lambda module, _, output: output + 300 if getattr(module, "out_features", 0) == 32 else None
        )
        try:
            self.same_as_upstream(self.mlp(1000).half())
        finally:
            hook.remove()

    def test_another_forward_of_the_class_leaves_it_as_upstream_has_it(self, monkeypatch):
        """One that others have put there."""
        plain = torch.nn.Linear.forward

        @functools.wraps(plain)
        def forward(layer, given):
            return plain(layer, given) + 300 * (layer.out_features == 32)

        monkeypatch.setattr(torch.nn.Linear, "forward", forward)
        self.same_as_upstream(self.mlp(1000).half())

    def same_as_upstream(self, made):
        """Output and gradients, on tokens of which some overflow."""
        seen = []
        for names in ([], [self.patch]):
            made.zero_grad()
            x = states().half().requires_grad_()
            with zoo_hooks.disabled(*names) if names else contextlib.nullcontext():
                y = made(x)
                y.float().sum().backward()
            seen.append([y, x.grad, *(p.grad for p in made.parameters())])
        assert 0 < seen[0][0].isfinite().all(-1).sum() < len(states())
        torch.testing.assert_close(*seen, rtol=0, atol=0, equal_nan=True)

    def test_a_subclass_with_a_forward_of_its_own_keeps_it(self):
        """And what it asks of its base class is repaired."""
        made = self.mlp(1000)
        expected = made(states())

        class Sub(type(made)):
            def forward(self, x):
                return super().forward(x) + 1

        made.__class__ = Sub
        assert error(made.half()(states().half()), expected + 1) < 1e-3

    @pytest.mark.parametrize("between", [{}, {"use_local_output": False}])
    def test_tensor_parallelism_is_left_as_upstream_has_it(self, between, world):
        """With local tensors and with DTensors between; no process sees the products of a whole token."""
        made = self.mlp(1000).half()
        made.requires_grad_(requires_grad=False)
        kinds = {"gate_proj": ColwiseParallel, "up_proj": ColwiseParallel, "down_proj": RowwiseParallel}
        for name, kind in kinds.items():
            layer, how = getattr(made, name), between if kind is ColwiseParallel else {}
            parallelize_module(getattr(layer, "linear", layer), world, kind(**how))
        seen = []
        for names in ([], [self.patch]):
            with zoo_hooks.disabled(*names) if names else contextlib.nullcontext():
                y = made(states().half())
            seen.append(y.to_local() if hasattr(y, "to_local") else y)
        assert not seen[1].isfinite().all()
        torch.testing.assert_close(*seen, rtol=0, atol=0, equal_nan=True)

    def test_three_steps_of_ddp_are_those_without_it(self, alone):
        """Default arguments, one process; loud tokens too."""
        trained = []
        for wrapped in (False, True):
            made = self.mlp(1000).half()
            run = torch.nn.parallel.DistributedDataParallel(made, process_group=alone) if wrapped else made
            optimizer = torch.optim.SGD(made.parameters(), 1e-4)
            for _ in range(3):
                optimizer.zero_grad()
                (run(states().half()).float() / 1e4).square().mean().backward()
                optimizer.step()
            trained.append([p.data for p in made.parameters()])
        assert all(p.isfinite().all() for p in trained[0])
        torch.testing.assert_close(*trained, rtol=0, atol=0)
        assert not all(map(torch.equal, trained[0], self.mlp(1000).half().parameters()))

    @pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
    def test_nested_tensors_are_left_as_upstream_has_them(self, layout):
        """Rows of several lengths; not all of their operations exist."""
        made = self.mlp(1000).half()
        given = torch.nested.nested_tensor([states(3).half(), states(5).half()], layout=layout)
        seen = made(given).unbind()
        torch.testing.assert_close(seen, without(self.patch, made, given).unbind(), equal_nan=True)

    @pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
    def test_shapes_can_be_inferred(self, dtype):
        """On the meta device and with fake tensors."""
        made = self.mlp().to(dtype)
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert made(torch.empty(8, 32, dtype=dtype)).shape == (8, 32)
        made = self.mlp().to("meta", dtype)
        assert made(torch.empty(8, 32, dtype=dtype, device="meta")).shape == (8, 32)

    @pytest.mark.parametrize("loud", [1, 1000])
    def test_it_can_be_traced(self, loud):
        """``torch.jit.trace``, without a warning; what it recorded is right for other tokens."""
        made = self.mlp(loud).half()
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(made, states().half())
        for given in (states().half(), states().half().flip(0) / 8):
            assert torch.equal(traced(given), made(given))

    def test_the_exporter_of_torchscript_comes_as_far_as_upstream(self):
        """ONNX; without the package both end with the same word."""

        def outcome():
            try:
                torch.onnx.export(self.mlp(1000).half(), (states().half(),), io.BytesIO(), dynamo=False)
            except torch.onnx.errors.OnnxExporterError as error:
                return str(error)
            return "exported"

        seen = outcome()
        with zoo_hooks.disabled(self.patch):
            assert outcome() == seen

    def test_functional_transforms_work(self):
        """vmap, its gradient, and forward mode: with the figures of upstream where nothing overflows."""
        made, given = self.mlp(100).half(), states().half()

        def results():
            loss = lambda x: made(x).float().sum()  # noqa: E731
            return (
                torch.func.vmap(made)(given[:, None]),
                torch.func.vmap(torch.func.grad(loss))(given),
                torch.func.jvp(made, (given,), (torch.ones_like(given),))[1],
                torch.func.grad(lambda x: torch.func.grad(loss)(x).float().square().sum())(given),
            )

        seen = results()
        with zoo_hooks.disabled(self.patch):
            torch.testing.assert_close(seen, results(), rtol=0, atol=0)

    def test_it_keeps_no_more_for_the_backward_pass_than_upstream(self):
        """Of 512 tokens, in float16: at most 5 % more bytes."""
        made, given = self.mlp().half(), states(512).half()
        assert kept(made, given) <= 1.05 * without(self.patch, kept, made, given)

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
