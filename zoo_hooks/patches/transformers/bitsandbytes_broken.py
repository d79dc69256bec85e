"""trl's GRPO and RLOO trainers cannot be imported if bitsandbytes is installed but broken.

Symptom
-------
bitsandbytes is installed, but its import fails. ``from trl import GRPOTrainer`` then raises the same error,
although nothing is quantized. Importing the RLOO trainer or ``transformers.integrations.bitsandbytes``
raises it too.

Cause
-----
``is_bitsandbytes_available`` only checks whether the package is installed. The modules above call it and
import bitsandbytes in the next line.

Repair
------
When code calls ``is_bitsandbytes_available`` and is about to import bitsandbytes, zoo-hooks tries that
import first. If it fails, the function returns False from then on, and a warning with the error is logged
once. Code that can do without bitsandbytes then works. Quantizing a model, or using an optimizer from
bitsandbytes, raises the error of the failed import. Code that only calls the function loads nothing.
bitsandbytes itself is not touched.
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
    title="trl's GRPO and RLOO trainers cannot be imported if bitsandbytes is installed but broken",
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
    measures="result of importing transformers.integrations.bitsandbytes (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
