"""What a shim that runs in every process may not do. Each test is a kind of fault that was once there.

Each says in its first line what was tried; ``docs/faults.md`` is made of these lines.
"""

from __future__ import annotations

import os
import textwrap

import pytest
from conftest import PATCH, Zoo, child

from zoo_hooks import targets

PYTHON_ONLY = "value = 1\n"
SHOW = "print(zoo_hooks.report()['bug'].status.name, fake.value)"


def repair(zoo: Zoo, body: str, target: str = "fake", name: str = "bug", **more: str) -> None:
    """A module with a bug, and a patch whose repair does something first."""
    zoo.module(target)
    source = PATCH.format(target=target, upstream=target.partition(".")[0], more=more.get("more", ""))
    source = source.replace("    changes.replace(", f"    {body}\n    changes.replace(")
    zoo.patch(target, name, source)


def as_bare(zoo: Zoo, code: str, *flags: str, check: bool = True) -> str:
    """What code prints with the hooks, which must be what it prints with ZOO_HOOKS=0."""
    code = zoo.preamble + textwrap.dedent(code)
    ours, bare = [
        (run.returncode, run.stdout, run.stderr)
        for word in ("1", "0")
        for run in [child(code, *flags, check=False, timeout=300, ZOO_HOOKS=word)]
    ]
    assert ours == bare
    assert not check or ours[0] == 0
    return ours[1]


HANDLERS = {
    "function": "def handler(number, frame): raise Deadline('mine')",
    "arguments": "def handler(*arguments): raise Deadline('mine')",
    "method": "class H:\n    def at(self, number, frame): raise Deadline('mine')\nhandler = H().at",
    "callable": "class H:\n    def __call__(self, number, frame): raise Deadline('mine')\nhandler = H()",
    "partial": "import functools\ndef at(why, number, frame): raise Deadline(why)\n"
    "handler = functools.partial(at, 'mine')",
    "one-shot": "def handler(number, frame):\n    signal.signal(number, signal.SIG_DFL)\n    stop()\n"
    "def stop(): raise Deadline('mine')",
}
INTERRUPTED = """
import signal
class Deadline({base}): pass
{handler}
signal.signal(signal.SIGUSR1, handler)
sys.now = True
try:
    import fake
    print("lost")
except Deadline as error:
    print("seen", error, "fake" in sys.modules)
sys.now = False
import fake
print(zoo_hooks.report()["bug"].status.name, fake.value, fake.other)
"""


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("base", ["Exception", "BaseException"])
def test_an_exception_of_a_signal_handler_reaches_the_user(zoo, handler, base):
    """A deadline that strikes during our work: what was begun is undone, and the next import is repaired."""
    zoo.module("fake", "value = other = 1\n")
    source = PATCH.format(target="fake", upstream="fake", more="")
    strike = 'changes.replace(module, "other", 9)\n    import signal\n    import sys\n    '
    strike += "sys.now and signal.raise_signal(signal.SIGUSR1)\n    "
    strike += 'changes.replace(module, "other", 1)'
    zoo.patch(
        "fake",
        source=source.replace(
            "def repair(module, changes):\n", f"def repair(module, changes):\n    {strike}\n"
        ),
    )
    said = zoo.run(INTERRUPTED.format(base=base, handler=HANDLERS[handler]))
    assert said == "seen mine False\nAPPLIED 2 1\n"


KILLED = """
import ctypes, threading
class Killed(Exception): pass
seen = []
def work():
    try:
        import fake
        seen.append("lost")
    except Killed:
        seen.append("seen")
sys.now = threading.Event()
thread = threading.Thread(target=work)
thread.start()
sys.now.wait()
number = ctypes.c_ulong(thread.ident)
ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(Killed))
sys.go = True
thread.join()
import fake
print(*seen, zoo_hooks.report()["bug"].status.name, fake.value)
"""


