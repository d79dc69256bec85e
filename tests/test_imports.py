"""The import system with our finder in it: targets of every kind, threads, and what others put there."""

from __future__ import annotations

import shutil
import sys
import textwrap
import zipfile

import pytest
from conftest import PATCH, Zoo, child

ERASED_ON = (3, 11)
"""From this Python on a frame can be taken out of a traceback also where importlib's frames are shown."""

EIGHT_THREADS = """
import threading
barrier = threading.Barrier(8)
seen = []

def load():
    barrier.wait()
    from up import core
    seen.append((core.value, core.other))

threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def counting_patch(zoo: Zoo, target: str, name: str = "bug", attribute: str = "value") -> None:
    """A patch that sets an attribute from 1 to 2, and adds its name to ``sys.repairs``."""
    source = PATCH.format(target=target, upstream=target.partition(".")[0], more="")
    source = source.replace("value", attribute)
    repair = f'changes.replace(module, "{attribute}", 2)'
    assert repair in source
    count = f'__import__("sys").repairs.append({name!r})'
    zoo.patch(target, name, source.replace(repair, f"{repair}\n    {count}"))


def same(zoo: Zoo, code: str, *flags: str, status: int = 0) -> str:
    """Run code with us and with ZOO_HOOKS=0, which must end and print the same; returns what they print."""
    code = zoo.preamble + textwrap.dedent(code)
    runs = [child(code, *flags, check=False, ZOO_HOOKS=word) for word in ("1", "0")]
    ours, bare = [(run.returncode, run.stdout, run.stderr) for run in runs]
    assert ours == bare
    assert ours[0] == status, ours
    return ours[1] + ours[2]


def archive(zoo: Zoo, **modules: str) -> str:
    """Put modules into a zip; returns code that puts it on the path."""
    file = zoo.folder / "modules.zip"
    with zipfile.ZipFile(file, "w") as z:
        for name, source in modules.items():
            z.writestr(f"{name}.py", textwrap.dedent(source))
    return f"import sys; sys.path.insert(0, {str(file)!r})\n"


def test_root_package_and_submodule(zoo: Zoo):
    """A package and its submodule may both be targets, and a plain module too."""
    zoo.module("up", package=True)
    zoo.module("up.core")
    zoo.module("plain")
    for number, target in enumerate(["up", "up.core", "plain"]):
        zoo.patch(target, f"bug_{number}")
    assert zoo.run("import up.core, plain; print(up.value, up.core.value, plain.value)") == "2 2 2\n"


def test_target_imported_from_its_package(zoo: Zoo):
    """A target that its own package imports while it loads is repaired before the package goes on."""
    zoo.module("up", "from up.core import value\n", package=True)
    zoo.module("up.core")
    zoo.patch("up.core")
    assert zoo.run("import up; print(up.value)") == "2\n"


def test_target_loaded_lazily(zoo: Zoo):
    """Under LazyLoader a target's body runs at the first access, and is repaired then."""
    zoo.module("up", "print('body')\nvalue = 1\n")
    zoo.patch("up")
    code = """
        import importlib.util
        spec = importlib.util.find_spec("up")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = sys.modules["up"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print("lazy")
        print(module.value)
    """
    assert zoo.run(code) == "lazy\nbody\n2\n"


LAZY_PATH_HOOK = """
import importlib.machinery as machinery, importlib.util, threading
lazy = importlib.util.LazyLoader.factory(machinery.SourceFileLoader)
sys.path_hooks.insert(0, machinery.FileFinder.path_hook((lazy, [".py"])))
sys.path_importer_cache.clear()
import up
sys.path_hooks.pop(0)
sys.path_importer_cache.clear()
print("lazy")
"""


def test_target_that_a_finder_loads_lazily(zoo: Zoo):
    """A target stays lazy where a path hook makes every import lazy, and is repaired when its body runs."""
    zoo.module("up", "print('body')\nvalue = 1\n")
    zoo.patch("up")
    assert zoo.run(LAZY_PATH_HOOK + "print(up.value)") == "lazy\nbody\n2\n"


