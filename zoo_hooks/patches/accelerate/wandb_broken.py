"""accelerate takes a wandb for usable that is installed but cannot be imported.

Symptom
-------
Where ``import wandb`` raises (built for another numpy or protobuf, half removed), ``from trl import
DPOTrainer``, GRPO, RLOO and others raise that error, though nobody asked for wandb. So does
``Accelerator(log_with="all")`` when its trackers are made.

Cause
-----
``is_wandb_available`` says whether wandb is installed, and what asks it imports wandb at once, as trl's
callbacks do. transformers imports wandb to find out (``transformers/wandb-broken``), so the two disagree.

Repair
------
``is_wandb_available`` says True only if wandb can be imported, which it tries when it is asked; else it
warns once with the error. "all" leaves wandb out then. Who names it (``log_with="wandb"``) gets wandb's own
error from ``init_trackers``, as ever. Importing accelerate imports no wandb, and wandb itself is not touched.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken

IMPORTS, TRACKING = "accelerate.utils.imports", "accelerate.tracking"


def probe(module: ModuleType) -> Verdict:
    asks = getattr(sys.modules.get(IMPORTS), "is_wandb_available", None)
    chosen = all(hasattr(place, "filter_trackers") for place in (module, sys.modules.get(TRACKING)))
    if not isinstance(asks, FunctionType) or not chosen:
        return Verdict.UNKNOWN
    code = asks.__code__
    if "wandb" not in (*code.co_names, *code.co_consts):
        return _broken.passing(asks)
    return Verdict.AFFECTED if code.co_names == ("_is_package_available",) else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    original: Callable[[], bool] = sys.modules[IMPORTS].is_wandb_available

    def usable() -> bool:
        return original() and hasattr(import_module("wandb"), "run")  # as transformers has it

    asks = _broken.asking(changes, original, "wandb", usable)

    def make(choose: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        first = next(iter(inspect.signature(choose).parameters))

        def filter_trackers(*args: Any, **kwargs: Any) -> list[Any]:
            chosen = choose(*args, **kwargs)
            given = args[0] if args else kwargs[first]
            named = "wandb" in map(str, given if isinstance(given, (list, tuple)) else [given])
            return [one for one in chosen if named or str(one) != "wandb" or asks()]

        return filter_trackers

    changes.rebind(original, asks)
    for place in (sys.modules[TRACKING], module):  # which has its own copy
        changes.wrap(place, "filter_trackers", make)


def canary() -> Figure:
    from unittest import mock

    from accelerate.utils import is_wandb_available

    working = sys.modules.pop("wandb", None)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(sys, "path", [folder, *sys.path]):
        Path(folder, "wandb.py").write_text("raise AttributeError('np.float_ was removed')")
        Path(folder, "wandb-1.dist-info").mkdir()
        Path(folder, "wandb-1.dist-info", "METADATA").write_text("Name: wandb\nVersion: 1\n")
        said = int(bool(is_wandb_available()))
    if working:
        sys.modules["wandb"] = working
    return Figure(said, healthy=not said)


PATCH = Patch(
    module=__name__,
    title="accelerate takes a wandb for usable that is installed but cannot be imported",
    severity="crash",
    guard=True,
    symptoms=(
        "@ trl.trainer.callbacks @ wandb.__init__",
        "@ accelerate.tracking @ wandb.__init__",
    ),
    targets=("accelerate.accelerator",),
    affects=("accelerate>=0.26.1",),
    links=(
        "https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/utils/imports.py#L275",
        "https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/callbacks.py#L50",
    ),
    measures="whether a wandb that cannot be imported is said to be there (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
