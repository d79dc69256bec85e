"""peft.utils.transformers_weight_conversion cannot be imported with transformers 4.

Symptom
-------
``import peft.utils.transformers_weight_conversion`` raises
``ModuleNotFoundError: No module named 'transformers.conversion_mapping'``. With the release candidates of
transformers 5.0.0 it raises ``ImportError: cannot import name '_MODEL_TO_CONVERSION_PATTERN'``.

peft itself does not import the module with these releases. Other packages that build on peft import it at
their top, so they cannot be imported.

Cause
-----
The module uses classes and functions that were added in transformers 5.0, which converts checkpoints while
it loads them. The release candidates have some of them, but not the table of models.

Repair
------
While the module is imported, placeholders exist for the two modules of transformers. They are removed
afterwards, so other code that checks whether transformers has these modules gets the true answer. Nothing
is converted with these releases: calling a function that would convert raises an ImportError that names the
upgrade.
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


def probe(module: ModuleType) -> Verdict:
    source = module.__spec__.loader.get_data(module.__spec__.origin)  # type: ignore[union-attr]
    if any(name.encode() not in source for name in MISSING):
        return Verdict.UNKNOWN  # another module of this name
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
    title="peft.utils.transformers_weight_conversion cannot be imported before transformers 5.0.0",
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
    measures="result of importing the module (expected: build_peft_weight_mapping is there)",
    probe=probe,
    repair=repair,
    canary=canary,
    when="before",
)