def test_before_patch_of_a_target_that_a_finder_loads_lazily(zoo: Zoo):
    """What a patch provides before a lazy target's body is there when the body runs, and gone after it."""
    zoo.module("up", "import stand_in\nprint('body')\nvalue = 1\n")
    source = PATCH.format(target="up", upstream="up", more='when="before",\n    behavioural=False,')
    source = source.replace("module.value == 1", "True").replace(
        'changes.replace(module, "value", 2)',
        'import types\n    changes.provide("stand_in", types.ModuleType("stand_in"))',
    )
    zoo.patch("up", source=source)
    code = LAZY_PATH_HOOK + "print(up.value, 'stand_in' in sys.modules)"
    assert zoo.run(code) == "lazy\nbody\n1 False\n"


def test_repair_whose_undoing_raises(zoo: Zoo):
    """A repair that fails, on an object that refuses to be changed back, does not fail the import."""
    zoo.module(
        "up",
        """
        class Sticky:
            def __delattr__(self, name):
                raise TypeError(f"{name} stays")

        value, sticky = 1, Sticky()
        """,
    )
    source = PATCH.format(target="up", upstream="up", more="")
    repair = 'changes.replace(module.sticky, "new", 2)\n    1 / 0'
    zoo.patch("up", source=source.replace('changes.replace(module, "value", 2)', repair))
    code = "import up; from zoo_hooks import ledger; print(ledger.find('up/bug', 'up').reason)"
    assert zoo.run(code) == "repair: ZeroDivisionError: division by zero; not rolled back: new stays\n"


def test_target_that_replaces_itself(zoo: Zoo):
    """What a target puts in its place in sys.modules is what is repaired."""
    zoo.module(
        "up",
        """
        import sys, types
        value = 1
        class Lazy(types.ModuleType):
            value = 1
        sys.modules[__name__] = Lazy(__name__)
        """,
    )
    zoo.patch("up")
    assert zoo.run("import up; print(type(up).__name__, up.value)") == "Lazy 2\n"


def test_target_from_a_zip(zoo: Zoo):
    """Targets in a zip are repaired, two armed at once too; modules beside them see the loader as it was."""
    zoo.patch("up")
    zoo.patch("other")
    code = archive(zoo, up="value = 1", other="value = 1", plain="value = 1") + textwrap.dedent("""
        import importlib.util
        spec = importlib.util.find_spec("other")
        import up, plain
        print(up.value, plain.value)
        other = sys.modules["other"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(other)
        print(other.value, other.__loader__ is up.__loader__, "exec_module" in vars(up.__loader__))
    """)
    assert zoo.run(code) == "2 1\n2 True False\n"


def test_two_targets_from_one_zip_in_two_threads(zoo: Zoo):
    """Two targets and a plain module whose bodies run at once on one loader are each what they should be."""
    body = "import sys; sys.barrier.wait(20); value = 1; sys.barrier.wait(20)"
    for target in ("first", "second"):
        counting_patch(zoo, target, f"bug_{target}")
    code = archive(zoo, first=body, second=body, plain=body) + textwrap.dedent("""
        import importlib, threading
        sys.repairs = []
        sys.barrier = threading.Barrier(3)
        names = ["first", "second", "plain"]
        threads = [threading.Thread(target=importlib.import_module, args=[name]) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(*[sys.modules[name].value for name in names], *sorted(sys.repairs))
        print("exec_module" in vars(sys.modules["plain"].__loader__))
    """)
    assert zoo.run(code) == "2 2 1 bug_first bug_second\nFalse\n"


def test_target_that_fails_first(zoo: Zoo):
    """A target that fails on its first import and succeeds on the second is repaired on the second."""
    zoo.module("up", "import sys\nsys.tries += 1\nif sys.tries == 1: raise ImportError('no')\nvalue = 1\n")
    zoo.patch("up")
    code = """
        sys.tries = 0
        try:
            import up
        except ImportError as error:
            print(error, "up" in sys.modules)
        import up
        print(up.value)
    """
    assert zoo.run(code) == "no False\n2\n"


