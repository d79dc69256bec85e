"""A config refuses a whole number, such as 1, for a field that is declared as ``float``.

Symptom
-------
``from_pretrained`` raises ``StrictDataclassFieldValidationError: Validation error for field
'routed_scaling_factor': TypeError: Field 'routed_scaling_factor' expected float, got int (value: 1)``. The
checkpoint's ``config.json`` has ``1`` where ``1.0`` is expected. This is reported for GigaChat 3.1, and for
``moe_jitter_eps`` of DBRX, which newer releases accept. Setting such a field raises as well.

Cause
-----
From 5.4.0 on, configs check their fields with ``strict`` of huggingface_hub. It compares types by
``isinstance``, so 1 is no float. Type checkers accept an int for a float, and JSON has only one kind of
number. Upstream changes fields to ``float | int`` as they are reported. In 5.24.0, 1885 fields are ``float``
only.

Repair
------
The check accepts an int for a float. The value is stored as it is, as it was up to 5.3.0. Strings, None and
booleans are refused as before. Other users of the same check, such as the arguments of processors, also get
this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict, symptom

CHECKS, CHECK = "huggingface_hub.dataclasses", "_validate_simple_type"


def probe(module: ModuleType) -> Verdict:
    if not hasattr(getattr(module, "PreTrainedConfig", None), "__validators__"):
        return Verdict.FIXED
    check = getattr(sys.modules[CHECKS], CHECK, None)
    if check is None or not _refuses(check, "1"):
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if _refuses(check, 1) else Verdict.FIXED


def _refuses(check: Callable[..., Any], value: Any) -> bool:
    with symptom(TypeError, "'name' expected float, got"):
        check("name", value, float)
        return False
    return True


def repair(module: ModuleType, changes: Changes) -> None:  # noqa: ARG001 - the check is huggingface_hub's
    changes.wrap(sys.modules[CHECKS], CHECK, _accepting)


def _accepting(original: Callable[..., Any]) -> Callable[..., Any]:
    def check(name: str, value: Any, expected_type: type) -> Any:
        if type(value) is int and expected_type is float:
            return None
        return original(name, value, expected_type)

    return check


def canary() -> Figure:
    """Read a config as GigaChat 3.1 has it."""
    from transformers import DeepseekV3Config

    value = DeepseekV3Config.from_dict({"routed_scaling_factor": 1}).routed_scaling_factor
    return Figure(value, healthy=value == 1)


PATCH = Patch(
    module=__name__,
    title="Configs refuse whole numbers for fields that are declared as float",
    severity="crash",
    symptoms=("Field '*' expected float, got int (value: ",),
    targets=("transformers.configuration_utils",),
    affects=("transformers>=5.4.0",),
    links=(
        "https://github.com/jundot/omlx/issues/432",
        "https://github.com/huggingface/transformers/pull/45007",
        "https://github.com/huggingface/transformers/pull/45019",
    ),
    measures="scaling factor of a config that says 1 (expected: 1)",
    probe=probe,
    repair=repair,
    canary=canary,
)
