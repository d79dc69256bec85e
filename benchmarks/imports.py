"""CPU time, and instructions, of a whole process that imports an upstream, with and without the hooks.

Instructions are the same each time to a thousandth, where CPU time varies by several hundredths.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec

from paired import pair
from start import instructions
from table import Table

GOAL = 1.01
TORCH = ("transformers", "torch")
MODULES = {
    "transformers": TORCH,
    "transformers.cache_utils": TORCH,
    "transformers.models.gemma4.modeling_gemma4": TORCH,
    "mlx_vlm": ("mlx_vlm",),
    "mlx_vlm.models.gemma4": ("mlx_vlm",),
    "mlx_vlm.models.gemma3n": ("mlx_vlm",),
    "mlx_lm.models.gemma3n": ("mlx_lm",),
}
"""What each needs to be measured."""
COUNTED = ("mlx_vlm",)
"""Callgrind takes minutes for torch, and does not let mlx-lm raise the limit of open files."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("ZOO_HOOKS")}
ENVIRONMENT["PYTHONHASHSEED"] = "0"
INSTALLED = "import sys; sys.exit('zoo_hooks' not in sys.modules)"


def cpu_seconds(code: str, **variables: str) -> float:
    """User and system time of a child interpreter that runs this code."""
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", code], ENVIRONMENT | variables)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"python -c {code!r} ended with status {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def table(rounds: int) -> Table:
    """Compare the import of upstreams, and of modules of theirs that have patches."""
    title = "Importing upstreams"
    modules = [module for module, needed in MODULES.items() if all(map(find_spec, needed))]
    if not modules:
        return Table(title, "neither transformers with torch nor mlx-vlm or mlx-lm is installed")
    try:
        cpu_seconds(INSTALLED)
    except RuntimeError:
        return Table(title, "the hooks do not start in this environment: zoo_hooks.pth is missing")
    rows = []
    for module in modules:
        if find_spec(module) is None:
            rows.append((f"{module}: not in this release", *[None] * 5))
            continue
        plain = partial(cpu_seconds, f"import {module}", ZOO_HOOKS="0")
        ours = partial(cpu_seconds, f"import {module}")
        plain()
        ours()
        result = pair(plain, ours, rounds)
        counted = None
        if module in COUNTED and shutil.which("valgrind"):
            code = f"import {module}"
            without = instructions(sys.executable, code, ENVIRONMENT | {"ZOO_HOOKS": "0"})
            counted = instructions(sys.executable, code, ENVIRONMENT) / without
        rows.append((module, result.plain, result.ours, GOAL, result.ratio, counted))
    packages = sorted({module.partition(".")[0] for module in modules})
    releases = [f"{package} {version(package)}" for package in packages]
    return Table(
        title,
        f"CPU seconds of a process; medians of {rounds} pairs, {', '.join(releases)}.",
        ("import", "ZOO_HOOKS=0", "hooks", "goal", "ratio", "of instructions"),
        rows,
    )
