"""Runs the patches of a target: probe, repair, probe again, record.

Here errors are caught: nothing that a patch does may fail the user's import.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import zoo_hooks
from zoo_hooks import catalogue, ledger, settings
from zoo_hooks.changes import CannotRevert, Changes
from zoo_hooks.model import Outcome, Patch, Status, Verdict

_log = logging.getLogger("zoo_hooks")
_told: set[str] = set()
_busy: dict[tuple[str, str], object] = {}
_paused: dict[str, str] = {}  # why, by patch id


class RepairDidNotShow(RuntimeError):
    """The repair changed nothing, or the probe still finds the bug after it."""


class PatchFailed(RuntimeError):
    """Raised out of the user's import, instead of a log line, where ``ZOO_HOOKS_STRICT=1``."""


def before(module: ModuleType) -> Callable[[], None]:
    """Run the patches that act before a target's body; the result undoes them after it."""
    made: list[Changes] = []
    for patch in _patches(module.__name__, "before"):
        outcome = _run(patch, module.__name__, module)
        if outcome and outcome.changes:
            made.append(outcome.changes)

    def finish() -> None:
        for changes in reversed(made):
            try:
                changes.undo()
            except CannotRevert as error:
                _tell(f"what stood in while {module.__name__} loaded stays: {error}")

    return finish


def after(executed: ModuleType) -> None:
    """Run the patches of a target whose body has just run in the module ``executed``."""
    target = executed.__spec__.name if executed.__spec__ else executed.__name__
    current = sys.modules.get(target)  # modules may have replaced themselves while loading
    if current is None:
        return
    todo = [
        patch
        for patch in _patches(target, "after")
        if current is executed or _module_seen(patch, target) is not current
    ]
    _fire(todo, target)


def activate() -> ledger.Report:
    """Repair what is already imported, and from now on what will be; returns the report.

    For a process that ran before zoo-hooks was installed, such as a notebook's kernel, and for
    installations whose start-up file never runs (``pip install --target``). Patches that were
    reverted are applied again. ``ZOO_HOOKS=0`` is obeyed.
    """
    zoo_hooks.init()
    _paused.clear()
    for target in sorted(zoo_hooks.TARGETS):
        module = sys.modules.get(target)
        if module is None or getattr(module.__spec__, "_initializing", False):
            continue
        settled = (Status.APPLIED, Status.NOT_NEEDED)
        todo = []
        for patch in _patches(target, "after"):
            seen = ledger.find(patch.id, target)
            if seen is None or seen.module is not module or seen.status not in settled:
                todo.append(patch)
        _fire(todo, target, late=True)
    return ledger.report()


def revert(patch_id: str) -> None:
    """Undo a patch, and leave it undone until activate().

    Raises CannotRevert, and changes nothing, if other code has wrapped or replaced what the patch
    had put in; UnknownPatch if there is no such patch.
    """
    _pause(patch_id, "reverted by zoo_hooks.revert()")


@contextlib.contextmanager
def disabled(patch_id: str) -> Iterator[None]:
    """Undo a patch for the length of a with-block, in the whole process, for A/B runs.

    Raises what revert() raises; on leaving, CannotRevert if the block left other code's changes
    in the patch's place.
    """
    if catalogue.get(patch_id).id in _paused:
        yield
        return
    undone = _pause(patch_id, "inside zoo_hooks.disabled()")
    try:
        yield
    finally:
        _paused.pop(patch_id, None)
        with contextlib.ExitStack() as stack:
            for outcome in undone:
                stack.callback(ledger.record, outcome)
                stack.callback(_changes(outcome).redo)
            back = {outcome.target for outcome in undone}
            for outcome in ledger.of_patch(patch_id):
                if outcome.status is Status.SKIPPED and outcome.target not in back:
                    stack.callback(_fire, [catalogue.get(patch_id)], outcome.target)


