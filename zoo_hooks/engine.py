"""Runs the patches of a target: probe, repair, probe again, record.

Errors are caught here: nothing that a patch does may make the user's import fail. An exception of a signal
handler of the user is no error of a patch: it propagates to the user, and started changes are undone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from zoo_hooks import catalogue, claims, ledger, notices, settings
from zoo_hooks.changes import Changes
from zoo_hooks.model import Outcome, Patch, Status, Verdict
from zoo_hooks.safety import load, pass_on

paused: dict[str, str] = {}
"""Patches that the user has undone, by id, and why. Written by zoo_hooks.controls."""


class RepairDidNotShow(RuntimeError):
    """The repair changed nothing, or the probe still finds the bug after the repair."""


class PatchFailed(RuntimeError):
    """A patch failed under ``ZOO_HOOKS_STRICT=1``. Raised from the user's import, instead of a warning."""


_logs_at_exit = False


def before(module: ModuleType, target: str) -> Callable[[], None]:
    """Run the patches that act before a target's body. Call the result after the body to undo them."""
    made: list[Changes] = []
    for patch in patches_of(target, "before"):
        outcome = _run(patch, target, module)
        if outcome and outcome.changes:
            made.append(outcome.changes)

    def finish() -> None:
        for changes in reversed(made):
            if trouble := changes.roll_back():
                _tell(f"the temporary changes for the import of {target} are{trouble.lstrip(';')}")

    return finish


def after(executed: ModuleType, target: str) -> None:
    """Run the patches of a target whose body has just run in the module ``executed``."""
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
    """Patches of a target that can be loaded; a warning names those that cannot."""
    catalogue.keep_modules()
    try:
        found = [patch for patch in catalogue.for_target(target) if patch.when == when]
    except BaseException as error:  # a damaged installation must not break the import
        pass_on(error)
        _tell(f"the patches of {target} cannot be loaded: {error!r}", error)
        return []
    for patch_id, reason in list(catalogue.broken.items()):
        _tell(f"patch {patch_id} cannot be imported: {reason!r}", reason)
    return found


def fire(patches: list[Patch], target: str, *, late: bool = False, again: bool = False) -> None:
    """Run patches on a target in sys.modules; with ``again`` also over the changes of other code."""
    if (module := sys.modules.get(target)) is not None:
        for patch in patches:
            _run(patch, target, module, late=late, again=again)


def _run(
    patch: Patch, target: str, module: ModuleType, *, late: bool = False, again: bool = False
) -> Outcome | None:
    claim = claims.take(patch.id, target)
    if claim is None:
        return None  # another thread is at it
    try:
        outcome = _attempt(patch, target, module, claim.changes, again=again)
        outcome = replace(outcome, late=outcome.late or late)
        ledger.record(outcome if patch.when == "after" else replace(outcome, changes=None))
    except BaseException:  # from outside
        claim.changes.roll_back()
        raise
    finally:
        claims.drop(patch.id, target)
    _log_at_exit()
    if outcome.status is Status.FAILED:
        link = f" The bug: {patch.links[0]}" if patch.links else ""
        hint = f". {target} is imported without this repair; ZOO_HOOKS=-{patch.id} silences this.{link}"
        _tell(f"{patch.id} was not repaired: {outcome.reason}", outcome.error, hint)
    elif outcome.status in _SAID:
        said = "on guard" if patch.guard and outcome.status is Status.APPLIED else _SAID[outcome.status]
        notices.say(notices.INFO, f"{said}: {outcome.reason} ({patch.id})")
    return outcome


def _attempt(
    patch: Patch, target: str, module: ModuleType, changes: Changes, *, again: bool = False
) -> Outcome:
    def outcome(status: Status, reason: str = "", error: BaseException | None = None) -> Outcome:
        return Outcome(patch.id, target, status, reason, error, module=module)

    stage, unknown = "reading ZOO_HOOKS", False
    try:
        current = settings.read()
        if held_back := _held_back(patch, current):
            return outcome(*held_back)
        stage = "probe"
        verdict = Verdict(patch.probe(module))
        seen = ledger.find(patch.id, target)
        earlier = seen.changes if seen else None
        # What other code has put over a repair may be unknown to the probe; then it has to be FIXED after it.
        overwritten = earlier is not None and not earlier.in_place
        unknown = again and overwritten and verdict is Verdict.UNKNOWN
        if verdict is not Verdict.AFFECTED and not unknown:
            kept = seen and earlier and earlier.in_place and verdict is Verdict.FIXED
            return seen if seen and kept else outcome(*_HANDS_OFF[verdict])
        if current.dry_run:
            return outcome(Status.DRY_RUN, "would be repaired")
        stage = "repair"
        if earlier:  # what is left of it after a reload, or after other code, must not be changed twice
            earlier.undo(partly=True)
        patch.repair(module, changes)
        stage = "after the repair"
        _insist(patch, module, changes, fixed=unknown)
        if unknown:
            changes.tell(f"other code had replaced the repair {patch.id}; it has been applied again")
        return replace(outcome(Status.APPLIED, patch.title), changes=changes)
    except BaseException as error:  # see the module's docstring
        trouble = changes.roll_back()
        pass_on(error)
        reason = f"{type(error).__name__}: {error}"
        if unknown or stage == "probe":
            who = "it" if stage == "probe" else "the repair"
            why = f"the probe does not know this code; {who} raised {reason}{trouble}"
            return outcome(Status.UNKNOWN, why, error)
        return outcome(Status.FAILED, f"{stage}: {reason}{trouble}", error)


def _held_back(patch: Patch, current: settings.Settings) -> tuple[Status, str] | None:
    if refusal := paused.get(patch.id) or current.refusal(patch.id):
        return Status.SKIPPED, refusal
    if waits := [name for name in patch.requires if name not in sys.modules]:
        return Status.PENDING, f"waits for {' and '.join(waits)}"
    return None


def _log_at_exit() -> None:
    global _logs_at_exit
    if not _logs_at_exit and settings.logs():
        _logs_at_exit = True
        load("atexit").register(_log)


def _log() -> None:
    try:
        load("zoo_hooks.records").log()
    except BaseException as error:  # the process ends as without us
        pass_on(error)


_SAID = {Status.APPLIED: "repaired", Status.DRY_RUN: "dry run", Status.UNKNOWN: "left alone"}
_HANDS_OFF = {
    Verdict.FIXED: (Status.NOT_NEEDED, "the installed code does not have this bug"),
    Verdict.UNKNOWN: (Status.UNKNOWN, "the probe does not know this code; nothing was changed"),
}


def _insist(patch: Patch, module: ModuleType, changes: Changes, *, fixed: bool) -> None:
    if not changes:
        raise RepairDidNotShow("the repair changed nothing")
    verdict = patch.probe(module) if patch.behavioural or fixed else Verdict.FIXED
    if verdict is Verdict.AFFECTED or (fixed and verdict is not Verdict.FIXED):
        raise RepairDidNotShow("the probe still finds the bug")


def _tell(message: str, error: BaseException | None = None, hint: str = "") -> None:
    """Log once; raise instead in strict mode, without the hint."""
    if error is not None and settings.strict():
        raise PatchFailed(f"zoo-hooks: {message}") from error
    notices.say(notices.WARNING, f"zoo-hooks: {message}{hint}")