def test_target_that_is_reloaded(zoo: Zoo):
    """A reload, which undoes a repair, is followed by the repair."""
    zoo.module("up")
    counting_patch(zoo, "up")
    code = """
        import importlib
        sys.repairs = []
        import up
        print(importlib.reload(up) is up, up.value, *sys.repairs)
    """
    assert zoo.run(code) == "True 2 bug bug\n"


def test_eight_threads_repair_once(zoo: Zoo):
    """Eight threads that import one target all see it repaired, and each repair ran once."""
    zoo.module("up.core", "import time\ntime.sleep(0.2)\nvalue = other = 1\n")
    counting_patch(zoo, "up.core", "one")
    counting_patch(zoo, "up.core", "two", "other")
    code = f"sys.repairs = []\n{EIGHT_THREADS}\nprint(*sorted(sys.repairs), *set(seen), len(seen))"
    assert zoo.run(code) == "one two (2, 2) 8\n"


def package_with_a_thread(zoo: Zoo, last: str = "") -> None:
    zoo.module(
        "up",
        f"""
        import threading, time
        import importlib
        def load():
            importlib.import_module("up.core")
        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        time.sleep(1)
        import colorsys
        {last}
        print("loaded", flush=True)
        """,
        package=True,
    )
    zoo.module("up.core")


def test_package_whose_body_starts_a_thread_does_not_hang(zoo: Zoo):
    """A thread started in a package's body may import a target while the body imports what is new."""
    package_with_a_thread(zoo, last="thread.join(20)")
    zoo.patch("up.core")
    code = """
        import faulthandler
        faulthandler.dump_traceback_later(30, exit=True)
        import up
        print(up.core.value)
    """
    assert zoo.run(code) == "loaded\n2\n"


def test_the_same_package_hangs_with_a_pending_hook_of_wrapt(zoo: Zoo):
    """The test above can fail: with a hook that wrapt keeps pending, both threads wait for ever."""
    package_with_a_thread(zoo)
    code = """
        import faulthandler, wrapt
        wrapt.register_post_import_hook(print, "up.core")
        faulthandler.dump_traceback_later(3, exit=True)
        import up
    """
    run = child(zoo.preamble + textwrap.dedent(code), check=False, timeout=300, ZOO_HOOKS="0")
    assert run.returncode == 1
    assert "loaded" not in run.stdout
    assert "Timeout" in run.stderr
    assert "wrapt" in run.stderr


def test_module_looks_as_without_us(zoo: Zoo):
    """Loader, spec, file, source and pickled spec of a target are what they are without us."""
    zoo.module("up", "def f():\n    return 1\nvalue = 3\n", package=True)
    zoo.module("up.core", "def f():\n    return 2\nvalue = 3\n")
    zoo.patch("up", "one")
    zoo.patch("up.core", "two")
    code = """
        import copy, inspect, pickle, up.core
        for module in (up, up.core):
            spec, loader = module.__spec__, module.__loader__
            print(spec.name, sorted(vars(spec)), module.__file__, module.__cached__)
            print(type(loader), vars(loader), spec.loader is loader, loader.exec_module.__qualname__)
            print(inspect.getsource(module), inspect.getsource(module.f), inspect.getmodule(module.f))
            print(pickle.dumps(spec), pickle.loads(pickle.dumps(spec)) == spec, copy.deepcopy(spec) == spec)
            print(sorted(vars(module)))
    """
    same(zoo, code)
    code = "import up.core; from zoo_hooks import ledger; print(ledger.find('up/two', 'up.core').status)"
    assert zoo.run(code) == "Status.NOT_NEEDED\n"


def test_failed_import_leaves_the_loader_alone(zoo: Zoo):
    """A target whose body raises leaves nothing on its loader."""
    zoo.module("up", "import sys\nsys.kept = __spec__\n1 / 0\n")
    zoo.patch("up")
    code = """
        try:
            import up
        except ZeroDivisionError:
            print(sorted(vars(sys.kept.loader)))
    """
    assert "exec_module" not in same(zoo, code)


