"""What users may ask for while their process runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace

import zoo_hooks
from zoo_hooks import catalogue, engine, ledger
from zoo_hooks.changes import CannotRevert, Changes
from zoo_hooks.model import Outcome, Status


def activate() -> ledger.Report:
    """Repair what is already imported, and from now on what will be; returns the report.

    For a process that ran before zoo-hooks was installed, such as a notebook's kernel, and for
    installations whose start-up file never runs (``pip install --target``). Patches that were
    reverted are applied again. ``ZOO_HOOKS=0`` is obeyed.
    """
    zoo_hooks.init()
    engine.paused.clear()
    for target in sorted(zoo_hooks.TARGETS):
        module = sys.modules.get(target)
        if module is None or getattr(module.__spec__, "_initializing", False):
            continue
        settled = (Status.APPLIED, Status.NOT_NEEDED)
        todo = []
        for patch in engine.patches_of(target, "after"):
            seen = ledger.find(patch.id, target)
            if seen is None or seen.module is not module or seen.status not in settled:
                todo.append(patch)
        engine.fire(todo, target, late=True)
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
    if catalogue.get(patch_id).id in engine.paused:
        yield
        return
    undone = _pause(patch_id, "inside zoo_hooks.disabled()")
    try:
        yield
    finally:
        engine.paused.pop(patch_id, None)
        with contextlib.ExitStack() as stack:
            for outcome in undone:
                stack.callback(ledger.record, outcome)
                stack.callback(_changes(outcome).redo)
            back = {outcome.target for outcome in undone}
            for outcome in ledger.of_patch(patch_id):
                if outcome.status is Status.SKIPPED and outcome.target not in back:
                    stack.callback(engine.fire, [catalogue.get(patch_id)], outcome.target)


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
    engine.paused[patch_id] = reason
    for outcome in undone:
        ledger.record(replace(outcome, status=Status.SKIPPED, reason=reason, changes=None))
    return undone


def _changes(outcome: Outcome) -> Changes:
    assert outcome.changes is not None
    return outcome.changes
