"""The command line, on fake upstreams, as users run it: in a child, piped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ATLAS, PATCH

import zoo_hooks
from zoo_hooks import catalogue
from zoo_hooks.tool import terminal


@pytest.fixture
def run(zoo):
    """Run the command with the fakes known to it and to its children."""
    info = zoo.folder / "site" / "fake-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.5\n")

    def command(*arguments, also="", **variables):
        (zoo.folder / "site" / "sitecustomize.py").write_text(zoo.preamble + also)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_HOOKS")}
        return subprocess.run(
            [sys.executable, "-m", "zoo_hooks", *arguments],
            env=clean | {"PYTHONPATH": str(zoo.folder / "site")} | variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return command


@pytest.fixture
def affected(zoo, run):
    zoo.module("fake.core")
    zoo.patch("fake.core")


BODY = PATCH.format(target="fake.core", upstream="fake", more="")
LYING = BODY.replace('changes.replace(module, "value", 2)', 'changes.replace(module, "value", 3)')
RAISING = BODY.replace('changes.replace(module, "value", 2)', "raise ValueError('odd')")
UNSURE = BODY.replace("Verdict.AFFECTED if module.value == 1 else Verdict.FIXED", "Verdict.UNKNOWN")
EAGER = BODY.replace("healthy=value == 2", "healthy=True")


@pytest.mark.usefixtures("affected")
def test_status_shows_each_patch_with_version_status_and_reason(run):
    """Found by importing the target in a child; readable when piped."""
    done = run("status", "fake", "cache-static-zero-shared", COLUMNS="200")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("fake/bug"))
    assert line.split() == ["fake/bug", "APPLIED", "1.5", "value", "is", "1", "fake>=2"]
    assert "transformers/cache-static-zero-shared" in done.stdout


@pytest.mark.usefixtures("affected")
def test_status_begins_with_the_answer_and_shows_what_needs_eyes(run, zoo):
    """What is not needed is shown on request, and what is not installed only by its name."""
    zoo.patch("fake.core", name="another", source=BODY.replace("module.value == 1", "module.value == 7"))
    done, whole = run("status"), run("status", "--all")
    first = done.stdout.splitlines()[0]
    assert re.match(r"[1-9] repaired, [1-9] not needed, 0 failed", first)
    assert "are for libraries that are not installed" in first
    shown = [line.split()[0] for line in done.stdout.splitlines() if "/" in line.partition(" ")[0]]
    assert "fake/bug" in shown
    assert "fake/another" not in shown
    assert re.search(r"\n--all shows [1-9] more\n$", done.stdout)
    assert "fake/another" in whole.stdout
    assert "transformers/" not in whole.stdout


@pytest.mark.usefixtures("affected")
def test_in_a_narrow_window_details_stand_under_their_headline(run):
    """No cell is folded, and no line is longer than the window."""
    narrow = run("status", "bug", COLUMNS="60").stdout.splitlines()
    assert "fake/bug  APPLIED  1.5" in narrow
    assert "    value is 1; fixed in: fake>=2" in narrow
    assert max(map(len, run("list", COLUMNS="60").stdout.splitlines())) <= 60


def test_status_of_one_patch_imports_only_its_targets(run, zoo):
    """Another target, which ends the process, is left alone."""
    zoo.module("fake.core")
    zoo.module("fake.deadly", "import os\nos._exit(7)\n")
    zoo.patch("fake.core")
    zoo.patch("fake.deadly", name="other")
    (row,) = json.loads(run("status", "bug", "--json").stdout)["patches"]
    assert row["status"] == "APPLIED"


@pytest.mark.usefixtures("affected")
def test_status_says_which_module_a_release_does_not_have(run, zoo):
    """In words, not as the error of an import."""
    zoo.patch("fake.later", name="later")
    (row,) = json.loads(run("status", "later", "--json").stdout)["patches"]
    assert (row["status"], row["reason"]) == ("PENDING", "fake 1.5 has no fake.later")


@pytest.mark.usefixtures("affected")
def test_status_as_json_and_for_one_patch(run):
    """The same rows for programs; ids narrow them."""
    told = json.loads(run("status", "bug", "--json").stdout)
    assert told["start_up"] is None
    assert told["misfits"] == []
    (row,) = told["patches"]
    assert (row["id"], row["version"], row["status"]) == ("fake/bug", "1.5", "APPLIED")
    assert row["fixed_in"] == ["fake>=2"]


@pytest.mark.parametrize(
    ("affects", "fixed_in", "told"),
    [
        (("fake>=1", "zoo-other<3"), ["zoo-other>=3"], "zoo-other>=3"),
        (("fake<2", "zoo-other<3"), ["fake>=2", "zoo-other>=3"], "fake>=2 or zoo-other>=3"),
        (("fake>=1", "zoo-other>=2"), [], "no release yet"),
        (("fake>=1", "zoo-other<2"), ["zoo-other>=2"], "zoo-other>=2 (2.0 is installed)"),
    ],
    ids=["other-behind", "both-behind", "open", "upgraded-already"],
)
def test_status_says_which_side_of_a_pair_is_behind(run, zoo, affects, fixed_in, told):
    """And which upgrade retires the patch; one that is there already is not asked for."""
    info = zoo.folder / "site" / "zoo_other-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-other\nVersion: 2.0\n")
    zoo.module("fake.core")
    zoo.module("zoo_other.core")
    zoo.targets["zoo_other.core"] = ""
    pair = BODY.replace("('fake.core',)", "('fake.core', 'zoo_other.core')")
    pair = pair.replace('("fake<2",)', f"{affects!r}, requires=('fake.core', 'zoo_other.core')")
    zoo.patch("fake.core", source=pair)
    (row,) = json.loads(run("status", "bug", "--json").stdout)["patches"]
    assert (row["status"], row["fixed_in"]) == ("APPLIED", fixed_in)
    wide = run("status", "bug", COLUMNS="200").stdout
    line = next(line for line in wide.splitlines() if line.startswith("fake/bug"))
    assert line.split() == ["fake/bug", "APPLIED", "1.5", "value", "is", "1", *told.split()]


@pytest.mark.usefixtures("affected")
def test_status_names_a_pair_that_cannot_work_together(run, zoo):
    """What an upstream says that it needs, what is there instead, and what to install."""
    (zoo.folder / "site" / "fake-1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fake\nVersion: 1.5\nRequires-Dist: wrapt<1\n"
    )
    done = run("status", "bug")
    assert done.returncode == 0
    assert "fake 1.5 does not work with wrapt" in done.stderr
    assert "pip install 'wrapt<1'" in done.stderr


def test_status_explains_a_target_that_cannot_be_imported(run, zoo):
    """The upstream's own error is the reason."""
    zoo.module("fake.core", "import something_absent")
    zoo.patch("fake.core")
    (row,) = json.loads(run("status", "bug", "--json").stdout)["patches"]
    assert row["status"] == "PENDING"
    assert row["reason"] == (
        "importing fake.core raises ModuleNotFoundError: No module named 'something_absent'"
    )