def test_find_spec_alone_is_harmless(zoo: Zoo):
    """A spec that is found and never used can be pickled, and imports after it are as without it."""
    zoo.module("up", "value = 30\n")  # not as long as what follows, so its bytecode is not taken for that
    zoo.patch("up")
    code = """
        import copy, importlib.util, pickle
        spec = importlib.util.find_spec("up")
        for twin in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):
            print(twin.name, twin.origin, type(twin.loader), twin.loader.get_filename())
            module = importlib.util.module_from_spec(twin)
            twin.loader.exec_module(module)
            print(module.value, "up" in sys.modules)
        import up
        print(up.value, up.__spec__ == pickle.loads(pickle.dumps(up.__spec__)), sorted(vars(up.__loader__)))
        print(importlib.util.find_spec("up") is up.__spec__)
    """
    same(zoo, code)
    zoo.module("up")
    code = "import importlib.util; importlib.util.find_spec('up'); import up; print(up.value)"
    assert zoo.run(code) == "2\n"


FAILURES = {
    "raises": "import up.inner\n",
    "chained": "try:\n    import up.inner\nexcept ValueError as e:\n    raise RuntimeError('outer') from e\n",
    "syntax": "def (\n",
    "missing": "import up.nowhere\n",
    "name": "from up.fine import nothing\n",
    "exits": "raise SystemExit('bye')\n",
}
STATEMENTS = {
    "import": "import up.core",
    "function": "def load():\n    from up.core import value\nload()",
    "import_module": "import importlib; importlib.import_module('up.core')",
    "reload": "import up.core as core, importlib; core.again = True; importlib.reload(core)",
}


@pytest.mark.parametrize("statement", STATEMENTS if sys.version_info >= ERASED_ON else ["import", "function"])
@pytest.mark.parametrize("failure", FAILURES)
def test_traceback_of_a_failing_target(zoo: Zoo, failure, statement):
    """A target that fails to import shows the traceback that it shows without us."""
    body = FAILURES[failure]
    if statement == "reload":
        indented = textwrap.indent(body, "    ") if failure != "syntax" else "    exec('def (')\n"
        body = f"value = 3\nif 'again' in globals():\n{indented}"
    zoo.module("up.core", body)
    zoo.module("up.inner", "def f():\n    raise ValueError('inner')\nf()\n")
    zoo.module("up.fine")
    for number, target in enumerate(["up.core", "up.inner", "up.fine"]):
        zoo.patch(target, f"bug_{number}")
    main = zoo.folder / "main.py"
    main.write_text(f"{zoo.preamble}\n{STATEMENTS[statement]}\n")
    code = f"import runpy; runpy.run_path({str(main)!r})"
    runs = [child(code, check=False, ZOO_HOOKS=word) for word in ("1", "0")]
    assert [run.returncode for run in runs] == [1, 1]
    assert runs[0].stderr == runs[1].stderr
    assert "zoo_hooks" not in runs[0].stderr


@pytest.mark.parametrize("level", [1, 2, 3])
def test_warning_of_a_module_body_names_the_same_line(zoo: Zoo, level):
    """A warning with a stacklevel, raised in a target's body, names the importing line as without us."""
    warning = f"warnings.warn('old', DeprecationWarning, stacklevel={level})"
    zoo.module("up.core", f"import warnings\nvalue = 3\n{warning}\n")
    zoo.module("caller", "def load():\n    import up.core\nload()\n")
    zoo.patch("up.core")
    text = same(zoo, "import caller", "-W", "always")
    assert "old" in text
    assert level == 3 or f"{'caller' if level == 2 else 'core'}.py:{level if level == 2 else 3}" in text


EDITABLE = """
import importlib.util

class EditableFinder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "up":
            return importlib.util.spec_from_file_location(name, {file!r})

    @classmethod
    def find_module(cls, name, path=None):
        return None

"""


@pytest.mark.parametrize("place", ["append(", "insert(0, "])
def test_editable_finder(zoo: Zoo, place):
    """A target that only an editable finder knows is loaded by it; where it stands behind us, repaired."""
    file = zoo.module("elsewhere.up")
    zoo.patch("up")
    code = EDITABLE.format(file=str(file)) + f"sys.meta_path.{place}EditableFinder)\n"
    code += "import up; print(up.value, up.__file__)"
    assert zoo.run(code) == f"{2 if place == 'append(' else 1} {file}\n"


