"""Probe, repair, probe again, record; nothing of it reaches the user's import."""

from __future__ import annotations

import json
import textwrap

import pytest
from conftest import PATCH, child

import zoo_hooks

SHOW = """
import json
row = zoo_hooks.report()[{id!r}]
print(json.dumps([row.status.name, row.reason, row.late]))
"""


def outcome(zoo, patch_id, code="import fake", **variables):
    """Status, reason and lateness of a patch after code has run in a child."""
    said = zoo.run(textwrap.dedent(code) + SHOW.format(id=patch_id), **variables)
    return json.loads(said.splitlines()[-1])


def broken_patch(**bodies):
    """A patch whose probe or repair is another function body."""
    source = PATCH.format(target="fake", upstream="fake", more="")
    for name, body in bodies.items():
        head, _, rest = source.partition(f"def {name}(")
        arguments, _, rest = rest.partition("\n")
        _, _, tail = rest.partition("\n\n")
        source = f"{head}def {name}({arguments}\n    {body}\n\n{tail}"
    return source


def test_an_affected_module_is_repaired_as_it_is_imported(zoo):
    """Plain user code sees the repaired value, and the ledger says APPLIED."""
    zoo.module("fake")
    zoo.patch("fake")
    assert zoo.run("import fake; print(fake.value)") == "2\n"
    assert outcome(zoo, "bug") == ["APPLIED", "value is 1", False]


def test_a_right_module_is_left_alone(zoo):
    """The repair steps aside where upstream has mended the bug."""
    zoo.module("fake", "value = 3")
    zoo.patch("fake")
    assert zoo.run("import fake; print(fake.value)") == "3\n"
    assert outcome(zoo, "bug")[0] == "NOT_NEEDED"


@pytest.mark.parametrize(
    ("bodies", "status", "reason"),
    [
        ({"probe": "return Verdict.UNKNOWN"}, "UNKNOWN", "does not know this code"),
        ({"probe": "raise ValueError('odd')"}, "UNKNOWN", "it raised ValueError: odd"),
        ({"probe": "raise SystemExit('odd')"}, "UNKNOWN", "it raised SystemExit: odd"),
        ({"probe": "return 'affected?'"}, "UNKNOWN", "it raised ValueError: 'affected?'"),
        ({"repair": "raise KeyboardInterrupt"}, "FAILED", "repair: KeyboardInterrupt"),
        (
            {"repair": "changes.replace(module, 'other', 1); raise KeyError('gone')"},
            "FAILED",
            "repair: KeyError: 'gone'",
        ),
        ({"repair": "pass"}, "FAILED", "the repair changed nothing"),
        (
            {"repair": "changes.replace(module, 'other', 1)"},
            "FAILED",
            "the probe still finds the bug",
        ),
    ],
)
def test_a_patch_that_goes_wrong_loses_only_itself(zoo, bodies, status, reason):
    """The import works, what was changed is rolled back, the error is kept, the next patch applies."""
    zoo.module("fake", "value = 1\nright = 1\n")
    zoo.patch("fake", "a_bad_one", broken_patch(**bodies))
    good = PATCH.format(target="fake", upstream="fake", more="").replace('"value"', '"right"')
    zoo.patch("fake", "good", good.replace("module.value", "module.right"))
    code = "import fake; assert (fake.value, fake.right, hasattr(fake, 'other')) == (1, 2, False)"
    seen = outcome(zoo, "a-bad-one", code)
    assert seen[0] == status
    assert reason in seen[1]
    assert outcome(zoo, "good", code)[0] == "APPLIED"


def test_a_patch_module_that_cannot_be_imported_loses_only_itself(zoo):
    """A syntax error in one patch leaves the import and the other patches as they are."""
    zoo.module("fake")
    zoo.patch("fake", "broken", "this is no Python")
    zoo.patch("fake")
    assert outcome(zoo, "bug", "import fake; assert fake.value == 2")[0] == "APPLIED"
    status, reason, _ = outcome(zoo, "broken")
    assert status == "FAILED"
    assert "SyntaxError" in reason


def test_a_failure_is_logged_once_with_the_link(zoo):
    """One line on the zoo_hooks logger, though the target is loaded twice; no traceback."""
    zoo.module("fake")
    zoo.patch("fake", source=broken_patch(repair="raise ValueError('odd')"))
    code = """
        import importlib, logging
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
        import fake
        importlib.reload(fake)
    """
    assert zoo.run(code) == (
        "WARNING zoo_hooks zoo-hooks: fake/bug was not repaired: repair: ValueError: odd. fake is imported "
        "without this repair; ZOO_HOOKS=-fake/bug silences this. The bug: https://example.org/1\n"
    )


def test_an_applied_patch_prints_nothing_and_logs_at_info(zoo):
    """Silence by default; one INFO line for those who ask."""
    zoo.module("fake")
    zoo.patch("fake")
    assert zoo.run("import fake") == ""
    code = "import logging; logging.basicConfig(stream=sys.stdout, level='INFO'); import fake"
    assert zoo.run(code) == "INFO:zoo_hooks:repaired: value is 1 (fake/bug)\n"