TIMER = """
import os, signal

class Deadline(Exception):
    pass

def strike(*given):
    raise Deadline("mine")

def trial(delay):
    ignored = []
    sys.unraisablehook = ignored.append  # in callbacks of the import system Python itself lets it go
    signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        import fake
        left = signal.getitimer(signal.ITIMER_REAL)[0]
        signal.setitimer(signal.ITIMER_REAL, 0)
        lost = not left and not ignored
    except Deadline:
        lost = False
    import fake, third
    return lost or ({fake.value, third.value} != {2} and not ignored)

bad = []
for number in range(1, count + 1):
    pid = os.fork()
    if pid == 0:
        os._exit(trial(number * step))
    if os.waitpid(pid, 0)[1]:
        bad.append(number * step)
print(bad)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_deadline_at_any_moment_of_the_first_import_reaches_the_user(zoo):
    """Also where it strikes in the import system, which takes its own frames out of the traceback."""
    for name in ("fake", "third"):
        zoo.module(name)
        zoo.patch(name, f"bug_{name}")
    assert zoo.run("count, step = 200, 0.0003\n" + TIMER) == "[]\n"


BINDINGS = """
import os, signal

class Deadline(Exception):
    pass

def strike(*given):
    raise Deadline("mine")

def trial(last):
    struck = []
    def profile(frame, event, called):
        if event == "c_call" and called is setattr and frame.f_code.co_name == "_find_and_load_unlocked":
            parent = sys.modules[frame.f_locals["parent"]]
            if not getattr(parent.__spec__, "_initializing", False):
                struck.append(frame.f_locals["name"])
                if len(struck) == last:
                    signal.raise_signal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, strike)
    sys.setprofile(profile)
    try:
        import fake
    except Deadline:
        pass
    else:
        return None
    finally:
        sys.setprofile(None)
    import fake
    package, _, child = struck[-1].rpartition(".")
    return fake.value == 2 and hasattr(sys.modules[package], child)

for number in range(1, 200):
    pid = os.fork()
    if pid == 0:
        os._exit({True: 1, False: 2, None: 3}[trial(number)])
    end = os.waitpid(pid, 0)[1] >> 8
    if end == 3:
        break
    print(end, end="")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_deadline_before_a_submodule_is_bound_leaves_no_package_without_it(zoo):
    """Struck before ``collections`` has ``abc``, the user's next ``import typing`` works."""
    zoo.module("fake")
    zoo.patch("fake")
    ends = zoo.run(BINDINGS)
    assert len(ends) > 5
    assert set(ends) == {"1"}


def test_an_exception_raised_into_a_thread_reaches_it(zoo):
    """A thread that is stopped by PyThreadState_SetAsyncExc during our work stops."""
    repair(
        zoo,
        "import sys\n    sys.now.set()\n    while not hasattr(sys, 'go'): sum(range(100))\n    "
        "sum(range(10**5))",
    )
    assert zoo.run(KILLED) == "seen APPLIED 2\n"


def test_ctrl_c_during_our_work_reaches_the_user(zoo):
    """KeyboardInterrupt of SIGINT, which Python's own handler raises."""
    repair(zoo, "import signal, sys\n    sys.now and signal.raise_signal(signal.SIGINT)")
    code = """
        sys.now = True
        try:
            import fake
        except KeyboardInterrupt:
            print("seen")
        sys.now = False
        import fake
        print(fake.value)
    """
    assert zoo.run(code) == "seen\n2\n"


