"""What only asks for bitsandbytes fails on one that cannot be loaded.

Symptom
-------
Where bitsandbytes is installed and its import fails, ``from trl import GRPOTrainer`` and RLOO end in that
error, and so does importing ``transformers.integrations.bitsandbytes``, though nothing is quantized.

Cause
-----
``is_bitsandbytes_available`` says whether it is installed. Those modules ask that and import bitsandbytes
in the next line.

Repair
------
Where a module asks and is about to import bitsandbytes, it is imported there and then. If that fails, the
answer is False from then on, which is told once in a warning with the error. So what works without
bitsandbytes works, and quantizing a model, or an optimizer of bitsandbytes, raises its own error. Nothing
is loaded for those who only ask, and bitsandbytes itself is not touched.
"""

from __future__ import annotations

from types import ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _optional

ROW = _optional.Row(
    name="bitsandbytes",
    questions=("is_bitsandbytes_available",),
    flags=("_is_package_available", "_bitsandbytes_available"),
    home="integrations/bitsandbytes.py",
)


def probe(module: ModuleType) -> Verdict:
    return _optional.probe(module, ROW)


def repair(module: ModuleType, changes: Changes) -> None:
    _optional.repair(module, changes, ROW)


def canary() -> Figure:
    return _broken.with_broken("bitsandbytes", "import transformers.integrations.bitsandbytes")


PATCH = Patch(
    module=__name__,
    title="trl's trainers cannot be imported beside a bitsandbytes that cannot be loaded",
    severity="crash",
    guard=True,
    symptoms=(
        "undefined symbol @ transformers.integrations.bitsandbytes @ bitsandbytes",
        "undefined symbol @ trl @ bitsandbytes",
    ),
    targets=("transformers.utils.import_utils",),
    affects=("transformers>=4.50.0",),
    links=(
        "https://github.com/huggingface/transformers/blob/v5.24.0/src/transformers/integrations/bitsandbytes.py#L14",
    ),
    measures="what importing transformers.integrations.bitsandbytes gives (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
