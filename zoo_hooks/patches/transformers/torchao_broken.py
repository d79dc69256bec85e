"""transformers models and ``Trainer`` cannot be imported if torchao is installed but cannot be loaded.

Symptom
-------
If torchao was written for another torch, for example after an upgrade of one of them, ``from transformers
import LlamaForCausalLM`` raises torchao's ImportError. Importing ``Trainer``, peft or trl's trainers fails
in the same way. This happens even if nothing is quantized.

Cause
-----
``is_torchao_available`` only checks whether torchao is installed. ``quantizer_torchao`` calls it and
imports torchao in the next line. Every model imports this module through the table of quantizers.

Repair
------
When a module calls ``is_torchao_available`` and then imports torchao, zoo-hooks tries that import during
the call. If the import fails, the answer is False from then on, and a warning with the error is logged
once. So everything that works without torchao works. Quantizing a model with torchao, or using its
optimizer, raises torchao's own import error. Code that only calls ``is_torchao_available`` triggers no
import, and torchao itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="torchao",
    questions=("is_torchao_available",),
    flags=("_is_package_available", "_torchao_available"),
    home="quantizers/quantizer_torchao.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("torchao", "import transformers.quantizers.auto")


PATCH = Patch(
    module=__name__,
    title="transformers models and Trainer cannot be imported if torchao is installed but broken",
    severity="crash",
    guard=True,
    symptoms=(
        "undefined symbol @ transformers.quantizers @ torchao",
        "cannot import name * from 'torch * @ transformers.quantizers @ torchao",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.57.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/quantizers/quantizer_torchao.py#L37",
    ),
    measures="result of importing transformers' quantizers with a broken torchao (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