@pytest.mark.parametrize(
    "raised", ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()", "ValueError()"]
)
@pytest.mark.parametrize("place", ["getattr", "probe", "repair", "undo"])
def test_what_a_module_raises_when_it_is_touched_stays_with_us(zoo, raised, place):
    """SystemExit or KeyboardInterrupt from a ``__getattr__`` that only we ask: the import works."""
    zoo.module("fake", f"value = 1\ndef __getattr__(name):\n    raise {raised}\n")
    source = PATCH.format(target="fake", upstream="fake", more="")
    bodies = {
        "getattr": source.replace("module.value == 1", "module.not_there == 1"),
        "probe": source.replace(
            "    return Verdict.AFFECTED", f"    raise {raised}\n    return Verdict.AFFECTED"
        ),
        "repair": source.replace("    changes.replace(", f"    raise {raised}\n    changes.replace("),
        "undo": source.replace(
            'changes.replace(module, "value", 2)',
            f"class Sticky:\n        def __delattr__(self, name): raise {raised}\n"
            "    changes.replace(Sticky(), 'name', 1)\n    raise OSError",
        ),
    }
    zoo.patch("fake", source=bodies[place])
    code = f"import fake; print(fake.value); {SHOW.replace(', fake.value', '')}"
    value, status = zoo.run(code).splitlines()
    assert value == "1"
    assert status == ("UNKNOWN" if place in ("getattr", "probe") else "FAILED")


LOGGING = {
    "filter": "handler.addFilter(lambda record: record.request_id)",
    "handler": "handler.emit = lambda record: 1 / 0",
    "factory": "logging.setLogRecordFactory(lambda *a, **k: 1 / 0)",
    "exit": "handler.emit = lambda record: sys.exit(3)",
}


@pytest.mark.parametrize("fault", LOGGING)
def test_the_users_logging_may_raise(zoo, fault):
    """A filter, handler or record factory that raises: the import works, and the repair is made."""
    zoo.module("fake")
    zoo.patch("fake")
    code = f"""
        import logging
        handler = logging.StreamHandler(sys.stdout)
        logging.basicConfig(level="DEBUG", handlers=[handler])
        {LOGGING[fault]}
        import fake
        print("ok", fake.value)
    """
    assert zoo.run(code) == "ok 2\n"


def test_a_handler_that_imports_does_not_wait_for_us(zoo):
    """One thread logs, and its handler imports a target that another thread is importing: no dead-lock.

    What is to be said in the meantime is said later.
    """
    zoo.module("fake", "import sys, time\nsys.started.set()\ntime.sleep(0.3)\nvalue = 1\n")
    zoo.patch("fake")
    code = """
        import faulthandler, logging, threading
        faulthandler.dump_traceback_later(20, exit=True)
        sys.started = threading.Event()
        class Handler(logging.Handler):
            def emit(self, record):
                if record.name == "app":
                    sys.started.wait()
                    import fake
                else:
                    print(record.getMessage())
        logging.basicConfig(level="DEBUG", handlers=[Handler()])
        def load():
            import fake
        thread = threading.Thread(target=load)
        thread.start()
        logging.getLogger("app").info("x")
        thread.join()
        print("no dead-lock")
        zoo_hooks.report()
    """
    assert zoo.run(code) == "no dead-lock\nrepaired: value is 1 (fake/bug)\n"


def test_what_could_not_be_said_during_an_import_is_said_at_the_end(zoo):
    """A warning in a process with several threads that never asks for a report."""
    repair(zoo, "raise OSError('odd')")
    code = """
        import threading
        stop = threading.Event()
        threading.Thread(target=stop.wait, daemon=True).start()
        import fake
        print("imported", flush=True)
        sys.stderr.write("end of script\\n")
    """
    run = child(zoo.preamble + textwrap.dedent(code))
    assert run.stdout == "imported\n"
    assert run.stderr.splitlines()[0] == "end of script"
    assert "fake/bug was not repaired: repair: OSError: odd" in run.stderr.splitlines()[1]


