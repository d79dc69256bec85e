"""No model of transformers can be imported beside an HQQ that cannot be loaded.

Symptom
-------
Where HQQ is installed and its import fails, as one built or written for another torch, ``from transformers
import LlamaForCausalLM``, ``Trainer``, ``import peft`` and trl's trainers end in that error, though nobody
quantizes a cache.

Cause
-----
``is_hqq_available`` says whether it is installed. ``cache_utils``, which every model imports, asks that and
imports HQQ in the next line.

Repair
------
Where a module asks and is about to import hqq, it is imported there and then. If that fails, the answer is
False from then on, which is told once in a warning with the error. So what works without hqq works, and
what is to be quantized by HQQ raises its own error. Nothing is loaded for those who only ask, and hqq
itself is not touched.
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
    title="no model of transformers can be imported beside an HQQ that cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=("@ transformers.cache_utils @ hqq.__init__",),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/cache_utils.py#L17",),
    measures="what importing transformers.cache_utils with such an HQQ gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
