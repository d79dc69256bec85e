"""The known bugs of a set of releases, by what was measured."""

from __future__ import annotations

import json

import pytest
from conftest import HERE, child

from zoo_hooks import catalogue
from zoo_hooks.model import SEVERITIES
from zoo_hooks.tool import atlas, audit, cli, findings
from zoo_hooks.tool.atlas import VERDICTS, Atlas
from zoo_hooks.tool.pins import Asked, Pin

GONE, CACHE, LAYER = (
    "peft/hybrid-cache-import",
    "transformers/gemma4-no-cache-shared-kv",
    "transformers/cache-layer-dtype",
)
FOUR_BIT = "transformers/gemma4-patch-embedder-packed-4bit"


def made(**rows):
    """An atlas of a few measurements: id with ``__`` and ``_``, then releases and verdicts."""
    patches = {
        patch: {
            "beside": [],
            "runs": [[None, None, None]],
            "seen": {key: [VERDICTS.index(verdict), 0] for key, verdict in seen.items()},
        }
        for patch, seen in rows.items()
    }
    return Atlas({"released": {}, "conflicts": {"peft 0.1.0, transformers 5.0.0": "no"}, "patches": patches})


MEASURED = made(**{
    GONE: {
        "0.17.0, transformers 4.57.0": "FIXED",
        "0.17.0, transformers 5.0.0": "AFFECTED",
        "0.17.0, transformers 5.10.0": "AFFECTED",
        "0.18.0": "FIXED",
    },
    CACHE: {"5.4.0": "ABSENT", "5.5.0": "AFFECTED", "5.5.2": "FIXED"},
    LAYER: {"5.23.0": "FIXED", "5.24.0": "AFFECTED", "5.26.0": "AFFECTED"},
    FOUR_BIT: {"5.4.0": "ABSENT", "5.5.0": "AFFECTED", "5.24.0": "AFFECTED"},
})  # fmt: skip


def asked(*, installed=False, **versions):
    found = Asked("a test", audit.known(MEASURED), {}, installed=installed)
    found.pins = {name: Pin(version) for name, version in {"python": "3.11.7", **versions}.items()}
    return found


def judged(patch, **versions):
    return audit.judge(catalogue.get(patch), asked(**versions).versions, MEASURED)


@pytest.mark.parametrize(
    ("patch", "versions", "verdict", "measured", "exact"),
    [
        (CACHE, {"transformers": "5.5.0"}, "AFFECTED", {"transformers": "5.5.0"}, True),
        (CACHE, {"transformers": "5.5"}, "AFFECTED", {"transformers": "5.5.0"}, True),
        (CACHE, {"transformers": "5.5.1"}, "AFFECTED", {"transformers": "5.5.0"}, False),
        (CACHE, {"transformers": "5.5.2"}, "FIXED", {"transformers": "5.5.2"}, True),
        (CACHE, {"transformers": "5.4.0"}, "ABSENT", {"transformers": "5.4.0"}, True),
        (LAYER, {"transformers": "5.25.3"}, "AFFECTED", {"transformers": "5.24.0"}, False),
        (GONE, {"peft": "0.17.0", "transformers": "5.8.0"}, "AFFECTED",
         {"peft": "0.17.0", "transformers": "5.10.0"}, False),
        (GONE, {"peft": "0.17.0", "transformers": "5.2.0"}, "AFFECTED",
         {"peft": "0.17.0", "transformers": "5.0.0"}, False),
        (GONE, {"peft": "0.18.0", "transformers": "5.2.0"}, "FIXED", {"peft": "0.18.0"}, True),
    ],
)  # fmt: skip
def test_the_measurement_of_these_releases_answers_or_the_nearest(patch, versions, verdict, measured, exact):
    """The first part that differs weighs most; of two that are as near the older one answers."""
    found = judged(patch, **versions)
    assert (found.verdict, found.measured, found.exact) == (verdict, measured, exact)
    assert bool(found.basis) != exact


