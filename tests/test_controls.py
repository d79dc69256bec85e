"""activate, revert, disabled, report and fingerprint, as users call them."""

from __future__ import annotations

import json
import re

import pytest
from conftest import PATCH

import zoo_hooks


@pytest.fixture(autouse=True)
def fake(zoo):
    zoo.module("fake.core", "value = 1\n\ndef double(x):\n    return x\n")
    zoo.patch("fake.core")


def test_activate_repairs_what_was_imported_before(zoo):
    """As in a notebook whose kernel ran before the installation; the report says that it came late."""
    code = """
        import zoo_hooks
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "zoo_hooks"]
        import fake.core
        before = fake.core.value, zoo_hooks.report()["bug"].status.name
        row = zoo_hooks.activate()["bug"]
        print(*before, fake.core.value, row.status.name, row.late, zoo_hooks.installed())
        print(zoo_hooks.activate()["bug"] == row)
    """
    assert zoo.run(code) == "1 PENDING 2 APPLIED True True\nTrue\n"


def test_activate_obeys_the_off_switch(zoo):
    """ZOO_HOOKS=0 wins over the call."""
    code = """
        import fake.core
        row = zoo_hooks.activate()["bug"]
        print(row.status.name, row.late, fake.core.value, zoo_hooks.installed())
    """
    assert zoo.run(code, ZOO_HOOKS="0") == "SKIPPED False 1 False\n"


def test_a_late_activate_cannot_run_a_patch_that_acts_before_the_body(zoo):
    """The report says so, instead of sending the user to activate()."""
    zoo.module("fake.early")
    zoo.patch("fake.early", "early", more='when="before",')
    code = """
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "zoo_hooks"]
        import fake.early
        row = zoo_hooks.activate()["early"]
        print(row.status.name, row.reason)
    """
    assert zoo.run(code) == "PENDING imported before zoo-hooks could see it; too late for this patch\n"


def test_reverting_a_patch_that_acts_before_the_body_shows_in_the_report(zoo):
    """There is nothing to undo, but it is switched off for what comes, and disabled() ends."""
    zoo.module("fake.early", "")
    source = PATCH.format(target="fake.early", upstream="fake", more='when="before",')
    source = source.replace("module.value == 1", "not hasattr(module, 'value')")
    zoo.patch("fake.early", "early", source)
    code = """
        import importlib, fake.early
        seen = [zoo_hooks.report()["early"].status.name]
        with zoo_hooks.disabled("early"):
            seen.append(zoo_hooks.report()["early"].status.name)
        seen.append(zoo_hooks.report()["early"].status.name)
        zoo_hooks.revert("early")
        importlib.reload(fake.early)
        print(*seen, zoo_hooks.report()["early"].status.name)
    """
    assert zoo.run(code) == "APPLIED SKIPPED APPLIED SKIPPED\n"


def test_a_report_of_a_module_that_was_missed_says_what_to_do(zoo):
    """The reason names activate()."""
    code = """
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != "zoo_hooks"]
        import fake.core
        print(zoo_hooks.report()["bug"].reason)
    """
    said = "imported before zoo-hooks could see it; zoo_hooks.activate() repairs it\n"
    assert zoo.run(code) == said


def test_revert_undoes_and_activate_repairs_again(zoo):
    """A reload in between stays as upstream has it."""
    code = """
        import importlib, fake.core
        zoo_hooks.revert("bug")
        print(fake.core.value, zoo_hooks.report()["bug"].status.name)
        importlib.reload(fake.core)
        print(fake.core.value)
        print(zoo_hooks.activate()["bug"].status.name, fake.core.value)
    """
    assert zoo.run(code) == "1 SKIPPED\n1\nAPPLIED 2\n"


def test_revert_before_the_import_keeps_the_patch_away(zoo):
    """Nothing is applied to a module that comes later."""
    assert zoo.run("zoo_hooks.revert('bug'); import fake.core; print(fake.core.value)") == "1\n"


def test_revert_says_that_it_cannot_and_changes_nothing(zoo):
    """Somebody else has changed the same attribute after us."""
    code = """
        import fake.core
        fake.core.value = 3
        try:
            zoo_hooks.revert("bug")
        except RuntimeError as error:
            print(type(error).__name__, error)
        print(fake.core.value, zoo_hooks.report()["bug"].status.name)
    """
    said = zoo.run(code).splitlines()
    assert said[0].startswith("CannotRevert fake.core.value has since been changed by other code")
    assert said[1] == "3 APPLIED"


