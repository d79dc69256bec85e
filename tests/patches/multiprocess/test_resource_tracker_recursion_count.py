"""The resource tracker ends in peace, on locks as CPython 3.12.0 has them and on all others.

There is no CPython 3.12.0 in the environments of these tests, for none was found in a package registry: it
has not been run. What differs there is made in the child:
the method is taken out of the real ``_thread.RLock`` of a later release, before anything is imported.
"""

from __future__ import annotations

import sys
import threading

import pytest
from conftest import child, python

from zoo_hooks.patches.multiprocess.resource_tracker_recursion_count import CountingRLock

PATCH = "multiprocess/resource-tracker-recursion-count"
AS_IN_3_12_0 = """
import _thread, ctypes, gc

(entries,) = [found for found in gc.get_referents(vars(_thread.RLock)) if isinstance(found, dict)]
entries.pop("_recursion_count", None)
ctypes.pythonapi.PyType_Modified(ctypes.py_object(_thread.RLock))
assert not hasattr(_thread.RLock(), "_recursion_count")
import zoo_hooks
zoo_hooks.init()
"""
USE = """
from multiprocess import resource_tracker
resource_tracker.ensure_running()
"""
needs_its_wheel = pytest.mark.skipif(
    sys.version_info[:2] != (3, 12), reason="CPython 3.12 gets a wheel of multiprocess of its own"
)


@needs_its_wheel
def test_without_the_method_and_the_repair_it_complains_at_exit():
    """The last words of such a process, which is the symptom, come from ``__del__``."""
    said = child(AS_IN_3_12_0 + USE, ZOO_HOOKS="0").stderr
    assert "ResourceTracker.__del__" in said
    assert "object has no attribute '_recursion_count'" in said


@needs_its_wheel
def test_with_the_repair_nothing_is_said_and_the_tracker_is_waited_for():
    """Nothing on standard error; no child process is left."""
    run = child(
        AS_IN_3_12_0
        + USE
        + """
import os, zoo_hooks
assert zoo_hooks.report()["multiprocess/resource-tracker-recursion-count"].status.name == "APPLIED"
tracker = resource_tracker._resource_tracker
assert tracker._pid
tracker.__del__()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("waited for")
resource_tracker.ensure_running()
"""
    )
    assert (run.stdout, run.stderr) == ("waited for\n", "")


@needs_its_wheel
def test_the_canary_sees_it():
    """It raises what users see, and with the repair says that the tracker has ended."""
    code = AS_IN_3_12_0 + f"from zoo_hooks import catalogue\nprint(catalogue.get({PATCH!r}).canary().value)"
    without = child(code, check=False, ZOO_HOOKS="0")
    assert without.returncode == 1
    assert "object has no attribute '_recursion_count'" in without.stderr
    assert python(code) == "ended\n"


@needs_its_wheel
def test_a_call_from_within_itself_is_noticed():
    """What the method is there for: a finalizer that calls the tracker while it is at work is told."""
    python(
        AS_IN_3_12_0
        + USE
        + """
tracker = resource_tracker._resource_tracker
with tracker._lock:
    try:
        tracker.ensure_running()
    except resource_tracker.ReentrantCallError:
        print("told")
    else:
        raise AssertionError
tracker.ensure_running()
"""
    )


@needs_its_wheel
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_shared_memory_and_pools_work(method):
    """Real use in the child: a pool, and shared memory that is registered and unlinked."""
    run = child(
        AS_IN_3_12_0
        + f"""
import multiprocess
from multiprocess import shared_memory

if __name__ == "__main__":
    with multiprocess.get_context({method!r}).Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
    memory = shared_memory.SharedMemory(create=True, size=8)
    memory.close()
    memory.unlink()
"""
    )
    assert run.stderr == ""


@needs_its_wheel
def test_datasets_is_not_refused():
    """It imports, and maps with workers."""
    pytest.importorskip("datasets")
    run = child(
        AS_IN_3_12_0
        + """
from datasets import Dataset

data = Dataset.from_dict({"x": [1, 2, 3, 4]}).map(lambda row: {"y": -row["x"]}, num_proc=2)
assert data["y"][:] == [-1, -2, -3, -4]
"""
    )
    assert "_recursion_count" not in run.stderr


def test_on_this_python_nothing_is_touched():
    """The lock is CPython's own, and the patch says that it is not needed."""
    python(
        "import zoo_hooks\nzoo_hooks.init()"
        + USE
        + f"""
assert type(resource_tracker._resource_tracker._lock).__module__ == "_thread"
assert zoo_hooks.report()[{PATCH!r}].status.name == "NOT_NEEDED"
"""
    )


THEIRS = """
import threading
from multiprocess import resource_tracker

class Theirs(threading._RLock):
    def _recursion_count(self):
        return self._count if self._is_owned() else 0

theirs = resource_tracker._resource_tracker._lock = Theirs()
"""
STAYS = """
zoo_hooks.activate()
resource_tracker.ensure_running()
assert resource_tracker._resource_tracker._lock is theirs
"""


@needs_its_wheel
def test_another_tool_that_gave_it_such_a_lock_is_left_alone():
    """First or second, its lock stays; where it came first, nothing is needed."""
    assert child(AS_IN_3_12_0 + THEIRS + STAYS).stderr == ""
    first = AS_IN_3_12_0 + THEIRS + """
import os
del os.environ["ZOO_HOOKS"]
""" + STAYS + f"assert zoo_hooks.report()[{PATCH!r}].status.name == 'NOT_NEEDED'"  # fmt: skip
    assert child(first, ZOO_HOOKS="0").stderr == ""


def test_the_count():
    """As often as this thread has taken it; 0 where it is free or another has it."""
    lock = CountingRLock()
    seen = [lock._recursion_count()]
    for _ in range(3):
        lock.acquire()
        seen.append(lock._recursion_count())
    thread = threading.Thread(target=lambda: seen.append(lock._recursion_count()))
    thread.start()
    thread.join()
    for _ in range(3):
        lock.release()
    seen.append(lock._recursion_count())
    assert seen == [0, 1, 2, 3, 0, 0]
