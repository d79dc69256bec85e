"""Runs the patches of a target: probe, repair, probe again, record.

Here errors are caught: nothing that a patch does may fail the user's import.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from zoo_hooks import catalogue, ledger, settings
from zoo_hooks.changes import Changes
from zoo_hooks.model import Outcome, Patch, Status, Verdict

_log = logging.getLogger("zoo_hooks")
_told: set[str] = set()
_busy: dict[tuple[str, str], object] = {}
paused: dict[str, str] = {}
"""Patches that the user has undone, by id, and why. Written by zoo_hooks.controls."""


class RepairDidNotShow(RuntimeError):
    """The repair changed nothing, or the probe still finds the bug after it."""


class PatchFailed(RuntimeError):
    """Raised out of the user's import, instead of a log line, where ``ZOO_HOOKS_STRICT=1``."""


def before(module: ModuleType) -> Callable[[], None]:
    """Run the patches that act before a target's body; the result undoes them after it."""
    made: list[Changes] = []
    for patch in patches_of(module.__name__, "before"):
        outcome = _run(patch, module.__name__, module)
        if outcome and outcome.changes:
            made.append(outcome.changes)

    def finish() -> None:
        for changes in reversed(made):
            if trouble := _roll_back(changes):
                _tell(f"what stood in while {module.__name__} loaded is{trouble.lstrip(';')}")

    return finish


def after(executed: ModuleType) -> None:
    """Run the patches of a target whose body has just run in the module ``executed``."""
    target = executed.__spec__.name if executed.__spec__ else executed.__name__
    current = sys.modules.get(target)  # modules may have replaced themselves while loading
    if current is None:
        return
    todo = [
        patch
        for patch in patches_of(target, "after")
        if current is executed or _module_seen(patch, target) is not current
    ]
    fire(todo, target)


def _module_seen(patch: Patch, target: str) -> ModuleType | None:
    outcome = ledger.find(patch.id, target)
    return outcome.module if outcome else None


def patches_of(target: str, when: str) -> list[Patch]:
    """Patches of a target that can be loaded; those that cannot are told of."""
    try:
        found = [patch for patch in catalogue.for_target(target) if patch.when == when]
    except Exception as error:  # noqa: BLE001 - a damaged installation must not break the import
        _tell(f"the patches of {target} cannot be loaded: {error!r}", error)
        return []
    for patch_id, reason in list(catalogue.broken.items()):
        _tell(f"patch {patch_id} cannot be imported: {reason!r}", reason)
    return found


def fire(patches: list[Patch], target: str, *, late: bool = False) -> None:
    """Run patches on a target as it stands in sys.modules."""
    if (module := sys.modules.get(target)) is not None:
        for patch in patches:
            _run(patch, target, module, late=late)


def _run(patch: Patch, target: str, module: ModuleType, *, late: bool = False) -> Outcome | None:
    claim = object()
    if _busy.setdefault((patch.id, target), claim) is not claim:
        return None  # another thread is at it
    try:
        outcome = _attempt(patch, target, module)
    finally:
        del _busy[patch.id, target]
    outcome = replace(outcome, late=outcome.late or late)
    kept = outcome if patch.when == "after" else replace(outcome, changes=None)
    ledger.record(kept)
    if outcome.status is Status.FAILED:
        link = f" ({patch.links[0]})" if patch.links else ""
        _tell(f"patch {patch.id} failed: {outcome.reason}{link}", outcome.error)
    else:
        quiet = (Status.NOT_NEEDED, Status.SKIPPED, Status.PENDING)
        level = logging.DEBUG if outcome.status in quiet else logging.INFO
        _log.log(level, "%s: %s: %s", patch.id, outcome.status.value, outcome.reason)
    return outcome


def _attempt(patch: Patch, target: str, module: ModuleType) -> Outcome:
    def outcome(status: Status, reason: str = "", error: Exception | None = None) -> Outcome:
        return Outcome(patch.id, target, status, reason, error, module=module)

    changes = Changes()
    stage = "reading ZOO_HOOKS"
    try:
        current = settings.read()
        if refusal := paused.get(patch.id) or current.refusal(patch.id):
            return outcome(Status.SKIPPED, refusal)
        if waits := [name for name in patch.requires if name not in sys.modules]:
            return outcome(Status.PENDING, f"waits for {' and '.join(waits)}")
        stage = "probe"
        verdict = Verdict(patch.probe(module))
        seen = ledger.find(patch.id, target)
        ours = seen.changes if seen and seen.changes and seen.changes.in_place else None
        if verdict is not Verdict.AFFECTED:
            return seen if seen and ours and verdict is Verdict.FIXED else outcome(*_HANDS_OFF[verdict])
        if current.dry_run:
            return outcome(Status.DRY_RUN, "would be repaired")
        stage = "repair"
        if ours:  # after a reload, what was changed outside the target must not be changed twice
            ours.undo()
        _repair(patch, target, module, changes)
        stage = "after the repair"
        _insist(patch, module, changes)
        return replace(outcome(Status.APPLIED, patch.title), changes=changes)
    except Exception as error:  # noqa: BLE001 - see the module's docstring
        reason = f"{stage}: {type(error).__name__}: {error}"
        return outcome(Status.FAILED, reason + _roll_back(changes), error)
    except BaseException:
        _roll_back(changes)
        raise


def _repair(patch: Patch, target: str, module: ModuleType, changes: Changes) -> None:
    if patch.when == "before":
        return patch.repair(module, changes)
    # Not above: where nothing is to be repaired nobody pays for wrapt, which also imports asyncio and
    # puts a finder of its own on sys.meta_path. The module is in sys.modules, so the hook runs now, and that
    # finder, which can deadlock on names that are pending (docs, "Pitfalls"), never has one.
    from wrapt import register_post_import_hook

    register_post_import_hook(lambda loaded: patch.repair(loaded, changes), target)
    return None


_HANDS_OFF = {
    Verdict.FIXED: (Status.NOT_NEEDED, "the installed code does not have this bug"),
    Verdict.UNKNOWN: (Status.UNKNOWN, "the probe does not know this code; nothing was changed"),
}


def _insist(patch: Patch, module: ModuleType, changes: Changes) -> None:
    if not changes:
        raise RepairDidNotShow("the repair changed nothing")
    if patch.behavioural and patch.probe(module) is Verdict.AFFECTED:
        raise RepairDidNotShow("the probe still finds the bug")


def _roll_back(changes: Changes) -> str:
    try:
        changes.undo()
    except Exception as error:  # noqa: BLE001 - CannotRevert, or what the owner of an attribute raises
        return f"; not rolled back: {error}"
    return ""


def _tell(message: str, error: Exception | None = None) -> None:
    """Log once; raise instead in strict mode."""
    if error is not None and settings.strict():
        raise PatchFailed(f"zoo-hooks: {message}") from error
    if message not in _told:
        _told.add(message)
        _log.warning("zoo-hooks: %s", message)
