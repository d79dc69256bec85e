"""peft cannot add LoRA if a package for quantized layers is installed but cannot be imported.

Symptom
-------
If ``import eetq``, ``aqlm``, ``hqq`` or ``transformer_engine`` raises, for example because it was built for
another torch or CUDA, ``get_peft_model`` with LoRA raises the same error. This happens even if the model is
not quantized.

Cause
-----
``is_eetq_available`` and the like only check whether the package is installed. For each layer, peft imports
its modules for all these packages. The modules call the functions and import the package in the next line.

Repair
------
When a module calls one of these functions and then imports the package, zoo-hooks tries that import during
the call. If the import fails, the answer is False from then on, and a warning with the error is logged
once. So layers that are not quantized get their adapters. Code that needs the package raises its own import
error. Code that only calls the function triggers no import, and the packages themselves are not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

NAMES = ("aqlm", "eetq", "hqq")
ROWS = (
    *(
        _optional.Row(name, (f"is_{name}_available",), ("find_spec",), home=f"peft/tuners/lora/{name}.py")
        for name in NAMES
    ),
    _optional.Row(
        "transformer_engine",
        ("is_te_pytorch_available",),
        ("is_te_available",),
        home="peft/tuners/lora/te.py",
    ),
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, *ROWS)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, *ROWS)


def canary() -> Figure:
    code = "import torch, peft\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
    code += "peft.get_peft_model(model, peft.LoraConfig(target_modules=['0']))"
    return _broken.with_broken("aqlm", code, _broken.packages("eetq", "hqq", "transformer_engine"))


PATCH = Patch(
    module=__name__,
    title="peft cannot add LoRA if a package for quantized layers is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ peft.tuners.lora.aqlm @ aqlm.__init__",
        "@ peft.tuners.lora.eetq @ eetq.__init__",
        "@ peft.tuners.lora.hqq @ hqq.__init__",
        "@ is_te_pytorch_available @ transformer_engine.__init__",
    ),
    targets=("peft.import_utils",),
    affects=("peft>=0.15.0",),
    links=(
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/eetq.py#L24",
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/import_utils.py",
    ),
    measures="result of adding LoRA to a layer that is not quantized (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