# CPython 3.12 shows the warning of a fork beside threads while it holds the import lock, and may import
# linecache for that, where a thread that is importing it waits in turn: with us or without.
FORK = """
import faulthandler, os, threading, time, warnings
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-5)
hung = []
for number in range({count}):
    first = os.fork()
    if first == 0:
        go = threading.Event()
        def load():
            go.set()
            __import__({one!r})
        thread = threading.Thread(target=load)
        thread.start()
        go.wait()
        time.sleep(number * {step})
        second = os.fork()
        if second == 0:
            faulthandler.dump_traceback_later(10, exit=True)
            import {other}
            os._exit(0)
        status = os.waitpid(second, 0)[1]
        thread.join()
        os._exit(1 if status else 0)
    if os.waitpid(first, 0)[1]:
        hung.append(number)
print(len(hung))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("preloaded", [True, False], ids=["engine new", "everything new"])
def test_a_forked_child_never_waits_for_an_import_of_its_parents(zoo, preloaded):
    """One thread imports a target, the process forks, the child imports another: no child hangs."""
    for name in ("one", "two"):
        zoo.module(f"{name}.core")
        zoo.patch(f"{name}.core", f"bug_{name}")
    begin = "import dataclasses, enum, inspect, logging, pkgutil, weakref, fnmatch\n" if preloaded else ""
    code = begin + "import one, two\n" + FORK.format(count=60, step=0.0005, one="one.core", other="two.core")
    assert zoo.run(code) == "0\n"


def test_a_child_forked_in_the_middle_of_a_repair_has_no_half_of_it(zoo):
    """What another thread has changed so far is put back in the child, which repairs nothing more."""
    zoo.module("other")
    repair(
        zoo,
        "import sys\n    changes.replace(sys.modules['other'], 'value', 9)\n"
        "    sys.now.set()\n    sys.go.wait(20)",
    )
    zoo.module("third.core")
    zoo.patch("third.core", "third")
    code = """
        import os, threading, other, third
        sys.now, sys.go = threading.Event(), threading.Event()
        def load():
            import fake
        thread = threading.Thread(target=load)
        thread.start()
        sys.now.wait()
        child = os.fork()
        if child == 0:
            import third.core
            print("child", other.value, third.core.value, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        sys.go.set()
        thread.join()
        import fake, third.core
        print("parent", other.value, fake.value, third.core.value)
    """
    assert zoo.run(code) == "child 1 1\nparent 9 2 2\n"


DAMAGE = {
    "engine empty": ("engine.py", ""),
    "engine cut": ("engine.py", "def after(mod"),
    "engine gone": ("engine.py", None),
    "model empty": ("model.py", ""),
    "arming cut": ("arming.py", "def find_spec(nam"),
    "arming empty": ("arming.py", ""),
    "arming gone": ("arming.py", None),
    "safety cut": ("safety.py", "def ("),
    "notices empty": ("notices.py", ""),
    "layers exits": ("layers.py", "raise SystemExit(4)"),
    "patches gone": ("patches", None),
    "folder gone": ("patches/dill", None),
}


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Our package in a folder of its own, to be damaged."""
    import shutil
    from pathlib import Path

    import zoo_hooks

    def copy() -> Path:
        folder = tmp_path_factory.mktemp("damaged")
        shutil.copytree(
            Path(zoo_hooks.__file__).parent,
            folder / "zoo_hooks",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (folder / "dill").mkdir()
        (folder / "dill" / "__init__.py").touch()
        (folder / "dill" / "_dill.py").write_text("value = 1\n")
        return folder

    return copy


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_installation_lets_imports_work_and_says_so_in_a_line(copied, damage):
    """A file of ours is empty, cut short, or gone: the watched import works; one line names the trouble."""
    import shutil

    folder = copied()
    name, text = DAMAGE[damage]
    path = folder / "zoo_hooks" / name
    if text is not None:
        path.write_text(text)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    code = "import zoo_hooks; zoo_hooks.init(); import dill._dill, dill._dill; print(dill._dill.value)"
    run = child(code, check=False, PYTHONPATH=str(folder))
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith("zoo-hooks")
    assert "reinstall" in line


@pytest.mark.parametrize(
    "name", ["pkgutil", "fnmatch", "dataclasses", "inspect", "weakref", "enum", "opcode"]
)
def test_a_file_beside_the_script_is_not_run_by_us(zoo, tmp_path, name):
    """One that is called like a module of Python's own that nobody else imports: a line names it."""
    zoo.module("fake")
    zoo.patch("fake")
    file = tmp_path / "script" / f"{name}.py"
    file.parent.mkdir()
    file.write_text("print('RUN')\n")
    script = file.parent / "main.py"
    script.write_text(zoo.preamble + "import fake\nprint(fake.value)\n")
    run = child(
        f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(script)!r}]))", check=False
    )
    assert run.returncode == 0, run.stderr
    assert "RUN" not in run.stdout
    if run.stdout == "1\n":
        assert f"{file} stands in the place of Python's own module {name}" in run.stderr
    else:
        assert (run.stdout, run.stderr) == ("2\n", "")