def test_status_survives_an_upstream_that_kills_the_interpreter(run, zoo):
    """The other rows are there; that one says that its child died."""
    zoo.module("fake.core", "import os\nos._exit(7)\n")
    zoo.patch("fake.core")
    rows = {row["id"]: row for row in json.loads(run("status", "--json").stdout)["patches"]}
    assert rows["fake/bug"]["status"] == "UNKNOWN"
    assert "exit status 7" in rows["fake/bug"]["reason"]
    assert rows["transformers/cache-static-zero-shared"]["status"] == "PENDING"


@pytest.mark.usefixtures("affected")
def test_verify_shows_the_figure_without_and_with(run):
    """Wrong without, right with: repaired, and exit status 0."""
    done = run("verify", "bug", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["patches"]
    assert (row["without"], row["with"], row["result"]) == (1, 2, "repaired")
    said = run("verify", "bug", COLUMNS="200").stdout.splitlines()
    assert said[0].startswith("1 repaired, 0 not needed, 0 failed; ")
    line = next(line for line in said if line.startswith("fake/bug"))
    assert line.split() == ["fake/bug", "repaired", "1", "2", "the", "value", "(expected:", "2)"]


def test_verify_of_a_right_release_says_that_nothing_is_needed(run, zoo):
    """Right in both: not needed, and exit status 0."""
    zoo.module("fake.core", "value = 2")
    zoo.patch("fake.core")
    done = run("verify", "bug", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["patches"][0]["result"] == "not needed"


def test_verify_imports_all_targets_of_a_canary_that_runs_elsewhere(run, zoo):
    """One of them may be there already, through another canary."""
    for name in ("fake.core", "fake.other"):
        zoo.module(name)
    here = "value = importlib.import_module(PATCH.targets[0]).value"
    elsewhere = "import fake.other; value = 1 if __import__('os').environ.get('ZOO_HOOKS') == '0' else 2"
    source = BODY.replace(here, elsewhere).replace("('fake.core',)", "('fake.core', 'fake.other')")
    assert source.count("fake.other") == 2
    zoo.patch("fake.core", source=source)
    done = run("verify", "bug", "--json")
    assert json.loads(done.stdout)["patches"][0]["result"] == "repaired"


def test_verify_tells_a_bug_from_another_that_hides_it(run, zoo):
    """Wrong without hooks because its package cannot be imported, which another patch repairs."""
    zoo.module("fake.first")
    zoo.module("fake.core", "value = 2")
    zoo.module("fake.__init__", "from fake.first import value\nif value == 1: raise ImportError('one')\n")
    zoo.patch("fake.first", "first")
    zoo.patch("fake.core")
    done = run("verify", "first", "bug", "--json")
    rows = {row["id"]: row for row in json.loads(done.stdout)["patches"]}
    assert rows["fake/first"]["without"] == rows["fake/bug"]["without"] == "ImportError: one"
    assert rows["fake/first"]["result"] == "repaired"
    assert rows["fake/bug"]["result"] == "repaired by another patch"
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("source", "result"),
    [(LYING, "DOES NOT HOLD"), (RAISING, "DOES NOT HOLD"), (UNSURE, "DOES NOT HOLD"), (EAGER, "NO SYMPTOM")],
)
def test_verify_exits_with_1_where_a_repair_does_not_hold(run, zoo, source, result):
    """The canary decides, not the ledger; a repair without a symptom is wrong too."""
    zoo.module("fake.core")
    zoo.patch("fake.core", source=source)
    done = run("verify", "bug", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["patches"][0]["result"] == result


def test_the_two_sides_of_verify_share_no_temporary_files(run, zoo):
    """MLX compiles kernels into that folder, and one side would load what the other has half written."""
    zoo.module("fake.core")
    zoo.patch(
        "fake.core", source=BODY.replace("Figure(value,", "Figure(__import__('tempfile').gettempdir(),")
    )
    (row,) = json.loads(run("verify", "bug", "--json").stdout)["patches"]
    assert row["without"] != row["with"]
    assert not Path(row["without"]).exists()


def test_verify_says_what_cannot_run_here(run):
    """A missing upstream is no failure."""
    done = run("verify", "transformers/cache-static-zero-shared", PYTHONNOUSERSITE="1")
    if "repaired" not in done.stdout and "not needed" not in done.stdout:
        assert "cannot run here" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("needed", ["fake.core", "fake.absent"])
def test_verify_names_a_module_that_a_patch_waits_for_in_vain(run, zoo, needed):
    """Wrong in both, for the release lacks it: no failure. Wrong with all that is needed: one."""
    zoo.module("fake.core")
    zoo.patch("fake.core", source=LYING.replace("measures=", f"requires=({needed!r},), measures="))
    done = run("verify", "bug", "--json")
    (row,) = json.loads(done.stdout)["patches"]
    absent = "cannot run here: no module named fake.absent"
    assert (row["result"], done.returncode) == ((absent, 0) if "absent" in needed else ("DOES NOT HOLD", 1))


@pytest.mark.parametrize(("source", "status"), [(BODY, 0), (RAISING, 1), (UNSURE, 1)])
def test_check_is_for_ci(run, zoo, source, status):
    """Exit status 1 on FAILED or UNKNOWN, with the rows that are to blame."""
    zoo.module("fake.core")
    zoo.patch("fake.core", source=source)
    done = run("check", "bug")
    assert done.returncode == status
    assert ("bug" in done.stdout) == bool(status)
    assert done.stdout.startswith(f"{1 - status} repaired, 0 not needed, {int(source == RAISING)} failed")
    told = run("check", "bug", "--json")
    assert told.returncode == status
    assert json.loads(told.stdout)["counts"]["applied"] == 1 - status
    assert json.loads(told.stdout)["versions"]["fake"] == "1.5"


@pytest.mark.usefixtures("affected")
def test_check_requires_what_it_is_told_to(run, zoo):
    """Exit status 1 where a required patch is not applied, with the reason."""
    zoo.patch("fake.later", name="later")
    assert run("check", "--require", "fake/bug").returncode == 0
    done = run("check", "bug", "--require", "later")
    assert done.returncode == 1
    assert done.stderr == "zoo-hooks: fake/later is PENDING: fake 1.5 has no fake.later\n"


def test_check_says_that_nothing_applies_here(run, zoo):
    """Rather than that nothing failed."""
    zoo.patch("absent.core")
    done = run("check", "absent")
    assert done.stdout == "0 of 1 apply here: none of absent is installed\n"
    assert done.returncode == 0


@pytest.mark.usefixtures("affected")
def test_list_and_show_give_the_record(run):
    """Severity, the releases that are claimed and measured, the links and the case report."""
    listed = run("list", COLUMNS="250").stdout.splitlines()
    line = next(line for line in listed if line.startswith("fake/bug"))
    assert line.split() == ["fake/bug", "crash", "value", "is", "1", "never", "measured", "fake>=2"]
    told = json.loads(run("list", "--json").stdout)
    records = {record["id"]: record for record in told["patches"]}
    assert records["fake/bug"]["targets"] == ["fake.core"]
    shown = run("show", "bug").stdout
    for part in (
        "https://example.org/1",
        "here: fake 1.5: affected; zoo-hooks repairs it",
        "Symptom\n-------",
        "Repair\n------",
    ):
        assert part in shown
    assert json.loads(run("show", "bug", "--json").stdout) == {"schema": 1} | records["fake/bug"]


@pytest.mark.usefixtures("affected")
def test_ids_may_be_patterns_in_any_case_and_several(run, zoo):
    """For all commands; list takes a library too."""
    zoo.patch("fake.core", name="another_one")
    for words in (["FAKE/*"], ["fake_bug".replace("_", "/"), "Another_One"], ["--upstream", "fake"]):
        told = json.loads(run("list", *words, "--json").stdout)["patches"]
        assert {record["id"] for record in told} == {"fake/bug", "fake/another-one"}, words
    shown = run("show", "bug", "another-one").stdout
    assert shown.index("fake/bug: value is 1") < shown.index("fake/another-one: value is 1")


def test_severity_first_seen_and_retired_stand_in_list_show_and_json(run):
    """The first releases on which the bug was measured, by distribution, and those that end it."""
    patch = "peft/hybrid-cache-import"
    first = ATLAS.first_seen(patch)
    words = ("crash", f"peft {first['peft']} with transformers {first['transformers']}", "peft>=0.18.0")
    assert all(word in run("show", patch).stdout for word in words)
    row = " ".join(run("list").stdout.partition(patch)[2].partition("peft/prefix")[0].split())
    assert all(part in row for word in words for part in word.split())
    record = json.loads(run("show", patch, "--json").stdout)
    assert record["severity"] == "crash"
    assert record["first_seen"] == first
    assert record["fixed_in"] == ["peft>=0.18.0"]


@pytest.mark.parametrize("command", ["status", "verify", "list", "check"])
def test_all_json_has_a_schema_version(run, command):
    """A program that reads it can tell when it has to change."""
    ids = [] if command == "list" else ["dill/free-rlock-restored-taken"]
    assert json.loads(run(command, *ids, "--json").stdout)["schema"] == 1


def test_a_word_that_is_near_no_id_gets_one_line(run):
    """With the upstreams, and the command that shows all ids: there are too many for a message."""
    done = run("show", "zzz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "patches are for accelerate, " in line
    assert line.endswith("zoo-hooks list shows all")


@pytest.mark.parametrize("command", ["status", "verify", "show", "check"])
def test_a_wrong_id_gets_a_suggestion_and_exit_status_2(run, command):
    """One line on standard error, nothing on standard output."""
    done = run(command, "cache-statc-zero-shared")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "zoo-hooks: no patch is called 'cache-statc-zero-shared'; did you mean "
        "transformers/cache-static-zero-shared or "
    )
    assert done.stderr.count("\n") == 1


def test_a_wrong_command_names_the_valid_ones(run):
    """And the nearest; exit status 2."""
    done = run("stauts")
    assert done.returncode == 2
    assert "there is no command 'stauts'; did you mean status?" in done.stderr
    for command in ("status", "verify", "list", "show", "check"):
        assert command in done.stderr


def test_a_canary_that_kills_its_child_loses_only_itself(run, zoo):
    """The other canaries are measured in the next child; that one does not hold."""
    zoo.module("fake.core")
    zoo.patch("fake.core")
    deadly = BODY.replace("value = importlib", "import os; os._exit(9); value = importlib")
    zoo.patch("fake.core", "a_deadly_one", deadly.replace("fake.core", "fake.other"))
    zoo.module("fake.other")
    rows = {row["id"]: row for row in json.loads(run("verify", "--json").stdout)["patches"]}
    assert rows["fake/a-deadly-one"]["with"] == "the process died: exit status 9"
    assert rows["fake/a-deadly-one"]["result"] == "DOES NOT HOLD"
    assert rows["fake/bug"]["result"] == "repaired"


def test_a_canary_that_hangs_is_ended(run, zoo):
    """Patience is limited; the table still comes."""
    zoo.module("fake.core")
    zoo.patch(
        "fake.core",
        source=BODY.replace("value = importlib", "import time; time.sleep(600); value = importlib"),
    )
    impatient = "import zoo_hooks.tool.survey\nzoo_hooks.tool.survey.SECONDS = 2\n"
    done = run("verify", "bug", "--json", also=impatient)
    assert json.loads(done.stdout)["patches"][0]["result"] == "DOES NOT HOLD"


@pytest.mark.usefixtures("affected")
def test_the_off_switch_is_told_of(run):
    """With ZOO_HOOKS=0 in the shell, status says so."""
    done = run("status", ZOO_HOOKS="0")
    assert "ZOO_HOOKS switches zoo-hooks off" in done.stderr
    assert re.search("[1-9] switched off", done.stdout)
    assert "SKIPPED" in run("status", "--all", ZOO_HOOKS="0").stdout


def test_without_a_command_the_state_and_the_commands_are_told(run):
    """In an environment without the start-up file, too; exit status 0."""
    done = run()
    assert done.returncode == 0
    assert done.stdout.startswith(f"zoo-hooks {zoo_hooks.__version__}: ")
    assert "active in every Python process" in done.stdout.splitlines()[0]
    assert "  doctor " in done.stdout
    assert "ZOO_HOOKS switches zoo-hooks off" in run(ZOO_HOOKS="0").stdout.splitlines()[0]


@pytest.mark.usefixtures("affected")
def test_env_is_a_block_for_an_issue(run):
    """Versions, settings, and what is repaired by what was measured or claimed."""
    said = run("env", ZOO_HOOKS_STRICT="1").stdout
    for line in (f"zoo-hooks {zoo_hooks.__version__}: active", "ZOO_HOOKS_STRICT: 1", "fake 1.5"):
        assert line in said.splitlines()
    assert "fake/bug" in said
    told = json.loads(run("env", "--json").stdout)
    assert (told["versions"]["fake"], "fake/bug" in told["repaired"]) == ("1.5", True)


def test_doctor_says_whether_a_python_is_repaired_and_why_not(run, tmp_path):
    """This one, one that has no zoo-hooks, one that is none."""
    done = run("doctor")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "this Python: zoo-hooks is active")
    assert "sitecustomize.py" in done.stdout
    off = run("doctor", ZOO_HOOKS="0")
    assert off.returncode == 1
    assert "ZOO_HOOKS switches zoo-hooks off" in off.stdout
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bare = run("doctor", "--python", str(next(tmp_path.glob("bare/[Bb]*/python*"))), PYTHONPATH="")
    assert bare.returncode == 1
    assert "zoo-hooks is not installed in the environment of" in bare.stdout
    none = run("doctor", "--python", "no-such-python")
    assert (none.returncode, none.stdout) == (2, "")
    assert "no-such-python does not answer" in none.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_doctor_looks_at_a_process_without_touching_it(run):
    """With the settings that the process has, not those of the shell."""
    for off in ("0", "1"):
        with subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=os.environ | {"ZOO_HOOKS": off}
        ) as process:
            said = run("doctor", "--pid", str(process.pid))
            process.kill()
        assert ("ZOO_HOOKS switches zoo-hooks off" in said.stdout) == (off == "0"), said
        assert said.stdout.startswith(f"process {process.pid}: ")
    gone = run("doctor", "--pid", "999999999")
    assert (gone.returncode, gone.stdout) == (2, "")


