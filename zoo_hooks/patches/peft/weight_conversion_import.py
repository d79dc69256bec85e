"""peft.utils.transformers_weight_conversion cannot be imported with transformers 4.

Symptom
-------
``import peft.utils.transformers_weight_conversion`` raises ``ModuleNotFoundError: No module named
'transformers.conversion_mapping'``, and with the release candidates of 5.0.0 ``ImportError: cannot import
name '_MODEL_TO_CONVERSION_PATTERN'``. peft itself does not import it there; other packages that build on
peft do, at their top, and cannot be imported then.

Cause
-----
The module is made of classes and functions that came with transformers 5.0, where checkpoints are
converted while they load. The candidates have some of them, and no table of models.

Repair
------
While the module loads, stand-ins for the two modules of transformers exist, and never afterwards, so
others who ask whether transformers has them get the true answer. Nothing is converted on those
releases: what would use them raises an ImportError that names the upgrade when it is called.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

TABLE = "_MODEL_TO_CONVERSION_PATTERN"
MISSING = {
    "transformers.conversion_mapping": ("get_checkpoint_conversion_mapping", "get_model_conversion_mapping"),
    "transformers.core_model_loading": (
        "Concatenate",
        "ConversionOps",
        "MergeModulelist",
        "Transpose",
        "WeightConverter",
        "WeightRenaming",
        "dot_natural_key",
        "rename_source_key",
    ),
}


def probe(_: ModuleType) -> Verdict:
    # Another tool's stand-in may lack a spec, which find_spec does not forgive.
    there = [name for name in MISSING if name in sys.modules or find_spec(name) is not None]
    if len(there) < len(MISSING):
        return Verdict.UNKNOWN if there else Verdict.AFFECTED
    mapping, loading = map(import_module, MISSING)  # as the module is about to do
    if not hasattr(mapping, TABLE):
        return Verdict.AFFECTED
    lacking = [name for one in (mapping, loading) for name in MISSING[one.__name__] if not hasattr(one, name)]
    return Verdict.UNKNOWN if lacking else Verdict.FIXED


def repair(_: ModuleType, changes: Changes) -> None:
    for name, members in MISSING.items():
        stand_in = module_from_spec(ModuleSpec(name, None))
        vars(stand_in).update({member: _refusing(name, member) for member in members})
        vars(stand_in)[TABLE] = {}
        changes.provide(name, stand_in)


def _refusing(module: str, name: str) -> type:
    # A class in place of a function too: all that is done with either here is to call it.
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise ImportError(
            f"this transformers converts no adapters, and {module}.{name} is a stand-in; "
            "upgrade transformers to 5.0.0 or later"
        )

    return type(name, (), {"__module__": module, "__new__": refuse})


def canary() -> Figure:
    from peft.utils.transformers_weight_conversion import build_peft_weight_mapping

    return Figure(f"{build_peft_weight_mapping.__name__} is there", healthy=True)


PATCH = Patch(
    module=__name__,
    title="peft's module of weight conversions cannot be imported before transformers 5.0.0",
    severity="crash",
    symptoms=(
        "No module named 'transformers.conversion_mapping' @ peft.utils.transformers_weight_conversion",
        "cannot import name '_MODEL_TO_CONVERSION_PATTERN' from 'transformers.conversion_mapping'",
    ),
    targets=("peft.utils.transformers_weight_conversion",),
    affects=("peft>=0.19.0", "transformers<=5.0.0rc3"),
    links=(
        "https://github.com/huggingface/peft/blob/v0.19.1/src/peft/utils/transformers_weight_conversion.py#L21",
    ),
    measures="what importing it gives (expected: build_peft_weight_mapping is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