@pytest.mark.parametrize(
    ("patch", "versions", "verdict", "basis"),
    [
        (CACHE, {"transformers": "5.3.0"}, "FIXED", "nearest measured: transformers 5.4.0"),
        (LAYER, {"transformers": "6.0.0"}, "AFFECTED", "nearest measured: transformers 5.26.0"),
        (GONE, {"peft": "0.17.0", "transformers": "4.99.0"}, "FIXED",
         "nearest measured: peft 0.17.0 with transformers 4.57.0"),
        (GONE, {"peft": "0.17.9", "transformers": "5.0.0rc1"}, "FIXED",
         "by its declared releases; nearest measured: peft 0.17.0 with transformers 5.0.0, AFFECTED"),
        (FOUR_BIT, {"transformers": "5.24.0", "bitsandbytes": "0.48.0"}, "AFFECTED",
         "by its declared releases; not measured with bitsandbytes 0.48.0"),
        (FOUR_BIT, {"transformers": "5.24.0", "bitsandbytes": "0.45.0"}, "FIXED",
         "by its declared releases; not measured with bitsandbytes 0.45.0"),
        ("transformers/cache-static-zero-shared", {"transformers": "5.5.0"}, "AFFECTED",
         "by its declared releases; never measured"),
    ],
)  # fmt: skip
def test_the_claim_answers_where_nothing_was_measured_and_that_is_said(patch, versions, verdict, basis):
    """With the nearest measurement, also where that says otherwise."""
    found = judged(patch, **versions)
    assert (found.verdict, found.basis) == (verdict, basis)


def test_the_measurement_of_a_pair_goes_before_that_of_one_release_alone():
    """And that of one alone before that of another pair, where the claim answers for the second package."""
    rows = {
        "0.17.0": "AFFECTED",
        "0.17.0, transformers 4.57.0": "FIXED",
        "0.17.0, transformers 5.9.0": "FIXED",
    }
    pairs = made(**{GONE: rows})
    patch = catalogue.get(GONE)
    for version, verdict, seen in (
        ("5.9.0", "FIXED", "FIXED"),
        ("5.8.0", "AFFECTED", "AFFECTED"),
        ("4.50.0", "FIXED", "AFFECTED"),
    ):
        versions = {"python": "3.11.7", "peft": "0.17.0", "transformers": version}
        found = audit.judge(patch, versions, pairs)
        assert (found.verdict, found.seen) == (verdict, seen)


def test_a_bug_between_packages_needs_them_all():
    """peft alone cannot have it."""
    assert judged(GONE, peft="0.17.0") is None


@pytest.mark.parametrize(
    ("version", "others", "near"),
    [
        ("5.10.2", ["5.10.1", "5.10.4", "5.9.0"], "5.10.1"),
        ("5.17.0", ["5.15.1", "5.18.0"], "5.18.0"),
        ("5.17.0", ["5.16.0", "5.18.0"], "5.16.0"),
        ("5.0.0rc3", ["5.0.0rc2", "5.0.0", "4.57.6"], "5.0.0rc2"),
        ("5.0.0.dev0", ["5.0.0rc0", "4.57.6"], "5.0.0rc0"),
        ("4.99.0", ["4.57.6", "5.0.0"], "4.57.6"),
        ("6.0.0", ["5.23.0", "5.26.0"], "5.26.0"),
        ("4.40.0", ["5.5.0", "5.4.0"], "5.4.0"),
    ],
)
def test_the_nearest_version(version, others, near):
    """Candidates lie before their release."""
    assert atlas.nearest(version, others) == near


def test_the_worst_comes_first_and_what_is_left_is_told():
    """By severity, then by id; UNKNOWN is no bug but a note, FAILED is one that the hooks leave."""
    measured = made(**{
        CACHE: {"5.5.0": "AFFECTED"},
        LAYER: {"5.5.0": "FAILED"},
        "transformers/wandb-broken": {"5.5.0": "UNKNOWN"},
        "transformers/trainer-rng-state": {"5.5.0": "AFFECTED"},
        "transformers/cache-dynamic-zero-shared": {"5.5.0": "AFFECTED"},
    })  # fmt: skip
    answer = audit.audit(asked(transformers="5.5.0"), measured)
    order = [SEVERITIES.index(one.patch.severity) for one in answer.findings]
    assert order == sorted(order)
    assert [(one.patch.id, one.trouble) for one in answer.left] == [(LAYER, "its repair fails there")]
    assert any("does not know this code" in note and "wandb-broken" in note for note in answer.notes)


