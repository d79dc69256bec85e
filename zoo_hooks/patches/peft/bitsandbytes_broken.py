"""peft makes no LoRA beside a bitsandbytes that is installed but cannot be imported.

Symptom
-------
Where ``import bitsandbytes`` raises, as built for another torch or CUDA, ``get_peft_model`` with LoRA,
AdaLoRA, IA3 and others ends in that error, though the model is not quantized.

Cause
-----
``is_bnb_available`` says whether it is installed. For each layer peft asks that and imports its module for
layers of bitsandbytes, which imports the package at once.

Repair
------
Where code asks and is about to import that module or bitsandbytes, the package is imported there and then.
If that fails, the answer is False from then on, which is told once in a warning with the error. So layers
that are not quantized get their adapters. Who names one of peft's classes for bitsandbytes gets its own
error. Nothing is loaded for those who only ask, and bitsandbytes itself is not touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    "bitsandbytes", ("is_bnb_available", "is_bnb_4bit_available"), ("find_spec",), through=("bnb",)
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    code = "import torch, peft\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
    code += "peft.get_peft_model(model, peft.LoraConfig(target_modules=['0']))"
    return _broken.with_broken("bitsandbytes", code)


PATCH = Patch(
    module=__name__,
    title="peft makes no LoRA beside a bitsandbytes that is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ peft.tuners.lora.bnb @ bitsandbytes.__init__",
        "@ peft.import_utils @ bitsandbytes.__init__",
    ),
    targets=("peft.import_utils",),
    affects=("peft>=0.17.1",),
    links=(
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/model.py#L525",
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/bnb.py#L19",
    ),
    measures="what making a LoRA of a layer that is not quantized gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