def test_a_guard_is_not_said_to_have_repaired_anything(zoo):
    """It stands ready: another word in the log, the summary and the sentence of ``ZOO_HOOKS_LOG=1``."""
    zoo.module("fake")
    zoo.patch("fake", more="guard=True,")
    code = "import logging; logging.basicConfig(stream=sys.stdout, level='INFO'); import fake"
    assert zoo.run(code) == "INFO:zoo_hooks:on guard: value is 1 (fake/bug)\n"
    code = "import fake; print(zoo_hooks.report()); zoo_hooks.log()"
    run = child(zoo.preamble + code)
    assert run.stdout.startswith("0 repaired, 1 on guard, 0 not needed, 0 failed")
    assert "0 repairs active and 1 guard in fake" in run.stderr


def test_one_line_at_the_end_says_what_acts(zoo):
    """With ZOO_HOOKS_LOG=1, and by zoo_hooks.log() at any time; else nothing is written."""
    zoo.module("fake")
    zoo.patch("fake")
    line = f"zoo-hooks {zoo_hooks.__version__}: 1 repair active in fake\n"
    for code, log, said in (
        ("import fake", "1", line),
        ("import fake", "", ""),
        ("import fake; zoo_hooks.log()", "0", line),
        ("import json", "1", ""),
    ):
        done = child(zoo.preamble + code, ZOO_HOOKS_LOG=log)
        assert (done.stdout, done.stderr) == ("", said), code
    done = child(zoo.preamble + "import fake; print(fake.value)", ZOO_HOOKS_LOG="perhaps")
    assert done.stdout == "2\n"
    assert "ZOO_HOOKS_LOG: 'perhaps' is neither 1 nor 0" in done.stderr


def test_strict_mode_raises_out_of_the_import(zoo):
    """ZOO_HOOKS_STRICT=1 turns a failed patch into an error with its cause."""
    zoo.module("fake")
    zoo.patch("fake", source=broken_patch(repair="raise KeyError('gone')"))
    code = """
        try:
            import fake
        except Exception as error:
            print(type(error).__name__, error, type(error.__cause__).__name__)
    """
    said = zoo.run(code, ZOO_HOOKS_STRICT="1")
    assert said.startswith("PatchFailed zoo-hooks: fake/bug was not repaired: repair: KeyError: 'gone'")
    assert said.endswith(" KeyError\n")
    assert zoo.run("import fake; print(fake.value)") == "1\n"


def test_a_dry_run_probes_and_changes_nothing(zoo):
    """The report says what would be repaired."""
    zoo.module("fake")
    zoo.patch("fake")
    assert zoo.run("import fake; print(fake.value)", ZOO_HOOKS="dry-run") == "1\n"
    assert outcome(zoo, "bug", ZOO_HOOKS="dry-run")[0] == "DRY_RUN"


@pytest.mark.parametrize(("words", "value"), [("bug", 2), ("b*", 2), ("-bug", 1), ("cache-*", 1)])
def test_patches_can_be_selected(zoo, words, value):
    """Only these, or all but these."""
    zoo.module("fake")
    zoo.patch("fake")
    assert zoo.run("import fake; print(fake.value)", ZOO_HOOKS=words) == f"{value}\n"


def test_a_variable_set_in_the_script_is_obeyed(zoo):
    """ZOO_HOOKS is read when the target is imported, not only at start."""
    zoo.module("fake")
    zoo.patch("fake")
    code = "import os; os.environ['ZOO_HOOKS'] = '0'; import fake; print(fake.value)"
    assert zoo.run(code) == "1\n"
    assert outcome(zoo, "bug", code)[:2] == ["SKIPPED", "switched off by ZOO_HOOKS"]


def test_a_patch_with_when_before_acts_only_while_the_body_runs(zoo):
    """A stand-in module lets the body import what is missing, and is gone afterwards."""
    zoo.module("fake.core", "import fake.missing\nvalue = fake.missing.answer\n")
    zoo.patch("fake.core", source=PROVIDE)
    code = """
        import importlib.util
        assert importlib.util.find_spec("fake.missing") is None
        import fake.core
        assert fake.core.value == 42
        assert "fake.missing" not in sys.modules and not hasattr(fake, "missing")
        assert importlib.util.find_spec("fake.missing") is None
    """
    assert outcome(zoo, "bug", code)[0] == "APPLIED"
    assert outcome(zoo, "bug", "import fake", ZOO_HOOKS="dry-run")[0] == "PENDING"


def test_what_stood_in_is_gone_after_a_body_that_raises(zoo):
    """The body's own error comes through, and the stand-in does not stay."""
    zoo.module("fake.core", "import fake.missing\nraise OSError('mine')\n")
    zoo.patch("fake.core", source=PROVIDE)
    code = """
        try:
            import fake.core
        except OSError as error:
            print(error)
        assert "fake.missing" not in sys.modules
    """
    assert zoo.run(code) == "mine\n"


