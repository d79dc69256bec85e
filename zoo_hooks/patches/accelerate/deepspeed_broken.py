"""accelerate fails if deepspeed is installed but cannot be imported.

Symptom
-------
If deepspeed was built for another torch or finds no CUDA, ``Accelerator.unwrap_model``, ``save_model`` and
transformers' ``Trainer(...)`` raise the error of ``import deepspeed``, even if deepspeed is not used for
training.

Cause
-----
``is_deepspeed_available`` only checks whether deepspeed is installed. ``extract_model_from_parallel`` calls
it and imports deepspeed in the next line. It needs the import only to recognise models that deepspeed has
wrapped.

Repair
------
When a module calls ``is_deepspeed_available`` and then imports deepspeed, zoo-hooks tries that import
during the call. If the import fails, the answer is False from then on, and a warning with the error is
logged once. So everything that works without deepspeed works. Code that names deepspeed, by a plugin or by
the environment of ``accelerate launch``, raises deepspeed's own import error. Code that only calls
``is_deepspeed_available`` triggers no import, and deepspeed itself is not changed.
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
    title="accelerate fails if deepspeed is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=("@ extract_model_from_parallel @ deepspeed.__init__",),
    targets=("accelerate.utils.imports",),
    affects=("accelerate>=0.26.1",),
    links=(
        "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/other.py#L309",
        "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/imports.py#L156",
    ),
    measures="result of unwrapping a model that was never wrapped (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