PUT_BACK = """
from unittest import mock
with mock.patch.dict(sys.modules):
    import fake
    {inside}
import other
print(other.value, zoo_hooks.report()["other"].status.name)
"""


@pytest.mark.parametrize(
    "inside",
    [
        "pass",
        "[sys.modules.pop(name) for name in [*sys.modules] if 'zoo_hooks' in name]; import zoo_hooks",
    ],
)
def test_repairs_go_on_after_sys_modules_was_put_back(zoo, inside):
    """``mock.patch.dict(sys.modules)`` around our first work, or a purge and an import of zoo_hooks in it."""
    zoo.module("fake")
    zoo.patch("fake")
    zoo.module("other")
    zoo.patch("other", "other")
    assert zoo.run(PUT_BACK.format(inside=inside)) == "2 APPLIED\n"


def test_a_module_of_ours_whose_import_was_ended_is_not_put_back(zoo):
    """What another thread is importing is not kept: a deadline there may leave half of it."""
    code = """
        import types, importlib.util
        import zoo_hooks.patches.dill
        from zoo_hooks import catalogue
        name = "zoo_hooks.patches.dill.half"
        sys.modules[name] = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None))
        sys.modules[name].__spec__._initializing = True
        catalogue.keep_modules()
        del sys.modules[name]
        catalogue.keep_modules()
        print(name in sys.modules, "zoo_hooks.patches.dill" in catalogue._kept)
    """
    assert zoo.run(code) == "False True\n"


def test_a_second_zoo_hooks_module_is_the_first(zoo):
    """A purge and a second import: one finder, no recursion, and its report knows what was repaired."""
    zoo.module("fake")
    zoo.patch("fake")
    zoo.module("other")
    zoo.patch("other", "other")
    code = """
        import fake
        first = zoo_hooks
        for name in [name for name in sys.modules if name.startswith("zoo_hooks")]:
            del sys.modules[name]
        import zoo_hooks
        zoo_hooks.init()
        import other
        finders = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") == "zoo_hooks"]
        print(zoo_hooks is first, len(finders), other.value, zoo_hooks.report()["bug"].status.name)
    """
    assert zoo.run(code) == "True 1 2 APPLIED\n"


@pytest.mark.parametrize(
    "body",
    [
        "import dataclasses as d\n@d.dataclass(frozen=True)\nclass E(Exception):\n    a: int\nraise E(1)",
        "class E(Exception):\n    def with_traceback(self, _): raise OSError\nraise E",
        "class E(Exception):\n    __slots__ = ()\n    def __setattr__(self, *_): raise OSError\nraise E",
        "class E(BaseException): pass\nraise E",
    ],
)
def test_the_exception_of_a_body_is_the_one_that_the_user_sees(zoo, body):
    """A frozen dataclass as an exception, one that refuses a traceback, or to be written to."""
    zoo.module("fake", body)
    zoo.patch("fake")
    assert (
        as_bare(
            zoo,
            """
        try:
            import fake
        except BaseException as error:
            print(type(error).__name__, type(error).__module__, error.__context__)
    """,
        )
        == "E fake None\n"
    )


