"""The plugin of pytest, and the extension of IPython."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

import pytest
from conftest import child

import zoo_hooks
from zoo_hooks import plugin

# The entry point loads it where zoo-hooks is installed.
ENTRY = () if list(entry_points(group="pytest11", name="zoo-hooks")) else ("-p", "zoo_hooks.plugin")


@pytest.fixture
def run(zoo):
    """Run pytest on one test that asks a fake; returns what it prints."""
    zoo.module("fake")
    zoo.patch("fake")

    def pytest_says(value, *options, **variables):
        (zoo.folder / "test_one.py").write_text(
            f"import fake\n\n\ndef test_it():\n    assert fake.value == {value}\n"
        )
        code = (
            f"import pytest; pytest.main({['-p', 'no:cacheprovider', *ENTRY, *options, str(zoo.folder)]!r})"
        )
        return child(zoo.preamble + code, PYTHONPATH="", **variables).stdout

    return pytest_says


def test_the_header_says_what_a_run_has(run):
    """One line, with the version and the setting."""
    assert f"zoo-hooks: {zoo_hooks.__version__}, " in run(2)
    assert f"zoo-hooks: {zoo_hooks.__version__}, not active, ZOO_HOOKS=0" in run(1, ZOO_HOOKS="0")


def test_a_run_without_repairs_is_one_option_away(run):
    """The upstream is as it was, and the header says so."""
    assert "1 passed" in run(2)
    said = run(1, "--zoo-hooks-off")
    assert "off (--zoo-hooks-off)" in said
    assert "1 passed" in said


def test_what_was_imported_before_is_repaired_no_more(zoo):
    """The option undoes what a plugin that came first had imported."""
    zoo.module("fake")
    zoo.patch("fake")
    code = """
        import fake
        from zoo_hooks import plugin
        before = fake.value
        plugin.pytest_configure(type("", (), {"getoption": lambda *_: True})())
        print(before, fake.value)
    """
    assert zoo.run(code) == "2 1\n"


def test_the_plugin_imports_nothing_but_zoo_hooks():
    """pytest loads it at each start."""
    code = "import sys; before = {*sys.modules}; import zoo_hooks.plugin; print(*{*sys.modules} - before)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(said.split()) <= {"zoo_hooks", "zoo_hooks.plugin"}


def test_pytest_does_not_warn_of_a_plugin_that_was_there_before_it():
    """Its rewriting of asserts would, and end a run in which warnings are errors."""
    code = """
        import sys, zoo_hooks
        from _pytest.assertion.rewrite import AssertionRewriter
        print(AssertionRewriter.is_rewrite_disabled(zoo_hooks.__doc__))
    """
    assert child(code).stdout == "True\n"


def test_the_extension_repairs_what_was_there_before(monkeypatch, capsys):
    """In a kernel that was running before the installation; it says what acts."""
    calls = []
    monkeypatch.setattr(
        plugin, "zoo_hooks", SimpleNamespace(activate=lambda: calls.append("activate"), log=zoo_hooks.log)
    )
    plugin.load_ipython_extension(None)
    assert calls == ["activate"]
    assert capsys.readouterr().err.startswith(f"zoo-hooks {zoo_hooks.__version__}: ")
