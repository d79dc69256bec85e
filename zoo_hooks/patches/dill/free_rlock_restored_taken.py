"""dill restores a free RLock as one that no thread can ever acquire.

Symptom
-------
``datasets.Dataset.map(num_proc=2)`` hangs forever, without a message, if the function reaches a
``threading.RLock``. The lock can be its own, or that of a logger's handler, of a ``Condition``, or of a
client that the function calls. All other code that acquires an RLock that went through dill hangs too. The
lock prints as ``unlocked``.

Cause
-----
``dill._dill._create_rlock`` restores count and owner even if both are 0. ``_acquire_restore`` always takes
the lock first, and then records that it has no owner. So no thread can release it.

Repair
------
For a count of 0, zoo-hooks tells dill that there is no owner, and dill makes a new lock. A lock that was
held is restored with its count, or refused, as without the repair. What dill writes does not change, and
neither do the fingerprints that datasets makes of it. Pickles that were written before are read correctly
too.
"""

from __future__ import annotations

from _thread import RLock
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


def probe(module: ModuleType) -> Verdict:
    # As writing and reading do it; dumps and loads need all of dill, which still loads.
    restored: list[Any] = []

    def save_reduce(*given: Any, **named: Any) -> None:
        function, args, *_ = (*given, *named.values())
        restored.append(function(*args))

    pickler = SimpleNamespace(save_reduce=save_reduce, _trace_depth=None)  # as dill has it untraced
    module.save_rlock(pickler, RLock())
    if [type(lock) for lock in restored] != [RLock]:
        return Verdict.UNKNOWN
    return Verdict.FIXED if restored[0].acquire(blocking=False) else Verdict.AFFECTED


def repair(module: ModuleType, changes: Changes) -> None:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def create_rlock(*args: Any) -> Any:
            count, owner, *more = args  # as pickles hold them
            return original(count, owner if count else None, *more)

        return create_rlock

    changes.wrap(module, "_create_rlock", make)


def canary() -> Figure:
    import dill

    lock = dill.loads(dill.dumps(RLock()))  # noqa: S301 - written here
    taken = lock.acquire(blocking=False)
    return Figure(int(taken), healthy=taken)


PATCH = Patch(
    module=__name__,
    title="dill restores a free RLock as one that no thread can acquire",
    severity="crash",
    targets=("dill._dill",),
    affects=("dill>=0.3.4",),
    links=("https://github.com/uqfoundation/dill/issues/321",),
    measures="free RLocks that can be acquired after a round trip through dill, of 1 (expected: 1)",
    probe=probe,
    repair=repair,
    canary=canary,
)