def test_what_is_switched_off_is_left_where_it_is_installed(monkeypatch):
    """ZOO_HOOKS acts on an environment, not on a file of pins."""
    monkeypatch.setenv("ZOO_HOOKS", "-cache-layer-dtype")
    versions = {"transformers": "5.24.0"}
    assert [one.patch.id for one in audit.audit(asked(installed=True, **versions), MEASURED).left] == [LAYER]
    assert audit.audit(asked(**versions), MEASURED).left == []


def test_a_version_that_was_never_measured_and_a_pair_that_does_not_go_together_are_told_of():
    """With the nearest that was, and the reason."""
    notes = audit.audit(asked(transformers="5.22.0"), MEASURED).notes
    assert notes == ["transformers 5.22.0 was never measured; the nearest measured is 5.23.0"]
    notes = audit.audit(asked(transformers="5.0.0", peft="0.1.0"), MEASURED).notes
    assert "peft 0.1.0, transformers 5.0.0 cannot be installed together: no" in notes


WORDS = ["transformers==5.24.0", "peft==0.19.1"]


def test_the_command_tells_repaired_bugs_and_ends_with_0_or_with_strict_with_1(capsys):
    """Exit status 1 is for what the hooks leave."""
    assert cli.main(["audit", *WORDS]) == 0
    said = capsys.readouterr().out
    assert said.startswith("silent wrong result: ")
    assert "0 of them not repaired by zoo-hooks" in said
    assert cli.main(["audit", *WORDS, "--strict"]) == 1
    assert cli.main(["audit", "transformers==4.40.0", "--json"]) == 0


def test_hooks_that_do_nothing_leave_every_bug(monkeypatch, capsys):
    """In an environment whose start-up file does not run: exit status 1, with the reason."""
    monkeypatch.setattr(cli.ask.requirements, "_this", lambda _: ({"transformers": "5.24.0"}, MARKERS))
    monkeypatch.setattr(cli.ask.installation, "start_up_trouble", lambda: "no start-up file")
    assert cli.main(["audit", "--json"]) == 1
    bugs = json.loads(capsys.readouterr().out)["bugs"]
    assert {bug["trouble"] for bug in bugs} == {"no start-up file"}
    monkeypatch.setattr(cli.ask.installation, "start_up_trouble", lambda: None)
    assert cli.main(["audit", "--json"]) == 0


MARKERS = {"python_full_version": "3.11.7"}


