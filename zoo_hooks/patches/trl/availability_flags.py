"""trl treats every optional package as installed with transformers 5.3 and later.

Symptom
-------
``from trl import GRPOTrainer`` raises ``ModuleNotFoundError: No module named 'vllm'`` (or ``'mergekit'``,
``'weave'``, ``'llm_blender'``). Up to trl 0.26 the error is wrapped in a RuntimeError. DPO, RLOO and Online
DPO fail in the same way. ``is_vllm_available()`` returns ``(False, None)``, which is truthy.

Cause
-----
From transformers 5.3.0 on, its private function ``_is_package_available`` returns a pair even if no version
was asked for. trl up to 0.26 keeps the results as flags, and trl 0.27 and 0.28 call the function each time.
From 0.29 on, trl has its own function.

Repair
------
In ``trl.import_utils`` alone, the function returns a bool if no version is asked for. Flags that hold a
pair get the first element of it. The function in transformers is not changed.

zoo-hooks does not repair one effect in trl 0.27 and 0.28: at import, they set ``VLLM_LOGGING_LEVEL`` even
if vLLM is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict

ASK = "_is_package_available"


def probe(module: ModuleType) -> Verdict:
    kinds = {type(flag) for flag in _flags(module).values()}
    if any(ASK in question.__code__.co_names for question in _questions(module).values()):
        kinds.add(type(getattr(module, ASK)("sys")))
    if not kinds or kinds - {bool, tuple}:
        return Verdict.UNKNOWN
    return Verdict.AFFECTED if tuple in kinds else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.wrap(module, ASK, _a_bool)
    for name, flag in _flags(module).items():
        if isinstance(flag, tuple):
            changes.replace(module, name, flag[0])


def canary() -> Figure:
    from trl import import_utils

    answers = [question() for question in _questions(import_utils).values()]
    wrong = sum(not isinstance(answer, bool) for answer in answers)
    return Figure(wrong, healthy=not wrong and bool(answers))


def _a_bool(original: Callable[..., Any]) -> Callable[..., Any]:
    _, *versions = inspect.signature(original).parameters

    def is_package_available(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        asked = any(args[1:]) or any(kwargs.get(name) for name in versions)
        return answer[0] if isinstance(answer, tuple) and not asked else answer

    return is_package_available


def _flags(module: ModuleType) -> dict[str, Any]:
    """What trl keeps; a pair with a version is unpacked there."""
    return {
        name: value
        for name, value in vars(module).items()
        if name.startswith("_") and name.endswith("_available") and not callable(value)
    }


def _questions(module: ModuleType) -> dict[str, FunctionType]:
    return {
        name: value
        for name, value in vars(module).items()
        if name.startswith("is_") and name.endswith("_available") and isinstance(value, FunctionType)
    }


PATCH = Patch(
    module=__name__,
    title="trl treats every optional package as installed",
    severity="crash",
    symptoms=(
        "No module named 'vllm' @ trl",
        "No module named 'mergekit' @ trl",
        "No module named 'weave' @ trl",
        "No module named 'llm_blender' @ trl",
    ),
    targets=("trl.import_utils",),
    affects=("trl>=0.16.0,<0.29.0", "transformers>=5.3.0"),
    links=(
        "https://github.com/modelscope/ms-swift/pull/9770",
        "https://github.com/MakazhanAlpamys/Soup/issues/502",
    ),
    measures="is_..._available() functions of trl that do not return a bool (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
