"""Every patch on the upstreams that this environment has, against the recorded verdicts."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from conftest import VERDICTS, recorded
from packaging.requirements import Requirement

from zoo_hooks import catalogue, ledger, survey

HERE = [
    patch
    for patch in catalogue.everything()
    if all(find_spec(name.replace("-", "_")) for name in ledger.claimed_upstreams(patch))
]
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED", "ABSENT": "PENDING"}
"""ABSENT: a module that the patch is about, or waits for, does not exist on that release."""
PRESENT = [patch for patch in HERE if recorded(patch.id) != "ABSENT"]


@pytest.fixture(scope="module")
def statuses():
    upstreams = sorted({patch.upstream for patch in HERE})
    return {row["id"]: row for rows in survey.statuses(upstreams) for row in rows}


@pytest.mark.parametrize("patch", HERE, ids=lambda patch: patch.id)
def test_a_child_interpreter_gives_the_recorded_status(patch, statuses):
    """An UNKNOWN, a FAILED, or a verdict unlike the recorded one is drift, and red."""
    assert statuses[patch.id]["status"] == STATUS[recorded(patch.id)], statuses[patch.id]["reason"]


@pytest.mark.parametrize("patch", PRESENT, ids=lambda patch: patch.id)
def test_the_canary_is_wrong_without_and_right_with_the_repair_or_right_in_both(patch, measured):
    """On an affected release the figure is mended by the hooks; on the others it needs none."""
    row = measured(patch.id)
    absent = f"cannot run here: no module named {patch.targets[0]}"
    expected = {"AFFECTED": "repaired", "FIXED": "not needed", "ABSENT": absent}[recorded(patch.id)]
    assert row["result"] == expected, row


@pytest.mark.parametrize("patch", catalogue.everything(), ids=lambda patch: patch.id)
def test_the_claim_agrees_with_every_recorded_verdict(patch):
    """``affects`` names just the releases on which the bug was seen."""
    claims = [Requirement(claim) for claim in patch.affects]
    for claim in claims:
        if claim.name in VERDICTS and claim.name == patch.upstream:
            for version, verdicts in VERDICTS[claim.name].items():
                affected = claim.specifier.contains(version, prereleases=True)
                if patch.id in verdicts:
                    assert affected == (verdicts[patch.id] == "AFFECTED"), version


def test_the_installed_releases_are_among_the_recorded_ones():
    """A release that nobody has looked at cannot pass."""
    for patch in HERE:
        assert ledger.version(patch.upstream) in VERDICTS[patch.upstream]
