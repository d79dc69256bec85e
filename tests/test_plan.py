"""What an upgrade takes away and brings, and which sets of releases are right."""

from __future__ import annotations

import json

import pytest
from conftest import HERE
from packaging.requirements import Requirement

from zoo_hooks.tool import atlas, audit, cli, plan
from zoo_hooks.tool.atlas import VERDICTS, Atlas
from zoo_hooks.tool.pins import Asked, Pin

CRASH, SILENT, PAIR = (
    "transformers/cache-layer-dtype",
    "transformers/gemma3n-mlp-fp16",
    "peft/prompt-learning-generate",
)


def made(rows, released=None, conflicts=None):
    patches = {
        patch: {
            "beside": [],
            "runs": [[None, None, None]],
            "seen": {key: [VERDICTS.index(verdict), 0] for key, verdict in seen.items()},
        }
        for patch, seen in rows.items()
    }
    return Atlas({"released": released or {}, "conflicts": conflicts or {}, "patches": patches})


ROWS = {
    CRASH: {"5.22.0": "FIXED", "5.23.0": "FIXED", "5.24.0": "AFFECTED"},
    SILENT: {"5.22.0": "FIXED", "5.23.0": "AFFECTED", "5.24.0": "FIXED"},
    PAIR: {
        "0.20.0, transformers 5.22.0": "FIXED",
        "0.21.0, transformers 5.22.0": "AFFECTED",
        "0.20.0, transformers 5.23.0": "FIXED",
        "0.21.0, transformers 5.23.0": "FIXED",
        "0.20.0, transformers 5.24.0": "AFFECTED",
        "0.21.0, transformers 5.24.0": "AFFECTED",
    },
}


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Only the patches that the small atlas has."""
    real = plan.catalogue.everything
    monkeypatch.setattr(plan.catalogue, "everything", lambda: [one for one in real() if one.id in ROWS])


def asked(**versions):
    found = Asked("a test", {"transformers", "peft"}, {})
    found.pins = {name: Pin(version) for name, version in versions.items()}
    return found


def named(findings):
    return [finding.patch.id for finding in findings]


def best(*words, allowed=plan.not_silent, **how):
    found = plan.best(map(Requirement, words), made(ROWS, **how), "3.11.7", allowed)
    return found and (found.releases, found.exact)


def test_an_upgrade_takes_away_brings_and_keeps():
    """Bug by bug, the worst first, with packages that stay as they are."""
    now = asked(python="3.11.7", transformers="5.23.0", peft="0.20.0")
    planned = plan.plan(now, asked(transformers="5.24.0"), made(ROWS))
    assert named(planned.gone) == [SILENT]
    assert named(planned.brought) == [PAIR, CRASH]
    assert named(planned.kept) == []
    again = plan.plan(now, asked(peft="0.21.0"), made(ROWS))
    assert (named(again.gone), named(again.brought), named(again.kept)) == ([], [], [SILENT])


def test_a_package_that_was_not_there_can_be_planned():
    """A bug between two packages comes with the second."""
    planned = plan.plan(asked(python="3.11.7", transformers="5.24.0"), asked(peft="0.21.0"), made(ROWS))
    assert named(planned.brought) == [PAIR]


def test_the_best_set_is_the_newest_without_a_silent_bug_and_the_newest_that_is_repaired():
    """The first package is as new as can be, then the second."""
    assert best("transformers", "peft") == ({"transformers": "5.22.0", "peft": "0.20.0"}, True)
    assert best("transformers") == ({"transformers": "5.24.0"}, True)
    assert best("peft", "transformers") == ({"peft": "0.20.0", "transformers": "5.22.0"}, True)
    newest = {"transformers": "5.24.0", "peft": "0.21.0"}
    assert best("transformers", "peft", allowed=plan.mended) == (newest, True)


def test_releases_can_be_bounded():
    """By the specifier of a word."""
    assert best("transformers<5.23", allowed=plan.mended) == ({"transformers": "5.22.0"}, True)
    assert best("transformers==5.23.0") is None


def test_the_newest_is_the_last_that_came_out():
    """Where the days of all are known; else by number."""
    days = {"5.22.0": "2026-09-09", "5.23.0": "2026-08-01", "5.24.0": "2026-09-01"}
    how = {"allowed": plan.mended, "released": {"transformers": days}}
    assert best("transformers", **how) == ({"transformers": "5.22.0"}, True)
    del days["5.23.0"]
    assert best("transformers", **how) == ({"transformers": "5.24.0"}, True)


def test_a_set_that_cannot_be_installed_is_none():
    """As the atlas has it."""
    conflicts = {"peft 0.21.0, transformers 5.24.0": "peft asks for another"}
    found = best("transformers", "peft", allowed=plan.mended, conflicts=conflicts)
    assert found == ({"transformers": "5.24.0", "peft": "0.20.0"}, True)


def test_a_set_in_part_by_the_nearest_releases_is_said_to_be_so():
    """It comes only where none was measured throughout."""
    measured = made({**ROWS, CRASH: {"5.21.0": "FIXED"}})
    found = plan.best([Requirement("transformers")], measured, "3.11.7", plan.mended)
    assert (found.releases, found.exact) == ({"transformers": "5.24.0"}, False)
    assert "nearest" in str(found)


@pytest.fixture
def real(monkeypatch):
    """All patches, and the atlas of this release."""
    monkeypatch.undo()


@pytest.mark.usefixtures("real")
def test_the_command_compares_a_lock_file_with_an_upgrade(capsys):
    """Gone, brought and kept, each with what ends it, and both counts with and without the hooks."""
    file = str(HERE / "locks" / "uv-app" / "uv.lock")
    assert cli.main(["plan", "-r", file, "transformers==5.24.0", "peft==0.21.2"]) == 0
    said = capsys.readouterr().out
    for words in ("takes away ", "brings ", "keeps ", "peft/hybrid-cache-import", "now: ", "then: "):
        assert words in said
    assert cli.main(["plan", "-r", file, "transformers==5.24.0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["from"]["transformers"] == "5.5.0"
    assert told["to"]["transformers"] == "5.24.0"
    assert {"takes_away", "brings", "keeps"} <= told.keys()
    assert all(bug["fixed_in"] is not None for bug in told["brings"])


@pytest.mark.usefixtures("real")
def test_an_upgrade_to_the_newest_release_brings_bugs(capsys):
    """What ``fixed in`` alone never says."""
    cli.main(["plan", "-r", str(HERE / "locks" / "pip-compile" / "requirements.txt"), "transformers==5.24.0",
              "--json"])  # fmt: skip
    brought = {bug["id"] for bug in json.loads(capsys.readouterr().out)["brings"]}
    assert "transformers/attn-mask-utils-gone" in brought


@pytest.mark.usefixtures("real")
def test_the_command_finds_the_best_sets(capsys):
    """Both, as requirements that can be installed."""
    assert cli.main(["plan", "--best", "transformers", "peft", "trl", "nothing-known"]) == 0
    said = capsys.readouterr()
    assert said.out.count("transformers==") == 2
    assert said.err == "zoo-hooks: no measurements of nothing-known; left out\n"
    assert cli.main(["plan", "--best", "transformers", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["repaired"]["releases"].keys() == {"transformers"}


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    "arguments",
    [
        ["transformers>=5"],
        ["foo==1"],
        ["no requirement"],
        ["--best", "foo"],
        ["--best", "a b"],
        ["-r", "no.txt", "peft==1"],
    ],
)
def test_what_cannot_be_planned_is_one_line_and_exit_status_2(arguments, capsys):
    """A range is no upgrade; a package that nothing is known of has no best release."""
    assert cli.main(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("zoo-hooks: ")


@pytest.mark.usefixtures("real")
def test_the_best_of_many_packages_does_not_take_long():
    """Each pair is judged once, and a set that is wrong in part is not gone into."""
    import time

    names = ["transformers", "peft", "trl", "accelerate", "datasets", "vllm", "torch", "triton"]
    begun = time.process_time()
    plan.best(map(Requirement, names), atlas.read(), "3.11.7", plan.not_silent)
    assert time.process_time() - begun < 20
    assert audit.known(atlas.read()) >= set(names)
