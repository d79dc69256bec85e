"""transformers fails on a wandb that is installed but cannot be imported.

Symptom
-------
Where ``import wandb`` raises (built for another numpy or protobuf, half removed), training ends before
it has begun with that error, though nobody asked for wandb. In 4.x ``TrainingArguments(...)`` raises it by
default, in 5.x with ``report_to="all"``. Before 4.55.0 ``Trainer(...)`` raises it.

Cause
-----
``is_wandb_available`` imports wandb to see whether it is usable, and lets whatever the import raises
through, though a wandb without ``run`` makes it say False. Before 4.55.0 it looks only whether there is a
file to import, and ``WandbCallback`` imports it.

Repair
------
``is_wandb_available`` says False where it would raise, or the import would, wherever transformers asks it,
which is told once at INFO. So all is as if wandb were not installed: it is left out of "all", and who asks
for it by name gets the error of WandbCallback. wandb is imported when transformers from 4.55.0 on would do
it, never before; wandb itself is not touched.
"""

from __future__ import annotations

import builtins
import functools
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


class _BrokenError(Exception):
    pass


def probe(module: ModuleType) -> Verdict:
    asks = getattr(module, "is_wandb_available", None)
    if not isinstance(asks, FunctionType):
        return Verdict.UNKNOWN
    if "wandb" not in (*asks.__code__.co_names, *asks.__code__.co_consts):
        return Verdict.FIXED  # it does not name it: somebody's repair
    with suppress(Exception):
        with suppress(_BrokenError):
            return Verdict.AFFECTED if _with_broken_wandb(asks)() else Verdict.FIXED
        return Verdict.AFFECTED
    return Verdict.UNKNOWN


def _with_broken_wandb(asks: FunctionType) -> FunctionType:
    """A copy of the function that finds a wandb and fails to import it; the real one is not looked for."""

    def import_(name: str, *more: Any) -> Any:
        if name == "wandb":
            raise _BrokenError
        return builtins.__import__(name, *more)

    instead = {
        "__builtins__": {**vars(builtins), "__import__": import_},
        "importlib": SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name)),
        "os": SimpleNamespace(getenv=lambda _, default="": default),
    }
    return FunctionType(asks.__code__, {**asks.__globals__, **instead})


def repair(module: ModuleType, changes: Changes) -> None:
    original: Callable[[], bool] = module.is_wandb_available

    @functools.wraps(original)
    def is_wandb_available() -> bool:
        with suppress(Exception):  # what a broken package raises has no one type
            return original() and _works()
        changes.tell(
            "wandb is installed but cannot be imported, so transformers does without it; "
            "to see why, import it"
        )
        return False

    changes.rebind(original, is_wandb_available)


def _works() -> bool:
    return hasattr(import_module("wandb"), "run")  # as transformers has it from 4.55.0 on


def canary() -> Figure:
    from unittest import mock

    import accelerate  # noqa: F401 - without it TrainingArguments fails for another reason
    from transformers import TrainingArguments

    working = sys.modules.pop("wandb", None)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(sys, "path", [folder, *sys.path]):
        Path(folder, "wandb.py").write_text("raise AttributeError('np.float_ was removed')")
        reports = TrainingArguments(folder, report_to="all", use_cpu=True).report_to
    if working:
        sys.modules["wandb"] = working
    return Figure(int("wandb" in reports), healthy="wandb" not in reports)


PATCH = Patch(
    module=__name__,
    title="training fails on a wandb that is installed but cannot be imported",
    targets=("transformers.integrations.integration_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/pull/39875",),
    measures="reports to a wandb that cannot be imported (right: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
