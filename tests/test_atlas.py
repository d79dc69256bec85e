"""The atlas: what its file says, and the tool that measures it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from conftest import ATLAS, HERE

from zoo_hooks import catalogue
from zoo_hooks.tool import atlas
from zoo_hooks.tool.atlas import Atlas, Seen

if sys.version_info < (3, 11):
    pytest.skip("the tool reads TOML with the standard library, of 3.11 and later", allow_module_level=True)
sys.path.append(str(HERE.parent))

from atlas import __main__ as command
from atlas import book as books
from atlas import cells, index, measure
from atlas.digests import digests, digests_at

CASE = '''"""A case.

Symptom
"""

from zoo_hooks.patches.fake import _shared

PATCH = Patch(
    title="one",
    links=("a",),
    probe=_shared.probe,
)
'''


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / "fake" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_the_file_is_read_and_written_as_it_stands():
    """Nothing is lost, and the order is that of the versions."""
    text = atlas.FILE.read_text(encoding="utf-8")
    assert Atlas(json.loads(text)).text() == text
    assert len(text.encode()) <= 300_000
    versions = ATLAS.versions("transformers")
    assert versions.index("5.9.0") < versions.index("5.10.1")


def test_every_patch_was_measured_and_none_is_unknown_on_its_newest_release():
    """UNKNOWN or FAILED on the newest release of an upstream is drift that somebody has to look at."""
    for patch in catalogue.everything():
        newest = ATLAS.of(patch.id)[-1]
        assert newest.verdict not in ("UNKNOWN", "FAILED"), (patch.id, newest)


def test_what_was_measured_is_what_the_patches_are_now():
    """After a change of a patch: python -m atlas changed, and commit the file."""
    now = digests()
    stale = {
        patch
        for patch in now
        for row in books.edges(ATLAS.of(patch))
        if row.digest and row.digest != now[patch]
    }
    assert not stale, "run: python -m atlas changed"


def test_a_digest_sees_code_and_helpers_and_no_words(tmp_path):
    """Docstrings and what people read in the record do not count."""
    helper = "def probe(module):\n    return 1\n"
    plain = digests(write(tmp_path, case=CASE, _shared=helper))["fake/case"]
    for same in (
        CASE.replace("Symptom", "Cause"),
        CASE.replace("one", "two"),
        CASE.replace("\n\n", "\n\n\n"),
    ):
        assert digests(write(tmp_path, case=same))["fake/case"] == plain
    assert digests(write(tmp_path, case=CASE + "more = 1\n"))["fake/case"] != plain
    assert digests(write(tmp_path, case=CASE, _shared=helper.replace("1", "2")))["fake/case"] != plain


def test_a_digest_of_a_commit_is_that_of_its_files():
    """``--base`` compares with a commit."""
    assert set(digests_at("HEAD")) <= set(catalogue.ids())
    with pytest.raises(subprocess.CalledProcessError):
        digests_at("no-such-commit")


def rows(*verdicts: str, **more: str) -> list[Seen]:
    return [Seen({"fake": f"1.{n}"}, verdict, **more) for n, verdict in enumerate(verdicts)]


def test_edges_are_where_the_verdict_changes_and_the_newest():
    """Both sides of each change."""
    found = [
        row.releases["fake"]
        for row in books.edges(rows("FIXED", "FIXED", "AFFECTED", "AFFECTED", "AFFECTED"))
    ]
    assert found == ["1.1", "1.2", "1.4"]


def test_edges_of_pairs_are_looked_for_beside_the_same_releases():
    """A bug that all releases have beside the newest of another upstream has one edge there, not one each."""
    pairs = [
        Seen({"trl": f"0.{n}.0", "transformers": other}, verdict)
        for n, fixed in enumerate((False, False, False, True))
        for other, verdict in (
            ("4.0.0", "FIXED"),
            (f"4.{n}.1", "FIXED"),
            ("5.0.0", "FIXED" if fixed else "AFFECTED"),
        )
    ]
    assert [list(row.releases.values()) for row in books.edges(pairs)] == [
        ["0.2.0", "5.0.0"],
        ["0.3.0", "5.0.0"],
    ]


@pytest.fixture
def book(monkeypatch):
    """A book over an empty atlas, and an index with made up releases."""
    days = {
        "peft": {"0.18.0": date(2026, 1, 1), "0.19.0": date(2026, 3, 1)},
        "transformers": {"5.0.0": date(2026, 1, 15), "5.5.0": date(2026, 4, 1)},
    }
    monkeypatch.setattr(index, "released", lambda name, **_: days.get(name, {}))
    monkeypatch.setattr(atlas, "read", Atlas)
    made = books.Book()
    made.only_checks = True
    return made


def test_a_release_that_nobody_has_measured_is_found(book):
    """By default what is newer than the newest measured, and since a day all that is missing."""
    patch = "transformers/wandb-broken"
    book.atlas.put(patch, Seen({"transformers": "5.0.0"}, "AFFECTED", digest=book.digests[patch]))
    (task,) = book.missing(["transformers"], None)
    assert task.releases == {"transformers": "5.5.0"}
    assert patch in task.patches
    older = [
        one
        for one in book.missing(["transformers"], date(2026, 1, 1))
        if one.releases["transformers"] == "5.0.0"
    ]
    assert patch not in older[0].patches
    assert list(book.missing(["transformers"], date(2026, 5, 1))) == []


def test_a_release_is_measured_beside_the_newest_and_the_oldest_of_what_decides_too(book):
    """And with all else as it was then; not again where the patches are the same."""
    tasks = list(book.missing(["peft"], date.min))
    assert {str(task) for task in tasks if "0.19.0" in str(task)} == {
        "peft==0.19.0",
        "peft==0.19.0 transformers==5.5.0",
        "peft==0.19.0 transformers==5.0.0",
    }
    for task in tasks:
        command._keep(
            book, task, {p: Seen({**task.releases}, "FIXED", digest=book.digests[p]) for p in task.patches}
        )
    assert list(book.missing(["peft"], date.min)) == []


def test_a_pair_is_measured_where_a_verdict_changes(book):
    """Beside a release on which it is another one, and on the newest; releases in between are alone."""
    patch = "peft/prefix-tuning-heads"
    for n, verdict in enumerate(("FIXED", "FIXED", "AFFECTED", "AFFECTED", "AFFECTED"), 10):
        book.atlas.put(patch, Seen({"peft": f"0.{n}.0", "transformers": "5.0.0"}, verdict))
    assert book._changes(patch, "peft") == {
        "0.11.0",
        "0.12.0",
        "0.14.0",
        "0.19.0",
    }  # the last is the newest of all
    book.atlas.put(patch, Seen({"peft": "0.14.0", "transformers": "5.5.0"}, "FIXED"))
    assert book._changes(patch, "transformers") == {"5.0.0", "5.5.0"}


def test_releases_that_cannot_be_installed_together_are_recorded_with_the_reason(book):
    """And are not tried again."""
    task = next(task for task in book.missing(["peft"], date.min) if len(task.releases) > 1)
    said = command._keep(book, task, cells.Conflict("peft 0.19.0 needs transformers<5"))
    assert said == []
    assert list(book.atlas.conflicts.values()) == ["peft 0.19.0 needs transformers<5"]
    assert str(task) not in map(str, book.missing(["peft"], date.min))


def test_only_what_a_change_has_made_stale_is_measured_again(book):
    """At its edges; one that is as when measured is left alone, and a new one is measured everywhere."""
    changed, same = "transformers/wandb-broken", "peft/shadow-cache-dropped"
    for verdict in rows("FIXED", "FIXED", "AFFECTED", "AFFECTED"):
        book.atlas.put(changed, verdict._replace(digest="as it was"))
        book.atlas.put(same, verdict._replace(digest=book.digests[same]))
    tasks = list(book.stale())
    assert [(task.releases["fake"], task.patches) for task in tasks if "fake" in task.releases] == [
        ("1.1", [changed]),
        ("1.2", [changed]),
        ("1.3", [changed]),
    ]
    new = "peft/prefix-tuning-heads"
    assert {str(task) for task in tasks if task.patches == [new]} >= {"peft==0.18.0", "peft==0.19.0"}
    assert list(book.stale(book.digests)) == []


def test_a_verdict_unlike_the_recorded_one_is_red(book, monkeypatch):
    """So is an UNKNOWN or FAILED; what is new is told and is no failure."""
    patch = "transformers/wandb-broken"
    task = books.Task({"transformers": "5.5.0"}, [patch])
    for before, now, red in (
        ("FIXED", "AFFECTED", 1),
        (None, "AFFECTED", 0),
        ("FIXED", "FIXED", 0),
        (None, "UNKNOWN", 1),
    ):
        book.atlas.patches.clear()
        if before:
            book.atlas.put(patch, Seen({"transformers": "5.5.0"}, before))
        monkeypatch.setattr(command, "_measured", lambda _, task, now=now: {patch: Seen(task.releases, now)})
        assert command._run(book, [task], 1) == red


def test_a_cell_that_cannot_be_built_is_red_and_the_others_are_measured(book, monkeypatch):
    """The line says why."""
    patch = "transformers/wandb-broken"
    tasks = [books.Task({"transformers": v}, [patch]) for v in ("5.0.0", "5.5.0")]

    def measured(_, task):
        if task.releases["transformers"] == "5.0.0":
            raise RuntimeError("no such file")
        return {patch: Seen(task.releases, "FIXED")}

    monkeypatch.setattr(command, "_measured", measured)
    assert command._run(book, tasks, 1) == 1
    assert [row.releases["transformers"] for row in book.atlas.of(patch)] == ["5.5.0"]


def test_only_limits_a_run_to_the_patches_that_are_named(book):
    """Tasks with none of them go; a word that names no patch is refused with the nearest."""
    one, other = "transformers/wandb-broken", "transformers/trainer-rng-state"
    tasks = [books.Task({"transformers": v}, some) for v, some in (("1", [one, other]), ("2", [other]))]
    assert list(command._limited(tasks, [one])) == [books.Task({"transformers": "1"}, [one])]
    assert list(command._limited(tasks, None)) == tasks
    assert command._id("transformers/wandb_broken") == one
    with pytest.raises(argparse.ArgumentTypeError, match="trainer-rng-state"):
        command._id("trainer-rng-stat")


def test_a_new_release_says_what_came_and_what_went(book):
    """In a line each; what is as on the release before is no news."""
    verdicts = {
        "transformers/wandb-broken": ("FIXED", "AFFECTED"),
        "transformers/trainer-rng-state": ("AFFECTED", "FIXED"),
        "transformers/cache-layer-dtype": ("AFFECTED", "AFFECTED"),
        "transformers/input-require-grads": ("FIXED", "UNKNOWN"),
    }
    old, new = {"transformers": "5.0.0"}, {"transformers": "5.5.0"}
    command._keep(book, books.Task(old, []), {p: Seen(old, before) for p, (before, _) in verdicts.items()})
    known = {key: [old] for key in verdicts}
    wrong = command._keep(book, books.Task(new, []), {p: Seen(new, now) for p, (_, now) in verdicts.items()})
    assert wrong == ["transformers/input-require-grads is UNKNOWN"]
    assert list(command.news(book, known)) == [
        "transformers 5.5.0: came transformers/wandb-broken",
        "transformers 5.5.0: went transformers/trainer-rng-state",
    ]
    assert list(command.news(book, {key: [old, new] for key in verdicts})) == []


@pytest.mark.parametrize("word", ["transformers", "transformers>=5,<6", "five"])
def test_what_is_no_release_gets_one_line(word):
    """NAME==VERSION."""
    with pytest.raises(SystemExit, match="is not of the form NAME==VERSION"):
        command._task([word])


def test_a_patch_that_is_pending_is_absent_only_if_the_upstream_lacks_the_module():
    """A package that is missing for another reason is no verdict."""
    patch = "transformers/gemma4-mlp-fp16"
    gone = "importing x raises ModuleNotFoundError: No module named 'transformers.models.gemma4'"
    assert measure._is_absent(patch, gone)
    assert not measure._is_absent(patch, "importing x raises ModuleNotFoundError: No module named 'jinja2'")
    old = (
        "importing peft.peft_model raises ModuleNotFoundError: No module named 'transformers.modeling_layers'"
    )
    assert measure._is_absent("peft/prefix-tuning-heads", old)  # nor can that peft be imported beside it
    assert not measure._is_absent(
        patch, "importing x raises ImportError: huggingface-hub>=0.30.0,<1.0 is required"
    )


RAISED = """Traceback (most recent call last):
  File "{root}/zoo_hooks/patches/trl/triton_broken.py", line 3, in canary
    run()
  File "<frozen importlib._bootstrap>", line 1204, in _gcd_import
  File "{root}/.tox/cells/trl/lib/python3.12/site-packages/trl/core.py", line 5, in run
    ^^^^^
  File "/opt/lib/python3.12/importlib/__init__.py", line 126, in import_module
  File "{temporary}/tmpab/tmpcd/triton/__init__.py", line 1, in <module>
