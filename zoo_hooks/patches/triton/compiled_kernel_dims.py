"""``torch.compile`` of torch 2.8 and 2.9 fails on a GPU with triton 3.6, which removed ``cluster_dims``.

Symptom
-------
``torch.compile`` on a GPU raises ``InductorError: AttributeError: 'KernelMetadata' object has no attribute
'cluster_dims'``. With torch 2.9, the kernels that its static launcher takes are not affected. These are
most of Inductor's own kernels for NVIDIA, but neither kernels for AMD nor user-written kernels.

Cause
-----
triton 3.6.0 removed ``cluster_dims`` from its backends' options, and so from the metadata of each kernel.
Inductor's ``make_launcher`` reads it from the metadata if the kernel itself has no ``num_ctas``. From torch
2.10 on, Inductor checks first. The static launcher reads ``num_ctas`` and nothing that was removed; that of
torch 2.8 takes no kernel of triton 3.5.1 and later. The launchers of torch 2.8.0 and 2.9.1 were run; those
of 2.9.0 have the same code.

Repair
------
``CompiledKernel`` gets two properties: ``num_ctas``, from its metadata, and ``cluster_dims``, which is
``(num_ctas, 1, 1)``. Inductor looks for both on the kernel first. Kernels compiled in a worker process are
rebuilt without ``__init__``, and the properties work for them too. zoo-hooks reads the source of the
installed torch to decide. So it does not matter whether torch is imported before triton, after it, or not
yet. If that torch checks first, or no torch is installed, nothing is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

DIMS = "cluster_dims"


def probe(module: ModuleType) -> Verdict:
    kernel = module.CompiledKernel
    init = kernel.__init__.__code__
    options = list(_options())
    if not options:
        return Verdict.UNKNOWN
    if all(DIMS in fields for fields in options) or _torch_looks_first():
        return Verdict.FIXED
    repaired = hasattr(kernel, DIMS) or DIMS in init.co_names + init.co_consts
    return Verdict.FIXED if repaired else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    def num_ctas(self: Any) -> Any:
        return self.metadata.num_ctas

    def cluster_dims(self: Any) -> Any:
        return self.num_ctas, 1, 1

    for name, otherwise in (("num_ctas", num_ctas), (DIMS, cluster_dims)):
        changes.replace(module.CompiledKernel, name, _own_or(name, otherwise))


def canary() -> Figure:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(triton.jit(_kernel), signature={"out": "*fp32"})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    holder = kernel if hasattr(kernel, "num_ctas") else kernel.metadata
    if _torch_looks_first() and not hasattr(holder, DIMS):
        return Figure("nothing", healthy=True)
    seen = (holder.num_ctas, *holder.cluster_dims)
    return Figure(str(seen), healthy=seen == (1, 1, 1, 1))


def _kernel(out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - triton compiles its source
    pass


def _own_or(name: str, otherwise: Callable[[Any], Any]) -> property:
    """What a kernel has itself, for other tools give each one the two when it is made; else ``otherwise``."""

    def get(self: Any) -> Any:
        own = vars(self)
        return own[name] if name in own else otherwise(self)

    def set_own(self: Any, value: Any) -> None:
        vars(self)[name] = value

    def delete_own(self: Any) -> None:
        if name not in vars(self):
            raise AttributeError(name)
        del vars(self)[name]

    return property(get, set_own, delete_own)


def _options() -> Iterator[Any]:
    """The names of the options of each backend that is installed."""
    for backend in sys.modules["triton.backends"].backends.values():
        for value in vars(sys.modules[backend.compiler.__module__]).values():
            if "num_ctas" in (fields := getattr(value, "__dataclass_fields__", ())):
                yield fields


def _torch_looks_first() -> bool:
    """Whether the launcher of the torch that is installed looks for the name first, or there is none."""
    for folder in _torch():
        file = Path(folder, "_inductor", "runtime", "triton_heuristics.py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return f".{DIMS}" not in text or text.count(f'"{DIMS}"') > 1  # the second is the look
    return True


def _torch() -> Iterable[str]:
    """Where torch lies; it is not imported for that."""
    if "torch" in sys.modules:
        return getattr(sys.modules["torch"], "__path__", ())
    spec = find_spec("torch")
    return (spec and spec.submodule_search_locations) or ()


PATCH = Patch(
    module=__name__,
    title="torch 2.8 and 2.9 read cluster_dims, which kernels of triton 3.6 no longer have",
    severity="crash",
    symptoms=("'KernelMetadata' object has no attribute 'cluster_dims'",),
    targets=("triton.compiler.compiler",),
    affects=("triton>=3.6.0", "torch>=2.8.0,<2.10.0"),
    links=(
        "https://github.com/pytorch/pytorch/pull/167187",
        "https://github.com/ROCm/pytorch/pull/2838",
        "https://github.com/unslothai/unsloth/pull/4001",
    ),
    measures="num_ctas and cluster_dims that torch reads from a kernel (expected: (1, 1, 1, 1), or nothing)",
    probe=probe,
    repair=repair,
    canary=canary,
)
