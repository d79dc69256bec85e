"""Kernels that triton compiles, without a GPU, pass the launchers of old torch and of the torch at hand.

The old ones are lifted from the wheels that ``ZOO_HOOKS_TEST_TORCH`` names: 2.9.1, and in one cell 2.8.0.
Those of 2.9.0 are the same to the byte. By hand all of this was also run with 2.8.0 beside triton 3.5.1 and
3.9.0 and, but for AMD, 3.4.0; and kernels for NVIDIA passed the launchers of 2.10.0.
"""

from __future__ import annotations

import ast
import inspect
import json
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType

import old_torch  # imports triton
import pytest
import triton
import triton.language as tl
from conftest import child, installed, python, seen
from old_torch import WHEELS, source_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

import zoo_hooks
from zoo_hooks import catalogue

PATCH = "triton/compiled-kernel-dims"


def verdict(torch):
    """What is recorded for the triton at hand beside a torch."""
    here = {"triton": installed("triton"), "torch": torch}
    (found,) = (verdict for releases, verdict in seen(catalogue.get(PATCH)) if releases == here)
    return found


AFFECTED = verdict("2.9.1") == "AFFECTED"
RUN = "_run" if hasattr(CompiledKernel, "run") else "run"  # up to triton 3.4 it is no property
HOPPER, MI300 = GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)


@triton.jit
def add_one(source, target, xnumel, XBLOCK: tl.constexpr):  # noqa: N803 - Inductor's grids know it by this name
    at = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < xnumel) + 1, mask=at < xnumel)


SIGNATURE = {"source": "*fp32", "target": "*fp32", "xnumel": "i32", "XBLOCK": "constexpr"}


def compiled(target=HOPPER, **options):
    """A real kernel, down to its binary; only loading it onto a device is stood in for."""
    source = ASTSource(add_one, signature=SIGNATURE, constexprs={"XBLOCK": 512})
    kernel = triton.compile(source, target=target, options=options)
    assert kernel.kernel
    kernel.module = object()
    setattr(kernel, RUN, print)
    return kernel


def named(wheel):
    return re.search(r"torch-[\d.]+", wheel)[0] if isinstance(wheel, str) else None


@pytest.fixture(params=WHEELS, ids=named)
def old(request):
    """A wheel of torch that reads without looking."""
    return request.param


def result(kernel, wheel=None):
    """What Inductor makes a launcher with: that of the torch at hand, or the one in a wheel."""
    from torch._inductor.runtime import triton_heuristics

    space = dict(vars(triton_heuristics))
    if wheel is not None:
        tree = ast.parse(source_of(wheel))
        names = ("CompileResult", "TritonCompileResult")
        classes = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name in names]
        assert len(classes) == 2
        lifted = [*ast.parse("from __future__ import annotations").body, *classes]
        exec(compile(ast.Module(lifted, []), wheel, "exec"), space)
    config = triton.Config({"XBLOCK": 512}, num_warps=4, num_stages=1)
    meta = {"signature": SIGNATURE, "constants": {"XBLOCK": 512}}
    return space["TritonCompileResult"](kernel, config, meta, {"grid_type": "Grid1D"})


def launched(made):
    """The arguments with which a launcher runs its kernel, and what it holds of CTAs."""
    calls = []
    setattr(made.kernel, RUN, lambda *given: calls.append(given))
    launcher = made.make_launcher()
    block = inspect.signature(launcher).parameters.get("XBLOCK")
    # Inductor of torch 2.8 hands these on, from 2.9 the launcher knows them.
    constants = [512] if block and block.default is block.empty else []
    launcher("in", "out", 1000, *constants, stream=7)
    # What triton 3.9.0 holds ready for its hooks, also where there are none, is a new object each time.
    given = tuple(getattr(one, "data", one) for one in calls[0])
    return given, launcher.__globals__["cta_args"]


def after_a_worker(made):
    """The same result as the parent process gets it: made again with __new__ and a dictionary."""
    state = made.__getstate__()
    source = state["kernel"].pop("src")
    state["kernel"].pop(RUN)
    other = type(made).__new__(type(made))
    other.__setstate__(pickle.loads(pickle.dumps(state)))
    assert type(other.kernel) is CompiledKernel
    assert not {"num_ctas", "cluster_dims"} & set(vars(other.kernel))
    other.kernel.src, other.kernel.module = source, object()
    return other


@pytest.mark.parametrize("target", [HOPPER, MI300], ids=["nvidia", "amd"])
@pytest.mark.parametrize("way", [lambda made: made, after_a_worker], ids=["here", "worker"])
def test_a_kernel_passes_the_launcher_of_old_torch(target, way, old):
    """Its ``make_launcher`` gives a launcher that hands on what it should, for NVIDIA and AMD."""
    given, ctas = launched(way(result(compiled(target), old)))
    assert given[:4] == (2, 1, 1, 7)
    assert given[-4:] == ("in", "out", 1000, 512)
    assert ctas == (1, 1, 1, 1)


