"""accelerate cannot prepare FSDP2 with tensor parallelism: it needs a class that transformers has removed.

Symptom
-------
``Accelerator.prepare(model, optimizer)`` with FSDP2 and ``ParallelismConfig(tp_size=2, dp_shard_size=2)``
raises ``cannot import name 'ReplicateParallel' from 'transformers.integrations.tensor_parallel'``. This
affects every model whose parameters are DTensors: models parallelised by torch's ``parallelize_module``,
and models that transformers from 5.16 on loads with tensor parallelism. Models that 5.1 to 5.15 load have
no DTensors, and accelerate leaves them alone.

Cause
-----
accelerate turns the parameters outside the plan (norms, embeddings) into replicated DTensors, and puts
hooks on the inputs and outputs of the modules that hold them. It takes these hooks from
``ReplicateParallel``. transformers added this class in 4.52.2 and removed it in 5.1.0.

Repair
------
While accelerate prepares a model for tensor parallelism, and only then, zoo-hooks gives transformers a
``ReplicateParallel``. It puts the same hooks on a module: the first input becomes a replicated DTensor, and
the output becomes a plain tensor again.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

TENSOR_PARALLEL = "transformers.integrations.tensor_parallel"
SOURCE = Path("integrations", "tensor_parallel.py")
NAME = "ReplicateParallel"
ROUNDING = 1e-5


class ReplicateParallel:
    """As much of the class of transformers 5.0 as accelerate uses."""

    def prepare_module_tp(self, module: Any, mesh: Any) -> None:
        """Put the hooks on a module that holds replicated parameters."""
        from torch.distributed.tensor import DTensor, Replicate

        def enter(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            first, *rest = inputs
            if not isinstance(first, DTensor):
                first = DTensor.from_local(first, mesh, [Replicate()], run_check=False)
            return (first, *rest)

        def leave(_: Any, __: Any, output: Any) -> Any:
            return output.to_local() if isinstance(output, DTensor) else output

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def probe(module: ModuleType) -> Verdict:
    prepare = getattr(module.Accelerator, "_prepare_tp", None)  # came with 1.10
    needed = prepare is not None and NAME in inspect.unwrap(prepare).__code__.co_names
    return Verdict.AFFECTED if needed and not _given() else Verdict.FIXED


def _given() -> bool:
    """Whether transformers has it or is not there; its source is read, for accelerate alone imports none."""
    spec = find_spec("transformers")
    files = [Path(folder, SOURCE) for folder in (spec and spec.submodule_search_locations) or ()]
    return (
        not files
        or hasattr(sys.modules.get(TENSOR_PARALLEL), NAME)
        or any(f"class {NAME}" in file.read_text("utf-8") for file in files if file.is_file())
    )


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(*args: Any) -> Any:
            with ExitStack() as after:
                if not hasattr(_tensor_parallel(), NAME):
                    after.callback(_lend().undo)
                return original(*args)

        return prepare

    changes.wrap(module.Accelerator, "_prepare_tp", make)


def _tensor_parallel() -> ModuleType | None:
    """The module that accelerate asks; transformers 5.10.0 has none."""
    return import_module(TENSOR_PARALLEL) if find_spec(TENSOR_PARALLEL) else None


def _lend() -> Changes:
    lent = Changes()
    if (module := _tensor_parallel()) is None:
        module = ModuleType(TENSOR_PARALLEL)
        lent.provide(TENSOR_PARALLEL, module)
    lent.replace(module, NAME, ReplicateParallel)
    return lent


def canary() -> Figure:
    from torch import distributed

    with ExitStack() as after:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        after.callback(distributed.destroy_process_group)
        gap = _gap_of_prepared()
    return Figure(gap, healthy=gap < ROUNDING)


def _gap_of_prepared() -> float:
    import copy

    import torch
    from accelerate import Accelerator, DistributedType
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    accelerator = Accelerator(cpu=True)
    # A CPU gets no FSDP, and one process no tensor parallelism: only so does it come to the import here.
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    accelerator.state.device_mesh = mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        batch = torch.randn(2, 4)
    plain = copy.deepcopy(model)
    parallelize_module(model, mesh, {"0": ColwiseParallel(output_layouts=Replicate())})
    (prepared,) = accelerator._prepare_tp(model)  # noqa: SLF001
    return float((prepared(batch) - plain(batch)).abs().max())


WITH_IT = ("4.52.2", "4.52.3", "4.52.4", *(f"4.{minor}.*" for minor in range(53, 58)), "5.0.*")

PATCH = Patch(
    module=__name__,
    title="accelerate cannot prepare FSDP2 with tensor parallelism: transformers has no ReplicateParallel",
    severity="crash",
    symptoms=("cannot import name 'ReplicateParallel' from 'transformers.integrations.tensor_parallel'",),
    targets=("accelerate.accelerator",),
    affects=("accelerate>=1.10.0", "transformers" + ",".join(f"!={release}" for release in WITH_IT)),
    links=("https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/accelerator.py#L1618",),
    measures="largest difference between the outputs of a prepared and a plain model (expected: below 1e-5)",
    probe=probe,
    repair=repair,
    canary=canary,
    behavioural=False,  # the class is lent when it is needed
)
