"""accelerate says that wandb is available even if wandb cannot be imported.

Symptom
-------
If ``import wandb`` raises (built for another numpy or protobuf, or only partly uninstalled), ``from trl
import DPOTrainer`` raises that error, even if the user did not ask for wandb. So do the imports of the
trainers for GRPO, RLOO and others. ``Accelerator(log_with="all")`` raises it when its trackers are created.

Cause
-----
``is_wandb_available`` only checks whether wandb is installed. Its callers, such as trl's callbacks, import
wandb at once. transformers imports wandb to find out (``transformers/wandb-broken``), so the two libraries
disagree.

Repair
------
``is_wandb_available`` tries to import wandb when it is called, and returns True only if that works.
Otherwise a warning with the error is logged once, and "all" leaves wandb out. Code that names wandb
(``log_with="wandb"``) still gets wandb's own error from ``init_trackers``. Importing accelerate does not
import wandb, and wandb itself is not changed.
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
    title="accelerate says that wandb is available even if wandb cannot be imported",
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
    measures="whether a wandb that cannot be imported counts as available, 1 or 0 (expected: 0)",
    probe=probe,
    repair=repair,
    canary=canary,
)
