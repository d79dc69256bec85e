"""trl takes every optional package for installed.

Symptom
-------
``from trl import GRPOTrainer`` raises ``ModuleNotFoundError: No module named 'vllm'`` (or ``'mergekit'``,
``'weave'``, ``'llm_blender'``), wrapped in a RuntimeError up to trl 0.26. DPO, RLOO and Online DPO do the
same. ``is_vllm_available()`` answers ``(False, None)``, which is true.

Cause
-----
From transformers 5.3.0 ``_is_package_available``, which is private, returns a pair also where no version was
asked for. trl keeps its answers as flags up to 0.26, and asks it each time in 0.27 and 0.28. From 0.29 it
has a function of its own.

Repair
------
In ``trl.import_utils`` alone that function answers with a bool where no version is asked for, and the flags
that hold a pair get its first half. transformers keeps its own function. Not covered is what trl 0.27 and
0.28 do while they load: they set ``VLLM_LOGGING_LEVEL`` also where there is no vLLM.
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
    title="trl takes every optional package for installed",
    severity="crash",
    symptoms=(
        "No module named 'vllm' @ trl",
        "No module named 'mergekit' @ trl",
        "No module named 'weave' @ trl",
        "No module named 'llm_blender' @ trl",
    ),
    targets=("trl.import_utils",),
    affects=("trl>=0.16.1,<0.29.0", "transformers>=5.3.0"),
    links=(
        "https://github.com/modelscope/ms-swift/pull/9770",
        "https://github.com/MakazhanAlpamys/Soup/issues/502",
    ),
    measures="is_..._available() that do not answer with a bool (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