def test_another_environment_without_zoo_hooks_keeps_its_bugs(monkeypatch, capsys):
    """There nothing repairs them."""
    found = {"transformers": "5.24.0"}
    monkeypatch.setattr(cli.ask.requirements, "_another", lambda *_: (found, MARKERS))
    assert cli.main(["audit", "--python", "other", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["bugs"][0]["trouble"] == "zoo-hooks is not installed there"
    found["zoo-hooks"] = "0.1.0"
    assert cli.main(["audit", "--python", "other"]) == 0


def test_json_has_what_was_asked_what_was_found_and_on_what_it_rests(capsys):
    """With a schema version; the patches that are no bug there too."""
    cli.main(["audit", "--json", *WORDS])
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["releases"]["peft"] == "0.19.1"
    keys = {"id", "title", "severity", "links", "verdict", "releases", "measured", "seen", "claimed", "exact",
            "repaired", "trouble", "fixed_in"}  # fmt: skip
    assert all(bug.keys() == keys for bug in told["bugs"])
    assert {one["verdict"] for one in told["others"]} <= {"FIXED", "ABSENT", "UNKNOWN"}


def test_sarif_names_rule_level_and_line(capsys):
    """A result for each bug, where its upstream is pinned; errors are what fails the audit."""
    file = str(HERE / "locks" / "pip-compile" / "requirements.txt")
    assert cli.main(["audit", "-r", file, "--sarif"]) == 0
    told = json.loads(capsys.readouterr().out)
    (run,) = told["runs"]
    assert told["version"] == "2.1.0"
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["ruleId"] for result in run["results"]} == rules
    assert {result["level"] for result in run["results"]} == {"warning"}
    spot = next(r for r in run["results"] if r["ruleId"] == "trl/warnings-issued")["locations"][0]
    assert spot["physicalLocation"]["region"]["startLine"] == 16
    assert spot["physicalLocation"]["artifactLocation"]["uri"] == file
    cli.main(["audit", "-r", file, "--sarif", "--strict"])
    strict = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert {result["level"] for result in strict} == {"error"}


def test_annotations_are_lines_that_github_reads(capsys):
    """Level, file, line, title; what would end a field is escaped."""
    file = str(HERE / "locks" / "uv-fork" / "uv.lock")
    cli.main(["audit", "-r", file, "--github"])
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith(f"::warning file={file},line=") for line in lines)
    assert findings._escaped("a,b:c%\n", ",:") == "a%2Cb%3Ac%25%0A"
    cli.main(["audit", *WORDS, "--github", "--strict"])
    assert capsys.readouterr().out.startswith("::error title=")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["transformers=5"], "'transformers=5' is not a valid requirement"),
        (["-r", "missing.txt"], "missing.txt cannot be read"),
        (["transformers>=5"], "transformers>=5 is not pinned to a release"),
        (["foo==1"], "there is no data about foo"),
        (["--python", "/no/such/python"], "/no/such/python cannot be run"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_exit_status_2(arguments, words, capsys):
    """Nothing is guessed."""
    assert cli.main(["audit", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1


def test_what_is_not_known_is_a_line_and_the_rest_is_answered(tmp_path, capsys):
    """A package asked for by name gets a line; those of a file are counted."""
    assert cli.main(["audit", "foo==1", "transformers==5.24.0"]) == 0
    assert "zoo-hooks: there is no data about foo; left out\n" in capsys.readouterr().err
    cli.main(["audit", "-r", str(HERE / "locks" / "pip-compile" / "requirements.txt")])
    assert "zoo-hooks: there is no data about 2 other packages\n" in capsys.readouterr().err
    tmp_path.joinpath("requirements.txt").write_text("transformers==5.24.0\nfoo==1\n")
    cli.main(["audit", "-r", str(tmp_path / "requirements.txt")])
    assert "zoo-hooks: there is no data about 1 other package\n" in capsys.readouterr().err


def test_a_file_without_zoo_hooks_is_told_of(capsys):
    """Its bugs are repaired where zoo-hooks is installed too."""
    for name, told in (("uv-fork", True), ("uv-serve", False)):
        cli.main(["audit", "-r", str(HERE / "locks" / name / "uv.lock")])
        assert ("zoo-hooks is not pinned here" in capsys.readouterr().err) == told


def test_no_upstream_is_imported_and_nothing_that_could_connect():
    """Not even where the upstream is installed."""
    script = """
        import sys
        from zoo_hooks import catalogue
        from zoo_hooks.tool.cli import main
        main(["audit", "transformers==5.24.0"])
        main(["audit"])
        main(["plan", "transformers==5.24.0"])
        print(sorted({*catalogue.upstreams(), "ssl", "http", "urllib.request"} & sys.modules.keys()))
    """
    assert child(script).stdout.splitlines()[-1] == "[]"


def test_the_atlas_and_the_claims_agree_on_every_measurement():
    """A set of releases that was measured is judged as it was."""
    for patch in catalogue.everything():
        for row in atlas.read().of(patch.id):
            names = {name.lower() for name in audit.claimed_upstreams(patch)}
            if names <= row.releases.keys():
                found = audit.judge(patch, {"python": "3.11.7"} | row.releases, atlas.read())
                assert found.verdict == row.verdict, (patch.id, row.releases)