PYTEST = """
import pytest

class First:
    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self):
        if {in_front}:
            sys.meta_path.sort(key=lambda finder: getattr(finder, "__name__", "") != "zoo_hooks")
        pytest.register_assert_rewrite("up")

    def pytest_collection(self, session):
        import up
        try:
            up.check([1, 2])
        except AssertionError as error:
            print("text:", str(error).splitlines()[0])
        print("value:", up.value, type(up.__loader__).__name__, "exec_module" in vars(up.__loader__))
        print("report:", zoo_hooks.report()["bug"].reason)
        zoo_hooks.activate()
        print("value:", up.value)

folder = {folder!r}
options = ["-q", "-s", "-p", "no:cacheprovider", "--rootdir", folder, "-c", "/dev/null"]
pytest.main([*options, folder], plugins=[First()])
"""


@pytest.mark.parametrize("in_front", [True, False])
def test_pytest_rewrites_a_target(zoo: Zoo, in_front):
    """pytest rewrites a target's asserts; it asks no finder behind its own, so there activate() repairs."""
    zoo.module("up", "value = 1\ndef check(left):\n    assert left == [1, 3]\n")
    zoo.patch("up")
    metadata = zoo.folder / "site" / "up-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: up\nVersion: 1.0\n")
    empty = zoo.folder / "tests"
    empty.mkdir()
    lines = zoo.run(PYTEST.format(folder=str(empty), in_front=in_front)).splitlines()
    text, value, report, late = [line for line in lines if line.startswith(("text:", "value:", "report:"))]
    assert text == "text: assert [1, 2] == [1, 3]"
    assert value == f"value: {2 if in_front else 1} AssertionRewritingHook False"
    assert in_front or "activate()" in report
    assert late == "value: 2"


def test_coverage_measures_a_target(zoo: Zoo):
    """coverage sees every line of a target's body and functions that ran."""
    file = zoo.module("up", "value = 1\n\n\ndef f():\n    return value\n\n\ndef g():\n    return 0\n")
    zoo.patch("up")
    code = f"""
        import coverage
        measured = coverage.Coverage(data_file=None, include=[{str(file)!r}])
        measured.start()
        import up
        print(up.f())
        measured.stop()
        print(measured.analysis2({str(file)!r})[1:4])
    """
    assert zoo.run(code) == "2\n([1, 4, 5, 8, 9], [], [9])\n"


def test_beartype_checks_a_target(zoo: Zoo):
    """beartype's import hook checks a target's annotations, and the target is repaired."""
    zoo.module("up.core", "value = 1\ndef f(x: int) -> int:\n    return x\n")
    zoo.patch("up.core")
    code = """
        from beartype.claw import beartype_package
        beartype_package("up")
        import up.core
        print(up.core.value, up.core.f(1), type(up.core.__loader__).__name__)
        try:
            up.core.f("one")
        except Exception as error:
            print(type(error).__name__)
    """
    assert zoo.run(code) == "2 1 BeartypeSourceFileLoader\nBeartypeCallHintParamViolation\n"


@pytest.mark.parametrize("in_front", [True, False])
def test_hook_of_wrapt_on_the_same_target(zoo: Zoo, in_front):
    """A hook that someone else has wrapt keep for a target fires too, whichever finder is asked first."""
    zoo.module("up.core")
    zoo.patch("up.core")
    code = f"""
        import wrapt
        wrapt.register_post_import_hook(lambda module: print("theirs", module.__name__), "up.core")
        if {in_front}:
            sys.meta_path.sort(key=lambda finder: getattr(finder, "__name__", "") != "zoo_hooks")
        import up.core
        print(up.core.value, sorted(vars(up.core.__loader__)))
    """
    assert zoo.run(code) == "theirs up.core\n2 ['name', 'path']\n"