def test_disabled_is_an_ab_run(zoo):
    """Inside the block as upstream has it, outside repaired; nested blocks are one."""
    code = """
        import fake.core
        seen = [fake.core.value]
        with zoo_hooks.disabled("bug"):
            seen.append(fake.core.value)
            with zoo_hooks.disabled("bug"):
                seen.append(fake.core.value)
            seen.append(fake.core.value)
            status = zoo_hooks.report()["bug"].status.name
        print(*seen, fake.core.value, status, zoo_hooks.report()["bug"].status.name)
    """
    assert zoo.run(code) == "2 1 1 1 2 SKIPPED APPLIED\n"


def test_activate_inside_a_disabled_block_leaves_the_patch_undone(zoo):
    """Also where another thread calls it; the block's end repairs once, and revert() undoes that."""
    code = """
        import fake.core, threading
        seen = []
        with zoo_hooks.disabled("bug"):
            thread = threading.Thread(target=zoo_hooks.activate)
            thread.start(); thread.join()
            seen += fake.core.value, zoo_hooks.activate()["bug"].status.name
        seen += fake.core.value, zoo_hooks.report()["bug"].status.name
        zoo_hooks.revert("bug")
        with zoo_hooks.disabled("bug"):
            pass
        print(*seen, fake.core.value, zoo_hooks.activate()["bug"].status.name, fake.core.value)
    """
    assert zoo.run(code) == "1 SKIPPED 2 APPLIED 1 APPLIED 2\n"


def test_disabled_blocks_of_two_threads_end_with_the_last(zoo):
    """The repair is back when no block is open any more."""
    code = """
        import fake.core
        one, other = zoo_hooks.disabled("bug"), zoo_hooks.disabled("bug")
        one.__enter__(); other.__enter__()
        one.__exit__(None, None, None)
        between = fake.core.value
        other.__exit__(None, None, None)
        print(between, fake.core.value)
    """
    assert zoo.run(code) == "1 2\n"


OVERWRITTEN = """
    import fake.both
    def replaced(): return "-"
    def wrapped(inner=fake.both.shown): return inner() + "+"
    wrapped.__wrapped__ = fake.both.shown
    fake.both.shown = {name}
    row = zoo_hooks.report()["a"]
    print(row.status.name, "activate" in row.reason, zoo_hooks.fingerprint().endswith("nothing-applied"))
    print(zoo_hooks.activate()["a"].status.name, fake.both.shown(), zoo_hooks.report()["a"].status.name)
"""


@pytest.mark.parametrize("behavioural", [True, False])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("replaced", "OVERWRITTEN True True\nAPPLIED -A APPLIED\n"),
        ("wrapped", "APPLIED False False\nAPPLIED -A+ APPLIED\n"),
    ],
)
def test_a_repair_that_other_code_has_overwritten_says_so_and_comes_back(zoo, name, said, behavioural):
    """As Liger and unsloth replace methods after an import. Who wraps ours leaves it in force."""
    zoo.module("fake.both", "def shown():\n    return '-'\n")
    more = "" if behavioural else "behavioural=False, "
    zoo.patch("fake.both", "a", WRAPS.replace("MARK", "A").replace("measures=", f"{more}measures="))
    assert zoo.run(OVERWRITTEN.format(name=name)) == said


@pytest.mark.parametrize(
    ("new", "said"), [("2", "APPLIED 2 3"), ("module.value + 1", "UNKNOWN 3 3")], ids=["mends it", "does not"]
)
def test_code_that_the_probe_does_not_know_has_overwritten_a_repair_too(zoo, new, said):
    """It is not taken for a repair that still acts; activate() repairs it if that shows."""
    zoo.module("fake.core")
    knows = "return {1: Verdict.AFFECTED, 2: Verdict.FIXED}.get(module.value, Verdict.UNKNOWN)"
    source = PATCH.format(target="fake.core", upstream="fake", more="")
    source = source.replace('"value", 2)', f'"value", {new})')
    zoo.patch("fake.core", source=re.sub(r"return Verdict.AFFECTED .*", knows, source, count=1))
    code = """
        import fake.core
        fake.core.value = 3
        print(zoo_hooks.report()["bug"].status.name, zoo_hooks.activate()["bug"].status.name, fake.core.value)
        zoo_hooks.revert("bug")
        print(fake.core.value)
    """
    assert zoo.run(code).split() == ["OVERWRITTEN", *said.split()]


