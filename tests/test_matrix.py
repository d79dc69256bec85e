"""Every patch on the upstreams that this environment has, against the recorded verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ATLAS, child, claimed, exists, installed, is_recorded, recorded, seen
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zoo_hooks import catalogue
from zoo_hooks.tool import explain

HERE = [patch for patch in catalogue.everything() if claimed(patch) and is_recorded(patch)]
"""Those that were measured on just these releases; new ones are not on each pair that has a cell."""
STATUS = {"AFFECTED": "APPLIED", "FIXED": "NOT_NEEDED", "ABSENT": "PENDING", "UNKNOWN": "UNKNOWN"}
"""ABSENT: a module that the patch is about, or waits for, does not exist on that release."""


def named(patch):
    """``-k transformers/`` chooses the patches of an upstream."""
    return patch.id


@pytest.mark.parametrize("patch", HERE, ids=named)
def test_a_child_interpreter_gives_the_recorded_status(patch, measured):
    """An UNKNOWN, a FAILED, or a verdict unlike the recorded one is drift, and red."""
    assert measured(patch.id)["status"] == STATUS[recorded(patch.id)], measured(patch.id)


@pytest.mark.parametrize("patch", HERE, ids=named)
def test_the_canary_is_wrong_without_and_right_with_the_repair_or_right_in_both(patch, measured):
    """On an affected release the hooks make the figure right; on the others it needs none.

    A release that lacks a module can still be right in both.
    """
    row = measured(patch.id)
    lacking = [module for module in (*patch.targets, *patch.requires) if not exists(module)]
    absent = {f"cannot run here: no module named {module}" for module in lacking} | {"not needed"}
    fixed = {"not needed", "repaired by another patch"}
    expected = {"AFFECTED": {"repaired"}, "FIXED": fixed, "ABSENT": absent}[recorded(patch.id)]
    assert row["result"] in expected, row


CANARY = """
import zoo_hooks
from zoo_hooks import catalogue
zoo_hooks.init()
catalogue.get({patch!r}).canary()
"""


@pytest.mark.parametrize("patch", HERE, ids=named)
def test_the_error_of_a_canary_is_explained_by_its_patch(patch, measured):
    """One that another bug hides is run again with all else repaired.

    An error that torch raises by itself, with no frame of the upstream, may come from any code.
    """
    if patch.symptoms and recorded(patch.id) == "AFFECTED":
        told = measured(patch.id)["trace"]
        if told and patch not in explain.explained(explain.read(told)):
            run = child(CANARY.format(patch=patch.id), check=False, timeout=1800, ZOO_HOOKS=f"-{patch.id}")
            trace = explain.read(run.stderr)
            named = explain.explained(trace)
            own = any(f"-packages.{patch.upstream}." in file for file in trace.modules)
            by_frames = all("@" in symptom for symptom in patch.symptoms)
            assert run.returncode == 0 or named == [patch] or (by_frames and not own and not named), (
                run.stderr
            )


@pytest.mark.parametrize("patch", catalogue.everything(), ids=named)
def test_the_claim_agrees_with_every_recorded_verdict(patch):
    """``affects`` names just the releases on which the bug was seen."""
    claims = {canonicalize_name(claim.name): claim for claim in map(Requirement, patch.affects)}
    for releases, verdict in seen(patch):
        if verdict == "UNKNOWN":  # the bug may be there; nobody is told that it is repaired
            continue
        python = {"python_full_version": releases.get("python", "")}
        affected = all(
            claim.specifier.contains(version, prereleases=True)
            and (not claim.marker or "python" not in releases or claim.marker.evaluate(python))
            for name, version in releases.items()
            if (claim := claims.get(canonicalize_name(name)))
        )
        assert affected == (verdict == "AFFECTED"), releases


def test_the_installed_releases_are_among_the_recorded_ones():
    """A release that nobody has looked at cannot pass."""
    for patch in HERE:
        assert installed(patch.upstream) in ATLAS.versions(canonicalize_name(patch.upstream))


THREADS = """
import contextlib, importlib, os
for target in {targets!r}:
    with contextlib.suppress(Exception):
        importlib.import_module(target)
print(*sorted(open(f"/proc/self/task/{{one}}/comm").read().strip() for one in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads on this system")
def test_repairs_of_what_is_installed_start_no_thread():
    """Such as torch's for OpenMP: a child that is forked after that waits for them for ever."""
    code = THREADS.format(targets=sorted({target for patch in HERE for target in patch.targets}))
    without, with_hooks = (child(code, OMP_NUM_THREADS="4", ZOO_HOOKS=word).stdout for word in "01")
    assert with_hooks == without