ImportError: undefined symbol
"""


def test_the_error_of_a_crash_is_recorded_once_without_paths_and_source_lines(tmp_path, monkeypatch):
    """What ``explain`` is tested with, as a user gets it; one that is there, or of a silent bug, stays."""
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    folder = tmp_path / "tests" / "tracebacks"
    folder.mkdir(parents=True)
    told = RAISED.format(root=tmp_path, temporary=measure.tempfile.gettempdir())
    for patch in ("trl/triton-broken", "transformers/gemma4-mlp-fp16"):
        measure._keep(patch, told)
        measure._keep(patch, "another")
    (file,) = folder.iterdir()
    assert file.name == "trl__triton-broken.txt"
    assert file.read_text().splitlines() == [
        "Traceback (most recent call last):",
        '  File "/venv/lib/python3.11/site-packages/trl/core.py", line 5, in run',
        '  File "/usr/lib/python3.11/importlib/__init__.py", line 126, in import_module',
        '  File "/venv/lib/python3.11/site-packages/triton/__init__.py", line 1, in <module>',
        "ImportError: undefined symbol",
    ]


def test_a_figure_names_no_path_of_the_machine(tmp_path):
    """An error may say which file it could not load."""
    said = f"OSError: no {tmp_path}/.tox/cells/x/lib/python3.12/site-packages/av/a.so"
    assert measure._short(said) == "OSError: no /venv/lib/python3.11/site-packages/av/a.so"
    figures = [
        figure for rows in ATLAS.patches.values() for row in rows for figure in (row.without, row.repaired)
    ]
    assert not [figure for figure in figures if figure and re.search(r"[ (]/(?!venv/|usr/)\w+/", figure)]
