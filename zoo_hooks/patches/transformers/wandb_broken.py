"""Training fails if wandb is installed but cannot be imported.

Symptom
-------
If ``import wandb`` raises, training fails with that error before it starts, even if the user did not ask
for wandb. A wandb that was built for another numpy or protobuf raises, and one that is partly uninstalled.
In 4.x ``TrainingArguments(...)`` raises it by default, in 5.x with ``report_to="all"``. Before 4.55.0
``Trainer(...)`` raises it.

Cause
-----
``is_wandb_available`` imports wandb to check whether it is usable. It does not catch errors of that import,
although it returns False for a wandb without ``run``. Before 4.55.0 it only checks whether there is a file
to import, and ``WandbCallback`` imports it.

Repair
------
In transformers and trl, ``is_wandb_available`` returns False if the function or ``import wandb`` would
raise. A warning with the error is logged once. So "all" leaves wandb out, and code that asks whether wandb
is available works without it. Code that names wandb, by ``report_to="wandb"`` or by creating a
``WandbCallback``, raises wandb's own error. wandb is imported when transformers from 4.55.0 on would import
it, never before, and wandb itself is not changed. A hyperparameter search with the wandb backend is refused
as if wandb were not installed, after the warning.
"""

from __future__ import annotations

import builtins
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
from zoo_hooks.patches import _broken


class _BrokenError(Exception):
    pass


def probe(module: ModuleType) -> Verdict:
    asks = getattr(module, "is_wandb_available", None)
    if not isinstance(asks, FunctionType):
        return Verdict.UNKNOWN
    if "wandb" not in (*asks.__code__.co_names, *asks.__code__.co_consts):
        return _broken.passing(asks)
    with suppress(_BrokenError):
        return Verdict.AFFECTED if _with_broken_wandb(asks)() else Verdict.FIXED
    return Verdict.AFFECTED


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

    def usable() -> bool:
        return original() and hasattr(import_module("wandb"), "run")  # as transformers from 4.55.0 on

    def make(init: Callable[..., None]) -> Callable[..., None]:
        def by_name(*args: Any, **kwargs: Any) -> None:
            usable()  # raises what wandb raises
            init(*args, **kwargs)

        return by_name

    changes.rebind(original, _broken.asking(changes, original, "wandb", usable))
    changes.wrap(module.WandbCallback, "__init__", make)


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
    title="Training fails if wandb is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ is_wandb_available @ wandb",
        "@ transformers.integrations.integration_utils @ wandb.__init__",
    ),
    targets=("transformers.integrations.integration_utils",),
    affects=("transformers>=4.50.0",),
    links=("https://github.com/huggingface/transformers/pull/39875",),
    measures="whether training reports to a wandb that cannot be imported, 1 or 0 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
