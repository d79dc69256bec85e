"""multiprocess's resource tracker calls an RLock method that CPython 3.12.0 does not have.

Symptom
-------
On CPython 3.12.0, a process that used shared memory, semaphores or a pool of ``multiprocess`` ends with
``Exception ignored in: <function ResourceTracker.__del__>`` and ``AttributeError: '_thread.RLock' object
has no attribute '_recursion_count'``. It does not wait for the tracker's process. The name in the message
made people think of a recursion in datasets 4.4 and 4.5, which require such a multiprocess. There is no
recursion.

Cause
-----
multiprocess 0.70.18 copied the tracker of later 3.12 releases. That tracker calls its lock's
``_recursion_count()`` when it ends. CPython has that method from 3.11.6, 3.12.1 and 3.13.0 on, but not in
3.12.0.

Repair
------
If the tracker's code calls the method and its lock does not have it, the tracker gets an RLock that does.
"""

from __future__ import annotations

import inspect
from _thread import RLock
from types import FunctionType, ModuleType

from zoo_hooks.changes import Changes
from zoo_hooks.model import Figure, Patch, Verdict


class CountingRLock(RLock):  # type: ignore[misc]  # the stubs say that it is final
    """An RLock that knows how often the calling thread has taken it, as later releases do."""

    def _recursion_count(self) -> int:
        # Read in one go, from what the lock itself says: it may be asked inside a finalizer. It also
        # runs while the interpreter ends, when this module's globals may be gone.
        return int(repr(self).partition(" count=")[2].split()[0]) if self._is_owned() else 0  # type: ignore[attr-defined]


def probe(module: ModuleType) -> Verdict:
    tracker = module._resource_tracker  # noqa: SLF001
    methods = [value for value in vars(type(tracker)).values() if isinstance(value, FunctionType)]
    if not methods or not hasattr(tracker, "_lock"):
        return Verdict.UNKNOWN
    # As an attribute: where it is a guarded getattr, the name is a constant.
    called = any("_recursion_count" in inspect.unwrap(method).__code__.co_names for method in methods)
    has_it = hasattr(tracker._lock, "_recursion_count")  # noqa: SLF001
    return Verdict.AFFECTED if called and not has_it else Verdict.FIXED


def repair(module: ModuleType, changes: Changes) -> None:
    changes.replace(module._resource_tracker, "_lock", CountingRLock())  # noqa: SLF001


def canary() -> Figure:
    from multiprocess.resource_tracker import _resource_tracker

    _resource_tracker.ensure_running()
    getattr(_resource_tracker, "__del__", bool)()
    return Figure("ended", healthy=True)


PATCH = Patch(
    module=__name__,
    title="multiprocess's resource tracker calls an RLock method that CPython 3.12.0 does not have",
    severity="crash",
    symptoms=("object has no attribute '_recursion_count' @ multiprocess.resource_tracker",),
    targets=("multiprocess.resource_tracker",),
    affects=('multiprocess>=0.70.18; python_full_version == "3.12.0"',),
    links=(
        "https://github.com/python/cpython/pull/109629",
        "https://github.com/uqfoundation/multiprocess/tree/multiprocess-0.70.18/py3.12",
    ),
    measures="result of ending a running resource tracker (expected: ended)",
    probe=probe,
    repair=repair,
    canary=canary,
)