@pytest.mark.parametrize("ctas", [2, 4])
def test_more_than_one_cta_is_told_truly(ctas, old):
    """The properties have the values of the kernel's own metadata, also after the worker."""
    kernel = compiled(num_ctas=ctas)
    assert kernel.metadata.num_ctas == ctas
    for made in (result(kernel, old), after_a_worker(result(kernel, old))):
        _, seen = launched(made)
        assert seen == (ctas, ctas, 1, 1)


@pytest.mark.parametrize("target", [HOPPER, MI300], ids=["nvidia", "amd"])
def test_without_the_repair_old_torch_cannot_launch(target, old):
    """``AttributeError: 'KernelMetadata' object has no attribute 'cluster_dims'``, and none up to 3.5.1."""
    with zoo_hooks.disabled(PATCH):
        made = result(compiled(target), old)
        if AFFECTED:
            with pytest.raises(AttributeError, match="cluster_dims"):
                made.make_launcher()
        else:
            made.make_launcher()


def test_the_canary_reads_what_the_torch_that_is_installed_reads(old, tmp_path, measured):
    """Beside an old one the error without and (1, 1, 1, 1) with; beside the one at hand nothing is amiss."""
    code = f"""
        import sys, json, zoo_hooks
        zoo_hooks.init()
        from zoo_hooks import catalogue
        patch = catalogue.get({PATCH!r})
        try:
            figure = patch.canary()
            print(json.dumps([figure.value, figure.healthy]))
        except AttributeError as error:
            print(json.dumps([str(error), False]))
    """
    place = old_torch.old_torch(tmp_path, old)
    without, with_hooks = (
        json.loads(child(code, PYTHONPATH=place, ZOO_HOOKS=hooks).stdout) for hooks in ("0", "1")
    )
    assert ("no attribute 'cluster_dims'" in without[0]) == AFFECTED
    assert with_hooks == ["(1, 1, 1, 1)", True]
    assert measured(PATCH)["result"] == "not needed"


def test_only_an_affected_triton_gets_the_properties():
    """They stand on the class; a kernel's dictionary and its metadata are as triton made them."""
    names = ("num_ctas", "cluster_dims")
    assert {isinstance(vars(CompiledKernel).get(name), property) for name in names} == {AFFECTED}
    kernel = compiled()
    assert not set(names) & set(vars(kernel))
    assert ("cluster_dims" in kernel.metadata._fields) != AFFECTED


@pytest.mark.parametrize("backend", ["nvidia", "amd"])
def test_the_options_of_each_backend_are_asked(backend, monkeypatch, tmp_path, old):
    """Where only one is installed, its options decide, and what the torch that is installed reads."""
    backends = sys.modules["triton.backends"]
    monkeypatch.setattr(backends, "backends", {backend: backends.backends[backend]})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(old_torch.old_torch(tmp_path, old))
    with zoo_hooks.disabled(PATCH):
        found = catalogue.get(PATCH).probe(sys.modules["triton.compiler.compiler"])
    assert found.name == verdict(named(old).removeprefix("torch-"))


def statically(kernel, wheel=None):
    """What Inductor's static launcher, of the torch at hand or of a wheel, takes from a kernel."""
    space = vars(ModuleType("torch._inductor.runtime.static"))
    if wheel is None:
        from torch._inductor.runtime import static_triton_launcher

        space |= vars(static_triton_launcher)
    else:
        space["__package__"] = "torch._inductor.runtime"
        exec(compile(source_of(wheel, "static_cuda_launcher"), wheel, "exec"), space)
    kernel._cubin_path = "where it is"
    try:
        return vars(space["StaticallyLaunchedCudaKernel"](kernel))
    except NotImplementedError as refusal:
        return str(refusal)


@pytest.mark.parametrize("wheel", [None, *WHEELS], ids=named)
@pytest.mark.parametrize("ctas", [1, 2])
def test_the_static_launcher_takes_and_refuses_the_same_kernels(ctas, wheel):
    """It reads ``num_ctas`` and nothing that is gone; that of 2.8 takes no kernel of triton from 3.5.1."""
    kernel = compiled(num_ctas=ctas)
    taken = statically(kernel, wheel)
    with zoo_hooks.disabled(PATCH):
        assert taken == statically(kernel, wheel)
    if wheel and "torch-2.8" in wheel and RUN == "_run":
        assert taken == "We don't support launch enter or launch exit hooks"
    elif ctas > 1:
        assert taken == "Static cuda launcher only supports num_ctas == 1"
    else:
        assert taken["num_warps"] == kernel.metadata.num_warps


