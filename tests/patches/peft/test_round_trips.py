"""What users do with adapters, on the installed pair of peft and transformers, without and with hooks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import installed, recorded
from packaging.version import Version

SCRIPT = Path(__file__).with_name("round_trips.py")
ROUNDING = 1e-5
LOADING = {"mixtral", "experts", "distributed"}
BREAKS = {
    "peft/hybrid-cache-import": {"import", "dense", *LOADING},
    "peft/weight-conversion-import": {"conversions"},
    "peft/weight-conversion-loading-info": LOADING,
    "peft/weight-converter-arguments": LOADING,
    "peft/weight-conversion-scope": {"experts"},
    "peft/expert-adapter-sides": {"experts"},
    "peft/adapter-sharding-import": {"distributed"},
}
"""The scenarios that fail because of each bug."""
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED", "ABSENT": "PENDING"}


def run(task, folder, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_HOOKS")}
    done = subprocess.run(
        [sys.executable, SCRIPT, task, folder],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What becomes of each scenario without and with hooks; in a fresh process, of adapters saved without."""
    folder = tmp_path_factory.mktemp("adapters")
    without = run("write", folder, ZOO_HOOKS="0")
    if without["written"] is not None:  # peft cannot even be imported, so no adapter is saved
        assert run("write", folder)["written"] is None
    return without, run("read", folder)


def failing(told):
    """The scenarios that raised, or gave other logits."""
    right = {"import": "peft", "conversions": "peft.utils.transformers_weight_conversion"}
    return {
        name
        for name, result in told["results"].items()
        if (result != right[name] if name in right else isinstance(result, str) or result >= ROUNDING)
    }


def lacking():
    """What this pair cannot do, for before 0.19 peft has nothing for adapters of experts now fused."""
    fused = Version(installed("transformers")).major >= 5
    nothing = {"conversions"} if recorded("peft/weight-conversion-import") == "ABSENT" else set()
    return nothing | ({"experts"} if fused and Version(installed("peft")) < Version("0.19") else set())


def test_without_hooks_fails_what_the_recorded_verdicts_say(both):
    """Each bug that this pair has shows, and nothing else does."""
    broken = {name for patch, names in BREAKS.items() if recorded(patch) == "AFFECTED" for name in names}
    assert failing(both[0]) == broken | lacking(), both[0]["results"]


def test_with_hooks_everything_works_that_these_releases_have(both):
    """Import, adapters of dense and expert models, with and without a process group: equal logits."""
    assert failing(both[1]) == lacking(), both[1]["results"]


def test_each_patch_has_the_recorded_status(both):
    """On every pair of releases."""
    expected = {patch: STATUS[recorded(patch)] for patch in BREAKS}
    assert {patch: both[1]["statuses"][patch] for patch in BREAKS} == expected


def test_nobody_else_sees_what_stood_in(both):
    """What transformers lacks is not found in it, neither before nor after peft has been used."""
    without, told = both
    assert told["before"] == told["after"] == without["before"] == without["after"]