def test_a_repair_that_is_overwritten_in_part_is_made_anew_once(zoo):
    """What is still ours is undone first, so that nothing is wrapped twice."""
    zoo.module("fake.both", "def shown():\n    return '-'\ndef other():\n    return '-'\n")
    source = WRAPS.replace("MARK", "A")
    repair = next(line for line in source.splitlines() if "changes.wrap" in line)
    both = [repair, repair.replace('"shown"', '"other"')]
    zoo.patch("fake.both", "a", source.replace(repair, "\n".join(both)))
    code = """
        import fake.both
        fake.both.shown = lambda: "-"
        zoo_hooks.activate()
        print(fake.both.shown(), fake.both.other())
        zoo_hooks.revert("a")
        print(fake.both.shown(), fake.both.other())
    """
    assert zoo.run(code) == "-A -A\n- -\n"


def test_a_patch_that_waits_for_an_upstream_says_that_and_not_that_it_was_missed(zoo):
    """One of its targets has been imported, the upstream with which it stands has not."""
    zoo.module("left")
    zoo.module("right")
    source = PATCH.format(target="left", upstream="left", more='requires=("left", "right"),')
    zoo.patch("left", "pair", source.replace("targets=('left',)", "targets=('left', 'right')"))
    zoo.targets["right"] = ""
    code = """
        import importlib.metadata, right
        print(zoo_hooks.report()["pair"].reason, "/", zoo_hooks.activate()["pair"].reason)
    """
    info = zoo.folder / "site" / "left-1.dist-info"
    assert zoo.run(code) == "left is not installed / left is not installed\n"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: left\nVersion: 1\n")
    assert zoo.run(code) == "waits for left / waits for left\n"


def test_disabled_ends_when_the_block_raises(zoo):
    """The error comes through, and the repair is back."""
    code = """
        import fake.core
        try:
            with zoo_hooks.disabled("bug"):
                raise OSError("mine")
        except OSError as error:
            print(error, fake.core.value)
    """
    assert zoo.run(code) == "mine 2\n"


def test_a_target_imported_in_a_disabled_block_is_repaired_at_its_end(zoo):
    """The block sees upstream's own module, the rest of the process the repaired one."""
    code = """
        with zoo_hooks.disabled("bug"):
            import fake.core
            inside = fake.core.value
        print(inside, fake.core.value, zoo_hooks.report()["bug"].status.name)
    """
    assert zoo.run(code) == "1 2 APPLIED\n"


WRAPS = """
from zoo_hooks.model import Figure, Patch, Verdict

def probe(module):
    return Verdict.FIXED if "MARK" in module.shown() else Verdict.AFFECTED

def repair(module, changes):
    changes.wrap(module, "shown", lambda original: lambda: original() + "MARK")

PATCH = Patch(
    module=__name__, title="no MARK", severity="crash", targets=("fake.both",), affects=("fake<2",), links=(),
    measures="MARK", probe=probe, repair=repair, canary=lambda: Figure(1, healthy=True),
)
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("with disabled('a'): show()", ["B", "AB"]),
        ("with disabled('b'): show()", ["A", "AB"]),
        ("with disabled('a'), disabled('b'): show()", ["-", "AB"]),
        ("with disabled('b'), disabled('a'): show()", ["-", "AB"]),
        ("revert('a'); show(); revert('b'); show(); activate()", ["B", "-", "AB"]),
        ("revert('b'); show(); revert('a'); show(); activate()", ["A", "-", "AB"]),
        ("revert('a'); show(); activate()", ["B", "BA"]),
        (
            """
