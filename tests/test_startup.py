"""What happens in every Python process of an environment, however it is started."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipapp
from pathlib import Path

import pytest
from conftest import Zoo, child, python

import zoo_hooks

FINDERS = "sum(getattr(finder, '__name__', '') == 'zoo_hooks' for finder in sys.meta_path)"
COUNT = f"import sys; print({FINDERS})"


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory) -> Path:
    """An environment that holds nothing but zoo_hooks and its start-up line."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True, with_pip=False)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    package = Path(zoo_hooks.__file__).parent
    shutil.copytree(package, site_packages / "zoo_hooks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(sysconfig.get_path("purelib"), "zoo_hooks.pth"), site_packages)
    return site_packages


def start(site_packages: Path, code: str) -> list[str]:
    interpreter = site_packages.parents[2] / "bin" / "python"
    run = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert not run.stderr
    return run.stdout.split()


def test_start_adds_no_module_but_our_own(bare_environment):
    """An interpreter with the line has loaded what one with an empty path file has, and zoo_hooks."""
    code = "import sys; print(*sys.modules)"
    line = bare_environment / "zoo_hooks.pth"
    ours, text = start(bare_environment, code), line.read_text()
    line.write_text("#\n")
    try:
        bare = start(bare_environment, code)
    finally:
        line.write_text(text)
    assert set(ours) ^ set(bare) == {"zoo_hooks"}


def test_the_line_run_twice_installs_one_finder(bare_environment):
    """Where site runs every line twice, and when init() is called again, there is one finder."""
    counter = bare_environment / "counter.pth"
    counter.write_text("import sys; sys.lines = getattr(sys, 'lines', 0) + 1\n")
    try:
        code = f"import sys, zoo_hooks; print(sys.lines, {FINDERS}); zoo_hooks.init(); print({FINDERS})"
        lines, at_start, later = start(bare_environment, code)
    finally:
        counter.unlink()
    assert (at_start, later) == ("1", "1")
    if sys.version_info < (3, 14):
        assert lines == "2"


@pytest.mark.parametrize("flags", ["", "-I", "-E", "-s", "-O", "-X importtime", "-X dev", "-B -u"])
def test_the_finder_is_there_and_repairs_under(zoo: Zoo, flags):
    """Flags that keep site running keep the finder, and targets are repaired."""
    zoo.module("up")
    zoo.patch("up")
    assert python(COUNT, *flags.split()) == "1\n"
    assert zoo.run("import up; print(up.value)", *flags.split()) == "2\n"


def test_without_site_nothing_is_installed():
    """Under -S no line runs and nothing of ours is loaded."""
    assert python(f"{COUNT}; print('zoo_hooks' in sys.modules)", "-S") == "0\nFalse\n"


@pytest.mark.parametrize("word", ["0", "off", "False", " NO "])
def test_switched_off_nothing_is_installed(word):
    """With ZOO_HOOKS=0 and its relatives there is no finder."""
    assert python(COUNT, ZOO_HOOKS=word) == "0\n"


def test_switched_off_inside_the_script(zoo: Zoo):
    """A script that sets ZOO_HOOKS=0 before it imports a target is obeyed; it may take it back."""
    zoo.module("up.first")
    zoo.module("up.second")
    zoo.patch("up.first", "one")
    zoo.patch("up.second", "two")
    code = """
        import os
        os.environ["ZOO_HOOKS"] = "0"
        import up.first
        print(up.first.value, "zoo_hooks.engine" in sys.modules)
        del os.environ["ZOO_HOOKS"]
        import up.second
        print(up.second.value)
    """
    assert zoo.run(code) == "1 False\n2\n"


@pytest.fixture
def worker(zoo: Zoo) -> Zoo:
    """A module with a function for child processes: the finders there, and what they made of a target."""
    zoo.module("up")
    zoo.patch("up")
    zoo.module("worker", zoo.preamble + f"def work():\n    import up\n    return {FINDERS}, up.value\n")
    return zoo


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing_children(worker: Zoo, method):
    """Children of every start method have one finder, and it repairs."""
    code = f"""
        import multiprocessing
        import worker
        with multiprocessing.get_context({method!r}).Pool(1) as pool:
            print(*pool.apply(worker.work))
    """
    assert worker.run(code) == "1 2\n"


def test_subinterpreter():
    """A subinterpreter has a finder of its own."""
    private = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    code = f"""
        import {private} as interpreters
        one = interpreters.create()
        trouble = interpreters.run_string(one, {COUNT + "; sys.stdout.flush()"!r})
        assert trouble is None, trouble
        interpreters.destroy(one)
    """
    assert python(code) == "1\n"


def test_zipapp(zoo: Zoo, tmp_path):
    """A zipapp finds the finder in place, and a target that it carries is repaired."""
    zoo.patch("up")
    app = tmp_path / "app"
    app.mkdir()
    (app / "up.py").write_text("value = 1\n")
    (app / "__main__.py").write_text(f"{COUNT}\n{zoo.preamble}\nimport up\nprint(up.value, up.__file__)\n")
    archive = tmp_path / "app.pyz"
    zipapp.create_archive(app, archive)
    code = f"import subprocess, sys; subprocess.run([sys.executable, {str(archive)!r}], check=True)"
    assert python(code) == f"1\n2 {archive / 'up.py'}\n"


def test_module_as_script(worker: Zoo):
    """Under -m the finder is in place before the package runs, and a target it imports is repaired."""
    worker.module("tool.__main__", "import worker\nprint(*worker.work())\n")
    run = child("", "-m", "tool", PYTHONPATH=str(worker.folder / "site"))
    assert run.stdout == "1 2\n"


@pytest.mark.parametrize("alter_sys", [True, False])
def test_runpy_of_a_target(zoo: Zoo, alter_sys):
    """A target that is run as a script runs as it does without us, and is repaired when it is imported."""
    zoo.module("up.core", "value = 1\nif __name__ == '__main__': print(__spec__.name, __file__)\n")
    zoo.patch("up.core")
    code = f"""
        import runpy
        result = runpy.run_module("up.core", run_name="__main__", alter_sys={alter_sys})
        print(result["value"], sorted(result))
        import up.core
        print("imported:", up.core.value)
    """
    ours = zoo.run(code)
    assert ours.endswith("imported: 2\n")
    assert ours.replace("imported: 2", "imported: 1") == zoo.run(code, ZOO_HOOKS="0")
