"""An old torch by the source of its launcher, from the wheels that ``ZOO_HOOKS_TEST_TORCH`` names.

triton is imported here, before torch and beside the last of them, so that its patch has something to do.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

RUNTIME = "torch/_inductor/runtime"
WHEELS = os.environ["ZOO_HOOKS_TEST_TORCH"].split(os.pathsep)
"""Of old torch; their code in Python is the same for each platform."""


def source_of(wheel, name="triton_heuristics"):
    with zipfile.ZipFile(wheel) as files:
        return files.read(f"{RUNTIME}/{name}.py").decode()


def old_torch(folder, wheel=WHEELS[-1]):
    """Write as much of an old torch as the patch reads; the result is the PYTHONPATH that has it first."""
    runtime = Path(folder, RUNTIME)
    runtime.mkdir(parents=True)
    (runtime / "triton_heuristics.py").write_text(source_of(wheel))
    Path(folder, "torch", "__init__.py").touch()
    return str(folder)


with tempfile.TemporaryDirectory() as _folder:
    assert "torch" not in sys.modules
    sys.path.insert(0, old_torch(_folder))
    import triton.compiler  # noqa: F401

    sys.path.remove(_folder)