def test_the_version_is_the_packages(run):
    """--version prints it."""
    assert run("--version").stdout.strip() == zoo_hooks.__version__


@pytest.mark.usefixtures("affected")
def test_an_upstream_that_prints_does_not_disturb_the_json(run, zoo):
    """Whatever a target says on standard output while it loads stays in its child."""
    zoo.module("fake.core", "print('hello from upstream')\nvalue = 1\n")
    assert json.loads(run("verify", "bug", "--json").stdout)["patches"][0]["result"] == "repaired"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_output_will_do(run, encoding):
    """What it cannot encode is drawn with other signs, not raised."""
    for command in (
        ("list",),
        ("show", "transformers/cache-static-zero-shared"),
        ("verify", "dill/free-rlock-restored-taken"),
    ):
        done = run(*command, PYTHONIOENCODING=encoding)
        assert "Error" not in done.stderr
        assert "transformers/cache-static-zero-shared" in done.stdout or "free-rlock" in done.stdout
        assert "?" not in done.stdout


def test_a_reader_that_stops_reading_ends_the_command_quietly():
    """As ``zoo-hooks list | head -1`` does: no traceback, the status of a closed pipe."""
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'zoo_hooks', 'list'], "
    code += (
        "stdout=subprocess.PIPE, stderr=subprocess.PIPE); p.stdout.close(); print(p.wait(), p.stderr.read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{128 + signal.SIGPIPE} b''\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_verify_ends_at_once_with_what_is_finished(run, zoo, number):
    """Its rows are shown, the status is that of a shell, and no child goes on."""
    zoo.module("fake.core")
    zoo.module("fake.slow")
    zoo.patch("fake.core", "a_quick_one")
    mark = zoo.folder / "children"
    slow = BODY.replace("fake.core", "fake.slow").replace(
        "value = importlib",
        f"import os, time; open({str(mark)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600); "
        "value = importlib",
    )
    zoo.patch("fake.slow", "b_slow_one", slow)
    run("--version")  # writes what makes the fakes known
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_HOOKS")}
    command = subprocess.Popen(
        [sys.executable, "-m", "zoo_hooks", "verify", "a-quick-one", "b-slow-one", "--json"],
        env=clean | {"PYTHONPATH": str(zoo.folder / "site")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (mark.exists() and len(mark.read_text().split()) == 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)  # for the command to read what its children have said
    command.send_signal(number)
    said, trouble = command.communicate(timeout=300)
    assert command.returncode == 128 + number
    assert "Traceback" not in trouble
    if number == signal.SIGINT:
        assert [row["id"] for row in json.loads(said)["patches"]] == ["fake/a-quick-one"]
    for pid in map(int, mark.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("command", ["status", "check", "verify", "list"])
def test_nothing_of_the_current_folder_is_run(run, zoo, tmp_path, command):
    """Neither in the command nor in its children: no file that is called like a module of Python's."""
    zoo.module("fake.core")
    zoo.patch("fake.core")
    folder = tmp_path / "current"
    (folder / "fake").mkdir(parents=True)
    (folder / "fake" / "__init__.py").write_text("print('RUN'); raise SystemExit(9)")
    for name in ("inspect", "dataclasses", "queue", "rich", "packaging", "fnmatch"):
        (folder / f"{name}.py").write_text("print('RUN'); raise SystemExit(9)")
    ids = [] if command == "list" else ["bug"]
    script = "import sys; from zoo_hooks.tool.cli import main; sys.exit(main(sys.argv[1:]))"
    file = tmp_path / "bin" / "zoo-hooks"  # as an installer makes it
    file.parent.mkdir()
    file.write_text(script)
    run("--version")
    done = subprocess.run(
        [sys.executable, str(file), command, *ids], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(zoo.folder / "site")},
    )  # fmt: skip
    assert "RUN" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    assert "bug" in done.stdout or command == "check"


def test_an_upstream_that_cannot_be_imported_at_all_comes_first_and_fails_the_check(run, zoo):
    """The upstream's own error is told before the table, and in the JSON."""
    zoo.module("fake", "raise ImportError('tokenizers does not fit')", package=True)
    zoo.module("fake.core")
    zoo.patch("fake.core")
    (zoo.folder / "site" / "fake" / "__init__.py").write_text("raise ImportError('tokenizers does not fit')")
    done = run("check")
    assert done.returncode == 1
    message = "fake cannot be imported: ImportError: tokenizers does not fit"
    assert done.stderr.splitlines()[0] == f"zoo-hooks: {message}"
    assert message in json.loads(run("check", "--json").stdout)["broken"]
    assert message in json.loads(run("status", "--json").stdout)["broken"]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_case_report_fits_a_terminal(columns, monkeypatch):
    """No line is wider, no word is lost, and headings stay; a pipe gets the text as it lies."""
    reports = [catalogue.case_report(patch) for patch in catalogue.everything()]
    assert [terminal.folded(text) for text in reports] == reports
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    for text in reports:
        folded = terminal.folded(text)
        assert folded.split() == text.split()
        assert "\n\nSymptom\n-------\n" in folded
        long = [line for line in folded.splitlines() if len(line) > columns and " " in line]
        assert not long
