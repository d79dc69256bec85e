"""Which thread runs which patch, so that two threads that import a target repair it only once."""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from types import FrameType
from typing import NamedTuple

from zoo_hooks.changes import Changes


class Claim(NamedTuple):
    """A thread runs a patch: in which call, and its changes so far."""

    thread: int
    frame: FrameType
    changes: Changes

    @property
    def stands(self) -> bool:
        """True as long as that call runs. An exception from outside may have ended it anywhere."""
        frame = sys._current_frames().get(self.thread)  # noqa: SLF001 - documented
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None


_claims: dict[tuple[str, str], Claim] = {}


def take(patch_id: str, target: str) -> Claim | None:
    """A claim for the calling function; None if another call has one."""
    claim = Claim(get_ident(), sys._getframe(1), Changes())  # noqa: SLF001 - documented
    while (other := _claims.setdefault((patch_id, target), claim)) is not claim:
        if other.stands:
            return None
        drop(patch_id, target)
    return claim


def drop(patch_id: str, target: str) -> None:
    """End a claim."""
    _claims.pop((patch_id, target), None)


def _forked() -> None:
    # What another thread was at will not be finished in this process.
    for key, claim in list(_claims.items()):
        if claim.thread != get_ident():
            drop(*key)
            claim.changes.roll_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
