"""``zoo-hooks verify`` in an environment of MLX, which has no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

from conftest import recorded

from zoo_hooks import catalogue
from zoo_hooks.tool import installation

RESULTS = {"AFFECTED": "repaired", "FIXED": "not needed"}


def test_verify_ends_well_and_says_what_is_recorded():
    """Canaries that need torch cannot run here; of the others, MLX's among them, each holds."""
    assert find_spec("torch") is None
    run = subprocess.run(
        [sys.executable, "-m", "zoo_hooks", "verify", "--json"], capture_output=True, text=True, check=False
    )
    rows = {row["id"]: row["result"] for row in json.loads(run.stdout)["patches"]}
    measured = {patch.id for patch in catalogue.everything() if patch.upstream.startswith("mlx")}
    right = {patch: RESULTS[recorded(patch)] for patch in measured if recorded(patch) in RESULTS}
    assert right
    assert {patch: rows[patch] for patch in right} == right
    assert [patch for patch, result in rows.items() if result.isupper()] == []
    assert rows["transformers/causal-conv1d-broken"] == "cannot run here: no module named torch"
    assert run.returncode == bool(installation.start_up_trouble())
