"""Check that all processes of a job have the same repairs, before training diverges."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, records, releases, reports
from zoo_hooks.model import Status

State = dict[str, str]
"""What is compared of one process: a value for each patch, each upstream, Python and zoo-hooks."""


class ProcessesDiffer(RuntimeError):
    """The processes of a job have different repairs. The message names those that differ from most."""


def check(group: Any = None) -> str:
    """Compare the processes of a job. Return their common fingerprint, or raise ProcessesDiffer.

    If ``torch.distributed`` is initialised, every rank of the group has to call this function; the default is
    the group of all ranks. It costs one ``all_gather_object``. Otherwise, in the driver of a Ray cluster, one
    task per node imports the modules with patches that the driver has imported. Without either, ValueError is
    raised.

    The function compares the versions of zoo-hooks, Python and the imported upstreams, ``ZOO_HOOKS``, and the
    status of each patch that is not PENDING. A module that only some processes have imported is ignored.
    """
    torch, ray = sys.modules.get("torch"), sys.modules.get("ray")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        states = _of_ranks(torch.distributed, group)
    elif ray is not None and ray.is_initialized():
        states = _of_nodes(ray)
    else:
        raise ValueError("neither torch.distributed nor Ray is initialised, so there is nothing to compare")
    if found := differences(states):
        raise ProcessesDiffer("zoo-hooks: " + "; ".join(found))
    return records.fingerprint()


def state() -> State:
    """What is compared of this process."""
    rows = [row for row in reports.report().rows if row.status is not Status.PENDING]
    seen = {
        "zoo-hooks": zoo_hooks.__version__,
        "ZOO_HOOKS": records.mode(),
        "Python": platform.python_version(),
    }
    seen |= {
        upstream: str(releases.version(upstream))
        for upstream in catalogue.upstreams()
        if upstream in sys.modules
    }
    return seen | {row.id: row.status.value for row in rows}


def differences(states: dict[str, State]) -> list[str]:
    """A message for each process that differs from the majority, with all its differences."""
    usual: State = {}
    for subject in sorted({subject for one in states.values() for subject in one}):
        values = Counter(one[subject] for one in states.values() if subject in one)
        usual[subject] = values.most_common(1)[0][0]  # of those that are as frequent the first that was seen
    found = []
    for name, one in states.items():
        unlike = [
            f"{subject} {one[subject]}, not {usual[subject]}"
            for subject in sorted(one)
            if one[subject] != usual[subject]
        ]
        if unlike:
            found.append(f"{name} has {' and '.join(unlike)}")
    return found


def _of_ranks(distributed: Any, group: Any) -> dict[str, State]:
    gathered: list[Any] = [None] * distributed.get_world_size(group)
    mine = f"rank {distributed.get_rank()} on {platform.node()}", state()
    distributed.all_gather_object(gathered, mine, group=group)
    return dict(gathered)


def _of_nodes(ray: Any) -> dict[str, State]:
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    every = " ".join(zoo_hooks.TARGETS.values()).split()
    targets = sorted(target for target in every if target in sys.modules)

    def there(targets: list[str]) -> State:
        # Sent by value, for zoo-hooks may be missing on a node.
        from importlib import import_module
        from importlib.util import find_spec

        if find_spec("zoo_hooks") is None:
            return {"zoo-hooks": "missing"}
        for target in targets:
            import_module(target)
        seen: State = import_module("zoo_hooks.distributed").state()
        return seen

    task = ray.remote(there)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        task.options(num_cpus=0, scheduling_strategy=strategy(node_id=node["NodeID"], soft=False)).remote(
            targets
        )
        for node in nodes
    ]
    names = [f"node {node['NodeManagerHostname']} ({node['NodeID'][:8]})" for node in nodes]
    return {f"this process on {platform.node()}": state(), **dict(zip(names, ray.get(asked), strict=True))}
