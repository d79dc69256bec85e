"""``Accelerator(log_with="all")`` fails if any installed tracker cannot be imported.

Symptom
-------
If one of comet_ml, MLflow, ClearML, DVCLive, SwanLab, Aim, trackio or tensorboard is installed and its
import raises, ``Accelerator(log_with="all")`` raises that error in ``init_trackers``, even if the other
trackers work.

Cause
-----
``get_available_trackers`` lists what is installed. Each tracker imports its package when
``init_trackers`` creates and starts it.

Repair
------
When "all" is resolved, zoo-hooks tries to import the package of each tracker on the list. A tracker whose
import fails is left out, and a warning with the error is logged once. If a tracker is named
(``log_with="mlflow"``), ``init_trackers`` still raises its own error. wandb has a patch of its own
(``accelerate/wandb-broken``). The packages themselves are not changed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict
from zoo_hooks.patches import _broken, _calls

TRACKING = "accelerate.tracking"
NAMES = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "tensorboard")


def probe(module: ModuleType) -> Verdict:
    if not all(hasattr(place, "filter_trackers") for place in (module, sys.modules.get(TRACKING))):
        return Verdict.UNKNOWN
    tracker = sys.modules[TRACKING].MLflowTracker
    starts = inspect.unwrap(getattr(tracker, "start", tracker.__init__)).__code__  # in 1.0 by being created
    first = next(iter(inspect.signature(inspect.unwrap(module.filter_trackers)).parameters))
    return Verdict.AFFECTED if first == "log_with" and "mlflow" in starts.co_names else Verdict.UNKNOWN


def repair(module: ModuleType, changes: Changes) -> None:
    def usable(name: str) -> bool:
        if name == "tensorboard":
            _, error = _calls.tried(lambda: import_module("torch.utils.tensorboard"))
            if isinstance(error, ModuleNotFoundError) and find_spec("tensorboardX"):
                return True  # the tracker imports that instead
        else:
            _, error = _calls.tried(lambda: import_module(name))
        if error:
            _broken.tell(changes, name, error)
        return error is None

    def make(choose: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def filter_trackers(*args: Any, **kwargs: Any) -> list[Any]:
            chosen = choose(*args, **kwargs)
            given = args[0] if args else kwargs["log_with"]
            named = list(map(str, given if isinstance(given, (list, tuple)) else [given]))
            if "all" not in named:
                return chosen
            asked = [one for one in map(str, chosen) if one in NAMES and one not in named]
            broken = [name for name in asked if not usable(name)]
            return [one for one in chosen if str(one) not in broken]

        return filter_trackers

    for place in (sys.modules[TRACKING], module):  # which has its own copy
        changes.wrap(place, "filter_trackers", make)


def canary() -> Figure:
    code = """
from accelerate import Accelerator
Accelerator(cpu=True, log_with="all", project_dir=sys.path[0]).init_trackers("project")
"""
    return _broken.with_broken(NAMES[0], code, _broken.packages(*NAMES[1:]), version="3.0.0")


PATCH = Patch(
    module=__name__,
    title='Accelerator(log_with="all") fails if any installed tracker cannot be imported',
    severity="crash",
    guard=True,
    behavioural=False,
    symptoms=tuple(f"@ accelerate.tracking @ {name}.__init__" for name in NAMES),
    targets=("accelerate.accelerator",),
    affects=("accelerate>=0.26.1",),
    links=("https://github.com/huggingface/accelerate/blob/v1.15.0/src/accelerate/tracking.py#L1348",),
    measures="result of starting all trackers, of which eight are broken (expected: imported)",
    probe=probe,
    repair=repair,
    canary=canary,
)
