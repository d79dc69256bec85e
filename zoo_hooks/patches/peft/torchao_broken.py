"""peft cannot add LoRA if the installed torchao is too old or cannot be imported.

Symptom
-------
If the installed torchao is older than peft requires, ``get_peft_model`` raises
``ImportError: Found an incompatible version of torchao``. If torchao was written for another torch,
``get_peft_model`` raises the error of torchao's import. Both happen even if the model is not quantized with
torchao.

Cause
-----
For each layer, ``dispatch_torchao`` (in later releases ``resolve_quantization_backend``) calls
``is_torchao_available``, which raises if torchao is too old. It then imports torchao to check whether the
weight of the layer is a torchao tensor.

Repair
------
If code calls ``is_torchao_available`` for a layer whose weight has no torchao class, the answer is False.
torchao is then neither checked nor imported. Such a layer gets the same adapter as with a new torchao. For
a torchao weight, and for callers without a layer, the answer and the error are upstream's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from inspect import unwrap
from types import FrameType, FunctionType, ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

LAYERS = ("target_base_layer", "base_layer")
"""What askers call the layer that they ask for."""


def probe(module: ModuleType) -> Verdict:
    asks = unwrap(getattr(module, "is_torchao_available", len))
    if not isinstance(asks, FunctionType):
        return Verdict.UNKNOWN
    if getattr(module.is_torchao_available, "__globals__", None) is globals():
        return Verdict.FIXED
    return Verdict.AFFECTED if "find_spec" in asks.__code__.co_names else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    original: Callable[[], bool] = module.is_torchao_available

    @functools.wraps(original)
    def is_torchao_available() -> bool:
        return not _does_without(sys._getframe(1)) and original()  # noqa: SLF001

    changes.rebind(original, is_torchao_available)


def _does_without(asker: FrameType) -> bool:
    """Tell whether code asks for a layer with a weight that is not of torchao's."""
    layers = [asker.f_locals[name] for name in LAYERS if name in asker.f_locals]
    return bool(layers) and not any(
        base.__module__.partition(".")[0] == "torchao"
        for layer in layers
        for base in type(getattr(layer, "weight", None)).__mro__
    )


def canary() -> Figure:
    code = "import torch, peft\nmodel = torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
    code += "peft.get_peft_model(model, peft.LoraConfig(target_modules=['0']))"
    return _broken.with_broken("torchao", code, version="0.15.0")


PATCH = Patch(
    module=__name__,
    title="peft cannot add LoRA if the installed torchao is too old or cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "Found an incompatible version of torchao @ dispatch_torchao",
        "Found an incompatible version of torchao @ resolve_quantization_backend",
        "@ dispatch_torchao @ torchao.__init__",
    ),
    targets=("peft.import_utils",),
    affects=("peft>=0.15.0",),
    links=(
        "https://github.com/PrunaAI/pruna/pull/630",
        "https://github.com/unslothai/unsloth/pull/11168",
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lora/torchao.py#L160",
        "https://github.com/huggingface/peft/blob/v0.21.2/src/peft/import_utils.py",
    ),
    measures="result of adding LoRA to a layer that is not quantized (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
