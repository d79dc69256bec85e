"""accelerate fails on a deepspeed that is installed but cannot be imported.

Symptom
-------
Where deepspeed was built for another torch or finds no CUDA, ``Accelerator.unwrap_model``, ``save_model``
and transformers' ``Trainer(...)`` end in the error of ``import deepspeed``, though nobody trains with it.

Cause
-----
``is_deepspeed_available`` says whether it is installed. ``extract_model_from_parallel`` asks that and
imports deepspeed in the next line, for a class that a model which was never wrapped by deepspeed cannot
have.

Repair
------
Where code asks and is about to import deepspeed, it is imported there and then. If that fails, the answer
is False from then on, which is told once in a warning with the error. Who names it, by a plugin or by the
environment of ``accelerate launch``, gets its own error. Nothing is loaded for those who only ask, and
deepspeed itself is not touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row("deepspeed", ("is_deepspeed_available",), ("_is_package_available",))


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    code = "import torch, accelerate\naccelerate.Accelerator(cpu=True).unwrap_model(torch.nn.Linear(2, 2))"
    return _broken.with_broken("deepspeed", code)


PATCH = Patch(
    module=__name__,
    title="accelerate fails on a deepspeed that is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=("@ extract_model_from_parallel @ deepspeed.__init__",),
    targets=("accelerate.utils.imports",),
    affects=("accelerate>=0.26.1",),
    links=(
        "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/other.py#L309",
        "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/imports.py#L156",
    ),
    measures="what unwrapping a model that was never wrapped gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
