"""The records in the OSV format, which other tools read."""

from __future__ import annotations

import json

import jsonschema
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from zoo_hooks import catalogue
from zoo_hooks.tool import atlas, cli, osv

# What OSV 1.7 demands of the fields that the records have, after https://ossf.github.io/osv-schema/.
# Its own schema is not in any package on PyPI; the records were checked with it too.
EVENT = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {name: {"type": "string"} for name in ("introduced", "fixed", "last_affected", "limit")},
    "additionalProperties": False,
}
RANGE = {
    "type": "object",
    "required": ["type", "events"],
    "properties": {
        "type": {"enum": ["ECOSYSTEM", "SEMVER"]},
        "events": {"type": "array", "minItems": 1, "items": EVENT, "contains": {"required": ["introduced"]}},
    },
    "additionalProperties": False,
}
AFFECTED = {
    "type": "object",
    "properties": {
        "package": {
            "type": "object",
            "required": ["ecosystem", "name"],
            "properties": {
                "ecosystem": {"const": "PyPI"},
                "name": {"type": "string"},
                "purl": {"type": "string", "pattern": "^pkg:pypi/"},
            },
            "additionalProperties": False,
        },
        "ranges": {"type": "array", "items": RANGE},
        "versions": {"type": "array", "items": {"type": "string"}},
        "ecosystem_specific": {"type": "object"},
        "database_specific": {"type": "object"},
    },
    "additionalProperties": False,
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "modified"],
    "properties": {
        "schema_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "id": {"type": "string", "pattern": "^x_"},
        "modified": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
        "aliases": {"type": "array", "items": {"type": "string", "pattern": "^(CVE|GHSA|PYSEC)-"}},
        "summary": {"type": "string"},
        "details": {"type": "string"},
        "affected": {"type": "array", "items": AFFECTED},
        "references": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "url"],
                "properties": {
                    "type": {"enum": ["ADVISORY", "ARTICLE", "FIX", "REPORT", "WEB"]},
                    "url": {"type": "string", "format": "uri", "pattern": "^https://"},
                },
                "additionalProperties": False,
            },
        },
        "database_specific": {"type": "object"},
    },
    "additionalProperties": False,
}
PATCHES = catalogue.everything()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.id)
def test_a_record_is_valid_and_says_what_the_patch_says(patch):
    """By the schema; package, affected releases that were measured, title and severity."""
    record = osv.record(patch, atlas.read())
    jsonschema.Draft202012Validator(SCHEMA).validate(record)
    (affected,) = record["affected"]
    assert affected["package"]["name"] == patch.upstream.replace("_", "-")
    assert affected["versions"]
    assert record["summary"] == patch.title
    assert record["database_specific"] == {"severity": patch.severity, "patch": patch.id}


def inside(version, ranges):
    """Whether a version is affected, by the rule of the OSV specification."""
    for events in ranges:
        found = False
        for event in events["events"]:
            ((kind, bound),) = event.items()
            at = Version("0") if bound == "0" else Version(bound)
            if kind == "introduced" and Version(version) >= at:
                found = True
            if (kind == "fixed" and Version(version) >= at) or (
                kind == "last_affected" and Version(version) > at
            ):
                found = False
        if found:
            return True
    return False


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.id)
def test_the_ranges_are_those_of_the_claim(patch):
    """For each release of the package that was measured, and some around the edges."""
    claims = {claim.name: claim for claim in map(Requirement, patch.affects)}
    own = claims[patch.upstream.replace("_", "-")]
    (affected,) = osv.record(patch, atlas.read())["affected"]
    edges = [part.version.removesuffix(".*") for part in own.specifier]
    for version in [*atlas.read().versions(own.name), *edges, "0.0.1", "99.0"]:
        expected = own.specifier.contains(version, prereleases=True)
        assert inside(version, affected["ranges"]) == expected, (version, affected["ranges"])


def test_a_bug_between_packages_names_the_others_and_a_cve_is_an_alias():
    """OSV cannot say that a bug needs two packages together."""
    record = osv.record(catalogue.get("hybrid-cache-import"), atlas.read())
    assert record["affected"][0]["ecosystem_specific"] == {"together_with": ["transformers>=5.0.0"]}
    assert osv.record(catalogue.get("trainer-rng-state"), atlas.read())["aliases"] == ["CVE-2026-1839"]


def test_a_file_that_says_less_is_invalid():
    """The schema above can be failed."""
    record = osv.record(PATCHES[0], atlas.read())
    for key, value in (("id", "GHSA-1"), ("modified", "today"), ("affected", [{"package": {}}]), ("more", 1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(record | {key: value})


def test_the_command_writes_a_file_for_each_patch(tmp_path, capsys):
    """Named by its id; a folder that cannot be made is one line and exit status 2."""
    assert cli.main(["osv", str(tmp_path / "records")]) == 0
    files = list((tmp_path / "records").iterdir())
    assert len(files) == len(PATCHES)
    assert all(json.loads(file.read_text(encoding="utf-8"))["id"] == file.stem for file in files)
    assert capsys.readouterr().out == f"{len(PATCHES)} records in {tmp_path / 'records'}\n"
    assert cli.main(["osv", str(files[0])]) == 2
    assert capsys.readouterr().err.count("\n") == 1
