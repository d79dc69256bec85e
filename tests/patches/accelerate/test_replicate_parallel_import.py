"""Models parallelised over processes, and prepared for FSDP2 by accelerate."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import child, python, recorded

from zoo_hooks.patches.accelerate.replicate_parallel_import import SOURCE

PATCH = "accelerate/replicate-parallel-import"
needed = pytest.mark.skipif(recorded(PATCH) != "AFFECTED", reason="transformers has a ReplicateParallel here")
PLACE = Path(find_spec("transformers").submodule_search_locations[0])


# Four processes: accelerate wants two for FSDP beside the two of tensor parallelism. They are forked, so
# what they need is imported once. accelerate has no FSDP on a CPU, hence the word MULTI_GPU.
STEPS = """
import copy, os, socket
import torch
import torch.distributed.fsdp, torch.distributed.tensor.parallel as tp
from accelerate import Accelerator, DistributedType, ParallelismConfig, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

torch.set_num_threads(1)
torch.manual_seed(0)
class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(8), torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
    def forward(self, hidden):
        return hidden + self.down(torch.nn.functional.silu(self.up(self.norm(hidden))))
ends = torch.nn.Embedding(32, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 32)
plain = torch.nn.Sequential(ends[0], Block(), Block(), *ends[1:])
batches = torch.randint(0, 32, (2, 3, 5))

def train(model, optimizer, parts, backward):
    told = []
    for _ in range(3):
        logits = [model(batches[part]).flatten(0, 1) for part in parts]
        losses = [
            torch.nn.functional.cross_entropy(row, batches[part].flatten())
            for row, part in zip(logits, parts)
        ]
        backward(sum(losses) / len(losses))
        optimizer.step()
        optimizer.zero_grad()
        told.append([loss.item() for loss in losses])
    return torch.tensor(told)

def process(rank, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="4")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    model = copy.deepcopy(plain)
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.5), [0, 1], torch.Tensor.backward)
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    accelerator = Accelerator(
        cpu=True,
        fsdp_plugin=FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="no_wrap", cpu_ram_efficient_loading=False
        ),
        parallelism_config=ParallelismConfig(dp_shard_size=2, tp_size=2),
    )
    mesh = accelerator.torch_device_mesh
    for block in model[1:3]:
        tp.parallelize_module(block, mesh["tp"], {"up": tp.ColwiseParallel(), "down": tp.RowwiseParallel()})
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    part = mesh.get_local_rank("dp_shard")
    losses = train(model, optimizer, [part], accelerator.backward)
    for one, other in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(one.full_tensor(), other, rtol=0, atol=1e-5)
    assert losses[-1] < losses[0] - 0.05, losses
    torch.testing.assert_close(losses[:, 0], expected[:, part], rtol=0, atol=1e-5)
    torch.distributed.destroy_process_group()

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
torch.multiprocessing.start_processes(process, (port,), nprocs=4, start_method="fork")
"""


def copy_without(left_out, folder):
    """transformers as it is installed, but for one file, by links to the rest."""
    (folder / "transformers" / left_out.parent).mkdir(parents=True)
    for file in [*PLACE.iterdir(), *(PLACE / left_out.parent).iterdir()]:
        copy = folder / "transformers" / file.relative_to(PLACE)
        if file != PLACE / left_out and not copy.exists():
            copy.symlink_to(file)


@needed
def test_without_hooks_preparing_raises():
    """The symptom, in the words of the interpreter, in four processes."""
    told = child(STEPS, check=False, ZOO_HOOKS="0", OMP_NUM_THREADS="1")
    assert told.returncode
    assert "ReplicateParallel" in told.stderr or "transformers.integrations.tensor_parallel" in told.stderr


def test_three_steps_of_four_processes_are_those_of_one():
    """Losses of both halves of the batch, and all weights, with what transformers has or is lent."""
    python(STEPS, OMP_NUM_THREADS="1")


@needed
def test_accelerate_alone_is_repaired_and_transformers_not_imported_for_that():
    """It imports transformers only where it prepares such a model, which need not be one of transformers."""
    python(f"""
        import sys, zoo_hooks
        import accelerate
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        assert "transformers" not in sys.modules
    """)


@needed
@pytest.mark.parametrize(
    "order", ["accelerate", "accelerate, transformers.modeling_utils", "transformers.modeling_utils"]
)
@pytest.mark.parametrize("without_module", [False, True], ids=["", "no-such-module"])
def test_either_may_be_imported_first_and_transformers_keeps_no_placeholder(order, without_module, tmp_path):
    """Before, after, and after a call that fails, its module has no such name, or there is no such module."""
    if without_module:  # as on transformers 5.10.0
        loading = PLACE / "core_model_loading.py"
        needs_it = loading.exists() and "integrations.tensor_parallel" in loading.read_text()
        if needs_it and "modeling_utils" in order:
            pytest.skip("models of this release cannot be imported without that module")
        copy_without(SOURCE, tmp_path)
    python(f"""
        import sys, zoo_hooks
        sys.path.insert(0, {str(tmp_path)!r})
        import {order}
        import accelerate
        from importlib.util import find_spec
        assert zoo_hooks.report()[{PATCH!r}].status.name == "APPLIED"
        from zoo_hooks.patches.accelerate import replicate_parallel_import as patch
        had = {not without_module and (PLACE / SOURCE).exists()}
        def clean():
            assert (find_spec(patch.TENSOR_PARALLEL) is not None) == had
            assert not hasattr(sys.modules.get(patch.TENSOR_PARALLEL), patch.NAME)
        clean()
        assert patch.canary().healthy
        clean()
        try:
            accelerate.Accelerator._prepare_tp(None, 1)
        except AttributeError:
            clean()
        else:
            raise AssertionError("upstream's function did not run")
    """)


@needed
@pytest.mark.parametrize("first", [True, False])
def test_another_tools_class_is_used_and_stays(first):
    """Put there before, the patch is not needed; put there after, it is the one that accelerate gets."""
    upstreams = "import accelerate.accelerator, transformers.modeling_utils"
    tool = """
import transformers.integrations.tensor_parallel as place
asked = []
class Theirs:
    def prepare_module_tp(self, module, mesh):
        from zoo_hooks.patches.accelerate.replicate_parallel_import import ReplicateParallel
        asked.append(module)
        ReplicateParallel().prepare_module_tp(module, mesh)
place.ReplicateParallel = Theirs
"""
    python(f"""
{tool if first else upstreams}
{upstreams if first else tool}
import zoo_hooks
from zoo_hooks.patches.accelerate import replicate_parallel_import as patch
assert zoo_hooks.report()[{PATCH!r}].status.name == ("NOT_NEEDED" if {first} else "APPLIED")
assert patch.canary().healthy
assert len(asked) == 2  # for weight and bias of the norm
assert place.ReplicateParallel is Theirs
""")
