"""No model of transformers can be imported beside a torchao that cannot be loaded.

Symptom
-------
Where torchao was written for another torch, as after an upgrade of one of them, ``from transformers import
LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers end in torchao's ImportError, though
nobody quantizes anything.

Cause
-----
``is_torchao_available`` says whether it is installed. ``quantizer_torchao``, which every model imports by
the table of quantizers, asks that and imports torchao in the next line.

Repair
------
Where a module asks and is about to import torchao, it is imported there and then. If that fails, the answer
is False from then on, which is told once in a warning with the error. So what works without torchao works,
and a model to be quantized by torchao, or its optimizer, raises its own error. Nothing is loaded for those
who only ask, and torchao itself is not touched.
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
    title="no model of transformers can be imported beside a torchao that cannot be loaded",
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
    measures="what importing the quantizers with such a torchao gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
