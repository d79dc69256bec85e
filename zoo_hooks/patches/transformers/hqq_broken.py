"""No model of transformers can be imported if HQQ is installed but fails to import.

Symptom
-------
HQQ is installed, but its import fails, for example because it was built or written for another torch. Then
``from transformers import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers fail with
that error. This happens even if no KV cache is quantized.

Cause
-----
``is_hqq_available`` only checks whether HQQ is installed. ``cache_utils``, which every model imports, calls
it and imports HQQ in the next line.

Repair
------
When a module calls ``is_hqq_available`` and is about to import hqq, zoo-hooks imports hqq at that point. If
this fails, the answer is False from then on, and a warning with the error is logged once. So everything
that does not need hqq works. Code that asks HQQ to quantize gets the error of its import. Code that only
calls ``is_hqq_available`` loads nothing. hqq itself is not changed.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="hqq",
    questions=("is_hqq_available",),
    flags=("_is_package_available", "_hqq_available"),
    home="cache_utils.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("hqq", "import transformers.cache_utils")


PATCH = Patch(
    module=__name__,
    title="No model of transformers can be imported if HQQ is installed but fails to import",
    severity="crash",
    guard=True,
    symptoms=("@ transformers.cache_utils @ hqq.__init__",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/cache_utils.py#L17",),
    measures="result of importing transformers.cache_utils beside a broken HQQ (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
