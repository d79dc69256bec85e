"""What a start of Python pays for the hooks, in instructions, which do not depend on the machine's load."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import start

LIMIT = start.GOALS.get(sys.version_info[:2])


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.skipif(LIMIT is None, reason="no goal is set for this Python")
def test_a_start_costs_no_more_than_its_goal():
    with start.site() as site:
        more = site.added(start.put_hooks)
    assert more.modules  # it was there to be counted
    assert more.instructions <= LIMIT