from contextlib import ExitStack
one, other = ExitStack(), ExitStack()
one.enter_context(disabled('a')); other.enter_context(disabled('b')); show()
one.close(); show(); other.close()
""",
            ["-", "A", "AB"],
        ),
    ],
)
def test_two_patches_that_wrap_one_function_are_undone_in_any_order(zoo, code, expected):
    """Each goes and comes back by itself, whichever lies below."""
    zoo.module("fake.both", "def shown():\n    return '-'\n")
    for mark in "AB":
        zoo.patch("fake.both", mark.lower(), WRAPS.replace("MARK", mark))
    show = "def show(): print(fake.both.shown()[1:] or '-', end=' ')\n"
    begin = "import fake.both\nfrom zoo_hooks import activate, disabled, revert\n"
    assert zoo.run(f"{begin}{show}{code}\nshow()").split() == expected


@pytest.mark.parametrize("call", ["revert('bgu')", "disabled('bgu').__enter__()", "report()['bgu']"])
def test_a_wrong_id_names_the_near_ones(zoo, call):
    """One clear error, and nothing is lost."""
    code = f"""
        import fake.core
        try:
            zoo_hooks.{call}
        except LookupError as error:
            print(error)
        print(fake.core.value)
    """
    assert zoo.run(code) == "no patch is called 'bgu'; did you mean fake/bug?\n2\n"


def test_the_report_is_a_table_and_an_html_table(zoo):
    """The summary, and what needs eyes; plain without colour, HTML escaped, with links and colours."""
    code = """
        import fake.core
        report = zoo_hooks.report()
        print(report)
        print(report._repr_html_())
        print(len(report), len(list(report)), report.summary() == str(report).splitlines()[0])
    """
    said = zoo.run(code)
    assert "\x1b" not in said
    line = next(line for line in said.splitlines() if line.startswith("fake/bug"))
    assert line.split()[:3] == ["fake/bug", "APPLIED", "no"]
    assert '<a href="https://example.org/1">fake/bug</a>' in said
    assert said.count("<tr>") == 2
    assert "#1a7f37" in said
    assert re.search(r"^(\d+) \1 True$", said, flags=re.MULTILINE)


def test_the_config_of_a_run_holds_plain_strings(zoo):
    """Version, mode, ids, fingerprint: what experiment trackers take."""
    code = """
        import json
        import fake.core
        print(json.dumps([zoo_hooks.config(), zoo_hooks.fingerprint()]))
    """
    for mode, applied in (("on", "fake/bug"), ("dry-run", ""), ("off", "")):
        found, fingerprint = json.loads(zoo.run(code, ZOO_HOOKS="" if mode == "on" else mode))
        assert found == {
            "zoo_hooks_version": zoo_hooks.__version__,
            "zoo_hooks_mode": mode,
            "zoo_hooks_applied": applied,
            "zoo_hooks_fingerprint": fingerprint,
        }


def test_the_fingerprint_names_what_is_applied(zoo):
    """It is the same in two processes with the same repairs, holds our version, and is never that of off."""
    code = "import fake.core; print(zoo_hooks.fingerprint())"
    first, second = zoo.run(code), zoo.run(code)
    assert first == second
    version, digits = first.strip().split("-")
    assert (version, len(digits)) == (zoo_hooks.__version__, 16)
    others = {word: zoo.run(code, ZOO_HOOKS=word).strip() for word in ("-bug", "0", "dry-run")}
    assert others == {
        "-bug": f"{version}-nothing-applied",
        "0": f"{version}-off",
        "dry-run": f"{version}-dry-run",
    }


def test_a_fingerprint_before_the_imports_says_so_loudly(zoo):
    """One warning, and a word in place of the digits; no warning after an import of what is right."""
    zoo.module("fake.right", "value = 3")
    zoo.patch("fake.right", "mended")
    code = """
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        {first}
        print(zoo_hooks.fingerprint(), zoo_hooks.fingerprint())
    """
    words = f"{zoo_hooks.__version__}-nothing-applied"
    early = zoo.run(code.format(first=""))
    assert early.startswith("WARNING zoo-hooks: fingerprint() was called before any library")
    assert early.endswith(f"\n{words} {words}\n")
    assert zoo.run(code.format(first="import fake.right")) == f"{words} {words}\n"


def test_the_fingerprint_follows_the_upstreams_version(zoo):
    """A new release of the upstream is a new digest."""
    prints = []
    for version in ("1.0", "1.1"):
        info = zoo.folder / "site" / "fake-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake\nVersion: {version}\n")
        prints.append(zoo.run("import fake.core; print(zoo_hooks.fingerprint())"))
    assert prints[0] != prints[1]


def test_public_names_come_lazily(zoo):
    """``import zoo_hooks`` loads nothing more; each public name is there when it is asked for."""
    code = """
        loaded = {name for name in sys.modules if "zoo_hooks." in name}
        assert loaded == {"zoo_hooks.patches", "zoo_hooks.targets"}
        assert {"report", "activate", "revert", "disabled", "fingerprint"} <= set(dir(zoo_hooks))
        for name in zoo_hooks.__all__:
            assert callable(getattr(zoo_hooks, name)) or name == "distributed"
        try:
            zoo_hooks.nonsense
        except AttributeError as error:
            print(error)
    """
    assert zoo.run(code) == "module 'zoo_hooks' has no attribute 'nonsense'\n"
