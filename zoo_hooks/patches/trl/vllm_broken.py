"""trl's trainers cannot be imported beside a vLLM that is installed but cannot be loaded.

Symptom
-------
Where vLLM was built for another torch or CUDA, ``from trl import GRPOTrainer``, RLOO and others end in
vLLM's error, as ``ImportError: ... undefined symbol``, though nobody generates with it
(``use_vllm=False``).

Cause
-----
``is_vllm_available`` says whether it is installed. The modules of these trainers ask that and import vLLM
in the next line.

Repair
------
Where a module asks and is about to import vLLM, it is imported there and then. If that fails, the answer is
False from then on, which is told once in a warning with the error. So trainers that do not use it are
there. Who names it, by ``use_vllm=True`` or by a client, gets its own error. Nothing is loaded for those
who only ask, and vLLM itself is not touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row("vllm", ("is_vllm_available",), ("_is_package_available", "_vllm_available"))


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("vllm", "from trl import GRPOTrainer", version="0.12.0")


PATCH = Patch(
    module=__name__,
    title="trl's trainers cannot be imported beside a vLLM that is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ trl @ vllm",),
    targets=("trl.import_utils",),
    affects=("trl>=0.16.1",),
    links=(
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/generation/vllm_client.py#L42",
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/import_utils.py",
    ),
    measures="what importing GRPOTrainer with such a vLLM gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