def test_finders_of_the_old_kind_are_used_as_python_uses_them(zoo):
    """One with find_module only, between ours and Python's: the repair is made."""
    zoo.module("fake")
    zoo.patch("fake")
    code = """
        class Old:
            def find_module(self, name, path=None): return None
        sys.meta_path.insert(1, Old())
        import fake
        print(fake.value)
    """
    assert zoo.run(code, "-W", "ignore") == "2\n"


ODD = {
    "no spec after the body": "value = 3\ndel __spec__",
    "a spec that is none": "value = 3\n__spec__ = 7",
    "no name": "value = 3\ndel __name__",
    "another name": "value = 3\n__name__ = 'elsewhere'",
    "gone from sys.modules": "import sys\nvalue = 3\nsys.kept = sys.modules.pop('fake')",
    "None in sys.modules": "import sys\nvalue = 3\nsys.modules['fake'] = None",
    "another object": "import sys\nclass Other: value = 3\nsys.modules['fake'] = Other()",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_modules_import_as_without_us(zoo, kind):
    """A body that deletes or exchanges what the import system has given it."""
    zoo.module("fake", ODD[kind])
    zoo.patch("fake")
    as_bare(
        zoo,
        """
        try:
            import fake
            print(fake.value, type(fake))
        except BaseException as error:
            print(type(error).__name__, error)
    """,
    )


PLAIN = "def exec_module(self, module): module.value = 3"
LOADERS = {
    "static": "@staticmethod\n    def exec_module(module): module.value = 3",
    "class": "@classmethod\n    def exec_module(cls, module): module.value = 3",
    "its own loader": f"loader = property(lambda self: self)\n    {PLAIN}",
    "odd module": f"def create_module(self, spec): return Odd()\n    {PLAIN}",
    "dict that raises": f"__dict__ = property(lambda self: 1 / 0)\n    {PLAIN}",
    "dict that exits": f"__dict__ = property(lambda self: sys.exit(5))\n    {PLAIN}",
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", ["Loader", "LazyLoader"])
def test_odd_loaders_load_as_without_us(zoo, kind, name):
    """exec_module as a static or class method, a loader that is its own, attributes that raise."""
    zoo.patch("fake")
    if name == "LazyLoader" and kind == "odd module":
        name = "Loader"
    as_bare(
        zoo,
        f"""
class Odd:
    pass
class {name}:
    def create_module(self, spec): return None
    {LOADERS[kind]}
from importlib.machinery import ModuleSpec
class Finder:
    asked = 0
    def find_spec(self, name, path=None, target=None):
        if name == "fake":
            self.asked += 1
            return ModuleSpec(name, {name}()) if self.asked == 1 else None
sys.meta_path.append(Finder())
import fake
print(fake.value, sys.meta_path[-1].asked)
""",
    )


def test_a_finder_that_raises_is_asked_once(zoo):
    """A finder that answers only the second time is asked as often as without us: its error is the user's."""
    as_bare(
        zoo,
        """
        class Finder:
            asked = 0
            def find_spec(self, name, path=None, target=None):
                if name == "fake":
                    self.asked += 1
                    raise OSError(self.asked)
        zoo_hooks.TARGETS["fake"] = " fake "
        sys.meta_path.append(Finder())
        try:
            import fake
        except OSError as error:
            print(error)
    """,
    )


@pytest.mark.parametrize("environ", ["1 / 0", "sys.exit(3)", "None"])
def test_an_environment_that_cannot_be_read_switches_us_off(zoo, environ):
    """os.environ replaced by something that raises, or that has no get."""
    zoo.module("fake")
    zoo.patch("fake")
    as_bare(
        zoo,
        f"""
        import os
        class Environ:
            def get(self, *_): return {environ}
        os.environ = Environ()
        import fake
        print(fake.value)
    """,
    )


def test_near_the_recursion_limit_an_import_needs_no_more_frames_than_without_us(zoo):
    """The first watched import at each depth before the limit: what works without us works with us."""
    zoo.module("fake.core", "value = 3\n")
    zoo.patch("fake.core")
    as_bare(
        zoo,
        """
        import fake
        def at(depth):
            if depth:
                return at(depth - 1)
            sys.modules.pop("fake.core", None)
            import fake.core
            return fake.core.value
        frame, used = sys._getframe(), 0
        while frame:
            frame, used = frame.f_back, used + 1
        deepest = 0
        for depth in range(sys.getrecursionlimit() - used - 60, sys.getrecursionlimit() - used):
            try:
                at(depth)
                deepest = depth
            except RecursionError:
                pass
        print(deepest)
    """,
    )


def test_a_thread_with_a_small_stack_imports_as_without_us(zoo):
    """32 KiB of stack, the least that Python allows."""
    zoo.module("fake", "value = 3\n")
    zoo.patch("fake")
    as_bare(
        zoo,
        """
        import threading
        threading.stack_size(32768)
        def load():
            import fake
            print(fake.value)
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    """,
    )


def test_the_finders_can_be_copied_and_pickled(zoo):
    """copy.deepcopy and pickle of sys.meta_path, and the type of each finder."""
    code = """
        import copy, pickle
        finder = sys.meta_path[0]
        print(finder is zoo_hooks, copy.deepcopy(sys.meta_path)[0] is finder, copy.copy(finder) is finder)
        print(all(pickle.loads(pickle.dumps(finder, n)) is finder for n in range(6)))
        print({type(finder).__module__ for finder in sys.meta_path})
    """
    assert zoo.run(code).splitlines()[:2] == ["True True True", "True"]


def test_a_foreign_package_that_is_named_like_a_target_is_left_in_peace(zoo):
    """A user's own package of that name: nothing is said at any level above debugging, nothing is changed."""
    zoo.module("fake", "print = None\n")
    zoo.patch("fake")
    run = child(
        zoo.preamble
        + "import logging\nlogging.basicConfig(level='INFO')\nimport fake\n"
        + SHOW.replace(", fake.value", "")
    )
    assert run.stdout == "UNKNOWN\n"
    assert "failed" not in run.stderr


UPSTREAMS = sorted({name.partition(".")[0] for name in targets.PATCHES})


@pytest.mark.parametrize("upstreams", [*([name] for name in UPSTREAMS), UPSTREAMS])
def test_empty_modules_in_the_place_of_an_upstreams_targets_are_left_in_peace(upstreams, tmp_path):
    """No patch is applied to such a module of a user, none fails, and no other package is imported."""
    names = [name for name in targets.PATCHES if name.partition(".")[0] in upstreams]
    for name in names:
        tmp_path.joinpath(*name.split(".")).mkdir(parents=True, exist_ok=True)
    for folder in [*tmp_path.rglob("*")]:
        folder.joinpath("__init__.py").touch()
    code = f"""
        import importlib, sys
        from importlib.machinery import ModuleSpec

        class Others:
            # all other packages can be imported; pickle asks for org, which Jython has
            def find_spec(name, path=None, target=None):
                if name.partition(".")[0] not in {{*{upstreams!r}, "org", *sys.stdlib_module_names}}:
                    return ModuleSpec(name, Others, is_package=True)
            def create_module(spec):
                pass
            def exec_module(module):
                imported.append(module.__name__)

        imported = []
        sys.path.insert(0, {str(tmp_path)!r})
        sys.meta_path.append(Others)
        for name in {names!r}:
            assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r})
        print(imported)
        from zoo_hooks import ledger
        print([one.patch for one in ledger._outcomes.values() if one.status.name in ("APPLIED", "FAILED")])
    """
    run = child(textwrap.dedent(code))
    assert (run.stdout, run.stderr) == ("[]\n[]\n", "")
