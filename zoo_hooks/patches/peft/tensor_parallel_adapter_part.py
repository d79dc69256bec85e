"""LoRA on a tensor-parallel model of transformers 5.16 and later covers only the shard of one process.

Symptom
-------
``get_peft_model`` on a model that was loaded with tensor parallelism raises no error, but each process
saves an adapter for its own shard only: 8 of 16 rows of ``lora_B`` with two processes. An adapter that one
process has saved cannot be loaded: ``size mismatch for ... lora_B``.

Cause
-----
From 5.16 on, transformers shards weights as DTensors. peft 0.19 up to 0.21.0 looks for the tensor-parallel
plan on each layer, where earlier releases of transformers had put it. It finds none, and creates plain
layers of the local sizes. peft before 0.19 does not look for a plan at all. In 0.15 the adapter is whole, and
the forward pass raises ``RuntimeError: The size of tensor a must match the size of tensor b``.

Repair
------
LoRA cannot work on such a weight, so zoo-hooks refuses it: adding LoRA raises an ImportError that names the
upgrade. Models that are not sharded by tensor parallelism, or that were sharded by other code, are not
affected.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches import _tiny

LORA = "peft.tuners.lora.model"
PARALLEL = "transformers.distributed.tensor_parallel"
UPGRADE = "upgrade peft to 0.21.1 or later"
ROWS = _tiny.SIZES["hidden_size"]


def probe(_: ModuleType) -> Verdict:
    module = sys.modules[LORA]
    if not hasattr(module, "LoraModel"):
        return Verdict.UNKNOWN  # another module of this name
    return Verdict.FIXED if hasattr(module, "get_tp_plan_and_mesh") else Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., None]) -> Callable[..., None]:
        def create_and_replace(
            self: Any, lora_config: Any, adapter_name: str, target: Any, *args: Any, **kwargs: Any
        ) -> None:
            if getattr(self.model, "_device_mesh", None) is not None and _sharded(target):
                raise ImportError(
                    "this model is sharded by tensor parallelism as transformers has it from 5.16.0 on, and "
                    f"this peft would make an adapter for one process's part; {UPGRADE}"
                )
            original(self, lora_config, adapter_name, target, *args, **kwargs)

        return create_and_replace

    changes.wrap(sys.modules[LORA].LoraModel, "_create_and_replace", make)


def _sharded(layer: Any) -> bool:
    from torch.distributed.tensor import DTensor

    base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    for weight in base.parameters(recurse=False):
        if isinstance(weight, DTensor):
            dims = weight.device_mesh.mesh_dim_names or ("tp",)  # only a mesh for it alone has no names
            placed = zip(dims, weight.placements, strict=True)
            if any(dim == "tp" and placement.is_shard() for dim, placement in placed):
                return True
    return False


def canary() -> Figure:
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig, tensor_parallel  # noqa: F401 - else there is no bug

    with ExitStack() as after:
        folder = after.enter_context(tempfile.TemporaryDirectory())
        _tiny.llama().save_pretrained(Path(folder))
        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
        after.callback(distributed.destroy_process_group)
        model = AutoModelForCausalLM.from_pretrained(
            folder, distributed_config=DistributedConfig(tp_size=2), device_map=None
        )
        with symptom(ImportError, UPGRADE):
            adapter = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
            adapter(torch.tensor([[1, 2, 3]]))  # peft 0.15 makes a whole adapter, and raises here
            (rows,) = (w.shape[0] for n, w in get_peft_model_state_dict(adapter).items() if "lora_B" in n)
            return Figure(rows, healthy=rows == ROWS)
    return Figure("refused", healthy=True)


PATCH = Patch(
    module=__name__,
    title="LoRA on a tensor-parallel model of transformers 5.16 and later covers only one process's shard",
    severity="silent wrong result",
    guard=True,
    targets=(LORA, PARALLEL),
    affects=("peft<0.21.1", "transformers>=5.16.0"),
    links=("https://github.com/huggingface/peft/blob/v0.21.0/src/peft/tuners/lora/model.py",),
    measures="rows of lora_B that one of two ranks saves (expected: 8, or an error that names the upgrade)",
    probe=probe,
    repair=repair,
    canary=canary,
    requires=(LORA, PARALLEL),
    behavioural=False,
)
