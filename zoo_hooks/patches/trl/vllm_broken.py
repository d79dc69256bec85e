"""trl's trainers cannot be imported if vLLM is installed but cannot be loaded.

Symptom
-------
If vLLM was built for another torch or CUDA, ``from trl import GRPOTrainer`` raises vLLM's error, for
example ``ImportError: ... undefined symbol``. RLOO and other trainers fail in the same way. This happens
even if vLLM is not used for generation (``use_vllm=False``).

Cause
-----
``is_vllm_available`` only reports whether vLLM is installed. The modules of these trainers call it, and
import vLLM in the next line.

Repair
------
If a module that calls ``is_vllm_available`` is about to import vLLM, zoo-hooks imports vLLM at that point.
If the import fails, the answer is False from then on, and a warning with the error is logged once. Trainers
can then be imported and used without vLLM.

Code that asks for vLLM by name, with ``use_vllm=True`` or with a client, gets the error of the failed
import. Nothing is imported for code that only asks. vLLM itself is not changed.
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
    title="trl's trainers cannot be imported if vLLM is installed but cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("undefined symbol @ trl @ vllm",),
    targets=("trl.import_utils",),
    affects=("trl>=0.16.0",),
    links=(
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/generation/vllm_client.py#L42",
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/import_utils.py",
    ),
    measures="result of importing GRPOTrainer with a broken vLLM (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
