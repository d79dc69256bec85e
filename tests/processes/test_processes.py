"""Processes that others start have the hooks by themselves, and can be asked whether they are alike.

On the real launchers, with a release of transformers that has the bug of
``transformers/cache-static-zero-shared``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def needs(*names):
    there = all(map(find_spec, names))
    return pytest.mark.skipif(not there, reason=f"{', '.join(names)} are not all part of this environment")


pytestmark = needs("accelerate", "torch", "transformers")
ID = "transformers/cache-static-zero-shared"
WORKER = f"""
def status(*_):
    import transformers.cache_utils
    import zoo_hooks
    return zoo_hooks.report()[{ID!r}].status.name

if __name__ == "__main__":
    print(status())
"""
RANK = """
import os, sys
if len(sys.argv) > 1 and os.environ["RANK"] == "1":
    os.environ["ZOO_HOOKS"] = sys.argv[1]
import torch, transformers.cache_utils, zoo_hooks
from zoo_hooks.distributed import ProcessesDiffer, check
if "ACCELERATE_DEBUG_RDV_FILE" in os.environ:
    from accelerate import PartialState
    PartialState(cpu=True)
else:
    torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
calls = []
gather = torch.distributed.all_gather_object
torch.distributed.all_gather_object = lambda *a, **k: (calls.append(1), gather(*a, **k))[1]
try:
    said = check()
except ProcessesDiffer as error:
    said = f"DIFFER {error}"
sys.stdout.write(f"[{rank}] {len(calls)} {said} {zoo_hooks.report()['PATCH'].status.name}\\n")
if "ACCELERATE_DEBUG_RDV_FILE" not in os.environ:  # its launcher does that
    torch.distributed.destroy_process_group()
""".replace("PATCH", ID)


@pytest.fixture
def run(tmp_path):
    """Run a script in a folder of its own, where workers find what they are to do."""
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "rank.py").write_text(RANK)

    def command(*arguments, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ZOO_HOOKS", "RAY_"))}
        environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": paths(tmp_path)}
        environment |= {"RAY_raylet_start_wait_time_s": "200"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment | variables, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return command


def paths(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def lines(text):
    return sorted(line for line in text.splitlines() if line.startswith("["))


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1")
ACCELERATE = """
import runpy
from accelerate import debug_launcher
if __name__ == "__main__":
    debug_launcher(runpy.run_path, ("rank.py",), 2)
"""


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_ranks_are_repaired_and_alike(run, launcher):
    """Each of two ranks has the repair, and one gather tells both the same fingerprint."""
    said = lines(run(*TORCHRUN, "rank.py") if launcher == "torchrun" else run("-c", ACCELERATE))
    assert [line.split()[0] for line in said] == ["[0]", "[1]"]
    assert {line.split(maxsplit=1)[1] for line in said} == {said[0].split(maxsplit=1)[1]}
    _, gathers, fingerprint, status = said[0].split()
    assert (gathers, status) == ("1", "APPLIED")
    assert len(fingerprint.split("-")[1]) == 16


def test_the_process_that_accelerate_launch_starts(run):
    """On a machine without a GPU it is one."""
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--cpu")
    more = ("--mixed_precision", "no", "--dynamo_backend", "no")
    assert run(*launch, *more, "worker.py") == "APPLIED\n"


def test_a_rank_that_differs_is_named_on_every_rank(run):
    """It was told to leave the patch out: both ranks raise, with its name and the patch."""
    said = lines(run(*TORCHRUN, "rank.py", f"-{ID}"))
    assert said[0].endswith("APPLIED")
    assert said[1].endswith("SKIPPED")
    for line in said:
        assert "DIFFER zoo-hooks: rank 1 on " in line
        assert f"{ID} skipped, not applied" in line


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_of_multiprocessing(run, method):
    """A pool of each start method, whose parent has imported nothing."""
    code = f"""
import multiprocessing, worker
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(*pool.map(worker.status, range(2)))
"""
    assert run("-c", code) == "APPLIED APPLIED\n"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_workers_of_a_data_loader(run, method):
    """Those that load data for torch."""
    code = f"""
import torch, worker
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 2
    def __getitem__(self, _): return worker.status()
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Rows(), num_workers=2, multiprocessing_context={method!r})
    print(*[row[0] for row in loader])
"""
    assert run("-c", f"open('script.py', 'w').write({code!r})") == ""
    assert run("script.py") == "APPLIED APPLIED\n"


@needs("ray")
def test_workers_of_ray(run):
    """A task and an actor have the repair, and the nodes are alike."""
    code = """
import ray, worker, zoo_hooks
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print("task", ray.get(ray.remote(worker.status).remote()))
class Actor:
    def status(self): return worker.status()
print("actor", ray.get(ray.remote(Actor).remote().status.remote()))
worker.status()
print("alike", zoo_hooks.distributed.check() == zoo_hooks.fingerprint())
ray.shutdown()
"""
    assert run("-c", code).splitlines()[-3:] == ["task APPLIED", "actor APPLIED", "alike True"]


@needs("ray")
def test_a_node_of_ray_that_differs_is_named(run):
    """On a cluster of two nodes the workers of one have the patch left out."""
    code = f"""
import os, ray, worker, zoo_hooks
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
os.environ["ZOO_HOOKS"] = "-{ID}"
other = cluster.add_node(num_cpus=1)
del os.environ["ZOO_HOOKS"]
ray.init(address=cluster.address, log_to_driver=False)
worker.status()
try:
    zoo_hooks.distributed.check()
except zoo_hooks.distributed.ProcessesDiffer as error:
    print(other.node_id[:8] in str(error), error)
ray.shutdown()
cluster.shutdown()
"""
    said = run("-c", code).splitlines()[-1]
    assert said.startswith("True zoo-hooks: node ")
    assert f"{ID} skipped, not applied" in said
    assert said.count("node") == 1


@needs("dask")
def test_workers_of_dask(run):
    """Processes of a local cluster."""
    code = """
import worker
from dask.distributed import Client, LocalCluster
if __name__ == "__main__":
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**how) as cluster, Client(cluster) as client:
        print(*client.gather(client.map(worker.status, range(2), pure=False)))
"""
    assert run("-c", f"open('script.py', 'w').write({code!r})") == ""
    assert run("script.py") == "APPLIED APPLIED\n"
