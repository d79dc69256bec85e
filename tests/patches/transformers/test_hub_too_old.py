"""What ``status`` says of a huggingface_hub that is too old for the installed transformers.

Its code is the one that is installed: only what it says of itself is another, which transformers asks first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement

PATCH = "transformers/cache-static-zero-shared"  # any whose target imports all of transformers
(NEEDED,) = (
    needed
    for needed in map(Requirement, requires("transformers"))
    if needed.name == "huggingface-hub" and not needed.marker
)


def status(folder, hub=None):
    """What the command reports, as if that huggingface_hub were installed."""
    if hub:
        info = folder / f"huggingface_hub-{hub}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: huggingface-hub\nVersion: {hub}\n")
    variables = {k: v for k, v in os.environ.items() if not k.startswith("ZOO_HOOKS")}
    path = os.pathsep.join(filter(None, [str(folder), variables.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "zoo_hooks", "status", PATCH, "--json"],
        env=variables | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,  # a report ends with 0
    )
    return json.loads(done.stdout)


def test_the_pair_is_diagnosed_and_what_fits_is_named(tmp_path):
    """Both versions, and those that transformers takes; the patch waits, with transformers' own error."""
    hub = "0.23.0"
    assert not NEEDED.specifier.contains(hub)
    told = status(tmp_path, hub)
    (said,) = (line for line in told["misfits"] if line.startswith("transformers "))
    assert f"transformers {version('transformers')} does not work with huggingface-hub {hub}" in said
    assert f"pip install 'huggingface-hub{NEEDED.specifier}'" in said
    (row,) = told["patches"]
    assert row["status"] == "PENDING"
    assert f"found huggingface-hub=={hub}" in row["reason"]


def test_nothing_is_said_where_they_fit(tmp_path):
    """In this environment, as it is."""
    told = status(tmp_path)
    assert told["misfits"] == []
    assert told["patches"][0]["status"] in ("APPLIED", "NOT_NEEDED")
