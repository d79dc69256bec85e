"""What a child interpreter of the survey does: ``main(TASK, ARGUMENT, ...)``.

For each argument it prints a line of JSON, ``[argument, answer]``. All other output goes to standard
error.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import zoo_hooks
from zoo_hooks import catalogue, reports, settings
from zoo_hooks.model import Patch
from zoo_hooks.releases import version


def main(task: str, *arguments: str) -> None:
    """Answer for each argument in turn."""
    tasks: dict[str, Callable[[str], Any]] = {
        "statuses": _statuses,
        "without": _canary,
        "with": _canary,
    }
    zoo_hooks.init()  # for installations whose start-up file does not run
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for argument in arguments:
            print(json.dumps([argument, tasks[task](argument)]), file=answers, flush=True)


def _statuses(asked: str) -> dict[str, Any]:
    upstream, *wanted = asked.split()
    trouble = _raised_by_importing(upstream)
    patches = [patch for patch in catalogue.everything() if patch.upstream == upstream]
    reasons = {}
    for patch in patches:
        if wanted and patch.id not in wanted:
            continue
        for target in patch.targets:
            if raised := _raised_by_importing(target):
                reasons[patch.id] = f"importing {target} raises {raised}"
        if not trouble and (absent := _absent(patch)):
            name = absent.partition(".")[0]
            has = version(name)
            reasons[patch.id] = f"{name} {has} has no {absent}" if has else f"{name} is not installed"
    rows = [row for row in reports.report().as_dict() if row["upstream"] == upstream]
    for row in rows:
        if row["status"] == "PENDING" and row["id"] in reasons:
            row["reason"] = reasons[row["id"]]
    return {"rows": rows, "trouble": trouble}


def _raised_by_importing(module: str) -> str | None:
    try:
        import_module(module)
    except Exception as error:  # noqa: BLE001 - an upstream may fail in any way; it is shown
        return f"{type(error).__name__}: {error}"
    return None


def _canary(patch_id: str) -> dict[str, Any]:
    patch = catalogue.get(patch_id)
    missing = trace = None
    try:
        figure = patch.canary()
        value, healthy, trace = figure.value, figure.healthy, figure.trace
    except Exception as error:  # noqa: BLE001 - what the bug raises is the canary's figure
        value, healthy, trace = f"{type(error).__name__}: {error}", False, traceback.format_exc()
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and not _exists(error.name.partition(".")[0])
        ):
            missing = error.name
    missing = missing or (None if healthy else _absent(patch))
    status = reports.row(patch, settings.read()).status.name
    if status == "PENDING":  # a canary may have run in a process of its own
        for target in patch.targets:
            _raised_by_importing(target)
        status = reports.row(patch, settings.read()).status.name
    return {"value": value, "healthy": healthy, "missing": missing, "status": status, "trace": trace}


def _absent(patch: Patch) -> str | None:
    """A module of the patch that this release lacks, so that the patch stays PENDING."""
    if not any(map(_exists, patch.targets)):
        return patch.targets[0]
    return next((module for module in patch.requires if not _exists(module)), None)


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError as error:  # its package is not there, or lacks something else
        return not f"{module}.".startswith(f"{error.name}.")
    except ImportError:  # its package is there and cannot be imported, which may be the bug
        return True
