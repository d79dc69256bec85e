"""Faults at every call that our own work makes: the n-th fails, for every n, as SQLite's tests have it.

Each n is a fork of one prepared interpreter, so that nothing of the run before is left.
"""

from __future__ import annotations

import sys

import pytest
from conftest import PATCH

EVERY = 1 if sys.version_info[:2] == (3, 11) else 7
"""Of the calls one in so many is tried; on one Python all of them."""

HARNESS = """
import os, signal, sys

class Deadline(Exception):
    pass

def handler(number, frame):
    raise Deadline("mine")

signal.signal(signal.SIGUSR1, handler)
# Run with the names of zoo_hooks, so that what fails seems to fail in a frame of ours.
exec(compile('''
def _is_ours(frame):
    return frame is not None and str(frame.f_globals.get("__name__", "")).startswith("zoo_hooks")

def _profile(frame, event, argument):
    global _count, _where
    foreign = event == "c_call" and _is_ours(frame)
    foreign |= event == "call" and not _is_ours(frame) and _is_ours(frame.f_back)
    # What other finders and loaders raise is the user's, as without us.
    foreign &= event == "c_call" or frame.f_code.co_name not in ("find_spec", "exec_module")
    if foreign:
        _count += 1
        if _count == _at:
            sys.setprofile(None)
            inner = frame if event == "c_call" else frame.f_back
            called = getattr(argument, "__name__", frame.f_code.co_name)
            _where = f"{inner.f_code.co_name}:{inner.f_lineno} {called}"
            if _fault is None:
                import signal
                signal.raise_signal(signal.SIGUSR1)
            else:
                raise _fault("injected")
''', zoo_hooks.__file__, "exec"), vars(zoo_hooks))

def once(number, fault):
    zoo_hooks._count, zoo_hooks._at = 0, number
    zoo_hooks._fault = None if fault is Deadline else fault
    seen = ""
    sys.setprofile(zoo_hooks._profile)
    try:
        import fake
    except Deadline:
        seen = "user's"
    except BaseException as error:
        seen = f"{type(error).__name__} left us"
    sys.setprofile(None)
    if zoo_hooks._count < number:
        return "done"
    import fake, third
    expected = "user's" if fault is Deadline else ""
    facts = (seen == expected, fake.other == 1, fake.value in (1, 2), third.value in (1, 2))
    if fault is Deadline:
        facts += fake.value == 2, third.value == 2
    return "" if all(facts) else f"{number} at {zoo_hooks._where}: {seen!r} {facts}"

def trial(number, fault):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = once(number, fault)
        except BaseException as error:
            said = f"{number} at {zoo_hooks._where}: afterwards {type(error).__name__}: {error}"
        os.write(write, said.encode() or b"-")
        os._exit(0)
    os.close(write)
    said = os.read(read, 10000).decode()
    os.close(read)
    status = os.waitpid(pid, 0)[1]
    return said if said else f"{number}: died with {status}"

number, bad = 1, []
while True:
    said = trial(number, {fault})
    if said == "done":
        break
    if said != "-":
        bad.append(said)
    number += {every}
print(number, *bad, sep="\\n")
"""


OURS = "(OSError, ImportError, MemoryError, RecursionError, SystemExit, KeyError)[number % 6]"


@pytest.mark.parametrize("fault", [OURS, "Deadline"], ids=["ours", "a deadline of the user's"])
def test_whichever_call_of_ours_fails_the_import_works(zoo, fault):
    """Nothing half-made stays; what a handler raises reaches the user, and the next import is repaired."""
    zoo.module("fake", "value = other = 1\n")
    source = PATCH.format(target="fake", upstream="fake", more="")
    both = 'changes.replace(module, "other", 9)\n    changes.replace(module, "value", 2)\n'
    both += '    changes.replace(module, "other", 1)'
    zoo.patch("fake", source=source.replace('changes.replace(module, "value", 2)', both))
    zoo.module("third")
    zoo.patch("third", "third")
    said = zoo.run(
        HARNESS.replace("{fault}", fault).replace("{every}", str(EVERY)), PYTHONDONTWRITEBYTECODE=""
    ).splitlines()
    assert int(said[0].split()[0]) > 50, "the harness counted nothing"
    assert said[1:] == [], "\n".join(said)
