"""Functions that users call in a running process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import zoo_hooks
from zoo_hooks import catalogue, engine, ledger, reports
from zoo_hooks.layers import CannotRevert
from zoo_hooks.model import Outcome, Patch, Status


class _Block:
    """The ``with disabled(ID)`` blocks of one patch, nested or in several threads, that are open."""

    def __init__(self, undone: list[Outcome]) -> None:
        self.undone = undone
        self.depth = 0


_blocks: dict[str, _Block] = {}


def activate() -> reports.Report:
    """Repair libraries that are already imported, and those imported from now on; return the report.

    Call it in a process that was started before zoo-hooks was installed, such as a notebook's kernel, and if
    the start-up file never runs (``pip install --target``). Patches that were reverted, or that other code
    has overwritten, are applied again. A patch that a ``disabled()`` block has undone stays undone until the
    block ends. With ``ZOO_HOOKS=0`` nothing is repaired.
    """
    if zoo_hooks.switched_off():
        return reports.report()
    zoo_hooks.init()
    for patch_id in set(engine.paused) - set(_blocks):
        engine.paused.pop(patch_id, None)
    for target in sorted(" ".join(zoo_hooks.TARGETS.values()).split()):
        module = sys.modules.get(target)
        if module is None or getattr(module.__spec__, "_initializing", False):
            continue
        patches = engine.patches_of(target, "after")
        engine.fire([p for p in patches if not ledger.find(p.id, target)], target, late=True)
        engine.fire([p for p in patches if not _settled(p, target, module)], target, again=True)
    return reports.report()


def _settled(patch: Patch, target: str, module: ModuleType) -> bool:
    seen = ledger.find(patch.id, target)
    if seen is None or seen.module is not module:
        return False
    if seen.status is Status.APPLIED:
        return ledger.in_force(patch, seen)
    return seen.status is Status.NOT_NEEDED


def revert(patch_id: str) -> None:
    """Undo a patch until activate() is called.

    Raises CannotRevert and changes nothing if other code has wrapped or replaced the repair. Raises
    UnknownPatch if there is no such patch.
    """
    _pause(catalogue.get(patch_id).id, "reverted by zoo_hooks.revert()")


@contextlib.contextmanager
def disabled(patch_id: str) -> Iterator[None]:
    """Undo a patch inside a ``with`` block, for A/B runs. This acts on the whole process.

    On entry it raises the errors of revert(). On exit it raises CannotRevert if other code has changed the
    place of the repair inside the block.
    """
    patch = catalogue.get(patch_id)
    patch_id = patch.id
    if patch_id in engine.paused and patch_id not in _blocks:  # reverted: it stays undone after the block
        yield
        return
    if patch_id not in _blocks:
        _blocks[patch_id] = _Block(_pause(patch_id, "inside zoo_hooks.disabled()"))
    block = _blocks[patch_id]
    block.depth += 1
    try:
        yield
    finally:
        block.depth -= 1
        if not block.depth:
            del _blocks[patch_id]
            engine.paused.pop(patch_id, None)
            _bring_back(patch, block.undone)


def _bring_back(patch: Patch, undone: list[Outcome]) -> None:
    with contextlib.ExitStack() as stack:
        # Called last to first: targets imported in the block come after what was there before it.
        back = {outcome.target for outcome in undone}
        for outcome in ledger.of_patch(patch.id):
            if outcome.status is Status.SKIPPED and outcome.target not in back:
                stack.callback(engine.fire, [patch], outcome.target)
        for outcome in undone:
            stack.callback(_restore, outcome)


def _pause(patch_id: str, reason: str) -> list[Outcome]:
    undone: list[Outcome] = []
    try:
        for outcome in ledger.of_patch(patch_id):
            if outcome.status is Status.APPLIED:
                if outcome.changes:
                    outcome.changes.undo()
                undone.append(outcome)
                ledger.record(replace(outcome, status=Status.SKIPPED, reason=reason, changes=None))
    except CannotRevert:
        for outcome in undone:
            _restore(outcome)
        raise
    engine.paused[patch_id] = reason
    return undone


def _restore(outcome: Outcome) -> None:
    if outcome.changes:
        outcome.changes.redo()
    ledger.record(outcome)
