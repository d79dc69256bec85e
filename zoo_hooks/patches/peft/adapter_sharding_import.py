"""peft 0.19 cannot load adapters once torch.distributed is initialized, even without tensor parallelism.

Symptom
-------
In a run with ``torchrun`` or ``accelerate launch``, plain DDP included, loading any LoRA adapter raises
``ImportError: cannot import name 'EmbeddingParallel' from 'transformers.integrations.tensor_parallel'``.

Cause
-----
peft 0.19 calls ``_maybe_shard_state_dict_for_tp`` whenever a process group exists. The function imports the
classes for tensor parallelism before it checks whether any layer is parallel. One of these classes,
``EmbeddingParallel``, was added in transformers 5.1.0 and removed in 5.16.0. In 4.50 ``ALL_PARALLEL_STYLES``,
which it imports too, is not there either.

Repair
------
The function returns at once, as in peft 0.20, if no adapted layer has both a tensor-parallel plan and a
device mesh. If a layer has both, the function runs as before. zoo-hooks adds no placeholder classes to
transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom
from zoo_hooks.patches import _tiny

SAVE_AND_LOAD = "peft.utils.save_and_load"
SHARD = "_maybe_shard_state_dict_for_tp"
SYMPTOM = "from 'transformers.integrations.tensor_parallel'"
ROUNDING = 1e-5


def probe(_: ModuleType) -> Verdict:
    shard = getattr(sys.modules[SAVE_AND_LOAD], SHARD, None)
    if shard is None:  # before 0.19 nothing was sharded
        return Verdict.FIXED

    import torch

    with symptom(ImportError, SYMPTOM):
        return Verdict.FIXED if shard(torch.nn.Module(), {}, "probe") is None else Verdict.UNKNOWN
    return Verdict.AFFECTED


def repair(_: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., None]) -> Callable[..., None]:
        def shard(model: Any, *args: Any, **kwargs: Any) -> None:
            if any(map(_parallel, model.modules())):
                original(model, *args, **kwargs)

        return shard

    changes.wrap(sys.modules[SAVE_AND_LOAD], SHARD, make)


def _parallel(module: Any) -> bool:
    from peft.tuners.lora.layer import LoraLayer

    if not isinstance(module, LoraLayer):
        return False
    base = module.get_base_layer()
    plan, mesh = getattr(base, "_hf_tp_plan", None), getattr(base, "_hf_device_mesh", None)
    return plan is not None and mesh is not None


def canary() -> Figure:
    from torch import distributed

    with ExitStack() as after:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        after.callback(distributed.destroy_process_group)
        gap = _gap_of_reloaded()
    return Figure(gap, healthy=gap < ROUNDING)


def _gap_of_reloaded() -> float:
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    prompt = torch.tensor([[1, 2, 3, 4]])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        one, other = get_peft_model(_tiny.llama(), config), get_peft_model(_tiny.llama(), config)
        set_peft_model_state_dict(other, get_peft_model_state_dict(one))
        return float((one(prompt).logits - other(prompt).logits).abs().max())


# From 5.1.0 up to 5.16.0 there was an EmbeddingParallel.
WITHOUT_IT = "transformers" + ",".join(f"!=5.{minor}.*" for minor in range(1, 16))

PATCH = Patch(
    module=__name__,
    title="peft cannot load adapters once torch.distributed is initialized: no EmbeddingParallel",
    severity="crash",
    symptoms=(
        "cannot import name 'EmbeddingParallel' from 'transformers.integrations.tensor_parallel'",
        "cannot import name 'ALL_PARALLEL_STYLES' from 'transformers.integrations.tensor_parallel' @ peft",
    ),
    targets=("peft.tuners",),  # by then both sides of the function are there
    affects=("peft>=0.19.0,<0.20.0", WITHOUT_IT),
    links=(
        "https://github.com/huggingface/peft/blob/v0.19.1/src/peft/utils/save_and_load.py#L500",
        "https://github.com/huggingface/peft/blob/v0.20.0/src/peft/utils/save_and_load.py#L557",
    ),
    measures="largest difference in logits between an adapter and its reloaded copy (expected: below 1e-5)",
    probe=probe,
    repair=repair,
    canary=canary,
)
