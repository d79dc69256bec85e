"""LoRA on models that transformers has sharded over processes, with a peft that does not know how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import python, recorded

PATCH = "peft/tensor-parallel-adapter-part"
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    recorded(PATCH) != "AFFECTED", reason="only before peft 0.21.1, on transformers from 5.16 on"
)


def test_without_the_repair_an_adapter_holds_one_processes_part(measured):
    """4 of 8 rows, silently; with it the adapter is refused."""
    row = measured(PATCH)
    assert (row["without"], row["with"]) == (4, "refused")


def test_in_two_processes_a_saved_adapter_is_refused_and_the_upgrade_named(tmp_path):
    """It is loaded in neither case; without the repair the error tells only of sizes."""
    script = [HERE / "parallel.py", tmp_path, "llama", "q_proj"]
    subprocess.run([sys.executable, *script], check=True)
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def told(chosen):
        done = subprocess.run(
            [sys.executable, *two, *script],
            env=os.environ | {"OMP_NUM_THREADS": "1", "ZOO_HOOKS": chosen},
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))
        return json.loads(line)["gap"]

    assert "size mismatch for base_model" in told(f"-{PATCH}")
    refused = told("1")
    assert refused.startswith("ImportError: this model is sharded")
    assert "upgrade peft to 0.21.1" in refused


SHARDED = """
import peft, torch, zoo_hooks
import transformers.distributed.tensor_parallel
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)

def refused(*placed, mesh=None, known=True, **dims):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    mesh = init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims)) if dims else mesh
    if known:
        model._device_mesh = mesh
    if placed:
        weight = distribute_tensor(model[0].weight.data, mesh, placed)
        model[0].weight = torch.nn.Parameter(weight)
    try:
        peft.get_peft_model(model, peft.LoraConfig(target_modules=["0"]))
    except ImportError as error:
        assert "upgrade peft" in str(error)
        return True
    return False
"""


def test_only_what_transformers_has_sharded_by_tensor_parallelism_is_refused():
    """Not FSDP beside it, nor what others have sharded, nor plain weights."""
    python(f"""{SHARDED}
assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
assert refused(Shard(0), tp=4)
assert refused(Shard(1), mesh=init_device_mesh("cpu", (4,)))  # without names it is one for nothing else
assert refused(Replicate(), Shard(0), fsdp=2, tp=2)
assert not refused(Shard(0), Replicate(), fsdp=2, tp=2)
assert not refused(Shard(0), fsdp=4)
assert not refused(Replicate(), tp=4)
assert not refused(Shard(0), tp=4, known=False)
assert not refused(tp=4)
assert not refused()
""")


@pytest.mark.parametrize(("hooks", "status"), [("0", "NOT_NEEDED"), ("1", "APPLIED")])
def test_another_tools_repair_is_not_fought(hooks, status):
    """One that gives peft what 0.21.1 has, before us (hooks off until then) or after us."""
    python(
        f"""
import os, zoo_hooks
zoo_hooks.init()
import transformers.distributed.tensor_parallel
import peft.tuners.lora.model as place
place.get_tp_plan_and_mesh = theirs = lambda *_: (None, None)
os.environ["ZOO_HOOKS"] = "1"
zoo_hooks.activate()
assert zoo_hooks.report()[{PATCH!r}].status.name == {status!r}
assert place.get_tp_plan_and_mesh is theirs
""",
        ZOO_HOOKS=hooks,
    )
