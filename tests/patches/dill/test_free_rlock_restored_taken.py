"""Locks through dill: free ones can be taken, held ones keep their count."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import dill
import pytest
from conftest import child, python

import zoo_hooks

PATCH = "dill/free-rlock-restored-taken"

# A worker that is refused a lock which nobody holds says so before it waits for it, which is for ever: so it
# is not by the time it takes that a hang is told from a slow machine.
SCRIPT = """
import os, threading
import zoo_hooks

zoo_hooks.init()

def make():
    lock = threading.RLock()  # a global would not be sent to the workers, who have their own

    def double(row):
        if lock.acquire(blocking=False):
            lock.release()
        else:
            with open(os.environ["REFUSED"], "a") as told:
                told.write(repr(lock))
        with lock:
            return {"y": 2 * row["x"]}

    return double

if __name__ == "__main__":
"""
POOL = """
    import multiprocess

    with multiprocess.get_context("spawn").Pool(2) as pool:
        assert pool.map(make(), [{"x": 1}, {"x": 2}]) == [{"y": 2}, {"y": 4}]
"""
MAP = """
    from datasets import Dataset

    data = Dataset.from_dict({"x": list(range(10))}).map(make(), num_proc=2)
    assert data["y"][:] == list(range(0, 20, 2))
"""
PATIENCE = 600  # it fails after that, with and without the repair


def run(folder, what, **variables):
    """Run a script until it ends or one of its workers is stuck; gives its exit status and what that said."""
    file, refused = folder / "script.py", folder / "refused"
    file.write_text(SCRIPT + what)
    refused.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, file],
        start_new_session=True,
        env=os.environ | {"REFUSED": str(refused)} | variables,
    )
    try:
        end = time.monotonic() + PATIENCE
        while process.poll() is None and not (refused.exists() and refused.read_text()):
            assert time.monotonic() < end, "neither ended nor stuck at the lock"
            time.sleep(0.1)
        return process.poll(), refused.read_text() if refused.exists() else ""
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()


def check(folder, what):
    """With the repair it ends well; without, it is stuck at a lock that says that nobody holds it."""
    assert run(folder, what) == (0, "")
    status, lock = run(folder, what, ZOO_HOOKS="0")
    assert status is None
    assert "<unlocked _thread.RLock object owner=0 count=0" in lock


def restored(lock):
    return dill.loads(dill.dumps(lock))


def count(lock):
    return int(repr(lock).partition(" count=")[2].split()[0])


def takes_in_a_thread(lock):
    taken = []
    thread = threading.Thread(target=lambda: taken.append(lock.acquire(timeout=1)))
    thread.start()
    thread.join()
    return taken[0]


def test_without_the_repair_nobody_can_take_it(measured):
    """0 of 1 without, 1 of 1 with."""
    row = measured(PATCH)
    assert (row["without"], row["with"]) == (0, 1)


def test_a_free_lock_is_a_lock_like_any_other():
    """Taken twice here, by nobody else then, and by another thread when it is free again."""
    lock = restored(threading.RLock())
    assert isinstance(lock, type(threading.RLock()))
    assert lock.acquire(blocking=False)
    assert lock.acquire(blocking=False)
    assert count(lock) == 2
    assert not takes_in_a_thread(lock)
    lock.release()
    lock.release()
    assert takes_in_a_thread(lock)
    with pytest.raises(RuntimeError):
        lock.release()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_held_lock_keeps_its_count(depth):
    """Restored by the thread that holds it, it must be released as often as it was taken."""
    lock = threading.RLock()
    for _ in range(depth):
        lock.acquire()
    copy = restored(lock)
    assert count(copy) == depth
    for _ in range(depth):
        assert not takes_in_a_thread(copy)
        copy.release()
    assert takes_in_a_thread(copy)
    assert count(lock) == depth


def test_a_lock_that_another_thread_holds_is_refused_as_ever():
    """dill says that it cannot be acquired."""
    lock = threading.RLock()
    lock.acquire()
    written = dill.dumps(lock)
    errors = []

    def load():
        with pytest.raises(pickle.UnpicklingError, match="Cannot acquire lock") as caught:
            dill.loads(written)
        errors.append(caught.value)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_nested_and_shared_locks():
    """One lock in many places stays one; free and held ones side by side keep their states."""
    shared, held = threading.RLock(), threading.RLock()
    held.acquire()
    once, again, deep, other = restored([shared, shared, {"deep": [shared, {"held": held}]}, held])
    assert once is again is deep["deep"][0]
    assert other is deep["deep"][1]["held"]
    assert once is not other
    assert takes_in_a_thread(once)
    assert (count(other), takes_in_a_thread(other)) == (1, False)


def test_conditions_and_closures():
    """What holds a lock works: a Condition, a function that closes over one, an instance."""
    lock = threading.RLock()

    class Client:
        def __init__(self):
            self.lock = lock

        def call(self):
            with self.lock, lock:
                return 5

    assert restored(lambda: Client().call())() == 5
    assert restored(Client()).call() == 5
    with restored(threading.Condition()) as taken:
        assert taken


def test_what_is_written_stays_the_same():
    """Byte for byte, so fingerprints and caches stay; and the restoring function is named, not copied."""
    lock = threading.RLock()
    repaired = dill.dumps([lock, restored])
    with zoo_hooks.disabled(PATCH):
        assert dill.dumps([lock, restored]) == repaired
    assert b"_create_rlock" in dill.dumps(lock)
    assert len(dill.dumps(lock)) < 100


def test_pickles_written_without_the_repair_are_read_right():
    """And those written with it are read by a process without it, as wrong as ever."""
    code = "import sys, threading, dill; sys.stdout.write(dill.dumps(threading.RLock()).hex())"
    written = bytes.fromhex(python(code, ZOO_HOOKS="0"))
    assert dill.loads(written).acquire(blocking=False)
    mine = dill.dumps(threading.RLock()).hex()
    code = f"import dill; print(dill.loads(bytes.fromhex({mine!r})).acquire(blocking=False))"
    assert python(code, ZOO_HOOKS="0") == "False\n"
    assert python("import zoo_hooks; zoo_hooks.init(); " + code) == "True\n"


def test_plain_locks_are_not_touched():
    """``Lock`` is restored free or held, as it was."""
    free, held = threading.Lock(), threading.Lock()
    held.acquire()
    assert not restored(free).locked()
    assert restored(held).locked()


def test_a_pool_of_spawned_workers(tmp_path):
    """Functions come to them through dill, with the locks that they take."""
    pytest.importorskip("multiprocess")
    check(tmp_path, POOL)


def test_datasets_map_with_workers(tmp_path):
    """A function that takes an RLock finishes; without the repair it hangs."""
    pytest.importorskip("datasets")
    check(tmp_path, MAP)


def test_importing_dill_has_nothing_traced():
    """Where logging is at INFO, dill traces what is written by it; what the probe writes is not."""
    code = "import logging, zoo_hooks\nlogging.basicConfig(level='INFO')\nzoo_hooks.init()\nimport dill"
    (line,) = child(code).stderr.splitlines()
    assert line.startswith("INFO:zoo_hooks:")


def test_another_tool_that_came_first_is_not_fought():
    """Its repair is seen, and stays."""
    python(
        """
        import os, threading, dill._dill, zoo_hooks

        def _create_rlock(count, owner, *args):
            lock = threading.RLock()
            if count:
                lock._acquire_restore((count, owner))
            return lock

        _create_rlock.__module__ = "dill._dill"
        dill._dill._create_rlock = _create_rlock
        del os.environ["ZOO_HOOKS"]
        zoo_hooks.activate()
        assert zoo_hooks.report()["dill/free-rlock-restored-taken"].status.name == "NOT_NEEDED"
        assert dill._dill._create_rlock is _create_rlock
        assert dill.loads(dill.dumps(threading.RLock())).acquire(blocking=False)
    """,
        ZOO_HOOKS="0",
    )


def test_another_tool_that_comes_second_has_its_way():
    """It wraps or replaces ours, and the lock can be taken; held ones keep their count."""
    python("""
        import threading, zoo_hooks
        zoo_hooks.init()
        import dill._dill

        ours = dill._dill._create_rlock

        def _create_rlock(count, owner, *args):
            return ours(count, owner, *args) if count else threading.RLock()

        _create_rlock.__module__ = "dill._dill"
        dill._dill._create_rlock = _create_rlock
        zoo_hooks.activate()
        assert dill._dill._create_rlock is _create_rlock
        assert dill.loads(dill.dumps(threading.RLock())).acquire(blocking=False)
        held = threading.RLock()
        held.acquire()
        assert " count=1 " in repr(dill.loads(dill.dumps(held)))
    """)
