"""Models cannot be imported if causal_conv1d is installed but broken.

Symptom
-------
On a machine with CUDA, causal_conv1d was built for another release of torch. Qwen3-Next, Qwen3.5, LFM2,
Falcon-H1, Bamba, Jamba and others then cannot be imported at all: ``ImportError: ... undefined symbol``.
These models have a slower implementation of their own and use it where the package is absent.

Cause
-----
``is_causal_conv1d_available`` only checks whether CUDA is available and the package is installed. If it
returns True, the modules of these models import the package at once. Later releases try the import instead.

Repair
------
Before ``is_causal_conv1d_available`` returns True, zoo-hooks imports causal_conv1d, as the caller is about
to do. If that import fails, the function returns False, and a warning with the error is logged once. No
other check is changed, and no other package is imported.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

ASKS = "transformers.utils.import_utils"
KERNELS = "transformers.integrations.hub_kernels"
IMPORT = """
import sys, zoo_hooks
zoo_hooks.init()
sys.path.insert(0, sys.argv[1])
import torch, transformers
torch.cuda.is_available = lambda: True
from importlib import import_module
name = "lfm2" if hasattr(transformers, "Lfm2Config") else "bamba"
import_module(f"transformers.models.{name}.modeling_{name}")
"""


def probe(_: ModuleType) -> Verdict:
    asks = getattr(sys.modules[ASKS], "is_causal_conv1d_available", None)
    if hasattr(sys.modules.get(KERNELS), "use_kernel_func_from_hub_with_fallback"):
        return Verdict.FIXED
    function = asks if isinstance(asks, FunctionType) else getattr(asks, "__wrapped__", None)  # a cache
    if not isinstance(function, FunctionType):
        return Verdict.UNKNOWN
    if "_is_package_available" in function.__code__.co_names:
        return Verdict.AFFECTED
    return _broken.passing(function)


def repair(_: ModuleType, changes: Changes) -> None:
    original: Callable[[], bool] = sys.modules[ASKS].is_causal_conv1d_available

    def usable() -> bool:
        return original() and bool(import_module("causal_conv1d"))

    changes.rebind(original, _broken.asking(changes, original, "causal_conv1d", usable))


def canary() -> Figure:
    import_module("torch")  # where there is none, it is this interpreter that should say so
    # In a child, for transformers remembers whether there is CUDA.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "causal_conv1d.py").write_text("raise ImportError('undefined symbol')")
        Path(folder, "causal_conv1d-1.dist-info").mkdir()
        Path(folder, "causal_conv1d-1.dist-info", "METADATA").write_text("Name: causal_conv1d\nVersion: 1\n")
        command = [sys.executable, "-c", IMPORT, folder]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    return Figure(run.stderr.strip().splitlines()[-1] if run.returncode else "imported", not run.returncode)


PATCH = Patch(
    module=__name__,
    title="Models cannot be imported if causal_conv1d is installed but broken",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ transformers @ causal_conv1d",),
    targets=("transformers.modeling_utils",),
    affects=("transformers<5.15.0",),
    links=("https://github.com/unslothai/unsloth/pull/4047",),
    measures="result of importing LFM2, or Bamba, with a broken causal_conv1d installed (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