def test_they_change_nothing_for_a_torch_that_looks_first():
    """The launcher of the torch at hand runs a kernel with the same arguments with and without them."""
    from torch._inductor.runtime import triton_heuristics

    assert Path(triton_heuristics.__file__).read_text().count('"cluster_dims"') == 2
    kernel = compiled()
    given, ctas = launched(result(kernel))
    assert given[:4] == (2, 1, 1, 7)
    code = result(kernel).make_launcher().__code__
    with zoo_hooks.disabled(PATCH):
        without, ctas_without = launched(result(kernel))
        assert result(kernel).make_launcher().__code__.co_code == code.co_code
    assert given == without
    assert (ctas == ctas_without) != AFFECTED  # in the scope, where no argument is made of it


ORDERS = [
    ("triton.compiler",),
    ("torch", "triton.compiler"),
    ("triton.compiler", "torch"),
    ("torch._inductor.runtime.triton_heuristics", "triton.compiler"),
    ("triton.compiler", "torch._inductor.runtime.triton_heuristics"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_torch_that_is_installed_decides_whichever_is_imported_first(order):
    """That at hand looks first, so nothing is done, and no torch is imported to find that out."""
    python(f"""
        import {", ".join(order)}
        import sys, triton.compiler, zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
        assert not isinstance(vars(triton.compiler.CompiledKernel).get("num_ctas"), property)
        assert ("torch" in sys.modules) == {any("torch" in name for name in order)}
    """)


@pytest.mark.parametrize("order", ORDERS[:3], ids="-".join)
def test_an_old_torch_decides_whichever_is_imported_first(order, old, tmp_path):
    """It is stood in for by a package that holds the source of its launcher."""
    python(
        f"""
        import zoo_hooks
        zoo_hooks.init()
        import {", ".join(order)}
        import triton.compiler
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ("APPLIED" if {AFFECTED} else "NOT_NEEDED"), seen
        assert isinstance(vars(triton.compiler.CompiledKernel).get("num_ctas"), property) == {AFFECTED}
    """,
        PYTHONPATH=old_torch.old_torch(tmp_path, old),
    )


def test_without_torch_nothing_is_done():
    """Nobody reads the two."""
    python(f"""
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "torch" else find(name, *more)
        import triton.compiler, zoo_hooks
        assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
    """)


@pytest.mark.skipif(not AFFECTED, reason="up to triton 3.5.1 nothing is put on the class")
@pytest.mark.parametrize("name", ["num_ctas", "cluster_dims"])
def test_a_kernel_has_the_two_like_any_attribute(name):
    """Set, read and deleted again; one without metadata has none, as without the repair."""

    class Bare(CompiledKernel):
        def __del__(self):
            """Triton's own, from 3.9 on, reads what this one lacks."""

    bare = Bare.__new__(Bare)
    assert not hasattr(bare, name)
    with pytest.raises(AttributeError, match=name):
        delattr(bare, name)
    setattr(bare, name, 5)
    assert (getattr(bare, name), vars(bare)) == (5, {name: 5})
    delattr(bare, name)
    assert not hasattr(bare, name)


OWN_FIX = """
    import triton.compiler.compiler as compiler
    kind = compiler.CompiledKernel
    original = kind.__init__
    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.num_ctas = self.metadata.num_ctas
        self.cluster_dims = (self.num_ctas, 1, 1)
    kind.__init__ = init
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_tool_that_gives_each_kernel_the_two_is_not_fought(first, tmp_path):
    """Before us it is seen and left alone; after us what it sets on a kernel is what is read."""
    order = [OWN_FIX, "zoo_hooks.activate()"] if first else ["zoo_hooks.activate()", OWN_FIX]
    code = f"""
    import zoo_hooks
    zoo_hooks.init()
    if {first}:
        __import__("sys").meta_path.remove(zoo_hooks)
    {order[0]}
    {order[1]}
    from types import SimpleNamespace
    import triton.compiler.compiler as compiler
    seen = zoo_hooks.report()[{PATCH!r}].status.name
    assert seen == ("APPLIED" if {AFFECTED} and not {first} else "NOT_NEEDED"), seen
    kernel = compiler.CompiledKernel.__new__(compiler.CompiledKernel)
    kernel.metadata = SimpleNamespace(num_ctas=2)
    kernel.num_ctas, kernel.cluster_dims = 4, (4, 1, 1)
    assert (kernel.num_ctas, kernel.cluster_dims) == (4, (4, 1, 1))
    """
    python(code, PYTHONPATH=old_torch.old_torch(tmp_path))
