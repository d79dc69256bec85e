"""peft cannot add LoRA if bitsandbytes is installed but cannot be imported.

Symptom
-------
If ``import bitsandbytes`` raises, for example because it was built for another torch or CUDA,
``get_peft_model`` with LoRA, AdaLoRA, IA3 and others raises the same error. This happens even if the model
is not quantized.

Cause
-----
``is_bnb_available`` only reports whether bitsandbytes is installed. For each layer, peft calls it and then
imports its own module of bitsandbytes layers. That module imports bitsandbytes at its top.

Repair
------
If code that calls ``is_bnb_available`` is about to import that module or bitsandbytes, zoo-hooks imports
bitsandbytes at that point. If the import fails, the answer is False from then on, and a warning with the
error is logged once. Layers that are not quantized then get their adapters.

Code that asks for one of peft's bitsandbytes classes by name gets the error of the failed import. Nothing
is imported for code that only asks. bitsandbytes itself is not changed.
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
    title="peft cannot add LoRA if bitsandbytes is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ peft.tuners.lora.bnb @ bitsandbytes.__init__",
        "@ peft.import_utils @ bitsandbytes.__init__",
    ),
    targets=("peft.import_utils",),
    affects=("peft>=0.15.0",),
    links=(
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/model.py#L525",
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/bnb.py#L19",
    ),
    measures="result of adding LoRA to a layer that is not quantized (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