def _pause(patch_id: str, reason: str) -> list[Outcome]:
    catalogue.get(patch_id)
    undone: list[Outcome] = []
    try:
        for outcome in ledger.of_patch(patch_id):
            if outcome.status is Status.APPLIED and outcome.changes:
                outcome.changes.undo()
                undone.append(outcome)
    except CannotRevert:
        for outcome in undone:
            _changes(outcome).redo()
        raise
    _paused[patch_id] = reason
    for outcome in undone:
        ledger.record(replace(outcome, status=Status.SKIPPED, reason=reason, changes=None))
    return undone


def _changes(outcome: Outcome) -> Changes:
    assert outcome.changes is not None
    return outcome.changes


def _module_seen(patch: Patch, target: str) -> ModuleType | None:
    outcome = ledger.find(patch.id, target)
    return outcome.module if outcome else None


def _patches(target: str, when: str) -> list[Patch]:
    try:
        found = [patch for patch in catalogue.for_target(target) if patch.when == when]
    except Exception as error:  # noqa: BLE001 - a damaged installation must not break the import
        _tell(f"the patches of {target} cannot be loaded: {error!r}", error)
        return []
    for patch_id, reason in list(catalogue.broken.items()):
        _tell(f"patch {patch_id} cannot be imported: {reason!r}", reason)
    return found


def _fire(patches: list[Patch], target: str, *, late: bool = False) -> None:
    if not patches:
        return

    def hook(module: ModuleType) -> None:
        for patch in patches:
            _run(patch, target, module, late=late)

    try:
        from wrapt import register_post_import_hook
    except Exception as error:  # noqa: BLE001 - whatever is wrong with wrapt, the import works
        for patch in patches:
            reason = f"wrapt cannot be imported: {error!r}"
            ledger.record(Outcome(patch.id, target, Status.FAILED, reason, error))
        _tell(f"nothing is repaired, for wrapt cannot be imported: {error!r}", error)
        return
    # The module is in sys.modules, so the hook runs now, and wrapt's own finder, which can
    # deadlock on names that are pending (docs, "Pitfalls"), never has one.
    register_post_import_hook(hook, target)


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
        if refusal := _paused.get(patch.id) or current.refusal(patch.id):
            return outcome(Status.SKIPPED, refusal)
        if waits := [name for name in patch.requires if name not in sys.modules]:
            return outcome(Status.PENDING, f"waits for {' and '.join(waits)}")
        stage = "probe"
        verdict = Verdict(patch.probe(module))
        if verdict is Verdict.UNKNOWN:
            return outcome(Status.UNKNOWN, "the probe does not know this code; nothing was changed")
        if verdict is Verdict.FIXED:
            seen = ledger.find(patch.id, target)
            if seen and seen.changes and seen.changes.in_place:
                return seen
            return outcome(Status.NOT_NEEDED, "the installed code does not have this bug")
        if current.dry_run:
            return outcome(Status.DRY_RUN, "would be repaired")
        stage = "repair"
        patch.repair(module, changes)
        if not changes:
            raise RepairDidNotShow("it changed nothing")
        stage = "probe after the repair"
        if patch.behavioural and patch.probe(module) is Verdict.AFFECTED:
            raise RepairDidNotShow("the bug is still there")
        return replace(outcome(Status.APPLIED, patch.title), changes=changes)
    except Exception as error:  # noqa: BLE001 - see the module's docstring
        reason = f"{stage}: {type(error).__name__}: {error}"
        return outcome(Status.FAILED, reason + _roll_back(changes), error)
    except BaseException:
        _roll_back(changes)
        raise


def _roll_back(changes: Changes) -> str:
    try:
        changes.undo()
    except CannotRevert as error:
        return f"; not rolled back: {error}"
    return ""


def _tell(message: str, error: Exception | None = None) -> None:
    """Log once; raise instead in strict mode."""
    if error is not None and settings.strict():
        raise PatchFailed(f"zoo-hooks: {message}") from error
    if message not in _told:
        _told.add(message)
        _log.warning("zoo-hooks: %s", message)