PROVIDE = '''
"""A module is missing."""

import importlib.util
import types

from zoo_hooks.model import Figure, Patch, Verdict


def probe(module):
    import sys

    there = "fake.missing" in sys.modules or importlib.util.find_spec("fake.missing")
    return Verdict.FIXED if there else Verdict.AFFECTED


def repair(module, changes):
    stand_in = types.ModuleType("fake.missing")
    stand_in.answer = 42
    changes.provide("fake.missing", stand_in)


PATCH = Patch(
    module=__name__, title="a module is missing", targets=("fake.core",), affects=(), links=(),
    severity="crash", measures="", probe=probe, repair=repair, canary=lambda: Figure(0, healthy=True),
    when="before",
)
'''


@pytest.mark.parametrize("order", ["import left, right", "import right, left"])
def test_a_patch_between_two_upstreams_works_in_either_order(zoo, order):
    """It waits for the other one, and is PENDING as long as that is not imported."""
    zoo.module("left", "value = 1")
    zoo.module("right", "needed = True")
    more = 'requires=("left", "right"),'
    source = PATCH.format(target="left", upstream="left", more=more)
    source = source.replace("targets=('left',)", "targets=('left', 'right')")
    source = source.replace("module.value", "sys.modules['left'].value").replace(
        "changes.replace(module,", "changes.replace(sys.modules['left'],"
    )
    zoo.patch("left", source=source.replace("from zoo_hooks", "import sys\n\nfrom zoo_hooks", 1))
    zoo.targets["right"] = ""
    assert zoo.run(f"{order}; print(left.value)") == "2\n"
    assert outcome(zoo, "bug", order)[0] == "APPLIED"
    assert outcome(zoo, "bug", "import left")[:2] == ["PENDING", "waits for right"]


def test_a_reload_is_repaired_again(zoo):
    """The reloaded body brought the bug back; the patch runs again."""
    zoo.module("fake")
    zoo.patch("fake")
    code = """
        import importlib, fake
        before = fake.value
        importlib.reload(fake)
        print(before, fake.value)
    """
    assert zoo.run(code) == "2 2\n"


def test_a_reload_never_wraps_twice_what_lies_outside_the_target(zoo):
    """Also where the probe reads only source, and so says AFFECTED once more."""
    zoo.module("fake", "import other\nvalue = 1\n")
    zoo.module("other", "def answer():\n    return 1\n")
    source = broken_patch(
        probe="return Verdict.AFFECTED",
        repair="changes.wrap(__import__('other'), 'answer', lambda f: lambda: f() + 1)",
    )
    zoo.patch("fake", source=source.replace("canary=canary,", "canary=canary, behavioural=False,"))
    code = """
        import importlib, fake, other
        importlib.reload(fake)
        once = other.answer()
        zoo_hooks.revert("bug")
        print(once, other.answer())
    """
    assert zoo.run(code) == "2 1\n"


def test_a_module_executed_by_hand_outside_sys_modules_disturbs_nothing(zoo):
    """A private copy leaves the imported one and its outcome as they are."""
    zoo.module("fake")
    zoo.patch("fake")
    code = """
        import importlib.util, fake
        spec = importlib.util.find_spec("fake")
        spec = importlib.util.spec_from_file_location("fake", spec.origin)
        private = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(private)
        print(fake.value)
    """
    assert zoo.run(code) == "2\n"
    assert outcome(zoo, "bug", code)[0] == "APPLIED"


def test_a_broken_installation_lets_the_import_through_with_one_warning(zoo):
    """The engine itself cannot be imported: targets load, and one line says so."""
    zoo.module("fake.a")
    zoo.module("fake.b")
    zoo.patch("fake.a")
    zoo.patch("fake.b", "other")
    code = """
        sys.modules["zoo_hooks.model"] = None
        import fake.a, fake.b
        print(fake.a.value, fake.b.value)
    """
    run = child(zoo.preamble + textwrap.dedent(code))
    assert run.stdout == "1 1\n"
    assert run.stderr.count("zoo-hooks cannot work and repairs nothing") == 1


def test_somebody_elses_repair_is_seen_and_left_alone(zoo):
    """Another tool has mended the attribute before us: our probe sees that."""
    zoo.module("fake", "value = 1\nimport other_tool\n")
    zoo.module("other_tool", "import sys\nsys.modules['fake'].value = 7\n")
    zoo.patch("fake")
    assert outcome(zoo, "bug", "import fake; assert fake.value == 7")[0] == "NOT_NEEDED"


def test_a_keyboard_interrupt_in_a_repair_rolls_back_and_comes_through(zoo):
    """What the user asks for is not swallowed, and nothing half-made stays."""
    zoo.module("fake", "import sys\nvalue = 1\nsys.held = sys.modules[__name__]\n")
    body = "changes.replace(module, 'value', 9); import signal; signal.raise_signal(signal.SIGINT)"
    zoo.patch("fake", source=broken_patch(repair=body))
    code = """
        try:
            import fake
        except KeyboardInterrupt:
            print("interrupted", sys.held.value)
    """
    assert zoo.run(code) == "interrupted 1\n"
