"""Kernels that triton compiles, without a GPU, pass the launchers of torch 2.9.1 and of the torch at hand."""

from __future__ import annotations

import ast
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import triton  # before torch, so that triton's side alone decides
import triton.language as tl
from conftest import python, recorded
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

import zoo_hooks

PATCH = "triton-compiled-kernel-dims"
AFFECTED = recorded(PATCH) == "AFFECTED"
HEURISTICS = "torch/_inductor/runtime/triton_heuristics.py"
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
    kernel.module, kernel._run = object(), print
    return kernel


def old_source():
    """The module as released with torch 2.9.1, out of a wheel; the code is the same for each platform."""
    return zipfile.ZipFile(os.environ["ZOO_HOOKS_TEST_TORCH"]).read(HEURISTICS).decode()


def result(kernel, source=None):
    """What Inductor makes a launcher with: that of the torch at hand, or the one in a source."""
    from torch._inductor.runtime import triton_heuristics

    space = dict(vars(triton_heuristics))
    if source is not None:
        tree = ast.parse(source)
        names = ("CompileResult", "TritonCompileResult")
        classes = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name in names]
        assert len(classes) == 2
        lifted = [*ast.parse("from __future__ import annotations").body, *classes]
        exec(compile(ast.Module(lifted, []), HEURISTICS, "exec"), space)
    config = triton.Config({"XBLOCK": 512}, num_warps=4, num_stages=1)
    meta = {"signature": SIGNATURE, "constants": {"XBLOCK": 512}}
    return space["TritonCompileResult"](kernel, config, meta, {"grid_type": "Grid1D"})


def launched(made):
    """The arguments with which a launcher runs its kernel, and what it holds of CTAs."""
    calls = []
    made.kernel._run = lambda *given: calls.append(given)
    launcher = made.make_launcher()
    launcher("in", "out", 1000, stream=7)
    # What triton 3.9.0 holds ready for its hooks, also where there are none, is a new object each time.
    given = tuple(getattr(one, "data", one) for one in calls[0])
    return given, launcher.__globals__["cta_args"]


def after_a_worker(made):
    """The same result as the parent process gets it: made again with __new__ and a dictionary."""
    state = made.__getstate__()
    source, run = state["kernel"].pop("src"), state["kernel"].pop("_run")
    state["kernel"]["module"] = None
    other = type(made).__new__(type(made))
    other.__setstate__(pickle.loads(pickle.dumps(state)))
    other.kernel.src, other.kernel._run, other.kernel.module = source, run, object()
    assert type(other.kernel) is CompiledKernel
    return other


@pytest.mark.parametrize("target", [HOPPER, MI300], ids=["nvidia", "amd"])
@pytest.mark.parametrize("way", [lambda made: made, after_a_worker], ids=["here", "worker"])
def test_a_kernel_passes_the_launcher_of_torch_2_9(target, way):
    """``make_launcher`` of 2.9.1 gives a launcher that hands on what it should, for NVIDIA and AMD."""
    given, ctas = launched(way(result(compiled(target), old_source())))
    assert given[:4] == (2, 1, 1, 7)
    assert given[-4:-1] == ("in", "out", 1000)
    assert ctas == (1, 1, 1, 1)


@pytest.mark.parametrize("ctas", [2, 4])
def test_more_than_one_cta_is_told_truly(ctas):
    """The properties have the values of the kernel's own metadata, also after the worker."""
    kernel = compiled(num_ctas=ctas)
    assert kernel.metadata.num_ctas == ctas
    for made in (result(kernel, old_source()), after_a_worker(result(kernel, old_source()))):
        _, seen = launched(made)
        assert seen[0] == ctas
        assert not AFFECTED or seen == (ctas, ctas, 1, 1)


def test_without_the_repair_torch_2_9_cannot_launch(measured):
    """``AttributeError: 'KernelMetadata' object has no attribute 'cluster_dims'``, and none up to 3.5.1."""
    row = measured(PATCH)
    assert ("has no attribute 'cluster_dims'" in row["without"]) == AFFECTED
    assert row["with"] == "(1, 1, 1, 1)"
    with zoo_hooks.disabled(PATCH):
        made = result(compiled(), old_source())
        if AFFECTED:
            with pytest.raises(AttributeError, match="cluster_dims"):
                made.make_launcher()
        else:
            made.make_launcher()


def test_only_an_affected_triton_gets_the_properties():
    """They stand on the class; a kernel's dictionary and its metadata are as triton made them."""
    names = ("num_ctas", "cluster_dims")
    assert {isinstance(vars(CompiledKernel).get(name), property) for name in names} == {AFFECTED}
    kernel = compiled()
    assert not set(names) & set(vars(kernel))
    assert ("cluster_dims" in kernel.metadata._fields) != AFFECTED


def test_they_change_nothing_for_a_torch_that_looks_first():
    """The launcher of the torch at hand runs a kernel with the same arguments with and without them."""
    from torch._inductor.runtime import triton_heuristics

    assert Path(triton_heuristics.__file__).read_text().count('"cluster_dims"') == 2
    kernel = compiled()
    given, ctas = launched(result(kernel))
    code = result(kernel).make_launcher().__code__
    with zoo_hooks.disabled(PATCH):
        without, ctas_without = launched(result(kernel))
        assert result(kernel).make_launcher().__code__.co_code == code.co_code
    assert given == without
    assert (ctas == ctas_without) != AFFECTED  # in the scope, where no argument is made of it


@pytest.mark.parametrize(
    ("before", "status"),
    [
        ("", "APPLIED"),
        ("import torch", "NOT_NEEDED"),
        ("import torch._inductor.runtime.triton_heuristics", "NOT_NEEDED"),
        ("import torch; OLD", "APPLIED"),
    ],
    ids=["torch-never", "torch-first", "inductor-first", "torch-2.9-first"],
)
def test_the_torch_that_is_loaded_decides(before, status, tmp_path):
    """Where none is, triton does; 2.9.1 is stood in for by a folder that holds its source."""
    folder = tmp_path / Path(HEURISTICS).relative_to("torch").parent
    folder.mkdir(parents=True)
    (folder / "triton_heuristics.py").write_text(old_source())
    before = before.replace("OLD", f"torch.__path__.insert(0, {str(tmp_path)!r})")
    python(f"""
        {before}
        import triton.compiler, zoo_hooks
        kind = triton.compiler.CompiledKernel
        seen = zoo_hooks.report()[{PATCH!r}].status.name
        assert seen == ({status!r} if {AFFECTED} else "NOT_NEEDED"), seen
        assert isinstance(vars(kind).get("num_ctas"), property) == (seen == "APPLIED")
        import torch
        assert zoo_hooks.report()[{PATCH!r}].status.name == seen
    """)


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
def test_a_tool_that_gives_each_kernel_the_two_is_not_fought(first):
    """Before us it is seen and left alone; after us what it sets on a kernel is what is read."""
    order = [OWN_FIX, "zoo_hooks.activate()"] if first else ["zoo_hooks.activate()", OWN_FIX]
    python(f"""
    import zoo_hooks
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
    """)
