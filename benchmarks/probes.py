"""What is done while an upstream is imported: the share of probes and repairs, and the memory.

The share is taken inside of one process, so it does not vary with the speed of the machine as pairs do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median

from imports import ENVIRONMENT
from table import Table

MODULES = ("transformers", "transformers.models.gemma4.modeling_gemma4", "mlx_vlm.models.gemma4")
SHARE, MEMORY = 0.5, 5.0
"""The goals, in percent of the CPU time of the import of a model's code and in MiB of resident memory."""
TIMED = """
import importlib, json, resource, sys
from time import thread_time as now
import zoo_hooks
from zoo_hooks import engine
took = {"probes and repairs": 0.0, "all": 0.0}
def timed(function, kind):
    def run(*args, **kwargs):
        began = now()
        try:
            return function(*args, **kwargs)
        finally:
            took[kind] += now() - began
    return run
patches = set()
run = engine._run
def run_timed(patch, *args, **kwargs):
    if patch not in patches:
        patches.add(patch)
        for name in ("probe", "repair"):
            object.__setattr__(patch, name, timed(getattr(patch, name), "probes and repairs"))
    return run(patch, *args, **kwargs)
engine._run = run_timed
engine.before, engine.after = timed(engine.before, "all"), timed(engine.after, "all")
began = now()
importlib.import_module(sys.argv[1])
print(json.dumps({"import": now() - began, "patches": len(patches), **took}))
"""


def _seconds(module: str) -> dict[str, float]:
    command = [sys.executable, "-c", TIMED, module]
    run = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _resident(module: str, **variables: str) -> float:
    """MiB at the peak of a process."""
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-c", f"import {module}"], ENVIRONMENT | variables
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"import {module} ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def table(rounds: int) -> Table:
    """Medians of the shares, and the difference of the medians of the memory."""
    rows = []
    for module in MODULES:
        package = module.partition(".")[0]
        if not find_spec(package):
            continue
        if find_spec(module) is None:
            rows.append((f"{module}: not in {package} {version(package)}", *[None] * 7))
            continue
        _seconds(module)  # which writes the bytecode
        seen = [_seconds(module) for _ in range(rounds)]
        shares = [
            100 * median(one[kind] / one["import"] for one in seen) for kind in ("probes and repairs", "all")
        ]
        without, ours = (
            median(_resident(module, ZOO_HOOKS=value) for _ in range(rounds)) for value in ("0", "1")
        )
        name = f"{module}, {package} {version(package)}"
        goals = (SHARE, MEMORY) if "." in module else (None, None)
        row = (seen[0]["patches"], shares[0], goals[0], shares[1], without, ours - without, goals[1])
        rows.append((name, *row))
    return Table(
        "Probes and repairs while an upstream is imported",
        f"Percent of the CPU time of an import, and MiB resident at the peak; medians of {rounds} processes.",
        ("import", "patches", "% probes, repairs", "goal", "% with imports", "MiB", "more", "goal "),
        rows,
    )