STRANGE = {
    "a finder that raises": """
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "up":
                    raise RuntimeError("broken finder")
        finder = Finder()
    """,
    "a finder that raises ImportError": """
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "up":
                    raise ModuleNotFoundError("blocked", name=name)
        finder = Finder()
    """,
    "a loader with slots": """
        class Loader:
            __slots__ = ("value",)
            def create_module(self, spec):
                return None
            def exec_module(self, module):
                module.value = self.value
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name == "up":
                    loader = Loader()
                    loader.value = 7
                    return ModuleSpec(name, loader)
        finder = Finder()
    """,
    "a loader that is a class": """
        class Loader:
            @staticmethod
            def create_module(spec):
                return None
            @classmethod
            def exec_module(cls, module):
                module.value = 7
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return ModuleSpec(name, cls) if name == "up" else None
        finder = Loader
    """,
    "a loader that loads in the old way": """
        import types
        class Loader:
            def load_module(self, name):
                module = sys.modules[name] = types.ModuleType(name)
                module.value = 7
                return module
        class Finder:
            def find_spec(self, name, path=None, target=None):
                return ModuleSpec(name, Loader()) if name == "up" else None
        finder = Finder()
    """,
    "a finder from before find_spec": """
        class Loader:
            def load_module(self, name):
                import types
                module = sys.modules[name] = types.ModuleType(name)
                module.value = 7
                return module
        class Finder:
            def find_module(self, name, path=None):
                return Loader() if name == "up" else None
        finder = Finder()
    """,
    "a finder from before find_spec that knows nothing": """
        class Finder:
            def find_module(self, name, path=None):
                return None
        finder = Finder()
    """,
    "a namespace package": """
        import os
        os.unlink({site!r} + "/up.py")
        os.mkdir({site!r} + "/up")
        class Finder:
            def find_spec(self, name, path=None, target=None):
                return None
        finder = Finder()
    """,
    "no such module": """
        import os
        os.unlink({site!r} + "/up.py")
        class Finder:
            def find_spec(self, name, path=None, target=None):
                return None
        finder = Finder()
    """,
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_finders_and_loaders(zoo: Zoo, case):
    """Whatever stands behind our finder, the import ends as it does without us."""
    runs = []
    for word in ("1", "0"):
        zoo.module("up", "value = 3\n")
        zoo.patch("up")
        main = zoo.folder / "main.py"
        main.write_text(
            zoo.preamble
            + "from importlib.machinery import ModuleSpec, PathFinder\n"
            + textwrap.dedent(STRANGE[case].replace("{site!r}", repr(str(zoo.folder / "site"))))
            + "sys.meta_path.insert(sys.meta_path.index(PathFinder), finder)\n"
            + "import up\nprint(vars(up).get('value'), sorted(vars(up)), type(up.__spec__.loader))\n"
        )
        code = f"import runpy; runpy.run_path({str(main)!r})"
        runs.append(child(code, "-W", "always", check=False, ZOO_HOOKS=word))
        shutil.rmtree(zoo.folder / "site")
    # Up to 3.11 Python warns of an old finder at each import, of which we make more.
    ours, bare = [(run.returncode, run.stdout, list(dict.fromkeys(run.stderr.splitlines()))) for run in runs]
    if sys.version_info < ERASED_ON and "raises" in case:  # our frames cannot be taken out of the traceback
        ours, bare = [(*run[:2], run[2][-1]) for run in (ours, bare)]
    assert ours == bare


def test_two_targets_armed_on_one_loader_are_both_repaired(zoo: Zoo):
    """Both specs are found before either is executed; afterwards the loader is as it was."""
    archive = zoo.folder / "both.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one.py", "value = 1\n")
        file.writestr("two.py", "value = 1\n")
    zoo.patch("one", "first")
    zoo.patch("two", "second")
    code = f"""
        import importlib.util
        sys.path.insert(0, {str(archive)!r})
        specs = [importlib.util.find_spec(name) for name in ("one", "two")]
        assert specs[0].loader is specs[1].loader
        for spec in specs:
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            print(module.value)
        print("exec_module" in vars(specs[0].loader))
    """
    assert zoo.run(code) == "2\n2\nFalse\n"
