"""torch 2.8 and 2.9 read cluster dimensions that kernels of triton 3.6 no longer have.

Symptom
-------
``torch.compile`` on a GPU raises ``InductorError: AttributeError: 'KernelMetadata' object has no attribute
'cluster_dims'``. With torch 2.9 this spares the kernels that its static launcher takes: most of Inductor's
own for NVIDIA, but neither AMD's nor those that users have written.

Cause
-----
triton 3.6.0 dropped ``cluster_dims`` from its backends' options, and so from the metadata of each kernel.
Inductor's ``make_launcher`` reads it there when the kernel has no ``num_ctas`` itself; from torch 2.10 it
looks first. Its static launcher reads ``num_ctas`` and nothing that is gone; that of torch 2.8 takes no
kernel of triton 3.5.1 and later. The launchers of torch 2.8.0 and 2.9.1 were run; those of 2.9.0 are the
same code.

Repair
------
``CompiledKernel`` gets two properties: ``num_ctas``, from its metadata, and ``cluster_dims``, which is
``(num_ctas, 1, 1)``. Inductor asks the kernel first for both. Kernels that a worker process has compiled have
them too, for those are made again without ``__init__``. Where a torch is loaded that looks first, nothing is
done. If such a one is loaded later, the two values reach its launcher's scope and are not used there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    if all(DIMS in fields for fields in options) or not _torch_reads_unguarded():
        return Verdict.FIXED
    repaired = hasattr(kernel, DIMS) or DIMS in init.co_names + init.co_consts
    return Verdict.FIXED if repaired else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    def num_ctas(self: Any) -> Any:
        return vars(self).get("num_ctas", self.metadata.num_ctas)

    def cluster_dims(self: Any) -> Any:
        return vars(self).get(DIMS) or (self.num_ctas, 1, 1)

    # They can be set: other tools give each kernel the two when it is made.
    for name, get in (("num_ctas", num_ctas), (DIMS, cluster_dims)):
        changes.replace(module.CompiledKernel, name, property(get, _setter(name)))


def canary() -> Figure:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(triton.jit(_kernel), signature={"out": "*fp32"})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    holder = kernel if hasattr(kernel, "num_ctas") else kernel.metadata  # as torch 2.9 does
    seen = (holder.num_ctas, *holder.cluster_dims)
    return Figure(str(seen), healthy=seen == (1, 1, 1, 1))


def _kernel(out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - triton compiles its source
    pass


def _setter(name: str) -> Any:
    def set_own(self: Any, value: Any) -> None:
        vars(self)[name] = value

    return set_own


def _options() -> Iterator[Any]:
    """The names of the options of each backend that is installed."""
    for backend in sys.modules["triton.backends"].backends.values():
        for value in vars(sys.modules[backend.compiler.__module__]).values():
            if "num_ctas" in (fields := getattr(value, "__dataclass_fields__", ())):
                yield fields


def _torch_reads_unguarded() -> bool:
    """What the torch that is loaded does; True where there is none yet, for 2.9 may come."""
    for folder in getattr(sys.modules.get("torch"), "__path__", ()):
        file = Path(folder, "_inductor", "runtime", "triton_heuristics.py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return f".{DIMS}" in text and text.count(f'"{DIMS}"') < 2  # noqa: PLR2004 - the second is its guard
    return True


PATCH = Patch(
    module=__name__,
    title="torch 2.8 and 2.9 read cluster dimensions that kernels of triton 3.6 no longer have",
    targets=("triton.compiler.compiler",),
    affects=("triton>=3.6.0", "torch>=2.8.0,<2.10.0"),
    links=(
        "https://github.com/pytorch/pytorch/pull/167187",
        "https://github.com/ROCm/pytorch/pull/2838",
        "https://github.com/unslothai/unsloth/pull/4001",
    ),
    measures="CTAs and cluster dimensions that torch 2.9 would read (right: (1, 1, 1, 1))",
    probe=probe,
    repair=repair,
    canary=canary,
)
